//! The link to the control plane: `shared::link::agent` decides, this shell dials, reads, writes and tells the time.
//!
//! One task owns the link machine. Everything that happens reaches it as one event; what the machine wants is then done
//! without waiting. BACKPRESSURE: [`EVENTS_MAX`] events and [`FRAMES_MAX`] frames wait at most; a plane that does not read
//! is hung up on.

pub mod dial;
pub mod tls;

use crate::slots::{Board, Outcome, Wanted};
use dial::{DialError, Dialer, Dialled};
use nearfield_shared::{
    link::{AgentInput, AgentLink, AgentLinkConfig, AgentOutput, CloseReason, Seed},
    report::AnonymisedReport,
    wire::{
        AgentToPlane, FrameDecoder, Limit, PlaneToAgent,
        message::{HereIAm, Status},
    },
};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Events between the stream's reader and the owner: a plane's burst (welcome, routes, desired) is three.
const EVENTS_MAX: usize = 16;

/// Frames between the owner and the stream's writer: the most that piles up at once are the reports kept while cut off.
const FRAMES_MAX: usize = nearfield_shared::link::agent::REPORTS_KEPT + 32;

/// How long a goodbye may take to reach the plane.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);

/// What the rest of the agent knows about the link.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LinkState {
    /// Whether the plane has welcomed this node and is heard.
    pub connected: bool,
    /// The plane's version, from its last welcome.
    pub plane_version: Option<String>,
    /// The plane's clock minus ours in seconds, at its last welcome.
    pub plane_ahead_s: Option<i64>,
    /// Why the link is down, or was last.
    pub last_problem: Option<String>,
}

/// What the link works with.
pub struct ControlParts {
    /// The control plane, `HOST:PORT`.
    pub plane: String,
    /// TLS with this node's certificate.
    pub tls: quinn::ClientConfig,
    /// Sockets to dial from.
    pub dialer: Dialer,
    /// Times of the link machine.
    pub link: AgentLinkConfig,
    /// Who this node is.
    pub me: HereIAm,
    /// Randomness of the link machine.
    pub seed: u64,
    /// Takes the states that the plane wants.
    pub wanted: watch::Sender<Wanted>,
    /// What became of them.
    pub outcomes: mpsc::Receiver<Outcome>,
    /// Takes routes.
    pub board: Board,
    /// Takes the connection, for artefact streams.
    pub connection: watch::Sender<Option<quinn::Connection>>,
    /// Says how the node is.
    pub status: Box<dyn Fn() -> Status + Send>,
    /// Figures for the plane.
    pub reports: mpsc::Receiver<AnonymisedReport>,
    /// Told how the link is.
    pub state: watch::Sender<LinkState>,
}

enum Event {
    Dialled(Result<Dialled, DialError>),
    Message(PlaneToAgent),
    Ended(String),
}

/// An event and the dial it belongs to: late events of an earlier one are dropped.
type Numbered = (u64, Event);

/// A connection after its hellos.
struct Wires {
    connection: quinn::Connection,
    frames: mpsc::Sender<Vec<u8>>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

struct Owner {
    parts: ControlParts,
    link: AgentLink,
    started: Instant,
    events: mpsc::Sender<Numbered>,
    dial_number: u64,
    dialling: Option<JoinHandle<()>>,
    wires: Option<Wires>,
}

/// Keeps the link until the token fires, then says goodbye.
pub async fn run(parts: ControlParts, stop: CancellationToken) {
    let (events, mut incoming) = mpsc::channel(EVENTS_MAX);
    let link = AgentLink::new(parts.link.clone(), parts.me.clone(), Seed(parts.seed), Duration::ZERO);
    let mut owner = Owner { parts, link, started: Instant::now(), events, dial_number: 0, dialling: None, wires: None };
    owner.handle(AgentInput::Tick);
    loop {
        let deadline = owner.link.poll_timeout().map(|at| owner.started + at);
        let input = tokio::select! {
            Some((number, event)) = incoming.recv() => match owner.take_event(number, event) {
                Some(input) => input,
                None => continue,
            },
            Some(outcome) = owner.parts.outcomes.recv() => match outcome {
                Outcome::Activated(generation) => AgentInput::Activated(generation),
                Outcome::Rejected(generation, problem) => AgentInput::Rejected(generation, problem),
            },
            Some(report) = owner.parts.reports.recv() => AgentInput::Report(report),
            () = sleep_until(deadline) => AgentInput::Tick,
            () = stop.cancelled() => break,
        };
        owner.handle(input);
    }
    // Whatever was counted before the stop still goes out with the goodbye.
    while let Ok(report) = owner.parts.reports.try_recv() {
        owner.handle(AgentInput::Report(report));
    }
    owner.say_goodbye().await;
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

impl Owner {
    fn take_event(&mut self, number: u64, event: Event) -> Option<AgentInput> {
        if number != self.dial_number {
            return None;
        }
        Some(match event {
            Event::Dialled(Ok(dialled)) => {
                self.dialling = None;
                self.connect(dialled);
                AgentInput::Connected
            }
            Event::Dialled(Err(e)) => {
                self.dialling = None;
                self.note_problem(e.to_string());
                AgentInput::Disconnected
            }
            Event::Message(message) => AgentInput::Message(message),
            Event::Ended(reason) => {
                self.note_problem(reason);
                self.hang_up(b"");
                AgentInput::Disconnected
            }
        })
    }

    fn handle(&mut self, input: AgentInput) {
        self.link.handle_input(self.started.elapsed(), input);
        while let Some(output) = self.link.poll_output() {
            self.act(output);
        }
        let connected = self.link.is_live();
        self.parts.state.send_if_modified(|state| std::mem::replace(&mut state.connected, connected) != connected);
    }

    fn act(&mut self, output: AgentOutput) {
        match output {
            AgentOutput::Dial => self.dial(),
            AgentOutput::Send(message) => self.send(&message),
            AgentOutput::Close(reason) => self.close(&reason),
            AgentOutput::Welcomed(welcome) => {
                let plane_ahead_s = welcome.unix_s - unix_now_s();
                tracing::info!(plane_version = %welcome.plane_version, generation = %welcome.generation, "connected to the control plane");
                self.parts.state.send_modify(|state| {
                    state.plane_version = Some(welcome.plane_version.to_string());
                    state.plane_ahead_s = Some(plane_ahead_s);
                    state.last_problem = None;
                });
            }
            AgentOutput::Activate(state) => {
                tracing::info!(generation = %state.generation, "the control plane wants a new state");
                self.parts.wanted.send_modify(|wanted| {
                    wanted.push += 1;
                    wanted.state = Some(state);
                });
            }
            AgentOutput::Routes(routes) => self.parts.board.tell_routes(&routes),
            AgentOutput::StatusDue => {
                let status = (self.parts.status)();
                // The machine answers a status with one message and never asks for another, so this does not recurse further.
                self.link.handle_input(self.started.elapsed(), AgentInput::Status(status));
            }
        }
    }

    fn dial(&mut self) {
        self.dial_number += 1;
        let (number, events) = (self.dial_number, self.events.clone());
        let (plane, tls, dialer) = (self.parts.plane.clone(), self.parts.tls.clone(), self.parts.dialer.clone());
        self.dialling = Some(tokio::spawn(async move {
            let dialled = dialer.dial(&plane, &tls).await;
            // An owner that is gone needs no answer.
            let _ = events.send((number, Event::Dialled(dialled))).await;
        }));
    }

    fn connect(&mut self, dialled: Dialled) {
        let Dialled { connection, send, recv } = dialled;
        let (frames, outgoing) = mpsc::channel(FRAMES_MAX);
        let reader = tokio::spawn(read(recv, self.dial_number, self.events.clone()));
        let writer = tokio::spawn(write(send, outgoing));
        self.parts.connection.send_replace(Some(connection.clone()));
        self.wires = Some(Wires { connection, frames, reader, writer });
    }

    fn send(&mut self, message: &AgentToPlane) {
        let Some(wires) = &self.wires else { return };
        let sent = match message.encode() {
            Ok(bytes) => wires.frames.try_send(bytes).map_err(|_| "the control plane does not read".to_owned()),
            Err(e) => Err(format!("a message could not be encoded: {e}")),
        };
        if let Err(reason) = sent {
            // The reader reports the end of the connection, and the machine dials again.
            tracing::warn!(%reason, "hanging up on the control plane");
            wires.connection.close(1_u32.into(), b"not reading");
        }
    }

    fn close(&mut self, reason: &CloseReason) {
        let words = match reason {
            CloseReason::Silent => "the control plane was silent for too long".to_owned(),
            CloseReason::DialTimeout => "the control plane did not answer the dial".to_owned(),
            CloseReason::GoAway => "the control plane goes down on purpose".to_owned(),
            CloseReason::Refused(refused) => format!("the control plane refuses this node: {}", refused.reason),
            CloseReason::Protocol(what) => format!("the control plane broke the protocol: {what}"),
            // The wires stay up for the goodbye.
            CloseReason::Shutdown => return,
        };
        self.note_problem(words);
        self.hang_up(b"");
    }

    fn hang_up(&mut self, reason: &[u8]) {
        if let Some(dialling) = self.dialling.take() {
            dialling.abort();
        }
        if let Some(wires) = self.wires.take() {
            wires.connection.close(0_u32.into(), reason);
            wires.reader.abort();
            wires.writer.abort();
        }
        self.parts.connection.send_replace(None);
        // Whatever the old connection still has to say is late now.
        self.dial_number += 1;
    }

    async fn say_goodbye(mut self) {
        self.handle(AgentInput::Shutdown);
        if let Some(dialling) = self.dialling.take() {
            dialling.abort();
        }
        self.parts.connection.send_replace(None);
        let Some(Wires { connection, frames, reader, writer }) = self.wires.take() else { return };
        // The writer ends after the last frame was acknowledged, or the plane is gone.
        drop(frames);
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, writer).await;
        reader.abort();
        connection.close(0_u32.into(), b"goodbye");
        let _ = tokio::time::timeout(GOODBYE_TIMEOUT, self.parts.dialer.wait_idle()).await;
    }

    fn note_problem(&self, problem: String) {
        let known = self.parts.state.borrow().last_problem.as_ref() == Some(&problem);
        // The same problem again and again belongs in the log once.
        if known {
            tracing::debug!(%problem, "the control link is still down");
        } else {
            tracing::warn!(%problem, "the control link is down; the node goes on with what it has");
        }
        self.parts.state.send_modify(|state| state.last_problem = Some(problem));
    }
}

async fn read(mut recv: quinn::RecvStream, number: u64, events: mpsc::Sender<Numbered>) {
    let mut decoder = FrameDecoder::new(Limit::FROM_PLANE);
    let ended = loop {
        match recv.read_chunk(usize::MAX, true).await {
            Ok(Some(chunk)) => decoder.receive(&chunk.bytes),
            Ok(None) => break "the control plane closed the control stream".to_owned(),
            Err(e) => break format!("the connection to the control plane ended: {e}"),
        }
        loop {
            match decoder.next_frame().and_then(|frame| frame.map(|f| PlaneToAgent::decode(&f)).transpose()) {
                Ok(Some(message)) => {
                    if events.send((number, Event::Message(message))).await.is_err() {
                        return;
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    let _ =
                        events.send((number, Event::Ended(format!("the control plane sent a bad frame: {e}")))).await;
                    return;
                }
            }
        }
    };
    let _ = events.send((number, Event::Ended(ended))).await;
}

async fn write(mut send: quinn::SendStream, mut frames: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = frames.recv().await {
        // The reader tells the owner when the connection is gone.
        if send.write_all(&bytes).await.is_err() {
            return;
        }
    }
    // Everything is said: finish, and wait until the plane has it.
    if send.finish().is_ok() {
        let _ = send.stopped().await;
    }
}

/// Seconds since 1970 by this machine's clock.
pub(crate) fn unix_now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
