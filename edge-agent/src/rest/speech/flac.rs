//! FLAC as a stream: `fLaC`, a STREAMINFO without a length and a sum, then frames of one size.

use super::encoder::{Encoder, failed};
use crate::{media::codec::to_i16, refusal::Refusal, speech::SPOKEN_HZ};
use flacenc::{
    bitsink::{BitSink as _, ByteSink},
    component::{BitRepr, StreamInfo},
    config,
    error::{Verified, Verify as _},
    source::{Fill as _, FrameBuf},
};

/// Samples of a frame: the reference encoder's choice at this rate.
const BLOCK: usize = 4_096;

/// Samples of the last frame, at least: fewer are followed by silence.
const BLOCK_MIN: usize = 64;

pub struct Flac {
    config: Verified<config::Encoder>,
    info: StreamInfo,
    waiting: Vec<i32>,
    frames: usize,
}

impl Flac {
    pub fn new() -> Result<Self, Refusal> {
        let config = config::Encoder::default().into_verified().map_err(|(_, error)| failed("flac", error))?;
        let mut info = StreamInfo::new(SPOKEN_HZ as usize, 1, 16).map_err(|error| failed("flac", error))?;
        info.set_block_sizes(BLOCK, BLOCK).map_err(|error| failed("flac", error))?;
        // 0 in both: the sizes of frames are not known.
        info.set_frame_sizes(0, 0).map_err(|error| failed("flac", error))?;
        Ok(Self { config, info, waiting: Vec::new(), frames: 0 })
    }

    fn head(&self, sink: &mut ByteSink) -> Result<(), Refusal> {
        // The last block of metadata, of kind 0 and 34 bytes.
        let begins = sink.write_bytes_aligned(b"fLaC\x80\0\0\x22");
        begins.map_err(|error| failed("flac", error))?;
        self.info.write(sink).map_err(|error| failed("flac", error))
    }

    fn frame(&mut self, samples: usize, sink: &mut ByteSink) -> Result<(), Refusal> {
        if self.frames == 0 {
            self.head(sink)?;
        }
        let block: Vec<i32> = self.waiting.drain(..samples).collect();
        let mut buffer = FrameBuf::with_size(1, samples).map_err(|error| failed("flac", error))?;
        buffer.fill_interleaved(&block).map_err(|error| failed("flac", error))?;
        let frame = flacenc::encode_fixed_size_frame(&self.config, &buffer, self.frames, &self.info);
        self.frames += 1;
        frame.map_err(|error| failed("flac", error))?.write(sink).map_err(|error| failed("flac", error))
    }
}

impl Encoder for Flac {
    fn push(&mut self, samples: &[f32]) -> Result<Vec<u8>, Refusal> {
        self.waiting.extend(samples.iter().map(|sample| i32::from(to_i16(*sample))));
        let mut sink = ByteSink::new();
        while self.waiting.len() >= BLOCK {
            self.frame(BLOCK, &mut sink)?;
        }
        Ok(sink.into_inner())
    }

    fn finish(&mut self) -> Result<Vec<u8>, Refusal> {
        let mut sink = ByteSink::new();
        if !self.waiting.is_empty() {
            let samples = self.waiting.len().max(BLOCK_MIN);
            self.waiting.resize(samples, 0);
            self.frame(samples, &mut sink)?;
        } else if self.frames == 0 {
            self.head(&mut sink)?;
        }
        Ok(sink.into_inner())
    }
}
