//! What callers say: recorded speech, cut into what a microphone would send.

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use control_plane::registry::{self, Catalogue, Fetcher, speech::RATE_HZ};
use edge_agent::media::{codec::Format, resample::resample};
use nearfield_inference::{
    Device,
    vad::{FRAME_SAMPLES, SileroVad, VadState},
};
use nearfield_shared::gguf::Gguf;
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio_tungstenite::tungstenite::Utf8Bytes;

/// One audio message: 20 ms, what a microphone gives.
pub const CHUNK: Duration = Duration::from_millis(20);

/// Utterances whose answer the assistant's file knows, and ones that the language model has to answer.
const KNOWN: [&str; 4] = ["what_time_is_it", "goforward", "cards_001", "cards_003"];
const UNKNOWN: [&str; 4] = ["grapefruit", "something", "librivox_0880", "librivox_0930"];

/// Probability from which a frame is speech, here where the truth about the recordings is found.
const SPEECH: f32 = 0.5;
/// A pause inside of an utterance that is longer than this would end the turn before its time, so such a recording is of no use.
const PAUSE_MAX: Duration = Duration::from_millis(400);

/// One utterance, ready to be sent.
#[derive(Debug)]
pub struct Spoken {
    /// Its name.
    pub id: String,
    /// `input_audio_buffer.append` messages, [`CHUNK`] each.
    pub messages: Vec<Utf8Bytes>,
    /// From the first message to the first speech.
    pub speech_begins: Duration,
    /// From the first message to the end of the last speech: the truth that latencies are measured from.
    pub speech_ends: Duration,
}

/// Everything a caller may say.
#[derive(Debug)]
pub struct Script {
    /// Asked about what the assistant's file answers.
    pub known: Vec<Spoken>,
    /// Asked about anything else.
    pub unknown: Vec<Spoken>,
    /// A message of silence.
    pub silence: Utf8Bytes,
}

impl Script {
    /// Fetches the recordings and finds where speech begins and ends in them.
    ///
    /// # Errors
    /// When a recording or the model for voice activity cannot be had.
    pub fn load(fetcher: &Fetcher) -> Result<Arc<Self>> {
        let catalogue = Catalogue::builtin()?;
        let path = registry::ensure_with("silero-vad", &catalogue, None, fetcher)?;
        let vad = SileroVad::load(&Gguf::open(path)?, &Device::flex())?;
        let speech = catalogue.speech()?;
        let spoken = |ids: &[&str]| -> Result<Vec<Spoken>> {
            let mut all = Vec::new();
            for utterance in speech.get(fetcher, ids)? {
                all.extend(prepare(&vad, &utterance.id, &utterance.samples())?);
            }
            ensure!(!all.is_empty(), "none of the recordings {} can be used", ids.join(", "));
            Ok(all)
        };
        let (known, unknown) = (spoken(&KNOWN)?, spoken(&UNKNOWN)?);
        Ok(Arc::new(Self { known, unknown, silence: append(&vec![0.0; chunk_samples()]) }))
    }
}

fn chunk_samples() -> usize {
    Format::Pcm.rate_hz() as usize * CHUNK.as_millis() as usize / 1000
}

/// Messages and truth about one recording; `None` where a pause in it would be taken for its end.
fn prepare(vad: &SileroVad, id: &str, pcm16k: &[f32]) -> Result<Option<Spoken>> {
    let mut state = VadState::new();
    let frame = |i: usize| Duration::from_micros((i * FRAME_SAMPLES) as u64 * 1_000_000 / u64::from(RATE_HZ));
    let is_speech: Vec<bool> = pcm16k
        .chunks_exact(FRAME_SAMPLES)
        .map(|c| vad.step(&[c.try_into().expect("an exact chunk")], &mut [&mut state])[0] >= SPEECH)
        .collect();
    let first = is_speech.iter().position(|s| *s).with_context(|| format!("there is no speech in {id}"))?;
    let last = is_speech.iter().rposition(|s| *s).unwrap_or(first);
    let pause = is_speech[first..=last].split(|s| *s).map(<[bool]>::len).max().unwrap_or(0);
    if frame(pause) > PAUSE_MAX {
        return Ok(None);
    }
    // What follows the speech is left to the silence that every caller sends, so that its length does not matter.
    let end = ((last + 2) * FRAME_SAMPLES).min(pcm16k.len());
    let samples = resample(&pcm16k[..end], RATE_HZ, Format::Pcm.rate_hz()).context("the recording's rate")?;
    let messages = samples.chunks(chunk_samples()).map(append).collect();
    Ok(Some(Spoken { id: id.to_owned(), messages, speech_begins: frame(first), speech_ends: frame(last + 1) }))
}

fn append(samples: &[f32]) -> Utf8Bytes {
    let audio = base64::engine::general_purpose::STANDARD.encode(Format::Pcm.encode(samples));
    json!({ "type": "input_audio_buffer.append", "audio": audio }).to_string().into()
}
