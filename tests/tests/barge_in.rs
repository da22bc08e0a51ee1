//! A caller speaks over the answer: real models, recorded speech in real time, and how long it takes until the node is silent.
//!
//! What is asserted is the order and the content of events, which no machine is too slow for. The times are printed:
//! `cargo test --release --workspace --test barge_in -- --nocapture`.

#[path = "../real_node/mod.rs"]
mod real_node;

use base64::Engine as _;
use control_plane::registry::{Cache, Catalogue, Fetcher, speech::RATE_HZ};
use edge_agent::media::{codec::Format, resample::resample};
use futures_util::{SinkExt as _, StreamExt as _};
use real_node::Node;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio_tungstenite::{connect_async, tungstenite::Message};

/// What a microphone gives at once.
const CHUNK: Duration = Duration::from_millis(20);

/// Utterances without a pause at their beginning, said one after the other.
const SPOKEN_OVER: [&str; 5] = ["goforward", "something", "what_time_is_it", "librivox_0880", "librivox_0930"];

const BARGE_INS: usize = 10;

/// Calls that are made for them: on a quick machine some answers are sent before speech is detected, whenever it begins.
const ATTEMPTS_MAX: usize = 4 * BARGE_INS;

/// Speech at 24 kHz in chunks, and in which of them it really begins.
struct Speech {
    chunks: Vec<Vec<f32>>,
    onset: usize,
    /// From the onset to the end of the audio in which a detector with all the time in the world finds two frames of speech.
    needed: Duration,
}

/// Where a detector that nothing keeps waiting finds speech: the end of the second frame in a row.
async fn found_alone(node: &Node, samples16k: &[f32]) -> Duration {
    let mut detector = node.engine.open_vad().expect("a slot");
    // In a call it has listened to silence before.
    detector.push(&[0.0; 16_384]).await.expect("probabilities");
    let frames = detector.push(samples16k).await.expect("probabilities");
    let second = frames.windows(2).position(|pair| pair.iter().all(|p| *p >= 0.5)).expect("speech") + 2;
    Duration::from_millis(32) * second as u32
}

async fn recordings(node: &Node) -> Vec<Speech> {
    let fetched = tokio::task::spawn_blocking(fetch).await.expect("ran");
    let mut recordings = Vec::new();
    for (chunks, onset, samples16k) in fetched {
        let needed = found_alone(node, &samples16k).await.saturating_sub(CHUNK * onset as u32);
        recordings.push(Speech { chunks, onset, needed });
    }
    recordings
}

type Fetched = (Vec<Vec<f32>>, usize, Vec<f32>);

fn fetch() -> Vec<Fetched> {
    let fetcher = Fetcher::new(Cache::of_user().expect("a cache"));
    let list = Catalogue::builtin().and_then(|catalogue| catalogue.speech()).expect("the list of recordings");
    let utterances = list.get(&fetcher, &SPOKEN_OVER).expect("the recordings");
    let speech = utterances.iter().map(|utterance| {
        let samples = resample(&utterance.samples(), RATE_HZ, 24_000).expect("rates");
        let chunks: Vec<Vec<f32>> = samples.chunks(24 * CHUNK.as_millis() as usize).map(<[f32]>::to_vec).collect();
        // True onset: the first 20 ms that rise out of the recording's own noise and are not 26 dB below its loudest part.
        let loudness = |chunk: &Vec<f32>| (chunk.iter().map(|s| s * s).sum::<f32>() / chunk.len() as f32).sqrt();
        let loudest = chunks.iter().map(loudness).fold(0.0, f32::max);
        let quietest = chunks.iter().map(loudness).fold(loudest, f32::min);
        let rises = (2.0 * quietest).max(0.05 * loudest);
        let onset = chunks.iter().position(|chunk| loudness(chunk) >= rises).expect("speech");
        (chunks, onset, utterance.samples())
    });
    speech.collect()
}

/// What one barge-in came to.
struct Outcome {
    /// From the last sample of the chunk in which speech begins, to `speech_started`.
    noticed: Duration,
    /// How much of that audio the detector needs.
    needed: Duration,
    /// From `speech_started` to the last audio that came after it; none is the rule.
    silent: Duration,
    /// Words that were sent, and those that the history keeps.
    sent: String,
    kept: String,
}

/// Asks for long answers, one after the other until speech over one of them is detected: a quick machine has made a whole answer before
/// anybody can speak over it. `None` where no answer was being sent in that moment.
async fn barge_in(node: &Node, speech: &Speech, after: Duration) -> Option<Outcome> {
    let url = format!("{}/v1/realtime?greeting=off", node.url.replacen("http", "ws", 1));
    let (socket, _) = connect_async(url).await.expect("a call");
    let (mut send, mut receive) = socket.split();
    let text = |event: Value| Message::text(event.to_string());
    let append = |samples: &[f32]| {
        let audio = base64::engine::general_purpose::STANDARD.encode(Format::Pcm.encode(samples));
        text(json!({ "type": "input_audio_buffer.append", "audio": audio }))
    };
    let ask = json!({ "type": "message", "role": "user", "content": [
        { "type": "input_text", "text": "Tell me a long story about a lighthouse, a ship and a storm." }
    ] });
    let instructions = "You are a storyteller. Tell very long stories with many details and never stop early.";
    let create = json!({ "type": "response.create", "response": {
        "max_output_tokens": 512, "instructions": instructions, "conversation": "auto"
    } });
    for event in [json!({ "type": "conversation.item.create", "item": ask }), create.clone()] {
        send.send(text(event)).await.expect("sent");
    }
    let silence = vec![0.0; speech.chunks[0].len()];
    let mut clock = tokio::time::interval(CHUNK);
    let mut speaks_at: Option<Instant> = None;
    // Without the silence before it: an answer is made and sent within a fraction of a second.
    let mut said = speech.onset;
    let mut onset_sent = None;
    let mut detected: Option<Instant> = None;
    let mut silent = Duration::ZERO;
    let (mut sent, mut item) = (String::new(), None);
    loop {
        tokio::select! {
            _ = clock.tick() => {
                let speaks = speaks_at.is_some_and(|at| at.elapsed() >= after);
                let chunk = speech.chunks.get(said).filter(|_| speaks).unwrap_or(&silence);
                send.send(append(chunk)).await.expect("sent");
                if speaks {
                    if said == speech.onset {
                        onset_sent = Some(Instant::now());
                    }
                    said += 1;
                }
            }
            message = receive.next() => {
                let Message::Text(event) = message.expect("the call goes on").expect("a message") else { continue };
                let event: Value = serde_json::from_str(&event).expect("JSON");
                match event["type"].as_str().unwrap_or_default() {
                    "response.created" => {
                        if detected.is_some() {
                            return None;
                        }
                        (sent, item) = (String::new(), None);
                    }
                    "response.output_audio_transcript.delta" => {
                        assert!(detected.is_none(), "words after the detected speech");
                        sent.push_str(event["delta"].as_str().unwrap_or_default());
                    }
                    "response.output_audio.delta" => {
                        item = item.or_else(|| event["item_id"].as_str().map(str::to_owned));
                        speaks_at.get_or_insert_with(Instant::now);
                        if let Some(detected) = detected {
                            silent = detected.elapsed();
                        }
                    }
                    "input_audio_buffer.speech_started" => {
                        detected.get_or_insert_with(Instant::now);
                    }
                    "response.done" if detected.is_none() => {
                        let status = event["response"]["status"].as_str();
                        assert!(matches!(status, Some("completed" | "incomplete")), "{event}");
                        send.send(text(create.clone())).await.expect("sent");
                    }
                    "response.done" => {
                        assert_eq!(event["response"]["status"], "cancelled", "{event}");
                        assert_eq!(event["response"]["status_details"]["reason"], "turn_detected");
                        // Stopped before its first sound.
                        item.as_ref()?;
                        let retrieve = json!({ "type": "conversation.item.retrieve", "item_id": item });
                        send.send(text(retrieve)).await.expect("sent");
                    }
                    "conversation.item.retrieved" => {
                        let kept = event["item"]["content"][0]["transcript"].as_str().expect("words").to_owned();
                        let detected = detected.expect("detected");
                        let noticed = onset_sent.map_or(Duration::ZERO, |onset| detected.saturating_duration_since(onset));
                        return Some(Outcome { noticed, needed: speech.needed, silent, sent, kept });
                    }
                    "error" => panic!("{event}"),
                    _ => {}
                }
            }
        }
    }
}

fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let at = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted[at].as_secs_f64() * 1e3
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn speech_over_a_spoken_answer_silences_it_and_the_history_keeps_what_was_heard() {
    let node = Node::start().await;
    let speech = recordings(&node).await;
    let mut outcomes = Vec::new();
    for n in 0..ATTEMPTS_MAX {
        if outcomes.len() == BARGE_INS {
            break;
        }
        // While the first phrase is being sent, and later, when more of them wait.
        let after = Duration::from_millis(40 * (n as u64 % 4));
        match barge_in(&node, &speech[n % speech.len()], after).await {
            Some(outcome) => outcomes.push(outcome),
            None => println!("speech was detected while no answer was being sent: nothing to stop"),
        }
    }
    for outcome in &outcomes {
        assert_eq!(outcome.silent, Duration::ZERO, "no audio follows the detected speech");
        assert!(outcome.sent.starts_with(&outcome.kept), "`{}` was sent, `{}` is kept", outcome.sent, outcome.kept);
    }
    // Audio is sent faster than it is played, so of what was sent something was not heard.
    assert!(outcomes.iter().any(|o| o.kept.len() < o.sent.len()), "{} barge-ins, all heard whole", outcomes.len());
    println!("{} barge-ins, milliseconds                     p50    p95", outcomes.len());
    type Time = fn(&Outcome) -> Duration;
    let times: [(&str, Time); 3] = [
        ("true onset of speech -> speech detected", |o| o.noticed),
        ("of that, audio the detector needs", |o| o.needed),
        ("speech detected -> last audio byte", |o| o.silent),
    ];
    for (what, time) in times {
        let mut sorted: Vec<Duration> = outcomes.iter().map(time).collect();
        sorted.sort_unstable();
        println!("{what:<42} {:>6.0} {:>6.0}", percentile(&sorted, 50), percentile(&sorted, 95));
    }
}
