//! Model files arrive whole, each byte once, or not at all.

use crate::{
    host::Behaviour,
    plane::{Fault, Served},
    rig::{Rig, artefact_files, large},
};
use nearfield_shared::{
    artefact::{CHUNK_BYTES, Stage},
    wire::message::ProblemKind,
};

const FILE_BYTES: usize = 5_000_001;

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_at_half_is_resumed_with_no_byte_twice() {
    let half = FILE_BYTES as u64 / 2;
    for fault in [Fault::CutConnectionAt(half), Fault::ResetStreamAt(half)] {
        let mut rig = Rig::new().await;
        let file = large(Behaviour::Good, FILE_BYTES);
        let manifest = rig.plane.stock(Stage::Asr, &file);
        rig.plane.fault(manifest.digest, fault);
        rig.plane.want(rig.state(1, &[&manifest]));
        let daemon = rig.start().await;
        rig.acked(1).await;
        let served = rig.plane.served(manifest.digest);
        match fault {
            // A reset may discard what was sent and not read yet; what was read is never asked for again.
            Fault::ResetStreamAt(_) => assert!(served.len() == 2 && served[1].offset <= half, "{served:?}"),
            _ => assert_eq!(
                served,
                [Served { offset: 0, bytes: half }, Served { offset: half, bytes: FILE_BYTES as u64 - half }]
            ),
        }
        assert_eq!(daemon.status().fetched_bytes, FILE_BYTES as u64, "no byte came twice");
        assert_eq!(artefact_files(&rig.dir), [format!("{}.gguf", manifest.digest)]);
        assert_eq!(std::fs::read(rig.dir.artefacts().join(format!("{}.gguf", manifest.digest))).unwrap(), file);
        daemon.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_corrupted_byte_costs_one_chunk() {
    let mut rig = Rig::new().await;
    let manifest = rig.plane.stock(Stage::Asr, &large(Behaviour::Good, FILE_BYTES));
    rig.plane.fault(manifest.digest, Fault::WrongByte { at: 2 * CHUNK_BYTES + 5, times: 1 });
    rig.plane.want(rig.state(1, &[&manifest]));
    let daemon = rig.start().await;
    rig.acked(1).await;
    let served = rig.plane.served(manifest.digest);
    assert_eq!(served.iter().map(|s| s.offset).collect::<Vec<_>>(), [0, 2 * CHUNK_BYTES]);
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_stays_corrupted_is_refused_and_the_chunk_is_named() {
    let mut rig = Rig::new().await;
    let good = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&good]));
    let daemon = rig.start().await;
    rig.acked(1).await;
    let manifest = rig.plane.stock(Stage::Asr, &large(Behaviour::Good, FILE_BYTES));
    rig.plane.fault(manifest.digest, Fault::WrongByte { at: CHUNK_BYTES + 5, times: 1000 });
    rig.plane.want(rig.state(2, &[&manifest]));
    let nack = rig.nacked(2).await;
    assert_eq!((nack.detail.kind, nack.detail.index), (ProblemKind::WrongDigest, Some(1)));
    assert_eq!(nack.detail.artefact, Some(manifest.digest));
    assert_eq!(rig.host.live()[&Stage::Asr], good.digest);
    let part = rig.dir.artefacts().join(format!("{}.part", manifest.digest));
    assert_eq!(std::fs::metadata(part).unwrap().len(), CHUNK_BYTES, "only what was verified is kept");
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artefact_that_the_plane_does_not_hold_is_refused() {
    let mut rig = Rig::new().await;
    let manifest = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.fault(manifest.digest, Fault::NotHere);
    rig.plane.want(rig.state(1, &[&manifest]));
    let daemon = rig.start().await;
    let nack = rig.nacked(1).await;
    assert_eq!(nack.detail.kind, ProblemKind::FetchFailed);
    let words = daemon.status().last_refusal.expect("told").reason;
    assert!(words.contains("control-plane model import"), "{words}");
    daemon.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_state_ends_a_download_that_hangs() {
    let mut rig = Rig::new().await;
    let hangs = rig.plane.stock(Stage::Asr, &large(Behaviour::Good, FILE_BYTES));
    rig.plane.fault(hangs.digest, Fault::StallAt(CHUNK_BYTES));
    rig.plane.want(rig.state(1, &[&hangs]));
    let daemon = rig.start().await;
    crate::rig::until("the download hangs", || daemon.status().fetching.is_some_and(|(have, _)| have == CHUNK_BYTES))
        .await;
    let good = rig.model(Stage::Asr, Behaviour::Good, "two");
    rig.plane.want(rig.state(2, &[&good]));
    rig.acked(2).await;
    daemon.drain().await;
}
