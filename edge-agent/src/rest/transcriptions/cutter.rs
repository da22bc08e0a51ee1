//! Cuts a recording where nobody speaks, into parts that the recogniser takes.
//!
//! Pure: samples and probabilities of speech go in, parts come out. Audio without speech is left out, so nothing is made up of it.

use crate::media::heard::TRANSCRIBE_MAX;

/// Samples of one frame: what one probability is about.
pub const FRAME: usize = 512;

/// Probability from which on a frame is the beginning of speech, and above which speech goes on: Silero's own pair.
pub const BEGINS: f32 = 0.5;
const GOES_ON: f32 = 0.35;

/// Frames kept around speech: a quarter of a second, because the first and last consonants are quieter than what the detector hears.
const AROUND: usize = 8;

/// Frames without speech that end a part: half a second, the pause between two sentences.
pub const PAUSE: usize = 16;

/// Frames of the longest part.
const FRAMES_MAX: usize = TRANSCRIBE_MAX / FRAME;

/// Frames over which the quietest place of a part that is too long is looked for: a tenth of a second.
const QUIET: usize = 3;

/// A part with speech in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// Where it begins in the recording, in frames.
    pub begins: u64,
    /// Its samples.
    pub samples: Vec<f32>,
    /// The probability of speech in each of its frames.
    pub frames: Vec<f32>,
}

impl Part {
    /// Whether somebody speaks in a frame, as the cutting sees it.
    pub fn is_speech(probability: f32) -> bool {
        probability >= GOES_ON
    }
}

/// Cuts one recording.
#[derive(Debug, Default)]
pub struct Cutter {
    begins: u64,
    samples: Vec<f32>,
    frames: Vec<f32>,
    /// The frame behind the last one with speech; `None` where there is no speech yet.
    spoken: Option<usize>,
}

impl Cutter {
    /// Takes the next frame; returns the part that is complete with it.
    pub fn push(&mut self, samples: &[f32], probability: f32) -> Option<Part> {
        debug_assert_eq!(samples.len(), FRAME);
        self.samples.extend_from_slice(samples);
        self.frames.push(probability);
        let count = self.frames.len();
        match self.spoken {
            None if probability >= BEGINS => self.spoken = Some(count),
            None if count > AROUND => drop(self.cut(count - AROUND)),
            None => {}
            Some(_) if Part::is_speech(probability) => self.spoken = Some(count),
            Some(spoken) if count - spoken >= PAUSE => return Some(self.cut(spoken + AROUND)),
            Some(_) => {}
        }
        (self.frames.len() >= FRAMES_MAX).then(|| self.cut(self.quietest()))
    }

    /// The recording is over; returns its last part, if anybody speaks in it.
    pub fn finish(mut self) -> Option<Part> {
        let spoken = self.spoken?;
        let end = (spoken + AROUND).min(self.frames.len());
        Some(self.cut(end))
    }

    /// The middle of the quietest place in the second half.
    fn quietest(&self) -> usize {
        let half = self.frames.len() / 2;
        let loud = |at: &usize| self.frames[*at..*at + QUIET].iter().sum::<f32>();
        let last = self.frames.len() - QUIET;
        (half..last).min_by(|a, b| loud(a).total_cmp(&loud(b))).unwrap_or(half) + QUIET / 2
    }

    /// Takes the first frames out.
    fn cut(&mut self, frames: usize) -> Part {
        let rest = (self.samples.split_off(frames * FRAME), self.frames.split_off(frames));
        let part = Part {
            begins: self.begins,
            samples: std::mem::replace(&mut self.samples, rest.0),
            frames: std::mem::replace(&mut self.frames, rest.1),
        };
        self.begins += frames as u64;
        self.spoken = self.frames.iter().rposition(|p| *p >= BEGINS).map(|at| at + 1);
        part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Parts as (first frame, frames); every sample says which frame it belongs to.
    fn parts(probabilities: &[f32]) -> Vec<(u64, usize)> {
        let mut cutter = Cutter::default();
        let mut parts = Vec::new();
        for (n, probability) in probabilities.iter().enumerate() {
            parts.extend(cutter.push(&[n as f32; FRAME], *probability));
        }
        parts.extend(cutter.finish());
        for part in &parts {
            assert_eq!(part.samples.len(), part.frames.len() * FRAME);
            assert!(part.samples.len() <= TRANSCRIBE_MAX);
            let is_in_place =
                |(n, frame): (usize, &[f32])| frame.iter().all(|s| *s == (part.begins as usize + n) as f32);
            assert!(part.samples.chunks(FRAME).enumerate().all(is_in_place), "samples stay with their place");
        }
        parts.into_iter().map(|part| (part.begins, part.frames.len())).collect()
    }

    fn audio(runs: &[(usize, f32)]) -> Vec<f32> {
        runs.iter().flat_map(|(count, p)| std::iter::repeat_n(*p, *count)).collect()
    }

    #[test]
    fn sentences_are_cut_at_pauses_and_silence_is_left_out() {
        assert_eq!(parts(&audio(&[(100, 0.1)])), []);
        assert_eq!(parts(&audio(&[(100, 0.1), (20, 0.9), (100, 0.1)])), [(92, 8 + 20 + 8)]);
        // A short pause is none, and what the detector half hears goes on with the speech.
        assert_eq!(parts(&audio(&[(10, 0.9), (15, 0.1), (10, 0.9)])), [(0, 35)]);
        assert_eq!(parts(&audio(&[(10, 0.9), (40, 0.4), (10, 0.1)])), [(0, 58)]);
        assert_eq!(parts(&audio(&[(40, 0.4)])), [], "half heard alone is no speech");
        assert_eq!(parts(&audio(&[(10, 0.9), (30, 0.1), (10, 0.9)])), [(0, 18), (32, 18)]);
    }

    #[test]
    fn speech_without_a_pause_is_cut_at_its_quietest_place() {
        let runs = parts(&audio(&[(600, 0.9), (4, 0.4), (900, 0.9)]));
        assert_eq!(runs[0], (0, 601));
        assert_eq!(runs.iter().map(|(_, frames)| frames).sum::<usize>(), 1_504, "nothing is lost");
        assert_eq!(runs[1].0, 601);
    }

    proptest! {
        #[test]
        fn no_speech_is_lost_and_nothing_is_told_twice(probabilities in prop::collection::vec(0.0f32..1.0, 0..3_000)) {
            let mut end = 0;
            let found = parts(&probabilities);
            for (begins, frames) in &found {
                prop_assert!(*begins >= end);
                end = begins + *frames as u64;
            }
            for (n, probability) in probabilities.iter().enumerate() {
                let is_in = found.iter().any(|(begins, frames)| (*begins..begins + *frames as u64).contains(&(n as u64)));
                prop_assert!(is_in || *probability < BEGINS, "frame {} of {}", n, probability);
            }
        }
    }
}
