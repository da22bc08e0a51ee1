//! The link to the control plane: `shared::link::agent` decides, this shell dials, reads, writes and tells the time.
//!
//! One task owns the link machine. Everything that happens reaches it as one event; what the machine wants is then done
//! without waiting. BACKPRESSURE: [`EVENTS_MAX`] events and [`FRAMES_MAX`] frames wait at most; a plane that does not read
//! is hung up on.

pub mod dial;
pub mod renewal;
pub mod revoked;
pub mod tls;

use crate::{
    identity::Identity,
    registry::{Registry, RegistryState},
    slots::{Board, Outcome, Wanted},
    state_dir::StateDir,
};
use dial::{DialError, Dialer, Dialled};
use nearfield_shared::{
    clock::{Clock, SystemClock},
    link::{AgentInput, AgentLink, AgentLinkConfig, AgentOutput, CloseReason, RenewalSchedule, Seed},
    report::AnonymisedReport,
    wire::{
        AgentToPlane, FrameDecoder, Limit, PlaneToAgent,
        message::{self, HereIAm, Status},
    },
};
use renewal::RenewError;
use revoked::{Held, RevokedList};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
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
    /// `HOST:PORT` of the plane that was dialled last.
    pub plane: String,
    /// The plane's version, from its last welcome.
    pub plane_version: Option<String>,
    /// The plane's clock minus ours in seconds, at its last welcome.
    pub plane_ahead_s: Option<i64>,
    /// The plane's clock in seconds since 1970 at its last welcome, and when that was by [`Clock::elapsed`].
    pub plane_time: Option<(i64, Duration)>,
    /// Why the link is down, or was last.
    pub last_problem: Option<String>,
    /// The node's certificate.
    pub certificate: CertificateState,
    /// The newest list of revoked certificates.
    pub revoked: Option<Held>,
    /// What is known of the registry of models.
    pub registry: Option<RegistryState>,
}

/// How the node's certificate is. Times in seconds since 1970, by the plane's clock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateState {
    /// When it begins and ends.
    pub valid_unix_s: (i64, i64),
    /// When the next one is asked for.
    pub renews_unix_s: i64,
    /// Why that did not work the last time.
    pub problem: Option<String>,
}

/// What the link works with.
pub struct ControlParts {
    /// The control planes, `HOST:PORT`; at least one.
    pub planes: Vec<String>,
    /// The node's folder, where its certificate is renewed.
    pub dir: StateDir,
    /// Who this node is, as of now.
    pub identity: Identity,
    /// What tells the time.
    pub clock: Arc<dyn Clock>,
    /// Takes the lists of revoked certificates.
    pub revoked: Arc<RevokedList>,
    /// Takes the registry's metadata.
    pub registry: Arc<Registry>,
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
    /// The same for a second connection, beside the one that stands.
    Moved(Result<Dialled, DialError>),
    /// A renewal has ended; the disk holds the new certificate, whatever became of the connection.
    Renewed(Result<Identity, RenewError>),
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
    /// Whether a renewal is under way.
    renewing: bool,
    /// Whether the connection that stands still shows an older certificate.
    must_move: bool,
    schedule: RenewalSchedule,
    seed: Seed,
    wires: Option<Wires>,
}

/// Keeps the link until the token fires, then says goodbye.
pub async fn run(parts: ControlParts, stop: CancellationToken) {
    let (events, mut incoming) = mpsc::channel(EVENTS_MAX);
    let config = AgentLinkConfig { planes: parts.planes.len(), ..parts.link.clone() };
    let link = AgentLink::new(config, parts.me.clone(), Seed(parts.seed), Duration::ZERO);
    let mut seed = Seed(parts.seed.rotate_left(32));
    let mut owner = Owner {
        schedule: RenewalSchedule::new(parts.identity.valid_unix_s, &mut seed),
        parts,
        link,
        started: Instant::now(),
        events,
        dial_number: 0,
        dialling: None,
        renewing: false,
        must_move: false,
        seed,
        wires: None,
    };
    owner.tell_certificate(None);
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
        let event = match event {
            // What is on the disk counts, whichever connection it came over.
            Event::Renewed(renewed) => {
                self.renewed(renewed);
                return None;
            }
            _ if number != self.dial_number => return None,
            event => event,
        };
        Some(match event {
            Event::Renewed(_) => return None,
            Event::Moved(moved) => return self.moved(moved),
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
                let plane_ahead_s = welcome.unix_s.saturating_sub(self.parts.clock.unix_s());
                let welcomed_at = self.parts.clock.elapsed();
                self.schedule.welcomed(welcome.unix_s, welcomed_at);
                // A new connection shows the newest certificate there is.
                self.must_move = false;
                tracing::info!(plane = self.plane(), plane_version = %welcome.plane_version, generation = %welcome.generation, "connected to the control plane");
                self.parts.state.send_modify(|state| {
                    state.plane_version = Some(welcome.plane_version.to_string());
                    state.plane_ahead_s = Some(plane_ahead_s);
                    state.plane_time = Some((welcome.unix_s, welcomed_at));
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
            AgentOutput::Duty(duty) => self.parts.board.tell_duty(duty),
            AgentOutput::Registry(told) => self.take_registry(&told),
            AgentOutput::Revoked(crl_pem) => self.take_revoked(crl_pem),
            AgentOutput::StatusDue => {
                self.look_at_certificate();
                let status = (self.parts.status)();
                // The machine answers a status with one message and never asks for another, so this does not recurse further.
                self.link.handle_input(self.started.elapsed(), AgentInput::Status(status));
            }
        }
    }

    /// The address that the machine means.
    fn plane(&self) -> String {
        self.parts.planes.get(self.link.plane()).cloned().unwrap_or_default()
    }

    fn dial(&mut self) {
        self.dial_number += 1;
        let (number, events) = (self.dial_number, self.events.clone());
        let (plane, tls, dialer) = (self.plane(), self.parts.tls.clone(), self.parts.dialer.clone());
        self.parts.state.send_if_modified(|state| {
            let other = state.plane != plane;
            state.plane.clone_from(&plane);
            other
        });
        let (dir, identity) = (self.parts.dir.clone(), self.parts.identity.clone());
        self.dialling = Some(tokio::spawn(async move {
            let mut dialled = dialer.dial(&plane, &tls).await;
            if matches!(dialled, Err(DialError::MustRenew { .. })) {
                let renewed = renewal::renew_alone(&dialer, &dir, &identity, &plane).await;
                let again = renewed.as_ref().ok().map(|renewed| tls::link_config(&dir, renewed));
                let _ = events.send((number, Event::Renewed(renewed))).await;
                if let Some(Ok(tls)) = again {
                    dialled = dialer.dial(&plane, &tls).await;
                }
            }
            // An owner that is gone needs no answer.
            let _ = events.send((number, Event::Dialled(dialled))).await;
        }));
    }

    /// With every sign of life, so that no timer of its own can be wrong: moves to the new certificate, or asks for one.
    fn look_at_certificate(&mut self) {
        let Some(wires) = &self.wires else { return };
        let (number, events) = (self.dial_number, self.events.clone());
        if self.must_move && self.dialling.is_none() {
            let (plane, tls, dialer) = (self.plane(), self.parts.tls.clone(), self.parts.dialer.clone());
            self.dialling = Some(tokio::spawn(async move {
                let moved = dialer.dial(&plane, &tls).await;
                let _ = events.send((number, Event::Moved(moved))).await;
            }));
        } else if !self.must_move && !self.renewing && self.schedule.is_due(self.parts.clock.elapsed()) {
            self.renewing = true;
            let (dir, identity, connection) =
                (self.parts.dir.clone(), self.parts.identity.clone(), wires.connection.clone());
            tokio::spawn(async move {
                let renewed = renewal::renew(&dir, &identity, &connection).await;
                let _ = events.send((number, Event::Renewed(renewed))).await;
            });
        }
    }

    fn renewed(&mut self, renewed: Result<Identity, RenewError>) {
        self.renewing = false;
        let tls = renewed.and_then(|renewed| Ok((tls::link_config(&self.parts.dir, &renewed)?, renewed)));
        match tls {
            Ok((tls, identity)) => {
                self.schedule.renewed(identity.valid_unix_s, &mut self.seed);
                self.parts.tls = tls;
                self.parts.identity = identity;
                self.must_move = self.wires.is_some();
                tracing::info!("this node's certificate was renewed");
                self.tell_certificate(None);
                self.look_at_certificate();
            }
            Err(error) => {
                self.schedule.failed(self.parts.clock.elapsed(), &mut self.seed);
                tracing::warn!(%error, "this node's certificate was not renewed; that is tried again");
                self.tell_certificate(Some(error.to_string()));
            }
        }
    }

    /// The second connection stands: the first goes, and calls notice nothing. Where it does not, the first stays.
    fn moved(&mut self, moved: Result<Dialled, DialError>) -> Option<AgentInput> {
        self.dialling = None;
        match moved {
            Ok(dialled) => {
                self.hang_up(b"moved");
                self.connect(dialled);
                Some(AgentInput::Moved)
            }
            Err(error) => {
                tracing::warn!(%error, "no second connection with the new certificate yet; the first one stays");
                None
            }
        }
    }

    fn tell_certificate(&self, problem: Option<String>) {
        let (valid_unix_s, renews_unix_s) = (self.parts.identity.valid_unix_s, self.schedule.due_unix_s());
        self.parts.state.send_modify(|state| {
            state.certificate = CertificateState { valid_unix_s, renews_unix_s, problem };
            state.revoked = self.parts.revoked.held();
            state.registry = self.parts.registry.shown();
        });
    }

    /// Off this task, since it syncs the disk; the list itself keeps the order.
    fn take_revoked(&self, crl_pem: Arc<String>) {
        let (revoked, state) = (Arc::clone(&self.parts.revoked), self.parts.state.clone());
        tokio::task::spawn_blocking(move || match revoked.take(crl_pem.as_bytes()) {
            Ok(()) => state.send_modify(|state| state.revoked = revoked.held()),
            Err(error) => tracing::error!(%error, "a list of revoked certificates was not taken"),
        });
    }

    /// Noted at once, so that a state that comes next is judged by it; verified off this task.
    fn take_registry(&self, told: &message::Registry) {
        self.parts.registry.tell(told);
        let (registry, state) = (Arc::clone(&self.parts.registry), self.parts.state.clone());
        tokio::spawn(async move {
            registry.take_told().await;
            state.send_modify(|state| state.registry = registry.shown());
        });
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
    SystemClock::default().unix_s()
}
