//! The owner of one call: one task that holds the conversation, takes what comes in, and acts on what the conversation wants.
//!
//! Each turn of its loop waits for one thing (a message, a report, time, the node), then applies it without waiting.
//! Writing to the socket is another task's, behind the [`Outbox`], so a client that does not read never stops the loop.

mod act;
mod client;

use super::{
    client_event::Dialect,
    ear::Ear,
    heard::Heard,
    jobs::{Jobs, Report},
    outbox::{Outbox, Overflow},
    record::{self, Figures},
    resample::Resampler,
    server_event::{Usage, Wire},
    session::Session,
};
use crate::{
    assistants::{Assistants, Desk},
    calls::CallPermit,
    node::{Services, Serving},
    speech::VadSlot,
};
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use client::resampler;
use futures_util::{SinkExt as _, StreamExt as _, stream::SplitSink};
use nearfield_dialogue::{call::Call, events::Input};
use serde_json::{Value, json};
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
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
    /// The session as it begins.
    pub session: Session,
    /// The edition of the protocol that the client asked for.
    pub dialect: Dialect,
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
        let session = start.session.clone();
        let greeting = assistant.greeting.clone().filter(|_| start.greet);
        let settings = session.settings(greeting);
        let greets = settings.greeting.is_some();
        let seed: String = id.simple().to_string().chars().take(16).collect();
        let call = Call::new(settings, &seed);
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
            greet_at: greets.then(|| now + GREET_AFTER),
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
        Ok(())
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

fn bye(code: u16, reason: &'static str) -> Option<Goodbye> {
    Some(Goodbye { code, reason })
}
