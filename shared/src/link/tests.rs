//! Both halves together, over a network that cuts, with nodes and planes that restart.

use super::*;
use crate::{
    artefact::{Digest, SignedManifest, Stage},
    desired::{DesiredState, Generation},
    policy::Policy,
    region::RegionId,
    release::Release,
    report::{AnonymisedReport, CallTally},
    wire::Broadcast,
    wire::message::*,
    wire::names::{DeviceName, NodeName},
};
use proptest::prelude::*;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

const MS: Duration = Duration::from_millis(1);

fn region() -> RegionId {
    "eu".parse().unwrap()
}

fn node() -> NodeName {
    "n".parse().unwrap()
}

/// Which manifests a state has, where it has any: the first changes with every state, the second with every third, the last never.
fn models(generation: u64) -> BTreeMap<Stage, SignedManifest> {
    let one = |body: String| SignedManifest { body, signature: "s".into() };
    [
        (Stage::Vad, one(format!("vad {generation}"))),
        (Stage::Asr, one(format!("asr {}", generation / 3))),
        (Stage::Tts, one("tts".into())),
    ]
    .into()
}

fn offer(state: DesiredState) -> Arc<Offer> {
    let nonce = Nonce(state.generation.0 + 100);
    Arc::new(Offer::new(state, nonce))
}

fn peer(version: u16) -> Peer {
    Peer { node: node(), region: region(), version }
}

fn no_routes() -> Broadcast<Routes> {
    Routes { routes: Arc::default() }.into()
}

fn config() -> Arc<PlaneLinkConfig> {
    Arc::new(PlaneLinkConfig::new("1".parse().unwrap()))
}

fn state(generation: u64) -> DesiredState {
    DesiredState {
        generation: Generation(generation),
        region: region(),
        models: Default::default(),
        routes: vec![],
        assistants: vec![],
        policy: Policy {
            serves_countries: vec![],
            store_transcripts: false,
            retention_days: 0,
            metrics_group_min: 5,
            notices: vec![],
        },
        trial: None,
        agent: None,
    }
}

fn here_i_am(serving: Generation) -> HereIAm {
    HereIAm {
        node: node(),
        region: region(),
        agent_version: "1".parse().unwrap(),
        serving,
        refused: None,
        device: DeviceSummary { kind: DeviceKind::Cpu, name: DeviceName::from_driver("x"), memory_bytes: 0 },
        public_url: None,
        neighbours: None,
    }
}

fn status() -> Status {
    Status {
        serving: Generation(0),
        activating: None,
        trial: None,
        accepting: true,
        models: vec![LiveModel { stage: crate::artefact::Stage::Vad, digest: Digest([0; 32]) }],
        calls_in_progress: 0,
        calls_max: 1,
        load: 0.0,
        resident_bytes: 0,
        uptime_s: 0,
        program: None,
    }
}

fn figures() -> AnonymisedReport {
    AnonymisedReport::suppress(&CallTally { calls: 5, ..CallTally::default() }, Some(&state(1).policy)).unwrap()
}

/// One node, one plane, one network, one clock.
struct World {
    now: Duration,
    seed: u64,
    agent: AgentLink,
    plane: Option<PlaneLink>,
    to_plane: VecDeque<AgentToPlane>,
    to_agent: VecDeque<PlaneToAgent>,
    /// The plane can be dialled.
    reachable: bool,
    newest: u64,
    /// What the node's shell is busy with.
    work: Option<Generation>,
    /// What the shell was told to activate, in order.
    activations: Vec<Generation>,
    pushes: usize,
    nacks: Vec<Nack>,
    refused: Option<RefusedState>,
    counted: Vec<u64>,
    served: Generation,
    revoked: Vec<Arc<String>>,
    duty: Duty,
    /// What both sides speak.
    version: u16,
    /// Whether states have models.
    models: bool,
    /// Manifests that the plane sent.
    manifests: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            now: Duration::ZERO,
            seed,
            agent: AgentLink::new(AgentLinkConfig::default(), here_i_am(Generation(0)), Seed(seed), Duration::ZERO),
            plane: None,
            to_plane: VecDeque::new(),
            to_agent: VecDeque::new(),
            reachable: true,
            newest: 0,
            work: None,
            activations: vec![],
            pushes: 0,
            nacks: vec![],
            refused: None,
            counted: vec![],
            served: Generation(0),
            revoked: vec![],
            duty: Duty::default(),
            version: 2,
            models: false,
            manifests: 0,
        }
    }

    fn agent(&mut self, input: AgentInput) {
        self.agent.handle_input(self.now, input);
        while let Some(output) = self.agent.poll_output() {
            match output {
                AgentOutput::Dial if self.reachable => {
                    self.fresh_connection();
                    self.agent.handle_input(self.now, AgentInput::Connected);
                }
                AgentOutput::Dial => self.agent.handle_input(self.now, AgentInput::Disconnected),
                AgentOutput::Send(message) => self.to_plane.push_back(message),
                AgentOutput::Close(_) => self.drop_connection(),
                AgentOutput::Activate(state) => {
                    if let Some(busy) = self.work {
                        assert!(state.generation > busy, "only something newer pre-empts");
                    }
                    assert!(state.generation > self.agent.serving(), "nothing is activated twice, or backwards");
                    assert_eq!(*state, self.state(state.generation.0), "the whole state, by whatever way it came");
                    self.work = Some(state.generation);
                    self.activations.push(state.generation);
                }
                AgentOutput::StatusDue => self.agent.handle_input(self.now, AgentInput::Status(status())),
                AgentOutput::Revoked(crl_pem) => self.revoked.push(crl_pem),
                AgentOutput::Duty(duty) => self.duty = duty,
                AgentOutput::Welcomed(_) | AgentOutput::Routes(_) | AgentOutput::Registry(_) => {}
            }
        }
        assert!(self.agent.serving() >= self.served, "generations never go backwards");
        self.served = self.agent.serving();
    }

    fn fresh_connection(&mut self) {
        self.drop_connection();
        self.seed += 1;
        let desired = (self.newest > 0).then(|| offer(self.state(self.newest)));
        let at = (self.now, 1_000_000);
        let plane = PlaneLink::new(config(), peer(self.version), desired, no_routes(), Seed(self.seed), at);
        self.plane = Some(plane);
    }

    fn state(&self, generation: u64) -> DesiredState {
        let models = if self.models { models(generation) } else { BTreeMap::new() };
        DesiredState { models, ..state(generation) }
    }

    /// The node moves to a second connection, and the first is gone.
    fn move_over(&mut self) {
        if self.agent.is_live() && self.reachable {
            self.fresh_connection();
            self.agent(AgentInput::Moved);
        }
    }

    fn plane(&mut self, input: PlaneInput) {
        let Some(plane) = &mut self.plane else { return };
        plane.handle_input(self.now, input);
        let mut closed = false;
        let mut taken = vec![];
        while let Some(output) = plane.poll_output() {
            match output {
                PlaneOutput::Send(message) => {
                    let by_name = matches!(message, PlaneToAgent::State(_));
                    assert!(!matches!(message, PlaneToAgent::Desired(_)) || self.version == 1);
                    self.pushes += usize::from(by_name || matches!(message, PlaneToAgent::Desired(_)));
                    self.manifests += usize::from(matches!(message, PlaneToAgent::Manifest(_)));
                    self.to_agent.push_back(message);
                }
                PlaneOutput::Close(_) => closed = true,
                PlaneOutput::Event(PlaneEvent::Greeted(here)) => self.refused = here.refused,
                PlaneOutput::Event(PlaneEvent::Nacked(nack)) => self.nacks.push(nack),
                PlaneOutput::Event(PlaneEvent::Report(report)) => {
                    if !self.counted.contains(&report.id) {
                        self.counted.push(report.id);
                    }
                    taken.push(report.id);
                }
                PlaneOutput::Event(_) => {}
            }
        }
        if closed {
            while let Some(message) = self.to_agent.pop_front() {
                self.agent(AgentInput::Message(message));
            }
            self.cut();
        }
        for id in taken {
            self.plane(PlaneInput::ReportTaken(id));
        }
    }

    fn deliver_one(&mut self) {
        if let Some(message) = self.to_plane.pop_front() {
            self.plane(PlaneInput::Message(message));
        }
        if let Some(message) = self.to_agent.pop_front() {
            self.agent(AgentInput::Message(message));
        }
    }

    fn drop_connection(&mut self) {
        self.plane = None;
        self.to_plane.clear();
        self.to_agent.clear();
    }

    fn cut(&mut self) {
        if self.plane.is_some() {
            self.drop_connection();
            self.agent(AgentInput::Disconnected);
        }
    }

    fn apply(&mut self) {
        self.newest += 1;
        let offer = offer(self.state(self.newest));
        self.plane(PlaneInput::Desired(offer));
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.agent(AgentInput::Tick);
        self.plane(PlaneInput::Tick);
    }

    fn finish_work(&mut self, problem: Option<ProblemKind>) {
        let Some(generation) = self.work.take() else { return };
        self.agent(match problem {
            None => AgentInput::Activated(generation),
            Some(kind) => AgentInput::Rejected(generation, Problem::new(kind)),
        });
    }

    fn restart_agent(&mut self) {
        self.drop_connection();
        self.work = None;
        self.seed += 1;
        let me = here_i_am(self.agent.serving());
        self.agent = AgentLink::new(AgentLinkConfig::default(), me, Seed(self.seed), self.now);
    }

    /// No more faults: runs until nothing is on its way, for at most the longest waits there are.
    fn heal(&mut self) {
        self.reachable = true;
        for _ in 0..2_000 {
            while !self.to_plane.is_empty() || !self.to_agent.is_empty() {
                self.deliver_one();
            }
            self.finish_work(None);
            self.pass(Duration::from_secs(1));
        }
    }
}

#[derive(Debug, Clone)]
enum Op {
    Apply,
    Deliver(u8),
    Cut,
    Move,
    Reachable(bool),
    Pass(u32),
    Finish(Option<ProblemKind>),
    RestartAgent,
    Report,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Apply),
        8 => (1_u8..6).prop_map(Op::Deliver),
        2 => Just(Op::Cut),
        1 => Just(Op::Move),
        1 => any::<bool>().prop_map(Op::Reachable),
        4 => (1_u32..70_000).prop_map(Op::Pass),
        3 => Just(Op::Finish(None)),
        1 => Just(Op::Finish(Some(ProblemKind::FetchFailed))),
        1 => Just(Op::Finish(Some(ProblemKind::GoldenDiffers))),
        1 => Just(Op::RestartAgent),
        1 => Just(Op::Report),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The oracles inside [`World`] hold at every step; after healing the node serves the newest state, or the plane knows why not.
    #[test]
    fn converges_after_any_faults(
        seed in any::<u32>(),
        (version, models) in (1_u16..=2, any::<bool>()),
        ops in prop::collection::vec(op(), 0..80),
    ) {
        let mut world = World { version, models, ..World::new(u64::from(seed)) };
        let mut restarted_with_reports = false;
        let mut reports = 0;
        for op in ops {
            match op {
                Op::Apply => world.apply(),
                Op::Deliver(n) => (0..n).for_each(|_| world.deliver_one()),
                Op::Cut => world.cut(),
                Op::Move => world.move_over(),
                Op::Reachable(yes) => world.reachable = yes,
                Op::Pass(ms) => world.pass(MS * ms),
                Op::Finish(problem) => world.finish_work(problem),
                Op::RestartAgent => {
                    restarted_with_reports |= reports > 0;
                    world.restart_agent();
                }
                Op::Report => {
                    reports += 1;
                    world.agent(AgentInput::Report(figures()));
                }
            }
        }
        world.heal();
        let newest = Generation(world.newest);
        let told = world.nacks.iter().any(|nack| nack.generation == newest && !nack.detail.kind.is_transient())
            || world.refused.as_ref().is_some_and(|refused| refused.generation == newest);
        prop_assert!(world.agent.is_live());
        prop_assert!(world.agent.serving() == newest || told, "serves {} of {newest}", world.agent.serving());
        if !restarted_with_reports {
            prop_assert_eq!(world.counted.len(), reports, "each report counts once");
        }

        let (activations, pushes) = (world.activations.len(), world.pushes);
        for _ in 0..3 {
            world.cut();
            world.heal();
        }
        prop_assert_eq!((world.activations.len(), world.pushes), (activations, pushes), "reconnecting changes nothing");
    }
}

fn connected() -> World {
    let mut world = World::new(1);
    world.agent(AgentInput::Tick);
    world.deliver_one();
    assert!(world.agent.is_live());
    world
}

#[test]
fn a_newer_state_pre_empts_one_that_is_being_activated() {
    let mut world = connected();
    world.apply();
    world.deliver_one();
    assert_eq!(world.work, Some(Generation(1)));
    world.apply();
    world.deliver_one();
    assert_eq!(world.work, Some(Generation(2)), "at once, without waiting for the first");
    world.deliver_one();
    assert_eq!(world.nacks.last().map(|n| n.detail.kind), Some(ProblemKind::Superseded));
    world.finish_work(None);
    world.deliver_one();
    assert_eq!(world.plane.as_ref().unwrap().serving(), Generation(2));
}

#[test]
fn a_state_that_wins_the_race_against_its_successor_serves_until_then() {
    let mut world = connected();
    world.apply();
    world.deliver_one();
    world.apply();
    world.deliver_one();
    world.agent(AgentInput::Activated(Generation(1)));
    assert_eq!((world.agent.serving(), world.agent.activating()), (Generation(1), Some(Generation(2))));
    world.agent(AgentInput::Activated(Generation(2)));
    assert_eq!((world.agent.serving(), world.agent.activating()), (Generation(2), None));
}

#[test]
fn an_older_state_is_refused_and_the_plane_learns_that_it_is_behind() {
    let mut world = World::new(1);
    world.agent = AgentLink::new(AgentLinkConfig::default(), here_i_am(Generation(9)), Seed(1), world.now);
    world.agent(AgentInput::Tick);
    let mut plane = world.plane.take().unwrap();
    plane.handle_input(world.now, PlaneInput::Desired(offer(state(5))));
    plane.handle_input(world.now, PlaneInput::Message(world.to_plane.pop_front().unwrap()));
    let outputs: Vec<_> = std::iter::from_fn(|| plane.poll_output()).collect();
    assert!(outputs.contains(&PlaneOutput::Event(PlaneEvent::AgentAhead(Generation(9)))), "{outputs:?}");
    assert!(!outputs.iter().any(|o| matches!(o, PlaneOutput::Send(PlaneToAgent::State(_)))), "no push backwards");

    world.agent(AgentInput::Message(PlaneToAgent::Welcome(Welcome {
        plane_version: "1".parse().unwrap(),
        heartbeat_ms: 1000,
        unix_s: 0,
        generation: Generation(5),
    })));
    world.to_plane.clear();
    world.agent(AgentInput::Message(offer(state(5)).push(2)));
    let Some(AgentToPlane::Nack(nack)) = world.to_plane.pop_front() else { panic!("a NACK") };
    assert_eq!((nack.detail.kind, nack.serving), (ProblemKind::OldGeneration, Generation(9)));
}

#[test]
fn a_lasting_refusal_is_not_pushed_again_but_a_passing_one_is() {
    let check = |kind: ProblemKind, pushed_again: bool| {
        let mut world = connected();
        world.apply();
        world.deliver_one();
        world.finish_work(Some(kind));
        world.deliver_one();
        let pushes = world.pushes;
        world.heal();
        assert_eq!(world.pushes > pushes, pushed_again, "{kind:?}");
    };
    check(ProblemKind::FetchFailed, true);
    check(ProblemKind::GoldenDiffers, false);
}

#[test]
fn moving_to_a_second_connection_keeps_what_is_being_activated() {
    let mut world = connected();
    world.apply();
    world.deliver_one();
    world.move_over();
    assert!(!world.agent.is_live(), "not before the welcome");
    (0..3).for_each(|_| world.deliver_one());
    assert!(world.agent.is_live());
    world.finish_work(None);
    world.deliver_one();
    assert_eq!(world.plane.as_ref().unwrap().serving(), Generation(1));
    assert_eq!(world.activations, [Generation(1)], "it went on, and was not begun again");
}

#[test]
fn revocations_are_told_after_the_welcome_and_when_they_change() {
    let mut world = World::new(1);
    world.agent(AgentInput::Tick);
    world.plane(PlaneInput::Revoked(Revoked { crl_pem: Arc::new("one".into()) }.into()));
    assert!(world.to_agent.is_empty(), "nothing before the welcome");
    (0..3).for_each(|_| world.deliver_one());
    world.plane(PlaneInput::Revoked(Revoked { crl_pem: Arc::new("two".into()) }.into()));
    (0..3).for_each(|_| world.deliver_one());
    assert_eq!(world.revoked.iter().map(|crl| crl.as_str()).collect::<Vec<_>>(), ["one", "two"]);
}

#[test]
fn a_silent_plane_is_hung_up_on_and_dialled_again() {
    let mut world = connected();
    let plane = world.plane.take();
    assert!(plane.is_some());
    world.reachable = false;
    world.pass(Duration::from_secs(46));
    assert!(!world.agent.is_live());
    world.reachable = true;
    world.pass(Duration::from_secs(2));
    world.deliver_one();
    assert!(world.agent.is_live());
}

#[test]
fn a_silent_agent_is_hung_up_on() {
    let mut world = connected();
    let mut plane = world.plane.take().unwrap();
    plane.handle_input(Duration::from_secs(44), PlaneInput::Tick);
    assert!(!std::iter::from_fn(|| plane.poll_output()).any(|o| matches!(o, PlaneOutput::Close(_))));
    plane.handle_input(Duration::from_secs(46), PlaneInput::Tick);
    assert!(std::iter::from_fn(|| plane.poll_output()).any(|o| o == PlaneOutput::Close(CloseReason::Silent)));
    assert_eq!(plane.poll_timeout(), None);
}

#[test]
fn another_name_than_the_certificates_is_refused() {
    let mut plane = PlaneLink::new(config(), peer(2), None, no_routes(), Seed(1), (Duration::ZERO, 0));
    let mut here = here_i_am(Generation(0));
    here.node = "other".parse().unwrap();
    plane.handle_input(Duration::ZERO, PlaneInput::Message(AgentToPlane::HereIAm(here)));
    let Some(PlaneOutput::Send(PlaneToAgent::Refused(refused))) = plane.poll_output() else { panic!("a refusal") };
    assert_eq!(refused.code, RefusedCode::WrongIdentity);
    assert!(refused.reason.contains("other") && refused.reason.contains("enrol"), "{}", refused.reason);
}

#[test]
fn a_refused_node_waits_the_longest_step() {
    let mut world = connected();
    let refused = Refused { code: RefusedCode::Revoked, reason: "revoked".into() };
    world.agent(AgentInput::Message(PlaneToAgent::Refused(refused)));
    let wait = world.agent.poll_timeout().unwrap() - world.now;
    assert!(wait >= Duration::from_secs(60), "{wait:?}");
}

/// Of three planes one leads: the node finds it without a wait, waits after a round in which none leads, and begins at the next one after a loss.
#[test]
fn of_several_planes_the_next_is_dialled_at_once_and_a_round_is_waited_for() {
    let config = AgentLinkConfig { planes: 3, ..AgentLinkConfig::default() };
    let mut now = Duration::ZERO;
    let mut agent = AgentLink::new(config, here_i_am(Generation(0)), Seed(3), now);
    let dials = |agent: &mut AgentLink| std::iter::from_fn(|| agent.poll_output()).any(|o| o == AgentOutput::Dial);
    agent.handle_input(now, AgentInput::Tick);
    for plane in 0..3 {
        assert!(dials(&mut agent));
        assert_eq!(agent.plane(), plane);
        agent.handle_input(now, AgentInput::Disconnected);
    }
    assert!(!dials(&mut agent), "none of them leads");
    let wait = agent.poll_timeout().unwrap();
    assert!(wait >= Duration::from_millis(250) && wait <= Duration::from_millis(500), "{wait:?}");
    now = wait;
    agent.handle_input(now, AgentInput::Tick);
    assert!(dials(&mut agent) && agent.plane() == 0);
    // One that does not answer at all costs seconds, not the time of a dial where there is no other.
    now = agent.poll_timeout().unwrap();
    assert!(now - wait <= Duration::from_secs(5));
    agent.handle_input(now, AgentInput::Tick);
    agent.handle_input(now, AgentInput::Tick);
    assert!(dials(&mut agent) && agent.plane() == 1);
    agent.handle_input(now, AgentInput::Connected);
    let welcome =
        Welcome { plane_version: "1".parse().unwrap(), heartbeat_ms: 1_000, generation: Generation(0), unix_s: 0 };
    agent.handle_input(now, AgentInput::Message(PlaneToAgent::Welcome(welcome)));
    assert!(agent.is_live() && !dials(&mut agent));
    agent.handle_input(now, AgentInput::Disconnected);
    assert!(!dials(&mut agent), "many nodes do not come at the same moment");
    now = agent.poll_timeout().unwrap();
    agent.handle_input(now, AgentInput::Tick);
    assert!(dials(&mut agent) && agent.plane() == 2, "what lies there may have taken over");
}

#[test]
fn messages_of_a_later_version_are_skipped() {
    let mut world = connected();
    world.agent(AgentInput::Message(PlaneToAgent::Unknown(99)));
    world.plane(PlaneInput::Message(AgentToPlane::Unknown(99)));
    assert!(world.agent.is_live() && world.plane.is_some());
}

#[test]
fn a_duty_is_told_when_it_changes_and_on_every_connection_that_needs_it() {
    let mut world = connected();
    let drained = Duty { accepting: false, report_every_ms: Some(5_000) };
    world.plane(PlaneInput::Duty(drained));
    world.deliver_one();
    assert_eq!(world.duty, drained);
    world.plane(PlaneInput::Duty(drained));
    assert!(!world.to_agent.iter().any(|m| matches!(m, PlaneToAgent::Duty(_))), "told once");
    world.cut();
    world.heal();
    assert_eq!(world.duty, Duty::default(), "another plane may ask for nothing");
    world.plane(PlaneInput::Duty(drained));
    world.deliver_one();
    assert_eq!(world.duty, drained);
}

#[test]
fn regression_a_refusal_lost_with_its_connection_is_told_again() {
    let mut world = connected();
    world.apply();
    world.deliver_one();
    world.finish_work(Some(ProblemKind::GoldenDiffers));
    world.cut();
    world.heal();
    assert_eq!(world.refused.map(|refused| refused.generation), Some(Generation(1)));
    assert_eq!(world.pushes, 1, "and the state is not pushed again");
}

#[test]
fn only_manifests_that_a_node_lacks_are_sent_and_only_those_of_the_state_are_kept() {
    let mut world = World { models: true, ..World::new(1) };
    world.agent(AgentInput::Tick);
    for (generation, sent) in [(1, 3), (2, 4), (3, 6)] {
        world.apply();
        (0..8).for_each(|_| world.deliver_one());
        world.finish_work(None);
        world.deliver_one();
        assert_eq!((world.agent.serving(), world.manifests), (Generation(generation), sent));
    }
    let stranger = SignedManifest { body: "nobody asked".into(), signature: "s".into() };
    world.agent(AgentInput::Message(PlaneToAgent::Manifest(stranger.clone().into())));
    let asked = world.state(4);
    world.agent(AgentInput::Message(offer(asked.clone()).push(2)));
    world.agent(AgentInput::Message(PlaneToAgent::Manifest(stranger.into())));
    assert_eq!(world.work, None, "a manifest of another digest completes nothing");
    world.agent(AgentInput::Message(PlaneToAgent::Manifest(asked.models[&Stage::Vad].clone().into())));
    assert_eq!(world.work, Some(Generation(4)));
}

#[test]
fn a_node_is_told_where_callers_go_before_its_state_and_keeps_it_in_there() {
    let mut world = connected();
    let route = crate::desired::Route {
        region: region(),
        jurisdiction: crate::region::Jurisdiction("eu".into()),
        location: crate::region::Location { latitude: 0.0, longitude: 0.0 },
        policy: state(1).policy,
        nodes: vec![],
    };
    let told: Broadcast<Routes> = Routes { routes: Arc::new(vec![route]) }.into();
    world.agent.handle_input(world.now, AgentInput::Message(PlaneToAgent::Routes(told.clone())));
    world.agent.handle_input(world.now, AgentInput::Message(offer(state(1)).push(2)));
    let outputs: Vec<_> = std::iter::from_fn(|| world.agent.poll_output()).collect();
    let active = outputs.iter().find_map(|o| if let AgentOutput::Activate(state) = o { Some(state) } else { None });
    assert_eq!(active.expect("activated").routes, *told.routes);
}

#[test]
fn of_a_release_a_node_asks_for_the_program_of_its_own_target_alone() {
    let mut world = connected();
    let own = crate::release::own_target().expect("tests run where there are releases");
    let signed = |body: &str| SignedManifest { body: body.into(), signature: "s".into() };
    let other: crate::wire::TargetName = "riscv64gc-unknown-linux-gnu".parse().unwrap();
    let programs = BTreeMap::from([(own.clone(), signed("ours")), (other, signed("theirs"))]);
    let release = Release { version: "2".parse().unwrap(), programs };
    let asked = DesiredState { agent: Some(release), ..state(1) };
    world.agent.handle_input(world.now, AgentInput::Message(offer(asked.clone()).push(2)));
    let outputs: Vec<_> = std::iter::from_fn(|| world.agent.poll_output()).collect();
    let wanted = outputs.iter().find_map(|output| match output {
        AgentOutput::Send(AgentToPlane::ManifestsWanted(wanted)) => Some(wanted.digests.clone()),
        _ => None,
    });
    assert_eq!(wanted, Some([signed("ours").digest()].into()));
    let came = AgentInput::Message(PlaneToAgent::Manifest(signed("ours").into()));
    world.agent.handle_input(world.now, came);
    let outputs: Vec<_> = std::iter::from_fn(|| world.agent.poll_output()).collect();
    let active = outputs.iter().find_map(|o| if let AgentOutput::Activate(state) = o { Some(state) } else { None });
    let agent = active.and_then(|state| state.agent.clone()).expect("it is activated with its release");
    assert_eq!(agent.programs, BTreeMap::from([(own, signed("ours"))]));

    // Whoever wrote states before there were releases wrote them without the field.
    let text = serde_json::to_string(&state(1)).unwrap();
    assert!(!text.contains("agent"), "{text}");
    assert_eq!(serde_json::from_str::<DesiredState>(&text).unwrap(), state(1));
}

#[test]
fn the_registry_is_told_before_any_state_and_again_only_as_far_as_it_changed() {
    let registry = |timestamp: &str, targets: &str| {
        Arc::new(RegistryOffer::new(Registry {
            roots: [(1, "root".to_owned())].into(),
            timestamp: timestamp.into(),
            snapshot: "snapshot".into(),
            targets: Some(targets.into()),
        }))
    };
    let at = (Duration::ZERO, 0);
    let mut plane = PlaneLink::new(config(), peer(2), Some(offer(state(1))), no_routes(), Seed(1), at)
        .with_registry(Some(registry("first", "targets")));
    plane.handle_input(Duration::ZERO, PlaneInput::Message(AgentToPlane::HereIAm(here_i_am(Generation(0)))));
    let sent = |plane: &mut PlaneLink| -> Vec<PlaneToAgent> {
        std::iter::from_fn(|| plane.poll_output())
            .filter_map(|output| if let PlaneOutput::Send(message) = output { Some(message) } else { None })
            .collect()
    };
    let first = sent(&mut plane);
    let [PlaneToAgent::Welcome(_), PlaneToAgent::Registry(told), PlaneToAgent::State(pushed)] = &first[..] else {
        panic!("{first:?}")
    };
    assert_eq!((told.timestamp.as_str(), told.roots.len(), told.targets.as_deref()), ("first", 1, Some("targets")));
    // The node cannot take it yet, and is asked again as soon as there is something newer.
    let detail = Problem::new(ProblemKind::RegistryExpired);
    let nack = Nack { generation: Generation(1), nonce: pushed.nonce, detail, serving: Generation(0) };
    plane.handle_input(MS, PlaneInput::Message(AgentToPlane::Nack(nack)));
    assert!(sent(&mut plane).is_empty(), "it waits");
    plane.handle_input(MS, PlaneInput::Registry(registry("second", "targets")));
    let second = sent(&mut plane);
    let [PlaneToAgent::Registry(told), PlaneToAgent::State(_)] = &second[..] else { panic!("{second:?}") };
    assert_eq!((told.timestamp.as_str(), told.roots.len(), told.targets.as_deref()), ("second", 0, None));
    plane.handle_input(MS, PlaneInput::Registry(registry("third", "others")));
    let third = sent(&mut plane);
    let [PlaneToAgent::Registry(told)] = &third[..] else { panic!("{third:?}") };
    assert_eq!((told.roots.len(), told.targets.as_deref()), (1, Some("others")));
}
