//! A simulated agent: the real link machine, driven as `edge-agent/src/control` drives it.

use crate::{
    ctx::{Certificate, Ctx, Dialled, Event},
    disk::AgentDisk,
    scenario::Sabotage,
    slots::{Outcome, Owner, Slots},
};
use control_plane::ca::NodeIdentity;
use nearfield_shared::{
    desired::Generation,
    link::{AgentInput, AgentLink, AgentLinkConfig, AgentOutput, CloseReason, RenewalSchedule, Seed},
    region::RegionId,
    report::{AnonymisedReport, CallTally},
    wire::{
        NodeName,
        message::{DeviceKind, DeviceSummary, Duty, HereIAm, LiveModel, PlaneToAgent, Status},
        names::DeviceName,
    },
};
use std::time::Duration;

/// How often nodes report by their own settings.
const REPORT_EVERY: Duration = Duration::from_secs(60);

/// First audio of a model that is not late, in milliseconds.
const FIRST_AUDIO_MS: (u64, u64) = (80, 260);

/// Of a thousand turns so many fail whatever the model is.
const ERRORS_PERMILLE: u64 = 4;

/// A node, whether its process runs or not.
pub(crate) struct Agent {
    pub index: usize,
    pub node: NodeName,
    pub region: RegionId,
    /// `None` until it is enrolled.
    pub identity: Option<NodeIdentity>,
    pub disk: AgentDisk,
    /// Counts processes.
    pub life: u64,
    /// The version of the program, which is also the highest of the protocol that it speaks.
    pub version: u16,
    pub process: Option<Process>,
    /// Whether somebody shut it out.
    pub shut_out: bool,
    /// Since when it waits to be enrolled, and with which token.
    pub asked: Option<(Duration, String)>,
}

pub(crate) struct Process {
    pub link: AgentLink,
    pub slots: Slots,
    /// The connection that stands.
    pub conn: Option<u64>,
    dial_number: u64,
    dialling: bool,
    renewing: bool,
    must_move: bool,
    schedule: RenewalSchedule,
    seed: Seed,
    pub duty: Duty,
    reports: u64,
    tick_at: Option<Duration>,
}

impl Agent {
    pub fn new(index: usize, node: NodeName, region: RegionId, version: u16) -> Self {
        let disk = AgentDisk::default();
        Self {
            index,
            node,
            region,
            identity: None,
            disk,
            life: 0,
            version,
            process: None,
            shut_out: false,
            asked: None,
        }
    }

    fn owner(&self, connected: bool) -> Owner<'_> {
        Owner { agent: self.index, life: self.life, node: &self.node, version: self.version, connected }
    }

    /// The node is enrolled, for the first time or again: what it served before is gone with its folder.
    pub fn enrolled(&mut self, certificate: Certificate) {
        self.identity = Some(NodeIdentity {
            node: self.node.clone(),
            region: self.region.clone(),
            serial: certificate.serial,
            valid_unix_s: certificate.valid_unix_s,
        });
    }

    /// The process starts, boots from its disk, and dials.
    pub fn start(&mut self, ctx: &mut Ctx) {
        let Some(identity) = self.identity.clone().filter(|_| self.process.is_none()) else { return };
        self.life += 1;
        let mut slots = Slots::default();
        let owner =
            Owner { agent: self.index, life: self.life, node: &self.node, version: self.version, connected: false };
        slots.boot(ctx, owner, &mut self.disk);
        if ctx.sabotages(Sabotage::AgentGoesBack)
            && let Some(state) = &mut slots.current
        {
            let mut older = (**state).clone();
            older.generation = Generation(older.generation.0.saturating_sub(1));
            *state = older.into();
        }
        let serving = slots.serving();
        ctx.trace.say(ctx.now, format_args!("{} starts, version {}, serving {serving}", self.node, self.version));
        let me = HereIAm {
            node: self.node.clone(),
            region: self.region.clone(),
            agent_version: format!("{}", self.version).parse().expect("a number is a version name"),
            serving,
            refused: None,
            device: DeviceSummary { kind: DeviceKind::Cpu, name: DeviceName::from_driver("sim"), memory_bytes: 1 },
            public_url: self
                .index
                .is_multiple_of(4)
                .then(|| format!("https://{}.example", self.node).parse().expect("a node name makes a host name")),
            neighbours: None,
        };
        let mut seed = Seed(ctx.chance.next());
        let schedule = RenewalSchedule::new(identity.valid_unix_s, &mut seed);
        let link = AgentLink::new(AgentLinkConfig::default(), me, Seed(ctx.chance.next()), ctx.now);
        self.process = Some(Process {
            link,
            slots,
            conn: None,
            dial_number: 0,
            dialling: false,
            renewing: false,
            must_move: false,
            schedule,
            seed,
            duty: Duty::default(),
            reports: 0,
            tick_at: None,
        });
        self.arm_reports(ctx);
        self.input(ctx, AgentInput::Tick);
    }

    /// The process dies, and its machine with it if `power` is lost.
    pub fn crash(&mut self, ctx: &mut Ctx) {
        let Some(process) = self.process.take() else { return };
        ctx.trace.say(ctx.now, format_args!("{} crashes", self.node));
        if let Some(conn) = process.conn {
            ctx.cut(conn);
        }
        self.life += 1;
        let (cut, lasts) = (ctx.chance.next(), ctx.chance.one_in(2));
        self.disk.last_known_good.crash(cut, lasts);
        if ctx.fault(100)
            && let Some(file) = self.disk.artefacts.values_mut().next()
        {
            file[0] ^= 1;
        }
    }

    /// The process stops on purpose.
    pub fn stop(&mut self, ctx: &mut Ctx) {
        self.input(ctx, AgentInput::Shutdown);
        let Some(process) = self.process.take() else { return };
        ctx.trace.say(ctx.now, format_args!("{} stops", self.node));
        if let Some(conn) = process.conn {
            ctx.agent_leaves(conn, true);
        }
        self.life += 1;
        self.disk.last_known_good.crash(0, true);
    }

    pub fn input(&mut self, ctx: &mut Ctx, input: AgentInput) {
        let Some(process) = &mut self.process else { return };
        process.link.handle_input(ctx.now, input);
        while let Some(output) = self.process.as_mut().and_then(|process| process.link.poll_output()) {
            self.act(ctx, output);
        }
        let Some(process) = &mut self.process else { return };
        // A deadline that moved away is looked at when its old time comes; only a nearer one needs a tick of its own.
        if let Some(at) = process.link.poll_timeout()
            && process.tick_at.is_none_or(|armed| at < armed)
        {
            process.tick_at = Some(at);
            ctx.schedule.add(at.max(ctx.now), Event::AgentTicks { agent: self.index, life: self.life });
        }
    }

    pub fn tick(&mut self, ctx: &mut Ctx) {
        let Some(process) = &mut self.process else { return };
        if process.tick_at.is_some_and(|at| ctx.now >= at) {
            process.tick_at = None;
            self.input(ctx, AgentInput::Tick);
        }
    }

    fn act(&mut self, ctx: &mut Ctx, output: AgentOutput) {
        let connected = self.connected(ctx);
        let Some(process) = &mut self.process else { return };
        match output {
            AgentOutput::Dial => self.dial(ctx, false),
            AgentOutput::Send(message) => {
                if let Some(conn) = process.conn {
                    ctx.send_to_plane(conn, message);
                }
            }
            // The wires stay up for the goodbye.
            AgentOutput::Close(CloseReason::Shutdown) => {}
            AgentOutput::Close(reason) => {
                ctx.trace.say(ctx.now, format_args!("{} hangs up: {reason:?}", self.node));
                self.hang_up(ctx);
            }
            AgentOutput::Welcomed(welcome) => {
                process.schedule.welcomed(welcome.unix_s, ctx.now);
                process.must_move = false;
            }
            AgentOutput::Activate(state) => {
                ctx.trace.say(ctx.now, format_args!("{} is told of {}", self.node, state.generation));
                let owner =
                    Owner { agent: self.index, life: self.life, node: &self.node, version: self.version, connected };
                process.slots.want(ctx, owner, state);
            }
            AgentOutput::Routes(_) | AgentOutput::Revoked(_) | AgentOutput::Registry(_) => {}
            AgentOutput::Duty(duty) => {
                if duty != std::mem::replace(&mut process.duty, duty) {
                    self.arm_reports(ctx);
                }
            }
            AgentOutput::StatusDue => {
                let status = Status {
                    serving: Generation(0),
                    activating: None,
                    accepting: process.duty.accepting,
                    models: process
                        .slots
                        .live
                        .iter()
                        .map(|(stage, digest)| LiveModel { stage: *stage, digest: *digest })
                        .collect(),
                    calls_in_progress: 0,
                    calls_max: 4 + (self.index % 5) as u32,
                    load: 0.5,
                    resident_bytes: 0,
                    uptime_s: 0,
                    trial: None,
                    program: None,
                };
                process.link.handle_input(ctx.now, AgentInput::Status(status));
                self.look_at_certificate(ctx);
            }
        }
    }

    /// Whether files can be fetched now.
    fn connected(&self, ctx: &Ctx) -> bool {
        let conn = self.process.as_ref().and_then(|process| process.conn).and_then(|conn| ctx.net.conns.get(&conn));
        conn.is_some_and(|conn| !conn.cut && !conn.plane_left) && ctx.net.paths[self.index].cut_until <= ctx.now
    }

    fn dial(&mut self, ctx: &mut Ctx, moved: bool) {
        let Some(process) = &mut self.process else { return };
        if !moved {
            process.dial_number += 1;
        }
        process.dialling = true;
        let at = ctx.packet(self.index);
        let event = Event::DialReaches { agent: self.index, life: self.life, dial: process.dial_number, moved };
        ctx.schedule.add(at, event);
    }

    /// Whether this dial is still waited for.
    pub fn waits_for(&self, life: u64, dial: u64) -> bool {
        let waits = |process: &Process| process.dial_number == dial && process.dialling;
        self.life == life && self.process.as_ref().is_some_and(waits)
    }

    /// A dial has ended.
    pub fn dialled(&mut self, ctx: &mut Ctx, (life, dial, moved): (u64, u64, bool), outcome: Dialled) {
        if !self.waits_for(life, dial) {
            if let Dialled::Connected(conn) = outcome {
                ctx.agent_leaves(conn, false);
            }
            return;
        }
        let Some(process) = &mut self.process else { return };
        match (outcome, moved) {
            (Dialled::MustRenew, false) => {
                let at = ctx.packet(self.index);
                let event = Event::RenewReaches { agent: self.index, life, dial, alone: true };
                ctx.schedule.add(at, event);
            }
            (Dialled::Connected(conn), false) => {
                process.dialling = false;
                process.conn = Some(conn);
                self.input(ctx, AgentInput::Connected);
            }
            (Dialled::Failed, false) => {
                process.dialling = false;
                self.input(ctx, AgentInput::Disconnected);
            }
            (Dialled::Connected(conn), true) => {
                ctx.trace.say(ctx.now, format_args!("{} moves over", self.node));
                self.hang_up(ctx);
                if let Some(process) = &mut self.process {
                    process.conn = Some(conn);
                }
                self.input(ctx, AgentInput::Moved);
            }
            (Dialled::Failed | Dialled::MustRenew, true) => process.dialling = false,
        }
    }

    pub fn hears(&mut self, ctx: &mut Ctx, conn: u64, message: PlaneToAgent) {
        if self.process.as_ref().is_some_and(|process| process.conn == Some(conn)) {
            self.input(ctx, AgentInput::Message(message));
        }
    }

    /// The connection has ended, as it is noticed here.
    pub fn loses(&mut self, ctx: &mut Ctx, conn: u64) {
        if self.process.as_ref().is_some_and(|process| process.conn == Some(conn)) {
            self.hang_up(ctx);
            self.input(ctx, AgentInput::Disconnected);
        }
    }

    fn hang_up(&mut self, ctx: &mut Ctx) {
        let Some(process) = &mut self.process else { return };
        process.dialling = false;
        process.dial_number += 1;
        if let Some(conn) = process.conn.take() {
            ctx.agent_leaves(conn, false);
        }
    }

    fn look_at_certificate(&mut self, ctx: &mut Ctx) {
        let Some(process) = &mut self.process else { return };
        if process.conn.is_none() {
            return;
        }
        if process.must_move && !process.dialling {
            self.dial(ctx, true);
        } else if !process.must_move && !process.renewing && process.schedule.is_due(ctx.now) {
            process.renewing = true;
            let at = ctx.packet(self.index);
            let dial = process.dial_number;
            ctx.schedule.add(at, Event::RenewReaches { agent: self.index, life: self.life, dial, alone: false });
        }
    }

    /// A renewal has ended. The connection that it went over is named by its dial: with that it is over, and an answer that comes later is for nobody.
    pub fn renewed(&mut self, ctx: &mut Ctx, (life, dial): (u64, u64), alone: bool, renewed: Option<Certificate>) {
        let Some(process) = self.process.as_mut().filter(|_| self.life == life) else { return };
        process.renewing &= alone;
        let renewed = renewed.filter(|_| process.dial_number == dial);
        let again = renewed.is_some();
        match renewed {
            Some(certificate) => {
                ctx.trace.say(ctx.now, format_args!("{} has a new certificate", self.node));
                process.schedule.renewed(certificate.valid_unix_s, &mut process.seed);
                process.must_move = process.conn.is_some();
                self.enrolled(certificate);
            }
            None => process.schedule.failed(ctx.now, &mut process.seed),
        }
        if alone && self.waits_for(life, dial) {
            if again {
                let at = ctx.packet(self.index);
                ctx.schedule.add(at, Event::DialReaches { agent: self.index, life, dial, moved: false });
            } else {
                self.dialled(ctx, (life, dial, false), Dialled::Failed);
            }
        }
    }

    pub fn work(&mut self, ctx: &mut Ctx, push: u64) {
        let connected = self.connected(ctx);
        let owner = Owner { connected, ..self.owner(connected) };
        let owner = Owner { node: &owner.node.clone(), ..owner };
        if let Some(process) = &mut self.process {
            process.slots.work(ctx, owner, &mut self.disk, push);
        }
    }

    pub fn outcome(&mut self, ctx: &mut Ctx) {
        let outcome = self.process.as_mut().and_then(|process| process.slots.outcomes.pop_front());
        match outcome {
            Some(Outcome::Activated(generation)) => {
                ctx.trace.say(ctx.now, format_args!("{} serves {generation}", self.node));
                self.input(ctx, AgentInput::Activated(generation));
            }
            Some(Outcome::Rejected(generation, problem)) => {
                self.input(ctx, AgentInput::Rejected(generation, problem));
            }
            None => {}
        }
    }

    fn arm_reports(&mut self, ctx: &mut Ctx) {
        let Some(process) = &mut self.process else { return };
        process.reports += 1;
        let asked = process.duty.report_every_ms.map_or(REPORT_EVERY, |ms| Duration::from_millis(ms.into()));
        let event = Event::Reports { agent: self.index, life: self.life, number: process.reports };
        let every = asked.min(REPORT_EVERY);
        ctx.after(every, event);
    }

    /// A window of calls is over: what they came to follows from the models that serve.
    pub fn report(&mut self, ctx: &mut Ctx, number: u64) {
        let Some(process) = self.process.as_ref().filter(|process| process.reports == number) else { return };
        if let Some(state) = process.slots.current.clone().filter(|_| process.duty.accepting) {
            let models = process.slots.live.values().filter_map(|digest| ctx.catalogue.model(digest));
            let (errors, late) = models.fold((ERRORS_PERMILLE, 0), |(errors, late), model| {
                (errors + model.traits.errors_permille, late + model.traits.late_ms)
            });
            // What a version does not count stays zero, and it does not say which generation served.
            let counts = self.version >= 2;
            let mut tally = CallTally { calls: 6, ..CallTally::default() };
            tally.generation = Some(state.generation).filter(|_| counts);
            for _ in 0..ctx.chance.between(10, 40) {
                if ctx.chance.permille(errors) {
                    tally.turns_failed += u64::from(counts);
                } else {
                    tally.turns_by_model += 1;
                    let ms = ctx.chance.between(FIRST_AUDIO_MS.0, FIRST_AUDIO_MS.1) + late;
                    tally.count_first_audio(ms as u32);
                }
            }
            if let Ok(report) = AnonymisedReport::suppress(&tally, Some(&state.policy)) {
                self.input(ctx, AgentInput::Report(report));
            }
        }
        self.arm_reports(ctx);
    }
}
