//! Choosing the next token.

/// How tokens are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0 takes the best token always; 1 draws from the model's own distribution; more is wilder.
    pub temperature: f32,
    /// Only the likeliest tokens that together reach this probability are drawn from. 1 for all.
    pub top_p: f32,
    /// Divides the score of tokens among the last 64 (for a positive score; multiplies a negative one). 1 for none; small
    /// models loop without a little of it.
    pub repetition: f32,
    /// Start of the random numbers; the same seed gives the same answer.
    pub seed: u64,
}

impl Sampling {
    /// Always the best token.
    pub const GREEDY: Self = Self { temperature: 0.0, top_p: 1.0, repetition: 1.0, seed: 0 };
}

/// Tokens that a repetition penalty looks back on: llama.cpp's default.
const REPETITION_WINDOW: usize = 64;
/// Tokens less likely than this share of the best are never drawn: 49,152 of them together would be 5 %.
const SHARE_MIN: f32 = 1e-6;

/// The state of choosing: random numbers and what was said last.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    state: u64,
    recent: std::collections::VecDeque<u32>,
}

impl Sampler {
    /// A sampler at the start of an answer.
    pub fn new(sampling: Sampling) -> Self {
        // Mixed, so that seeds 0, 1, 2 do not begin alike; never 0, where the generator would stay.
        let state = (sampling.seed ^ 0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9) | 1;
        Self { sampling, state, recent: std::collections::VecDeque::new() }
    }

    /// Remembers a token that was said.
    pub fn saw(&mut self, token: u32) {
        if self.sampling.repetition != 1.0 {
            if self.recent.len() == REPETITION_WINDOW {
                self.recent.pop_front();
            }
            self.recent.push_back(token);
        }
    }

    /// The next token for these scores; `None` where one of them is no number.
    pub fn choose(&mut self, logits: &[f32]) -> Option<u32> {
        if logits.is_empty() || logits.iter().fold(false, |bad, l| bad | l.is_nan()) {
            return None;
        }
        if self.sampling.repetition == 1.0 || self.recent.is_empty() {
            return Some(self.draw(logits));
        }
        let mut logits = logits.to_vec();
        let mut done = std::collections::HashSet::new();
        for &t in self.recent.iter().filter(|t| done.insert(**t)) {
            if let Some(l) = logits.get_mut(t as usize) {
                *l = if *l > 0.0 { *l / self.sampling.repetition } else { *l * self.sampling.repetition };
            }
        }
        Some(self.draw(&logits))
    }

    fn draw(&mut self, logits: &[f32]) -> u32 {
        let peak = peak(logits);
        let best = logits.iter().position(|l| *l == peak).unwrap_or(0);
        let Sampling { temperature, top_p, .. } = self.sampling;
        if temperature <= 0.0 {
            return best as u32;
        }
        let floor = peak + SHARE_MIN.ln() * temperature;
        let mut shares: Vec<(f32, u32)> = logits
            .iter()
            .enumerate()
            .filter(|(_, l)| **l >= floor)
            .map(|(i, l)| (((l - peak) / temperature).exp(), i as u32))
            .collect();
        shares.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let total: f32 = shares.iter().map(|s| s.0).sum();
        let mut kept = 0.0;
        let nucleus = shares.iter().take_while(|s| {
            let before = kept;
            kept += s.0;
            before < top_p * total
        });
        let nucleus: Vec<(f32, u32)> = nucleus.copied().collect();
        let sum: f32 = nucleus.iter().map(|s| s.0).sum();
        let mut at = self.random() * sum;
        for (share, token) in &nucleus {
            at -= share;
            if at <= 0.0 {
                return *token;
            }
        }
        // Rounding may leave a sliver behind the last one.
        nucleus.last().map_or(best as u32, |s| s.1)
    }

    /// In 0..1, by xorshift64*.
    fn random(&mut self) -> f32 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1u64 << 24) as f32
    }
}

/// The highest score, found by sixteen running ones, so that the compiler may use vectors.
fn peak(logits: &[f32]) -> f32 {
    let mut peaks = [f32::NEG_INFINITY; 16];
    let (whole, rest) = logits.as_chunks::<16>();
    for logits in whole {
        for (peak, l) in peaks.iter_mut().zip(logits) {
            *peak = if *l > *peak { *l } else { *peak };
        }
    }
    peaks.into_iter().chain(rest.iter().copied()).fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(temperature: f32, top_p: f32) -> Sampling {
        Sampling { temperature, top_p, repetition: 1.0, seed: 7 }
    }

    #[test]
    fn greedy_takes_the_best_and_the_first_of_equals() {
        let mut s = Sampler::new(Sampling::GREEDY);
        assert_eq!(s.choose(&[0.0, 3.0, 3.0, -1.0]), Some(1));
        assert_eq!(s.choose(&[0.0, f32::NAN]), None);
        assert_eq!(s.choose(&[]), None);
    }

    #[test]
    fn draws_follow_the_distribution() {
        // Odds of 4 to 1 at temperature 1.
        let logits = [4f32.ln(), 0.0];
        let mut s = Sampler::new(sampling(1.0, 1.0));
        let first = (0..10_000).filter(|_| s.choose(&logits) == Some(0)).count();
        assert!((7_800..8_200).contains(&first), "{first} of 10,000 where 8,000 are expected");
    }

    #[test]
    fn a_nucleus_leaves_the_tail_out() {
        // Shares 0.6, 0.3, 0.1: 0.8 is reached by the first two.
        let logits = [0.6f32.ln(), 0.3f32.ln(), 0.1f32.ln()];
        let mut s = Sampler::new(sampling(1.0, 0.8));
        let drawn: std::collections::BTreeSet<_> = (0..1000).map(|_| s.choose(&logits).unwrap()).collect();
        assert_eq!(drawn.into_iter().collect::<Vec<_>>(), [0, 1]);
    }

    #[test]
    fn the_same_seed_says_the_same_and_another_does_not() {
        let logits: Vec<f32> = (0..50).map(|i| (i as f32).sin()).collect();
        let say = |seed| {
            let mut s = Sampler::new(Sampling { seed, ..sampling(1.0, 1.0) });
            (0..20).map(|_| s.choose(&logits).unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(say(1), say(1));
        assert_ne!(say(1), say(2));
    }

    #[test]
    fn a_token_that_was_said_loses_to_a_near_rival() {
        let mut s = Sampler::new(Sampling { repetition: 1.2, ..Sampling::GREEDY });
        assert_eq!(s.choose(&[2.0, 1.9]), Some(0));
        s.saw(0);
        assert_eq!(s.choose(&[2.0, 1.9]), Some(1));
        assert_eq!(s.choose(&[-1.0, -1.1]), Some(1));
    }
}
