//! When the work of a call is wanted: at once while the caller waits, when the audio runs out while the caller listens, and some
//! time later where nobody waits at all.

use crate::support::{Did, Node, audio_ms};
use std::time::{Duration, Instant};

#[tokio::test]
async fn work_is_due_when_the_caller_would_notice_that_it_is_not_done() {
    let node = Node::start().await;
    node.warm().await;
    let ahead = std::mem::take(&mut node.speech.script.lock().unwrap().dues);
    assert!(ahead.iter().any(|(job, ..)| *job == "speak") && ahead.iter().any(|(job, ..)| *job == "embed"));
    for (job, came, due) in &ahead {
        assert!(due.is_some_and(|due| due >= *came + Duration::from_secs(5)), "{job} for the cache is not urgent");
    }
    node.script(|s| {
        s.answers.push_back(vec![
            Did::Well("One two three four. "),
            Did::Well("Five six seven. "),
            Did::Well("Eight."),
        ]);
    });
    let mut client = node.call().await;
    client.server_vad().await;
    client.seen.clear();
    client.speak(400).await;
    client.expect("response.done").await;
    let dues = node.speech.script.lock().unwrap().dues.clone();
    let of = |name: &str| -> Vec<(Instant, Instant)> {
        let named = dues.iter().filter(|(job, ..)| *job == name);
        named.map(|(_, came, due)| (*came, due.expect("said"))).collect()
    };
    for job in ["transcribe", "embed", "generate"] {
        let jobs = of(job);
        assert!(!jobs.is_empty() && jobs.iter().all(|(came, due)| due <= came), "{job}: the caller waits");
    }
    let phrases = of("speak");
    assert_eq!(phrases.len(), 3);
    assert!(phrases[0].1 <= phrases[0].0, "the first phrase is wanted at once");
    // Each letter is 50 ms of audio.
    let length = |phrase: &str| Duration::from_millis(50 * phrase.len() as u64);
    let (first, second) = (length("One two three four."), length("Five six seven."));
    assert_eq!(audio_ms(&client.seen) as u128, (first + second + length("Eight.")).as_millis());
    let slack = |n: usize| phrases[n].1 - phrases[0].1;
    assert!(
        slack(1) >= first,
        "the second phrase is wanted when the first has been played, not before: {:?}",
        slack(1)
    );
    // Both count from the moment when the first audio left.
    assert!(slack(2) >= slack(1) + second, "and the third when the second has");
}

#[tokio::test]
async fn a_greeting_lets_answers_go_first() {
    let mut assistant = crate::support::front_desk();
    assistant.greeting = Some("Good day to you.".into());
    let node = Node::with(Default::default(), crate::support::serving(vec![assistant]), 8).await;
    let mut client = node.call().await;
    client.send(serde_json::json!({"type": "session.update", "session": {"nearfield": {"consent": false}}})).await;
    client.expect("response.done").await;
    let dues = node.speech.script.lock().unwrap().dues.clone();
    // From the cache or not: whoever speaks it is not hurried.
    assert!(dues.iter().filter(|(job, ..)| *job == "speak").all(|(_, came, due)| due.is_some_and(|due| due > *came)));
}
