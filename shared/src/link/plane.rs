//! The plane's half, one for each connection: welcomes a node, pushes the desired state of its region, hears the answers.

use super::{
    agent::HEARTBEATS_MISSED_MAX,
    backoff::{Backoff, BackoffConfig, Seed},
    close::CloseReason,
    offer::{Offer, RegistryOffer},
};
use crate::{
    artefact::Digest,
    desired::Generation,
    region::RegionId,
    wire::{
        Broadcast,
        message::{
            AgentToPlane, Duty, GoAway, HereIAm, MANIFESTS_WANTED_MAX, Nack, Nonce, PlaneToAgent, Refused, RefusedCode,
            Report, ReportTaken, Revoked, Routes, Status, Welcome,
        },
        names::{NodeName, VersionName},
    },
};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// How the plane's half behaves.
#[derive(Debug, Clone)]
pub struct PlaneLinkConfig {
    /// Version of the plane program.
    pub plane_version: VersionName,
    /// How often each side shows that it lives. 15 s finds a dead node within 45 s at 667 messages a second from 10,000.
    pub heartbeat: Duration,
    /// Longest time from the open stream to `HereIAm`.
    pub greeting_timeout: Duration,
    /// Waits before a state that a node refused for a passing reason is pushed again.
    pub retry: BackoffConfig,
}

impl PlaneLinkConfig {
    /// The usual times.
    pub fn new(plane_version: VersionName) -> Self {
        Self {
            plane_version,
            heartbeat: Duration::from_secs(15),
            greeting_timeout: Duration::from_secs(10),
            retry: BackoffConfig { first: Duration::from_secs(10), max: Duration::from_secs(600) },
        }
    }
}

/// What happened.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "an input is taken at once and never stored")]
pub enum PlaneInput {
    /// A message came.
    Message(AgentToPlane),
    /// The region's state has changed.
    Desired(Arc<Offer>),
    /// What is asked of the node beside its state.
    Duty(Duty),
    /// Nodes came or went.
    Routes(Broadcast<Routes>),
    /// The registry's metadata; before the node is welcomed it waits.
    Registry(Arc<RegistryOffer>),
    /// The list of revoked certificates, PEM; before the node is welcomed it waits.
    Revoked(Broadcast<Revoked>),
    /// The report with this id is stored.
    ReportTaken(u64),
    /// Hang up on the node and say why.
    Refuse(Refused),
    /// The plane goes down on purpose.
    Drain {
        /// When the node should dial again.
        retry_after: Duration,
    },
    /// Time has passed.
    Tick,
}

/// What to do.
#[allow(clippy::large_enum_variant, reason = "an output is carried out at once and never stored")]
#[derive(Debug, PartialEq)]
pub enum PlaneOutput {
    /// Send this on the control stream.
    Send(PlaneToAgent),
    /// Close the connection once everything before this is sent.
    Close(CloseReason),
    /// Something that the fleet should know.
    Event(PlaneEvent),
}

/// What the fleet should know of a connection.
#[derive(Debug, Clone, PartialEq)]
pub enum PlaneEvent {
    /// The node is there.
    Greeted(HereIAm),
    /// The node serves this generation.
    Acked(Generation),
    /// The node refused a generation.
    Nacked(Nack),
    /// How the node is.
    Status(Status),
    /// Figures; answer with [`PlaneInput::ReportTaken`] once they are stored.
    Report(Report),
    /// The node serves a generation that this plane has not made: the plane's store is older than the fleet.
    /// Renumber the region above it.
    AgentAhead(Generation),
    /// The node went down on purpose.
    Goodbye,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting { deadline: Duration },
    Live { silent_at: Duration, still_here_at: Duration },
    Closed,
}

/// Who is at the other end, by its certificate and its hello.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The node.
    pub node: NodeName,
    /// Its region.
    pub region: RegionId,
    /// The version that both sides speak.
    pub version: u16,
}

/// The plane's half of one link.
#[derive(Debug)]
pub struct PlaneLink {
    config: Arc<PlaneLinkConfig>,
    peer: Peer,
    /// Wall clock at the owner's moment zero, for the welcome.
    unix_s_at_zero: i64,
    seed: Seed,
    phase: Phase,
    desired: Option<Arc<Offer>>,
    routes: Broadcast<Routes>,
    revoked: Option<Broadcast<Revoked>>,
    registry: Option<Arc<RegistryOffer>>,
    /// Whose roots and targets this connection has carried.
    registry_told: Option<Digest>,
    duty: Duty,
    /// What the node was told of it on this connection, or took by itself.
    duty_told: Duty,
    /// What the node is known to serve.
    serving: Generation,
    /// The newest generation that it refused for good.
    refused: Option<Generation>,
    in_flight: Option<(Generation, Nonce)>,
    retry: Backoff,
    retry_at: Option<Duration>,
    outputs: VecDeque<PlaneOutput>,
}

impl PlaneLink {
    /// A connection of a node that its certificate names, with its control stream open and both hellos exchanged.
    pub fn new(
        config: Arc<PlaneLinkConfig>,
        peer: Peer,
        desired: Option<Arc<Offer>>,
        routes: Broadcast<Routes>,
        seed: Seed,
        (now, unix_s): (Duration, i64),
    ) -> Self {
        Self {
            peer,
            unix_s_at_zero: unix_s.saturating_sub(now.as_secs() as i64),
            seed,
            phase: Phase::Greeting { deadline: now + config.greeting_timeout },
            desired,
            routes,
            revoked: None,
            registry: None,
            registry_told: None,
            duty: Duty::default(),
            duty_told: Duty::default(),
            serving: Generation(0),
            refused: None,
            in_flight: None,
            retry: Backoff::new(config.retry),
            retry_at: None,
            outputs: VecDeque::new(),
            config,
        }
    }

    /// The same, with the registry's metadata, which the node is told before any state.
    #[must_use]
    pub fn with_registry(self, registry: Option<Arc<RegistryOffer>>) -> Self {
        Self { registry, ..self }
    }

    /// What the node is known to serve.
    pub fn serving(&self) -> Generation {
        self.serving
    }

    /// When to hand in [`PlaneInput::Tick`] at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.phase {
            Phase::Greeting { deadline } => Some(deadline),
            Phase::Live { silent_at, still_here_at } => {
                let next = silent_at.min(still_here_at);
                Some(self.retry_at.map_or(next, |at| at.min(next)))
            }
            Phase::Closed => None,
        }
    }

    /// What to do next, in order.
    pub fn poll_output(&mut self) -> Option<PlaneOutput> {
        self.outputs.pop_front()
    }

    /// Takes what happened.
    pub fn handle_input(&mut self, now: Duration, input: PlaneInput) {
        if self.phase == Phase::Closed {
            return;
        }
        match input {
            PlaneInput::Message(message) => self.message(now, message),
            PlaneInput::Desired(offer) => {
                // A watch may hand over the same or, in a race, an older state; neither is news.
                if self.desired.as_ref().is_none_or(|current| offer.generation() > current.generation()) {
                    self.desired = Some(offer);
                    self.retry.reset();
                    self.retry_at = None;
                }
            }
            PlaneInput::Duty(duty) => self.duty = duty,
            PlaneInput::Routes(routes) => {
                self.routes = routes;
                if self.is_live() {
                    self.send_routes(now);
                }
            }
            PlaneInput::Registry(registry) => {
                self.registry = Some(registry);
                if self.is_live() {
                    self.send_registry(now);
                }
                // What a node refused for want of this it may take now.
                if self.retry_at.is_some() {
                    self.retry.reset();
                    self.retry_at = None;
                }
            }
            PlaneInput::Revoked(list) => {
                self.revoked = Some(list);
                if self.is_live() {
                    self.send_revoked(now);
                }
            }
            PlaneInput::ReportTaken(id) => {
                if self.is_live() {
                    self.send(now, PlaneToAgent::ReportTaken(ReportTaken { id }));
                }
            }
            PlaneInput::Refuse(refused) => self.refuse(now, refused.code, refused.reason),
            PlaneInput::Drain { retry_after } => {
                let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
                self.send(now, PlaneToAgent::GoAway(GoAway { retry_after_ms }));
                self.close(CloseReason::GoAway);
            }
            PlaneInput::Tick => {}
        }
        self.push_what_is_new(now);
        self.tell_duty(now);
        self.time_passes(now);
    }

    fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live { .. })
    }

    fn message(&mut self, now: Duration, message: AgentToPlane) {
        if let Phase::Live { silent_at, .. } = &mut self.phase {
            *silent_at = now + self.config.heartbeat * HEARTBEATS_MISSED_MAX;
        }
        match message {
            AgentToPlane::Unknown(_) => {}
            AgentToPlane::HereIAm(here) if !self.is_live() => self.greet(now, here),
            AgentToPlane::HereIAm(_) => {
                self.refuse(now, RefusedCode::Protocol, "a second HereIAm on one connection".into());
            }
            _ if !self.is_live() => {
                self.refuse(now, RefusedCode::Protocol, "the first message must be HereIAm".into());
            }
            AgentToPlane::Ack(ack) => {
                if self.in_flight == Some((ack.generation, ack.nonce)) {
                    self.in_flight = None;
                    self.serving = ack.generation;
                    self.retry.reset();
                    self.event(PlaneEvent::Acked(ack.generation));
                }
            }
            AgentToPlane::Nack(nack) => self.nacked(now, nack),
            AgentToPlane::Status(status) => {
                self.serving = self.serving.max(status.serving);
                self.event(PlaneEvent::Status(status));
            }
            AgentToPlane::Report(report) => self.event(PlaneEvent::Report(report)),
            AgentToPlane::ManifestsWanted(wanted) => {
                // What this offer does not hold belongs to an older one, and a push of this one is on its way.
                let Some(offer) = self.desired.clone() else { return };
                for digest in wanted.digests.iter().take(MANIFESTS_WANTED_MAX) {
                    if let Some(manifest) = offer.manifest(digest) {
                        self.send(now, manifest);
                    }
                }
            }
            AgentToPlane::Goodbye => {
                self.event(PlaneEvent::Goodbye);
                self.close(CloseReason::Shutdown);
            }
        }
    }

    fn greet(&mut self, now: Duration, here: HereIAm) {
        let Peer { node, region, .. } = &self.peer;
        if (&here.node, &here.region) != (node, region) {
            let reason = format!(
                "the certificate belongs to node {} in {}, but the agent says it is {} in {}; enrol it again under its new name",
                node, region, here.node, here.region
            );
            return self.refuse(now, RefusedCode::WrongIdentity, reason);
        }
        self.serving = here.serving;
        self.refused = here.refused.as_ref().map(|refused| refused.generation);
        self.phase = Phase::Live {
            silent_at: now + self.config.heartbeat * HEARTBEATS_MISSED_MAX,
            still_here_at: now + self.config.heartbeat,
        };
        let generation = self.offered();
        let welcome = Welcome {
            plane_version: self.config.plane_version.clone(),
            heartbeat_ms: u32::try_from(self.config.heartbeat.as_millis()).unwrap_or(u32::MAX),
            unix_s: self.unix_s_at_zero.saturating_add(now.as_secs() as i64),
            generation,
        };
        self.send(now, PlaneToAgent::Welcome(welcome));
        self.send_registry(now);
        self.event(PlaneEvent::Greeted(here));
        if self.serving > generation {
            self.event(PlaneEvent::AgentAhead(self.serving));
        }
        if !self.routes.routes.is_empty() {
            self.send_routes(now);
        }
        self.send_revoked(now);
    }

    fn nacked(&mut self, now: Duration, nack: Nack) {
        if self.in_flight == Some((nack.generation, nack.nonce)) {
            self.in_flight = None;
            self.serving = self.serving.max(nack.serving);
            if nack.detail.kind.is_transient() {
                self.retry_at = Some(now + self.retry.after_failure(&mut self.seed));
            } else {
                self.refused = Some(nack.generation);
            }
        }
        let ahead = nack.serving > self.offered();
        let serving = nack.serving;
        self.event(PlaneEvent::Nacked(nack));
        if ahead {
            self.event(PlaneEvent::AgentAhead(serving));
        }
    }

    /// The generation of the region's state; 0 where there is none.
    fn offered(&self) -> Generation {
        self.desired.as_ref().map_or(Generation(0), |offer| offer.generation())
    }

    /// The one place that decides whether a push goes out. Holds after every input.
    fn push_what_is_new(&mut self, now: Duration) {
        if !self.is_live() {
            return;
        }
        if self.retry_at.is_some_and(|at| now >= at) {
            self.retry_at = None;
        }
        let Some(offer) = &self.desired else { return };
        let generation = offer.generation();
        let is_new = generation > self.serving
            && self.refused != Some(generation)
            && self.in_flight.is_none_or(|(pushed, _)| pushed < generation)
            && self.retry_at.is_none();
        if is_new {
            self.in_flight = Some((generation, offer.nonce()));
            let push = offer.push(self.peer.version);
            self.send(now, push);
        }
    }

    fn tell_duty(&mut self, now: Duration) {
        if self.is_live() && self.duty != self.duty_told {
            self.duty_told = self.duty;
            self.send(now, PlaneToAgent::Duty(self.duty));
        }
    }

    fn time_passes(&mut self, now: Duration) {
        match self.phase {
            Phase::Greeting { deadline } if now >= deadline => self.close(CloseReason::Silent),
            Phase::Live { silent_at, .. } if now >= silent_at => self.close(CloseReason::Silent),
            Phase::Live { still_here_at, .. } if now >= still_here_at => self.send(now, PlaneToAgent::StillHere),
            _ => {}
        }
    }

    fn refuse(&mut self, now: Duration, code: RefusedCode, reason: String) {
        self.send(now, PlaneToAgent::Refused(Refused { code, reason: reason.clone() }));
        self.close(CloseReason::Refused(Refused { code, reason }));
    }

    fn close(&mut self, reason: CloseReason) {
        self.phase = Phase::Closed;
        self.outputs.push_back(PlaneOutput::Close(reason));
    }

    fn send_routes(&mut self, now: Duration) {
        self.send(now, PlaneToAgent::Routes(self.routes.clone()));
    }

    fn send_registry(&mut self, now: Duration) {
        let Some(registry) = self.registry.clone() else { return };
        let told = self.registry_told.replace(registry.body());
        self.send(now, registry.push(told == Some(registry.body())));
    }

    fn send_revoked(&mut self, now: Duration) {
        if let Some(list) = self.revoked.clone() {
            self.send(now, PlaneToAgent::Revoked(list));
        }
    }

    fn send(&mut self, now: Duration, message: PlaneToAgent) {
        if let Phase::Live { still_here_at, .. } = &mut self.phase {
            *still_here_at = now + self.config.heartbeat;
        }
        self.outputs.push_back(PlaneOutput::Send(message));
    }

    fn event(&mut self, event: PlaneEvent) {
        self.outputs.push_back(PlaneOutput::Event(event));
    }
}
