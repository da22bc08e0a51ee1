//! Hibari beside ONNX Runtime on its own ONNX file, from the same phoneme ids.

use super::{Material, Row, Verdict, Work};
use crate::{
    measure::{Run, cpu_ms, timed},
    peer::{Peer, Timed},
};
use anyhow::Result;
use nearfield_inference::tts::{Hibari, Rendering, SAMPLE_RATE_HZ, g2p::Phonemizer};
use serde::Deserialize;
use serde_json::json;
use std::time::Instant;

const SENTENCES: &str = include_str!("../../data/spoken.txt");
/// Of the noise of breath and consonants.
const SEED: u64 = 1;
/// Phrases that are rendered together where several are.
const AT_ONCE: usize = 8;

/// Which part of the voice is timed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Part {
    /// What the ONNX file holds: phonemes to spectra.
    Network,
    /// To samples: theirs with the vocoder of the package, in numpy.
    Sound,
    /// The same, ours [`AT_ONCE`] in each step.
    AtOnce,
}

#[derive(Deserialize)]
struct Samples {
    samples: Vec<usize>,
}

pub(super) struct Tts {
    part: Part,
    hibari: Hibari,
    phrases: Vec<Vec<u32>>,
    ours: Vec<usize>,
    theirs: Vec<usize>,
}

impl Tts {
    pub fn new(material: &Material, part: Part) -> Result<Self> {
        let gguf = material.gguf("hibari")?;
        let phonemizer = Phonemizer::load(&gguf, &nearfield_inference::Device::flex())?;
        let phrases = SENTENCES.lines().flat_map(|s| phonemizer.phonemes(s)).map(|p| phonemizer.ids(&p)).collect();
        let hibari = Hibari::load(&gguf, material.device())?;
        Ok(Self { part, hibari, phrases, ours: Vec::new(), theirs: Vec::new() })
    }

    /// As many phrases, the same ones again where there are fewer.
    pub fn phrases(&self, count: usize) -> Vec<Vec<u32>> {
        self.phrases.iter().cycle().take(count).cloned().collect()
    }

    /// Renders phrases at once and gives their samples; also what the last step took, which is the vocoder.
    pub fn render(&self, phrases: &[Vec<u32>]) -> Result<(Vec<usize>, Run)> {
        let begun: Result<Vec<_>, _> = phrases.iter().map(|ids| self.hibari.begin(ids, 1.0, SEED)).collect();
        let mut renderings = begun?;
        let mut all: Vec<&mut Rendering> = renderings.iter_mut().collect();
        loop {
            let (last, found) = timed(|| self.hibari.step_together(&mut all));
            // All take as many steps.
            let samples: Option<Vec<_>> = found.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().collect();
            if let Some(samples) = samples {
                return Ok((samples.iter().map(Vec::len).collect(), last));
            }
        }
    }
}

impl Row for Tts {
    fn work(&self) -> Work {
        Work::Audio(self.ours.iter().sum::<usize>() as f64 / f64::from(SAMPLE_RATE_HZ))
    }

    fn ours(&mut self) -> Result<Run> {
        let (wall, cpu) = (Instant::now(), cpu_ms());
        let (mut found, mut vocoder) = (Vec::new(), Run { wall_ms: 0.0, cpu_ms: 0.0 });
        for phrases in self.phrases.chunks(if self.part == Part::AtOnce { AT_ONCE } else { 1 }) {
            let (samples, last) = self.render(phrases)?;
            found.extend(samples);
            vocoder.wall_ms += last.wall_ms;
            vocoder.cpu_ms += last.cpu_ms;
        }
        let mut run = Run { wall_ms: wall.elapsed().as_secs_f64() * 1e3, cpu_ms: cpu_ms() - cpu };
        if self.part == Part::Network {
            run.wall_ms -= vocoder.wall_ms;
            run.cpu_ms -= vocoder.cpu_ms;
        }
        self.ours = found;
        Ok(run)
    }

    fn theirs(&mut self, peer: &mut Peer) -> Result<Run> {
        let what = if self.part == Part::Network { "tts_network" } else { "tts" };
        let answer: Timed<Samples> = peer.ask(what, json!({ "phrases": self.phrases }))?;
        self.theirs = answer.found.samples;
        Ok(answer.run.into())
    }

    fn verdict(&self) -> Result<Verdict> {
        let equal = self.ours.iter().zip(&self.theirs).filter(|(a, b)| a == b).count();
        let (ours, theirs): (usize, usize) = (self.ours.iter().sum(), self.theirs.iter().sum());
        let seconds = |samples: usize| samples as f64 / f64::from(SAMPLE_RATE_HZ);
        let said = format!(
            "{equal} of {} phrases of equal length; {:.1} s and {:.1} s",
            self.ours.len(),
            seconds(ours),
            seconds(theirs)
        );
        Ok(Verdict { same: ours.abs_diff(theirs) * 50 <= theirs, said })
    }
}
