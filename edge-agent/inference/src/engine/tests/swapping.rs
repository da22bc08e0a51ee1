//! A new version goes live between turns; what has begun finishes where it began.

use super::*;

#[test]
fn a_running_job_finishes_on_the_old_model_and_the_next_runs_on_the_new() {
    let mut bench = Bench::ready(Limits::default());
    let mut old = bench.transcribe("abcdef", 100);
    bench.worker.turn();
    bench.go_live(Stage::Asr, "next");
    let retiring = |bench: &Bench| bench.handle.snapshot().models.iter().filter(|m| m.role == Role::Retiring).count();
    let mut new = bench.transcribe("x", 200);
    bench.settle();
    assert_eq!((old.text(), new.text()), ("asr:abcdef".into(), "next:x".into()));
    assert_eq!(retiring(&bench), 0, "the old model's memory is free");
    assert_eq!(bench.handle.snapshot().resident_bytes, 6_000);
}

#[test]
fn the_old_model_is_retiring_while_its_job_runs() {
    let mut bench = Bench::ready(Limits::default());
    let mut old = bench.transcribe("abcdef", 10_000);
    bench.worker.turn();
    let candidate = bench.load(Stage::Asr, "next").unwrap();
    let handle = bench.handle.clone();
    bench.drive(handle.activate(candidate)).unwrap();
    let roles: Vec<Role> =
        bench.handle.snapshot().models.iter().filter(|m| m.stage == Stage::Asr).map(|m| m.role).collect();
    assert_eq!(roles, [Role::Retiring, Role::Live]);
    bench.settle();
    assert_eq!(old.text(), "asr:abcdef");
}

#[test]
fn slots_are_shared_between_the_old_and_the_new_model() {
    let mut bench = Bench::ready(Limits { asr_decodings: 1, ..Limits::default() });
    let mut old = bench.transcribe("abcdefgh", 100_000);
    bench.worker.turn();
    bench.go_live(Stage::Asr, "next");
    let mut new = bench.transcribe("x", 0);
    bench.settle();
    assert_eq!((old.text(), new.text()), ("asr:abcdefgh".into(), "next:x".into()));
    let events = bench.script.events();
    assert!(events.ends_with("asr[abcdefgh] next[x]"), "the second job waited for the only slot: {events}");
}

#[test]
fn a_stream_stays_on_its_model_to_its_end() {
    let mut bench = Bench::ready(Limits::default());
    let handle = bench.handle.clone();
    let mut old = handle.open_vad().unwrap();
    let frame = [0.0f32; VAD_FRAME_SAMPLES];
    assert_eq!(bench.drive(old.push(&frame)), Ok(vec![1.0]));
    bench.go_live(Stage::Vad, "next");
    let mut new = handle.open_vad().unwrap();
    assert_eq!(bench.drive(old.push(&frame)), Ok(vec![2.0]), "its state was kept");
    assert_eq!(bench.drive(new.push(&frame)), Ok(vec![1.0]));
    assert_eq!(bench.script.events(), "vad[0] load:next vad[0] next[1]");
    drop(old);
    bench.settle();
    assert_eq!(bench.handle.snapshot().resident_bytes, 6_000, "the old model went with its last stream");
}

#[test]
fn a_slot_that_is_opened_again_starts_with_a_fresh_state() {
    let mut bench = Bench::ready(Limits { vad_streams: 1, ..Limits::default() });
    let handle = bench.handle.clone();
    let frame = [0.0f32; VAD_FRAME_SAMPLES];
    for _ in 0..3 {
        let mut stream = handle.open_vad().unwrap();
        assert_eq!(bench.drive(stream.push(&frame)), Ok(vec![1.0]));
        assert_eq!(bench.drive(stream.push(&frame)), Ok(vec![2.0]));
    }
}

#[test]
fn frames_are_cut_at_512_samples_whatever_comes() {
    let mut bench = Bench::ready(Limits::default());
    let handle = bench.handle.clone();
    let mut stream = handle.open_vad().unwrap();
    assert_eq!(bench.drive(stream.push(&[0.0; 500])), Ok(vec![]));
    assert_eq!(bench.drive(stream.push(&[0.0; 12])), Ok(vec![1.0]));
    assert_eq!(bench.drive(stream.push(&[])), Ok(vec![]));
    let long = vec![0.0; 100 * VAD_FRAME_SAMPLES + 7];
    let found = bench.drive(stream.push(&long)).unwrap();
    assert_eq!(found, (2..=101).map(|n| n as f32).collect::<Vec<_>>());
}

#[test]
fn a_discarded_candidate_is_gone_and_the_live_model_serves_on() {
    let mut bench = Bench::ready(Limits::default());
    let candidate = bench.load(Stage::Asr, "next").unwrap();
    assert_eq!(bench.handle.snapshot().resident_bytes, 7_000);
    let handle = bench.handle.clone();
    bench.drive(handle.discard(candidate));
    bench.settle();
    assert_eq!(bench.handle.snapshot().resident_bytes, 6_000);
    let mut job = bench.transcribe("ab", 100);
    bench.settle();
    assert_eq!(job.text(), "asr:ab");
}

#[test]
fn an_activated_candidate_is_not_discarded_by_its_drop() {
    let mut bench = Bench::ready(Limits::default());
    bench.go_live(Stage::Asr, "next");
    bench.settle();
    assert!(bench.handle.snapshot().live(Stage::Asr).is_some());
}
