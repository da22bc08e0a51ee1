//! What people do to the fleet, at random: changes good and bad, orders to rollouts, nodes that come, go and are shut out.

use crate::{
    catalogue::Traits,
    ctx::{Ctx, Event},
    links::{node_certificate, sign},
    plane::{After, Plane},
    world::World,
};
use control_plane::{
    definition::{DefinedRegion, Definition},
    fleet::tokens::hash,
    rollout::{Order, Phase, Wait},
};
use nearfield_shared::{
    artefact::Stage,
    policy::Policy,
    region::{Jurisdiction, Location, Region, RegionId},
    rollout::{Budget, Gates, Label, RolloutSettings, WaveSettings},
    wire::{
        NodeName,
        message::{Refused, RefusedCode},
    },
};

use std::time::Duration;

/// Stages that have a model. Two are enough for one to change while the other stays.
const STAGES: [Stage; 2] = [Stage::Vad, Stage::Llm];

/// The longest time in seconds for which a budget counts.
const BUDGET_S_MAX: i64 = 600;

pub(crate) fn enrolled_again(node: &NodeName) -> Refused {
    Refused { code: RefusedCode::Revoked, reason: format!("node {node} was enrolled again") }
}

fn label() -> Label {
    "canary".parse().expect("that is a label")
}

/// A region as it is at first.
pub(crate) fn first(ctx: &mut Ctx, id: RegionId, law: u64) -> DefinedRegion {
    let policy = Policy {
        serves_countries: vec!["*".into()],
        store_transcripts: false,
        retention_days: 0,
        metrics_group_min: 5,
        notices: vec![],
    };
    let region = Region {
        id,
        jurisdiction: Jurisdiction(format!("law{law}")),
        location: Location { latitude: 1.0, longitude: 2.0 },
        policy,
        models: STAGES.map(|stage| (stage, stage.to_string())).into(),
        assistants: vec![],
        rollout: None,
        agent: None,
    };
    let models = STAGES.map(|stage| (stage, ctx.catalogue.make(stage, Traits::default()))).into();
    DefinedRegion { region, models, assistants: vec![], agent: None }
}

/// How a model that somebody brings does: mostly well.
fn traits(ctx: &mut Ctx) -> Traits {
    let good = Traits::default();
    match ctx.chance.below(12) {
        0 => Traits { golden_bad_permille: 1000, ..good },
        1 => Traits { golden_bad_permille: 200, ..good },
        2 => Traits { errors_permille: ctx.chance.between(80, 400), ..good },
        3 => Traits { late_ms: ctx.chance.between(300, 900), ..good },
        4 => Traits { new_architecture: true, ..good },
        5 => Traits { forged: true, ..good },
        _ => good,
    }
}

fn settings(ctx: &mut Ctx) -> Option<RolloutSettings> {
    let chance = &mut ctx.chance;
    if chance.one_in(3) {
        return None;
    }
    let mut percent = 0;
    let waves = chance.between(1, 3);
    let wave = |i| {
        percent = if i + 1 == waves { 100 } else { percent + chance.between(5, 40) };
        WaveSettings {
            label: (i == 0 && chance.one_in(5)).then(label),
            percent: percent as f64,
            approval: chance.one_in(8),
            bake_s: chance.one_in(4).then_some(5),
        }
    };
    let waves: Vec<WaveSettings> = (0..waves).map(wave).collect();
    Some(RolloutSettings {
        bake_s: chance.between(5, 60) as u32,
        waves,
        gates: Gates {
            turns_min: chance.between(20, 60) as u32,
            refused_percent_max: if chance.one_in(2) { 0.0 } else { 30.0 },
            lost_percent_max: if chance.one_in(2) { 25.0 } else { 60.0 },
            ..Gates::default()
        },
        budget: chance.one_in(6).then(|| Budget {
            percent: chance.between(50, 100) as f64,
            within_s: chance.between(60, BUDGET_S_MAX as u64) as u32,
        }),
        maintenance: None,
        trial: None,
    })
}

/// The fleet as it is defined.
fn defined(plane: &Plane) -> Definition {
    let defined = plane.fleet.regions().filter_map(|record| Some((record.id.clone(), record.defined.clone()?)));
    Definition { regions: defined.collect() }
}

/// Another definition of the fleet: one region of it changes.
pub(crate) fn changed(ctx: &mut Ctx, plane: &Plane) -> Option<Definition> {
    let regions: Vec<RegionId> = plane.fleet.regions().map(|record| record.id.clone()).collect();
    let mut definition = defined(plane);
    let region = definition.regions.get_mut(ctx.chance.pick(&regions)?)?;
    let settings = settings(ctx);
    match ctx.chance.below(8) {
        0 => region.region.policy.retention_days = ctx.chance.between(0, 9) as u32,
        1 => region.region.rollout = settings,
        _ => {
            let stage = STAGES[ctx.chance.below(2) as usize];
            let traits = traits(ctx);
            region.models.insert(stage, ctx.catalogue.make(stage, traits));
            if !ctx.chance.one_in(4) {
                region.region.rollout = settings;
            }
        }
    }
    Some(definition)
}

impl World {
    /// Somebody does something.
    pub(crate) fn order(&mut self) {
        let Some(plane) = self.plane.as_mut().filter(|plane| !plane.draining) else { return };
        let ctx = &mut self.ctx;
        let now = ctx.plane_unix_s();
        let regions: Vec<RegionId> = plane.fleet.regions().map(|record| record.id.clone()).collect();
        let Some(region) = ctx.chance.pick(&regions).cloned() else { return };
        let nodes: Vec<NodeName> = plane.fleet.nodes().map(|node| node.node.clone()).collect();
        let Some(node) = ctx.chance.pick(&nodes).cloned() else { return };
        match ctx.chance.below(100) {
            0..35 => {
                let Some(definition) = changed(ctx, plane) else { return };
                self.apply(definition);
            }
            35..60 => {
                let order = [Order::Pause, Order::Resume, Order::Resume, Order::Abort, Order::Approve, Order::Approve];
                let order = order[ctx.chance.below(order.len() as u64) as usize];
                self.order_rollout(&region, order);
            }
            60..70 => {
                let drain = ctx.chance.one_in(2);
                let writes = plane.fleet.cordon(&node, drain, now).unwrap_or_default();
                plane.commit(ctx, writes, After::NodeChanged);
            }
            70..80 => {
                let writes = plane.fleet.uncordon(&node, now).unwrap_or_default();
                plane.commit(ctx, writes, After::NodeChanged);
            }
            80..86 => {
                let labelled = plane.fleet.label(&node, &[label()], &[]).and_then(Result::ok).unwrap_or_default();
                plane.commit(ctx, labelled, After::NodeChanged);
            }
            86..90 => self.revoke(&node),
            90..95 => {
                let out: Vec<usize> =
                    self.agents.iter().filter(|agent| agent.shut_out).map(|agent| agent.index).collect();
                if let Some(agent) = ctx.chance.pick(&out).copied() {
                    self.make_token(agent);
                }
            }
            _ => self.add_node(region),
        }
    }

    /// Applies a definition.
    pub(crate) fn apply(&mut self, definition: Definition) {
        let Some(plane) = &mut self.plane else { return };
        let (plan, writes) = plane.fleet.apply(definition, self.ctx.plane_unix_s());
        for change in plan.regions.iter().filter(|change| !change.differences.is_empty()) {
            let (region, generation, waves) = (&change.region, change.generation, change.waves.len());
            let what: Vec<&str> = change.differences.iter().map(|difference| difference.what.as_str()).collect();
            self.ctx.trace.say(
                self.ctx.now,
                format_args!(
                    "apply: {region} becomes {generation} in {waves} waves ({}) {:?}",
                    what.join(", "),
                    plan.refused
                ),
            );
        }
        plane.commit(&mut self.ctx, writes, After::Applied);
    }

    pub(crate) fn order_rollout(&mut self, region: &RegionId, order: Order) {
        let Some(plane) = &mut self.plane else { return };
        let ordered = plane.fleet.order_rollout(region, order, "somebody", self.ctx.plane_unix_s());
        if let Ok(mut stepped) = ordered {
            self.ctx.trace.say(self.ctx.now, format_args!("order: {} {region}", order.as_str()));
            let writes = std::mem::take(&mut stepped.writes);
            plane.commit(&mut self.ctx, writes, After::Ordered { region: region.clone(), stepped });
        }
    }

    fn revoke(&mut self, node: &NodeName) {
        let Some(plane) = &mut self.plane else { return };
        let certificates = plane.fleet.node(node).into_iter().flat_map(|record| record.certificates());
        let serials = certificates.map(|(serial, _)| serial.to_owned()).collect();
        let Some(writes) = plane.fleet.revoke(node, None, self.ctx.plane_unix_s()) else { return };
        self.ctx.trace.say(self.ctx.now, format_args!("{node} is shut out"));
        if let Some(agent) = self.agents.iter_mut().find(|agent| agent.node == *node) {
            agent.shut_out = true;
        }
        let refused = Refused { code: RefusedCode::Revoked, reason: format!("node {node} was revoked") };
        plane.commit(&mut self.ctx, writes, After::ShutOut { node: node.clone(), serials, refused });
    }

    /// Makes a token for a node, with which it is enrolled, for the first time or again.
    pub(crate) fn make_token(&mut self, agent: usize) {
        let Some(plane) = self.plane.as_mut().filter(|plane| !plane.draining) else { return };
        let secret = format!("{:032x}", self.ctx.chance.next());
        let (region, node) = (self.agents[agent].region.clone(), self.agents[agent].node.clone());
        self.agents[agent].asked = Some((self.ctx.now, secret.clone()));
        let now = self.ctx.plane_unix_s();
        if let Ok(writes) = plane.fleet.add_token(hash(&secret), region, Some(node), 3600, now) {
            plane.commit(&mut self.ctx, writes, After::TokenMade { agent, secret });
        }
    }

    /// A node shows its token.
    pub(crate) fn enrol(&mut self, agent: usize, secret: &str) {
        let Some(plane) = self.plane.as_mut().filter(|plane| !plane.draining) else { return };
        let ctx = &mut self.ctx;
        // Whoever was given another token since does not show this one any more.
        if self.agents[agent].asked.as_ref().is_none_or(|(_, asked)| asked != secret) {
            return;
        }
        let now = ctx.plane_unix_s();
        let Ok(used) = plane.fleet.redeem(secret, None, 0, now) else { return };
        let certificate = sign(ctx);
        let signed = node_certificate(&certificate);
        let mut writes = plane.fleet.token_used(&used);
        let (node, region) = (used.node.clone(), used.region.clone());
        writes.extend(plane.fleet.enrolled(node.clone(), region, signed.serial, signed.expires_unix_s, now));
        ctx.trace.say(ctx.now, format_args!("{node} is enrolled"));
        plane.commit(ctx, writes, After::Enrolled { agent, node, secret: secret.to_owned(), certificate });
    }

    fn add_node(&mut self, region: RegionId) {
        if self.agents.len() < self.scenario.agents + 5 {
            let agent = self.new_agent(region);
            self.make_token(agent);
        }
    }

    /// A wave that waits for longer than any budget counts is larger than its budget permits, for example since nodes were enrolled: somebody raises it.
    fn raise_budgets(&mut self) {
        let Some(plane) = &self.plane else { return };
        let now = self.ctx.plane_unix_s();
        let stuck = plane.fleet.rollouts().any(|(rollout, _)| {
            matches!(rollout.phase, Phase::Waiting { why: Wait::Budget, since_unix_s } if now > since_unix_s + BUDGET_S_MAX)
        });
        if stuck {
            let mut definition = defined(plane);
            for settings in definition.regions.values_mut().filter_map(|region| region.region.rollout.as_mut()) {
                settings.budget = None;
            }
            self.apply(definition);
        }
    }

    /// Somebody takes care: nothing stays paused, unapproved or half enrolled.
    pub(crate) fn care(&mut self) {
        self.ctx.after(Duration::from_secs(5), Event::Cares);
        let Some(plane) = &self.plane else { return };
        let mut orders = Vec::new();
        for (rollout, _) in plane.fleet.rollouts().filter(|(rollout, _)| !rollout.is_over()) {
            let waits = matches!(rollout.phase, Phase::Waiting { why: Wait::Approval, .. }) && !rollout.approved;
            orders.extend(waits.then(|| (rollout.region.clone(), Order::Approve)));
            orders.extend(rollout.paused_unix_s.map(|_| (rollout.region.clone(), Order::Resume)));
        }
        for (region, order) in orders {
            self.order_rollout(&region, order);
        }
        let stuck = |asked: &(Duration, String)| self.ctx.now >= asked.0 + Duration::from_secs(10);
        let lost = self.agents.iter().filter(|agent| agent.asked.as_ref().is_some_and(stuck)).map(|agent| agent.index);
        let mut lost: Vec<usize> = lost.collect();
        if self.clock_was_wrong && self.store_was_lost {
            // Certificates that a store has lost are known by their time; where the clock that gave it was wrong, a person has to enrol the node again.
            let Some(plane) = &self.plane else { return };
            let out = self.agents.iter().filter(|agent| {
                let admitted = agent.identity.as_ref().is_some_and(|identity| plane.fleet.admit(identity).is_ok());
                !admitted && !agent.shut_out && agent.asked.is_none()
            });
            lost.extend(out.map(|agent| agent.index));
        }
        lost.into_iter().for_each(|agent| self.make_token(agent));
        self.raise_budgets();
    }
}
