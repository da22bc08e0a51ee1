//! What a run is made of, which follows from its seed alone.

use crate::chance::Chance;
use std::time::Duration;

/// A mistake that is made on request, so that each oracle can be seen to notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Agents serve what they have fetched without looking at it.
    ServesUnverified,
    /// Agents go back to the state before when they are started again.
    AgentGoesBack,
    /// A plane that is started again has forgotten its newest generations.
    PlaneGoesBack,
    /// Nothing stops a rollout.
    IgnoresBreach,
    /// What an activation that was given up has loaded stays in memory.
    KeepsCandidates,
    /// A plane makes two states under one number.
    ReusesNumber,
    /// A plane forgets who was shut out.
    LetsRevokedIn,
    /// A plane does not tell nodes of changes.
    TellsNobody,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// All chance of the run.
    pub seed: u64,
    /// Nodes at the beginning.
    pub agents: usize,
    /// Regions.
    pub regions: usize,
    /// How long there are faults.
    pub chaos: Duration,
    /// Longest pause between two faults or orders of an admin.
    pub pause: Duration,
    /// How long all may take to converge after that.
    pub heal: Duration,
    /// Whether every message goes through its bytes, which takes time.
    pub wire: bool,
    /// A mistake to make.
    pub sabotage: Option<Sabotage>,
}

impl Scenario {
    /// The scenario of a seed: one in fifty has 200 to 300 nodes, one in ten some dozens, the others few.
    pub fn of(seed: u64) -> Self {
        let mut chance = Chance::new(seed ^ 0x5ce0_a210);
        let (agents, chaos_s, pause_s) = match seed {
            _ if seed % 50 == 7 => (chance.between(200, 300), chance.between(240, 420), 4),
            _ if seed % 10 == 3 => (chance.between(30, 80), chance.between(300, 900), 8),
            _ => (chance.between(2, 10), chance.between(600, 2400), 20),
        };
        Self {
            seed,
            agents: agents as usize,
            regions: chance.between(1, 3) as usize,
            chaos: Duration::from_secs(chaos_s),
            pause: Duration::from_secs(pause_s),
            // The longest that one rollout may take by its own rules: three waves, each of which waits for nodes, lets them settle, and bakes.
            heal: Duration::from_secs(3 * (2 * 1800 + 60) + 1800),
            wire: agents < 200,
            sabotage: None,
        }
    }

    /// The same with a mistake in it.
    #[must_use]
    pub fn sabotaged(self, sabotage: Sabotage) -> Self {
        Self { sabotage: Some(sabotage), ..self }
    }
}
