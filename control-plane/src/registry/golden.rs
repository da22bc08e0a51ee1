//! Golden files of the catalogue: what a model must produce, with recordings named instead of contained.
//!
//! A file is a JSON list of cases as in [`GoldenCase`], but `audio` stands where the samples will be:
//! `{"utterance": "goforward", "from": 8000, "samples": 16000}`, a range of a recording of
//! [`speech`](super::speech) in samples of 16 kHz; without `samples` up to its end, `from` is 0 where it is left out.
//! The import fetches the recording and puts the samples into the model file, so that an agent needs nothing else.

use super::{
    catalogue::{CatalogueError, Entry},
    convert::Quantise,
    fetch::Fetcher,
    speech::{RATE_HZ, Speech, SpeechError, Utterance},
};
use nearfield_shared::{
    artefact::Stage,
    golden::{GoldenCase, Pcm16},
};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Most cases in a golden file; every device computes all of them before it serves.
const CASES_MAX: usize = 64;

/// A range of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Clip {
    utterance: String,
    #[serde(default)]
    from: usize,
    samples: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case", deny_unknown_fields)]
enum Case {
    Vad { audio: Clip, probabilities: Vec<f32>, tolerance: f32 },
    Turn { audio: Clip, probability: f32, tolerance: f32 },
    Asr { audio: Clip, tokens: Vec<u32>, edits_max: u32 },
    Llm { prompt_tokens: Vec<u32>, greedy: Vec<u32>, exact_first: u32, tie_logit: f32 },
    Tts { phoneme_ids: Vec<u32>, durations: Vec<u32>, f0: Vec<f32>, f0_correlation_min: f32 },
    Embed { text: String, embedding: Vec<f32>, cosine_min: f32 },
}

/// Why golden results cannot be attached.
#[derive(Debug, thiserror::Error)]
pub enum GoldenError {
    /// The file is not what it should be.
    #[error("the golden file of {name} cannot be used: {why}; correct control-plane/catalogue/golden/{name}.json")]
    Malformed {
        /// Which model.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A recording cannot be had.
    #[error(transparent)]
    Speech(#[from] SpeechError),
    /// The list of recordings has mistakes.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
}

/// The golden cases of a model, with their audio. Weights in [`Quantise::F32`] are held to no edits at all.
pub(super) fn cases(
    entry: &Entry,
    speech: &Speech,
    quantise: Quantise,
    fetcher: &Fetcher,
) -> Result<Vec<GoldenCase>, GoldenError> {
    let Some(text) = &entry.golden else { return Ok(Vec::new()) };
    let malformed = |why: String| GoldenError::Malformed { name: entry.name.clone(), why };
    let cases: Vec<Case> = serde_json::from_str(text).map_err(|e| malformed(e.to_string()))?;
    if cases.len() > CASES_MAX {
        return Err(malformed(format!("it has {} cases, at most {CASES_MAX} are allowed", cases.len())));
    }
    if let Some(other) = cases.iter().map(Case::stage).find(|s| *s != entry.stage) {
        return Err(malformed(format!("it has a case for stage {other}, but the model serves {}", entry.stage)));
    }
    let ids: BTreeSet<String> = cases.iter().filter_map(|c| Some(c.clip()?.utterance.clone())).collect();
    let found = speech.get(fetcher, &ids.iter().map(String::as_str).collect::<Vec<_>>())?;
    let recordings: BTreeMap<String, Utterance> = ids.into_iter().zip(found).collect();
    let pcm = |clip: &Clip| {
        let all = &recordings[&clip.utterance].pcm;
        let end = clip.samples.map_or(Some(all.len()), |n| clip.from.checked_add(n));
        match end.and_then(|end| all.get(clip.from..end)) {
            Some(part) if !part.is_empty() => Ok(Pcm16::new(RATE_HZ, part)),
            _ => Err(malformed(format!("{clip:?} is not within the recording's {} samples", all.len()))),
        }
    };
    cases
        .into_iter()
        .map(|case| {
            Ok(match case {
                Case::Vad { audio, probabilities, tolerance } => {
                    GoldenCase::Vad { pcm: pcm(&audio)?, probabilities, tolerance }
                }
                Case::Turn { audio, probability, tolerance } => {
                    GoldenCase::Turn { pcm: pcm(&audio)?, probability, tolerance }
                }
                Case::Asr { audio, tokens, edits_max } => {
                    let edits_max = if quantise == Quantise::F32 { 0 } else { edits_max };
                    GoldenCase::Asr { pcm: pcm(&audio)?, tokens, edits_max }
                }
                Case::Llm { prompt_tokens, greedy, exact_first, tie_logit } => {
                    GoldenCase::Llm { prompt_tokens, greedy, exact_first, tie_logit }
                }
                Case::Tts { phoneme_ids, durations, f0, f0_correlation_min } => {
                    GoldenCase::Tts { phoneme_ids, durations, f0, f0_correlation_min }
                }
                Case::Embed { text, embedding, cosine_min } => GoldenCase::Embed { text, embedding, cosine_min },
            })
        })
        .collect()
}

impl Case {
    fn stage(&self) -> Stage {
        match self {
            Case::Vad { .. } => Stage::Vad,
            Case::Turn { .. } => Stage::Turn,
            Case::Asr { .. } => Stage::Asr,
            Case::Llm { .. } => Stage::Llm,
            Case::Tts { .. } => Stage::Tts,
            Case::Embed { .. } => Stage::Embed,
        }
    }

    fn clip(&self) -> Option<&Clip> {
        match self {
            Case::Vad { audio, .. } | Case::Turn { audio, .. } | Case::Asr { audio, .. } => Some(audio),
            _ => None,
        }
    }
}
