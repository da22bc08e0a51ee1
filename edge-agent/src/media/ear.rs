//! The ear of a call: feeds the detector of voice activity, and finds its place again when the detector fails.
//!
//! FAILURE LADDER, so that no failure costs a word or leaves a turn open:
//! 1. A push that fails, or that nobody answers within [`ANSWER_MAX`], costs time alone: the same audio goes to a detector that
//!    begins anew, with a little of what came before it, so that its memory is warm.
//! 2. Audio that a detector refuses as such ([`REFUSALS_MAX`] times) is passed over.
//! 3. Where no detector can be had, audio older than [`BACKLOG_MAX`] is passed over, and the client is told once. A turn that is open
//!    meanwhile is ended by the conversation itself (`nearfield_dialogue::call::DEAF_MAX`).

use super::{heard::Heard, jobs::Jobs};
use crate::speech::{SpeechError, VadSlot};
use nearfield_dialogue::{events::Input, listen::FRAME};
use std::time::{Duration, Instant};
use tokio::task::AbortHandle;

/// Samples that the detector gets at once: a second, so that a cancelled call leaves little behind.
const AT_ONCE: u64 = 16_000;

/// Audio from before its place that a new detector hears first: half a second fills its memory.
const WARM_UP: u64 = 16 * FRAME;

/// How long the detector may take for a second of audio. It needs some milliseconds, and a model that is being loaded holds it up
/// for a fraction of a second; beyond this it is taken to be lost.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// The least and greatest pause before the next attempt.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// How often the same audio is tried that a model calls bad.
const REFUSALS_MAX: u32 = 3;

/// After how many failures in a row the client is told.
const TELL_AFTER: u32 = 3;

/// Audio that waits for a detector. What a caller said longer ago than this, nobody wants to be answered any more.
const BACKLOG_MAX: u64 = 30 * 16_000;

/// What the ear has to say.
#[derive(Debug, Default)]
pub struct Noticed {
    /// For the conversation.
    pub input: Option<Input>,
    /// For the client.
    pub trouble: Option<SpeechError>,
}

/// Feeds the detector of one call.
pub struct Ear {
    /// The slot, while it is not at work.
    slot: Option<Box<dyn VadSlot>>,
    /// Grows when the detector begins anew; what an older one still reports is not about the same samples.
    beginning: u32,
    at_work: Option<AtWork>,
    /// Where the next frame begins that the slot tells about.
    next_frame: u64,
    /// Up to which sample the slot was fed.
    fed: u64,
    failures: u32,
    retry_at: Option<Instant>,
}

struct AtWork {
    since: Instant,
    task: AbortHandle,
}

impl Ear {
    /// An ear that has heard nothing.
    pub fn new(slot: Option<Box<dyn VadSlot>>) -> Self {
        Self { slot, beginning: 0, at_work: None, next_frame: 0, fed: 0, failures: 0, retry_at: None }
    }

    /// Begins anew wherever it is told to listen next.
    pub fn restart(&mut self) {
        self.forget_detector();
        self.failures = 0;
        self.retry_at = None;
    }

    /// When [`Ear::listen`] must be called although nothing was heard.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.at_work.as_ref().map(|work| work.since + ANSWER_MAX).or(self.retry_at)
    }

    /// Gives the detector what was heard from this sample on, if it is free.
    pub fn listen(&mut self, from: u64, heard: &Heard, jobs: &mut Jobs) -> Noticed {
        let now = Instant::now();
        if self.at_work.as_ref().is_some_and(|work| now >= work.since + ANSWER_MAX) {
            return self.failed(SpeechError::WorkerDied, heard.end());
        }
        if self.at_work.is_some() || self.retry_at.is_some_and(|at| now < at) {
            return Noticed::default();
        }
        self.retry_at = None;
        if heard.end() < from + FRAME {
            return Noticed::default();
        }
        if heard.end() - from > BACKLOG_MAX && self.failures > 0 {
            self.failures = 0;
            return Noticed { input: Some(pass_over_until(heard.end())), trouble: None };
        }
        if self.slot.is_none() || self.next_frame != from {
            // The old slot is freed first: all others may be taken.
            self.forget_detector();
            match jobs.open_detector() {
                Ok(slot) => self.slot = Some(slot),
                Err(error) => return self.failed(error, heard.end()),
            }
            let warm_up = WARM_UP.min(from.saturating_sub(heard.begin())) / FRAME * FRAME;
            self.next_frame = from - warm_up;
            self.fed = self.next_frame;
        }
        let Some(slot) = self.slot.take() else { return Noticed::default() };
        let until = heard.end().min(self.fed + AT_ONCE);
        let samples = heard.part(self.fed..until);
        self.fed = until;
        self.at_work = Some(AtWork { since: now, task: jobs.detect(slot, samples, self.beginning) });
        Noticed::default()
    }

    /// Takes what a detector reported. `heard_until` is the end of what was heard.
    pub fn report(
        &mut self,
        beginning: u32,
        slot: Box<dyn VadSlot>,
        frames: Result<Vec<f32>, SpeechError>,
        heard_until: u64,
    ) -> Noticed {
        if beginning != self.beginning {
            return Noticed::default();
        }
        self.at_work = None;
        match frames {
            Ok(probabilities) => {
                self.slot = Some(slot);
                self.failures = 0;
                let from = self.next_frame;
                self.next_frame += probabilities.len() as u64 * FRAME;
                Noticed { input: Some(Input::Frames { from, probabilities }), trouble: None }
            }
            Err(error) => {
                drop(slot);
                self.failed(error, heard_until)
            }
        }
    }

    fn failed(&mut self, error: SpeechError, heard_until: u64) -> Noticed {
        self.failures += 1;
        tracing::warn!(%error, failures = self.failures, "the voice activity detector failed; a new one goes on at the same place");
        self.forget_detector();
        let pause = match error {
            SpeechError::Overloaded { retry_after_ms } => Duration::from_millis(retry_after_ms),
            _ => PAUSE.0 * self.failures.min(50),
        };
        self.retry_at = Some(Instant::now() + pause.clamp(PAUSE.0, PAUSE.1));
        let bad = matches!(error, SpeechError::BadInput(_) | SpeechError::Model(_));
        let pass_over = bad && self.failures.is_multiple_of(REFUSALS_MAX);
        Noticed {
            input: pass_over.then(|| pass_over_until(self.fed.min(heard_until))),
            trouble: (self.failures == TELL_AFTER).then_some(error),
        }
    }

    fn forget_detector(&mut self) {
        self.slot = None;
        self.beginning += 1;
        if let Some(work) = self.at_work.take() {
            work.task.abort();
        }
    }
}

fn pass_over_until(from: u64) -> Input {
    Input::Frames { from, probabilities: Vec::new() }
}
