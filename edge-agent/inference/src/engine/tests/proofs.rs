//! Golden cases run between the steps of live work and say what they found.

use super::*;

fn candidate(bench: &mut Bench, golden: &[&str]) -> Candidate {
    let handle = bench.handle.clone();
    bench.drive(handle.load(file("next", golden), Stage::Embed)).unwrap()
}

fn prove(bench: &mut Bench, golden: &[&str]) -> Result<GoldenReport, EngineError> {
    let candidate = candidate(bench, golden);
    let handle = bench.handle.clone();
    bench.drive(handle.reproduce_golden(&candidate))
}

#[test]
fn every_case_is_reported() {
    let mut bench = Bench::ready(Limits::default());
    let report = prove(&mut bench, &["...", "X", "E", "."]).unwrap();
    assert_eq!(report.cases.iter().map(|case| case.passed).collect::<Vec<_>>(), [true, false, false, true]);
    assert!(!report.passed());
    assert_eq!(
        report.summary(),
        "golden case 2 of 4 was not reproduced: expected 2 values, cosine of 0.999 or more, found 2 values, cosine 0.000000"
    );
    assert_eq!(report.cases[2].found, "a scripted failure");
    assert!(prove(&mut bench, &[".", ".."]).unwrap().passed());
}

#[test]
fn a_file_without_cases_is_not_proven() {
    let mut bench = Bench::ready(Limits::default());
    assert!(!prove(&mut bench, &[]).unwrap().passed());
}

#[test]
fn live_work_goes_between_the_steps_of_a_proof() {
    let mut bench = Bench::ready(Limits::default());
    let candidate = candidate(&mut bench, &["....."]);
    let handle = bench.handle.clone();
    let mut proof = Box::pin(handle.reproduce_golden(&candidate));
    assert!(proof.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    bench.worker.turn();
    bench.script.events();
    let _job = bench.transcribe("abc", 100);
    let report = bench.drive(proof).unwrap();
    assert!(report.passed());
    assert_eq!(bench.script.events(), "asr[abc] asr[abc] asr[abc] prove prove prove prove prove prove");
}

#[test]
fn a_panic_in_a_proof_costs_the_candidate_only() {
    let mut bench = Bench::ready(Limits::default());
    let candidate = candidate(&mut bench, &["..P"]);
    let handle = bench.handle.clone();
    match bench.drive(handle.reproduce_golden(&candidate)).err() {
        Some(EngineError::Model(what)) => assert!(what.contains("a scripted panic"), "{what}"),
        other => panic!("{other:?}"),
    }
    match bench.drive(handle.activate(candidate)).err() {
        Some(EngineError::BadInput(what)) => assert!(what.contains("load the model again"), "{what}"),
        other => panic!("{other:?}"),
    }
    assert!(bench.handle.snapshot().stage(Stage::Embed).live);
    assert_eq!(bench.handle.snapshot().resident_bytes, 6_000);
}

#[test]
fn cases_of_another_stage_are_refused() {
    let mut bench = Bench::ready(Limits::default());
    let handle = bench.handle.clone();
    let candidate = bench.drive(handle.load(file("next", &["."]), Stage::Asr)).unwrap();
    match bench.drive(handle.reproduce_golden(&candidate)).err() {
        Some(EngineError::Model(what)) => assert!(what.contains("stage embed"), "{what}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_proof_that_nobody_waits_for_is_dropped() {
    let mut bench = Bench::ready(Limits::default());
    let candidate = candidate(&mut bench, &["....."]);
    let handle = bench.handle.clone();
    let mut proof = Box::pin(handle.reproduce_golden(&candidate));
    assert!(proof.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    bench.worker.turn();
    drop(proof);
    bench.script.events();
    bench.settle();
    assert_eq!(bench.script.events(), "");
}
