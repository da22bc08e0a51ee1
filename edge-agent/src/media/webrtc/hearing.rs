//! The microphone's side of a connection: Opus packets in, an unbroken stream of 16 kHz samples out.
//!
//! Packets come in order (str0m holds a few back to sort them). What was lost is rebuilt from the next packet, where it carries that
//! (in-band FEC), or else concealed by the decoder. While nothing comes at all, silence is heard in real time, because
//! a caller who pauses must be heard to pause.

use crate::speech::HEARD_HZ;
use ropus::{Channels, DecodeMode, Decoder};

/// Samples of 20 ms, the length of nearly every packet.
const FRAME: usize = HEARD_HZ as usize / 50;

/// Samples of the longest packet there is: 120 ms.
const PACKET_MAX: usize = 6 * FRAME;

/// Packets of a gap that are concealed: beyond 100 ms, what is made up is no speech any more.
const CONCEALED_MAX: u64 = 5;

/// Ticks of 20 ms without a packet before silence is made up: what a slow network may hold back.
const PATIENCE: u64 = 3;

/// Decodes what one caller sends.
pub struct Hearing {
    decoder: Decoder,
    /// The number of the last packet.
    last: Option<u64>,
    /// Ticks since the last packet.
    quiet: u64,
    /// Frames made up since the last packet.
    made_up: u64,
}

impl Hearing {
    /// A decoder that has heard nothing.
    pub fn new() -> Self {
        let decoder = Decoder::new(HEARD_HZ, Channels::Mono).expect("16 kHz mono is one of the rates of Opus");
        Self { decoder, last: None, quiet: 0, made_up: 0 }
    }

    /// Takes a packet with its extended sequence number; packets that come late are passed over.
    pub fn packet(&mut self, number: u64, packet: &[u8]) -> Vec<f32> {
        let lost = match self.last {
            Some(last) if number <= last => return Vec::new(),
            Some(last) => number - last - 1,
            None => 0,
        };
        let missing = lost.min(CONCEALED_MAX).saturating_sub(self.made_up);
        self.last = Some(number);
        (self.quiet, self.made_up) = (0, 0);
        let mut heard = Vec::with_capacity(PACKET_MAX);
        for left in (0..missing).rev() {
            // Only the packet right before this one is carried in it.
            let (rebuilt, mode) = if left == 0 { (packet, DecodeMode::Fec) } else { (&[][..], DecodeMode::Normal) };
            heard.extend(self.decode(rebuilt, FRAME, mode));
        }
        // The decoder takes no bytes for a lost packet, as long as there is room.
        let samples_max = if packet.is_empty() { FRAME } else { PACKET_MAX };
        heard.extend(self.decode(packet, samples_max, DecodeMode::Normal));
        heard
    }

    /// Another 20 ms have passed.
    pub fn tick(&mut self) -> Vec<f32> {
        self.quiet += 1;
        if self.last.is_none() || self.quiet <= PATIENCE {
            return Vec::new();
        }
        self.made_up += 1;
        if self.made_up > CONCEALED_MAX { vec![0.0; FRAME] } else { self.decode(&[], FRAME, DecodeMode::Normal) }
    }

    /// What cannot be decoded is as silent as it is long.
    fn decode(&mut self, packet: &[u8], samples_max: usize, mode: DecodeMode) -> Vec<f32> {
        let mut samples = vec![0.0; samples_max];
        let made = self.decoder.decode_float(packet, &mut samples, mode).unwrap_or(FRAME);
        samples.truncate(made);
        samples
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ropus::{Application, Bitrate, Encoder, InbandFec};

    /// A tone as packets of 20 ms, each of which carries the one before it as browsers' do.
    fn packets(count: usize) -> Vec<Vec<u8>> {
        let mut encoder = Encoder::builder(48_000, Channels::Mono, Application::Voip)
            .bitrate(Bitrate::Bits(24_000))
            .inband_fec(InbandFec::Enabled)
            .packet_loss_perc(20)
            .build()
            .expect("an encoder");
        let tone = |n: usize| 0.4 * (std::f32::consts::TAU * 300.0 * n as f32 / 48_000.0).sin();
        let packet = |at: usize| {
            let samples: Vec<f32> = (at * 960..(at + 1) * 960).map(tone).collect();
            let mut packet = vec![0; 1_275];
            let bytes = encoder.encode_float(&samples, &mut packet).expect("encoded");
            packet.truncate(bytes);
            packet
        };
        (0..count).map(packet).collect()
    }

    fn loudness(samples: &[f32]) -> f32 {
        (samples.iter().map(|s| s * s).sum::<f32>() / samples.len() as f32).sqrt()
    }

    #[test]
    fn a_tone_comes_through_and_lost_packets_are_rebuilt_or_concealed_in_their_length() {
        let packets = packets(50);
        let mut hearing = Hearing::new();
        let mut heard = Vec::new();
        for (number, packet) in packets.iter().enumerate().filter(|(n, _)| ![20, 30, 31].contains(n)) {
            heard.extend(hearing.packet(1_000 + number as u64, packet));
        }
        assert_eq!(heard.len(), 50 * FRAME);
        for (at, frame) in heard.chunks(FRAME).enumerate().skip(2) {
            let loud = loudness(frame);
            // Of two in a row nothing carries the first: the decoder lets what came before fade, and finds back within 200 ms.
            let least = if (30..40).contains(&at) { 0.05 } else { 0.25 };
            assert!((least..0.4).contains(&loud), "frame {at} has a loudness of {loud}");
        }
    }

    #[test]
    fn late_packets_are_passed_over_and_a_long_gap_is_not_made_up() {
        let packets = packets(3);
        let mut hearing = Hearing::new();
        assert_eq!(hearing.packet(10, &packets[0]).len(), FRAME);
        assert_eq!(hearing.packet(10, &packets[0]).len(), 0);
        assert_eq!(hearing.packet(9, &packets[1]).len(), 0);
        assert_eq!(hearing.packet(1_000_000, &packets[2]).len(), (CONCEALED_MAX as usize + 1) * FRAME);
    }

    #[test]
    fn silence_is_heard_while_nothing_comes_and_is_not_heard_twice() {
        let packets = packets(3);
        let mut hearing = Hearing::new();
        let ticks = |hearing: &mut Hearing, n| (0..n).flat_map(|_| hearing.tick()).collect::<Vec<f32>>();
        assert!(ticks(&mut hearing, 50).is_empty(), "before anything came");
        hearing.packet(1, &packets[0]);
        assert!(ticks(&mut hearing, 3).is_empty(), "a slow network is no pause");
        let pause = ticks(&mut hearing, 100);
        assert_eq!(pause.len(), 100 * FRAME);
        assert!(loudness(&pause[20 * FRAME..]) < 1e-6);
        // The three that are missing here were made up before.
        assert_eq!(hearing.packet(5, &packets[1]).len(), FRAME);
    }

    #[test]
    fn noise_for_packets_is_no_end() {
        let mut hearing = Hearing::new();
        let mut state = 1u32;
        for number in 0..500u64 {
            let packet: Vec<u8> = (0..number % 40)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (state >> 24) as u8
                })
                .collect();
            assert!(hearing.packet(number * 2, &packet).len() <= PACKET_MAX + FRAME);
        }
    }
}
