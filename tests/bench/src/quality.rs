//! Speed must not be paid for with errors: the same models with their weights as floats, and with the weights and kernels that are used.

use crate::{peer::Peer, stages::PASSAGE};
use anyhow::{Context, Result, ensure};
use control_plane::registry::{
    self, Catalogue, Fetcher, Quantise,
    speech::wer::{WordErrors, word_errors},
};
use nearfield_inference::{
    Device,
    asr::Moonshine,
    llm::{DECODE_BATCH_MAX, Llama, Sampling},
};
use nearfield_shared::gguf::{BlockType, Gguf, GgufWriter};
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The passage is cut into so many windows, which are scored side by side: the batched step is the one that calls use.
const WINDOWS: usize = DECODE_BATCH_MAX;
/// Tokens at the start of each window that are fed as a prompt and not scored.
const PROMPT_TOKENS: usize = 32;
/// Tokens of each window that are scored.
const SCORED_TOKENS: usize = 64;

/// How well the language model foretells the passage: lower is better.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Perplexity {
    /// With the blocks of the file and our kernels.
    pub ours: f64,
    /// The same file with its weights as floats.
    pub floats: f64,
    /// llama.cpp on the same file, where it took part.
    pub llama_cpp: Option<f64>,
}

impl Perplexity {
    /// How far ours is from the floats, as a share of them.
    pub fn change(&self) -> f64 {
        self.ours / self.floats - 1.0
    }
}

/// Word errors of the speech recogniser on the labelled set.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Wer {
    /// In the default quantisation, in percent.
    pub ours_percent: f64,
    /// With float weights.
    pub floats_percent: f64,
}

#[derive(Deserialize)]
struct Likelihoods {
    nll: Vec<Vec<f64>>,
}

/// Measures the language model on the passage.
///
/// # Errors
/// When the model cannot be had or does not fit.
pub fn perplexity(fetcher: &Fetcher, device: &Device, peer: Option<&mut Peer>) -> Result<Perplexity> {
    let path = registry::ensure_with("smollm2-135m-instruct", &Catalogue::builtin()?, None, fetcher)?;
    let gguf = Gguf::open(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let windows = windows(&Llama::load(&gguf, device)?)?;
    let ours = perplexity_of(&Llama::load(&gguf, device)?, &windows)?;
    let floats = perplexity_of(&Llama::load(&as_floats(&gguf)?, device)?, &windows)?;
    let llama_cpp = match peer {
        Some(peer) => {
            let found: Likelihoods = peer.ask("llm_likelihoods", json!({ "windows": windows }))?;
            Some(exp_mean(&found.nll.concat()))
        }
        None => None,
    };
    Ok(Perplexity { ours, floats, llama_cpp })
}

/// Measures the speech recogniser.
///
/// # Errors
/// When the model or the recordings cannot be had.
pub fn wer(fetcher: &Fetcher, device: &Device) -> Result<Wer> {
    let catalogue = Catalogue::builtin()?;
    let utterances = catalogue.speech()?.labelled(fetcher)?;
    let percent = |quantise| -> Result<f64> {
        let path = registry::ensure_with("moonshine-tiny", &catalogue, quantise, fetcher)?;
        let model = Moonshine::load(&Gguf::open(path)?, device)?;
        let mut total = WordErrors::default();
        for utterance in &utterances {
            total += word_errors(&utterance.text, &model.transcribe(&utterance.samples())?);
        }
        Ok(total.percent())
    };
    Ok(Wer { ours_percent: percent(None)?, floats_percent: percent(Some(Quantise::F32))? })
}

/// Prompt and scored tokens of each window.
type Windows = Vec<(Vec<u32>, Vec<u32>)>;

fn windows(llama: &Llama) -> Result<Windows> {
    let tokens = llama.tokenizer().encode(PASSAGE)?;
    let each = PROMPT_TOKENS + SCORED_TOKENS;
    ensure!(tokens.len() >= WINDOWS * each, "the passage has {} tokens, {} are needed", tokens.len(), WINDOWS * each);
    let windows = tokens.chunks_exact(each).take(WINDOWS);
    Ok(windows.map(|w| (w[..PROMPT_TOKENS].to_vec(), w[PROMPT_TOKENS..].to_vec())).collect())
}

fn perplexity_of(llama: &Llama, windows: &Windows) -> Result<f64> {
    let mut sequences = Vec::new();
    for (prompt, _) in windows {
        let mut sequence = llama.sequence(PROMPT_TOKENS + SCORED_TOKENS, Sampling::GREEDY);
        llama.prefill(&mut sequence, prompt)?;
        sequences.push(sequence);
    }
    let mut nll = Vec::new();
    for i in 0..SCORED_TOKENS {
        let logits = llama.decode_logits(&mut sequences.iter_mut().collect::<Vec<_>>())?;
        for ((sequence, logits), (_, scored)) in sequences.iter_mut().zip(&logits).zip(windows) {
            nll.push(negative_log_likelihood(logits, scored[i]));
            sequence.accept(scored[i]);
        }
    }
    Ok(exp_mean(&nll))
}

fn negative_log_likelihood(logits: &[f32], token: u32) -> f64 {
    let peak = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - peak).exp()).sum();
    sum.ln() - f64::from(logits[token as usize] - peak)
}

fn exp_mean(values: &[f64]) -> f64 {
    (values.iter().sum::<f64>() / values.len() as f64).exp()
}

/// The same model with every weight as a float: what its blocks stand for, to the last bit.
fn as_floats(gguf: &Gguf) -> Result<Gguf> {
    let mut writer = GgufWriter::new(gguf.architecture()?);
    for (key, value) in gguf.metadata().iter().filter(|(key, _)| key.as_str() != "general.alignment") {
        writer.meta(key, value.clone());
    }
    for tensor in gguf.tensors() {
        if tensor.block == BlockType::I8 {
            writer.bytes(tensor.name, tensor.data.to_vec())?;
        } else {
            writer.tensor_f32(tensor.name, &tensor.shape, BlockType::F32, &tensor.to_f32())?;
        }
    }
    Ok(Gguf::parse(writer.to_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likelihoods_are_those_of_the_softmax() {
        let logits = [0.25f32.ln(), 0.75f32.ln()];
        assert!((negative_log_likelihood(&logits, 1) + 0.75f64.ln()).abs() < 1e-6);
        assert!((exp_mean(&[2f64.ln(), 8f64.ln()]) - 4.0).abs() < 1e-9);
    }
}
