//! How many callers one device keeps up with in real time, stage by stage, when all their steps go in batches.

use super::{
    Material, Work,
    llm::prompt,
    tts::{Part, Tts},
};
use crate::measure::timed;
use anyhow::Result;
use nearfield_inference::{
    llm::Sampling,
    tts::SAMPLE_RATE_HZ,
    turn::{Listening, SmartTurn},
    vad::{FRAME_SAMPLES, SileroVad, VadState},
};
use serde::Serialize;

/// Batch sizes that are tried.
const BATCHES: [usize; 6] = [1, 2, 4, 8, 16, 32];
/// Tokens that an answer needs while it is spoken: 150 words a minute at 1.4 tokens a word, rounded up.
pub const TOKENS_PER_SPOKEN_SECOND: f64 = 4.0;
const DECODED_TOKENS: usize = 32;
const PROMPT_TOKENS: usize = 64;
/// 32 ms frames of one caller: about ten seconds.
const FRAMES: usize = 300;

/// One batch size.
#[derive(Debug, Clone, Serialize)]
pub struct Batch {
    /// Callers in each step.
    pub callers: usize,
    /// Tokens a second of all of them.
    pub llm_tokens_per_second: f64,
    /// Seconds of sound a second that voice activity detection gets through, of all of them.
    pub vad_times_real_time: f64,
    /// Seconds of speech a second that are rendered of all of them, a sentence each.
    pub tts_times_real_time: f64,
    /// Ends of turns that are judged in a second, of all of them.
    pub turns_per_second: f64,
}

/// What batching gives.
#[derive(Debug, Clone, Serialize)]
pub struct Streams {
    /// By batch size.
    pub batches: Vec<Batch>,
}

/// Measures every batch size once, after an unmeasured step.
///
/// # Errors
/// When a model cannot be had or the device fails.
pub fn measure(material: &Material) -> Result<Streams> {
    let llama = material.llama()?;
    let vad = SileroVad::load(&material.gguf("silero-vad")?, material.device())?;
    let turn = SmartTurn::load(&material.gguf("smart-turn-v3.2")?, material.device())?;
    let tts = Tts::new(material, Part::AtOnce)?;
    let prompt = prompt(&llama, PROMPT_TOKENS)?;
    let mut batches = Vec::new();
    for callers in BATCHES {
        let mut sequences: Vec<_> =
            (0..callers).map(|_| llama.sequence(PROMPT_TOKENS + DECODED_TOKENS + 1, Sampling::GREEDY)).collect();
        for sequence in &mut sequences {
            llama.prefill(sequence, &prompt)?;
        }
        let mut all: Vec<_> = sequences.iter_mut().collect();
        llama.decode(&mut all)?;
        let (llm, done) = timed(|| (0..DECODED_TOKENS).try_for_each(|_| llama.decode(&mut all).map(|_| ())));
        done?;

        let frames = vec![[0f32; FRAME_SAMPLES]; callers];
        let mut states = vec![VadState::new(); callers];
        let mut step = || vad.step(&frames, &mut states.iter_mut().collect::<Vec<_>>());
        step();
        let (heard, ()) = timed(|| (0..FRAMES).for_each(|_| drop(step())));

        let (spoken, samples) = timed(|| tts.render(&tts.phrases(callers)));
        let seconds = samples?.0.iter().sum::<usize>() as f64 / f64::from(SAMPLE_RATE_HZ);
        let (judged, ()) = timed(|| judge(&turn, callers));
        batches.push(Batch {
            callers,
            llm_tokens_per_second: (callers * DECODED_TOKENS) as f64 / llm.wall_ms * 1e3,
            vad_times_real_time: (callers * FRAMES) as f64 * 32.0 / heard.wall_ms,
            tts_times_real_time: seconds * 1e3 / spoken.wall_ms,
            turns_per_second: callers as f64 * 1e3 / judged.wall_ms,
        });
    }
    Ok(Streams { batches })
}

/// Judges as many turns at once. The network looks at eight seconds whatever was said.
fn judge(turn: &SmartTurn, callers: usize) {
    let audio = vec![[0f32; FRAME_SAMPLES]; callers];
    let mut turns = turn.listen_together(&audio.iter().map(<[f32; FRAME_SAMPLES]>::as_slice).collect::<Vec<_>>());
    let mut all: Vec<&mut Listening> = turns.iter_mut().collect();
    while turn.step_together(&mut all).contains(&None) {}
}

/// Callers that a stage alone keeps up with, from how long a run of it took; `None` where real time means nothing.
pub(super) fn in_real_time(work: Work, wall_ms: f64) -> Option<f64> {
    match work {
        Work::Audio(seconds) => Some(seconds * 1e3 / wall_ms),
        Work::Tokens(tokens) => Some(tokens as f64 * 1e3 / wall_ms / TOKENS_PER_SPOKEN_SECOND),
        Work::Prompt(_) | Work::Sentences(_) => None,
    }
}
