//! The second node of a region takes its models from the first, over real QUIC; only the models are scripted.

#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it should be")]

#[path = "../scripted_node/mod.rs"]
#[allow(dead_code, reason = "other tests use the rest of it")]
mod scripted_node;

use edge_agent::{
    artefacts::ArtefactStore,
    control::{LinkState, revoked::RevokedList},
    daemon::Daemon,
    identity::Identity,
    neighbours::{NeighbourParts, Neighbours, find::Finder},
    state_dir::StateDir,
};
use nearfield_shared::{
    artefact::{Digest, Stage},
    clock::{Clock, SystemClock},
    wire::{ArtefactRequest, Frame, Limit, artefact::KIND_HERE, frame::HEADER_BYTES},
};
use scripted_node::{Plane, enrol_node, host::Behaviour, start_node};
use std::{
    io::Write as _,
    net::{SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;

/// A plane with models of all stages, and their bytes in all; the last digest is that of a model of several chunks.
async fn plane() -> (Plane, u64, Digest) {
    let plane = Plane::start().await;
    let good = |rest: &[u8]| [Behaviour::Good.line().as_bytes(), rest].concat();
    let mut bytes = 0;
    for stage in Stage::ALL.into_iter().filter(|stage| *stage != Stage::Asr) {
        let file = good(stage.as_str().as_bytes());
        bytes += file.len() as u64;
        plane.add_model(stage.as_str(), stage, &file);
    }
    let large = good(&vec![7; 5_000_000]);
    bytes += large.len() as u64;
    let digest = plane.add_model("asr-1", Stage::Asr, &large);
    plane.apply("asr-1").await;
    (plane, bytes, digest)
}

/// A node that gives and takes at this address.
async fn node(plane: &Plane, folder: &Path, name: &str, address: SocketAddr) -> (StateDir, Daemon) {
    let dir = StateDir::open(&folder.join(name)).unwrap();
    enrol_node(plane, &dir, &plane.token_for(name).await).await.unwrap();
    let mut settings = std::fs::OpenOptions::new().append(true).create(true).open(dir.config()).unwrap();
    writeln!(settings, "\nneighbours = \"{address}\"").unwrap();
    let daemon = start_node(&dir, Duration::from_secs(60)).await;
    (dir, daemon)
}

fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

fn free_port() -> SocketAddr {
    UdpSocket::bind(any_port()).unwrap().local_addr().unwrap()
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(scripted_node::PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// Waits until the plane knows that the first node serves everything.
async fn first_serves(plane: &Plane) {
    plane.node("all models", |node| node.serving.0 == 1 && node.models.len() == 6).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_node_takes_its_models_from_the_first_and_no_byte_twice() {
    let (plane, bytes, _) = plane().await;
    let folder = tempfile::tempdir().unwrap();
    let (_, first) = node(&plane, folder.path(), "fra-1", any_port()).await;
    first_serves(&plane).await;
    let (_, second) = node(&plane, folder.path(), "fra-2", any_port()).await;
    until("the second serves", || second.status().serving == 1).await;
    assert_eq!(first.status().fetched_near_bytes, 0, "there was nobody before it");
    let status = second.status();
    println!("{} of {} bytes from the neighbour", status.fetched_near_bytes, status.fetched_bytes);
    assert_eq!(status.fetched_bytes, bytes, "no byte twice");
    assert!(status.fetched_near_bytes * 100 >= status.fetched_bytes * 90);
    first.drain().await;
    second.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_with_a_damaged_file_or_none_at_all_costs_a_chunk_and_not_the_state() {
    let (plane, bytes, digest) = plane().await;
    let folder = tempfile::tempdir().unwrap();
    let (dir, first) = node(&plane, folder.path(), "fra-1", any_port()).await;
    first_serves(&plane).await;
    let path = ArtefactStore::at(&dir.artefacts()).path(digest);
    let mut file = std::fs::read(&path).unwrap();
    file[2_500_000] ^= 1;
    std::fs::write(&path, file).unwrap();
    let (_, second) = node(&plane, folder.path(), "fra-2", any_port()).await;
    until("the second serves", || second.status().serving == 1).await;
    let status = second.status();
    assert!(status.fetched_near_bytes > 2_000_000, "up to the wrong chunk: {}", status.fetched_near_bytes);
    let more = status.fetched_bytes - bytes;
    assert!((1..=1 << 20).contains(&more), "the wrong chunk alone came twice: {more}");
    second.drain().await;
    drop(first);
}

/// A node's half that takes, apart from its daemon. `time` is the plane's, where it was told.
fn finder(dir: &StateDir, time: Option<i64>) -> Finder {
    let identity = Identity::load(dir).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
    let plane_time = time.map(|unix_s| (unix_s, clock.elapsed()));
    let (_, link) = watch::channel(LinkState { plane_time, ..LinkState::default() });
    let revoked = Arc::new(RevokedList::open(dir, &identity.authority));
    let store = ArtefactStore::at(&dir.artefacts());
    let parts = NeighbourParts { dir: dir.clone(), identity, clock, revoked, link, store };
    Neighbours::bind(any_port(), parts).unwrap().split().0
}

/// Whether a neighbour gives.
async fn gives(finder: &Finder, address: SocketAddr, digest: Digest) -> Result<bool, String> {
    let connection = finder.dial(address).await?;
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| e.to_string())?;
    send.write_all(&ArtefactRequest { digest, offset: 0 }.encode().unwrap()).await.map_err(|e| e.to_string())?;
    let mut header = [0; HEADER_BYTES];
    recv.read_exact(&mut header).await.map_err(|e| e.to_string())?;
    Ok(Frame::parse_header(header, Limit::ARTEFACT).unwrap().1 == KIND_HERE)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_members_of_the_region_that_are_not_revoked_are_given_anything() {
    let (plane, _, digest) = plane().await;
    let folder = tempfile::tempdir().unwrap();
    let address = free_port();
    let (_, first) = node(&plane, folder.path(), "fra-1", address).await;
    first_serves(&plane).await;
    let member = StateDir::open(&folder.path().join("member")).unwrap();
    enrol_node(&plane, &member, &plane.token_for("fra-2").await).await.unwrap();
    let now = SystemClock::default().unix_s();
    assert_eq!(gives(&finder(&member, Some(now)), address, digest).await, Ok(true));
    assert_eq!(gives(&finder(&member, Some(now)), address, Digest::of(b"other")).await, Ok(false));
    let untold = gives(&finder(&member, None), address, digest).await;
    assert!(untold.is_err(), "a node without the plane's time takes nobody for a member");
    let ended = gives(&finder(&member, Some(now + 400 * 86_400)), address, digest).await;
    assert!(ended.unwrap_err().contains("xpired"));

    // Another plane's node has the same names and another authority.
    let (stranger_plane, ..) = self::plane().await;
    let stranger = StateDir::open(&folder.path().join("stranger")).unwrap();
    enrol_node(&stranger_plane, &stranger, &stranger_plane.token_for("fra-2").await).await.unwrap();
    assert!(gives(&finder(&stranger, Some(now)), address, digest).await.is_err());

    plane.admin.revoke("fra-2", None).await.unwrap();
    until("the first has heard of it", || first.status().certificates_revoked == 1).await;
    assert!(gives(&finder(&member, Some(now)), address, digest).await.is_err(), "it is revoked");
    first.drain().await;
}
