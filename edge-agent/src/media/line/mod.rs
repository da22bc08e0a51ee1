//! The owner of one call: one task that holds the conversation, takes what comes in, and acts on what the conversation wants.
//!
//! Each turn of its loop waits for one thing (what arrives, a report, time, the node), then applies it without waiting. What
//! carries the call is behind [`super::transport`]; writing there is another task's, behind the
//! [`Outbox`](super::outbox::Outbox), so a client that does not read never stops the loop.

mod act;
mod client;

use super::{
    client_event::Dialect,
    ear::Ear,
    heard::Heard,
    jobs::{Jobs, Report},
    outbox::Overflow,
    record::{self, Figures},
    resample::Resampler,
    server_event::Wire,
    session::Session,
    telephony::PutThrough,
    transport::{Arrived, Goodbye, Incoming, Outgoing, code},
};
use crate::{
    assistants::{Assistants, Desk},
    calls::CallPermit,
    node::{Services, Serving},
    speech::VadSlot,
};
use client::resampler;
use nearfield_dialogue::{Command, call::Call, events::Input, ids::ResponseId, settings::Settings};
use serde_json::{Value, json};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use uuid::Uuid;

/// A client that sends no event for this long is not in a conversation any more.
pub const IDLE_MAX: Duration = Duration::from_secs(600);

/// The longest call, as in the OpenAI API.
pub const CALL_MAX: Duration = Duration::from_secs(3_600);

/// A greeting waits this long for the client's first event, which may change the audio format.
const GREET_AFTER: Duration = Duration::from_millis(700);

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
    /// The session as it begins.
    pub session: Session,
    /// The edition of the protocol that the client asked for.
    pub dialect: Dialect,
    /// Said first, where anything is.
    pub greeting: Option<String>,
    /// How the caller is put through to a person by whoever carries the call, where that is asked to.
    pub put_through: Option<PutThrough>,
}

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
    out: Outgoing,
    events_sent: u64,
    /// Characters of the prompts of answers in progress.
    prompt_chars: HashMap<ResponseId, usize>,
    /// Milliseconds of the caller's audio since the last answer of the conversation.
    heard_ms: u32,
    figures: Figures,
    greet_at: Option<Instant>,
    last_event: Instant,
    /// Whether the audio of a track was refused, because the buffer holds no more.
    is_full: bool,
    draining: bool,
    /// The language of which the client was told that it is not spoken.
    not_spoken: Option<String>,
    /// Why the conversation is over, once it is.
    over: Option<Goodbye>,
}

enum Action {
    Arrived(Arrived),
    Report(Option<Report>),
    Time,
    Drain,
    Cut,
}

/// Holds a call until either side ends it; says why it ended, where it was not the caller who left. The outbox is closed then.
pub async fn hold(mut incoming: impl Incoming, out: Outgoing, start: Start) -> Option<Goodbye> {
    let outbox = Arc::clone(&out.outbox);
    let (mut line, mut reports) = Line::new(start, out);
    let (draining, cut) = (line.start.permit.draining().clone(), line.start.permit.cut().clone());
    let goodbye = 'call: {
        if let Err(overflow) = line.open() {
            break 'call line.too_slow(overflow);
        }
        loop {
            let wake = tokio::time::Instant::from_std(line.wakes_at());
            let action = tokio::select! {
                report = reports.recv() => Action::Report(report),
                arrived = incoming.next() => Action::Arrived(arrived),
                () = tokio::time::sleep_until(wake) => Action::Time,
                () = draining.cancelled(), if !line.draining => Action::Drain,
                () = cut.cancelled() => Action::Cut,
            };
            match line.apply(action) {
                Ok(()) => {}
                Err(goodbye) => break 'call goodbye,
            }
        }
    };
    outbox.close();
    if goodbye.as_ref().is_some_and(|goodbye| goodbye.code == code::POLICY) {
        // Only the reason is still worth sending to a client that is this far behind.
        outbox.clear();
    }
    line.end(goodbye.as_ref()).await;
    goodbye
}

/// What the conversation is told of a session, of what this node may keep, and of what carries the call.
fn settings(session: &Session, serving: &Serving, one_track: bool, greeting: Option<String>) -> Settings {
    let hears_with_person = record::may_store(serving, session.consent).is_ok();
    Settings { one_track, hears_with_person, ..session.settings(greeting) }
}

impl Line {
    fn new(mut start: Start, out: Outgoing) -> (Self, tokio::sync::mpsc::Receiver<Report>) {
        let id = Uuid::new_v4();
        let session = start.session.clone();
        let greeting = start.greeting.take();
        let settings = settings(&session, &start.serving, out.track.is_some(), greeting);
        let greets = settings.greeting.is_some() || settings.notice.is_some() || settings.not_spoken.is_some();
        let seed: String = id.simple().to_string().chars().take(16).collect();
        let call = Call::new(settings, &seed);
        let (jobs, reports) = Jobs::new(&start.services, Arc::clone(&start.desk), id);
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
            out,
            events_sent: 0,
            prompt_chars: HashMap::new(),
            heard_ms: 0,
            figures: Figures::default(),
            greet_at: greets.then(|| now + GREET_AFTER),
            last_event: now,
            is_full: false,
            draining: false,
            not_spoken: None,
            over: None,
            start,
        };
        (line, reports)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn wire(&self) -> Wire {
        let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Wire {
            now_unix_s,
            conversation: format!("conv_{}", self.id.simple()),
            output: self.session.output,
            voice: self.session.voice.in_use().to_owned(),
            tokens_max: self.session.tokens_max,
        }
    }

    fn open(&mut self) -> Result<(), Overflow> {
        let shown = self.show_session();
        self.send(json!({ "type": "session.created", "session": shown }))?;
        if self.start.dialect == Dialect::Beta {
            let conversation = json!({ "object": "realtime.conversation", "id": self.wire().conversation });
            self.send(json!({ "type": "conversation.created", "conversation": conversation }))?;
        }
        self.tell_language()
    }

    /// Tells the client of a language that no model speaks, where that is new.
    fn tell_language(&mut self) -> Result<(), Overflow> {
        let Some((language, spoken)) = self.session.not_spoken() else {
            self.not_spoken = None;
            return Ok(());
        };
        if self.not_spoken.as_ref() == Some(&language) {
            return Ok(());
        }
        let event = json!({ "type": "nearfield.language_not_spoken", "language": language, "spoken": spoken });
        self.not_spoken = Some(language);
        self.send(event)
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
        let left = CALL_MAX.saturating_sub(self.began.elapsed());
        let ends = (SystemTime::now() + left).duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        self.session.show(&format!("sess_{}", self.id.simple()), ends, nearfield)
    }

    /// When the loop must look again although nothing happened.
    fn wakes_at(&self) -> Instant {
        let deadlines = [
            self.call.deadline().map(|at| self.began + at),
            self.call.listens_from().and_then(|_| self.ear.wakes_at()),
            self.greet_at,
            Some(self.last_event + IDLE_MAX),
            Some(self.began + CALL_MAX),
            // While the last answer is still heard, a drain waits for its end.
            self.draining.then(|| Instant::now() + Duration::from_millis(200)),
        ];
        deadlines.into_iter().flatten().min().unwrap_or(self.began + CALL_MAX)
    }

    fn apply(&mut self, action: Action) -> Result<(), Option<Goodbye>> {
        let done = match action {
            Action::Arrived(arrived) => self.arrived(arrived)?,
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
            Action::Cut => {
                return Err(Goodbye::some(
                    code::GOING_AWAY,
                    "this node is going down; ask for another one at /v1/route",
                ));
            }
        };
        done.map_err(|overflow| self.too_slow(overflow))?;
        self.jobs.tidy();
        let now = Instant::now();
        if self.greet_at.is_some_and(|at| at <= now) {
            self.greet().map_err(|overflow| self.too_slow(overflow))?;
        }
        if self.draining && !self.call.is_busy(self.now()) {
            return Err(Goodbye::some(code::GOING_AWAY, "this node is going down; ask for another one at /v1/route"));
        }
        if let Some(goodbye) = self.over.take() {
            return Err(Some(goodbye));
        }
        if now >= self.last_event + IDLE_MAX {
            return Err(Goodbye::some(code::NORMAL, "no event for ten minutes; call again"));
        }
        if now >= self.began + CALL_MAX {
            return Err(Goodbye::some(code::NORMAL, "a call lasts an hour at most; call again"));
        }
        Ok(())
    }

    fn too_slow(&self, overflow: Overflow) -> Option<Goodbye> {
        tracing::warn!(call = %self.id, "{overflow}; the call is closed");
        Goodbye::some(code::POLICY, "you read too slowly: too much waits for you; read while you send")
    }

    fn report(&mut self, report: Report) -> Result<(), Overflow> {
        let now = self.now();
        self.call.note_backlog(self.start.services.speech.backlog());
        match report {
            Report::Input(input) => self.call.handle(now, input),
            Report::HandOver(end) => {
                // The client may have ended it before.
                let _ended_before = self.call.command(now, Command::EndHandOver(end));
            }
            Report::Vad { beginning, slot, frames } => {
                let noticed = self.ear.report(beginning, slot, frames, self.heard.end());
                self.noticed(noticed)?;
            }
        }
        self.pump()
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
        let served = (self.start.serving.generation, self.start.services.serving.borrow().generation);
        self.start.services.tally.add(&self.figures.of_call(now, dropped, served));
        tracing::debug!(call = %self.id, seconds = now.as_secs(), dropped, "a call ended");
    }
}
