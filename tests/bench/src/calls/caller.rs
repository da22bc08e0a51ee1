//! One caller: speaks, listens, sometimes interrupts, and writes down when what happened.
//!
//! It sends 20 ms of sound every 20 ms, speech or silence, as a microphone does, and knows when its own speech really ended. All
//! times are what a caller sees, network and all.

use super::{
    playback::Playback,
    script::{CHUNK, Script, Spoken},
};
use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::MissedTickBehavior};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{self, Message, Utf8Bytes},
};

/// How long a caller waits for an answer before it gives the turn up.
const PATIENCE: Duration = Duration::from_secs(15);
/// How much of an answer an interrupting caller hears before it speaks.
const HEARD_BEFORE_INTERRUPTING: Duration = Duration::from_millis(600);
/// Every so many turns a caller interrupts the answer.
const INTERRUPT_EVERY: usize = 4;
/// Tokens of an answer: a sentence or two.
const ANSWER_TOKENS: usize = 48;
/// Bytes a second of the answers' audio.
const ANSWER_BYTES_PER_SECOND: u64 = 48_000;

/// Who finds the end of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TurnDetection {
    /// The node, by a silence of 500 ms.
    ServerVad,
    /// The node, by its turn model.
    SemanticVad,
    /// The caller: commits when its speech has ended.
    Commit,
}

/// What one caller does.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The node's WebSocket address.
    pub url: String,
    /// When the caller hangs up after the turn in progress.
    pub until: Instant,
    /// At most so many turns.
    pub turns_max: usize,
    /// Which kind of question comes first, and all randomness.
    pub seed: u64,
    /// Who finds the end of a turn.
    pub detection: TurnDetection,
    /// Whether some answers are interrupted.
    pub interrupts: bool,
}

/// What a turn was answered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AnsweredBy {
    /// A cached answer.
    KnownQuestion,
    /// The language model.
    Model,
    /// Something else: no words were heard, a greeting.
    #[serde(other)]
    Other,
}

/// One turn, as the caller saw it. What did not happen is `None`.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// What it was answered by.
    pub answered_by: Option<AnsweredBy>,
    /// From the commit to the final transcript.
    pub commit_to_transcript: Option<Duration>,
    /// From the commit to the first audio.
    pub commit_to_audio: Option<Duration>,
    /// From the true end of speech to the first audio.
    pub speech_end_to_audio: Option<Duration>,
    /// Silences inside of the answer.
    pub gaps: Vec<Duration>,
    /// For an answer that was interrupted: from when the node said that it hears speech, to the last audio it still sent.
    pub still_spoke: Option<Duration>,
    /// For an answer that was interrupted: from when the caller began to speak.
    pub barge_in: Option<Duration>,
    /// Why there is no answer.
    pub failed: Option<String>,
}

/// What came of a caller.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Turns that were answered or failed.
    pub turns: Vec<Turn>,
    /// How often the node refused the call.
    pub refusals: usize,
    /// Whether the call was let in.
    pub admitted: bool,
    /// Why the call ended before its time.
    pub cut_off: Option<String>,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Places a call, again and again where it is refused, until the plan's end.
pub async fn call(plan: Plan, script: Arc<Script>) -> Outcome {
    let mut outcome = Outcome::default();
    while Instant::now() < plan.until {
        match connect_async(plan.url.as_str()).await {
            Ok((socket, _)) => {
                outcome.admitted = true;
                let mut talk = Talk::new(&plan, &script);
                let ended = talk.run(socket).await;
                outcome.turns = talk.turns;
                outcome.cut_off = ended.err();
                return outcome;
            }
            Err(tungstenite::Error::Http(response)) => {
                outcome.refusals += 1;
                let header = response.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
                let wait = Duration::from_secs(header.unwrap_or(1)).min(Duration::from_secs(10));
                tokio::time::sleep_until(plan.until.min(Instant::now() + wait).into()).await;
            }
            Err(e) => {
                outcome.cut_off = Some(e.to_string());
                return outcome;
            }
        }
    }
    outcome
}

enum Phase {
    /// Says nothing until then.
    Pausing(Instant),
    /// Has sent so many messages of what it says.
    Speaking(usize),
    /// Has spoken; no answer yet.
    Waiting,
    /// Hears the answer.
    Listening,
}

struct Talk<'a> {
    plan: &'a Plan,
    script: &'a Script,
    phase: Phase,
    /// What is or was said last, and when its first message went out.
    saying: Option<(&'a Spoken, Instant)>,
    committed: Option<Instant>,
    playback: Option<Playback>,
    /// The answer that plays.
    response: Option<String>,
    /// Whether all of it has come.
    done: bool,
    /// An answer that is over for this caller; what still comes of it is not heard.
    ignored: Option<String>,
    /// While interrupting: when the node said that it hears speech.
    heard_speech: Option<Instant>,
    interrupting: bool,
    turn: Turn,
    turns: Vec<Turn>,
    begun: usize,
    random: u64,
}

impl<'a> Talk<'a> {
    fn new(plan: &'a Plan, script: &'a Script) -> Self {
        let random = plan.seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let mut talk = Self {
            plan,
            script,
            phase: Phase::Pausing(Instant::now()),
            saying: None,
            committed: None,
            playback: None,
            response: None,
            done: false,
            ignored: None,
            heard_speech: None,
            interrupting: false,
            turn: Turn::default(),
            turns: Vec::new(),
            begun: 0,
            random,
        };
        // Callers do not all begin at once.
        let pause = talk.pause() * 3;
        talk.phase = Phase::Pausing(Instant::now() + pause);
        talk
    }

    /// 0.3 to 1.3 s, by xorshift.
    fn pause(&mut self) -> Duration {
        Duration::from_millis(300 + self.draw() % 1_000)
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random >> 11
    }

    async fn run(&mut self, socket: Socket) -> Result<(), String> {
        let (mut send, mut receive) = socket.split();
        let detection = match self.plan.detection {
            TurnDetection::ServerVad => json!({ "type": "server_vad", "silence_duration_ms": 500 }),
            TurnDetection::SemanticVad => json!({ "type": "semantic_vad" }),
            TurnDetection::Commit => Value::Null,
        };
        let format = json!({ "type": "audio/pcm", "rate": 24_000 });
        let update = json!({ "type": "session.update", "session": {
            "type": "realtime",
            "max_output_tokens": ANSWER_TOKENS,
            "audio": { "input": { "format": format, "turn_detection": detection }, "output": { "format": format } },
        }});
        let lost = |e: tungstenite::Error| e.to_string();
        send.send(Message::Text(update.to_string().into())).await.map_err(lost)?;
        let mut clock = tokio::time::interval(CHUNK);
        // A machine that is late sends what it owes at once, as a sound card's buffer would.
        clock.set_missed_tick_behavior(MissedTickBehavior::Burst);
        loop {
            tokio::select! {
                _ = clock.tick() => {
                    let now = Instant::now();
                    if self.is_over(now) {
                        let _gone = send.send(Message::Close(None)).await;
                        return Ok(());
                    }
                    if let Some(message) = self.next_message(now) {
                        send.feed(Message::Text(message)).await.map_err(lost)?;
                    }
                    if self.says_commit() {
                        for kind in ["input_audio_buffer.commit", "response.create"] {
                            send.feed(Message::Text(json!({ "type": kind }).to_string().into())).await.map_err(lost)?;
                        }
                        self.committed = Some(Instant::now());
                    }
                    send.flush().await.map_err(lost)?;
                }
                message = receive.next() => match message {
                    Some(Ok(Message::Text(event))) => {
                        let event: Value = serde_json::from_str(&event).map_err(|e| e.to_string())?;
                        self.take(&event, Instant::now());
                    }
                    Some(Ok(Message::Close(frame))) => {
                        return Err(frame.map_or_else(|| "closed".to_owned(), |f| f.reason.to_string()));
                    }
                    Some(Ok(_)) => {}
                    Some(Err(e)) => return Err(lost(e)),
                    None => return Err("the connection ended".to_owned()),
                },
            }
        }
    }

    fn is_over(&self, now: Instant) -> bool {
        matches!(self.phase, Phase::Pausing(_)) && (now >= self.plan.until || self.turns.len() >= self.plan.turns_max)
    }

    /// What the microphone sends now. Who commits holds a button while speaking; to the others the line is always open.
    fn next_message(&mut self, now: Instant) -> Option<Utf8Bytes> {
        match self.phase {
            Phase::Pausing(until) if now >= until => self.begin_to_speak(now),
            Phase::Waiting if self.waited(now) > PATIENCE => self.give_up(now, "no answer came"),
            Phase::Listening => self.listen_on(now),
            _ => {}
        }
        let (Phase::Speaking(sent), Some((spoken, _))) = (&mut self.phase, self.saying) else {
            return (self.plan.detection != TurnDetection::Commit).then(|| self.script.silence.clone());
        };
        let message = spoken.messages[*sent].clone();
        *sent += 1;
        if *sent == spoken.messages.len() && self.plan.detection != TurnDetection::Commit {
            self.phase = if self.playback.is_some() && !self.interrupting { Phase::Listening } else { Phase::Waiting };
        }
        Some(message)
    }

    /// Whether the last word has just been sent and the turn is ours to end.
    fn says_commit(&mut self) -> bool {
        let all = self.saying.map_or(0, |(spoken, _)| spoken.messages.len());
        let commits =
            self.plan.detection == TurnDetection::Commit && matches!(self.phase, Phase::Speaking(n) if n == all);
        if commits {
            self.phase = Phase::Waiting;
        }
        commits
    }

    fn waited(&self, now: Instant) -> Duration {
        self.speech_end().map_or(Duration::ZERO, |end| now.saturating_duration_since(end))
    }

    fn speech_end(&self) -> Option<Instant> {
        self.saying.map(|(spoken, began)| began + spoken.speech_ends)
    }

    fn begin_to_speak(&mut self, now: Instant) {
        // Known and unknown questions in turns, from another one for every second caller.
        let known = (self.plan.seed as usize + self.begun).is_multiple_of(2);
        let all = if known { &self.script.known } else { &self.script.unknown };
        let at = self.draw() as usize % all.len();
        self.begun += 1;
        self.saying = Some((&all[at], now));
        self.committed = None;
        self.phase = Phase::Speaking(0);
    }

    fn listen_on(&mut self, now: Instant) {
        let Some(playback) = &self.playback else { return };
        let interrupts = self.plan.interrupts
            && self.plan.detection != TurnDetection::Commit
            && self.begun.is_multiple_of(INTERRUPT_EVERY);
        let heard = now.saturating_duration_since(playback.began());
        if interrupts && heard > HEARD_BEFORE_INTERRUPTING && playback.plays_until() > now + Duration::from_secs(1) {
            self.interrupting = true;
            self.heard_speech = None;
            self.begin_to_speak(now);
        } else if self.done && now >= playback.plays_until() {
            self.finish(now);
        }
    }

    /// The turn is over; the next one begins after a pause.
    fn finish(&mut self, now: Instant) {
        if let Some(playback) = self.playback.take() {
            self.turn.gaps = playback.gaps().to_vec();
        }
        self.turns.push(std::mem::take(&mut self.turn));
        self.ignored = self.response.take().or(self.ignored.take());
        self.done = false;
        let pause = self.pause();
        self.phase = Phase::Pausing(now + pause);
    }

    fn give_up(&mut self, now: Instant, why: &str) {
        self.turn.failed = Some(why.to_owned());
        self.interrupting = false;
        self.finish(now);
    }

    fn take(&mut self, event: &Value, now: Instant) {
        match event["type"].as_str().unwrap_or_default() {
            "input_audio_buffer.speech_started" if self.interrupting => {
                self.heard_speech.get_or_insert(now);
                if self.done {
                    // All of the answer was here before; only the caller's own loudspeaker is to be stopped.
                    self.interrupted();
                }
            }
            "input_audio_buffer.committed" if self.plan.detection != TurnDetection::Commit => {
                self.committed = Some(now)
            }
            "conversation.item.input_audio_transcription.completed" => {
                self.turn.commit_to_transcript = self.committed.map(|at| now.saturating_duration_since(at));
            }
            "response.output_audio.delta" => {
                let bytes = event["delta"].as_str().unwrap_or_default();
                let bytes = base64::engine::general_purpose::STANDARD.decode(bytes).map_or(0, |b| b.len() as u64);
                let length = Duration::from_micros(bytes * 1_000_000 / ANSWER_BYTES_PER_SECOND);
                let id = event["response_id"].as_str().unwrap_or_default();
                self.audio(id, length, now);
            }
            "response.done" => self.response_done(&event["response"], now),
            "error" => {
                let code = event["error"]["code"].as_str().unwrap_or("error").to_owned();
                self.give_up(now, &code);
            }
            _ => {}
        }
    }

    fn audio(&mut self, response: &str, length: Duration, now: Instant) {
        if let (Some(playback), true) = (&mut self.playback, self.response.as_deref() == Some(response)) {
            playback.more(now, length);
            return;
        }
        if self.ignored.as_deref() == Some(response) {
            return;
        }
        if matches!(self.phase, Phase::Pausing(_)) {
            // Too late: the caller has given that turn up.
            self.ignored = Some(response.to_owned());
            return;
        }
        self.response = Some(response.to_owned());
        self.playback = Some(Playback::begin(now, length));
        self.done = false;
        let since = |at: Option<Instant>| at.map(|at| now.saturating_duration_since(at));
        self.turn.commit_to_audio = since(self.committed);
        // Where the node answered before the speech was over, there is no such time.
        self.turn.speech_end_to_audio = since(self.speech_end().filter(|end| *end <= now));
        if matches!(self.phase, Phase::Waiting) {
            self.phase = Phase::Listening;
        }
    }

    fn response_done(&mut self, response: &Value, now: Instant) {
        let id = response["id"].as_str();
        let ours = id.is_some() && id == self.response.as_deref();
        let status = response["status"].as_str().unwrap_or_default();
        if status == "failed" {
            let why = response["status_details"]["error"]["code"].as_str().unwrap_or("failed").to_owned();
            return self.give_up(now, &why);
        }
        if !ours {
            // An answer without sound: cut before its first audio, or nothing was heard.
            return;
        }
        let by = serde_json::from_value(response["nearfield"]["ledger"]["answered_by"].clone());
        self.turn.answered_by = by.ok();
        if self.interrupting {
            self.interrupted();
        } else if status == "cancelled" {
            // The node took a pause for the end and was spoken over: its next answer is the one to this turn.
            self.playback = None;
            self.ignored = self.response.take();
            if matches!(self.phase, Phase::Listening) {
                self.phase = Phase::Waiting;
            }
        } else {
            self.done = true;
        }
    }

    /// The answer that was talked over has ended; what is being said is the next turn.
    fn interrupted(&mut self) {
        self.interrupting = false;
        if let (Some(playback), Some(heard)) = (&self.playback, self.heard_speech) {
            let last = playback.last_arrival();
            self.turn.still_spoke = Some(last.saturating_duration_since(heard));
            let onset = self.saying.map(|(spoken, began)| began + spoken.speech_begins);
            self.turn.barge_in = onset.map(|onset| heard.max(last).saturating_duration_since(onset));
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Waiting);
        let committed = self.committed;
        self.finish(Instant::now());
        self.committed = committed;
        self.phase = if matches!(phase, Phase::Speaking(_)) { phase } else { Phase::Waiting };
    }
}
