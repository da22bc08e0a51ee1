//! Opus in Ogg (RFC 7845): two header packets, then packets of 20 ms.

use super::encoder::{Encoder, failed};
use crate::{refusal::Refusal, speech::SPOKEN_HZ};
use ogg::{PacketWriteEndInfo, PacketWriter};
use ropus::{Application, Bitrate, Channels, Encoder as OpusEncoder};

/// Samples of a packet: 20 ms.
const PACKET: usize = SPOKEN_HZ as usize / 50;

/// The same in the samples of 48 kHz that positions in the stream are counted in.
const PACKET_48K: u64 = 960;

/// Bits per second: for one voice more is not heard.
const BITRATE: u32 = 32_000;

/// The longest packet there is.
const PACKET_BYTES_MAX: usize = 1_275;

/// Names the one stream of a file; any number does.
const SERIAL: u32 = 1;

pub struct Opus {
    encoder: OpusEncoder,
    pages: PacketWriter<'static, Vec<u8>>,
    waiting: Vec<f32>,
    /// A packet is written when the next one is there, because the last one is marked.
    last: Option<Vec<u8>>,
    position: u64,
    /// Samples taken, at 48 kHz, with those that the decoder leaves out at the beginning.
    taken: u64,
}

impl Opus {
    pub fn new() -> Result<Self, Refusal> {
        let encoder = OpusEncoder::builder(SPOKEN_HZ, Channels::Mono, Application::Audio)
            .bitrate(Bitrate::Bits(BITRATE))
            .build()
            .map_err(|error| failed("opus", error))?;
        let skip = encoder.lookahead();
        let mut head = b"OpusHead\x01\x01".to_vec();
        head.extend((skip as u16).to_le_bytes());
        head.extend(SPOKEN_HZ.to_le_bytes());
        // No gain, and one stream of one channel.
        head.extend([0, 0, 0]);
        let vendor = b"nearfield";
        let mut tags = b"OpusTags".to_vec();
        tags.extend((vendor.len() as u32).to_le_bytes());
        tags.extend(vendor);
        tags.extend(0u32.to_le_bytes());
        let mut pages = PacketWriter::new(Vec::new());
        for header in [head, tags] {
            let written = pages.write_packet(header, SERIAL, PacketWriteEndInfo::EndPage, 0);
            written.map_err(|error| failed("opus", error))?;
        }
        Ok(Self { encoder, pages, waiting: Vec::new(), last: None, position: 0, taken: u64::from(skip) })
    }

    fn encode(&mut self) -> Result<(), Refusal> {
        while self.waiting.len() >= PACKET {
            let mut packet = vec![0; PACKET_BYTES_MAX];
            let bytes = self.encoder.encode_float(&self.waiting[..PACKET], &mut packet);
            packet.truncate(bytes.map_err(|error| failed("opus", error))?);
            self.waiting.drain(..PACKET);
            if let Some(before) = self.last.replace(packet) {
                self.write(before, PacketWriteEndInfo::NormalPacket, None)?;
            }
        }
        Ok(())
    }

    fn write(&mut self, packet: Vec<u8>, end: PacketWriteEndInfo, position: Option<u64>) -> Result<(), Refusal> {
        self.position += PACKET_48K;
        let written = self.pages.write_packet(packet, SERIAL, end, position.unwrap_or(self.position));
        written.map_err(|error| failed("opus", error))
    }

    fn ready(&mut self) -> Vec<u8> {
        std::mem::take(self.pages.inner_mut())
    }
}

impl Encoder for Opus {
    fn push(&mut self, samples: &[f32]) -> Result<Vec<u8>, Refusal> {
        self.waiting.extend(samples.iter().map(|sample| if sample.is_finite() { *sample } else { 0.0 }));
        self.taken += samples.len() as u64 * PACKET_48K / PACKET as u64;
        self.encode()?;
        Ok(self.ready())
    }

    fn finish(&mut self) -> Result<Vec<u8>, Refusal> {
        // What the encoder looks ahead comes out behind as much silence; at least one packet is there to be marked as the last.
        let to_come = (self.taken.saturating_sub(self.position) as usize * PACKET).div_ceil(PACKET_48K as usize);
        let made = if self.last.is_some() { PACKET } else { 0 };
        let silence = to_come.saturating_sub(made).max(self.waiting.len()).max(PACKET - made).next_multiple_of(PACKET);
        self.waiting.resize(silence, 0.0);
        self.encode()?;
        if let Some(last) = self.last.take() {
            // The position of the last page says where the speech ends; decoders leave the rest out.
            self.write(last, PacketWriteEndInfo::EndStream, Some(self.taken))?;
        }
        Ok(self.ready())
    }
}
