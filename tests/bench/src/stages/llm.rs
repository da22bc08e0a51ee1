//! SmolLM2 beside llama.cpp, from the same GGUF file.

use super::{Material, PASSAGE, Row, Verdict, Work};
use crate::{
    measure::{Run, timed},
    peer::{Peer, Timed},
};
use anyhow::{Result, ensure};
use nearfield_inference::{
    llm::{Llama, Sampling},
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

/// One token after another, the best each time.
pub(super) struct Decode {
    llama: Rc<Llama>,
    prompt: Vec<u32>,
    ours: Vec<u32>,
    theirs: Vec<u32>,
}

impl Decode {
    pub fn new(material: &Material) -> Result<Self> {
        let llama = material.llama()?;
        let prompt = prompt(&llama, PROMPT_TOKENS)?;
        Ok(Self { llama, prompt, ours: Vec::new(), theirs: Vec::new() })
    }
}

impl Row for Decode {
    fn work(&self) -> Work {
        Work::Tokens(DECODED_TOKENS)
    }

    fn ours(&mut self) -> Result<Run> {
        let mut sequence = self.llama.sequence(PROMPT_TOKENS + DECODED_TOKENS, Sampling::GREEDY);
        self.llama.prefill(&mut sequence, &self.prompt)?;
        let (run, found) = timed(|| -> Result<Vec<u32>> {
            (0..DECODED_TOKENS).map(|_| Ok(self.llama.decode(&mut [&mut sequence])?[0])).collect()
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

    fn verdict(&self) -> Result<Verdict> {
        // Greedy texts part for good at the first near tie, which rounding decides; so ours is led along theirs, and each choice compared.
        let mut sequence = self.llama.sequence(PROMPT_TOKENS + DECODED_TOKENS, Sampling::GREEDY);
        self.llama.prefill(&mut sequence, &self.prompt)?;
        let mut agree = 0;
        for &token in &self.theirs {
            agree += usize::from(self.llama.decode(&mut [&mut sequence])?[0] == token);
            sequence.accept(token);
        }
        let all = self.theirs.len();
        let equal = self.ours.iter().zip(&self.theirs).take_while(|(a, b)| a == b).count();
        let said = format!("{agree} of {all} choices equal along the same text; alone the first {equal} tokens");
        Ok(Verdict { same: self.ours.len() == all && agree * 10 >= all * 9, said })
    }

    fn bytes_per_token(&self) -> Option<usize> {
        // The embedding is the head too, so every weight is read; the cache is read as far as it is filled, half of the answer on average.
        let filled = PROMPT_TOKENS + DECODED_TOKENS / 2;
        Some(self.llama.resident_bytes() + self.llama.cache_bytes_per_token() * filled)
    }
}

/// A prompt, to the first token of its answer.
pub(super) struct Prefill {
    llama: Rc<Llama>,
    prompt: Vec<u32>,
    ours: Vec<u32>,
    theirs: Vec<u32>,
}

impl Prefill {
    pub fn new(material: &Material) -> Result<Self> {
        let llama = material.llama()?;
        let prompt = prompt(&llama, PREFILL_TOKENS)?;
        Ok(Self { llama, prompt, ours: Vec::new(), theirs: Vec::new() })
    }
}

impl Row for Prefill {
    fn work(&self) -> Work {
        Work::Prompt(PREFILL_TOKENS)
    }

    fn ours(&mut self) -> Result<Run> {
        let (run, found) = timed(|| -> Result<Vec<u32>> {
            let mut sequence = self.llama.sequence(PREFILL_TOKENS + 1, Sampling::GREEDY);
            self.llama.prefill(&mut sequence, &self.prompt)?;
            Ok(self.llama.decode(&mut [&mut sequence])?)
        });
        self.ours = found?;
        Ok(run)
    }

    fn theirs(&mut self, peer: &mut Peer) -> Result<Run> {
        let answer: Timed<Tokens> = peer.ask("llm_prefill", json!({ "prompt": self.prompt }))?;
        self.theirs = answer.found.tokens;
        Ok(answer.run.into())
    }

    fn verdict(&self) -> Result<Verdict> {
        let same = self.ours == self.theirs;
        Ok(Verdict { same, said: if same { "the same next token" } else { "another next token" }.to_owned() })
    }
}
