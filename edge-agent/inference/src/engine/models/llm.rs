//! Answers: a chunk of the most urgent prompt one layer further, or one token of every answer that is being written, in one
//! batch. What was fed before, an assistant's instructions and a call's earlier turns, is copied instead.

use super::{Slots, foreign, model_error, not_ours, steps};
use crate::Device;
use crate::engine::golden::CaseOutcome;
use crate::engine::stepper::{Moves, Output, Progress, Proof, StepError, Stepper, Work};
use crate::llm::{
    DECODE_BATCH_MAX, Feeding, Llama, LlmError, PENDING_MAX, PREFILL_CHUNK, Prefix, PrefixCache, Sampling, Segment,
    Sequence, TextStream,
};
use crate::nn::Resident;
use nearfield_shared::{artefact::Stage, gguf::Gguf, golden::GoldenCase};
use std::collections::VecDeque;
use std::rc::Rc;

/// Tokens that a prompt and its answer may have together. A spoken conversation of a quarter of an hour fits; SmolLM2's
/// cache takes 47 MB at this length on a CPU. A slot's is let go of with its answer.
const PLACES: usize = 2048;

pub(super) struct LlmStepper {
    model: Rc<Llama>,
    answers: Slots<Answer>,
    prefixes: PrefixCache,
}

/// An answer on its way.
struct Answer {
    sequence: Sequence,
    /// Turns that were fed before, to be copied, one at a step.
    known: VecDeque<Rc<Segment>>,
    /// The turn behind which the next one stands in the cache of prefixes.
    parent: Option<Prefix>,
    /// Turns to be fed.
    turns: VecDeque<Turn>,
    /// Tokens of the first of them that were fed.
    fed: usize,
    feeding: Option<Feeding>,
    /// What opens the answer: fed together with its first step.
    opening: Vec<u32>,
    left: usize,
    text: TextStream,
}

struct Turn {
    tokens: Vec<u32>,
    is_instruction: bool,
}

impl Answer {
    fn is_fed(&self) -> bool {
        self.known.is_empty() && self.turns.is_empty()
    }
}

impl LlmStepper {
    pub fn load(gguf: &Gguf, device: &Device, slots: usize, prefix_bytes_max: usize) -> Result<Self, StepError> {
        let model = Llama::load(gguf, device).map_err(model_error)?;
        Ok(Self { model: Rc::new(model), answers: Slots::new(slots), prefixes: PrefixCache::new(prefix_bytes_max) })
    }

    fn places(&self) -> usize {
        PLACES.min(self.model.config().context)
    }

    /// One step of the slot's prompt: a known turn is copied, or a chunk goes through one layer; false where all of it is fed.
    fn prefill(&mut self, slot: usize) -> Result<bool, LlmError> {
        let answer = self.answers.task(slot);
        let sequence = &mut answer.sequence;
        if let Some(segment) = answer.known.pop_front() {
            sequence.append(&segment)?;
            return Ok(true);
        }
        let Some(turn) = answer.turns.front() else { return Ok(false) };
        let chunk = (turn.tokens.len() - answer.fed).min(PREFILL_CHUNK);
        let feeding = match &mut answer.feeding {
            Some(feeding) => feeding,
            None => {
                let tokens = &turn.tokens[answer.fed..answer.fed + chunk];
                answer.feeding.insert(self.model.begin_feed(sequence, tokens)?)
            }
        };
        if !self.model.feed_layer(sequence, feeding) {
            return Ok(true);
        }
        answer.feeding = None;
        answer.fed += chunk;
        if answer.fed == turn.tokens.len() {
            // Behind a turn that is not kept nothing can be kept either.
            let is_kept_behind = answer.parent.is_some() || sequence.tokens() == turn.tokens.len();
            answer.parent = is_kept_behind
                .then(|| self.prefixes.keep(answer.parent, &turn.tokens, turn.is_instruction, sequence))
                .flatten();
            answer.turns.pop_front();
            answer.fed = 0;
        }
        Ok(true)
    }

    /// One token for each of these slots whose prompt was fed, the most urgent first, as many as a step takes.
    fn decode(&mut self, due: &[usize]) -> Moves {
        let mut rows = 0;
        let fits = |slot: &usize| {
            rows += self.answers.peek(*slot).opening.len().max(1);
            rows <= DECODE_BATCH_MAX
        };
        let ready = due.iter().copied().filter(|slot| self.answers.peek(*slot).is_fed());
        let numbers: Vec<usize> = ready.take_while(fits).collect();
        let (mut sequences, mut answers) = (Vec::new(), Vec::new());
        for (number, answer) in numbers.iter().zip(self.answers.tasks(&numbers)) {
            let Answer { sequence, opening, left, text, .. } = answer;
            if let Err(error) = sequence.hold(&std::mem::take(opening)) {
                return vec![(*number, Err(error.into()))];
            }
            sequences.push(sequence);
            answers.push((left, text));
        }
        let tokens = match self.model.decode(&mut sequences) {
            Ok(tokens) => tokens,
            Err(error) => return numbers.into_iter().map(|slot| (slot, Err(error.clone().into()))).collect(),
        };
        let tokenizer = self.model.tokenizer();
        let moved = answers.into_iter().zip(tokens).map(|((left, text), token)| {
            if tokenizer.is_stop(token) {
                return Progress::Done(Output::End(text.finish()));
            }
            let piece = text.push(tokenizer.bytes(token));
            *left -= 1;
            if *left > 0 {
                return Progress::Piece(piece);
            }
            Progress::Done(Output::End(piece + &text.finish()))
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
        let Work::Llm { messages, max_tokens, wish } = work else { return Err(foreign(Stage::Llm)) };
        let pairs = messages.iter().map(|message| (message.role.as_str(), message.content.as_str()));
        let (turns, mut opening) = self.model.tokenizer().turns(pairs)?;
        opening.extend(self.model.tokenizer().encode(&wish.begins)?);
        let places = self.places();
        let tokens = turns.iter().map(Vec::len).sum::<usize>() + opening.len();
        if tokens + max_tokens > places {
            return Err(StepError::BadInput(format!(
                "a conversation of {tokens} tokens and an answer of {max_tokens} are more than the {places} that fit; leave \
                 older messages out or ask for a shorter answer",
            )));
        }
        // An opening that is too long for the answer's first step is fed before it, but for its last token.
        let fed_before = if opening.len() > PENDING_MAX { opening.len() - 1 } else { 0 };
        let held = opening.split_off(fed_before);
        let mut sequence = self.model.sequence(places, wish.sampling());
        sequence.expect(tokens);
        let known = self.prefixes.longest(&turns);
        let rest = turns.into_iter().zip(&messages).skip(known.len());
        let answer = Answer {
            sequence,
            parent: known.last().map(|(prefix, _)| *prefix),
            turns: rest
                .map(|(tokens, message)| Turn { tokens, is_instruction: message.is_shared })
                .chain((fed_before > 0).then_some(Turn { tokens: opening, is_instruction: false }))
                .collect(),
            known: known.into_iter().map(|(_, segment)| segment).collect(),
            fed: 0,
            feeding: None,
            opening: held,
            left: max_tokens,
            text: TextStream::default(),
        };
        self.answers.fill(slot, answer);
        Ok(())
    }

    fn step(&mut self, due: &[usize]) -> Moves {
        match self.prefill(due[0]) {
            Ok(true) => vec![(due[0], Ok(Progress::Moved))],
            Ok(false) => self.decode(due),
            Err(error) => vec![(due[0], Err(error.into()))],
        }
    }

    fn end(&mut self, slot: usize) {
        self.answers.empty(slot);
    }

    fn forget_callers(&mut self) {
        self.prefixes.forget_callers();
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
            feeding: None,
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
    feeding: Option<Feeding>,
    expected: Vec<u32>,
    found: Vec<u32>,
    ties: usize,
    tie_logit: f32,
}

impl GreedyProof {
    fn step(&mut self) -> Result<Option<CaseOutcome>, StepError> {
        // All but the last token, which the first step of the answer feeds.
        let to_feed = self.prompt.len().saturating_sub(1);
        if self.fed < to_feed {
            let end = (self.fed + PREFILL_CHUNK).min(to_feed);
            let feeding = match &mut self.feeding {
                Some(feeding) => feeding,
                None => self.feeding.insert(self.model.begin_feed(&self.sequence, &self.prompt[self.fed..end])?),
            };
            if self.model.feed_layer(&mut self.sequence, feeding) {
                (self.feeding, self.fed) = (None, end);
            }
            return Ok(None);
        }
        let Some(&expected) = self.expected.get(self.found.len()) else { return Ok(Some(self.outcome())) };
        if self.found.is_empty() {
            self.sequence.hold(&self.prompt[to_feed..])?;
        }
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
