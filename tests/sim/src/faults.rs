//! What goes wrong, and the end of that.

use crate::{
    ctx::Event,
    world::{World, hello},
};
use nearfield_shared::wire::hello::{VERSION_MAX, VERSION_MIN};
use std::time::Duration;

/// Clocks may be off by so much either way.
pub(crate) const SKEW_S_MAX: u64 = 90 * 24 * 60 * 60;

impl World {
    /// Something goes wrong, or somebody does something.
    pub(crate) fn chaos(&mut self) {
        if self.healing {
            return;
        }
        let pause = self.scenario.pause.as_secs();
        let wait = self.ctx.chance.secs(0, pause);
        self.ctx.after(wait, Event::Chaos);
        let agent = self.ctx.chance.below(self.agents.len() as u64) as usize;
        self.oracles.touched(agent);
        let ctx = &mut self.ctx;
        match ctx.chance.below(100) {
            0..15 => {
                let time = if ctx.chance.one_in(3) { ctx.chance.secs(20, 240) } else { ctx.chance.ms(200, 20_000) };
                ctx.trace.say(ctx.now, format_args!("{} is cut off for {time:?}", self.agents[agent].node));
                self.part(agent, time);
            }
            15..18 => {
                let region = self.agents[agent].region.clone();
                let time = ctx.chance.secs(1, 120);
                ctx.trace.say(ctx.now, format_args!("{region} is cut off for {time:?}"));
                for agent in 0..self.agents.len() {
                    if self.agents[agent].region == region {
                        self.part(agent, time);
                    }
                }
            }
            18..26 => {
                if let Some(conn) = self.agents[agent].process.as_ref().and_then(|process| process.conn) {
                    ctx.cut(conn);
                }
            }
            26..38 => {
                let known = &mut self.agents[agent];
                known.crash(ctx);
                let wait = if ctx.chance.one_in(4) { ctx.chance.secs(60, 400) } else { ctx.chance.secs(1, 30) };
                ctx.after(wait, Event::AgentStarts { agent, life: known.life });
            }
            38..43 => {
                let known = &mut self.agents[agent];
                known.stop(ctx);
                known.version = if ctx.chance.one_in(4) { VERSION_MIN } else { VERSION_MAX };
                let wait = ctx.chance.secs(1, 20);
                ctx.after(wait, Event::AgentStarts { agent, life: known.life });
            }
            43..47 => {
                let old = ctx.chance.one_in(4);
                if ctx.chance.one_in(2)
                    && let Some(plane) = &mut self.plane
                {
                    plane.dies_writing = true;
                    return;
                }
                let wait = ctx.chance.ms(200, 40_000);
                self.damaged |= ctx.chance.one_in(5);
                self.hello = hello(if old { VERSION_MIN } else { VERSION_MAX });
                self.crash_plane();
                self.ctx.after(wait, Event::PlaneStarts);
            }
            47..49 => {
                if let Some(plane) = &mut self.plane {
                    ctx.trace.say(ctx.now, format_args!("the plane drains"));
                    plane.draining = true;
                    let conns: Vec<u64> = plane.links.keys().copied().collect();
                    conns.into_iter().for_each(|conn| plane.wake(ctx, conn));
                    let life = plane.life;
                    ctx.after(Duration::from_secs(2), Event::PlaneStopped { life });
                }
            }
            49..51 if self.jumps_left > 0 => {
                self.jumps_left -= 1;
                self.clock_was_wrong = true;
                ctx.plane_skew_s = ctx.chance.below(2 * SKEW_S_MAX) as i64 - SKEW_S_MAX as i64;
                ctx.trace.say(ctx.now, format_args!("the plane's clock jumps to {} s off", ctx.plane_skew_s));
            }
            _ => self.order(),
        }
    }

    /// Nothing gets through to an agent for a while. What is sent meanwhile comes late, or its connection dies of silence.
    fn part(&mut self, agent: usize, time: Duration) {
        let ctx = &mut self.ctx;
        let until = ctx.now + time;
        let path = &mut ctx.net.paths[agent];
        path.cut_until = path.cut_until.max(until);
        let conns: Vec<u64> = ctx.net.conns.iter().filter(|(_, c)| c.agent == agent).map(|(id, _)| *id).collect();
        for conn in conns {
            // The agent gives up after 20 s of silence, the plane after a minute.
            if time > Duration::from_secs(20) {
                let at = ctx.now + Duration::from_secs(20);
                ctx.end_at_agent(at, conn);
            }
            if time > Duration::from_secs(60) {
                let at = ctx.now + Duration::from_secs(60);
                ctx.end_at_plane(at, conn);
            }
        }
    }

    /// No more faults: everything that is down comes up, clocks are right, and somebody takes care of what waits for people.
    pub(crate) fn heal(&mut self) {
        let ctx = &mut self.ctx;
        ctx.trace.say(ctx.now, format_args!("faults are over"));
        (self.healing, ctx.calm, ctx.plane_skew_s) = (true, true, 0);
        (self.healed_at, self.damaged, self.hello) = (ctx.now, false, hello(VERSION_MAX));
        for path in &mut ctx.net.paths {
            path.cut_until = path.cut_until.min(ctx.now);
            path.loss_permille = path.loss_permille.min(20);
        }
        ctx.after(Duration::ZERO, Event::PlaneStarts);
        for agent in &self.agents {
            if agent.process.is_none() {
                ctx.after(Duration::from_secs(1), Event::AgentStarts { agent: agent.index, life: agent.life });
            }
        }
        ctx.after(Duration::from_secs(1), Event::Cares);
    }
}
