//! Moonshine beside ONNX Runtime on the package's own .ort files.

use super::{Material, Row, Verdict, Work};
use crate::{
    measure::{Run, timed},
    peer::{Peer, Timed},
};
use anyhow::{Context, Result};
use control_plane::registry::speech::{
    RATE_HZ, Utterance,
    wer::{WordErrors, word_errors},
};
use nearfield_inference::asr::Moonshine;
use serde::Deserialize;
use serde_json::json;
use std::{fs, path::PathBuf, rc::Rc};

#[derive(Deserialize)]
struct Tokens {
    tokens: Vec<Vec<u32>>,
}

pub(super) struct Asr {
    moonshine: Moonshine,
    utterances: Rc<Vec<Utterance>>,
    samples: Vec<Vec<f32>>,
    files: Vec<PathBuf>,
    _folder: tempfile::TempDir,
    ours: Vec<Vec<u32>>,
    theirs: Vec<Vec<u32>>,
}

/// Writes samples where the peer reads them.
pub(super) fn raw(folder: &tempfile::TempDir, name: &str, samples: &[f32]) -> Result<PathBuf> {
    let file = folder.path().join(name);
    let bytes: Vec<u8> = samples.iter().flat_map(|s| s.to_le_bytes()).collect();
    fs::write(&file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

impl Asr {
    pub fn new(material: &Material) -> Result<Self> {
        let moonshine = Moonshine::load(&material.gguf("moonshine-tiny")?, material.device())?;
        let utterances = material.utterances()?;
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let samples: Vec<Vec<f32>> = utterances.iter().map(Utterance::samples).collect();
        let files = utterances.iter().zip(&samples).map(|(u, s)| raw(&folder, &u.id, s)).collect::<Result<_>>()?;
        Ok(Self { moonshine, utterances, samples, files, _folder: folder, ours: Vec::new(), theirs: Vec::new() })
    }

    fn errors(&self, found: &[Vec<u32>]) -> f64 {
        let mut total = WordErrors::default();
        for (utterance, tokens) in self.utterances.iter().zip(found) {
            total += word_errors(&utterance.text, &self.moonshine.text(tokens));
        }
        total.percent()
    }
}

impl Row for Asr {
    fn work(&self) -> Work {
        Work::Audio(self.samples.iter().map(Vec::len).sum::<usize>() as f64 / f64::from(RATE_HZ))
    }

    fn ours(&mut self) -> Result<Run> {
        let (run, found) =
            timed(|| self.samples.iter().map(|s| self.moonshine.tokens(s)).collect::<Result<Vec<_>, _>>());
        self.ours = found?;
        Ok(run)
    }

    fn theirs(&mut self, peer: &mut Peer) -> Result<Run> {
        let answer: Timed<Tokens> = peer.ask("asr", json!({ "files": self.files }))?;
        self.theirs = answer.found.tokens;
        Ok(answer.run.into())
    }

    fn verdict(&self) -> Result<Verdict> {
        let equal =
            self.ours.iter().zip(&self.theirs).filter(|(a, b)| self.moonshine.text(a) == self.moonshine.text(b));
        let (equal, all) = (equal.count(), self.ours.len());
        let count = |found: &[Vec<u32>]| found.iter().map(Vec::len).sum::<usize>();
        let (ours, theirs) = (self.errors(&self.ours), self.errors(&self.theirs));
        let said = format!(
            "{equal} of {all} transcripts equal; {} and {} tokens; {ours:.1} % and {theirs:.1} % word errors",
            count(&self.ours),
            count(&self.theirs)
        );
        // They round weights and activations in other ways, so a word may differ here and there; the work is the same.
        Ok(Verdict {
            same: equal * 2 >= all && count(&self.ours).abs_diff(count(&self.theirs)) * 20 <= count(&self.theirs),
            said,
        })
    }
}
