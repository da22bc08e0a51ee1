//! `POST /v1/audio/transcriptions`. The scripted detector takes loudness for speech, the scripted recogniser says what it is told.

use crate::{
    ask::{Answer, Form, events, post_form},
    support::{self, Did, FakeSpeech, Node, until},
};
use edge_agent::speech::SpeechError;
use hound::{SampleFormat, WavSpec, WavWriter};
use serde_json::{Value, json};
use std::sync::atomic::Ordering;

const PATH: &str = "/v1/audio/transcriptions";

/// A tone (true) and silence (false), each for so many milliseconds.
pub fn wav(spec: WavSpec, runs: &[(u32, bool)]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = WavWriter::new(&mut bytes, spec).expect("a writer");
    for (ms, loud) in runs {
        for n in 0..spec.sample_rate as usize * *ms as usize / 1_000 {
            let value = if *loud { 0.5 * (n as f32 * 2_000.0 / spec.sample_rate as f32).sin() } else { 0.0 };
            for _ in 0..spec.channels {
                match spec.sample_format {
                    SampleFormat::Float => writer.write_sample(value).expect("written"),
                    SampleFormat::Int => {
                        let whole = (1i64 << (spec.bits_per_sample - 1)) as f32;
                        writer.write_sample((value * (whole - 1.0)) as i32).expect("written");
                    }
                }
            }
        }
    }
    writer.finalize().expect("finished");
    bytes.into_inner()
}

pub fn mono(runs: &[(u32, bool)]) -> Vec<u8> {
    let spec = WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: SampleFormat::Int };
    wav(spec, runs)
}

/// Two sentences: from 0.5 s to 1.5 s, and from 3 s to 4 s.
fn two_sentences() -> Form {
    let recording = mono(&[(500, false), (1_000, true), (1_500, false), (1_000, true), (600, false)]);
    Form::new().field("model", "whisper-1").file("talk.wav", &recording)
}

async fn node() -> Node {
    let node = Node::start().await;
    node.warm().await;
    node.script(|s| s.words.extend(["Hello there.", " It is me. "].map(|words| Did::Well(words.to_owned()))));
    node
}

#[tokio::test]
async fn words_come_back_in_every_shape() {
    let node = node().await;
    let answer = Answer::of(post_form(&node, PATH, two_sentences()).await).await.done();
    assert_eq!(answer, json!({"text": "Hello there. It is me.", "usage": {"type": "duration", "seconds": 4.6}}));

    let text = async |format: &str| {
        let node = self::node().await;
        let response = post_form(&node, PATH, two_sentences().field("response_format", format)).await;
        assert_eq!(response.status(), 200);
        response.text().await.expect("text")
    };
    assert_eq!(text("text").await, "Hello there. It is me.\n");
    let srt = text("srt").await;
    assert!(srt.starts_with("1\n00:00:00,") && srt.contains("\nHello there.\n\n2\n00:00:0"), "{srt}");
    let vtt = text("vtt").await;
    assert!(vtt.starts_with("WEBVTT\n\n00:00:00.") && vtt.contains("\nIt is me.\n"), "{vtt}");
}

#[tokio::test]
async fn times_of_segments_and_words_lie_where_somebody_speaks() {
    let node = node().await;
    let form = two_sentences()
        .field("response_format", "verbose_json")
        .field("timestamp_granularities[]", "word")
        .field("timestamp_granularities[]", "segment");
    let told = Answer::of(post_form(&node, PATH, form).await).await.done();
    assert_eq!(
        (&told["task"], &told["language"], &told["duration"]),
        (&"transcribe".into(), &"english".into(), &4.6.into())
    );
    let check = |entry: &Value, text: &str, name: &str, from: f64, to: f64| {
        let (start, end) = (entry["start"].as_f64().expect("start"), entry["end"].as_f64().expect("end"));
        assert_eq!(entry[name], text);
        assert!(from - 0.1 < start && start < end && end < to + 0.1, "{entry} is not within {from} to {to}");
    };
    let words = told["words"].as_array().expect("words");
    assert_eq!(words.len(), 5);
    check(&words[0], "Hello", "word", 0.5, 1.1);
    check(&words[1], "there", "word", 0.9, 1.5);
    check(&words[4], "me", "word", 3.5, 4.0);
    let segments = told["segments"].as_array().expect("segments");
    assert_eq!(segments.len(), 2);
    check(&segments[0], "Hello there.", "text", 0.5, 1.5);
    check(&segments[1], "It is me.", "text", 3.0, 4.0);
    let plain = two_sentences().field("response_format", "verbose_json");
    let plain = Answer::of(post_form(&node, PATH, plain).await).await.done();
    assert!(plain.get("words").is_none() && plain["segments"].is_array(), "{plain}");
}

#[tokio::test]
async fn words_are_sent_as_they_are_found() {
    let node = node().await;
    let response = post_form(&node, PATH, two_sentences().field("stream", "true")).await;
    assert!(response.headers()["content-type"].to_str().expect("text").starts_with("text/event-stream"));
    let told = events(response).await;
    assert_eq!(
        told,
        [
            json!({"type": "transcript.text.delta", "delta": "Hello there."}),
            json!({"type": "transcript.text.delta", "delta": " It is me."}),
            json!({"type": "transcript.text.done", "text": "Hello there. It is me."}),
        ]
    );
    // A failure after the first words is told where the words would have come.
    node.script(|s| {
        s.words.push_back(Did::Well("First.".into()));
        s.words.push_back(Did::Fails(SpeechError::Model("secret".into())));
    });
    let told = events(post_form(&node, PATH, two_sentences().field("stream", "true")).await).await;
    assert_eq!((told.len(), &told[1]["error"]["code"]), (2, &"model_failed".into()));
    // And one before them with a status.
    node.script(|s| s.words.push_back(Did::Fails(SpeechError::Model("secret".into()))));
    let refused = Answer::of(post_form(&node, PATH, two_sentences().field("stream", "true")).await).await;
    refused.refused(500, "model_failed", None, "try again");
}

#[tokio::test]
async fn recordings_of_any_rate_width_and_number_of_channels_are_heard() {
    let node = Node::start().await;
    node.warm().await;
    for (channels, sample_rate, bits_per_sample, sample_format) in [
        (1, 8_000, 16, SampleFormat::Int),
        (2, 44_100, 24, SampleFormat::Int),
        (1, 48_000, 32, SampleFormat::Int),
        (2, 22_050, 32, SampleFormat::Float),
        (1, 11_025, 8, SampleFormat::Int),
    ] {
        let spec = WavSpec { channels, sample_rate, bits_per_sample, sample_format };
        let recording = wav(spec, &[(500, false), (2_000, true), (700, false)]);
        node.script(|s| s.transcribed_ms.clear());
        let form = Form::new().field("model", "any").file("talk.wav", &recording);
        let answer = Answer::of(post_form(&node, PATH, form).await).await.done();
        let seconds = answer["usage"]["seconds"].as_f64().expect("seconds");
        assert!(answer["text"] == "tell me something" && (seconds - 3.2).abs() < 0.005, "{spec:?}: {answer}");
        node.script(|s| {
            let [ms] = s.transcribed_ms[..] else { panic!("{spec:?}: {:?}", s.transcribed_ms) };
            assert!((2_000..2_600).contains(&ms), "{spec:?}: {ms} ms of speech and what is around it");
        });
    }
}

#[tokio::test]
async fn a_long_recording_goes_through_in_parts_and_silence_not_at_all() {
    let node = Node::start().await;
    node.warm().await;
    let ask = async |runs: &[(u32, bool)]| {
        node.script(|s| s.transcribed_ms.clear());
        let form = Form::new().field("model", "any").file("talk.wav", &mono(runs));
        Answer::of(post_form(&node, PATH, form).await).await.done()
    };
    ask(&[(90_000, true)]).await;
    node.script(|s| {
        assert!(
            s.transcribed_ms.len() >= 4 && s.transcribed_ms.iter().all(|ms| *ms <= 28_000),
            "{:?}",
            s.transcribed_ms
        );
        assert!(s.transcribed_ms.iter().sum::<usize>().abs_diff(90_000) < 100, "{:?}", s.transcribed_ms);
        s.words.push_back(Did::Well(" . ".into()));
    });
    let answer = ask(&[(1_000, true)]).await;
    assert_eq!(answer["text"], "", "a full stop is no word");
    assert_eq!(ask(&[(20_000, false)]).await["text"], "");
    node.script(|s| assert_eq!(s.transcribed_ms, [0; 0], "nobody spoke"));
}

#[tokio::test]
async fn what_cannot_be_heard_is_refused_with_the_remedy() {
    let node = Node::start().await;
    node.warm().await;
    let check = async |form: Form, status: u16, code: &str, param: &str, word: &str| {
        Answer::of(post_form(&node, PATH, form).await).await.refused(status, code, Some(param), word);
    };
    let with = |bytes: &[u8]| Form::new().field("model", "any").file("my-secret.wav", bytes);
    check(with(b"this is my secret"), 400, "invalid_audio", "file", "what can be read is wav, mp3").await;
    check(with(b""), 400, "invalid_audio", "file", "cannot be read").await;
    check(with(&mono(&[(50, true)])), 400, "invalid_audio", "file", "holds no audio").await;
    check(with(&mono(&[(1_000, true)])[..60]), 400, "invalid_audio", "file", "recording").await;
    check(with(&vec![0; (25 << 20) + 1]), 413, "body_too_large", "file", "26214400").await;
    check(Form::new().field("model", "any"), 400, "missing_required_parameter", "file", "missing").await;
    check(Form::new().file("a.wav", b"x"), 400, "missing_required_parameter", "model", "missing").await;
    check(two_sentences().field("language", "de"), 400, "invalid_value", "language", "English").await;
    let other = Form::new().field("model", "fake-tts").file("a.wav", &mono(&[(500, true)]));
    check(other, 400, "invalid_value", "model", "tts model").await;
    let url = format!("http://{}{PATH}", node.address);
    let send = async |kind: &str, body: &'static str| {
        let request = reqwest::Client::new().post(&url).header("content-type", kind).body(body);
        Answer::of(request.send().await.expect("an answer")).await
    };
    send("application/json", "{}").await.refused(400, "invalid_multipart", None, "multipart/form-data");
    send("multipart/form-data; boundary=b", "--b\r\nmy secret").await.refused(400, "invalid_multipart", None, "end");
    node.quiet().await;
    assert_eq!(Answer::of(post_form(&node, PATH, two_sentences()).await).await.status, 200, "nothing else is lost");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_work_along() {
    let node = Node::start().await;
    node.warm().await;
    node.script(|s| s.words.push_back(Did::Hangs));
    let form = two_sentences();
    let request = form.request(&format!("http://{}{PATH}", node.address));
    let client = tokio::spawn(request.send());
    until(|| node.speech.jobs.load(Ordering::SeqCst) == 1).await;
    client.abort();
    node.quiet().await;
    until(|| node.speech.places.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn without_a_slot_of_the_detector_a_recording_is_not_taken() {
    let speech = FakeSpeech { slots_max: 1, ..FakeSpeech::default() };
    let node = Node::with(speech, support::serving(vec![support::front_desk()]), 8).await;
    node.warm().await;
    let _call = node.call().await;
    let refused = Answer::of(post_form(&node, PATH, two_sentences()).await).await;
    refused.refused(503, "overloaded", None, "busy");
    assert_eq!(refused.retry_after.as_deref(), Some("2"));
}
