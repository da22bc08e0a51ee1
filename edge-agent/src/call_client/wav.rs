//! Recordings: WAV files in, WAV files out.

use crate::media::resample::resample;
use hound::{SampleFormat, WavReader, WavSpec, WavWriter};
use std::path::{Path, PathBuf};

/// The longest recording that is taken: ten minutes, what a node buffers at most.
pub const SECONDS_MAX: u32 = 600;

/// Why a recording cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    /// The file cannot be read or is no WAV.
    #[error(
        "{path} is not a WAV file that can be read ({reason}); convert it first, for example with `ffmpeg -i IN -ac 1 -ar 24000 OUT.wav`",
        path = .path.display()
    )]
    NotWav {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// There is nothing in it, or too much.
    #[error("{path} holds {seconds:.1} s of audio; a recording of 0.1 s to {SECONDS_MAX} s is expected", path = .path.display())]
    Length {
        /// The file.
        path: PathBuf,
        /// Its length.
        seconds: f64,
    },
    /// The answer cannot be written.
    #[error("{path} cannot be written: {reason}; choose another place with --out", path = .path.display())]
    NotWritten {
        /// The file.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
}

/// Reads a WAV of any rate, one or more channels, 8 to 32 bits or float, as mono of the wanted rate in [-1, 1].
pub fn read(path: &Path, rate_hz: u32) -> Result<Vec<f32>, WavError> {
    let not_wav = |reason: String| WavError::NotWav { path: path.to_owned(), reason };
    let mut reader = WavReader::open(path).map_err(|e| not_wav(e.to_string()))?;
    let spec = reader.spec();
    if spec.channels == 0 || !(1_000..=384_000).contains(&spec.sample_rate) {
        return Err(not_wav(format!("{} channels at {} Hz", spec.channels, spec.sample_rate)));
    }
    let seconds = f64::from(reader.duration()) / f64::from(spec.sample_rate);
    if !(0.1..=f64::from(SECONDS_MAX)).contains(&seconds) {
        return Err(WavError::Length { path: path.to_owned(), seconds });
    }
    let samples: Result<Vec<f32>, hound::Error> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().collect(),
        SampleFormat::Int => {
            let whole = (1u64 << (spec.bits_per_sample.clamp(1, 32) - 1)) as f32;
            reader.samples::<i32>().map(|sample| sample.map(|s| s as f32 / whole)).collect()
        }
    };
    let samples = samples.map_err(|e| not_wav(e.to_string()))?;
    let channels = usize::from(spec.channels);
    let mono: Vec<f32> =
        samples.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32).collect();
    resample(&mono, spec.sample_rate, rate_hz).map_err(|e| not_wav(e.to_string()))
}

/// Writes mono samples in [-1, 1] as 16-bit PCM.
pub fn write(path: &Path, rate_hz: u32, samples: &[f32]) -> Result<(), WavError> {
    let spec = WavSpec { channels: 1, sample_rate: rate_hz, bits_per_sample: 16, sample_format: SampleFormat::Int };
    let written = || -> Result<(), hound::Error> {
        let mut writer = WavWriter::create(path, spec)?;
        samples.iter().try_for_each(|s| writer.write_sample(crate::media::codec::to_i16(*s)))?;
        writer.finalize()
    };
    written().map_err(|e| WavError::NotWritten { path: path.to_owned(), reason: e.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(spec: WavSpec, frames: u32) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("in.wav");
        let mut writer = WavWriter::create(&path, spec).expect("created");
        for n in 0..frames {
            let value = 0.5 * (std::f32::consts::TAU * 200.0 * n as f32 / spec.sample_rate as f32).sin();
            for channel in 0..spec.channels {
                let value = if channel == 0 { value } else { 0.0 };
                match spec.sample_format {
                    SampleFormat::Float => writer.write_sample(value).expect("written"),
                    SampleFormat::Int => {
                        let whole = (1i64 << (spec.bits_per_sample - 1)) as f32;
                        writer.write_sample((value * whole) as i32).expect("written");
                    }
                }
            }
        }
        writer.finalize().expect("finished");
        (folder, path)
    }

    fn check(channels: u16, sample_rate: u32, bits_per_sample: u16, sample_format: SampleFormat) {
        let (_folder, path) = wav(WavSpec { channels, sample_rate, bits_per_sample, sample_format }, sample_rate / 2);
        let samples = read(&path, 24_000).expect("readable");
        assert_eq!(samples.len(), 12_000, "half a second stays half a second");
        let loudest = samples[1_000..11_000].iter().fold(0.0f32, |max, s| max.max(s.abs()));
        let expect = 0.5 / f32::from(channels);
        assert!(
            (loudest - expect).abs() < 0.02,
            "{channels} channels, {sample_rate} Hz, {bits_per_sample} bits: {loudest}"
        );
    }

    #[test]
    fn any_wav_becomes_mono_of_the_wanted_rate() {
        check(1, 24_000, 16, SampleFormat::Int);
        check(2, 44_100, 16, SampleFormat::Int);
        check(1, 8_000, 24, SampleFormat::Int);
        check(2, 48_000, 32, SampleFormat::Int);
        check(1, 16_000, 32, SampleFormat::Float);
    }

    #[test]
    fn what_is_no_recording_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("song.mp3");
        for content in [&b"ID3 not a wav"[..], b"", b"RIFF\xff\xff\xff\xffWAVEfmt "] {
            std::fs::write(&path, content).expect("written");
            let error = read(&path, 24_000).expect_err("no WAV");
            assert!(matches!(error, WavError::NotWav { .. }), "{error}");
            assert!(error.to_string().contains("song.mp3") && error.to_string().contains("ffmpeg"), "{error}");
        }
        assert!(read(&folder.path().join("nothing.wav"), 24_000).is_err());
        let spec = WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: 16, sample_format: SampleFormat::Int };
        let (_folder, path) = wav(spec, 160);
        assert!(matches!(read(&path, 24_000), Err(WavError::Length { .. })));
    }

    #[test]
    fn what_is_written_can_be_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("out.wav");
        let samples: Vec<f32> = (0..4_800).map(|n| (n as f32 / 10.0).sin() * 0.4).collect();
        write(&path, 24_000, &samples).expect("written");
        let back = read(&path, 24_000).expect("readable");
        assert!(back.iter().zip(&samples).all(|(a, b)| (a - b).abs() < 1e-3));
        assert!(matches!(
            write(&folder.path().join("no/such/place.wav"), 24_000, &samples),
            Err(WavError::NotWritten { .. })
        ));
    }
}
