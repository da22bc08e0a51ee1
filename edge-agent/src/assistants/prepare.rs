//! Keeping the assistants ready: whenever what is served changes, questions are embedded again and phrases are spoken ahead.

use super::{Desk, PhraseCache, PhraseKey};
use crate::{
    node::Serving,
    speech::{Speech, SpeechError},
};
use arc_swap::ArcSwap;
use nearfield_dialogue::{phrases::Phraser, settings::Settings};
use nearfield_shared::{
    artefact::{Digest, Stage},
    assistant::Assistant,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// The least and the longest wait before work that failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// How long work ahead of any caller may be passed by: callers who wait go first, and still a busy node gets ready.
const PATIENCE: Duration = Duration::from_secs(10);

/// What takes a call where a region names no assistant.
fn nobody() -> Assistant {
    Assistant {
        name: "assistant".into(),
        instructions: "You are a friendly voice on the telephone. Answer in one or two short spoken sentences.".into(),
        match_threshold: 1.0,
        ..Assistant::default()
    }
}

/// The assistants of a node, ready for calls. Clones share them.
#[derive(Clone)]
pub struct Assistants {
    desks: Arc<ArcSwap<Desks>>,
    cache: Arc<PhraseCache>,
}

struct Desks {
    embed: Option<Digest>,
    desks: Vec<Arc<Desk>>,
    default: Arc<Desk>,
}

impl Assistants {
    /// The assistant of this name; the region's first one where there is none of that name, because clients name
    /// models of other houses.
    pub fn take(&self, name: Option<&str>) -> Arc<Desk> {
        let desks = self.desks.load();
        let named = name.and_then(|name| desks.desks.iter().find(|desk| desk.assistant.name == name));
        Arc::clone(named.or(desks.desks.first()).unwrap_or(&desks.default))
    }

    /// Whether there is an assistant of this name.
    pub fn has(&self, name: &str) -> bool {
        self.desks.load().desks.iter().any(|desk| desk.assistant.name == name)
    }

    /// The phrases that are already spoken.
    pub fn cache(&self) -> &PhraseCache {
        &self.cache
    }

    fn with(serving: &Serving) -> Self {
        let none = Desks { embed: None, desks: Vec::new(), default: Arc::new(Desk::new(nobody())) };
        let assistants = Self { desks: Arc::new(ArcSwap::from_pointee(none)), cache: Arc::default() };
        assistants.take_over(serving);
        assistants
    }

    /// Makes the served assistants the ones for new calls. One that has not changed keeps its embeddings while the model
    /// that made them stays.
    fn take_over(&self, serving: &Serving) {
        let embed = digest(serving, Stage::Embed);
        let old = self.desks.load();
        let reuse = |assistant: &Assistant| {
            old.desks.iter().find(|desk| old.embed == embed && desk.assistant == *assistant).cloned()
        };
        let desks =
            serving.assistants.iter().map(|a| reuse(a).unwrap_or_else(|| Arc::new(Desk::new(a.clone())))).collect();
        self.desks.store(Arc::new(Desks { embed, desks, default: Arc::clone(&old.default) }));
    }

    /// Embeds and speaks ahead for what is served.
    async fn warm(&self, speech: &Arc<dyn Speech>, serving: &Serving) -> Result<(), SpeechError> {
        if !serving.missing().is_empty() {
            return Ok(());
        }
        let model = digest(serving, Stage::Tts);
        let desks: Vec<Arc<Desk>> = self.desks.load().desks.clone();
        let Settings { unheard, filler, .. } = Settings::default();
        for desk in &desks {
            desk.embed(&unhurried(speech)).await?;
            let filler = (!desk.assistant.tools.is_empty()).then_some(filler.as_str());
            let notices = serving.policy.as_ref().map(|policy| policy.spoken_notices()).unwrap_or_default();
            for text in desk.fixed_texts().into_iter().chain([unheard.as_str()]).chain(filler).chain(notices) {
                for phrase in phrases(text) {
                    let key = PhraseKey {
                        model,
                        voice: desk.assistant.voice.clone(),
                        speed_permille: 1_000,
                        text: phrase.clone(),
                    };
                    if self.cache.get(&key).is_none() {
                        let audio = unhurried(speech).speak(phrase, 1.0).await?;
                        self.cache.put(key, &audio);
                    }
                }
            }
        }
        tracing::debug!(assistants = desks.len(), phrases = self.cache.len(), "assistants are ready");
        Ok(())
    }
}

/// The models, for work that no caller waits for: calls go first.
pub fn unhurried(speech: &Arc<dyn Speech>) -> Arc<dyn Speech> {
    Arc::clone(speech).due(Instant::now() + PATIENCE)
}

/// Starts keeping the assistants ready, until the node stops serving for good.
pub fn prepare(speech: Arc<dyn Speech>, mut serving: watch::Receiver<Arc<Serving>>) -> Assistants {
    let current = Arc::clone(&serving.borrow_and_update());
    let assistants = Assistants::with(&current);
    let kept = assistants.clone();
    tokio::spawn(async move {
        let mut current = current;
        let mut retry = RETRY.0;
        loop {
            kept.take_over(&current);
            let failed = tokio::select! {
                warmed = kept.warm(&speech, &current) => warmed.err(),
                changed = serving.changed() => {
                    if changed.is_err() { return }
                    current = Arc::clone(&serving.borrow_and_update());
                    retry = RETRY.0;
                    continue;
                }
            };
            if let Some(error) = &failed {
                tracing::warn!(%error, "assistants are not ready yet; calls are taken, their first answers take longer");
            }
            let changed = if failed.is_some() {
                let wait = retry;
                retry = (retry * 2).min(RETRY.1);
                tokio::time::timeout(wait, serving.changed()).await.ok()
            } else {
                Some(serving.changed().await)
            };
            match changed {
                Some(Err(_)) => return,
                Some(Ok(())) => {
                    current = Arc::clone(&serving.borrow_and_update());
                    retry = RETRY.0;
                }
                None => {}
            }
        }
    });
    assistants
}

/// The digest of a stage's live model.
pub fn digest(serving: &Serving, stage: Stage) -> Option<Digest> {
    serving.models.get(&stage).map(|model| model.digest)
}

/// A whole text as phrases.
pub fn phrases(text: &str) -> Vec<String> {
    let mut phraser = Phraser::new();
    let mut phrases = phraser.push(text);
    phrases.extend(phraser.finish());
    phrases
}
