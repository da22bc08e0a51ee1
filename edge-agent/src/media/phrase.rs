//! A phrase on its way to be spoken, and where its audio may be kept.

use crate::assistants::{Assistants, PhraseCache, PhraseKey};
use nearfield_dialogue::ids::ResponseId;
use std::{sync::Arc, time::Instant};

/// Which phrase is to be spoken, and when its audio is wanted.
pub struct Phrase {
    /// The answer that it belongs to.
    pub response: ResponseId,
    /// Its number in that answer.
    pub phrase: u32,
    /// When the audio before it has been played.
    pub due: Instant,
}

/// Where the audio of a phrase may be found and kept.
pub struct KeepIn {
    /// The node's assistants, which hold the cache.
    pub assistants: Assistants,
    /// The phrase's key.
    pub key: PhraseKey,
}

impl KeepIn {
    fn cache(&self) -> &PhraseCache {
        self.assistants.cache()
    }

    /// Its audio, if it is kept.
    pub fn get(&self) -> Option<Arc<[f32]>> {
        self.cache().get(&self.key)
    }

    /// Keeps its audio.
    pub fn put(self, audio: &[f32]) {
        if self.get().is_none() {
            self.cache().put(self.key.clone(), audio);
        }
    }
}
