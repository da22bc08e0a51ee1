//! The owner of one call: one task that holds the conversation, takes what comes in, and acts on what the conversation wants.
//!
//! Each turn of its loop waits for one thing (a message, a report, time, the node), then applies it without waiting.
//! Writing to the socket is another task's, behind the [`Outbox`], so a client that does not read never stops the loop.

use super::{
    client_event::{self, ClientEvent},
    codec::Format,
    ear::{self, Ear},
    heard::Heard,
    jobs::{Jobs, KeepIn, Phrase, Report, fault},
    outbox::{Outbox, Overflow},
    record::{self, Figures},
    resample::Resampler,
    server_event::{self, DELTA_MS, Usage, Wire},
    session::{Session, WireError},
};
use crate::{
    assistants::{Assistants, Desk, PhraseKey, digest},
    calls::CallPermit,
    node::{Services, Serving},
    speech::{SPOKEN_HZ, VadSlot},
};
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use nearfield_dialogue::{
    call::{BUFFER_MAX, Call},
    events::{Event, Fault, Input, Output, Refusal},
    ids::{ItemId, ResponseId},
};
use nearfield_shared::artefact::Stage;
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;

/// A client that sends no event for this long is not in a conversation any more.
pub const IDLE_MAX: Duration = Duration::from_secs(600);

/// The longest call, as in the OpenAI API.
pub const CALL_MAX: Duration = Duration::from_secs(3_600);

/// How often a silent connection is probed, and after how much silence it is dead.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(75));

/// A greeting waits this long for the client's first event, which may change the audio format.
const GREET_AFTER: Duration = Duration::from_millis(700);

/// How long the last events and the close frame may take to reach a client.
const GOODBYE: Duration = Duration::from_secs(2);

/// Everything a call begins with.
pub struct Start {
    /// The node.
    pub services: Services,
    /// What was served when the call came in.
    pub serving: Arc<Serving>,
    /// All assistants, for their cache.
    pub assistants: Assistants,
    /// The assistant that takes the call.
    pub desk: Arc<Desk>,
    /// The place in the node, given up when the call ends.
    pub permit: CallPermit,
    /// The detector's slot.
    pub slot: Option<Box<dyn VadSlot>>,
    /// The name in `?model=`.
    pub model: String,
    /// Whether the greeting is wanted.
    pub greet: bool,
}

/// Why a call ended, as the close frame says it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Goodbye {
    code: u16,
    reason: &'static str,
}

const NORMAL: u16 = 1000;
const GOING_AWAY: u16 = 1001;
const UNSUPPORTED: u16 = 1003;
const POLICY: u16 = 1008;
const TOO_BIG: u16 = 1009;

struct Line {
    start: Start,
    id: Uuid,
    began: Instant,
    session: Session,
    call: Call,
    heard: Heard,
    to_heard: Resampler,
    jobs: Jobs,
    ear: Ear,
    outbox: Arc<Outbox>,
    events_sent: u64,
    usage: Usage,
    figures: Figures,
    greet_at: Option<Instant>,
    last_event: Instant,
    last_frame: Instant,
    last_ping: Instant,
    draining: bool,
}

enum Action {
    Frame(Option<Result<Message, axum::Error>>),
    Report(Option<Report>),
    Time,
    Drain,
    Cut,
}

/// Holds a call on a socket until either side ends it.
pub async fn hold(socket: WebSocket, start: Start) {
    let (sink, mut frames) = socket.split();
    let outbox = Arc::new(Outbox::default());
    let (pings, ping_requests) = tokio::sync::mpsc::channel(1);
    let mut writer = tokio::spawn(write(sink, Arc::clone(&outbox), ping_requests));
    let (mut line, mut reports) = Line::new(start, Arc::clone(&outbox));
    let (draining, cut) = (line.start.permit.draining().clone(), line.start.permit.cut().clone());
    let goodbye = 'call: {
        if let Err(overflow) = line.open() {
            break 'call line.too_slow(overflow);
        }
        loop {
            let wake = tokio::time::Instant::from_std(line.wakes_at());
            let action = tokio::select! {
                report = reports.recv() => Action::Report(report),
                frame = frames.next() => Action::Frame(frame),
                () = tokio::time::sleep_until(wake) => Action::Time,
                () = draining.cancelled(), if !line.draining => Action::Drain,
                () = cut.cancelled() => Action::Cut,
            };
            if line.wants_ping() {
                // A probe that is still waiting will do.
                let _waiting = pings.try_send(());
            }
            match line.apply(action) {
                Ok(()) => {}
                Err(goodbye) => break 'call goodbye,
            }
        }
    };
    outbox.close();
    if goodbye.as_ref().is_some_and(|goodbye| goodbye.code == POLICY) {
        // Only the reason is still worth sending to a client that is this far behind.
        outbox.clear();
    }
    line.end(goodbye.as_ref()).await;
    // A client that still reads gets everything and the reason; one that does not is left.
    let last = async {
        let Ok(Some(mut sink)) = (&mut writer).await else { return };
        match &goodbye {
            Some(goodbye) => {
                let close = CloseFrame { code: goodbye.code, reason: goodbye.reason.into() };
                let _left = sink.send(Message::Close(Some(close))).await;
                // The client's own close frame ends the connection cleanly.
                while let Some(Ok(_)) = frames.next().await {}
            }
            // The client said goodbye, and waits for it to be answered.
            None => drop(sink.close().await),
        }
    };
    if tokio::time::timeout(GOODBYE, last).await.is_err() {
        writer.abort();
    }
}

/// Sends what is in the outbox; gives the socket back when the outbox is closed and empty, `None` when it broke.
async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    outbox: Arc<Outbox>,
    mut pings: tokio::sync::mpsc::Receiver<()>,
) -> Option<SplitSink<WebSocket, Message>> {
    loop {
        let message = tokio::select! {
            text = outbox.next() => match text {
                Some(text) => Message::Text(text.into()),
                None => return Some(sink),
            },
            Some(()) = pings.recv() => Message::Ping(Default::default()),
        };
        sink.send(message).await.ok()?;
    }
}

impl Line {
    fn new(mut start: Start, outbox: Arc<Outbox>) -> (Self, tokio::sync::mpsc::Receiver<Report>) {
        let id = Uuid::new_v4();
        let assistant = &start.desk.assistant;
        let session = Session::new(&start.model, &assistant.instructions, &assistant.voice);
        let greeting = assistant.greeting.clone().filter(|_| start.greet);
        let seed: String = id.simple().to_string().chars().take(16).collect();
        let call = Call::new(session.settings(greeting.clone()), &seed);
        let (jobs, reports) = Jobs::new(Arc::clone(&start.services.speech), Arc::clone(&start.desk));
        let now = Instant::now();
        let ear = Ear::new(start.slot.take());
        let line = Self {
            id,
            began: now,
            to_heard: resampler(session.input),
            session,
            call,
            heard: Heard::default(),
            jobs,
            ear,
            outbox,
            events_sent: 0,
            usage: Usage::default(),
            figures: Figures::default(),
            greet_at: greeting.is_some().then(|| now + GREET_AFTER),
            last_event: now,
            last_frame: now,
            last_ping: now,
            draining: false,
            start,
        };
        (line, reports)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn wire(&self) -> Wire {
        Wire {
            conversation: format!("conv_{}", self.id.simple()),
            output: self.session.output,
            voice: self.session.voice.clone(),
        }
    }

    fn open(&mut self) -> Result<(), Overflow> {
        let shown = self.show_session();
        self.send(json!({ "type": "session.created", "session": shown }))
    }

    fn show_session(&self) -> Value {
        let serving = &self.start.serving;
        let transcript = match record::may_store(serving, self.session.consent) {
            Ok(()) => json!({ "stored": true }),
            Err(reason) => json!({ "stored": false, "reason": reason }),
        };
        let nearfield = json!({
            "region": serving.region,
            "jurisdiction": serving.jurisdiction,
            "node": &*self.start.services.node,
            "assistant": self.start.desk.assistant.name,
            "generation": serving.generation,
            "consent": self.session.consent,
            "transcript": transcript,
        });
        self.session.show(&format!("sess_{}", self.id.simple()), nearfield)
    }

    /// When the loop must look again although nothing happened.
    fn wakes_at(&self) -> Instant {
        let deadlines = [
            self.call.deadline().map(|at| self.began + at),
            self.call.listens_from().and_then(|_| self.ear.wakes_at()),
            self.greet_at,
            Some(self.last_event + IDLE_MAX),
            Some(self.last_frame.max(self.last_ping) + PING.0),
            Some(self.began + CALL_MAX),
            // While the last answer is still heard, a drain waits for its end.
            self.draining.then(|| Instant::now() + Duration::from_millis(200)),
        ];
        deadlines.into_iter().flatten().min().unwrap_or(self.began + CALL_MAX)
    }

    fn wants_ping(&mut self) -> bool {
        let now = Instant::now();
        let due = now >= self.last_frame.max(self.last_ping) + PING.0;
        if due {
            self.last_ping = now;
        }
        due
    }

    fn apply(&mut self, action: Action) -> Result<(), Option<Goodbye>> {
        let done = match action {
            Action::Frame(frame) => self.frame(frame)?,
            Action::Report(Some(report)) => self.report(report),
            // The channel cannot close: the jobs hold a sender.
            Action::Report(None) => Ok(()),
            Action::Time => {
                self.call.handle(self.now(), Input::Tick);
                self.pump()
            }
            Action::Drain => {
                self.draining = true;
                Ok(())
            }
            Action::Cut => return Err(bye(GOING_AWAY, "this node is going down; ask for another one at /v1/route")),
        };
        done.map_err(|overflow| self.too_slow(overflow))?;
        self.jobs.tidy();
        let now = Instant::now();
        if self.greet_at.is_some_and(|at| at <= now) {
            self.greet().map_err(|overflow| self.too_slow(overflow))?;
        }
        if self.draining && !self.call.is_busy(self.now()) {
            return Err(bye(GOING_AWAY, "this node is going down; ask for another one at /v1/route"));
        }
        if now >= self.last_event + IDLE_MAX {
            return Err(bye(NORMAL, "no event for ten minutes; call again"));
        }
        if now >= self.last_frame + PING.1 {
            return Err(bye(NORMAL, "the connection is dead"));
        }
        if now >= self.began + CALL_MAX {
            return Err(bye(NORMAL, "a call lasts an hour at most; call again"));
        }
        Ok(())
    }

    fn too_slow(&self, overflow: Overflow) -> Option<Goodbye> {
        tracing::warn!(call = %self.id, "{overflow}; the call is closed");
        bye(POLICY, "you read too slowly: too much waits for you; read while you send")
    }

    fn frame(&mut self, frame: Option<Result<Message, axum::Error>>) -> Result<Result<(), Overflow>, Option<Goodbye>> {
        self.last_frame = Instant::now();
        match frame {
            None => Err(None),
            Some(Err(error)) => Err(self.broken(&error)),
            Some(Ok(Message::Close(_))) => Err(None),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Ok(())),
            Some(Ok(Message::Binary(_))) => {
                let error = WireError {
                    code: "invalid_message",
                    message: "events are JSON in text messages; send audio as base64 in input_audio_buffer.append"
                        .into(),
                    param: None,
                };
                let told = self.refuse(&error, None);
                if told.is_err() {
                    Ok(told)
                } else {
                    Err(bye(UNSUPPORTED, "binary messages are not part of this protocol"))
                }
            }
            Some(Ok(Message::Text(text))) => {
                self.last_event = self.last_frame;
                Ok(self.client_event(&text))
            }
        }
    }

    /// The protocol itself was broken: say so where the connection still carries words.
    fn broken(&mut self, error: &axum::Error) -> Option<Goodbye> {
        let words = error.to_string();
        tracing::debug!(call = %self.id, %error, "a socket broke");
        if words.contains("too long") || words.contains("too large") || words.contains("Space limit") {
            let message =
                format!("a message may have {} bytes; send less audio in one event", super::MESSAGE_BYTES_MAX);
            let error = WireError { code: "message_too_large", message, param: None };
            let _overflow = self.refuse(&error, None);
            return bye(TOO_BIG, "message too large; send less audio in one event");
        }
        None
    }

    fn client_event(&mut self, text: &str) -> Result<(), Overflow> {
        let (event, event_id) = match client_event::parse(text) {
            Ok(parsed) => parsed,
            Err(refused) => return self.refuse(&refused.error, refused.event_id.as_deref()),
        };
        let now = self.now();
        let done = match event {
            ClientEvent::Append(bytes) => self.append(now, &bytes),
            ClientEvent::Update(update) => match self.session.merge(&update) {
                Ok(()) => return self.updated(now),
                Err(error) => Err(error),
            },
            ClientEvent::Retrieve(id) => match self.call.history().get(&id).map(server_event::show_item) {
                Some(item) => return self.send(json!({ "type": "conversation.item.retrieved", "item": item })),
                None => Err(WireError {
                    code: "item_not_found",
                    message: "no item with this id is in the conversation".into(),
                    param: Some("item_id".into()),
                }),
            },
            ClientEvent::Command(command) => {
                self.greet_at = None;
                self.call.command(now, command).map_err(refusal)
            }
        };
        match done {
            Ok(()) => self.pump(),
            Err(error) => self.refuse(&error, event_id.as_deref()),
        }
    }

    fn updated(&mut self, now: Duration) -> Result<(), Overflow> {
        let before = self.call.settings().clone();
        let settings = self.session.settings(before.greeting.clone());
        let listens = (before.turn_detection.is_some(), settings.turn_detection.is_some());
        if self.call.command(now, nearfield_dialogue::Command::Update(Box::new(settings))).is_err() {
            unreachable!("an update is never refused");
        }
        self.to_heard = resampler(self.session.input);
        if listens == (false, true) {
            // The detector starts again from here: what it missed would confuse its memory.
            self.ear.restart();
        }
        let shown = self.show_session();
        self.send(json!({ "type": "session.updated", "session": shown }))?;
        self.greet()?;
        self.pump()
    }

    fn greet(&mut self) -> Result<(), Overflow> {
        if self.greet_at.take().is_some() {
            self.call.greet(self.now());
        }
        self.pump()
    }

    fn append(&mut self, now: Duration, bytes: &[u8]) -> Result<(), WireError> {
        let samples = self.session.input.decode(bytes).map_err(|e| WireError::at("audio", e.to_string()))?;
        // Looked at before the work of converting: a client can send faster than anybody speaks.
        let seconds = samples.len() as u64 / u64::from(self.session.input.rate_hz());
        if seconds > BUFFER_MAX / 16_000 {
            return Err(WireError {
                code: "input_audio_buffer_full",
                message: format!("{seconds} s of audio in one event are more than the buffer holds; send less at once"),
                param: Some("audio".into()),
            });
        }
        let samples = self.to_heard.push(&samples);
        self.call.hear(now, samples.len() as u64).map_err(refusal)?;
        self.heard.push(&samples);
        if self.greet_at.is_some() {
            self.greet_at = Some(Instant::now());
        }
        Ok(())
    }

    fn report(&mut self, report: Report) -> Result<(), Overflow> {
        let now = self.now();
        self.call.note_backlog(self.start.services.speech.backlog());
        match report {
            Report::Input(input) => self.call.handle(now, input),
            Report::Vad { beginning, slot, frames } => {
                let noticed = self.ear.report(beginning, slot, frames, self.heard.end());
                self.noticed(noticed)?;
            }
        }
        self.pump()
    }

    /// Does what the conversation wants, until it wants nothing more.
    fn pump(&mut self) -> Result<(), Overflow> {
        loop {
            while let Some(output) = self.call.poll_output() {
                self.act(output)?;
            }
            let Some(from) = self.call.listens_from() else { return Ok(()) };
            let noticed = self.ear.listen(from, &self.heard, &mut self.jobs);
            if !self.noticed(noticed)? {
                return Ok(());
            }
        }
    }

    /// Passes on what the ear noticed; says whether the conversation heard of it.
    fn noticed(&mut self, noticed: ear::Noticed) -> Result<bool, Overflow> {
        if let Some(trouble) = &noticed.trouble {
            self.send(server_event::server_error(&fault(trouble)))?;
        }
        let Some(input) = noticed.input else { return Ok(false) };
        self.call.handle(self.now(), input);
        Ok(true)
    }

    fn act(&mut self, output: Output) -> Result<(), Overflow> {
        match output {
            Output::AskTurn { question, range, due } => {
                self.jobs.ask_turn(question, self.heard.part(range), self.began + due);
            }
            Output::Transcribe { item, attempt, range, partial } => {
                self.jobs.transcribe(item, attempt, self.heard.part(range), partial);
            }
            Output::GiveUpWords { item } => self.jobs.give_up(&item),
            // The detector never needs anything from before where the conversation listens.
            Output::Release { before } => self.heard.release(before),
            Output::Match { response, question } => self.jobs.find(response, question),
            Output::Generate { response, prompt, tokens_max, due } => {
                self.usage.prompt_chars = prompt.iter().map(|m| m.text.reveal().chars().count()).sum();
                self.jobs.generate(response, prompt, tokens_max, self.began + due);
            }
            Output::StopGenerating { response } => self.jobs.stop_generating(&response),
            Output::Speak { response, phrase, text, keep, due } => {
                let keep = keep.then(|| KeepIn {
                    assistants: self.start.assistants.clone(),
                    key: PhraseKey {
                        model: digest(&self.start.serving, Stage::Tts),
                        voice: self.session.voice.clone(),
                        speed_permille: (self.session.speed * 1000.0).round() as u32,
                        text: text.reveal().clone(),
                    },
                });
                let of = Phrase { response, phrase, due: self.began + due };
                self.jobs.speak(of, text, self.session.speed, keep);
            }
            Output::Audio { response, item, samples } => self.send_audio(&response, &item, &samples)?,
            Output::Cancel { response } => {
                self.jobs.cancel(&response);
                self.outbox.take_back(&response);
            }
            Output::Event(event) => self.tell(&event)?,
        }
        Ok(())
    }

    fn tell(&mut self, event: &Event) -> Result<(), Overflow> {
        self.figures.note(event);
        match event {
            Event::Transcribed { ms, .. } => {
                self.usage.heard_ms = self.usage.heard_ms.saturating_add(*ms);
                if self.session.transcription.is_none() {
                    return Ok(());
                }
            }
            Event::TranscriptionFailed { .. } if self.session.transcription.is_none() => return Ok(()),
            Event::ResponseEnded(ended) => {
                if let nearfield_dialogue::events::Status::Failed(Fault { code, message }) = &ended.status {
                    tracing::warn!(call = %self.id, code, message, "an answer failed");
                }
            }
            _ => {}
        }
        for shown in self.wire().events(event, self.usage) {
            self.send(shown)?;
        }
        match event {
            Event::ResponseCreated(_) => self.send_limits()?,
            Event::ResponseEnded(_) => self.usage = Usage::default(),
            _ => {}
        }
        Ok(())
    }

    /// `rate_limits.updated`: the calls that this node takes are the one limit there is.
    fn send_limits(&mut self) -> Result<(), Overflow> {
        let calls = &self.start.services.calls;
        let remaining = calls.calls_max().saturating_sub(calls.inside());
        self.send(json!({
            "type": "rate_limits.updated",
            "rate_limits": [
                { "name": "requests", "limit": calls.calls_max(), "remaining": remaining, "reset_seconds": 0.0 },
            ],
        }))
    }

    fn send_audio(&mut self, response: &ResponseId, item: &ItemId, samples: &[f32]) -> Result<(), Overflow> {
        let format = self.session.output;
        let samples = if format.rate_hz() == SPOKEN_HZ {
            samples.to_vec()
        } else {
            // Each phrase is converted whole: phrases are cut in silence, where nothing has to be carried over.
            super::resample::resample(samples, SPOKEN_HZ, format.rate_hz()).unwrap_or_default()
        };
        let per_delta = (format.rate_hz() * DELTA_MS / 1000) as usize;
        for chunk in samples.chunks(per_delta) {
            let base64 = base64::engine::general_purpose::STANDARD.encode(format.encode(chunk));
            let delta = server_event::audio_delta(response.as_str(), item, &base64);
            self.send_as(delta, Some(response.clone()))?;
        }
        Ok(())
    }

    fn refuse(&mut self, error: &WireError, client_event_id: Option<&str>) -> Result<(), Overflow> {
        self.send(server_event::error(error, client_event_id))
    }

    fn send(&mut self, event: Value) -> Result<(), Overflow> {
        self.send_as(event, None)
    }

    fn send_as(&mut self, mut event: Value, audio_of: Option<ResponseId>) -> Result<(), Overflow> {
        self.events_sent += 1;
        event["event_id"] = json!(format!("event_{}{:07}", &self.id.simple().to_string()[..16], self.events_sent));
        self.outbox.push(event.to_string(), audio_of)
    }

    /// The call is over: count it, and keep what may be kept.
    async fn end(self, goodbye: Option<&Goodbye>) {
        let now = self.now();
        // The caller hung up on us in the middle of an answer; being sent away is not leaving.
        let dropped = goodbye.is_none() && self.call.answering().is_some();
        let consent = self.session.consent;
        let history = self.call.history();
        let assistant = &self.start.desk.assistant.name;
        record::store(&self.start.services, &self.start.serving, self.id, assistant, consent, history).await;
        self.start.services.tally.add(&self.figures.of_call(now, dropped));
        tracing::debug!(call = %self.id, seconds = now.as_secs(), dropped, "a call ended");
    }
}

fn resampler(from: Format) -> Resampler {
    Resampler::new(from.rate_hz(), crate::speech::HEARD_HZ).expect("the three rates convert to 16 kHz")
}

fn bye(code: u16, reason: &'static str) -> Option<Goodbye> {
    Some(Goodbye { code, reason })
}

fn refusal(refusal: Refusal) -> WireError {
    WireError { code: refusal.code, message: refusal.message, param: refusal.param.map(str::to_owned) }
}
