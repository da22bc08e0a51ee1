//! What a spoken call is judged by: bounds on what was heard, whose fault a trouble is, and how much longer it may take than with the live models. Pure.

use super::Outcome;
use crate::speech::SpeechError;
use nearfield_shared::artefact::Stage;
use std::{collections::BTreeSet, time::Duration};

/// Probability at which the turn model says that the caller has finished; as in calls.
pub const FINISHED: f32 = 0.5;

/// Share of the sentence's words that may be misheard: small models confuse a word or two of eleven, a broken one nearly all.
pub const WORDS_WRONG_MAX: f64 = 0.4;

/// How many times as long the call may take with the candidates. A language model of ten times the weights, with which all else stays, is within it;
/// a node on which everything takes eight times as long serves nobody.
pub const RATIO_MAX: f64 = 8.0;

/// Below this a call is not slow, whatever the ratio.
const QUICK: Duration = Duration::from_millis(100);

/// Loudness without which there is nothing to hear: 40 dB below full scale.
const PEAK_MIN: f32 = 0.01;

/// Lengths of a spoken phrase that can be meant, in samples at 24 kHz: from a tenth of a second to a minute.
const SAMPLES: (usize, usize) = (2_400, 60 * 24_000);

/// Why a call went wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Trouble {
    /// The stage at whose step it showed.
    pub stage: Stage,
    /// What it was.
    pub kind: TroubleKind,
    /// In words.
    pub words: String,
}

/// Kinds of [`Trouble`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TroubleKind {
    /// A step failed, or its result makes no sense.
    Failed,
    /// The models are too busy to be tried now.
    Busy,
    /// Too many words were heard wrongly.
    Misheard {
        /// Share of the words, 0.0 to 1.0 and above where more were heard than said.
        wrong: f64,
    },
    /// It took too long.
    Slow {
        /// With the candidates.
        took_ms: u64,
        /// The most that would have been taken.
        most_ms: u64,
    },
}

impl Trouble {
    /// A result that makes no sense.
    pub fn new(stage: Stage, words: impl Into<String>) -> Self {
        Self { stage, kind: TroubleKind::Failed, words: words.into() }
    }

    /// A step that failed.
    pub fn failed(stage: Stage, error: &SpeechError) -> Self {
        let busy = matches!(error, SpeechError::Overloaded { .. });
        Self { kind: if busy { TroubleKind::Busy } else { TroubleKind::Failed }, ..Self::new(stage, error.to_string()) }
    }
}

/// Whether spoken audio can be that.
pub fn audio(samples: &[f32]) -> Result<(), String> {
    let peak = samples.iter().fold(0.0f32, |peak, sample| peak.max(sample.abs()));
    if samples.iter().any(|sample| !sample.is_finite()) {
        Err("the spoken audio is not made of numbers".into())
    } else if !(SAMPLES.0..=SAMPLES.1).contains(&samples.len()) {
        Err(format!("a sentence of {} ms cannot be meant", samples.len() / 24))
    } else if peak < PEAK_MIN {
        Err("the spoken audio is silence".into())
    } else {
        Ok(())
    }
}

/// Share of `said`'s words that `heard` has wrongly: words put in, left out and replaced, by the fewest of them.
pub fn words_wrong(said: &str, heard: &str) -> f64 {
    let words = |text: &str| -> Vec<String> {
        let plain = |word: &str| word.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        text.split_whitespace().map(plain).filter(|word: &String| !word.is_empty()).collect()
    };
    let (said, heard) = (words(said), words(heard));
    // One row of Levenshtein's table at a time: the distance of the words so far to each beginning of what was heard.
    let mut row: Vec<usize> = (0..=heard.len()).collect();
    for (i, word) in said.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, other) in heard.iter().enumerate() {
            let replaced = diagonal + usize::from(word != other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or(0) as f64 / said.len().max(1) as f64
}

/// Holds a call with the candidates against the same call with the live models, where that went well and has the same stages.
pub fn compare(candidates: &BTreeSet<Stage>, tried: &Outcome, live: &Outcome) -> Result<(), Trouble> {
    if candidates.contains(&Stage::Turn) && live.finished == Some(true) && tried.finished == Some(false) {
        return Err(Trouble::new(Stage::Turn, "it does not find the end of a sentence whose end the live model finds"));
    }
    let most = live.took.max(QUICK).mul_f64(RATIO_MAX);
    if tried.took <= most {
        return Ok(());
    }
    let [took_ms, most_ms] = [tried.took, most].map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let words = format!(
        "the call took {took_ms} ms, and {} ms with the live models; {RATIO_MAX} times as long is the most. Where a region wants models that \
         are so much slower, take them out of its file first and put them in again",
        live.took.as_millis()
    );
    // Whose time it was is not told apart; the heaviest candidate is the likeliest.
    let stage = [Stage::Llm, Stage::Tts, Stage::Asr].into_iter().find(|stage| candidates.contains(stage));
    let stage = stage.or(candidates.first().copied()).unwrap_or(Stage::Llm);
    Err(Trouble { stage, kind: TroubleKind::Slow { took_ms, most_ms }, words })
}

/// Which candidate a trouble is held against: the one of its step; else the nearest before it, whose result the step was given; else any. `None` where
/// there is no candidate, or where the step is a live model's and goes wrong without candidates too (`live` is the trouble of that call).
pub fn blame(candidates: &BTreeSet<Stage>, trouble: &Trouble, live: Option<&Trouble>) -> Option<Stage> {
    if candidates.contains(&trouble.stage) {
        return Some(trouble.stage);
    }
    if live.is_some_and(|live| live.stage == trouble.stage) {
        return None;
    }
    const ORDER: [Stage; 6] = [Stage::Tts, Stage::Vad, Stage::Turn, Stage::Asr, Stage::Embed, Stage::Llm];
    let before = ORDER.into_iter().take_while(|stage| *stage != trouble.stage);
    before.filter(|stage| candidates.contains(stage)).last().or(candidates.first().copied())
}

#[cfg(test)]
mod tests {
    use super::{Stage::*, *};

    #[test]
    fn words_are_counted_as_heard_by_people() {
        let check = |heard: &str, expect: usize| {
            assert_eq!((words_wrong("when are you open", heard) * 4.0).round() as usize, expect, "{heard}");
        };
        check("When are you open?", 0);
        check("when are you", 1);
        check("then are you open", 1);
        check("when are are you open now", 2);
        check("", 4);
        check("- one two three four five six", 6);
        assert_eq!(words_wrong("", ""), 0.0);
    }

    #[test]
    fn silence_noise_and_what_is_no_audio_are_told_apart() {
        let check = |samples: Vec<f32>, expect: Option<&str>| {
            let found = audio(&samples).err();
            assert_eq!(found.is_some(), expect.is_some(), "{found:?}");
            assert!(expect.is_none_or(|part| found.is_some_and(|found| found.contains(part))));
        };
        check(vec![0.1; 24_000], None);
        check(vec![0.001; 24_000], Some("silence"));
        check(vec![f32::NAN; 24_000], Some("numbers"));
        check(vec![0.1; 100], Some("cannot be meant"));
        check(vec![], Some("cannot be meant"));
        check(vec![0.1; 61 * 24_000], Some("cannot be meant"));
    }

    #[test]
    fn a_trouble_is_held_against_the_candidate_that_may_have_caused_it() {
        let check = |candidates: &[Stage], at: Stage, live: Option<Stage>, expect: Option<Stage>| {
            let candidates: BTreeSet<Stage> = candidates.iter().copied().collect();
            let live = live.map(|stage| Trouble::new(stage, ""));
            assert_eq!(blame(&candidates, &Trouble::new(at, ""), live.as_ref()), expect, "{candidates:?} {at}");
        };
        check(&[Asr], Asr, None, Some(Asr));
        check(&[Asr], Asr, Some(Asr), Some(Asr));
        check(&[Tts, Llm], Asr, None, Some(Tts));
        check(&[Tts, Turn], Asr, None, Some(Turn));
        check(&[Llm], Tts, None, Some(Llm));
        check(&[Llm], Asr, Some(Asr), None);
        check(&[Llm], Asr, Some(Vad), Some(Llm));
        check(&[], Asr, None, None);
    }

    #[test]
    fn a_call_may_take_some_times_as_long_as_with_the_live_models_and_no_longer() {
        let of = |ms: u64, finished| Outcome { took: Duration::from_millis(ms), finished };
        let check = |candidates: &[Stage], tried: Outcome, live: Outcome, expect: Option<Stage>| {
            let found = compare(&candidates.iter().copied().collect(), &tried, &live).err();
            assert_eq!(found.as_ref().map(|trouble| trouble.stage), expect, "{found:?}");
        };
        check(&[Llm], of(4_000, None), of(500, None), None);
        check(&[Llm, Asr], of(4_001, None), of(500, None), Some(Llm));
        check(&[Vad], of(4_001, None), of(500, None), Some(Vad));
        check(&[Llm], of(800, None), of(1, None), None);
        check(&[Turn], of(1, Some(false)), of(1, Some(true)), Some(Turn));
        check(&[Turn], of(1, Some(false)), of(1, Some(false)), None);
        check(&[Tts], of(1, Some(false)), of(1, Some(true)), None);
    }
}
