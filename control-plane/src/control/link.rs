//! One control link: `shared::link::plane` decides, this task reads, writes and tells the time.
//!
//! The task owns the machine. Everything that happens becomes one input; what the machine wants is done before the next.

use super::{artefacts, close, hang_up};
use crate::{
    ca::NodeIdentity,
    fleet::{
        ConnectionId,
        heard::{Follows, Teller},
    },
    offers::Offers,
    plane::Plane,
    store::StoreError,
};
use nearfield_shared::{
    link::{CloseReason, Peer, PlaneEvent, PlaneInput, PlaneLink, PlaneOutput, RegistryOffer, Seed},
    wire::{
        AgentToPlane, Broadcast, FrameDecoder, Hello, Limit, PlaneToAgent,
        hello::HELLO_BYTES,
        message::{ProblemKind, Refused, RefusedCode, Routes},
    },
};
use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Longest time from the handshake to the open control stream with its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time for a message to be taken by the agent.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// When agents should come back after a drain; each adds up to as much again, so that they do not come in step.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// How long a last message may take to arrive before the connection is closed.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves one control link until it ends.
pub async fn serve(plane: Arc<Plane>, connection: quinn::Connection, identity: NodeIdentity, stop: CancellationToken) {
    let greeted = match Box::pin(tokio::time::timeout(HELLO_TIMEOUT, hello(&connection))).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(reason)) => return hang_up(&connection, close::PROTOCOL, &reason),
        Err(_) => return hang_up(&connection, close::SILENT, "no hello"),
    };
    let id = plane.number_connection();
    let admitted = Box::pin(plane.admit(&identity)).await;
    let mut link = Link::new(&plane, connection, identity, id, greeted);
    match admitted {
        Ok(()) => link.run(stop).await,
        Err(refused) => Box::pin(link.turn_away(refused)).await,
    }
    Box::pin(link.last_words()).await;
}

/// The control stream after its hellos, and the version that both sides speak.
struct Greeted {
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    version: u16,
}

async fn hello(connection: &quinn::Connection) -> Result<Greeted, String> {
    let (mut send, mut recv) = connection.accept_bi().await.map_err(|e| e.to_string())?;
    send.write_all(&Hello::OURS.to_bytes()).await.map_err(|e| e.to_string())?;
    let mut theirs = [0; HELLO_BYTES];
    recv.read_exact(&mut theirs).await.map_err(|e| e.to_string())?;
    let theirs = Hello::from_bytes(&theirs).map_err(|e| e.to_string())?;
    let version = Hello::OURS.agree(theirs).map_err(|e| e.to_string())?;
    Ok(Greeted { send, recv, version })
}

/// Why the task stops.
enum Ended {
    /// The machine has closed the link.
    Closed(CloseReason),
    /// The connection is gone.
    Lost(String),
}

struct Link {
    plane: Arc<Plane>,
    connection: quinn::Connection,
    identity: NodeIdentity,
    id: ConnectionId,
    machine: PlaneLink,
    desired: watch::Receiver<Option<Arc<Offers>>>,
    routes: watch::Receiver<Broadcast<Routes>>,
    registry: watch::Receiver<Option<(Arc<RegistryOffer>, String)>>,
    send: quinn::SendStream,
    recv: quinn::RecvStream,
    decoder: FrameDecoder,
    /// Streams on which the node asks for something.
    asked: TaskTracker,
    code: (u32, &'static str),
}

/// What woke the task.
#[allow(clippy::large_enum_variant, reason = "it is taken at once and never stored")]
enum Woken {
    Input(PlaneInput),
    Offers(Arc<Offers>),
    Bytes(quinn::Chunk),
    Asked(quinn::SendStream, quinn::RecvStream),
    Lost(String),
}

impl Link {
    fn new(
        plane: &Arc<Plane>,
        connection: quinn::Connection,
        identity: NodeIdentity,
        id: ConnectionId,
        Greeted { send, recv, version }: Greeted,
    ) -> Self {
        let mut desired = plane.follow_desired(&identity.region);
        // What else is asked of the node goes out with its welcome.
        desired.mark_changed();
        let mut routes = plane.follow_routes(&identity.region);
        let mut registry = plane.follow_registry();
        let machine = PlaneLink::new(
            plane.link.clone(),
            Peer { node: identity.node.clone(), region: identity.region.clone(), version },
            desired.borrow().as_ref().map(|offers| offers.state_for(&identity.node)),
            routes.borrow_and_update().clone(),
            // It only spreads waits, so whatever differs from link to link will do.
            Seed(id.0),
            (plane.started.elapsed(), plane.now()),
        )
        .with_registry(registry.borrow_and_update().as_ref().map(|(offer, _)| offer.clone()));
        Self {
            plane: plane.clone(),
            connection,
            identity,
            id,
            machine,
            desired,
            routes,
            registry,
            send,
            recv,
            decoder: FrameDecoder::new(Limit::FROM_AGENT),
            asked: TaskTracker::new(),
            code: (close::DONE, "bye"),
        }
    }

    async fn run(&mut self, stop: CancellationToken) {
        let mut refused = self.plane.connected(&self.identity.node, self.id);
        // A revocation from here on reaches this connection by name; one that came before it had a name is found here.
        if let Err(refused) = self.plane.look(|fleet| fleet.admit(&self.identity)) {
            self.plane.disconnected(&self.identity.node, self.id);
            return Box::pin(self.turn_away(refused)).await;
        }
        let mut revoked = self.plane.follow_revoked();
        // The list that stands now goes out with the welcome.
        revoked.mark_changed();
        let mut draining = false;
        let ended = loop {
            let deadline = self.machine.poll_timeout().map(|at| self.plane.started + at);
            let woken = tokio::select! {
                chunk = self.recv.read_chunk(64 << 10, true) => match chunk {
                    Ok(Some(chunk)) => Woken::Bytes(chunk),
                    Ok(None) => Woken::Lost("the agent has closed the control stream".into()),
                    Err(error) => Woken::Lost(error.to_string()),
                },
                stream = self.connection.accept_bi() => match stream {
                    Ok((send, recv)) => Woken::Asked(send, recv),
                    Err(error) => Woken::Lost(error.to_string()),
                },
                Ok(()) = self.desired.changed() => match self.desired.borrow_and_update().clone() {
                    Some(offers) => Woken::Offers(offers),
                    None => continue,
                },
                Ok(()) = self.routes.changed() => {
                    Woken::Input(PlaneInput::Routes(self.routes.borrow_and_update().clone()))
                }
                Ok(()) = self.registry.changed() => match self.registry.borrow_and_update().clone() {
                    Some((registry, _)) => Woken::Input(PlaneInput::Registry(registry)),
                    None => continue,
                },
                Ok(()) = revoked.changed() => match revoked.borrow_and_update().clone() {
                    Some((_, list)) => Woken::Input(PlaneInput::Revoked(list)),
                    None => continue,
                },
                Ok(refused) = &mut refused => Woken::Input(PlaneInput::Refuse(refused)),
                () = stop.cancelled(), if !draining => {
                    draining = true;
                    Woken::Input(PlaneInput::Drain { retry_after: RETRY_AFTER })
                }
                () = sleep_until(deadline) => Woken::Input(PlaneInput::Tick),
            };
            // What is boxed here and below takes memory while it runs, and not from every link at rest.
            let stepped = match woken {
                Woken::Input(input) => Box::pin(self.step(input)).await,
                Woken::Offers(offers) => Box::pin(self.offered(&offers)).await,
                Woken::Bytes(chunk) => Box::pin(self.receive(&chunk.bytes)).await,
                Woken::Asked(send, recv) => {
                    self.asked.spawn(artefacts::serve(self.plane.clone(), self.identity.clone(), send, recv));
                    Ok(())
                }
                Woken::Lost(reason) => Err(Ended::Lost(reason)),
            };
            if let Err(ended) = stepped {
                break ended;
            }
        };
        Box::pin(self.leave(ended, draining)).await;
    }

    /// Takes what nodes of the region are offered now.
    async fn offered(&mut self, offers: &Offers) -> Result<(), Ended> {
        let node = &self.identity.node;
        let (duty, state) = (offers.duty_of(node), offers.state_for(node));
        // What the state names may be listed since a moment ago only.
        if self.registry.has_changed().unwrap_or(false) {
            let registry = self.registry.borrow_and_update().clone();
            if let Some((registry, _)) = registry {
                self.step(PlaneInput::Registry(registry)).await?;
            }
        }
        self.step(PlaneInput::Duty(duty)).await?;
        self.step(PlaneInput::Desired(state)).await
    }

    async fn turn_away(&mut self, refused: Refused) {
        tracing::warn!(node = %self.identity.node, reason = refused.reason, "turned away");
        // The machine closes after it; a connection that is gone needs no word.
        self.step(PlaneInput::Refuse(refused)).await.ok();
    }

    async fn leave(&mut self, ended: Ended, draining: bool) {
        let node = &self.identity.node;
        match ended {
            Ended::Closed(reason) => tracing::info!(%node, ?reason, "the link was closed"),
            Ended::Lost(reason) => tracing::info!(%node, reason, "the link ended"),
        }
        self.plane.disconnected(node, self.id);
        // A plane that goes down keeps its nodes as up: they serve on, and come back to its successor.
        if !draining {
            let gone = self.plane.commit(|fleet| ((), fleet.gone(node, self.id, self.plane.now()))).await;
            if let Err(error) = gone {
                tracing::error!(%node, %error, "that the node has gone is not stored");
            }
            self.plane.touch_routes();
        }
    }

    async fn receive(&mut self, bytes: &[u8]) -> Result<(), Ended> {
        self.decoder.receive(bytes);
        loop {
            let message =
                self.decoder.next_frame().and_then(|frame| frame.map(|f| AgentToPlane::decode(&f)).transpose());
            match message {
                Ok(Some(message)) => self.step(PlaneInput::Message(message)).await?,
                Ok(None) => return Ok(()),
                Err(error) => {
                    tracing::warn!(node = %self.identity.node, %error, "the agent broke the protocol");
                    let refused = Refused { code: RefusedCode::Protocol, reason: error.to_string() };
                    return self.step(PlaneInput::Refuse(refused)).await;
                }
            }
        }
    }

    /// One input, and everything that the machine wants because of it.
    async fn step(&mut self, input: PlaneInput) -> Result<(), Ended> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            self.machine.handle_input(self.plane.started.elapsed(), input);
            while let Some(output) = self.machine.poll_output() {
                match output {
                    PlaneOutput::Send(message) => self.say(&message).await?,
                    PlaneOutput::Close(reason) => {
                        self.code = match &reason {
                            CloseReason::Refused(_) => (close::REFUSED, "refused"),
                            CloseReason::GoAway => (close::GOING_DOWN, "going down"),
                            CloseReason::Silent | CloseReason::DialTimeout => (close::SILENT, "silent"),
                            CloseReason::Protocol(_) => (close::PROTOCOL, "protocol"),
                            CloseReason::Shutdown => (close::DONE, "goodbye"),
                        };
                        return Err(Ended::Closed(reason));
                    }
                    PlaneOutput::Event(event) => match self.event(event).await {
                        Ok(Some(next)) => inputs.push_back(next),
                        Ok(None) => {}
                        // The agent sends a report again, and everything else again with its next greeting.
                        Err(error) => tracing::error!(node = %self.identity.node, %error, "an event is not stored"),
                    },
                }
            }
        }
        Ok(())
    }

    async fn say(&mut self, message: &PlaneToAgent) -> Result<(), Ended> {
        let bytes = message.encode().map_err(|error| {
            tracing::error!(node = %self.identity.node, %error, "a message is too large for the wire");
            Ended::Lost(error.to_string())
        })?;
        match tokio::time::timeout(SEND_TIMEOUT, self.send.write_chunk(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(Ended::Lost(error.to_string())),
            Err(_) => Err(Ended::Lost("the agent does not read".into())),
        }
    }

    /// Carries out what a link tells: the fleet decides what it means.
    async fn event(&mut self, event: PlaneEvent) -> Result<Option<PlaneInput>, StoreError> {
        let (plane, id, now) = (&self.plane, self.id, self.plane.now());
        let NodeIdentity { node, region, .. } = &self.identity;
        self.log(&event);
        let mut follows = Follows::default();
        let stored = plane
            .commit(|fleet| {
                let (what, writes) = fleet.heard(Teller { connection: id, node, region }, &event, now);
                follows = what;
                ((), writes)
            })
            .await;
        if follows.replaces_older {
            plane.replace_older(node, id);
        }
        stored?;
        if follows.renumbered {
            tracing::warn!(%node, "the node serves a generation that this store does not know; numbering above it");
            plane.publish_desired();
        }
        if follows.impossible {
            tracing::warn!(%node, "the node states a generation that no plane has made; it is ignored");
        }
        if follows.routes {
            plane.touch_routes();
        }
        if follows.rollouts {
            plane.touch_rollouts();
        }
        if matches!(&event, PlaneEvent::Nacked(nack) if nack.detail.kind == ProblemKind::RegistryExpired) {
            plane.touch_registry();
        }
        Ok(follows.taken.map(PlaneInput::ReportTaken))
    }

    fn log(&self, event: &PlaneEvent) {
        let NodeIdentity { node, region, .. } = &self.identity;
        match event {
            PlaneEvent::Greeted(here) => {
                tracing::info!(%node, %region, serving = %here.serving, version = %here.agent_version, "connected");
            }
            PlaneEvent::Acked(generation) => tracing::info!(%node, %generation, "serves"),
            PlaneEvent::Nacked(nack) => {
                tracing::warn!(%node, generation = %nack.generation, serving = %nack.serving, reason = %nack.detail, "refuses");
            }
            PlaneEvent::AgentAhead(theirs) => tracing::warn!(%node, %theirs, "serves a generation above ours"),
            PlaneEvent::Goodbye => tracing::info!(%node, "goes down on purpose"),
            PlaneEvent::Status(_) | PlaneEvent::Report(_) => {}
        }
    }

    /// Lets the last message arrive, then closes.
    async fn last_words(&mut self) {
        self.asked.close();
        if self.send.finish().is_ok() {
            tokio::time::timeout(LAST_WORDS_TIMEOUT, self.send.stopped()).await.ok();
        }
        hang_up(&self.connection, self.code.0, self.code.1);
        // Their streams ended with the connection.
        self.asked.wait().await;
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
