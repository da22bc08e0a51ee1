//! Answers: a chunk of the most urgent prompt, or one token of every answer that is being written, in one batch.

use super::{foreign, model_error, not_ours, steps};
use crate::Device;
use crate::engine::golden::CaseOutcome;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::llm::{DECODE_BATCH_MAX, Llama, LlmError, PREFILL_CHUNK, Sampling, Sequence, TextStream};
use crate::nn::Resident;
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::rc::Rc;

/// Tokens that a prompt and its answer may have together. A spoken conversation of a quarter of an hour fits; SmolLM2's
/// cache takes 94 MB at this length, and a slot's is kept from one answer to the next.
const PLACES: usize = 2048;

/// Always the likeliest token, but one that was just said loses a little: greedy small models circle, and a caller who asks
/// the same twice should get the same answer.
const SAMPLING: Sampling = Sampling { repetition: 1.1, ..Sampling::GREEDY };

pub(super) struct LlmStepper {
    model: Rc<Llama>,
    slots: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    /// Made with the slot's first answer, used again for the next.
    sequence: Option<Sequence>,
    answer: Option<Answer>,
}

struct Answer {
    prompt: Vec<u32>,
    fed: usize,
    left: usize,
    text: TextStream,
}

impl LlmStepper {
    pub fn load(gguf: &Gguf, device: &Device, slots: usize) -> Result<Self, StepError> {
        let model = Llama::load(gguf, device).map_err(model_error)?;
        Ok(Self { model: Rc::new(model), slots: (0..slots).map(|_| Slot::default()).collect() })
    }

    fn places(&self) -> usize {
        PLACES.min(self.model.config().context)
    }

    /// A chunk of the slot's prompt, if not all of it was fed.
    fn prefill(&mut self, slot: usize) -> Option<Result<Progress, StepError>> {
        let Slot { sequence: Some(sequence), answer: Some(answer) } = &mut self.slots[slot] else { return None };
        let chunk = answer.prompt[answer.fed..].chunks(PREFILL_CHUNK).next()?;
        let fed = self.model.prefill(sequence, chunk);
        answer.fed += chunk.len();
        Some(fed.map(|()| Progress::Moved).map_err(StepError::from))
    }

    /// One token for each of these slots whose prompt was fed.
    fn decode(&mut self, due: &[usize]) -> Moves {
        let (mut numbers, mut sequences, mut answers) = (Vec::new(), Vec::new(), Vec::new());
        for (number, slot) in self.slots.iter_mut().enumerate().filter(|(number, _)| due.contains(number)) {
            let Slot { sequence: Some(sequence), answer: Some(answer) } = slot else { continue };
            if answer.fed == answer.prompt.len() && numbers.len() < DECODE_BATCH_MAX {
                numbers.push(number);
                sequences.push(sequence);
                answers.push(answer);
            }
        }
        let tokens = match self.model.decode(&mut sequences) {
            Ok(tokens) => tokens,
            Err(error) => return numbers.into_iter().map(|slot| (slot, Err(error.clone().into()))).collect(),
        };
        let tokenizer = self.model.tokenizer();
        let moved = answers.into_iter().zip(tokens).map(|(answer, token)| {
            if tokenizer.is_stop(token) {
                return Progress::Done(Output::End(answer.text.finish()));
            }
            let piece = answer.text.push(tokenizer.bytes(token));
            answer.left -= 1;
            if answer.left > 0 {
                return Progress::Piece(piece);
            }
            Progress::Done(Output::End(piece + &answer.text.finish()))
        });
        numbers.into_iter().zip(moved.map(Ok)).collect()
    }
}

impl From<LlmError> for StepError {
    fn from(error: LlmError) -> Self {
        match error {
            LlmError::Role(_) | LlmError::Tokenise(_) | LlmError::Full { .. } => StepError::BadInput(error.to_string()),
            _ => StepError::Model(error.to_string()),
        }
    }
}

impl Stepper for LlmStepper {
    fn resident_bytes(&self) -> usize {
        self.model.resident_bytes()
    }

    fn begin(&mut self, slot: usize, work: Work) -> Result<(), StepError> {
        let Work::Llm { messages, max_tokens } = work else { return Err(foreign(Stage::Llm)) };
        let pairs = messages.iter().map(|message| (message.role.as_str(), message.content.as_str()));
        let prompt = self.model.tokenizer().chat(pairs)?;
        let places = self.places();
        if prompt.len() + max_tokens > places {
            return Err(StepError::BadInput(format!(
                "a conversation of {} tokens and an answer of {max_tokens} are more than the {places} that fit; leave \
                 older messages out or ask for a shorter answer",
                prompt.len()
            )));
        }
        let slot = &mut self.slots[slot];
        match &mut slot.sequence {
            Some(sequence) => sequence.clear(SAMPLING),
            None => slot.sequence = Some(self.model.sequence(places, SAMPLING)),
        }
        slot.answer = Some(Answer { prompt, fed: 0, left: max_tokens, text: TextStream::default() });
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        match self.prefill(due[0]) {
            Some(moved) => vec![(due[0], moved)],
            None => self.decode(due),
        }
    }

    fn end(&mut self, slot: usize) {
        self.slots[slot].answer = None;
    }

    fn prove(&mut self, case: &GoldenCase) -> Result<Box<dyn Proof>, StepError> {
        let GoldenCase::Llm { prompt_tokens, greedy, exact_first, tie_logit } = case else {
            return Err(not_ours(Stage::Llm, case));
        };
        let exact = greedy.len().min(*exact_first as usize);
        let mut proof = GreedyProof {
            model: self.model.clone(),
            sequence: self.model.sequence(prompt_tokens.len() + exact + 1, Sampling::GREEDY),
            prompt: prompt_tokens.clone(),
            fed: 0,
            expected: greedy[..exact].to_vec(),
            found: Vec::new(),
            ties: 0,
            tie_logit: *tie_logit,
        };
        Ok(steps(move || proof.step()))
    }
}

/// Compares the best token with the expected one, and goes on from the expected one whatever came: where the two best are
/// nearly equal, another device may choose the other without being wrong, and what follows must still be comparable.
struct GreedyProof {
    model: Rc<Llama>,
    sequence: Sequence,
    prompt: Vec<u32>,
    fed: usize,
    expected: Vec<u32>,
    found: Vec<u32>,
    ties: usize,
    tie_logit: f32,
}

impl GreedyProof {
    fn step(&mut self) -> Result<Option<CaseOutcome>, StepError> {
        if let Some(chunk) = self.prompt[self.fed..].chunks(PREFILL_CHUNK).next() {
            self.model.prefill(&mut self.sequence, chunk)?;
            self.fed += chunk.len();
            return Ok(None);
        }
        let Some(&expected) = self.expected.get(self.found.len()) else { return Ok(Some(self.outcome())) };
        let logits = self.model.decode_logits(&mut [&mut self.sequence])?.pop().unwrap_or_default();
        let best = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(token, _)| token);
        let score = |token: usize| logits.get(token).copied().unwrap_or(f32::NEG_INFINITY);
        let tie = best as u32 != expected && score(best) - score(expected as usize) < self.tie_logit;
        self.ties += usize::from(tie);
        self.found.push(if tie { expected } else { best as u32 });
        self.sequence.accept(expected);
        Ok((self.found.len() == self.expected.len()).then(|| self.outcome()))
    }

    fn outcome(&self) -> CaseOutcome {
        CaseOutcome {
            stage: Stage::Llm,
            passed: self.found == self.expected,
            expected: format!("{:?}", self.expected),
            found: format!("{:?}, {} ties within {} of the best score", self.found, self.ties, self.tie_logit),
        }
    }
}
