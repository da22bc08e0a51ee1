//! The run: every event in turn, every oracle after each.

use crate::{
    admin,
    agent::Agent,
    catalogue::Catalogue,
    chance::Chance,
    ctx::{Ctx, Dialled, Event},
    disk::PlaneDisk,
    faults::SKEW_S_MAX,
    links::{node_certificate, sign},
    network::{Network, Path},
    oracles::{Oracles, Violation},
    plane::{Ask, Plane},
    scenario::Scenario,
    schedule::Schedule,
    trace::Trace,
};
use control_plane::{definition::Definition, fleet::Fleet, store::Store as _};
use nearfield_shared::{
    region::RegionId,
    wire::{
        Hello,
        hello::{VERSION_MAX, VERSION_MIN},
    },
};
use std::time::Duration;

/// How often the end is looked for once faults are over.
const LOOKS_EVERY: Duration = Duration::from_secs(2);

/// A whole simulated system.
pub struct World {
    pub(crate) ctx: Ctx,
    pub(crate) scenario: Scenario,
    pub(crate) agents: Vec<Agent>,
    pub(crate) plane: Option<Plane>,
    /// The plane's disk while no plane runs.
    pub(crate) disk: PlaneDisk,
    pub(crate) hello: Hello,
    lives: u64,
    /// Whether the store is found damaged at the next start.
    pub(crate) damaged: bool,
    pub(crate) jumps_left: u64,
    /// Whether the plane's clock was ever wrong, and whether its store was ever lost.
    pub(crate) clock_was_wrong: bool,
    pub(crate) store_was_lost: bool,
    pub(crate) healing: bool,
    pub(crate) healed_at: Duration,
    looked_at: Duration,
    pub(crate) oracles: Oracles,
}

pub(crate) fn hello(version: u16) -> Hello {
    Hello { min: VERSION_MIN, max: version }
}

impl World {
    /// A fleet that was defined and enrolled, whose plane and nodes are about to start.
    pub fn new(scenario: Scenario, printed: bool) -> Self {
        let mut chance = Chance::new(scenario.seed);
        let catalogue = Catalogue::new(&mut chance);
        let ctx = Ctx {
            now: Duration::from_secs(1),
            schedule: Schedule::default(),
            chance,
            trace: Trace::printed(printed),
            catalogue,
            net: Network::default(),
            calm: false,
            plane_skew_s: 0,
            wire: scenario.wire,
            sabotage: scenario.sabotage,
        };
        let mut world = Self {
            ctx,
            agents: Vec::new(),
            plane: None,
            disk: PlaneDisk::default(),
            hello: hello(VERSION_MAX),
            lives: 0,
            damaged: false,
            jumps_left: 2,
            clock_was_wrong: false,
            store_was_lost: false,
            healing: false,
            healed_at: scenario.chaos,
            looked_at: Duration::ZERO,
            oracles: Oracles::default(),
            scenario,
        };
        world.found();
        world
    }

    /// Defines the regions and enrols the nodes, before anything can go wrong.
    fn found(&mut self) {
        let ctx = &mut self.ctx;
        if ctx.chance.one_in(3) {
            ctx.plane_skew_s = ctx.chance.below(2 * SKEW_S_MAX) as i64 - SKEW_S_MAX as i64;
        }
        self.clock_was_wrong = ctx.plane_skew_s != 0;
        let now = ctx.plane_unix_s();
        let mut fleet = Fleet::default();
        let ids: Vec<RegionId> =
            (0..self.scenario.regions).map(|i| format!("r{i}").parse().expect("that is a region")).collect();
        let defined = ids.iter().map(|id| {
            let law = ctx.chance.below(2);
            (id.clone(), admin::first(ctx, id.clone(), law))
        });
        let definition = Definition { regions: defined.collect() };
        let mut writes = fleet.apply(definition, now).1;
        for i in 0..self.scenario.agents {
            let region = ids[i % ids.len()].clone();
            let index = self.new_agent(region.clone());
            let certificate = sign(&mut self.ctx);
            let signed = node_certificate(&certificate);
            let agent = &mut self.agents[index];
            let node = agent.node.clone();
            writes.extend(fleet.enrolled(node, region, signed.serial, signed.expires_unix_s, now));
            agent.enrolled(certificate);
            let wait = self.ctx.chance.secs(0, 20);
            self.ctx.after(wait, Event::AgentStarts { agent: index, life: 0 });
        }
        self.disk.write(&writes).expect("the disk takes it");
        self.disk.export(now);
        self.ctx.after(Duration::ZERO, Event::PlaneStarts);
        self.ctx.after(Duration::from_secs(30), Event::Chaos);
        self.ctx.schedule.add(self.scenario.chaos, Event::Heals);
    }

    pub(crate) fn new_agent(&mut self, region: RegionId) -> usize {
        let index = self.agents.len();
        let chance = &mut self.ctx.chance;
        let near = chance.between(1, 80);
        self.ctx.net.paths.push(Path {
            delay_ms: (near, near + chance.between(1, 60)),
            loss_permille: if chance.one_in(4) { chance.below(200) } else { 5 },
            cut_until: Duration::ZERO,
        });
        let version = if self.ctx.chance.one_in(3) { VERSION_MIN } else { VERSION_MAX };
        let node = format!("n{index}").parse().expect("that is a node");
        self.agents.push(Agent::new(index, node, region, version));
        index
    }

    /// Runs to the end: `Ok` once all have converged.
    pub fn run(&mut self) -> Result<(), Violation> {
        while let Some((at, event)) = self.ctx.schedule.next() {
            self.ctx.now = at;
            self.ctx.trace.step(at, &event);
            self.happens(event);
            let mut oracles = std::mem::take(&mut self.oracles);
            let held = oracles.look(self);
            self.oracles = oracles;
            held?;
            if self.healing && self.ctx.now >= self.looked_at + LOOKS_EVERY {
                self.looked_at = self.ctx.now;
                match self.all_converge() {
                    Ok(()) => return Ok(()),
                    Err(violation) if self.ctx.now >= self.healed_at + self.scenario.heal => return Err(violation),
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// The hash of everything that happened.
    pub fn trace_hash(&self) -> u64 {
        self.ctx.trace.hash()
    }

    /// Steps that were made.
    pub fn steps(&self) -> u64 {
        self.ctx.trace.steps()
    }

    /// The virtual time.
    pub fn now(&self) -> Duration {
        self.ctx.now
    }

    fn happens(&mut self, event: Event) {
        let ctx = &mut self.ctx;
        match event {
            Event::AgentHears { conn, parcel } => {
                let Some(known) = ctx.net.conns.get(&conn).filter(|known| !known.cut && !known.agent_left) else {
                    return;
                };
                let until = ctx.net.paths[known.agent].cut_until;
                if ctx.now < until {
                    return ctx.schedule.add(until, Event::AgentHears { conn, parcel });
                }
                let agent = known.agent;
                self.oracles.touched(agent);
                self.agents[agent].hears(ctx, conn, *parcel.message);
            }
            Event::PlaneHears { conn, parcel } => {
                let Some(known) = ctx.net.conns.get(&conn).filter(|known| !known.cut && !known.plane_left) else {
                    return;
                };
                let until = ctx.net.paths[known.agent].cut_until;
                if ctx.now < until {
                    return ctx.schedule.add(until, Event::PlaneHears { conn, parcel });
                }
                if let Some(plane) = &mut self.plane {
                    plane.hears(ctx, conn, *parcel.message);
                }
            }
            Event::AgentLoses { conn } => {
                let Some(agent) = ctx.net.conns.get(&conn).map(|known| known.agent) else { return };
                self.oracles.touched(agent);
                self.agents[agent].loses(ctx, conn);
                if let Some(known) = ctx.net.conns.get_mut(&conn) {
                    known.agent_left = true;
                }
                ctx.net.forget(conn);
            }
            Event::PlaneLoses { conn } => {
                if let Some(plane) = &mut self.plane {
                    plane.loses(ctx, conn);
                }
            }
            Event::DialReaches { agent, life, dial, moved } => self.dial_reaches(agent, life, dial, moved),
            Event::DialEnds { agent, life, dial, moved, outcome } => {
                self.oracles.touched(agent);
                self.agents[agent].dialled(ctx, (life, dial, moved), outcome);
            }
            Event::RenewReaches { agent, life, dial, alone } => {
                let Some(identity) = self.agents[agent].identity.clone() else { return };
                let ask = Ask { agent, life, dial, alone, identity };
                match self.plane.as_mut().filter(|plane| !plane.draining) {
                    Some(plane) => plane.asked_to_renew(ctx, ask),
                    None => {
                        let answer = Event::RenewAnswered { agent, life, dial, alone, renewed: None };
                        ctx.after(Duration::from_secs(1), answer);
                    }
                }
            }
            Event::RenewAnswered { agent, life, dial, alone, renewed } => {
                self.oracles.touched(agent);
                self.agents[agent].renewed(ctx, (life, dial), alone, renewed);
            }
            Event::EnrolReaches { agent, secret } => self.enrol(agent, &secret),
            Event::Enrolled { agent, secret, certificate } => {
                let known = &mut self.agents[agent];
                // An answer may be lost, and one to an earlier token is for nobody.
                if ctx.fault(100) || known.asked.as_ref().is_none_or(|(_, asked)| *asked != secret) {
                    return;
                }
                known.crash(ctx);
                known.enrolled(certificate);
                (known.shut_out, known.asked) = (false, None);
                known.start(ctx);
                self.oracles.touched(agent);
            }
            Event::AgentStarts { agent, life } => {
                self.oracles.touched(agent);
                if self.agents[agent].life == life {
                    self.agents[agent].start(ctx);
                }
            }
            Event::AgentTicks { agent, life } => {
                self.oracles.touched(agent);
                if self.agents[agent].life == life {
                    self.agents[agent].tick(ctx);
                }
            }
            Event::Works { agent, life, push } => {
                self.oracles.touched(agent);
                if self.agents[agent].life == life {
                    self.agents[agent].work(ctx, push);
                }
            }
            Event::Outcome { agent, life } => {
                self.oracles.touched(agent);
                if self.agents[agent].life == life {
                    self.agents[agent].outcome(ctx);
                }
            }
            Event::Reports { agent, life, number } => {
                if self.agents[agent].life == life {
                    self.agents[agent].report(ctx, number);
                }
            }
            Event::PlaneStarts => self.start_plane(),
            Event::LinkRuns { life, conn } => self.of_plane(life, |plane, ctx| plane.woken(ctx, conn)),
            Event::LinkTicks { life, conn } => self.of_plane(life, |plane, ctx| plane.ticks(ctx, conn)),
            Event::Synced { life } => self.of_plane(life, |plane, ctx| plane.synced(ctx)),
            Event::Looks { life, number } => self.of_plane(life, |plane, ctx| plane.look(ctx, number)),
            Event::RoutesChange { life } => self.of_plane(life, |plane, ctx| plane.routes_change(ctx)),
            Event::Exports { life } => self.of_plane(life, |plane, ctx| plane.export(ctx)),
            Event::PlaneStopped { life } => {
                if self.plane.as_ref().is_some_and(|plane| plane.life == life) {
                    self.crash_plane();
                    let wait = self.ctx.chance.secs(0, 20);
                    self.ctx.after(wait, Event::PlaneStarts);
                }
            }
            Event::PlaneDies { life } => {
                if self.plane.as_ref().is_some_and(|plane| plane.life == life) && !self.healing {
                    self.crash_plane();
                    let wait = self.ctx.chance.ms(200, 40_000);
                    self.ctx.after(wait, Event::PlaneStarts);
                }
            }
            Event::Chaos => self.chaos(),
            Event::Heals => self.heal(),
            Event::Cares => self.care(),
        }
    }

    fn of_plane(&mut self, life: u64, act: impl FnOnce(&mut Plane, &mut Ctx)) {
        if let Some(plane) = self.plane.as_mut().filter(|plane| plane.life == life) {
            act(plane, &mut self.ctx);
        }
    }

    fn start_plane(&mut self) {
        if self.plane.is_none() {
            self.lives += 1;
            let damaged = std::mem::take(&mut self.damaged);
            if damaged {
                self.store_was_lost = true;
                self.oracles.store_was_restored();
            }
            let disk = std::mem::take(&mut self.disk);
            self.plane = Some(Plane::start(&mut self.ctx, self.lives, disk, self.hello, damaged));
        }
    }

    pub(crate) fn crash_plane(&mut self) {
        if let Some(plane) = self.plane.take() {
            self.ctx.trace.say(self.ctx.now, format_args!("the plane is gone"));
            self.oracles.plane_died(&plane.seen.told_unsaved);
            self.disk = plane.crash(&mut self.ctx);
        }
    }

    /// A dial has reached the machine of the plane, if that is there.
    fn dial_reaches(&mut self, agent: usize, life: u64, dial: u64, moved: bool) {
        let (ctx, known) = (&mut self.ctx, &self.agents[agent]);
        let Some(identity) = known.identity.clone().filter(|_| known.waits_for(life, dial)) else { return };
        let version = known.version;
        let at = ctx.packet(agent);
        let ends = |ctx: &mut Ctx, outcome| {
            ctx.schedule.add(at, Event::DialEnds { agent, life, dial, moved, outcome });
        };
        let Some(plane) = self.plane.as_mut().filter(|plane| !plane.draining) else {
            // A machine that is there and on which nobody listens says so; one that is gone says nothing.
            if ctx.chance.one_in(2) {
                ends(ctx, Dialled::Failed);
            }
            return;
        };
        let (begins, until) = identity.valid_unix_s;
        if !(begins..until).contains(&ctx.plane_unix_s()) {
            return ends(ctx, Dialled::MustRenew);
        }
        let Ok(agreed) = plane.hello.agree(hello(version)) else { return ends(ctx, Dialled::Failed) };
        let conn = ctx.open(agent, agreed);
        ends(ctx, Dialled::Connected(conn));
        // Whatever the plane says comes after its hello.
        if let Some(opened) = ctx.net.conns.get_mut(&conn) {
            opened.to_agent_last = at;
        }
        plane.accept(ctx, conn, identity, agreed);
    }
}
