//! What a caller may wish of an answer beyond its length.

use crate::llm::Sampling;

/// The engine's own choice: always the likeliest token, but one that was just said loses a little. Greedy small models circle, and a
/// caller who asks the same twice should get the same answer.
const SAMPLING: Sampling = Sampling { repetition: 1.1, ..Sampling::GREEDY };

/// The temperature where only a nucleus was asked for: the model's own distribution.
const TEMPERATURE_OF_NUCLEUS: f32 = 1.0;

/// Wishes about an answer. What is not wished is as in every call: the likeliest words.
#[derive(Clone, Default, PartialEq)]
pub struct Wish {
    /// 0 takes the likeliest token always, 1 draws from the model's own distribution; at most 2.
    pub temperature: Option<f32>,
    /// Only the likeliest tokens that together reach this probability are drawn from; above 0, at most 1.
    pub top_p: Option<f32>,
    /// Start of the random numbers: the same seed gives the same answer.
    pub seed: Option<u64>,
    /// How the answer begins. The model goes on from there; the pieces do not repeat it.
    pub begins: String,
}

/// The beginning is a caller's content as messages are, so only its size is shown.
impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { temperature, top_p, seed, begins } = self;
        write!(f, "Wish({temperature:?}, {top_p:?}, {seed:?}, begins with {} bytes)", begins.len())
    }
}

impl Wish {
    pub(super) fn check(&self) -> Result<(), String> {
        match (self.temperature, self.top_p) {
            (Some(temperature), _) if !(0.0..=2.0).contains(&temperature) => {
                Err(format!("a temperature of {temperature} is not between 0 and 2"))
            }
            (_, Some(top_p)) if !(top_p > 0.0 && top_p <= 1.0) => {
                Err(format!("a top_p of {top_p} is not above 0 and at most 1"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn sampling(&self) -> Sampling {
        let nucleus = self.top_p.filter(|top_p| *top_p < 1.0).map(|_| TEMPERATURE_OF_NUCLEUS);
        Sampling {
            temperature: self.temperature.or(nucleus).unwrap_or(SAMPLING.temperature),
            top_p: self.top_p.unwrap_or(SAMPLING.top_p),
            seed: self.seed.unwrap_or(SAMPLING.seed),
            ..SAMPLING
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_wish_the_likeliest_words_are_chosen() {
        assert_eq!(Wish::default().sampling(), SAMPLING);
        assert_eq!(Wish { top_p: Some(1.0), ..Wish::default() }.sampling(), SAMPLING);
        let nucleus = Wish { top_p: Some(0.9), ..Wish::default() }.sampling();
        assert_eq!((nucleus.temperature, nucleus.top_p), (1.0, 0.9));
        let cold = Wish { temperature: Some(0.2), seed: Some(7), ..Wish::default() }.sampling();
        assert_eq!((cold.temperature, cold.seed, cold.repetition), (0.2, 7, 1.1));
    }

    #[test]
    fn wishes_that_mean_nothing_are_refused() {
        let refused = |temperature, top_p| Wish { temperature, top_p, ..Wish::default() }.check().is_err();
        for bad in [-0.1, 2.1, f32::NAN, f32::INFINITY] {
            assert!(refused(Some(bad), None), "a temperature of {bad}");
        }
        for bad in [0.0, -1.0, 1.1, f32::NAN] {
            assert!(refused(None, Some(bad)), "a top_p of {bad}");
        }
        assert!(!refused(Some(0.0), Some(1.0)));
    }
}
