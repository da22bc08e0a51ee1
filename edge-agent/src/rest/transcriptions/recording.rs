//! Recordings that callers upload, as mono at 16 kHz.
//!
//! A recording is decoded on a thread for blocking work, piece by piece and no faster than its pieces are taken, so of a long one only
//! some seconds stand in memory as samples. Delay and padding of the encoder are not cut off: they are some milliseconds of silence.

use super::intake::{Intake, RecordingError};
use crate::speech::HEARD_HZ;
use ropus::{Channels, DecodeMode, Decoder as OpusDecoder};
use std::io::Cursor;
use symphonia::core::{
    codecs::audio::{AudioCodecParameters, AudioDecoder, AudioDecoderOptions, well_known::CODEC_ID_OPUS},
    errors::Error,
    formats::{FormatOptions, TrackType, probe::Hint},
    io::MediaSourceStream,
    meta::MetadataOptions,
    packet::Packet,
};
use tokio::sync::mpsc;

/// Pieces that wait to be heard: of at most some seconds each.
const PIECES_WAITING_MAX: usize = 4;

/// Samples of a piece, at least, but for the last one: half a second.
const PIECE_SAMPLES: usize = HEARD_HZ as usize / 2;

/// Most samples that one Opus packet gives at 16 kHz: 120 ms.
const OPUS_SAMPLES_MAX: usize = HEARD_HZ as usize * 120 / 1_000;

/// Damaged packets that are passed over before a recording counts as unreadable.
const DAMAGED_MAX: usize = 50;

/// A piece of a recording, or its end.
pub enum Piece {
    /// Mono samples at 16 kHz in [-1, 1].
    Samples(Vec<f32>),
    /// Nothing more will come.
    End,
}

/// Begins to decode a recording; `extension` is the end of its name. Dropping what is given stops it.
pub fn decode(bytes: Vec<u8>, extension: Option<String>) -> mpsc::Receiver<Result<Piece, RecordingError>> {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::task::spawn_blocking(move || {
        let mut heard = Heard { waiting: Vec::new(), intake: Intake::default(), sender: &sender };
        let last = match read(bytes, extension.as_deref(), &mut heard).and_then(|()| heard.finish()) {
            Ok(()) => Ok(Piece::End),
            Err(Stop::Gone) => return,
            Err(Stop::Error(error)) => Err(error),
        };
        // Whoever waited may have left.
        let _left = sender.blocking_send(last);
    });
    pieces
}

enum Stop {
    Gone,
    Error(RecordingError),
}

impl From<RecordingError> for Stop {
    fn from(error: RecordingError) -> Self {
        Stop::Error(error)
    }
}

fn unreadable(what: &'static str) -> Stop {
    Stop::Error(RecordingError::Unreadable(what))
}

/// An error of a container or a codec, in words without anything of the file.
fn reason(error: &Error) -> &'static str {
    match error {
        Error::DecodeError(what) | Error::Unsupported(what) | Error::LimitError(what) => what,
        Error::IoError(_) => "it ends too early",
        _ => "its parts do not fit together",
    }
}

fn read(bytes: Vec<u8>, extension: Option<&str>, heard: &mut Heard<'_>) -> Result<(), Stop> {
    let stream = MediaSourceStream::new(Box::new(Cursor::new(bytes)), Default::default());
    let mut hint = Hint::new();
    if let Some(extension) = extension {
        hint.with_extension(extension);
    }
    let probed =
        symphonia::default::get_probe().probe(&hint, stream, FormatOptions::default(), MetadataOptions::default());
    let mut format = probed.map_err(|error| unreadable(reason(&error)))?;
    let track = format.default_track(TrackType::Audio).ok_or_else(|| unreadable("there is no audio in it"))?;
    let id = track.id;
    let params = track.codec_params.as_ref().and_then(|params| params.audio());
    let mut decoder = Decoder::of(params.ok_or_else(|| unreadable("its codec is not named"))?)?;
    let mut damaged = 0;
    loop {
        let packet = match format.next_packet() {
            Ok(Some(packet)) if packet.track_id == id => packet,
            Ok(Some(_)) => continue,
            // A recording that was broken off is heard as far as it goes.
            Ok(None) | Err(Error::IoError(_)) => return Ok(()),
            Err(error) => return Err(unreadable(reason(&error))),
        };
        match decoder.decode(&packet, heard) {
            Err(Stop::Error(RecordingError::Unreadable(_))) if damaged < DAMAGED_MAX => damaged += 1,
            decoded => decoded?,
        }
    }
}

enum Decoder {
    Usual(Box<dyn AudioDecoder>, Vec<f32>),
    Opus(Box<OpusDecoder>),
}

impl Decoder {
    fn of(params: &AudioCodecParameters) -> Result<Self, Stop> {
        if params.codec != CODEC_ID_OPUS {
            let options = AudioDecoderOptions::default();
            let decoder = symphonia::default::get_codecs().make_audio_decoder(params, &options);
            return Ok(Self::Usual(decoder.map_err(|error| unreadable(reason(&error)))?, Vec::new()));
        }
        if params.channels.as_ref().is_some_and(|channels| channels.count() > 2) {
            return Err(unreadable("Opus of more than two channels"));
        }
        // Opus decodes to any of its rates, and to one channel, by itself.
        let decoder = OpusDecoder::new(HEARD_HZ, Channels::Mono).map_err(|_| unreadable("Opus"))?;
        Ok(Self::Opus(Box::new(decoder)))
    }

    fn decode(&mut self, packet: &Packet, heard: &mut Heard<'_>) -> Result<(), Stop> {
        match self {
            Self::Usual(decoder, samples) => {
                let decoded = decoder.decode(packet).map_err(|error| unreadable(reason(&error)))?;
                let (rate_hz, channels) = (decoded.spec().rate(), decoded.spec().channels().count());
                decoded.copy_to_vec_interleaved(samples);
                heard.take(samples, rate_hz, channels)
            }
            Self::Opus(decoder) => {
                let mut samples = [0.0; OPUS_SAMPLES_MAX];
                let count = decoder.decode_float(&packet.data, &mut samples, DecodeMode::Normal);
                let count = count.map_err(|_| unreadable("an Opus packet is damaged"))?;
                heard.take(&samples[..count], HEARD_HZ, 1)
            }
        }
    }
}

/// What was decoded, on its way out.
struct Heard<'a> {
    waiting: Vec<f32>,
    intake: Intake,
    sender: &'a mpsc::Sender<Result<Piece, RecordingError>>,
}

impl Heard<'_> {
    /// Takes interleaved samples.
    fn take(&mut self, samples: &[f32], rate_hz: u32, channels: usize) -> Result<(), Stop> {
        if samples.is_empty() {
            return Ok(());
        }
        let ready = self.intake.take(samples, rate_hz, channels)?;
        self.waiting.extend(ready);
        if self.waiting.len() >= PIECE_SAMPLES { self.send() } else { Ok(()) }
    }

    fn finish(&mut self) -> Result<(), Stop> {
        self.waiting.extend(self.intake.rest()?);
        if self.intake.is_empty() {
            return Err(RecordingError::Empty.into());
        }
        self.send()
    }

    fn send(&mut self) -> Result<(), Stop> {
        let piece = Piece::Samples(std::mem::take(&mut self.waiting));
        self.sender.blocking_send(Ok(piece)).map_err(|_| Stop::Gone)
    }
}
