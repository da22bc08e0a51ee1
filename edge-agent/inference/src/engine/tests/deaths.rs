//! The failure ladder, rung by rung.

use super::*;

#[test]
fn a_failed_step_costs_one_job() {
    let mut bench = Bench::ready(Limits::default());
    let (mut bad, _) = bench.generate("abE", 100);
    let (mut good, _) = bench.generate("vwxyz", 100);
    bench.settle();
    assert_eq!(pieces(&mut bad), ("ab".into(), Some(EngineError::Model("a scripted failure".into())), true));
    assert_eq!(pieces(&mut good), ("vwxyz".into(), None, true));
    assert_eq!(bench.handle.snapshot().stage(Stage::Llm).deaths, 0);
}

#[test]
fn a_panic_costs_the_jobs_of_its_model_and_the_model_is_loaded_anew() {
    let mut bench = Bench::ready(Limits::default());
    let (mut bad, _) = bench.generate("abP", 100);
    let (mut beside, _) = bench.generate("vwxyz", 100);
    let mut other_stage = bench.transcribe("abc", 90);
    bench.settle();
    assert_eq!(pieces(&mut bad), ("ab".into(), Some(EngineError::WorkerDied), true));
    assert_eq!(pieces(&mut beside), ("vw".into(), Some(EngineError::WorkerDied), true));
    assert_eq!(other_stage.text(), "asr:abc");
    assert!(bench.script.events().ends_with("load:llm"));
    let (mut again, _) = bench.generate("ok", 100);
    bench.settle();
    assert_eq!(pieces(&mut again), ("ok".into(), None, true));
    assert_eq!(bench.handle.snapshot().stage(Stage::Llm).deaths, 1);
}

#[test]
fn a_job_that_waited_is_served_by_the_model_that_was_loaded_anew() {
    let mut bench = Bench::ready(Limits { asr_decodings: 1, ..Limits::default() });
    let mut bad = bench.transcribe("P", 100);
    let mut waiting = bench.transcribe("ab", 200);
    bench.settle();
    assert_eq!(bad.answer(), Some(Err(EngineError::WorkerDied)));
    assert_eq!(waiting.text(), "asr:ab");
}

#[test]
fn a_panic_at_begin_is_a_death_and_a_refusal_is_not() {
    let mut bench = Bench::ready(Limits::default());
    let mut refused = bench.transcribe("refuse", 100);
    bench.settle();
    assert_eq!(refused.answer(), Some(Err(EngineError::BadInput("a scripted refusal".into()))));
    assert_eq!(bench.handle.snapshot().stage(Stage::Asr).deaths, 0);
    let mut bad = bench.transcribe("panic at begin", 100);
    bench.settle();
    assert_eq!(bad.answer(), Some(Err(EngineError::WorkerDied)));
    assert_eq!(bench.handle.snapshot().stage(Stage::Asr).deaths, 1);
    let mut good = bench.transcribe("ab", 100);
    bench.settle();
    assert_eq!(good.text(), "asr:ab");
}

#[test]
fn a_step_that_moves_nobody_is_a_death_not_a_loop() {
    let mut bench = Bench::ready(Limits::default());
    let mut stuck = bench.transcribe("abS", 100);
    bench.settle();
    assert_eq!(stuck.answer(), Some(Err(EngineError::WorkerDied)));
}

#[test]
fn a_stream_goes_on_with_a_fresh_state_after_a_death() {
    let mut bench = Bench::ready(Limits::default());
    let handle = bench.handle.clone();
    let mut stream = handle.open_vad().unwrap();
    assert_eq!(bench.drive(stream.push(&[0.0; 2 * VAD_FRAME_SAMPLES])), Ok(vec![1.0, 2.0]));
    assert_eq!(bench.drive(stream.push(&[-1.0; VAD_FRAME_SAMPLES])), Err(EngineError::WorkerDied));
    assert_eq!(bench.drive(stream.push(&[0.0; VAD_FRAME_SAMPLES])), Ok(vec![1.0]));
}

#[test]
fn a_model_that_cannot_be_loaded_anew_is_tried_again_with_growing_pauses() {
    let mut bench = Bench::ready(Limits::default());
    bench.script.next_load_of("asr", BadLoad::Fails);
    bench.script.next_load_of("asr", BadLoad::Panics);
    let mut bad = bench.transcribe("P", 100);
    bench.settle();
    assert_eq!(bad.answer(), Some(Err(EngineError::WorkerDied)));
    assert_eq!(bench.submit(audio("a"), 100).err(), Some(EngineError::NoModel(Stage::Asr)));
    assert_eq!(bench.worker.turn(), Turn::Idle(Some(Duration::from_millis(500))));
    bench.script.pass(500);
    assert_eq!(bench.worker.turn(), Turn::Idle(Some(Duration::from_millis(1_000))));
    bench.script.pass(999);
    bench.settle();
    assert_eq!(bench.submit(audio("a"), 100).err(), Some(EngineError::NoModel(Stage::Asr)));
    bench.script.pass(1);
    bench.settle();
    let mut good = bench.transcribe("ab", 100);
    bench.settle();
    assert_eq!(good.text(), "asr:ab");
}

#[test]
fn a_model_from_disk_is_read_again_and_only_the_same_file_will_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("asr.gguf");
    let right = file("asr", &[]).bytes().to_vec();
    std::fs::write(&path, &right).unwrap();
    let mut bench = Bench::new(Limits::default());
    let handle = bench.handle.clone();
    let candidate = bench.drive(handle.load(ModelFile::open(&path).unwrap(), Stage::Asr)).unwrap();
    bench.drive(handle.activate(candidate)).unwrap();
    let dies = |bench: &mut Bench| {
        let mut job = bench.transcribe("P", 100);
        bench.settle();
        assert_eq!(job.answer(), Some(Err(EngineError::WorkerDied)));
    };
    let serves = |bench: &mut Bench| {
        let mut job = bench.transcribe("ab", 100);
        bench.settle();
        assert_eq!(job.text(), "asr:ab");
    };
    dies(&mut bench);
    serves(&mut bench);
    // Another model under the same name, half a file, none at all.
    let another = file("another", &[]).bytes().to_vec();
    for wrong in [Some(&another[..]), Some(&right[..right.len() / 2]), None] {
        match wrong {
            Some(bytes) => std::fs::write(&path, bytes).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        dies(&mut bench);
        assert_eq!(bench.submit(audio("a"), 100).err(), Some(EngineError::NoModel(Stage::Asr)));
        std::fs::write(&path, &right).unwrap();
        bench.script.pass(500);
        bench.settle();
        serves(&mut bench);
    }
    assert!(!bench.script.events().contains("another"));
    assert!(
        matches!(ModelFile::open(folder.path().join("none")), Err(EngineError::Model(what)) if what.contains("none"))
    );
}

#[test]
fn jobs_that_wait_for_a_model_that_is_down_are_told() {
    let mut bench = Bench::ready(Limits { asr_decodings: 1, ..Limits::default() });
    bench.script.next_load_of("asr", BadLoad::Fails);
    let mut bad = bench.transcribe("P", 100);
    let mut waiting = bench.transcribe("ab", 200);
    bench.settle();
    assert_eq!(bad.answer(), Some(Err(EngineError::WorkerDied)));
    assert_eq!(waiting.answer(), Some(Err(EngineError::NoModel(Stage::Asr))));
}

#[test]
fn a_new_version_ends_the_attempts_to_load_the_old_one() {
    let mut bench = Bench::ready(Limits::default());
    bench.script.next_load_of("asr", BadLoad::Fails);
    let mut bad = bench.transcribe("P", 100);
    bench.settle();
    assert!(bad.answer().is_some());
    bench.go_live(Stage::Asr, "next");
    bench.script.pass(10_000);
    bench.settle();
    let mut good = bench.transcribe("ab", 100);
    bench.settle();
    assert_eq!(good.text(), "next:ab");
    assert!(!bench.script.events().contains("load:asr"));
}

#[test]
fn a_load_that_fails_or_panics_leaves_the_live_model_serving() {
    let mut bench = Bench::ready(Limits::default());
    bench.script.next_load_of("next", BadLoad::Fails);
    assert_eq!(bench.load(Stage::Asr, "next").err(), Some(EngineError::Model("next lacks a tensor".into())));
    bench.script.next_load_of("next", BadLoad::Panics);
    match bench.load(Stage::Asr, "next").err() {
        Some(EngineError::Model(what)) => assert!(what.ends_with("next is broken"), "{what}"),
        other => panic!("{other:?}"),
    }
    let mut job = bench.transcribe("ab", 100);
    bench.settle();
    assert_eq!(job.text(), "asr:ab");
}

#[test]
fn recovery_tells_every_job_and_loads_every_live_model_anew() {
    let mut bench = Bench::ready(Limits::default());
    let mut job = bench.transcribe("abc", 100);
    let (mut answer, _) = bench.generate("abc", 200);
    bench.worker.turn();
    bench.worker.recover();
    assert_eq!(job.answer(), Some(Err(EngineError::WorkerDied)));
    assert_eq!(pieces(&mut answer), (String::new(), Some(EngineError::WorkerDied), true));
    let events = bench.script.events();
    for stage in Stage::ALL {
        assert!(events.contains(&format!("load:{stage}")), "{events}");
    }
    let mut job = bench.transcribe("ab", 100);
    bench.settle();
    assert_eq!(job.text(), "asr:ab");
}
