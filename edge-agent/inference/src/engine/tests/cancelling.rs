//! A job that nobody wants any more ends within one step, wherever it is.

use super::*;

#[test]
fn a_waiting_job_is_cancelled_without_a_step() {
    let mut bench = Bench::ready(Limits { asr_decodings: 1, ..Limits::default() });
    let mut running = bench.transcribe("ab", 100);
    bench.worker.turn();
    let mut waiting = bench.transcribe("xy", 100);
    waiting.cancel.cancel();
    bench.worker.turn();
    assert_eq!(waiting.answer(), Some(Err(EngineError::Cancelled)));
    bench.settle();
    assert_eq!(running.text(), "asr:ab");
    assert_eq!(bench.script.events(), "asr[ab] asr[ab]");
}

#[test]
fn a_running_job_is_cancelled_at_the_next_step_and_its_slot_is_free() {
    let mut bench = Bench::ready(Limits { asr_decodings: 1, ..Limits::default() });
    let mut long = bench.transcribe("abcdefgh", 100);
    bench.worker.turn();
    bench.worker.turn();
    long.cancel.cancel();
    let mut next = bench.transcribe("x", 200);
    bench.settle();
    assert_eq!(long.answer(), Some(Err(EngineError::Cancelled)));
    assert_eq!(next.text(), "asr:x");
    assert_eq!(bench.script.events(), "asr[abcdefgh] asr[abcdefgh] asr[x]");
}

#[test]
fn an_answer_ends_with_cancelled_after_what_was_said() {
    let mut bench = Bench::ready(Limits::default());
    let (mut answer, cancel) = bench.generate("abcdef", 100);
    bench.worker.turn();
    bench.worker.turn();
    cancel.cancel();
    bench.settle();
    assert_eq!(pieces(&mut answer), ("ab".into(), Some(EngineError::Cancelled), true));
}

#[test]
fn a_dropped_receiver_is_a_cancel() {
    let mut bench = Bench::ready(Limits::default());
    let (answer, _) = bench.generate("abcdef", 100);
    let job = bench.transcribe("abcdef", 1_000);
    bench.worker.turn();
    drop((answer, job));
    bench.settle();
    assert_eq!(bench.script.events(), "llm[abcdef]", "no further step is spent on them");
    assert_eq!(bench.handle.snapshot().stage(Stage::Llm).running, 0);
}

#[test]
fn a_dropped_call_future_is_a_cancel() {
    let mut bench = Bench::ready(Limits::default());
    let (handle, cancel) = (bench.handle.clone(), Cancel::new());
    {
        let mut call = pin!(handle.transcribe(spell("abcdef"), &cancel));
        assert!(call.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        bench.worker.turn();
    }
    bench.settle();
    assert_eq!(bench.script.events(), "asr[abcdef]");
}

#[test]
fn frames_of_a_dropped_push_still_reach_the_stream() {
    let mut bench = Bench::ready(Limits::default());
    let mut stream = bench.handle.open_vad().unwrap();
    let audio = [0.0f32; 3 * VAD_FRAME_SAMPLES];
    {
        let mut push = pin!(stream.push(&audio));
        assert!(push.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        bench.worker.turn();
    }
    let found = bench.drive(stream.push(&audio[..VAD_FRAME_SAMPLES]));
    assert_eq!(found, Ok(vec![4.0]), "the state has seen three frames before this one");
}
