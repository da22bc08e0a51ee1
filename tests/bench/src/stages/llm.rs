//! SmolLM2 beside llama.cpp, from the same GGUF file.

use super::{Material, PASSAGE, Row, Verdict, Work};
use crate::{
    measure::{Run, timed},
    peer::{Peer, Timed},
};
use anyhow::{Result, ensure};
use nearfield_inference::{
    llm::{Llama, Sampling, Sequence},
    nn::Resident as _,
};
use serde::Deserialize;
use serde_json::json;
use std::rc::Rc;

const PROMPT_TOKENS: usize = 64;
const DECODED_TOKENS: usize = 128;
const PREFILL_TOKENS: usize = 512;

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<u32>,
}

/// The first tokens of the passage.
pub(super) fn prompt(llama: &Llama, tokens: usize) -> Result<Vec<u32>> {
    let mut all = llama.tokenizer().encode(PASSAGE)?;
    ensure!(all.len() >= tokens, "the passage has {} tokens, {tokens} are needed", all.len());
    all.truncate(tokens);
    Ok(all)
}

fn both(ours: &[u32], theirs: &[u32], what: impl Fn(usize) -> String) -> Verdict {
    let equal = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    // Greedy texts part for good at the first near tie, which rounding decides; work and length stay the same.
    Verdict { same: ours.len() == theirs.len() && equal * 8 >= ours.len(), said: what(equal) }
}

/// One token after another, the best each time.
pub(super) struct Decode {
    llama: Rc<Llama>,
    prompt: Vec<u32>,
    sequence: Sequence,
    ours: Vec<u32>,
    theirs: Vec<u32>,
}

impl Decode {
    pub fn new(material: &Material) -> Result<Self> {
        let llama = material.llama()?;
        let prompt = prompt(&llama, PROMPT_TOKENS)?;
        let sequence = llama.sequence(PROMPT_TOKENS + DECODED_TOKENS, Sampling::GREEDY);
        Ok(Self { llama, prompt, sequence, ours: Vec::new(), theirs: Vec::new() })
    }
}

impl Row for Decode {
    fn work(&self) -> Work {
        Work::Tokens(DECODED_TOKENS)
    }

    fn ours(&mut self) -> Result<Run> {
        self.sequence.clear(Sampling::GREEDY);
        self.llama.prefill(&mut self.sequence, &self.prompt)?;
        let (run, found) = timed(|| -> Result<Vec<u32>> {
            (0..DECODED_TOKENS).map(|_| Ok(self.llama.decode(&mut [&mut self.sequence])?[0])).collect()
        });
        self.ours = found?;
        Ok(run)
    }

    fn theirs(&mut self, peer: &mut Peer) -> Result<Run> {
        let request = json!({ "prompt": self.prompt, "tokens": DECODED_TOKENS });
        let answer: Timed<Tokens> = peer.ask("llm_decode", request)?;
        self.theirs = answer.found.tokens;
        Ok(answer.run.into())
    }

    fn verdict(&self) -> Verdict {
        both(&self.ours, &self.theirs, |equal| format!("first {equal} of {} tokens equal", self.ours.len()))
    }

    fn bytes_per_token(&self) -> Option<usize> {
        // The embedding is the head too, so every weight is read; the cache is read as far as it is filled, half of the answer on average.
        let places = PROMPT_TOKENS + DECODED_TOKENS;
        let filled = PROMPT_TOKENS + DECODED_TOKENS / 2;
        Some(self.llama.resident_bytes() + self.sequence.cache_bytes() * filled / places)
    }
}

/// A prompt, to the first token of its answer.
pub(super) struct Prefill {
    llama: Rc<Llama>,
    prompt: Vec<u32>,
    sequence: Sequence,
    ours: Vec<u32>,
    theirs: Vec<u32>,
}

impl Prefill {
    pub fn new(material: &Material) -> Result<Self> {
        let llama = material.llama()?;
        let prompt = prompt(&llama, PREFILL_TOKENS)?;
        let sequence = llama.sequence(PREFILL_TOKENS + 1, Sampling::GREEDY);
        Ok(Self { llama, prompt, sequence, ours: Vec::new(), theirs: Vec::new() })
    }
}

impl Row for Prefill {
    fn work(&self) -> Work {
        Work::Tokens(PREFILL_TOKENS)
    }

    fn ours(&mut self) -> Result<Run> {
        self.sequence.clear(Sampling::GREEDY);
        let (run, found) = timed(|| -> Result<Vec<u32>> {
            self.llama.prefill(&mut self.sequence, &self.prompt)?;
            Ok(self.llama.decode(&mut [&mut self.sequence])?)
        });
        self.ours = found?;
        Ok(run)
    }

    fn theirs(&mut self, peer: &mut Peer) -> Result<Run> {
        let answer: Timed<Tokens> = peer.ask("llm_prefill", json!({ "prompt": self.prompt }))?;
        self.theirs = answer.found.tokens;
        Ok(answer.run.into())
    }

    fn verdict(&self) -> Verdict {
        both(&self.ours, &self.theirs, |equal| {
            if equal == 1 { "the same next token".to_owned() } else { "another next token".to_owned() }
        })
    }
}
