//! What happens to a rollout, in words for its log, the events and the audit.

use super::Breach;
use nearfield_shared::desired::Generation;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// When, seconds since 1970.
    pub unix_s: i64,
    /// What.
    pub what: Moment,
}

/// What a wave waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wait {
    /// Its turn.
    Turn,
    /// None of its nodes is there.
    Nodes,
    /// Somebody has to approve it.
    Approval,
    /// A maintenance window.
    Maintenance,
    /// Other changes have used up the budget of the jurisdiction.
    Budget,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Turn => "its turn",
            Self::Nodes => "nodes, none of which is connected",
            Self::Approval => "approval",
            Self::Maintenance => "the next maintenance window",
            Self::Budget => "room in the jurisdiction's budget",
        })
    }
}

/// Why a rollout was undone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undone {
    /// A gate does not hold.
    Breached(Breach),
    /// Somebody wanted it.
    Aborted {
        /// Who.
        by: String,
    },
    /// Another change came.
    Preempted,
}

impl fmt::Display for Undone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Breached(breach) => write!(f, "{breach}"),
            Self::Aborted { by } => write!(f, "{by} aborted it"),
            Self::Preempted => write!(f, "a newer change came"),
        }
    }
}

/// What happened. Waves are counted from 0 here, and from 1 in words.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// The rollout began.
    Began {
        /// What served before.
        from: Generation,
        /// What is rolled out.
        to: Generation,
        /// In so many waves.
        waves: usize,
    },
    /// A wave cannot begin yet.
    Waits {
        /// The wave.
        wave: usize,
        /// For what.
        why: Wait,
    },
    /// A wave was approved.
    Approved {
        /// The wave.
        wave: usize,
        /// By whom.
        by: String,
    },
    /// A wave began.
    WaveBegan {
        /// The wave.
        wave: usize,
        /// Nodes that are given the change.
        nodes: usize,
    },
    /// Its nodes serve the change.
    WaveServes {
        /// The wave.
        wave: usize,
        /// Seconds for which they are watched.
        bake_s: i64,
    },
    /// It was watched for as long as it should be, and every gate held.
    WavePassed {
        /// The wave.
        wave: usize,
        /// Turns with the change since it began.
        turns: u64,
    },
    /// It has no node that could take the change.
    WaveSkipped {
        /// The wave.
        wave: usize,
        /// Nodes of it that are away.
        away: usize,
    },
    /// Nothing new begins.
    Paused {
        /// Who wanted that.
        by: String,
    },
    /// It goes on.
    Resumed {
        /// Who wanted that.
        by: String,
    },
    /// What served before serves again.
    Undone(Undone),
    /// Every wave has passed; every node is given the change.
    Done,
}

impl Moment {
    /// A word for programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Began { .. } => "rollout.began",
            Self::Waits { .. } => "rollout.waits",
            Self::Approved { .. } => "rollout.approved",
            Self::WaveBegan { .. } => "rollout.wave",
            Self::WaveServes { .. } => "rollout.serves",
            Self::WavePassed { .. } => "rollout.passed",
            Self::WaveSkipped { .. } => "rollout.skipped",
            Self::Paused { .. } => "rollout.paused",
            Self::Resumed { .. } => "rollout.resumed",
            Self::Undone(_) => "rollout.undone",
            Self::Done => "rollout.done",
        }
    }
}

fn nodes(count: usize) -> String {
    if count == 1 { "1 node".into() } else { format!("{count} nodes") }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Began { from, to, waves } => {
                let s = if *waves == 1 { "" } else { "s" };
                write!(f, "generation {to} goes out in {waves} wave{s}, generation {from} serves until then")
            }
            Self::Waits { wave, why } => write!(f, "wave {} waits for {why}", wave + 1),
            Self::Approved { wave, by } => write!(f, "{by} approved wave {}", wave + 1),
            Self::WaveBegan { wave, nodes: count } => {
                write!(f, "wave {} began: {} told of the change", wave + 1, nodes(*count))
            }
            Self::WaveServes { wave, bake_s } => {
                let time = crate::api::views::ago(bake_s.unsigned_abs());
                write!(f, "wave {} serves the change and is watched for {time}", wave + 1)
            }
            Self::WavePassed { wave, turns } => write!(f, "wave {} passed, after {turns} turns", wave + 1),
            Self::WaveSkipped { wave, away: 0 } => write!(f, "wave {} has no node left to move", wave + 1),
            Self::WaveSkipped { wave, away } => {
                write!(f, "wave {} was passed over: {} away for too long", wave + 1, nodes(*away))
            }
            Self::Paused { by } => write!(f, "{by} paused it"),
            Self::Resumed { by } => write!(f, "{by} resumed it"),
            Self::Undone(why) => write!(f, "undone: {why}"),
            Self::Done => write!(f, "done: every node is given the change"),
        }
    }
}
