//! A turn that began while candidates were tried: which side it is on, and how it ended.

use super::{
    turn_speech::TurnSpeech,
    under_way::Trial,
    verdict::{Side, TurnEnd},
};
use crate::speech::Speech;
use nearfield_shared::artefact::{Digest, Stage};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// One turn. It keeps its side to its end, also when the trial is over by then.
pub struct TriedTurn {
    trial: Arc<Trial>,
    side: Side,
    /// A candidate failed in it, and the live model stepped in.
    fell_back: AtomicBool,
    fall_counted: AtomicBool,
}

impl TriedTurn {
    pub(super) fn new(trial: Arc<Trial>, side: Side) -> Self {
        Self { trial, side, fell_back: AtomicBool::new(false), fall_counted: AtomicBool::new(false) }
    }

    /// Whose models it is on.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The models that it uses.
    pub fn speech(self: &Arc<Self>, live: &Arc<dyn Speech>) -> Arc<dyn Speech> {
        match self.side {
            Side::Live => Arc::clone(live),
            Side::Candidate => {
                Arc::new(TurnSpeech::new(Arc::clone(&self.trial.speech), Arc::clone(live), Arc::clone(self)))
            }
        }
    }

    /// The file of the candidate that does this stage of it; `None` where the live model does.
    pub fn candidate(&self, stage: Stage) -> Option<Digest> {
        self.trial.candidates.get(&stage).copied().filter(|_| self.side == Side::Candidate)
    }

    /// Notes that a candidate failed and the live model stepped in.
    pub(super) fn fall_back(&self) {
        self.fell_back.store(true, Ordering::SeqCst);
    }

    /// Whether the live model had to step in. What was made in such a turn is no candidate's for certain.
    pub fn fell_back(&self) -> bool {
        self.fell_back.load(Ordering::SeqCst)
    }

    /// An answer of it has ended. A failure that the live model made good counts once.
    pub fn ended(&self, failed: bool, first_audio_ms: Option<u32>) {
        let fell = self.fell_back() && !self.fall_counted.swap(true, Ordering::SeqCst);
        self.trial.ended(self.side, TurnEnd { failed: failed || fell, first_audio_ms });
    }
}
