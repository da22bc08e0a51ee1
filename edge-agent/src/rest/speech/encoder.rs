//! Speech in the formats that clients ask for, made while it is spoken: each phrase gives the bytes that are ready, the end the rest.
//!
//! All formats are mono at the voice's own rate. Where a header would state the length, it says that the length is not known yet.

use super::{flac::Flac, mp3::Mp3, opus::Opus};
use crate::{media::codec, refusal::Refusal, speech::SPOKEN_HZ};

/// A format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// MPEG-2 layer III, 64 kbit/s.
    Mp3,
    /// Opus in Ogg.
    Opus,
    /// FLAC, 16 bits.
    Flac,
    /// RIFF with 16-bit PCM.
    Wav,
    /// 16-bit little-endian PCM without a header.
    Pcm,
}

/// The formats by their names; the first is the API's own default.
pub const FORMATS: [(&str, Format); 5] =
    [("mp3", Format::Mp3), ("opus", Format::Opus), ("flac", Format::Flac), ("wav", Format::Wav), ("pcm", Format::Pcm)];

impl Format {
    /// Its media type.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Mp3 => "audio/mpeg",
            Format::Opus => "audio/ogg",
            Format::Flac => "audio/flac",
            Format::Wav => "audio/wav",
            Format::Pcm => "audio/pcm",
        }
    }

    /// An encoder at the beginning of its stream.
    pub fn encoder(self) -> Result<Box<dyn Encoder>, Refusal> {
        Ok(match self {
            Format::Mp3 => Box::new(Mp3::new()),
            Format::Opus => Box::new(Opus::new()?),
            Format::Flac => Box::new(Flac::new()?),
            Format::Wav => Box::new(Pcm { header: wav_header() }),
            Format::Pcm => Box::new(Pcm { header: Vec::new() }),
        })
    }
}

/// Makes one stream.
pub trait Encoder: Send {
    /// Takes samples at [`SPOKEN_HZ`] in [-1, 1]; gives the bytes that are ready.
    fn push(&mut self, samples: &[f32]) -> Result<Vec<u8>, Refusal>;

    /// The end of the speech: gives the rest.
    fn finish(&mut self) -> Result<Vec<u8>, Refusal>;
}

/// An encoder that did not do what it should with any speech.
pub fn failed(format: &'static str, error: impl std::fmt::Display) -> Refusal {
    tracing::error!(%error, format, "an encoder of speech failed");
    let message = format!("the {format} encoder failed; ask for another `response_format`");
    Refusal::new(axum::http::StatusCode::INTERNAL_SERVER_ERROR, "encoder_failed", message)
}

struct Pcm {
    /// What goes before the first samples.
    header: Vec<u8>,
}

impl Encoder for Pcm {
    fn push(&mut self, samples: &[f32]) -> Result<Vec<u8>, Refusal> {
        let mut bytes = std::mem::take(&mut self.header);
        bytes.extend(codec::Format::Pcm.encode(samples));
        Ok(bytes)
    }

    fn finish(&mut self) -> Result<Vec<u8>, Refusal> {
        Ok(std::mem::take(&mut self.header))
    }
}

/// The 44 bytes before 16-bit mono samples whose number is not known: both sizes are the greatest there are, as players expect it of
/// a stream.
fn wav_header() -> Vec<u8> {
    let mut header = Vec::with_capacity(44);
    header.extend(b"RIFF");
    header.extend(u32::MAX.to_le_bytes());
    header.extend(b"WAVEfmt ");
    header.extend(16u32.to_le_bytes());
    header.extend([1u16, 1].map(u16::to_le_bytes).concat());
    header.extend([SPOKEN_HZ, 2 * SPOKEN_HZ].map(u32::to_le_bytes).concat());
    header.extend([2u16, 16].map(u16::to_le_bytes).concat());
    header.extend(b"data");
    header.extend(u32::MAX.to_le_bytes());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(format: Format, samples: &[f32], piece: usize) -> Vec<u8> {
        let mut encoder = format.encoder().expect("an encoder");
        let mut bytes: Vec<u8> = samples.chunks(piece).flat_map(|part| encoder.push(part).expect("encoded")).collect();
        bytes.extend(encoder.finish().expect("finished"));
        bytes
    }

    #[test]
    fn how_speech_is_cut_into_phrases_does_not_change_the_stream() {
        let samples: Vec<f32> = (0..30_000).map(|n| 0.4 * (n as f32 * 0.05).sin()).collect();
        for (name, format) in FORMATS {
            let whole = stream(format, &samples, samples.len());
            assert_eq!(stream(format, &samples, 777).len(), whole.len(), "{name}");
            if format != Format::Opus {
                // Pages of Ogg end where there is something to send.
                assert!(stream(format, &samples, 777) == whole, "{name}");
            }
            assert!(!stream(format, &[], 1).is_empty() || matches!(format, Format::Pcm | Format::Mp3), "{name}");
        }
    }

    #[test]
    fn a_stream_is_as_small_as_its_format_promises() {
        let samples: Vec<f32> = (0..10 * SPOKEN_HZ).map(|n| 0.4 * (n as f32 * 0.05).sin()).collect();
        let bytes = |format| stream(format, &samples, 5_000).len();
        let pcm = bytes(Format::Pcm);
        assert_eq!((pcm, bytes(Format::Wav)), (480_000, 480_044));
        assert!(bytes(Format::Flac) < pcm * 9 / 10, "{}", bytes(Format::Flac));
        assert!(bytes(Format::Mp3).abs_diff(80_000) < 2_000, "{}", bytes(Format::Mp3));
        assert!(bytes(Format::Opus) < 60_000, "{}", bytes(Format::Opus));
    }
}
