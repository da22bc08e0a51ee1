//! The default voice, for tests that need speech of their own words.

use control_plane::registry::ensure;
use edge_agent::media::resample::Resampler;
use nearfield_inference::{
    Device,
    asr::RATE_HZ,
    tts::{Hibari, SAMPLE_RATE_HZ, g2p::Phonemizer},
};
use nearfield_shared::gguf::Gguf;

/// A voice that says what a recogniser is to hear.
pub struct Voice {
    phonemizer: Phonemizer,
    hibari: Hibari,
}

impl Voice {
    /// The default voice on a device.
    ///
    /// # Panics
    /// Where it cannot be had or loaded.
    pub fn on(device: &Device) -> Self {
        let path = ensure(&["hibari"]).expect("the voice").remove(0);
        let file = Gguf::open(path).expect("a GGUF file");
        let phonemizer = Phonemizer::load(&file, device).expect("a phonemizer");
        Self { phonemizer, hibari: Hibari::load(&file, device).expect("a voice") }
    }

    /// One phrase as 16 kHz samples, and when each of its words begins, in milliseconds.
    ///
    /// # Panics
    /// Where it cannot be spoken, or is more than one phrase.
    pub fn says_with_times(&self, phrase: &str) -> (Vec<f32>, Vec<f64>) {
        /// Milliseconds of a frame of the voice.
        const FRAME_MS: f64 = 25.0;
        let phrases = self.phonemizer.phonemes(phrase);
        let [phonemes] = phrases.as_slice() else { panic!("{} phrases", phrases.len()) };
        let prosody = self.hibari.predict(&self.phonemizer.ids(phonemes), 1.0).expect("durations");
        // The first id is a pad, then one id for each phoneme; a space is one, too.
        let mut at_ms = f64::from(prosody.durations[0]) * FRAME_MS;
        let mut begins = vec![at_ms];
        for (phoneme, frames) in phonemes.chars().zip(&prosody.durations[1..]) {
            at_ms += f64::from(*frames) * FRAME_MS;
            if phoneme == ' ' {
                begins.push(at_ms);
            }
        }
        (self.says(phrase), begins)
    }

    /// A text as 16 kHz samples.
    ///
    /// # Panics
    /// Where it cannot be spoken.
    pub fn says(&self, text: &str) -> Vec<f32> {
        let mut said = Vec::new();
        for phrase in self.phonemizer.phonemes(text) {
            let samples = self.hibari.render(&self.phonemizer.ids(&phrase), 1.0).expect("speech");
            let mut resampler = Resampler::new(SAMPLE_RATE_HZ, RATE_HZ as u32).expect("rates");
            said.extend(resampler.push(&samples));
            said.extend(resampler.flush());
        }
        said
    }
}
