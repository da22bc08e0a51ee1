//! Silero VAD beside ONNX Runtime: one call's frames, one after the other, as they come in.

use super::{Material, Row, Verdict, Work, asr::raw};
use crate::{
    measure::{Run, timed},
    peer::{Peer, Timed},
};
use anyhow::{Context, Result};
use control_plane::registry::speech::RATE_HZ;
use nearfield_inference::vad::{FRAME_SAMPLES, SileroVad, VadState};
use serde::Deserialize;
use serde_json::json;
use std::path::PathBuf;

const SECONDS: usize = 60;
/// The thresholds that use a probability are steps of 0.05.
const TOLERANCE: f32 = 0.01;

#[derive(Deserialize)]
struct Probabilities {
    probabilities: Vec<f32>,
}

pub(super) struct Vad {
    vad: SileroVad,
    frames: Vec<[f32; FRAME_SAMPLES]>,
    file: PathBuf,
    _folder: tempfile::TempDir,
    ours: Vec<f32>,
    theirs: Vec<f32>,
}

impl Vad {
    pub fn new(material: &Material) -> Result<Self> {
        let vad = SileroVad::load(&material.gguf("silero-vad")?, material.device())?;
        let utterances = material.utterances()?;
        let speech = utterances.iter().flat_map(|u| u.samples()).collect::<Vec<f32>>();
        let minute: Vec<f32> = speech.iter().copied().cycle().take(SECONDS * RATE_HZ as usize).collect();
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let file = raw(&folder, "minute", &minute)?;
        let frames = minute.chunks_exact(FRAME_SAMPLES).map(|c| c.try_into().expect("an exact chunk")).collect();
        Ok(Self { vad, frames, file, _folder: folder, ours: Vec::new(), theirs: Vec::new() })
    }
}

impl Row for Vad {
    fn work(&self) -> Work {
        Work::Audio(SECONDS as f64)
    }

    fn ours(&mut self) -> Result<Run> {
        let mut state = VadState::new();
        let (run, found) = timed(|| {
            self.frames.iter().map(|f| self.vad.step(std::slice::from_ref(f), &mut [&mut state])[0]).collect()
        });
        self.ours = found;
        Ok(run)
    }

    fn theirs(&mut self, peer: &mut Peer) -> Result<Run> {
        let answer: Timed<Probabilities> = peer.ask("vad", json!({ "file": self.file }))?;
        self.theirs = answer.found.probabilities;
        Ok(answer.run.into())
    }

    fn verdict(&self) -> Result<Verdict> {
        let worst = self.ours.iter().zip(&self.theirs).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        let same = self.ours.len() == self.theirs.len() && worst <= TOLERANCE;
        Ok(Verdict { same, said: format!("{} frames; probabilities differ by at most {worst:.4}", self.ours.len()) })
    }
}
