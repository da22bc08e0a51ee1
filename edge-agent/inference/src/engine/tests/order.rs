//! Who is served first.

use super::*;

#[test]
fn frames_of_all_calls_go_first_in_one_step() {
    let mut bench = Bench::ready(Limits::default());
    let mut job = bench.transcribe("ab", 0);
    let handle = bench.handle.clone();
    let (mut one, mut two) = (handle.open_vad().unwrap(), handle.open_vad().unwrap());
    let frame = [0.0f32; VAD_FRAME_SAMPLES];
    let found = bench.drive(async {
        let mut both = pin!(async { (one.push(&frame).await, two.push(&frame).await) });
        std::future::poll_fn(|context| both.as_mut().poll(context)).await
    });
    assert_eq!(found, (Ok(vec![1.0]), Ok(vec![1.0])));
    let events = bench.script.events();
    assert!(events.starts_with("vad[0]"), "a frame passes a job that is already late: {events}");
    bench.settle();
    assert_eq!(job.text(), "asr:ab");
}

#[test]
fn frames_that_wait_together_are_batched() {
    let mut bench = Bench::ready(Limits::default());
    let handle = bench.handle.clone();
    let mut streams: Vec<VadStream> = (0..3).map(|_| handle.open_vad().unwrap()).collect();
    let audio = [0.0f32; 2 * VAD_FRAME_SAMPLES];
    let mut pushes: Vec<_> = streams.iter_mut().map(|stream| Box::pin(stream.push(&audio))).collect();
    let mut context = Context::from_waker(Waker::noop());
    for push in &mut pushes {
        assert!(push.as_mut().poll(&mut context).is_pending());
    }
    bench.settle();
    for push in &mut pushes {
        assert_eq!(push.as_mut().poll(&mut context), Poll::Ready(Ok(vec![1.0, 2.0])));
    }
    assert_eq!(bench.script.events(), "vad[0,1,2] vad[0,1,2]");
}

#[test]
fn the_earlier_deadline_goes_first_across_stages() {
    let mut bench = Bench::ready(Limits::default());
    let _late = bench.transcribe("ab", 300);
    let _soon = bench.submit(Work::Tts { text: "t".into(), speed: 1.0 }, 100).unwrap();
    let _sooner = bench.submit(Work::Embed(vec!["e".into()]), 50).unwrap();
    bench.settle();
    assert_eq!(bench.script.events(), "embed[e] tts[t] asr[ab] asr[ab]");
}

#[test]
fn an_urgent_transcript_passes_one_that_has_begun() {
    let mut bench = Bench::ready(Limits::default());
    let mut partial = bench.transcribe("abc", 900);
    bench.worker.turn();
    let mut last = bench.transcribe("xy", 100);
    bench.settle();
    assert_eq!(bench.script.events(), "asr[abc] asr[xy] asr[xy] asr[abc] asr[abc]");
    assert_eq!((partial.text(), last.text()), ("asr:abc".into(), "asr:xy".into()));
}

#[test]
fn a_token_gives_slack_so_that_a_first_phrase_passes_a_running_answer() {
    let mut bench = Bench::ready(Limits::default());
    let (mut answer, _) = bench.generate("abcd", 100);
    bench.worker.turn();
    // The answer's next token is wanted at 300 ms now: the phrase of another call at 200 ms goes first.
    let _phrase = bench.submit(Work::Tts { text: "t".into(), speed: 1.0 }, 200).unwrap();
    bench.settle();
    assert_eq!(bench.script.events(), "llm[abcd] tts[t] llm[abcd] llm[abcd] llm[abcd]");
    assert_eq!(pieces(&mut answer), ("abcd".into(), None, true));
}

#[test]
fn a_long_answer_is_not_starved_by_short_work() {
    let mut bench = Bench::ready(Limits::default());
    let (mut answer, _) = bench.generate("abcdef", 100);
    let mut short = Vec::new();
    for _ in 0..400 {
        let now = bench.script.now().duration_since(bench.script.at(0)).as_millis() as u64;
        short.push(bench.submit(Work::Tts { text: "t".into(), speed: 1.0 }, now + 50));
        bench.worker.turn();
        if pieces(&mut answer).2 {
            return;
        }
    }
    panic!("400 phrases went by, and the answer is not done");
}

#[test]
fn answers_are_decoded_together() {
    let mut bench = Bench::ready(Limits::default());
    let (mut one, _) = bench.generate("abc", 100);
    let (mut two, _) = bench.generate("xy", 100);
    bench.settle();
    assert_eq!(bench.script.events(), "llm[abc,xy] llm[abc,xy] llm[abc]");
    assert_eq!(pieces(&mut one), ("abc".into(), None, true));
    assert_eq!(pieces(&mut two), ("xy".into(), None, true));
}

#[test]
fn a_load_yields_to_urgent_work_and_then_takes_its_turn() {
    let mut bench = Bench::ready(Limits::default());
    let _soon: Vec<Waiting> = (0..3).map(|_| bench.transcribe("abcdefghijklmnopqrst", 100)).collect();
    let _later = bench.transcribe("z", 5_000);
    let candidate = bench.load(Stage::Asr, "next").unwrap();
    let events = bench.script.events();
    let at = events.find("load:next").expect("it was loaded");
    assert!(events[..at].matches("asr[abc").count() == 60 && !events[..at].contains("asr[z]"), "{events}");
    drop(candidate);
}
