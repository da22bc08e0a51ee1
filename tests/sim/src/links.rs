//! The plane's side of each link: the real machine, driven as `control-plane/src/control/link.rs` drives it. A link waits for the disk after what it has
//! told the fleet, and of several things that woke it any may come first.

use crate::{
    ctx::{Certificate, Ctx, Event},
    plane::{After, Ask, Plane},
    scenario::Sabotage,
};
use control_plane::{
    ca::{NODE_VALIDITY, NodeCertificate, NodeIdentity},
    fleet::{
        ConnectionId,
        heard::{Follows, Teller},
    },
};
use nearfield_shared::{
    link::{CloseReason, Peer, PlaneInput, PlaneLink, PlaneOutput, Seed},
    wire::{
        NodeName,
        message::{AgentToPlane, Refused, RefusedCode},
    },
};
use std::{collections::VecDeque, time::Duration};

/// Certificates begin this long before they are made, as those of the authority do.
const BACKDATED_S: i64 = 24 * 60 * 60;

/// When agents should come back after a drain.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// One link, from the plane.
pub(crate) struct Link {
    pub conn: u64,
    pub identity: NodeIdentity,
    version: u16,
    /// `None` until the node is let in.
    machine: Option<PlaneLink>,
    inbox: VecDeque<AgentToPlane>,
    inputs: VecDeque<PlaneInput>,
    lost: bool,
    offers_seen: Option<u64>,
    routes_seen: u64,
    revoked_seen: Option<u64>,
    refused: Option<Refused>,
    /// Whether somebody who wants it gone still finds it.
    named: bool,
    drained: bool,
    /// Whether it waits for the disk.
    busy: bool,
    woken: bool,
    tick_at: Option<Duration>,
}

/// What may wake a link.
#[derive(Clone, Copy)]
enum Ready {
    Message,
    Lost,
    Offers,
    Routes,
    Revoked,
    Refused,
    Drain,
    Tick,
}

/// A certificate that is signed now.
pub(crate) fn sign(ctx: &mut Ctx) -> Certificate {
    let now = ctx.plane_unix_s();
    let serial = format!("{:016x}", ctx.chance.next());
    Certificate { serial, valid_unix_s: (now - BACKDATED_S, now + NODE_VALIDITY.as_secs() as i64) }
}

pub(crate) fn node_certificate(certificate: &Certificate) -> NodeCertificate {
    NodeCertificate {
        pem: String::new(),
        serial: certificate.serial.clone(),
        expires_unix_s: certificate.valid_unix_s.1,
    }
}

impl Plane {
    /// A connection whose certificate is good now stands, and both hellos are said.
    pub fn accept(&mut self, ctx: &mut Ctx, conn: u64, identity: NodeIdentity, version: u16) {
        let (mut admitted, writes, _) = self.fleet.let_in(&identity);
        if ctx.sabotages(Sabotage::LetsRevokedIn) {
            admitted = Ok(());
        }
        let link = Link {
            conn,
            identity,
            version,
            machine: None,
            inbox: VecDeque::new(),
            inputs: VecDeque::new(),
            lost: false,
            offers_seen: None,
            routes_seen: 0,
            revoked_seen: None,
            refused: None,
            named: false,
            drained: false,
            busy: true,
            woken: false,
            tick_at: None,
        };
        self.links.insert(conn, link);
        self.commit(ctx, writes, After::Admitted { conn, admitted });
    }

    pub(crate) fn admitted(&mut self, ctx: &mut Ctx, conn: u64, admitted: Result<(), Refused>, stored: bool) {
        let Some(link) = self.links.get(&conn) else { return };
        let (identity, version) = (link.identity.clone(), link.version);
        let node = &identity.node;
        let (_, offers) = self.follow(ctx, &identity.region);
        let (routes_seen, routes) = self.follow_routes(&identity.region);
        let state = offers.as_ref().map(|offers| offers.state_for(node));
        let machine = PlaneLink::new(
            self.config.clone(),
            Peer { node: node.clone(), region: identity.region.clone(), version },
            state,
            routes,
            Seed(conn),
            (ctx.now, ctx.plane_unix_s()),
        );
        // Asked once more, since it was let in before it had a name here.
        let overloaded = || Refused { code: RefusedCode::Overloaded, reason: "the store failed".into() };
        let admitted = if stored { admitted } else { Err(overloaded()) };
        let again = if ctx.sabotages(Sabotage::LetsRevokedIn) { Ok(()) } else { self.fleet.admit(&identity) };
        let admitted = admitted.and(again);
        let Some(link) = self.links.get_mut(&conn) else { return };
        link.machine = Some(machine);
        link.routes_seen = routes_seen;
        link.busy = false;
        match admitted {
            Ok(()) => {
                link.named = true;
                self.seen.let_in.push(identity.serial);
                self.seen.shown.extend(offers.map(|offers| (identity.region, offers.state_for(&identity.node))));
            }
            Err(refused) => link.inputs.push_back(PlaneInput::Refuse(refused)),
        }
        self.run(ctx, conn);
    }

    pub fn hears(&mut self, ctx: &mut Ctx, conn: u64, message: AgentToPlane) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.inbox.push_back(message);
            self.run(ctx, conn);
        }
    }

    pub fn loses(&mut self, ctx: &mut Ctx, conn: u64) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.lost = true;
            self.run(ctx, conn);
        }
    }

    /// Something is there for a link; it looks a little later.
    pub(crate) fn wake(&mut self, ctx: &mut Ctx, conn: u64) {
        if let Some(link) = self.links.get_mut(&conn)
            && !std::mem::replace(&mut link.woken, true)
        {
            let wait = ctx.chance.ms(0, 3);
            ctx.after(wait, Event::LinkRuns { life: self.life, conn });
        }
    }

    pub fn woken(&mut self, ctx: &mut Ctx, conn: u64) {
        if let Some(link) = self.links.get_mut(&conn) {
            link.woken = false;
            self.run(ctx, conn);
        }
    }

    pub fn ticks(&mut self, ctx: &mut Ctx, conn: u64) {
        if let Some(link) = self.links.get_mut(&conn)
            && link.tick_at.is_some_and(|at| ctx.now >= at)
        {
            link.tick_at = None;
            self.run(ctx, conn);
        }
    }

    /// Everything that a link can do before it waits again.
    fn run(&mut self, ctx: &mut Ctx, conn: u64) {
        loop {
            let Some(link) = self.links.get_mut(&conn) else { return };
            let Some(machine) = link.machine.as_mut().filter(|_| !link.busy) else { return };
            if let Some(output) = machine.poll_output() {
                match output {
                    PlaneOutput::Send(message) => ctx.send_to_agent(conn, message),
                    PlaneOutput::Close(reason) => return self.leave(ctx, conn, Some(reason)),
                    PlaneOutput::Event(event) => {
                        link.busy = true;
                        let NodeIdentity { node, region, .. } = &link.identity;
                        let teller = Teller { connection: ConnectionId(conn), node, region };
                        let (follows, writes) = self.fleet.heard(teller, &event, ctx.plane_unix_s());
                        self.commit(ctx, writes, After::Heard { conn, follows });
                    }
                }
                continue;
            }
            if let Some(input) = link.inputs.pop_front() {
                machine.handle_input(ctx.now, input);
                continue;
            }
            let Some(ready) = self.ready(ctx, conn) else { return self.arm(ctx, conn) };
            self.take(ctx, conn, ready);
        }
    }

    /// One of the things that are there for a link, whichever.
    fn ready(&self, ctx: &mut Ctx, conn: u64) -> Option<Ready> {
        let link = self.links.get(&conn)?;
        let region = &link.identity.region;
        let mut ready = Vec::new();
        if link.inbox.is_empty() {
            ready.extend(link.lost.then_some(Ready::Lost));
        } else {
            ready.push(Ready::Message);
        }
        let offered = self.offers.get(region).filter(|(_, offers)| offers.is_some()).map(|(version, _)| *version);
        ready.extend((offered.is_some() && link.offers_seen != offered).then_some(Ready::Offers));
        let told = self.told.get(region).map_or(0, |(version, _)| *version);
        ready.extend((told != link.routes_seen).then_some(Ready::Routes));
        let revoked = self.revoked.as_ref().map(|(number, _)| *number);
        ready.extend((revoked != link.revoked_seen).then_some(Ready::Revoked));
        ready.extend(link.refused.is_some().then_some(Ready::Refused));
        ready.extend((self.draining && !link.drained).then_some(Ready::Drain));
        let due = link.machine.as_ref().and_then(|machine| machine.poll_timeout()).is_some_and(|at| ctx.now >= at);
        ready.extend(due.then_some(Ready::Tick));
        ctx.chance.pick(&ready).copied()
    }

    fn take(&mut self, ctx: &mut Ctx, conn: u64, ready: Ready) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        let region = link.identity.region.clone();
        match ready {
            Ready::Message => link.inputs.extend(link.inbox.pop_front().map(PlaneInput::Message)),
            Ready::Lost => self.leave(ctx, conn, None),
            Ready::Offers => {
                let Some((version, Some(offers))) = self.offers.get(&region) else { return };
                link.offers_seen = Some(*version);
                let (duty, state) = (offers.duty_of(&link.identity.node), offers.state_for(&link.identity.node));
                self.seen.shown.push((region, state.clone()));
                link.inputs.extend([PlaneInput::Duty(duty), PlaneInput::Desired(state)]);
            }
            Ready::Routes => {
                if let Some((version, routes)) = self.told.get(&region) {
                    link.routes_seen = *version;
                    link.inputs.push_back(PlaneInput::Routes(routes.clone()));
                }
            }
            Ready::Revoked => {
                link.revoked_seen = self.revoked.as_ref().map(|(number, _)| *number);
                link.inputs.extend(self.revoked.as_ref().map(|(_, list)| PlaneInput::Revoked(list.clone())));
            }
            Ready::Refused => link.inputs.extend(link.refused.take().map(PlaneInput::Refuse)),
            Ready::Drain => {
                link.drained = true;
                link.inputs.push_back(PlaneInput::Drain { retry_after: RETRY_AFTER });
            }
            Ready::Tick => link.inputs.push_back(PlaneInput::Tick),
        }
    }

    /// Sees to it that a link is woken in time.
    fn arm(&mut self, ctx: &mut Ctx, conn: u64) {
        let Some(link) = self.links.get_mut(&conn) else { return };
        if let Some(at) = link.machine.as_ref().and_then(|machine| machine.poll_timeout())
            && link.tick_at.is_none_or(|armed| at < armed)
        {
            link.tick_at = Some(at);
            ctx.schedule.add(at.max(ctx.now), Event::LinkTicks { life: self.life, conn });
        }
    }

    /// What a link has told is stored, or could not be.
    pub(crate) fn follow_up(&mut self, ctx: &mut Ctx, conn: u64, follows: Follows, stored: bool) {
        let node = self.links.get(&conn).map(|link| link.identity.node.clone());
        if follows.replaces_older
            && let Some(node) = &node
        {
            let refused = Refused { code: RefusedCode::Replaced, reason: "the node has connected again".into() };
            self.refuse_links(ctx, node, &refused, |other| other < conn);
        }
        if stored {
            if follows.renumbered {
                ctx.trace.say(ctx.now, format_args!("the plane numbers above its nodes"));
                self.publish_where(ctx, |_| true);
            }
            if follows.routes {
                self.touch_routes(ctx);
            }
            if follows.rollouts {
                self.touch_rollouts(ctx);
            }
        }
        if let Some(link) = self.links.get_mut(&conn) {
            link.busy = false;
            link.inputs.extend(follows.taken.filter(|_| stored).map(PlaneInput::ReportTaken));
        }
    }

    fn leave(&mut self, ctx: &mut Ctx, conn: u64, reason: Option<CloseReason>) {
        let Some(link) = self.links.remove(&conn) else { return };
        ctx.plane_leaves(conn);
        if link.named && !link.drained {
            let node = &link.identity.node;
            ctx.trace.say(ctx.now, format_args!("the plane's link {conn} to {node} ends: {reason:?}"));
            // An end that is told twice changes nothing.
            for _ in 0..1 + u64::from(ctx.chance.one_in(8)) {
                let writes = self.fleet.gone(node, ConnectionId(conn), ctx.plane_unix_s());
                self.commit(ctx, writes, After::Nothing);
            }
            self.touch_routes(ctx);
        }
    }

    /// Hangs up on links of a node.
    pub(crate) fn refuse_links(
        &mut self,
        ctx: &mut Ctx,
        node: &NodeName,
        refused: &Refused,
        which: impl Fn(u64) -> bool,
    ) {
        let of_node = |link: &&mut Link| link.named && link.identity.node == *node && which(link.conn);
        let mut conns = Vec::new();
        for link in self.links.values_mut().filter(of_node) {
            link.named_refused(refused);
            conns.push(link.conn);
        }
        conns.into_iter().for_each(|conn| self.wake(ctx, conn));
    }

    /// A node asks for its next certificate.
    pub fn asked_to_renew(&mut self, ctx: &mut Ctx, ask: Ask) {
        let (admitted, writes, _) = self.fleet.let_in(&ask.identity);
        self.commit(ctx, writes, After::RenewAdmitted { ask, admitted: admitted.is_ok() });
    }

    pub(crate) fn sign_next(&mut self, ctx: &mut Ctx, ask: Ask, admitted: bool) {
        let (now, node) = (ctx.plane_unix_s(), &ask.identity.node);
        let may = admitted && self.fleet.admit(&ask.identity).is_ok() && self.fleet.may_renew(node, now).is_ok();
        if !may {
            return self.answer_renewal(ctx, &ask, None);
        }
        let certificate = sign(ctx);
        let writes = self.fleet.renewed(node, &node_certificate(&certificate), now);
        self.commit(ctx, writes, After::Renewed { ask, certificate });
    }

    pub(crate) fn answer_renewal(&mut self, ctx: &mut Ctx, ask: &Ask, renewed: Option<Certificate>) {
        let at = ctx.packet(ask.agent);
        // An answer that is lost is the end of its connection.
        let renewed = renewed.filter(|_| !ctx.fault(100));
        let (agent, life, dial, alone) = (ask.agent, ask.life, ask.dial, ask.alone);
        ctx.schedule.add(at, Event::RenewAnswered { agent, life, dial, alone, renewed });
    }
}

impl Link {
    fn named_refused(&mut self, refused: &Refused) {
        self.refused.get_or_insert_with(|| refused.clone());
    }
}
