//! Bad input is refused at the door, with the remedy.

use super::*;

fn refused<T>(result: Result<T, EngineError>, remedy: &str) {
    match result.err() {
        Some(EngineError::BadInput(what)) => assert!(what.contains(remedy), "{what:?} lacks {remedy:?}"),
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn audio_must_be_some_finite_and_short_enough() {
    let mut bench = Bench::ready(Limits::default());
    let (handle, cancel) = (bench.handle.clone(), Cancel::new());
    refused(bench.drive(handle.transcribe(vec![], &cancel)), "at least one sample");
    refused(bench.drive(handle.transcribe(vec![0.0, f32::NAN], &cancel)), "sample 1");
    refused(bench.drive(handle.transcribe(vec![0.0; 30 * 16_000 + 1], &cancel)), "cut it at a pause");
    refused(bench.drive(handle.turn_probability(vec![f32::INFINITY])), "sample 0");
    let mut stream = handle.open_vad().unwrap();
    refused(bench.drive(stream.push(&[f32::NAN])), "sample 0");
    bench.settle();
    assert_eq!(bench.script.events(), "", "nothing of it reached a model");
}

#[test]
fn the_turn_model_hears_the_last_eight_seconds() {
    let mut bench = Bench::ready(Limits::default());
    let handle = bench.handle.clone();
    let mut audio = vec!['P' as u32 as f32; 16_000];
    audio.extend(std::iter::repeat_n('a' as u32 as f32, 8 * 16_000));
    // The fake would panic at the first `P`: it must not be handed what is too old. One step per sample is too long to
    // wait for here, so the job is dropped after a few.
    let mut asked = Box::pin(handle.turn_probability(audio));
    assert!(asked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    for _ in 0..5 {
        bench.worker.turn();
    }
    assert!(asked.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    assert_eq!(bench.handle.snapshot().stage(Stage::Turn).deaths, 0);
}

#[test]
fn prompts_phrases_and_sentences_are_bounded() {
    let mut bench = Bench::ready(Limits::default());
    let (handle, cancel) = (bench.handle.clone(), Cancel::new());
    let hi = || vec![ChatMessage::new("user", "hi")];
    refused(handle.generate(hi(), 0, &cancel), "1 to 512");
    refused(handle.generate(hi(), 513, &cancel), "1 to 512");
    refused(handle.generate(vec![], 1, &cancel), "at least one message");
    refused(handle.generate(vec![ChatMessage::new("user", "x".repeat(70_000))], 1, &cancel), "at most 65536 bytes");
    let wild = Wish { temperature: Some(9.0), ..Wish::default() };
    refused(handle.generate_as(hi(), 1, wild, &cancel), "between 0 and 2");
    let wordy = Wish { begins: "x".repeat(70_000), ..Wish::default() };
    refused(handle.generate_as(hi(), 1, wordy, &cancel), "at most 65536 bytes");
    refused(bench.drive(handle.speak("hello".into(), f32::NAN, &cancel)), "between 0.5 and 2.0");
    refused(bench.drive(handle.speak("hello".into(), 3.0, &cancel)), "between 0.5 and 2.0");
    refused(bench.drive(handle.speak(" \n".into(), 1.0, &cancel)), "1 to 500 characters");
    refused(bench.drive(handle.speak("x".repeat(501), 1.0, &cancel)), "1 to 500 characters");
    refused(bench.drive(handle.embed(vec!["x".into(); 65])), "at most 64");
    refused(bench.drive(handle.embed(vec!["x".repeat(2_001)])), "at most 2000 characters");
    assert_eq!(bench.drive(handle.embed(vec![])), Ok(vec![]));
}

#[test]
fn a_message_never_prints_what_was_said() {
    let shown = format!("{:?}", ChatMessage::new("user", "my number is 4711"));
    assert!(!shown.contains("4711"), "{shown}");
}
