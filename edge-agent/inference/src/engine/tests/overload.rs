//! What the door refuses, and when it says to come back.

use super::*;

fn small() -> Limits {
    Limits { queue: 2, asr_decodings: 1, vad_streams: 2, ..Limits::default() }
}

#[test]
fn a_full_queue_sheds_and_says_when_to_come_back() {
    let mut bench = Bench::ready(small());
    let mut first = bench.transcribe("abcd", 100);
    bench.settle();
    assert!(first.answer().is_some());
    // One runs, two wait, the next is refused. A job took 40 ms, and there is one slot.
    let _running = bench.transcribe("abcd", 100);
    bench.worker.turn();
    let _waiting = [bench.transcribe("abcd", 100), bench.transcribe("abcd", 100)];
    let refused = bench.submit(audio("abcd"), 100).err();
    assert_eq!(refused, Some(EngineError::Overloaded { retry_after_ms: 40 }));
    assert_eq!(bench.handle.snapshot().stage(Stage::Asr).shed, 1);
    bench.settle();
    assert!(bench.submit(audio("a"), 100).is_ok(), "it opens again");
}

#[test]
fn a_wait_beyond_patience_sheds_before_the_queue_is_full() {
    let mut bench = Bench::ready(Limits { queue: 100, patience: Duration::from_millis(100), ..small() });
    let mut first = bench.transcribe("abcd", 100);
    bench.settle();
    assert!(first.answer().is_some());
    let mut admitted = Vec::new();
    let refused = loop {
        match bench.submit(audio("abcd"), 100) {
            Ok(job) => admitted.push(job),
            Err(refused) => break refused,
        }
    };
    // 40 ms a job: one in the slot, two in the queue make 80 ms; the third would wait 120 ms.
    assert_eq!(admitted.len(), 3);
    assert_eq!(refused, EngineError::Overloaded { retry_after_ms: 20 });
    bench.settle();
    assert!(admitted.iter_mut().all(|job| matches!(job.answer(), Some(Ok(_)))), "once admitted, a job is finished");
}

#[test]
fn vad_slots_are_fixed_and_free_on_drop() {
    let bench = Bench::ready(small());
    let one = bench.handle.open_vad().unwrap();
    let _two = bench.handle.open_vad().unwrap();
    assert!(matches!(bench.handle.open_vad().err(), Some(EngineError::Overloaded { .. })));
    drop(one);
    assert!(bench.handle.open_vad().is_ok());
}

#[test]
fn a_stage_without_a_model_says_so_at_the_door() {
    let bench = Bench::new(Limits::default());
    for (stage, work) in [
        (Stage::Asr, audio("a")),
        (Stage::Turn, Work::Turn(vec![0.0])),
        (Stage::Tts, Work::Tts { text: "t".into(), speed: 1.0 }),
        (Stage::Embed, Work::Embed(vec!["e".into()])),
    ] {
        assert_eq!(bench.submit(work, 0).err(), Some(EngineError::NoModel(stage)));
    }
    assert_eq!(bench.handle.open_vad().err(), Some(EngineError::NoModel(Stage::Vad)));
    let asked = bench.handle.generate(vec![ChatMessage::new("user", "hi")], 1, &Cancel::new());
    assert_eq!(asked.err(), Some(EngineError::NoModel(Stage::Llm)));
}

#[test]
fn candidates_and_their_memory_are_bounded() {
    let mut bench = Bench::new(Limits::default());
    let candidates: Vec<Candidate> = (0..6).map(|_| bench.load(Stage::Asr, "m").unwrap()).collect();
    assert!(matches!(bench.load(Stage::Asr, "m").err(), Some(EngineError::Overloaded { .. })));
    drop(candidates);
    bench.settle();
    assert_eq!(bench.handle.snapshot().resident_bytes, 0);

    let mut bench = Bench::new(Limits { resident_bytes_max: 1_500, ..Limits::default() });
    let _one = bench.load(Stage::Asr, "m").unwrap();
    let _two = bench.load(Stage::Asr, "m").unwrap();
    match bench.load(Stage::Asr, "m").err() {
        Some(EngineError::Model(what)) => assert!(what.contains("memory limit"), "{what}"),
        other => panic!("{other:?}"),
    }
}
