//! The lower rungs of the failure ladder: a model that panicked is buried and loaded anew from where it came from.

use super::super::EngineError;
use super::super::door::ModelId;
use super::super::model_file::Origin;
use super::super::snapshot::Role;
use super::{Worker, drop_guarded};
use nearfield_shared::artefact::Stage;
use std::time::{Duration, Instant};

/// Pauses between attempts to load a model anew: from half a second, doubled up to a minute.
const RELOAD_PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// A stage whose live model died and could not be loaded anew.
pub(super) struct Down {
    origin: Origin,
    pub retry_at: Instant,
    pause: Duration,
}

impl Worker {
    /// After a panic outside any step: nothing that runs can be trusted, the files can.
    pub fn recover(&mut self) {
        self.chores.clear();
        for id in self.models.keys().copied().collect::<Vec<_>>() {
            self.died(id);
        }
        self.settle();
    }

    /// Buries a model that panicked: its jobs are told, and if it was live, it is loaded anew.
    pub(super) fn died(&mut self, id: ModelId) {
        let Some(mut model) = self.models.remove(&id) else { return };
        let stage = model.stage;
        tracing::error!(%stage, model = id.0, role = ?model.role, "a step of this model failed as a whole; its jobs are told");
        self.door.died(stage);
        let told =
            model.running.iter_mut().filter_map(Option::take).map(|job| (job.reply, Err(EngineError::WorkerDied)));
        self.answers.extend(told);
        for stream in &mut self.streams {
            stream.take_if(|(_, on)| *on == id);
        }
        let (role, origin) = (model.role, model.origin.clone());
        drop_guarded(model);
        if role == Role::Live {
            self.live[stage] = None;
            self.revive(stage, origin, RELOAD_PAUSE.0);
        }
    }

    fn revive(&mut self, stage: Stage, origin: Origin, pause: Duration) {
        let loaded = origin.read().and_then(|gguf| self.load(stage, gguf, origin.clone(), Role::Live));
        match loaded {
            Ok(id) => {
                tracing::info!(%stage, model = id.0, "the model was loaded anew");
                self.live[stage] = Some(id);
                self.down[stage] = None;
            }
            Err(error) => {
                tracing::error!(%stage, %error, retry_ms = pause.as_millis() as u64, "the model cannot be loaded anew");
                let retry_at = (self.clock)() + pause;
                self.down[stage] = Some(Down { origin, retry_at, pause });
            }
        }
    }

    pub(super) fn retry_down(&mut self, now: Instant) {
        for stage in Stage::ALL {
            if let Some(down) = self.down[stage].take_if(|down| down.retry_at <= now) {
                self.revive(stage, down.origin, (down.pause * 2).min(RELOAD_PAUSE.1));
            }
        }
    }

    pub(super) fn until_retry(&self, now: Instant) -> Option<Duration> {
        self.down.iter().filter_map(|(_, down)| Some(down.as_ref()?.retry_at.saturating_duration_since(now))).min()
    }
}
