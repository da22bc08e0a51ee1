//! Each stage beside the engine a user would pick instead: the same weights, the same input, in turns.
//!
//! A row is one comparison. Both sides do the same work, ours in this process and theirs in the peer's, one after the other; each
//! pair of runs gives a ratio, and the table prints the middle one. After the runs a row says whether both sides found the same, since a
//! time for something else is no comparison.

mod asr;
mod embed;
mod llm;
mod streams;
mod table;
mod tts;
mod vad;

pub use streams::{Streams, measure as streams};
pub use table::{Measured, Table};

use crate::{
    machine::Machine,
    measure::{Ratio, Run, Spread},
    peer::Peer,
};
use anyhow::{Context, Result, bail};
use control_plane::registry::{self, Catalogue, Fetcher, speech::Utterance};
use nearfield_inference::{Device, llm::Llama};
use nearfield_shared::gguf::Gguf;
use std::{cell::OnceCell, rc::Rc};

/// Runs of each side in a comparison that is told.
pub const RUNS: usize = 7;

/// Text that the language model continues, reads, and is judged on: the opening of "Sense and Sensibility".
pub const PASSAGE: &str = include_str!("../../data/passage.txt");

/// Every row, in the order of the table: its name for `--only`, what it measures, and against what.
pub const ROWS: [(&str, &str, &str); 9] = [
    ("llm-decode", "LLM decode, 64-token prompt, 128 tokens", "llama.cpp"),
    ("llm-prefill", "LLM prefill, 512 tokens", "llama.cpp"),
    ("asr", "ASR, the labelled utterances", "ONNX Runtime"),
    ("tts", "TTS network, 20 sentences", "ONNX Runtime"),
    ("tts-sound", "TTS with vocoder, 20 sentences", "ONNX Runtime + numpy"),
    ("tts-batch", "TTS with vocoder, 20 sentences, eight at once", "ONNX Runtime + numpy"),
    ("vad", "VAD, a minute, frame by frame", "ONNX Runtime"),
    ("embed", "embedding, 200 sentences one by one", "ONNX Runtime int8"),
    ("embed-batch", "embedding, 200 sentences at once", "ONNX Runtime int8"),
];

/// How much work one run of a row is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Work {
    /// Tokens of text, written one after the other.
    Tokens(usize),
    /// Tokens of a prompt.
    Prompt(usize),
    /// Seconds of sound, heard or made.
    Audio(f64),
    /// Sentences.
    Sentences(usize),
}

/// Whether both sides found the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// Near enough for the times to be comparable.
    pub same: bool,
    /// What was compared, in words.
    pub said: String,
}

/// One comparison.
pub(crate) trait Row {
    /// What one run is.
    fn work(&self) -> Work;
    /// One run of ours.
    fn ours(&mut self) -> Result<Run>;
    /// One run of theirs.
    fn theirs(&mut self, peer: &mut Peer) -> Result<Run>;
    /// Compares what the latest runs found.
    fn verdict(&self) -> Result<Verdict>;
    /// Bytes of weights and cache that one token reads, where that bounds the speed.
    fn bytes_per_token(&self) -> Option<usize> {
        None
    }
}

/// What rows are made from; each model is loaded when the first row asks for it.
pub struct Material {
    device: Device,
    fetcher: Fetcher,
    llama: OnceCell<Rc<Llama>>,
    utterances: OnceCell<Rc<Vec<Utterance>>>,
}

impl Material {
    /// For models on this device.
    pub fn new(device: Device, fetcher: Fetcher) -> Self {
        Self { device, fetcher, llama: OnceCell::new(), utterances: OnceCell::new() }
    }

    pub(crate) fn gguf(&self, model: &str) -> Result<Gguf> {
        let path = registry::ensure_with(model, &Catalogue::builtin()?, None, &self.fetcher)?;
        Gguf::open(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// The language model, once: it is the largest.
    pub(crate) fn llama(&self) -> Result<Rc<Llama>> {
        if let Some(llama) = self.llama.get() {
            return Ok(Rc::clone(llama));
        }
        let llama = Rc::new(Llama::load(&self.gguf("smollm2-135m-instruct")?, &self.device)?);
        Ok(Rc::clone(self.llama.get_or_init(|| llama)))
    }

    /// The labelled utterances.
    pub(crate) fn utterances(&self) -> Result<Rc<Vec<Utterance>>> {
        if let Some(utterances) = self.utterances.get() {
            return Ok(Rc::clone(utterances));
        }
        let utterances = Rc::new(Catalogue::builtin()?.speech()?.labelled(&self.fetcher)?);
        Ok(Rc::clone(self.utterances.get_or_init(|| utterances)))
    }

    fn row(&self, id: &str) -> Result<Box<dyn Row>> {
        Ok(match id {
            "llm-decode" => Box::new(llm::Decode::new(self)?),
            "llm-prefill" => Box::new(llm::Prefill::new(self)?),
            "asr" => Box::new(asr::Asr::new(self)?),
            "tts" => Box::new(tts::Tts::new(self, tts::Part::Network)?),
            "tts-sound" => Box::new(tts::Tts::new(self, tts::Part::Sound)?),
            "tts-batch" => Box::new(tts::Tts::new(self, tts::Part::AtOnce)?),
            "vad" => Box::new(vad::Vad::new(self)?),
            "embed" => Box::new(embed::Embed::new(self, embed::Way::OneByOne)?),
            "embed-batch" => Box::new(embed::Embed::new(self, embed::Way::AtOnce)?),
            other => bail!("there is no row `{other}`; the rows are {}", ids().join(", ")),
        })
    }
}

fn ids() -> Vec<&'static str> {
    ROWS.iter().map(|(id, ..)| *id).collect()
}

/// Measures these rows, all where none is named, and tells `progress` which is under way. Without a peer only ours are timed.
///
/// # Errors
/// When a row has no such name, a model cannot be had, or a side fails.
pub fn measure(
    material: &Material,
    machine: Machine,
    mut peer: Option<&mut Peer>,
    only: &[String],
    runs: usize,
    mut progress: impl FnMut(&str),
) -> Result<Table> {
    if let Some(wrong) = only.iter().find(|o| !ids().contains(&o.as_str())) {
        bail!("there is no row `{wrong}`; the rows are {}", ids().join(", "));
    }
    let mut rows = Vec::new();
    for (id, title, against) in ROWS.into_iter().filter(|(id, ..)| only.is_empty() || only.iter().any(|o| o == id)) {
        progress(title);
        let mut row = material.row(id)?;
        // Once unmeasured: models are loaded, caches filled, kernels tuned.
        row.ours()?;
        if let Some(peer) = peer.as_deref_mut() {
            row.theirs(peer)?;
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..runs {
            ours.push(row.ours()?);
            if let Some(peer) = peer.as_deref_mut() {
                theirs.push(row.theirs(peer)?);
            }
        }
        let compared = !theirs.is_empty();
        let ms = |runs: &[Run]| Spread::of(runs.iter().map(|r| r.wall_ms));
        rows.push(Measured {
            id,
            title,
            against,
            work: row.work(),
            ratio: compared.then(|| Ratio::of(&ours, &theirs)),
            ours_ms: ms(&ours),
            theirs_ms: compared.then(|| ms(&theirs)),
            verdict: if compared { Some(row.verdict()?) } else { None },
            bytes_per_token: row.bytes_per_token(),
        });
    }
    let peers = peer.map(|p| p.versions.clone());
    Ok(Table { machine, peers, runs, bandwidth_gb_s: None, rows, streams: None })
}
