//! A caller in a shell: sends a recording to a node, keeps the answer, says where it was answered and where the time went.
//!
//! It speaks the same WebSocket as everybody else, so that what it shows is what any client would get. In real time it sends
//! what a microphone would: 20 ms at a time, and silence after the recording, until the answer has ended.

mod command;
mod connect;
mod tls;
pub mod wav;

pub use command::{CallArgs, run};

use crate::media::{codec::Format, resample::resample};
use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _};
use nearfield_dialogue::ledger::Ledger;
use nearfield_shared::region::Location;
use serde::Serialize;
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{self, Message};
use wav::WavError;
use zeroize::Zeroizing;

/// One audio message: 20 ms, what a microphone gives.
const CHUNK: Duration = Duration::from_millis(20);

/// Silence sent after the recording before the client gives up on the node noticing the end of the turn.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// A node that says nothing for this long after the turn will not answer any more.
const SILENT_NODE_MAX: Duration = Duration::from_secs(90);

/// How a call is placed.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// The node: `ws://`, `wss://`, `http://` or `https://`, with or without the path `/v1/realtime`.
    pub url: String,
    /// A PEM file with the only authorities to trust over `wss://`; `None` trusts what the system does.
    pub ca: Option<PathBuf>,
    /// The caller's key, where the node asks for one.
    pub key: Option<CallKey>,
    /// What the caller says; mono, in [-1, 1], at [`Recording::rate_hz`].
    pub recording: Recording,
    /// The assistant asked for; `None` is the region's first.
    pub assistant: Option<String>,
    /// The caller's country, two letters, where it is stated.
    pub country: Option<String>,
    /// The caller's position, where it is stated.
    pub location: Option<Location>,
    /// Send in real time, as a microphone does, and let the node find the end of the turn. Otherwise the recording is sent
    /// at once and committed, which measures the node without the waiting.
    pub real_time: bool,
    /// Whether the caller agrees to a transcript being stored.
    pub consent: bool,
}

/// The key that a node asks of its callers. Never prints.
#[derive(Clone)]
pub struct CallKey(Zeroizing<String>);

impl std::str::FromStr for CallKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let key = text.trim();
        // Anything else cannot stand in a header.
        if !key.is_empty() && key.bytes().all(|b| b.is_ascii_graphic()) {
            Ok(Self(Zeroizing::new(key.to_owned())))
        } else {
            Err("a key is one word of plain letters, digits and signs, as the node's operator gave it".into())
        }
    }
}

impl std::fmt::Debug for CallKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CallKey(..)")
    }
}

/// What a caller says.
#[derive(Clone)]
pub struct Recording {
    /// Mono samples in [-1, 1].
    pub samples: Vec<f32>,
    /// Samples per second.
    pub rate_hz: u32,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Recording({} samples at {} Hz)", self.samples.len(), self.rate_hz)
    }
}

impl Recording {
    /// Reads a WAV file.
    pub fn from_wav(path: &std::path::Path) -> Result<Self, WavError> {
        let rate_hz = Format::Pcm.rate_hz();
        Ok(Self { samples: wav::read(path, rate_hz)?, rate_hz })
    }
}

impl CallOptions {
    /// A call in real time with nothing special about it.
    pub fn new(url: impl Into<String>, recording: Recording) -> Self {
        Self {
            url: url.into(),
            ca: None,
            key: None,
            recording,
            assistant: None,
            country: None,
            location: None,
            real_time: true,
            consent: false,
        }
    }
}

/// What came of a call. The words are the caller's own, shown to the caller; they are not logged.
#[derive(Debug, Clone, Default, Serialize)]
pub struct CallOutcome {
    /// What the node understood.
    pub transcript: String,
    /// What it answered.
    pub answer: String,
    /// How the answer ended: `completed`, `cancelled`, `failed` or `incomplete`.
    pub status: String,
    /// Where it was answered.
    pub answered_at: AnsweredAt,
    /// Where the time went, as the node measured it.
    pub ledger: Option<Ledger>,
    /// From the last sample of the recording that was sent, to the first audio that came back, as the caller saw it.
    pub seen_first_audio_ms: Option<u64>,
    /// Whether the caller was handed to a person.
    pub handed_over: bool,
    /// The answer: 24 kHz mono in [-1, 1].
    #[serde(skip)]
    pub audio: Vec<f32>,
}

/// Where a call was answered.
#[derive(Debug, Clone, Default, Serialize)]
pub struct AnsweredAt {
    /// The region.
    pub region: Option<String>,
    /// The law it stands under.
    pub jurisdiction: Option<String>,
    /// The node.
    pub node: Option<String>,
    /// The assistant.
    pub assistant: Option<String>,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The recording is of no use.
    #[error(transparent)]
    Wav(#[from] WavError),
    /// The address is none.
    #[error("`{0}` is not the address of a node; use one such as ws://127.0.0.1:7700")]
    Address(String),
    /// A key may not cross a network that others can read.
    #[error("the caller's key would go to `{0}` in the clear; use wss://")]
    KeyInTheClear(String),
    /// No authority can be trusted.
    #[error("{0}")]
    Authority(String),
    /// The node's certificate is not to be trusted.
    #[error(
        "the node at {url} cannot be trusted: {reason}; if its certificate comes from an authority of your own, name that with --ca FILE"
    )]
    Untrusted {
        /// The address.
        url: String,
        /// What is wrong with the certificate.
        reason: String,
    },
    /// Nobody answers there.
    #[error("no node answers at {url}: {reason}; is it running? (`edge-agent status`)")]
    Unreachable {
        /// The address.
        url: String,
        /// What the system said.
        reason: String,
    },
    /// The node did not take the call.
    #[error("the node refused the call ({status}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The node's words.
        message: String,
    },
    /// The connection ended in the middle.
    #[error("the call was cut off: {0}; call again")]
    CutOff(String),
    /// The node reported an error.
    #[error("the node reported an error ({code}): {message}")]
    Node {
        /// Its code.
        code: String,
        /// Its words.
        message: String,
    },
    /// The node found no turn in the recording.
    #[error("the node heard no speech in the recording; is it silent, or very quiet?")]
    NothingHeard,
    /// The node went silent.
    #[error("the node did not answer within {} s; look at its log, or try another node", SILENT_NODE_MAX.as_secs())]
    Silent,
}

/// Places a call: one recording, one answer.
pub async fn place_call(options: CallOptions) -> Result<CallOutcome, CallError> {
    let rate_hz = Format::Pcm.rate_hz();
    let recording = resample(&options.recording.samples, options.recording.rate_hz, rate_hz)
        .map_err(|e| CallError::Address(e.to_string()))?;
    let socket = connect::connect(&options).await?;
    let (mut send, mut receive) = socket.split();
    let mut call = Caller::default();

    // `turn_detection: null` leaves the end of the turn to us.
    let mut input = json!({ "format": { "type": "audio/pcm", "rate": rate_hz } });
    if !options.real_time {
        input["turn_detection"] = Value::Null;
    }
    let session = json!({
        "type": "realtime",
        "audio": { "input": input, "output": { "format": { "type": "audio/pcm", "rate": rate_hz } } },
        "nearfield": { "consent": options.consent },
    });
    let text = |event: Value| Message::Text(event.to_string().into());
    let cut_off = |e: tungstenite::Error| CallError::CutOff(e.to_string());
    send.send(text(json!({ "type": "session.update", "session": session }))).await.map_err(cut_off)?;

    let per_chunk = (rate_hz as u128 * CHUNK.as_millis() / 1000) as usize;
    let mut chunks = recording.chunks(per_chunk);
    let silence = vec![0.0f32; per_chunk];
    let append = |samples: &[f32]| {
        let audio = base64::engine::general_purpose::STANDARD.encode(Format::Pcm.encode(samples));
        text(json!({ "type": "input_audio_buffer.append", "audio": audio }))
    };
    if !options.real_time {
        for chunk in chunks.by_ref() {
            send.send(append(chunk)).await.map_err(cut_off)?;
        }
        call.sent_all = Some(Instant::now());
        send.send(text(json!({ "type": "input_audio_buffer.commit" }))).await.map_err(cut_off)?;
        send.send(text(json!({ "type": "response.create" }))).await.map_err(cut_off)?;
    }
    let mut clock = tokio::time::interval(CHUNK);
    let mut last_heard = Instant::now();
    loop {
        tokio::select! {
            _ = clock.tick(), if options.real_time => {
                // A microphone does not stop when its owner does.
                let chunk = chunks.next();
                if chunk.is_none() && call.sent_all.is_none() {
                    call.sent_all = Some(Instant::now());
                }
                send.send(append(chunk.unwrap_or(&silence))).await.map_err(cut_off)?;
                if call.is_complete() {
                    break;
                }
                if call.sent_all.is_some_and(|at| at.elapsed() > SILENCE_MAX) && !call.was_heard {
                    return Err(CallError::NothingHeard);
                }
            }
            message = receive.next() => {
                last_heard = Instant::now();
                match message {
                    Some(Ok(Message::Text(event))) => {
                        let event: Value = serde_json::from_str(&event).map_err(|e| CallError::CutOff(e.to_string()))?;
                        if call.take(&event)? {
                            break;
                        }
                    }
                    Some(Ok(Message::Close(Some(frame)))) => return Err(CallError::CutOff(frame.reason.to_string())),
                    Some(Ok(Message::Close(None))) | None => {
                        return Err(CallError::CutOff("the node closed the connection".into()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(e)) => return Err(cut_off(e)),
                }
            }
            () = tokio::time::sleep_until(last_heard + SILENT_NODE_MAX) => return Err(CallError::Silent),
        }
    }
    // The outcome is complete; a goodbye that does not arrive changes nothing.
    let _gone = send.send(Message::Close(None)).await;
    Ok(call.outcome)
}

/// The call as the caller sees it.
#[derive(Default)]
struct Caller {
    outcome: CallOutcome,
    sent_all: Option<Instant>,
    was_heard: bool,
    response: Option<String>,
    /// Whether the latest answer has ended, and nothing was said after it.
    answered: bool,
}

impl Caller {
    /// All was said and answered. A recording may end in silence that is longer than its answer, or go on after it.
    fn is_complete(&self) -> bool {
        self.answered && self.sent_all.is_some()
    }

    /// Takes an event; says whether the call is complete.
    fn take(&mut self, event: &Value) -> Result<bool, CallError> {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let out = &mut self.outcome;
        match event["type"].as_str().unwrap_or_default() {
            "session.created" => {
                let place = &event["session"]["nearfield"];
                out.answered_at = AnsweredAt {
                    region: text(&place["region"]),
                    jurisdiction: text(&place["jurisdiction"]),
                    node: text(&place["node"]),
                    assistant: text(&place["assistant"]),
                };
            }
            "input_audio_buffer.speech_started" | "input_audio_buffer.committed" => {
                self.was_heard = true;
                self.answered = false;
            }
            "conversation.item.input_audio_transcription.completed" => {
                let words = event["transcript"].as_str().unwrap_or_default();
                // Sound without words is no turn: nothing will answer it. A full stop is what a recogniser hears in a cough.
                let said_something = words.chars().any(char::is_alphanumeric);
                let words = if said_something { words } else { "" };
                self.was_heard = said_something || !out.transcript.is_empty() || self.response.is_some();
                if said_something && !out.transcript.is_empty() {
                    out.transcript.push(' ');
                }
                out.transcript.push_str(words);
            }
            "conversation.item.input_audio_transcription.failed" => return Err(node_error(&event["error"])),
            // An answer to the first half of what was said, cut off by the second, is not the answer.
            "response.created" => {
                self.response = text(&event["response"]["id"]);
                out.answer.clear();
                out.audio.clear();
                out.seen_first_audio_ms = None;
            }
            "response.output_audio_transcript.delta" => {
                out.answer.push_str(event["delta"].as_str().unwrap_or_default())
            }
            "response.output_audio.delta" => {
                if out.seen_first_audio_ms.is_none() {
                    out.seen_first_audio_ms = self.sent_all.map(|at| at.elapsed().as_millis() as u64);
                }
                let bytes =
                    base64::engine::general_purpose::STANDARD.decode(event["delta"].as_str().unwrap_or_default());
                let samples = bytes.ok().and_then(|bytes| Format::Pcm.decode(&bytes).ok());
                out.audio.extend(samples.ok_or_else(|| CallError::CutOff("audio arrived that is not PCM16".into()))?);
            }
            "nearfield.handed_over" => out.handed_over = true,
            "response.done" if text(&event["response"]["id"]) == self.response => {
                let response = &event["response"];
                out.status = text(&response["status"]).unwrap_or_default();
                out.ledger = serde_json::from_value(response["nearfield"]["ledger"].clone()).ok();
                if out.status == "failed" {
                    return Err(node_error(&response["status_details"]["error"]));
                }
                // Of a recording with a pause, the rest is still to be said.
                self.answered = out.status != "cancelled";
                return Ok(self.is_complete());
            }
            "error" => return Err(node_error(&event["error"])),
            _ => {}
        }
        Ok(false)
    }
}

fn node_error(error: &Value) -> CallError {
    let text = |field: &str| error[field].as_str().unwrap_or("unknown").to_owned();
    CallError::Node { code: text("code"), message: text("message") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_half_a_question_is_replaced_by_the_answer_to_all_of_it() {
        let mut caller = Caller { sent_all: Some(Instant::now()), ..Caller::default() };
        let event = |kind: &str, id: &str| json!({"type": kind, "response": {"id": id, "status": "cancelled"}});
        let said = |words: &str| json!({"type": "response.output_audio_transcript.delta", "delta": words});
        let words =
            |words: &str| json!({"type": "conversation.item.input_audio_transcription.completed", "transcript": words});
        let mut take = |event: &Value| caller.take(event).expect("fine");
        take(&words("when are you"));
        take(&event("response.created", "a"));
        take(&said("half"));
        assert!(!take(&event("response.done", "a")), "a cancelled answer is not the end");
        take(&words("open"));
        take(&event("response.created", "b"));
        take(&said("whole"));
        assert!(take(&json!({"type": "response.done", "response": {"id": "b", "status": "completed"}})));
        assert_eq!(
            (caller.outcome.transcript.as_str(), caller.outcome.answer.as_str()),
            ("when are you open", "whole")
        );
    }
}
