//! Transcripts: a step takes the most urgent job's audio one layer further through the encoder, or writes a token of every
//! transcript that is being written, in one batch, and checks drafted tokens where there is room.

use super::{audio, foreign, model_error, not_ours, steps};
use crate::Device;
use crate::asr::{Aligning, AsrError, Decoding, Encoded, Encoding, Moonshine};
use crate::engine::golden;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::engine::transcript::Transcript;
use crate::nn::Resident;
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::{rc::Rc, sync::Arc};

pub(super) struct AsrStepper {
    model: Rc<Moonshine>,
    slots: Vec<Option<Task>>,
}

/// A transcript on its way.
struct Task {
    draft: Vec<u32>,
    words: Arc<[String]>,
    times: bool,
    at: At,
}

enum At {
    Audio(Vec<f32>),
    Encoder(Box<Encoding>),
    Heard(Box<Encoded>),
    Writing(Box<Decoding>),
    /// Written; when its words were said is looked for.
    Aligning(Transcript, Box<Aligning>),
    /// While a step computes what comes next, and for good if it panicked.
    Between,
}

impl Task {
    fn new(pcm: Vec<f32>, draft: Vec<u32>, words: Arc<[String]>, times: bool) -> Self {
        Self { draft, words, times, at: At::Audio(pcm) }
    }

    /// One step on the way to the first token, or behind the last; `None` when the next step writes.
    fn hear(&mut self, model: &Moonshine) -> Result<Option<Progress>, AsrError> {
        let at = match std::mem::replace(&mut self.at, At::Between) {
            At::Audio(pcm) => At::Encoder(Box::new(model.listen(&pcm)?)),
            At::Encoder(mut encoding) => match model.hear(&mut encoding) {
                Some(encoded) => At::Heard(Box::new(encoded)),
                None => At::Encoder(encoding),
            },
            At::Heard(encoded) => {
                let mut decoding = model.begin(*encoded);
                model.boost(&mut decoding, &self.words);
                model.expect(&mut decoding, &self.draft);
                At::Writing(Box::new(decoding))
            }
            At::Writing(decoding) if self.times && decoding.is_ended() => {
                At::Aligning(transcript(model, &decoding), Box::new(model.align(*decoding)))
            }
            At::Aligning(transcript, mut aligning) => match model.look(&mut aligning) {
                Some(words) => return Ok(Some(Progress::Done(Output::Transcript(Transcript { words, ..transcript })))),
                None => At::Aligning(transcript, aligning),
            },
            at @ (At::Writing(_) | At::Between) => {
                self.at = at;
                return Ok(None);
            }
        };
        self.at = at;
        Ok(Some(Progress::Moved))
    }

    /// The transcript that is being written, and whether it is done when its last token is.
    fn writing(&mut self) -> Option<(bool, &mut Decoding)> {
        match &mut self.at {
            At::Writing(decoding) => Some((!self.times, decoding)),
            _ => None,
        }
    }
}

impl AsrStepper {
    pub fn load(gguf: &Gguf, device: &Device, slots: usize) -> Result<Self, StepError> {
        let model = Moonshine::load(gguf, device).map_err(model_error)?;
        Ok(Self { model: Rc::new(model), slots: (0..slots).map(|_| None).collect() })
    }

    /// A token of each of these transcripts that is being written.
    fn write(&mut self, due: &[usize]) -> Moves {
        let mut writing: Vec<(usize, (bool, &mut Decoding))> = self
            .slots
            .iter_mut()
            .enumerate()
            .filter(|(slot, _)| due.contains(slot))
            .filter_map(|(slot, task)| Some((slot, task.as_mut()?.writing()?)))
            .collect();
        // The most urgent first: a step has a bounded number of rows.
        writing.sort_by_key(|(slot, _)| due.iter().position(|d| d == slot));
        let (slots, writing): (Vec<usize>, Vec<(bool, &mut Decoding)>) = writing.into_iter().unzip();
        let (ends, mut decodings): (Vec<bool>, Vec<&mut Decoding>) = writing.into_iter().unzip();
        if let Err(error) = self.model.step(&mut decodings) {
            return slots.into_iter().map(|slot| (slot, Err(error.clone().into()))).collect();
        }
        let moved = decodings.into_iter().zip(ends).map(|(decoding, ends)| {
            if ends && decoding.is_ended() {
                Progress::Done(Output::Transcript(transcript(&self.model, decoding)))
            } else {
                Progress::Moved
            }
        });
        slots.into_iter().zip(moved.map(Ok)).collect()
    }
}

/// What was written.
fn transcript(model: &Moonshine, decoding: &Decoding) -> Transcript {
    let tokens = decoding.tokens().to_vec();
    Transcript { text: model.text(&tokens), tokens, words: Vec::new() }
}

impl From<AsrError> for StepError {
    fn from(error: AsrError) -> Self {
        match error {
            AsrError::TooLong { .. } => StepError::BadInput(error.to_string()),
            AsrError::Device(_) => StepError::Model(error.to_string()),
        }
    }
}

impl Stepper for AsrStepper {
    fn resident_bytes(&self) -> usize {
        self.model.resident_bytes()
    }

    fn begin(&mut self, slot: usize, work: Work) -> Result<(), StepError> {
        let Work::Asr { pcm, draft, words, times } = work else { return Err(foreign(Stage::Asr)) };
        self.slots[slot] = Some(Task::new(pcm, draft, words, times));
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        let first = due[0];
        let heard = self.slots[first].as_mut().map_or(Ok(None), |task| task.hear(&self.model));
        match heard {
            Ok(Some(progress)) => vec![(first, Ok(progress))],
            Ok(None) => self.write(due),
            Err(error) => vec![(first, Err(error.into()))],
        }
    }

    fn end(&mut self, slot: usize) {
        self.slots[slot] = None;
    }

    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError> {
        let GoldenCase::Asr { pcm, tokens, edits_max } = case else { return Err(not_ours(Stage::Asr, case)) };
        let (model, tokens, edits_max) = (self.model.clone(), tokens.clone(), *edits_max);
        let mut task = Task::new(audio(pcm)?, Vec::new(), Arc::default(), false);
        Ok(steps(move || {
            if task.hear(&model)?.is_some() {
                return Ok(None);
            }
            let Some((_, decoding)) = task.writing() else { return Err(foreign(Stage::Asr)) };
            model.step(&mut [&mut *decoding])?;
            Ok(decoding.is_ended().then(|| golden::tokens(Stage::Asr, &tokens, decoding.tokens(), edits_max)))
        }))
    }
}
