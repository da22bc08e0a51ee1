//! A caller in a shell: sends a recording to a node, keeps the answer, says where it was answered and where the time went.
//!
//! It speaks the same WebSocket as everybody else, so that what it shows is what any client would get. In real time it sends
//! what a microphone would: 20 ms at a time, and silence after the recording, until the answer has ended.

pub mod wav;

use crate::media::{codec::Format, resample::resample};
use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _};
use nearfield_dialogue::ledger::Ledger;
use nearfield_shared::region::Location;
use serde::Serialize;
use serde_json::{Value, json};
use std::{path::PathBuf, time::Duration};
use tokio::{net::TcpStream, time::Instant};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};
use wav::WavError;

/// One audio message: 20 ms, what a microphone gives.
const CHUNK: Duration = Duration::from_millis(20);

/// Silence sent after the recording before the client gives up on the node noticing the end of the turn.
const SILENCE_MAX: Duration = Duration::from_secs(8);

/// A node that says nothing for this long after the turn will not answer any more.
const SILENT_NODE_MAX: Duration = Duration::from_secs(90);

/// How a call is placed.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// The node: `ws://` or `http://`, with or without the path `/v1/realtime`.
    pub url: String,
    /// The caller's key, where the node asks for one.
    pub key: Option<String>,
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
    let socket = connect(&options).await?;
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

async fn connect(options: &CallOptions) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, CallError> {
    let url = realtime_url(options)?;
    let mut request = url.as_str().into_client_request().map_err(|_| CallError::Address(options.url.clone()))?;
    if let Some(key) = &options.key {
        let value = format!("Bearer {key}").parse();
        let value = value.map_err(|_| CallError::Address("a key with characters that no header takes".into()))?;
        request.headers_mut().insert(tungstenite::http::header::AUTHORIZATION, value);
    }
    match connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let body: Value =
                serde_json::from_slice(response.body().as_deref().unwrap_or_default()).unwrap_or_default();
            let message = body["error"]["message"].as_str().unwrap_or("no reason was given").to_owned();
            Err(CallError::Refused { status: response.status().as_u16(), message })
        }
        Err(tungstenite::Error::Url(_)) => Err(CallError::Address(options.url.clone())),
        Err(e) => Err(CallError::Unreachable { url: options.url.clone(), reason: e.to_string() }),
    }
}

/// The WebSocket address of a call. `http` becomes `ws`; a node's base URL gets the path.
fn realtime_url(options: &CallOptions) -> Result<String, CallError> {
    let url = options.url.trim().trim_end_matches('/');
    let (scheme, rest) = url.split_once("://").ok_or_else(|| CallError::Address(url.to_owned()))?;
    let scheme = match scheme {
        "ws" | "http" => "ws",
        "wss" | "https" => "wss",
        _ => return Err(CallError::Address(url.to_owned())),
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let place = place.trim_end_matches('/');
    if place.is_empty() || place.starts_with('/') {
        return Err(CallError::Address(url.to_owned()));
    }
    let place = match place.split_once('/') {
        None => format!("{place}/v1/realtime"),
        Some((host, "v1")) => format!("{host}/v1/realtime"),
        Some(_) => place.to_owned(),
    };
    let own = [
        Some("greeting=off".to_owned()),
        options.assistant.as_ref().map(|name| format!("assistant={}", escape(name))),
        options.country.as_ref().map(|code| format!("country={}", escape(code))),
        options.location.map(|at| format!("latitude={}&longitude={}", at.latitude, at.longitude)),
    ];
    let query: Vec<String> =
        (!query.is_empty()).then(|| query.to_owned()).into_iter().chain(own.into_iter().flatten()).collect();
    Ok(format!("{scheme}://{place}?{}", query.join("&")))
}

/// Percent-encodes what is not plainly a letter, digit or `-._~`.
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
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

/// The command `edge-agent call`.
#[derive(Debug, clap::Args)]
pub struct CallArgs {
    /// The recording: a WAV file of any rate, mono or stereo.
    pub recording: PathBuf,
    /// The node, for example ws://127.0.0.1:7700.
    #[arg(long, value_name = "URL")]
    pub url: String,
    /// Where the answer goes, as a WAV file.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// The file that holds the caller's key, where the node asks for one.
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    /// The assistant that is wanted.
    #[arg(long)]
    pub assistant: Option<String>,
    /// The caller's country, two letters.
    #[arg(long, value_name = "CC")]
    pub country: Option<String>,
    /// The caller's position in degrees north and east, for example 52.52,13.40.
    #[arg(long, value_name = "LAT,LON", value_parser = position, allow_hyphen_values = true)]
    pub position: Option<Location>,
    /// Send the recording at once instead of in real time.
    #[arg(long)]
    pub fast: bool,
    /// Agree to a transcript being stored on the node.
    #[arg(long)]
    pub consent: bool,
    /// Print JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// Reads `LAT,LON`; the node checks that they are on the earth.
fn position(text: &str) -> Result<Location, String> {
    text.split_once(',')
        .and_then(|(north, east)| Some((north.trim().parse().ok()?, east.trim().parse().ok()?)))
        .map(|(latitude, longitude)| Location { latitude, longitude })
        .ok_or_else(|| format!("`{text}` is no position; degrees north and east are expected, for example 52.52,13.40"))
}

/// Runs `edge-agent call` and returns what to print.
pub async fn run(args: CallArgs) -> anyhow::Result<String> {
    let key = match &args.key_file {
        Some(file) => {
            let bytes = crate::secrets::read(file)?;
            Some(String::from_utf8(bytes.to_vec()).map_err(|_| anyhow::anyhow!("{} holds no text", file.display()))?)
        }
        None => None,
    };
    let mut options = CallOptions::new(&args.url, Recording::from_wav(&args.recording)?);
    options.key = key.map(|key| key.trim().to_owned());
    options.assistant = args.assistant;
    options.country = args.country;
    options.location = args.position;
    options.real_time = !args.fast;
    options.consent = args.consent;
    let outcome = place_call(options).await?;
    if let Some(out) = &args.out {
        wav::write(out, Format::Pcm.rate_hz(), &outcome.audio)?;
    }
    if args.json {
        return Ok(serde_json::to_string_pretty(&outcome)?);
    }
    let mut text = outcome.to_text();
    if let Some(out) = &args.out {
        text.push_str(&format!("\nthe answer as sound: {}\n", out.display()));
    }
    Ok(text)
}

impl CallOutcome {
    /// The outcome for a person: what was said, where, and how long it took.
    pub fn to_text(&self) -> String {
        let or_unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".into());
        let at = &self.answered_at;
        let mut lines = vec![
            format!("you said:     {}", self.transcript),
            format!("the answer:   {}", self.answer),
            format!(
                "answered by:  node {} in region {} (law: {}), assistant {}",
                or_unknown(&at.node),
                or_unknown(&at.region),
                or_unknown(&at.jurisdiction),
                or_unknown(&at.assistant)
            ),
        ];
        if self.status != "completed" {
            lines.push(format!("status:       {}", self.status));
        }
        if self.handed_over {
            lines.push("handed over:  to a person".into());
        }
        lines.push(String::new());
        lines.extend(self.ledger.iter().flat_map(ledger_lines));
        if let Some(ms) = self.seen_first_audio_ms {
            lines.push(format!("  {:<44} {ms:>6} ms", "last sample sent -> first audio, seen from here"));
        }
        lines.join("\n") + "\n"
    }
}

/// The ledger as lines: the two sums first, then the stages.
fn ledger_lines(ledger: &Ledger) -> Vec<String> {
    let source = ledger.answered_by.and_then(|by| serde_json::to_value(by).ok());
    let source = source.as_ref().and_then(Value::as_str).unwrap_or("nothing").replace('_', " ");
    let rows = [
        ("end of speech -> first audio", ledger.speech_end_to_first_audio_ms),
        ("commit -> first audio", ledger.commit_to_first_audio_ms),
        ("  end of speech noticed (silence, turn model)", ledger.endpoint_ms),
        ("  of that, the turn model", ledger.turn_model_ms),
        ("  transcript", ledger.transcribe_ms),
        ("  comparison with the known questions", ledger.match_ms),
        ("  first words of the model", ledger.first_text_ms),
        ("  first whole phrase", ledger.first_phrase_ms),
        ("  first phrase spoken", ledger.first_render_ms),
        ("thrown away (speculation)", Some(ledger.speculative_waste_ms)),
        ("whole answer", Some(ledger.total_ms)),
        ("audio made", Some(ledger.audio_ms)),
    ];
    let mut lines = vec![format!("where the time went (answered by: {source})")];
    lines.extend(rows.iter().filter_map(|(name, ms)| ms.map(|ms| format!("  {name:<48} {ms:>6} ms"))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(url: &str) -> CallOptions {
        CallOptions::new(url, Recording { samples: vec![], rate_hz: 24_000 })
    }

    #[test]
    fn an_address_becomes_that_of_a_call() {
        let check = |url: &str, expect: Option<&str>| {
            assert_eq!(realtime_url(&options(url)).ok().as_deref(), expect, "{url}");
        };
        check("ws://h:1", Some("ws://h:1/v1/realtime?greeting=off"));
        check("http://h:1/", Some("ws://h:1/v1/realtime?greeting=off"));
        check("https://h/v1", Some("wss://h/v1/realtime?greeting=off"));
        check("wss://h/v1/realtime?model=x", Some("wss://h/v1/realtime?model=x&greeting=off"));
        check("h:1", None);
        check("ftp://h", None);
        check("ws://", None);
        let stated = CallOptions {
            assistant: Some("a b&c".into()),
            country: Some("DE".into()),
            location: Some(Location { latitude: 52.5, longitude: -0.25 }),
            ..options("ws://h")
        };
        assert_eq!(
            realtime_url(&stated).ok().as_deref(),
            Some("ws://h/v1/realtime?greeting=off&assistant=a%20b%26c&country=DE&latitude=52.5&longitude=-0.25")
        );
    }

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
