//! The agent's half: dials, greets, takes desired states, answers them, and comes back when cut off.
//!
//! # FAILURE LADDER
//! A silent plane is hung up on after three heartbeats. A lost connection is dialled again after a growing, jittered wait.
//! Where several planes are known, an address at which no plane answers as the leading one is followed by the next at once, and the wait comes
//! after a whole round of them; a link that was lost begins the next round at the address after its own, since what lies there is what may have taken over.
//! A refusal by the plane waits the longest step, since only a person changes it. Nothing here ever stops what
//! the node serves.

use super::{
    backoff::{Backoff, BackoffConfig, Seed},
    close::CloseReason,
};
use crate::{
    artefact::{Digest, SignedManifest},
    desired::{DesiredState, Generation, Route},
    release,
    report::AnonymisedReport,
    wire::message::{
        Ack, AgentToPlane, Duty, HereIAm, ManifestsWanted, Nack, Nonce, PlaneToAgent, Problem, ProblemKind,
        RefusedState, Registry, Report, State, Status, Welcome,
    },
    wire::{Broadcast, TargetName},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// Reports kept until the plane has counted them; older ones are dropped first. One a minute makes four hours cut off.
pub const REPORTS_KEPT: usize = 256;

/// Heartbeats without a message after which a side hangs up: one may be late and one lost with a dying path.
pub const HEARTBEATS_MISSED_MAX: u32 = 3;

/// Heartbeats that a plane may ask for; others are clamped, so that no message can make a node mute or frantic.
const HEARTBEAT_RANGE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(600));

/// How the agent's half behaves.
#[derive(Debug, Clone)]
pub struct AgentLinkConfig {
    /// Waits between dials.
    pub backoff: BackoffConfig,
    /// Longest time for a dial, hello included.
    pub dial_timeout: Duration,
    /// Longest time from `HereIAm` to `Welcome`.
    pub welcome_timeout: Duration,
    /// How many addresses of planes are known, at least 1.
    pub planes: usize,
    /// What the agent was built for: of a release, only that program's manifest is asked for.
    pub target: Option<TargetName>,
}

/// Longest time for a dial where there are other addresses to try: many times the round trip of a satellite, and short enough that a plane which is
/// switched off costs little.
const DIAL_TIMEOUT_OF_SEVERAL: Duration = Duration::from_secs(5);

impl Default for AgentLinkConfig {
    fn default() -> Self {
        Self {
            backoff: BackoffConfig::default(),
            dial_timeout: Duration::from_secs(15),
            welcome_timeout: Duration::from_secs(15),
            planes: 1,
            target: release::own_target(),
        }
    }
}

/// What happened.
#[derive(Debug)]
pub enum AgentInput {
    /// The connection stands, its control stream is open, both hellos are exchanged.
    Connected,
    /// A second connection stands, in the place of the one there was: the node moves over, for example with a new certificate.
    Moved,
    /// The dial failed, or the connection ended.
    Disconnected,
    /// A message came.
    Message(PlaneToAgent),
    /// This generation serves now.
    Activated(Generation),
    /// This generation cannot serve; the old one serves on.
    Rejected(Generation, Problem),
    /// Answer to [`AgentOutput::StatusDue`]. Its generations are filled in here.
    Status(Status),
    /// Figures for the plane; kept until it has counted them.
    Report(AnonymisedReport),
    /// The node goes down on purpose; nothing is dialled any more.
    Shutdown,
    /// Time has passed.
    Tick,
}

/// What to do.
#[allow(clippy::large_enum_variant, reason = "an output is carried out at once and never stored")]
#[derive(Debug, PartialEq)]
pub enum AgentOutput {
    /// Dial the plane at [`AgentLink::plane`]; answer with `Connected` or `Disconnected`.
    Dial,
    /// Send this on the control stream.
    Send(AgentToPlane),
    /// Hang up or stop dialling; no `Disconnected` is expected for it.
    Close(CloseReason),
    /// The plane has welcomed this node.
    Welcomed(Welcome),
    /// Make this the state in use. Drop an older one that is not active yet. Answer with `Activated` or `Rejected`.
    Activate(Arc<DesiredState>),
    /// Where callers can go now.
    Routes(Arc<Vec<Route>>),
    /// Certificates that are no longer good: a certificate revocation list in PEM, not yet verified.
    Revoked(Arc<String>),
    /// What is asked of this node beside its state.
    Duty(Duty),
    /// The registry's metadata, not yet verified. It comes before any state that needs it.
    Registry(Broadcast<Registry>),
    /// Say how the node is, with [`AgentInput::Status`].
    StatusDue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting { until: Duration },
    Dialing { deadline: Duration },
    Greeting { deadline: Duration },
    Live { heartbeat: Duration, silent_at: Duration, status_at: Duration },
    Down,
}

#[derive(Debug, Clone, Copy)]
struct Activating {
    generation: Generation,
    /// The push to answer; `None` when its connection is gone and no other push of this generation has come.
    nonce: Option<Nonce>,
}

#[derive(Debug, Clone)]
struct Rejection {
    state: RefusedState,
    /// Whether this connection has carried it, in `HereIAm` or as a NACK.
    told: bool,
}

/// The agent's half of the link.
#[derive(Debug)]
pub struct AgentLink {
    config: AgentLinkConfig,
    me: HereIAm,
    seed: Seed,
    backoff: Backoff,
    phase: Phase,
    /// The address that is dialled, counted from 0.
    plane: usize,
    /// Addresses of this round at which no plane has answered as the leading one.
    tried: usize,
    serving: Generation,
    activating: Option<Activating>,
    rejection: Option<Rejection>,
    /// A state some of whose manifests are on their way.
    incomplete: Option<Broadcast<State>>,
    /// Manifests of the newest state that was pushed by their names: one for each stage and one of the agent at most.
    manifests: BTreeMap<Digest, SignedManifest>,
    /// Where callers can go, as it was told last.
    routes: Arc<Vec<Route>>,
    reports: VecDeque<Report>,
    reports_dropped: u64,
    outputs: VecDeque<AgentOutput>,
}

impl AgentLink {
    /// A node that serves `me.serving` (from its disk; 0 where it has nothing) and dials at once.
    pub fn new(config: AgentLinkConfig, me: HereIAm, seed: Seed, now: Duration) -> Self {
        Self {
            backoff: Backoff::new(config.backoff),
            config,
            serving: me.serving,
            me,
            seed,
            phase: Phase::Waiting { until: now },
            plane: 0,
            tried: 0,
            activating: None,
            rejection: None,
            incomplete: None,
            manifests: BTreeMap::new(),
            routes: Arc::default(),
            reports: VecDeque::new(),
            reports_dropped: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The generation in use.
    pub fn serving(&self) -> Generation {
        self.serving
    }

    /// Which of the known addresses the link is to, or is dialled; counted from 0.
    pub fn plane(&self) -> usize {
        self.plane
    }

    /// The generation being activated.
    pub fn activating(&self) -> Option<Generation> {
        self.activating.map(|a| a.generation)
    }

    /// Whether the plane has welcomed this node and is heard.
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live { .. })
    }

    /// Reports that were dropped because the plane was away for too long.
    pub fn reports_dropped(&self) -> u64 {
        self.reports_dropped
    }

    /// When to hand in [`AgentInput::Tick`] at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::Waiting { until } => Some(until),
            Phase::Dialing { deadline } | Phase::Greeting { deadline } => Some(deadline),
            Phase::Live { silent_at, status_at, .. } => Some(silent_at.min(status_at)),
            Phase::Down => None,
        }
    }

    /// What to do next, in order.
    pub fn poll_output(&mut self) -> Option<AgentOutput> {
        self.outputs.pop_front()
    }

    /// Takes what happened.
    pub fn handle_input(&mut self, now: Duration, input: AgentInput) {
        match input {
            AgentInput::Connected => self.connected(now),
            AgentInput::Moved => self.moved(now),
            AgentInput::Disconnected => self.disconnected(now),
            AgentInput::Message(message) => self.message(now, message),
            AgentInput::Activated(generation) => self.activated(generation),
            AgentInput::Rejected(generation, detail) => self.rejected(generation, detail),
            AgentInput::Status(status) => {
                if self.is_live() {
                    let status = Status { serving: self.serving, activating: self.activating(), ..status };
                    self.send(AgentToPlane::Status(status));
                }
            }
            AgentInput::Report(figures) => self.report(figures),
            AgentInput::Shutdown => self.shutdown(),
            AgentInput::Tick => {}
        }
        self.time_passes(now);
    }

    fn time_passes(&mut self, now: Duration) {
        match self.phase {
            Phase::Waiting { until } if now >= until => {
                let timeout = match self.config.planes {
                    0 | 1 => self.config.dial_timeout,
                    _ => self.config.dial_timeout.min(DIAL_TIMEOUT_OF_SEVERAL),
                };
                self.phase = Phase::Dialing { deadline: now + timeout };
                self.outputs.push_back(AgentOutput::Dial);
            }
            Phase::Dialing { deadline } if now >= deadline => self.hang_up(now, CloseReason::DialTimeout),
            Phase::Greeting { deadline } if now >= deadline => self.hang_up(now, CloseReason::Silent),
            Phase::Live { silent_at, .. } if now >= silent_at => self.hang_up(now, CloseReason::Silent),
            Phase::Live { heartbeat, silent_at, status_at } if now >= status_at => {
                self.phase = Phase::Live { heartbeat, silent_at, status_at: now + heartbeat };
                self.outputs.push_back(AgentOutput::StatusDue);
            }
            _ => {}
        }
    }

    fn connected(&mut self, now: Duration) {
        if !matches!(self.phase, Phase::Dialing { .. }) {
            return;
        }
        self.phase = Phase::Greeting { deadline: now + self.config.welcome_timeout };
        if let Some(rejection) = &mut self.rejection {
            rejection.told = true;
        }
        self.me.serving = self.serving;
        self.me.refused = self.rejection.as_ref().map(|rejection| rejection.state.clone());
        self.send(AgentToPlane::HereIAm(self.me.clone()));
    }

    fn moved(&mut self, now: Duration) {
        if !matches!(self.phase, Phase::Live { .. } | Phase::Greeting { .. }) {
            return;
        }
        self.forget_push();
        // It stands already; this is only where `connected` goes on from.
        self.phase = Phase::Dialing { deadline: now + self.config.dial_timeout };
        self.connected(now);
    }

    fn disconnected(&mut self, now: Duration) {
        if matches!(self.phase, Phase::Down | Phase::Waiting { .. }) {
            return;
        }
        self.wait(now, Duration::ZERO);
    }

    /// Waits for the next dial, at least `least`; not at all where there are addresses left in this round.
    fn wait(&mut self, now: Duration, least: Duration) {
        self.forget_push();
        let was_live = self.is_live();
        self.plane = (self.plane + 1) % self.config.planes.max(1);
        self.tried = if was_live { 0 } else { self.tried + 1 };
        if !was_live && least.is_zero() && self.tried < self.config.planes {
            self.phase = Phase::Waiting { until: now };
            return;
        }
        self.tried = 0;
        let wait = self.backoff.after_failure(&mut self.seed).max(least);
        self.phase = Phase::Waiting { until: now + wait };
    }

    /// Whatever was pushed on the old connection cannot be answered on the next.
    fn forget_push(&mut self) {
        self.incomplete = None;
        if let Some(activating) = &mut self.activating {
            activating.nonce = None;
        }
    }

    fn hang_up(&mut self, now: Duration, reason: CloseReason) {
        let least = match &reason {
            CloseReason::Refused(_) => self.config.backoff.max,
            _ => Duration::ZERO,
        };
        self.outputs.push_back(AgentOutput::Close(reason));
        self.wait(now, least);
    }

    fn message(&mut self, now: Duration, message: PlaneToAgent) {
        match &mut self.phase {
            Phase::Live { heartbeat, silent_at, .. } => *silent_at = now + *heartbeat * HEARTBEATS_MISSED_MAX,
            Phase::Greeting { .. } => {}
            // Late bytes of a connection that is already given up.
            Phase::Waiting { .. } | Phase::Dialing { .. } | Phase::Down => return,
        }
        match message {
            PlaneToAgent::Welcome(welcome) => self.welcomed(now, welcome),
            PlaneToAgent::Refused(refused) => self.hang_up(now, CloseReason::Refused(refused)),
            PlaneToAgent::GoAway(go) => {
                let least = Duration::from_millis(u64::from(go.retry_after_ms)).min(self.config.backoff.max);
                let least = least + self.seed.share_of(least);
                self.outputs.push_back(AgentOutput::Close(CloseReason::GoAway));
                self.wait(now, least);
            }
            PlaneToAgent::Unknown(_) => {}
            _ if !self.is_live() => self.hang_up(now, CloseReason::Protocol("the plane spoke before its welcome")),
            PlaneToAgent::Desired(desired) => {
                self.incomplete = None;
                self.desired(desired.nonce, Arc::clone(&desired.state));
            }
            PlaneToAgent::State(state) => self.state(state),
            PlaneToAgent::Manifest(manifest) => self.manifest(&manifest),
            PlaneToAgent::Routes(told) => {
                self.routes = Arc::clone(&told.routes);
                self.outputs.push_back(AgentOutput::Routes(Arc::clone(&told.routes)));
            }
            PlaneToAgent::Revoked(told) => self.outputs.push_back(AgentOutput::Revoked(Arc::clone(&told.crl_pem))),
            PlaneToAgent::Duty(duty) => self.outputs.push_back(AgentOutput::Duty(duty)),
            PlaneToAgent::Registry(told) => self.outputs.push_back(AgentOutput::Registry(told)),
            PlaneToAgent::StillHere => {}
            PlaneToAgent::ReportTaken(taken) => self.reports.retain(|report| report.id != taken.id),
        }
    }

    fn welcomed(&mut self, now: Duration, welcome: Welcome) {
        if self.is_live() {
            return self.hang_up(now, CloseReason::Protocol("the plane welcomed this node twice"));
        }
        self.backoff.reset();
        self.tried = 0;
        let heartbeat =
            Duration::from_millis(u64::from(welcome.heartbeat_ms)).clamp(HEARTBEAT_RANGE.0, HEARTBEAT_RANGE.1);
        self.phase = Phase::Live { heartbeat, silent_at: now + heartbeat * HEARTBEATS_MISSED_MAX, status_at: now };
        self.outputs.push_back(AgentOutput::Welcomed(welcome));
        // A plane tells of a duty only where it is not this one.
        self.outputs.push_back(AgentOutput::Duty(Duty::default()));
        for report in self.reports.clone() {
            self.send(AgentToPlane::Report(report));
        }
    }

    /// A state by the names of its manifests: taken at once where all are held, else when the last of them has come.
    fn state(&mut self, state: Broadcast<State>) {
        if let Some(older) = self.incomplete.take()
            && older.generation != state.generation
        {
            self.nack(older.generation, older.nonce, Problem::new(ProblemKind::Superseded));
        }
        if state.region == self.me.region && state.generation > self.newest() {
            let wanted = state.needs(self.config.target.as_ref());
            self.manifests.retain(|digest, _| wanted.contains(digest));
            let lacking: BTreeSet<Digest> =
                wanted.into_iter().filter(|digest| !self.manifests.contains_key(digest)).collect();
            if !lacking.is_empty() {
                self.incomplete = Some(state);
                return self.send(AgentToPlane::ManifestsWanted(ManifestsWanted { digests: lacking }));
            }
        }
        self.complete(&state);
    }

    /// Takes a manifest that the state on its way lacks; any other is dropped, so that no plane can fill a node's memory.
    fn manifest(&mut self, manifest: &SignedManifest) {
        let Some(state) = self.incomplete.take() else { return };
        let (digest, wanted) = (manifest.digest(), state.needs(self.config.target.as_ref()));
        if wanted.contains(&digest) {
            self.manifests.insert(digest, manifest.clone());
        }
        if wanted.iter().all(|wanted| self.manifests.contains_key(wanted)) {
            self.complete(&state);
        } else {
            self.incomplete = Some(state);
        }
    }

    fn complete(&mut self, state: &State) {
        self.desired(state.nonce, Arc::new(state.with(&self.manifests, self.routes.to_vec())));
    }

    /// The newest generation that serves or is being activated.
    fn newest(&self) -> Generation {
        self.activating().unwrap_or_default().max(self.serving)
    }

    fn desired(&mut self, nonce: Nonce, state: Arc<DesiredState>) {
        let generation = state.generation;
        if state.region != self.me.region {
            return self.nack(generation, nonce, Problem::new(ProblemKind::WrongRegion));
        }
        if generation == self.serving {
            return self.send(AgentToPlane::Ack(Ack { generation, nonce }));
        }
        let newest = self.newest();
        if generation < newest {
            let detail = Problem {
                found: Some(generation.0 as f64),
                wanted: Some(newest.0 as f64),
                ..Problem::new(ProblemKind::OldGeneration)
            };
            return self.nack(generation, nonce, detail);
        }
        if let Some(activating) = &mut self.activating {
            if activating.generation == generation {
                activating.nonce = Some(nonce);
                return;
            }
            if let Activating { generation: older, nonce: Some(older_nonce) } = *activating {
                self.nack(older, older_nonce, Problem::new(ProblemKind::Superseded));
            }
        }
        if let Some(rejection) = &mut self.rejection
            && rejection.state.generation == generation
            && !rejection.told
        {
            // It was tried and refused after `HereIAm` went out, and before this push came in.
            rejection.told = true;
            let detail = rejection.state.detail.clone();
            return self.nack(generation, nonce, detail);
        }
        self.rejection = None;
        self.activating = Some(Activating { generation, nonce: Some(nonce) });
        self.outputs.push_back(AgentOutput::Activate(state));
    }

    fn activated(&mut self, generation: Generation) {
        // A superseded state can still win the race to become active. It serves then, and the newer one follows.
        self.serving = self.serving.max(generation);
        if let Some(Activating { generation: current, nonce }) = self.activating
            && current == generation
        {
            self.activating = None;
            if let Some(nonce) = nonce {
                self.send(AgentToPlane::Ack(Ack { generation, nonce }));
            }
        }
    }

    fn rejected(&mut self, generation: Generation, detail: Problem) {
        let Some(Activating { generation: current, nonce }) = self.activating else { return };
        if current != generation {
            return;
        }
        self.activating = None;
        if !detail.kind.is_transient() {
            let state = RefusedState { generation, detail: detail.clone() };
            self.rejection = Some(Rejection { state, told: nonce.is_some() });
        }
        if let Some(nonce) = nonce {
            self.nack(generation, nonce, detail);
        }
    }

    fn report(&mut self, figures: AnonymisedReport) {
        if self.reports.len() >= REPORTS_KEPT {
            self.reports.pop_front();
            self.reports_dropped += 1;
        }
        let report = Report { id: self.seed.next_u64(), figures };
        self.reports.push_back(report.clone());
        if self.is_live() {
            self.send(AgentToPlane::Report(report));
        }
    }

    fn shutdown(&mut self) {
        if self.is_live() {
            self.send(AgentToPlane::Goodbye);
        }
        if !matches!(self.phase, Phase::Down) {
            self.outputs.push_back(AgentOutput::Close(CloseReason::Shutdown));
            self.phase = Phase::Down;
        }
    }

    fn nack(&mut self, generation: Generation, nonce: Nonce, detail: Problem) {
        self.send(AgentToPlane::Nack(Nack { generation, nonce, detail, serving: self.serving }));
    }

    fn send(&mut self, message: AgentToPlane) {
        self.outputs.push_back(AgentOutput::Send(message));
    }
}
