//! The caller's audio that may still be needed, by its position in the call.

use super::codec::to_i16;
use std::{collections::VecDeque, ops::Range};

/// 16 kHz samples from some position of the call on. Kept as 16 bits, half of what floats take: ten minutes are 19 MB.
#[derive(Debug, Default)]
pub struct Heard {
    from: u64,
    samples: VecDeque<i16>,
}

impl Heard {
    /// Adds samples at the end.
    pub fn push(&mut self, samples: &[f32]) {
        self.samples.extend(samples.iter().map(|s| to_i16(*s)));
    }

    /// The position of the first sample that is still here.
    pub fn begin(&self) -> u64 {
        self.from
    }

    /// The position behind the last sample.
    pub fn end(&self) -> u64 {
        self.from + self.samples.len() as u64
    }

    /// A part, as floats; what was released or is not there yet is left out.
    pub fn part(&self, range: Range<u64>) -> Vec<f32> {
        let at = |position: u64| (position.max(self.from).min(self.end()) - self.from) as usize;
        let (start, end) = (at(range.start), at(range.end));
        self.samples.range(start..end.max(start)).map(|s| f32::from(*s) / 32_768.0).collect()
    }

    /// Lets go of everything before a position.
    pub fn release(&mut self, before: u64) {
        let gone = (before.min(self.end()).saturating_sub(self.from)) as usize;
        self.samples.drain(..gone);
        self.from += gone as u64;
        // A long turn should not keep its memory for the rest of the call.
        if self.samples.capacity() > 4 * self.samples.len().max(16_000) {
            self.samples.shrink_to(2 * self.samples.len());
        }
    }
}

/// Audio longer than this is cut before it is transcribed: beyond 30 s the model adds stray words.
pub const TRANSCRIBE_MAX: usize = 28 * 16_000;

/// Cuts audio into parts that the transcriber takes, each at the quietest tenth of a second of its second half.
pub fn parts(samples: &[f32]) -> Vec<&[f32]> {
    const WINDOW: usize = 1_600;
    let mut rest = samples;
    let mut parts = Vec::new();
    while rest.len() > TRANSCRIBE_MAX {
        let energy = |at: usize| rest[at..at + WINDOW].iter().map(|s| s * s).sum::<f32>();
        let quietest = (TRANSCRIBE_MAX / 2..TRANSCRIBE_MAX - WINDOW)
            .step_by(WINDOW / 2)
            .min_by(|a, b| energy(*a).total_cmp(&energy(*b)))
            .unwrap_or(TRANSCRIBE_MAX / 2);
        let (part, after) = rest.split_at(quietest + WINDOW / 2);
        parts.push(part);
        rest = after;
    }
    parts.push(rest);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_found_by_position_after_a_release() {
        let mut heard = Heard::default();
        heard.push(&(0..1000).map(|n| n as f32 / 32_767.0).collect::<Vec<_>>());
        heard.release(400);
        heard.release(300);
        let show = |range| heard.part(range).iter().map(|s| (s * 32_768.0).round() as i32).collect::<Vec<_>>();
        assert_eq!(show(400..403), [400, 401, 402]);
        assert_eq!(show(390..402), [400, 401]);
        assert_eq!(show(998..2000), [998, 999]);
        assert_eq!(heard.part(5..10).len() + heard.part(5000..5001).len(), 0);
        assert_eq!(heard.end(), 1000);
    }

    #[test]
    fn long_audio_is_cut_where_it_is_quiet_and_nothing_is_lost() {
        let mut audio = vec![0.5f32; 70 * 16_000];
        audio[20 * 16_000..20 * 16_000 + 3_200].fill(0.0);
        let parts = parts(&audio);
        assert!(parts.iter().all(|part| part.len() <= TRANSCRIBE_MAX && !part.is_empty()));
        assert_eq!(parts.iter().map(|part| part.len()).sum::<usize>(), audio.len());
        assert!((20 * 16_000..20 * 16_000 + 3_200).contains(&parts[0].len()), "cut at {}", parts[0].len());
        assert_eq!(super::parts(&audio[..100]).len(), 1);
    }
}
