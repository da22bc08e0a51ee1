//! MP3 of constant bit rate.

use super::encoder::{Encoder, failed};
use crate::{refusal::Refusal, speech::SPOKEN_HZ};
use rusty_mp3::{Mp3Encoder, Mp3EncoderConfig};

/// Kilobits per second: for one voice of 12 kHz bandwidth more is not heard.
const KBPS: u32 = 64;

pub struct Mp3 {
    encoder: Mp3Encoder,
    is_tag_gone: bool,
}

impl Mp3 {
    pub fn new() -> Self {
        let config = Mp3EncoderConfig { bitrate_kbps: KBPS, vbr_quality: None };
        Self { encoder: Mp3Encoder::new(config), is_tag_gone: false }
    }

    fn ready(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while let Ok(packet) = self.encoder.next_packet() {
            // The first packet states the length, which a stream does not know when it is sent.
            if std::mem::replace(&mut self.is_tag_gone, true) {
                bytes.extend(packet);
            }
        }
        bytes
    }
}

impl Encoder for Mp3 {
    fn push(&mut self, samples: &[f32]) -> Result<Vec<u8>, Refusal> {
        self.encoder.push_pcm_f32(samples, 1, SPOKEN_HZ).map_err(|error| failed("mp3", error))?;
        Ok(self.ready())
    }

    fn finish(&mut self) -> Result<Vec<u8>, Refusal> {
        self.encoder.finish();
        Ok(self.ready())
    }
}
