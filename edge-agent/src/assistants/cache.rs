//! Phrases that are already spoken.

use nearfield_shared::artefact::Digest;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Bytes of audio kept: about eleven minutes at 24 kHz, hundreds of phrases.
pub const CACHE_BYTES_MAX: usize = 64 << 20;

/// What makes two spoken phrases the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PhraseKey {
    /// The speech model's file.
    pub model: Option<Digest>,
    /// The voice.
    pub voice: String,
    /// The speed, in thousandths.
    pub speed_permille: u32,
    /// The phrase. Never what a caller said: only an assistant's own words are kept.
    pub text: String,
}

#[derive(Default)]
struct Kept {
    phrases: HashMap<PhraseKey, (Arc<[f32]>, u64)>,
    bytes: usize,
    clock: u64,
}

/// A bounded store of spoken phrases; the one unused for longest leaves first.
#[derive(Default)]
pub struct PhraseCache {
    kept: Mutex<Kept>,
}

impl PhraseCache {
    /// The audio of a phrase, if it is kept.
    pub fn get(&self, key: &PhraseKey) -> Option<Arc<[f32]>> {
        let mut kept = self.lock();
        kept.clock += 1;
        let clock = kept.clock;
        kept.phrases.get_mut(key).map(|(audio, used)| {
            *used = clock;
            Arc::clone(audio)
        })
    }

    /// Keeps the audio of a phrase.
    pub fn put(&self, key: PhraseKey, audio: &[f32]) {
        let bytes = std::mem::size_of_val(audio);
        if bytes > CACHE_BYTES_MAX / 4 {
            return;
        }
        let mut kept = self.lock();
        kept.clock += 1;
        let clock = kept.clock;
        if let Some((old, _)) = kept.phrases.insert(key, (audio.into(), clock)) {
            kept.bytes -= std::mem::size_of_val(&*old);
        }
        kept.bytes += bytes;
        while kept.bytes > CACHE_BYTES_MAX {
            // A scan is quick enough: there are some hundreds of phrases, and new ones are rare.
            let Some(oldest) = kept.phrases.iter().min_by_key(|(_, (_, used))| *used).map(|(key, _)| key.clone())
            else {
                break;
            };
            if let Some((audio, _)) = kept.phrases.remove(&oldest) {
                kept.bytes -= std::mem::size_of_val(&*audio);
            }
        }
    }

    /// How many phrases are kept.
    pub fn len(&self) -> usize {
        self.lock().phrases.len()
    }

    /// Whether nothing is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A panic while holding the lock could at worst leave the byte count off by one phrase.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> PhraseKey {
        PhraseKey { model: None, voice: "heart".into(), speed_permille: 1000, text: text.into() }
    }

    #[test]
    fn the_phrase_unused_for_longest_leaves() {
        let cache = PhraseCache::default();
        let audio = vec![0.0f32; CACHE_BYTES_MAX / 4 / 4];
        ["a", "b", "c", "d"].iter().for_each(|text| cache.put(key(text), &audio));
        assert_eq!(cache.len(), 4);
        assert!(cache.get(&key("a")).is_some());
        cache.put(key("e"), &audio);
        assert!(cache.get(&key("b")).is_none() && cache.get(&key("a")).is_some());
        cache.put(key("e"), &audio);
        assert_eq!((cache.len(), cache.lock().bytes), (4, CACHE_BYTES_MAX));
    }

    #[test]
    fn another_voice_model_or_speed_is_another_phrase() {
        let cache = PhraseCache::default();
        cache.put(key("a"), &[0.5]);
        assert!(cache.get(&PhraseKey { speed_permille: 900, ..key("a") }).is_none());
        assert!(cache.get(&PhraseKey { model: Some(Digest([1; 32])), ..key("a") }).is_none());
        assert!(cache.get(&PhraseKey { voice: "x".into(), ..key("a") }).is_none());
        assert!(cache.get(&key("a")).is_some());
    }
}
