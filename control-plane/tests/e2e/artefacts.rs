//! Artefacts arrive verified, and go on where they were cut.

use super::{
    agent::Agent,
    plane::{TestPlane, add_model},
};
use nearfield_shared::{
    artefact::{CHUNK_BYTES, Digest, Manifest, Stage},
    link::{ArtefactReceiver, Seed},
    wire::{ArtefactReply, ArtefactRequest},
};

fn model(plane: &TestPlane, bytes: usize) -> (Manifest, Vec<u8>) {
    let mut seed = Seed(5);
    let file: Vec<u8> = (0..bytes.div_ceil(8)).flat_map(|_| seed.next_u64().to_le_bytes()).take(bytes).collect();
    (add_model(&plane.dir, "big", Stage::Asr, &file), file)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_artefact_cut_at_half_is_resumed_with_no_byte_twice() {
    let plane = TestPlane::new().await;
    let (manifest, file) = model(&plane, 10_000_000);
    let half = file.len() as u64 / 2;
    let agent = Agent::new(&plane, "eu", "a").await;
    let (mut receiver, mut disk) = (ArtefactReceiver::new(&manifest), Vec::new());
    let request =
        |receiver: &ArtefactReceiver| ArtefactRequest { digest: manifest.digest, offset: receiver.next_offset() };
    let first = agent.fetch(request(&receiver), &mut receiver, &mut disk, half).await.unwrap();
    agent.connection.close(0_u32.into(), b"cut");
    assert_eq!((first, receiver.next_offset()), (half, half));

    let agent = Agent::connect(&plane, &agent.identity, 0).await;
    let second = agent.fetch(request(&receiver), &mut receiver, &mut disk, u64::MAX).await.unwrap();
    assert_eq!(first + second, file.len() as u64, "no byte twice");
    assert!(disk == file);
    assert_eq!(receiver.finish(), Ok(manifest.digest));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupted_byte_is_refused_and_the_chunk_fetched_again() {
    let plane = TestPlane::new().await;
    let (manifest, file) = model(&plane, 3_500_000);
    let path = plane.dir.artefact(&manifest.digest);
    let mut corrupted = file.clone();
    corrupted[1_500_000] ^= 1;
    std::fs::write(&path, &corrupted).unwrap();
    let agent = Agent::new(&plane, "eu", "a").await;
    let (mut receiver, mut disk) = (ArtefactReceiver::new(&manifest), Vec::new());
    let request = ArtefactRequest { digest: manifest.digest, offset: 0 };
    let error = agent.fetch(request, &mut receiver, &mut disk, u64::MAX).await.unwrap_err();
    assert!(error.starts_with("chunk 1 (bytes 1048576 to 2097151)"), "{error}");
    assert_eq!((disk.len() as u64, receiver.next_offset()), (CHUNK_BYTES, CHUNK_BYTES), "nothing wrong was written");

    std::fs::write(&path, &file).unwrap();
    let request = ArtefactRequest { digest: manifest.digest, offset: receiver.next_offset() };
    agent.fetch(request, &mut receiver, &mut disk, u64::MAX).await.unwrap();
    assert!(disk == file && receiver.finish().is_ok());
}

#[tokio::test]
async fn what_is_not_there_is_said_and_the_link_lives_on() {
    let plane = TestPlane::new().await;
    let (manifest, file) = model(&plane, 1000);
    let mut agent = Agent::new(&plane, "eu", "a").await;
    let ask = |digest, offset| ArtefactRequest { digest, offset };
    assert_eq!(agent.ask(ask(Digest::of(b"none"), 0)).await.0, ArtefactReply::NotHere);
    assert_eq!(agent.ask(ask(manifest.digest, 1001)).await.0, ArtefactReply::BadOffset { size: 1000 });
    let (reply, mut rest) = agent.ask(ask(manifest.digest, 1000)).await;
    assert_eq!(reply, ArtefactReply::Here { bytes: 0 });
    assert!(rest.read_to_end(10).await.unwrap().is_empty());
    let (reply, mut rest) = agent.ask(ask(manifest.digest, 999)).await;
    assert_eq!(reply, ArtefactReply::Here { bytes: 1 });
    assert_eq!(rest.read_to_end(10).await.unwrap(), file[999..]);

    let (mut send, mut recv) = agent.connection.open_bi().await.unwrap();
    send.write_all(b"\0\0\0\x05\x01nope").await.unwrap();
    assert!(recv.read_to_end(10).await.is_err(), "the stream is reset");
    agent.status(0, true).await;
    plane.wait_for("a", |node| node.calls.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_messages_overtake_artefacts() {
    let plane = TestPlane::new().await;
    let (manifest, _) = model(&plane, 40_000_000);
    let mut agent = Agent::new(&plane, "eu", "a").await;
    agent.desired().await;
    let request = ArtefactRequest { digest: manifest.digest, offset: 0 };
    // Nobody reads these, so their windows fill up and they stand still.
    let mut waiting = Vec::new();
    for _ in 0..4 {
        waiting.push(agent.ask(request).await);
    }
    plane.apply(&plane.files_with("i1")).await;
    assert_eq!(agent.desired().await.1.generation.0, 2);
    drop(waiting);
}
