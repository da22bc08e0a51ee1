//! A phrase on its way to be spoken, and where its audio may be kept.

use super::jobs::Wanted;
use crate::assistants::{Assistants, PhraseCache, PhraseKey};
use nearfield_dialogue::ids::ResponseId;
use std::sync::Arc;

/// Which phrase is to be spoken, and when its audio is wanted.
pub struct Phrase {
    /// The answer that it belongs to.
    pub response: ResponseId,
    /// Its number in that answer.
    pub phrase: u32,
    /// Its audio, when what stands before it has been played.
    pub wanted: Wanted,
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
