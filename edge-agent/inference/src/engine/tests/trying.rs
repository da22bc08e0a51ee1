//! A candidate gets the jobs that name it, and no others; whatever becomes of it, the live model serves.

use super::*;

/// The handle of a call that is tried on this candidate.
fn on(bench: &Bench, candidate: &Candidate) -> EngineHandle {
    bench.handle.on([(candidate.stage, candidate.id)])
}

fn hears(bench: &mut Bench, handle: &EngineHandle, script: &str) -> Result<String, EngineError> {
    let handle = handle.clone();
    bench.drive(async move { handle.transcribe(spell(script), &Cancel::new()).await })
}

#[test]
fn each_job_is_done_by_the_model_that_it_names() {
    let mut bench = Bench::ready(Limits::default());
    let candidate = bench.load(Stage::Asr, "next").unwrap();
    let tried = on(&bench, &candidate).due(bench.script.at(1_000));
    let live = bench.handle.clone();
    assert_eq!(hears(&mut bench, &tried, "ab"), Ok("next:ab".into()));
    assert_eq!(hears(&mut bench, &live, "cd"), Ok("asr:cd".into()));
    // Stages without a candidate are the live models'.
    assert_eq!(bench.drive(tried.speak("hello".into(), 1.0, &Cancel::new())).map(|audio| audio.len()), Ok(5));
    assert!(bench.script.events().ends_with("tts[hello] tts[hello] tts[hello] tts[hello] tts[hello]"));
    assert_eq!(bench.handle.snapshot().live(Stage::Asr).map(|model| model.id.0), Some(3), "nothing was swapped");
}

#[test]
fn a_stage_without_a_live_model_can_be_tried_all_the_same() {
    let mut bench = Bench::new(Limits::default());
    let asr = bench.load(Stage::Asr, "asr").unwrap();
    let vad = bench.load(Stage::Vad, "vad").unwrap();
    let tried = bench.handle.on([(Stage::Asr, asr.id), (Stage::Vad, vad.id)]);
    assert_eq!(hears(&mut bench, &tried, "ab"), Ok("asr:ab".into()));
    let mut stream = tried.open_vad().unwrap();
    let frame = [0.0f32; VAD_FRAME_SAMPLES];
    assert_eq!(bench.drive(stream.push(&frame)), Ok(vec![1.0]));
    assert_eq!(bench.drive(stream.push(&frame)), Ok(vec![2.0]));
    let live = bench.handle.clone();
    assert_eq!(hears(&mut bench, &live, "cd"), Err(EngineError::NoModel(Stage::Asr)));
    assert!(live.open_vad().is_err());
}

#[test]
fn a_candidate_that_panics_costs_its_own_jobs_and_is_gone() {
    let mut bench = Bench::ready(Limits::default());
    let candidate = bench.load(Stage::Asr, "next").unwrap();
    let tried = on(&bench, &candidate);
    let mut live = bench.transcribe("abcdef", 10_000);
    assert_eq!(hears(&mut bench, &tried, "P"), Err(EngineError::WorkerDied));
    let refused = hears(&mut bench, &tried, "ab");
    assert!(matches!(&refused, Err(EngineError::BadInput(why)) if why.contains("no longer there")), "{refused:?}");
    bench.settle();
    assert_eq!(live.text(), "asr:abcdef");
    let snapshot = bench.handle.snapshot();
    assert_eq!((snapshot.models.len(), snapshot.resident_bytes), (6, 6_000), "the live ones are as they were");
    assert!(!bench.script.events().contains("load:next load:next"), "it is not loaded anew");
}

#[test]
fn what_has_begun_on_a_candidate_ends_there_after_the_swap_and_after_a_discard() {
    for swap in [true, false] {
        let mut bench = Bench::ready(Limits::default());
        let candidate = bench.load(Stage::Asr, "next").unwrap();
        let tried = on(&bench, &candidate);
        let cancel = Cancel::new();
        let begun = tried.transcribe(spell("abcdef"), &cancel);
        let mut begun = pin!(begun);
        assert!(begun.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        bench.worker.turn();
        let handle = bench.handle.clone();
        if swap {
            bench.drive(handle.activate(candidate)).unwrap();
        } else {
            bench.drive(handle.discard(candidate));
            bench.worker.turn();
            let models = bench.handle.snapshot().models;
            assert!(models.iter().any(|model| model.role == Role::Retiring), "{models:?}");
        }
        let next = hears(&mut bench, &tried, "x");
        assert_eq!(next.is_ok(), swap, "a turn that goes on after the swap is on the same model: {next:?}");
        assert_eq!(bench.drive(begun), Ok("next:abcdef".to_owned()));
        bench.settle();
        assert_eq!(bench.handle.snapshot().resident_bytes, 6_000, "one model for each stage is left");
    }
}

#[test]
fn a_model_cannot_be_named_for_another_stage() {
    let mut bench = Bench::ready(Limits::default());
    let candidate = bench.load(Stage::Tts, "next").unwrap();
    let wrong = bench.handle.on([(Stage::Asr, candidate.id)]);
    assert!(matches!(hears(&mut bench, &wrong, "ab"), Err(EngineError::BadInput(_))));
}

#[test]
fn memory_that_a_discarded_candidate_held_is_there_for_the_next_one() {
    // Ten thousand bytes of fakes would not fit beside each other: a file of the fakes has no tensors, so what is present decides.
    let mut bench = Bench::ready(Limits { resident_bytes_max: 6_999, ..Limits::default() });
    let handle = bench.handle.clone();
    let first = bench.load(Stage::Asr, "one").unwrap();
    assert!(bench.load(Stage::Asr, "two").is_err(), "there is no room for another");
    bench.drive(handle.discard(first));
    bench.load(Stage::Asr, "three").expect("in the very turn in which it is discarded");
}
