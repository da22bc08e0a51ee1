//! Audio on the wire: 16-bit PCM at 24 kHz, and G.711 (µ-law and A-law) at 8 kHz as telephones speak it.
//!
//! The G.711 expansions follow ITU-T G.711, tables 1a and 2a, in the arithmetic form of its reference software (G.191).

/// An audio format of the Realtime API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `audio/pcm`: 16-bit little-endian mono at 24 kHz.
    #[default]
    Pcm,
    /// `audio/pcmu`: G.711 µ-law at 8 kHz.
    Pcmu,
    /// `audio/pcma`: G.711 A-law at 8 kHz.
    Pcma,
}

/// A number of bytes that cannot be whole samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes are not whole 16-bit samples; send an even number of bytes")]
pub struct OddBytes(pub usize);

impl Format {
    /// The format of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Format::Pcm, Format::Pcmu, Format::Pcma].into_iter().find(|format| format.name() == name)
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Format::Pcm => "audio/pcm",
            Format::Pcmu => "audio/pcmu",
            Format::Pcma => "audio/pcma",
        }
    }

    /// Samples per second.
    pub fn rate_hz(self) -> u32 {
        match self {
            Format::Pcm => 24_000,
            Format::Pcmu | Format::Pcma => 8_000,
        }
    }

    /// Samples in [-1, 1) from bytes.
    pub fn decode(self, bytes: &[u8]) -> Result<Vec<f32>, OddBytes> {
        let float = |sample: i16| f32::from(sample) / 32_768.0;
        match self {
            Format::Pcm if !bytes.len().is_multiple_of(2) => Err(OddBytes(bytes.len())),
            Format::Pcm => Ok(bytes.chunks_exact(2).map(|b| float(i16::from_le_bytes([b[0], b[1]]))).collect()),
            Format::Pcmu => Ok(bytes.iter().map(|b| float(from_mu_law(*b))).collect()),
            Format::Pcma => Ok(bytes.iter().map(|b| float(from_a_law(*b))).collect()),
        }
    }

    /// Bytes from samples; what is beyond [-1, 1] is clipped.
    pub fn encode(self, samples: &[f32]) -> Vec<u8> {
        match self {
            Format::Pcm => samples.iter().flat_map(|s| to_i16(*s).to_le_bytes()).collect(),
            Format::Pcmu => samples.iter().map(|s| to_mu_law(to_i16(*s))).collect(),
            Format::Pcma => samples.iter().map(|s| to_a_law(to_i16(*s))).collect(),
        }
    }
}

/// One sample as 16-bit PCM, clipped.
pub fn to_i16(sample: f32) -> i16 {
    // The cast saturates, and turns what is no number into silence.
    (sample * 32_767.0).round() as i16
}

/// Added before the logarithm so that every segment begins at a power of two.
const MU_BIAS: i32 = 132;

fn from_mu_law(byte: u8) -> i16 {
    let code = !byte;
    let magnitude = ((i32::from(code & 0x0f) << 3) + MU_BIAS) << ((code & 0x70) >> 4);
    let sample = magnitude - MU_BIAS;
    (if code & 0x80 != 0 { -sample } else { sample }) as i16
}

fn to_mu_law(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = (i32::from(sample).abs() + MU_BIAS).min(32_767);
    let segment = (magnitude.ilog2() - 7).min(7) as u8;
    let mantissa = (magnitude >> (segment + 3)) as u8 & 0x0f;
    !(sign | segment << 4 | mantissa)
}

fn from_a_law(byte: u8) -> i16 {
    let code = byte ^ 0x55;
    let mantissa = i32::from(code & 0x0f) << 4;
    let sample = match (code & 0x70) >> 4 {
        0 => mantissa + 8,
        segment => (mantissa + 0x108) << (segment - 1),
    };
    (if code & 0x80 != 0 { sample } else { -sample }) as i16
}

fn to_a_law(sample: i16) -> u8 {
    let (sign, magnitude) = if sample >= 0 { (0x80, i32::from(sample)) } else { (0, -i32::from(sample) - 1) };
    let segment = if magnitude < 256 { 0 } else { (magnitude.ilog2() - 7) as u8 };
    let shift = if segment == 0 { 4 } else { segment + 3 };
    (sign | segment << 4 | ((magnitude >> shift) as u8 & 0x0f)) ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pcm_is_the_samples_themselves() {
        let bytes: Vec<u8> = [0i16, 1, -1, 32_767, -32_768].iter().flat_map(|s| s.to_le_bytes()).collect();
        let samples = Format::Pcm.decode(&bytes).expect("whole samples");
        assert_eq!(samples[3], 32_767.0 / 32_768.0);
        assert_eq!(Format::Pcm.decode(&bytes[..3]), Err(OddBytes(3)));
        assert_eq!(Format::Pcm.encode(&[2.0, -2.0, f32::NAN]), [0xff, 0x7f, 0x00, 0x80, 0x00, 0x00]);
    }

    #[test]
    fn g711_has_the_values_of_the_recommendation() {
        // Ends and middle of tables 2a (µ-law, 14 bits scaled by 4) and 1a (A-law, 13 bits scaled by 8).
        for (byte, sample) in [(0x00, -32_124), (0x80, 32_124), (0xff, 0), (0x7f, 0), (0xfe, 8), (0x8f, 16_764)] {
            assert_eq!(from_mu_law(byte), sample, "µ-law {byte:#x}");
        }
        for (byte, sample) in [(0xd5, 8), (0x55, -8), (0xaa, 32_256), (0x2a, -32_256), (0xd4, 24), (0x80, 5_504)] {
            assert_eq!(from_a_law(byte), sample, "A-law {byte:#x}");
        }
    }

    #[test]
    fn g711_codes_survive_a_round_trip() {
        for byte in 0..=255u8 {
            let again = from_mu_law(to_mu_law(from_mu_law(byte)));
            assert_eq!(again, from_mu_law(byte), "µ-law {byte:#x}");
            assert_eq!(to_a_law(from_a_law(byte)), byte, "A-law {byte:#x}");
        }
    }

    #[test]
    fn g711_loses_less_than_a_twentieth() {
        for sample in (-32_768..32_768).step_by(37).map(|s| s as i16) {
            for back in [from_mu_law(to_mu_law(sample)), from_a_law(to_a_law(sample))] {
                let error = (i32::from(back) - i32::from(sample)).abs();
                assert!(error <= 16.max(i32::from(sample).abs() / 20), "{sample} became {back}");
            }
        }
    }
}
