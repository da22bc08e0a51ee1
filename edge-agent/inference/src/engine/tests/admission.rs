//! Which calls are let in, and what is forgotten when the last one has ended.

use super::*;

#[test]
fn calls_are_let_in_by_what_they_take_and_sent_away_with_a_hint() {
    let bench = Bench::ready(Limits::default());
    let mut inside = Vec::new();
    let refused = loop {
        match bench.handle.admit() {
            Ok(admission) => inside.push(admission),
            Err(refused) => break refused,
        }
        assert!(inside.len() < 100, "the door never closes");
    };
    assert!(inside.len() > 1, "a cold node takes more than one call");
    assert_eq!(bench.handle.snapshot().calls, inside.len());
    match refused {
        EngineError::Overloaded { retry_after_ms } => {
            assert!((1_000..=60_000).contains(&retry_after_ms), "{retry_after_ms} ms");
        }
        other => panic!("{other}"),
    }
    inside.pop();
    assert!(bench.handle.admit().is_ok(), "a call that has ended makes room");
    assert_eq!(bench.handle.snapshot().calls, inside.len(), "and the one that was let in has ended at once");
}

#[test]
fn steps_make_calls_dearer_and_proofs_do_not() {
    let mut bench = Bench::ready(Limits::default());
    let _call = bench.handle.admit().expect("the first call");
    let share = |bench: &Bench| bench.handle.snapshot().call_share;
    let before = share(&bench);
    let handle = bench.handle.clone();
    let candidate = bench.drive(handle.load(file("next", &["...."]), Stage::Embed)).unwrap();
    let proven = bench.drive(handle.reproduce_golden(&candidate)).unwrap();
    assert!(proven.passed());
    assert!(share(&bench) <= before, "{} after {before}", share(&bench));
    let mut job = bench.transcribe(&"a".repeat(50), 100);
    bench.settle();
    job.text();
    assert!(share(&bench) > before, "{} after {before}", share(&bench));
    assert!(bench.handle.snapshot().busy_share > 0.0);
}

#[test]
fn a_closed_engine_lets_nobody_in() {
    let bench = Bench::ready(Limits::default());
    let inside = bench.handle.admit().expect("room");
    bench.door.close();
    assert_eq!(bench.handle.admit().err(), Some(EngineError::WorkerDied));
    drop(inside);
}

#[test]
fn what_callers_said_is_forgotten_when_the_last_call_has_ended() {
    let mut bench = Bench::ready(Limits::default());
    let handle = bench.handle.clone();
    let (one, two) = (handle.open_vad().unwrap(), handle.open_vad().unwrap());
    bench.settle();
    drop(one);
    bench.settle();
    assert_eq!(bench.script.events(), "", "another call is still there");
    drop(two);
    bench.settle();
    assert_eq!(bench.script.events(), "forget");
    bench.settle();
    assert_eq!(bench.script.events(), "", "once");
}

#[test]
fn a_visitor_takes_no_call_its_place_and_is_turned_away_where_a_call_would_be() {
    let bench = Bench::ready(Limits::default());
    let _visits: Vec<_> = (0..100).map(|_| bench.handle.visit().expect("nobody is inside")).collect();
    assert_eq!(bench.handle.snapshot().calls, 0);
    let mut inside = Vec::new();
    while let Ok(call) = bench.handle.admit() {
        inside.push(call);
    }
    assert!(inside.len() > 1);
    assert_eq!(bench.handle.visit().err(), bench.handle.admit().err());
}

#[test]
fn what_visitors_said_is_forgotten_when_the_last_has_left() {
    let mut bench = Bench::ready(Limits::default());
    let handle = bench.handle.clone();
    let (visit, call) = (handle.visit().expect("room"), handle.open_vad().unwrap());
    bench.settle();
    drop(call);
    bench.settle();
    assert_eq!(bench.script.events(), "", "a visitor is still there");
    drop(visit);
    bench.settle();
    assert_eq!(bench.script.events(), "forget");
}
