//! The trial that is under way on a node, if one is: the slots' owner begins and ends it, calls ask it about their turns.

use super::{
    share::side_of,
    tried::TriedTurn,
    verdict::{Breach, Count, Side, TurnEnd, Verdict},
};
use crate::speech::Speech;
use arc_swap::ArcSwapOption;
use nearfield_shared::{
    artefact::{Digest, Stage},
    trial::{TrialSettings, Trying},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;
use uuid::Uuid;

/// How often it is looked whether the candidates are alive. A turn that meets a dead one goes on with the live model, so this is no hurry.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What a trial begins with.
pub struct Begin {
    /// The models, with the candidates in the place of the live ones of their stages.
    pub speech: Arc<dyn Speech>,
    /// The candidates' files.
    pub candidates: BTreeMap<Stage, Digest>,
    /// How they are tried.
    pub settings: TrialSettings,
    /// Draws the turns that they get.
    pub seed: u64,
}

/// One trial.
pub(super) struct Trial {
    pub speech: Arc<dyn Speech>,
    pub candidates: BTreeMap<Stage, Digest>,
    seed: u64,
    began: Instant,
    settings: TrialSettings,
    count: Mutex<Count>,
    counted: Notify,
}

/// The trial of a node, while there is one. Clones share it.
#[derive(Clone, Default)]
pub struct Trials {
    under_way: Arc<ArcSwapOption<Trial>>,
}

/// A trial as its owner holds it. Dropping it is its end: no further turn goes to the candidates.
pub struct UnderWay {
    trials: Trials,
    trial: Arc<Trial>,
}

/// How a trial ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ended {
    /// The candidates may serve.
    Holds {
        /// Whether there were turns enough to judge by.
        judged: bool,
        /// Turns that they answered.
        turns: u32,
    },
    /// They may not.
    Breached(Breach),
    /// One of them died.
    Died,
}

impl Trials {
    /// Begins a trial; turns that begin from now on may get the candidates.
    pub fn begin(&self, begin: Begin) -> UnderWay {
        let Begin { speech, candidates, settings, seed } = begin;
        let settings = settings.bounded();
        let trial = Arc::new(Trial {
            speech,
            candidates,
            seed,
            began: Instant::now(),
            count: Mutex::new(Count::new(&settings)),
            settings,
            counted: Notify::new(),
        });
        self.under_way.store(Some(Arc::clone(&trial)));
        UnderWay { trials: self.clone(), trial }
    }

    /// Which side a turn is on, drawn once for each turn; `None` where nothing is tried.
    pub fn turn(&self, call: Uuid, turn: u64) -> Option<Arc<TriedTurn>> {
        let trial = self.under_way.load_full()?;
        let side = side_of(trial.seed, call.as_u128(), turn, trial.settings.share_percent);
        Some(Arc::new(TriedTurn::new(trial, side)))
    }

    /// How far it has come.
    pub fn progress(&self) -> Option<Trying> {
        let trial = self.under_way.load_full()?;
        let count = trial.count();
        let left = Duration::from_secs(trial.settings.time_s_max.into()).saturating_sub(trial.began.elapsed());
        Some(Trying {
            turns: count.turns(Side::Candidate),
            live_turns: count.turns(Side::Live),
            turns_min: trial.settings.turns_min,
            share_percent: trial.settings.share_percent,
            left_s: u32::try_from(left.as_secs()).unwrap_or(u32::MAX),
        })
    }
}

impl Trial {
    fn count(&self) -> MutexGuard<'_, Count> {
        // Each change is a whole one.
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the end of a turn.
    pub fn ended(&self, side: Side, end: TurnEnd) {
        self.count().add(side, end);
        self.counted.notify_one();
    }
}

impl UnderWay {
    /// Waits for a verdict. `alive` says whether all candidates are still there.
    pub async fn verdict(&self, alive: impl Fn() -> bool) -> Ended {
        loop {
            if !alive() {
                return Ended::Died;
            }
            let (verdict, turns) = {
                let count = self.trial.count();
                (count.verdict(self.trial.began.elapsed()), count.turns(Side::Candidate))
            };
            match verdict {
                Verdict::Holds { judged } => return Ended::Holds { judged, turns },
                Verdict::Breached(breach) => return Ended::Breached(breach),
                Verdict::GoesOn => {}
            }
            tokio::select! {
                () = self.trial.counted.notified() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.trials.under_way.store(None);
    }
}
