//! From speech probabilities to turns: when speech begins, when to ask the turn model, when the turn is over.
//!
//! All times here are positions in the caller's audio (samples at 16 kHz), never the clock, so audio that arrives faster
//! or slower than real time is cut at the same places.

use crate::{
    pauses::Pauses,
    settings::{EndOfTurn, TurnDetection},
};
use std::ops::Range;

/// Samples per second of the caller's audio.
pub const HEARD_HZ: u64 = 16_000;

/// Samples of one frame: 32 ms.
pub const FRAME: u64 = 512;

/// Frames in a row that make an onset: two, so that a click of 32 ms does not stop an answer. Costs 32 ms of reaction.
const ONSET_FRAMES: u32 = 2;

/// How far below the threshold a frame must fall to count as silence, as Silero's own iterator does it.
const HYSTERESIS: f32 = 0.15;

/// Silence after which the turn model is asked: 256 ms, so that its verdict is there at about 400 ms.
const ASK_AFTER: u64 = 8 * FRAME;

/// Further silence after which it is asked again, with more silence in what it hears.
const ASK_AGAIN_AFTER: u64 = 10 * FRAME;

/// Probability at which the turn model says that the caller has finished.
const FINISHED: f32 = 0.5;

/// Audio kept behind the last speech for the transcript: words end more softly than the detector's threshold.
pub(crate) const TAIL: u64 = 6 * FRAME;

/// A turn is cut here, whatever is being said: two minutes.
pub const TURN_MAX: u64 = 120 * HEARD_HZ;

/// Something noticed in the caller's audio.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Noticed {
    /// Speech began; the turn's audio begins here (padding included).
    Began {
        /// Position of the first sample of the turn.
        from: u64,
    },
    /// A pause: ask the turn model about this audio.
    Paused {
        /// Which question this is; the verdict must carry the same number.
        question: u32,
        /// The turn so far.
        range: Range<u64>,
    },
    /// The turn is over.
    Ended {
        /// The turn's audio.
        range: Range<u64>,
        /// Where the last speech ended.
        speech_end: u64,
        /// Where the listener stood when it decided.
        decided: u64,
    },
}

#[derive(Debug, Clone)]
struct Turn {
    from: u64,
    speech_end: u64,
    asked_at: Option<u64>,
}

/// Follows one caller's speech.
#[derive(Debug, Clone, Default)]
pub struct Listener {
    position: u64,
    floor: u64,
    onset: u32,
    turn: Option<Turn>,
    questions: u32,
    pauses: Pauses,
    /// Where the speech of the latest turn ended, until it is answered.
    unanswered: Option<u64>,
}

impl Listener {
    /// Samples whose frames were seen.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Whether a turn is in progress.
    pub fn in_turn(&self) -> bool {
        self.turn.is_some()
    }

    /// Where the turn in progress began, and where its last speech ended.
    pub fn turn(&self) -> Option<(u64, u64)> {
        self.turn.as_ref().map(|turn| (turn.from, turn.speech_end))
    }

    /// Earliest sample that may still be needed.
    pub fn needed_from(&self, detection: Option<&TurnDetection>) -> u64 {
        let padding = detection.map_or(0, |d| ms(d.prefix_padding_ms)) + u64::from(ONSET_FRAMES) * FRAME;
        match &self.turn {
            Some(turn) => turn.from,
            None => self.position.saturating_sub(padding).max(self.floor),
        }
    }

    /// Takes the probability of the next frame.
    pub fn frame(&mut self, probability: f32, detection: &TurnDetection) -> Option<Noticed> {
        let frame_start = self.position;
        self.position += FRAME;
        if frame_start < self.floor && self.turn.is_none() {
            // The detector lags behind a commit: what it tells now is about audio that has left the buffer.
            return None;
        }
        let Some(turn) = &mut self.turn else {
            self.onset = if probability >= detection.threshold { self.onset + 1 } else { 0 };
            if self.onset < ONSET_FRAMES {
                return None;
            }
            let first_speech = self.position - u64::from(ONSET_FRAMES) * FRAME;
            let from = first_speech.saturating_sub(ms(detection.prefix_padding_ms)).max(self.floor);
            self.onset = 0;
            if let Some(ended) = self.unanswered.take() {
                // The turn was taken to be over, and was not.
                self.pauses.note(to_ms(first_speech.saturating_sub(ended)));
            }
            self.turn = Some(Turn { from, speech_end: self.position, asked_at: None });
            return Some(Noticed::Began { from });
        };
        if probability >= (detection.threshold - HYSTERESIS).max(0.01) {
            self.pauses.note(to_ms(frame_start.saturating_sub(turn.speech_end)));
            turn.speech_end = self.position;
            turn.asked_at = None;
            return if self.position - turn.from >= TURN_MAX { self.end() } else { None };
        }
        let silence = self.position - turn.speech_end;
        let (EndOfTurn::Silence { silence_ms } | EndOfTurn::Meaning { silence_ms_max: silence_ms }) = detection.by;
        let silence_ms =
            detection.adapts_percent.map_or(silence_ms, |percent| self.pauses.silence_ms(silence_ms, percent));
        if silence >= ms(silence_ms) {
            return self.end();
        }
        match detection.by {
            EndOfTurn::Silence { .. } => None,
            EndOfTurn::Meaning { .. } => {
                let due = match turn.asked_at {
                    None => silence >= ASK_AFTER,
                    Some(at) => frame_start - at >= ASK_AGAIN_AFTER,
                };
                if !due {
                    return None;
                }
                turn.asked_at = Some(frame_start);
                self.questions += 1;
                Some(Noticed::Paused { question: self.questions, range: turn.from..self.position })
            }
        }
    }

    /// Takes the turn model's verdict on a question. One on an old question, or after the caller went on, changes nothing.
    pub fn verdict(&mut self, question: u32, probability: f32) -> Option<Noticed> {
        let still_paused = self.turn.as_ref().is_some_and(|turn| turn.asked_at.is_some());
        if question == self.questions && still_paused && probability >= FINISHED { self.end() } else { None }
    }

    /// The caller hears an answer: what they say next is another turn, however soon.
    pub fn answered(&mut self) {
        self.unanswered = None;
    }

    /// Ends the turn in progress because no more audio comes.
    pub fn stalled(&mut self) -> Option<Noticed> {
        self.end()
    }

    /// Ends the turn in progress at `arrived`, although nobody listened to the last part of it: that part belongs to the
    /// turn, because the caller may have spoken in it. Listening goes on behind it.
    pub fn gave_up(&mut self, arrived: u64) -> Option<Noticed> {
        let turn = self.turn.take()?;
        let until = arrived.min(turn.from + TURN_MAX + FRAME).max(self.position);
        self.onset = 0;
        self.position = until;
        self.floor = until;
        Some(Noticed::Ended { range: turn.from..until, speech_end: turn.speech_end, decided: until })
    }

    /// The audio up to `until` was committed or thrown away: a turn in progress is forgotten.
    pub fn forget(&mut self, until: u64) {
        self.turn = None;
        self.onset = 0;
        self.floor = self.floor.max(until);
    }

    /// Skips to a position without listening: the client decides about turns, or the detector lost its place. In a turn
    /// what is skipped counts as speech, so that it is transcribed and the silence that ends the turn is a heard one.
    pub fn skip_to(&mut self, position: u64) {
        if position <= self.position {
            return;
        }
        self.position = position;
        self.onset = 0;
        if let Some(turn) = &mut self.turn {
            turn.speech_end = position;
            turn.asked_at = None;
        }
    }

    fn end(&mut self) -> Option<Noticed> {
        let turn = self.turn.take()?;
        self.onset = 0;
        let until = (turn.speech_end + TAIL).min(self.position);
        self.floor = until;
        self.unanswered = Some(turn.speech_end);
        Some(Noticed::Ended { range: turn.from..until, speech_end: turn.speech_end, decided: self.position })
    }
}

fn to_ms(samples: u64) -> u32 {
    u32::try_from(samples * 1000 / HEARD_HZ).unwrap_or(u32::MAX)
}

fn ms(ms: u32) -> u64 {
    u64::from(ms) * HEARD_HZ / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_who_pauses_is_waited_for_and_a_quick_one_is_answered_sooner() {
        let by = EndOfTurn::Silence { silence_ms: 512 };
        let adapting =
            TurnDetection { by, adapts_percent: Some(100), prefix_padding_ms: 0, ..TurnDetection::default() };
        let exact = TurnDetection { adapts_percent: None, ..adapting.clone() };
        // Pauses of 20 frames (640 ms) are cut at 512 ms, and the caller goes on.
        let slow = format!("{}####{}", "####....................".repeat(4), ".".repeat(60));
        assert_eq!(run(&slow, &exact).matches("ended").count(), 5);
        let adapted = run(&slow, &adapting);
        assert!(adapted.matches("ended").count() < 5, "{adapted}");
        // The last turn ends 950 ms after its speech, which is a quarter and 150 ms more than the pauses: 30 frames.
        assert!(adapted.contains("ended@130"), "{adapted}");
        // Pauses of 128 ms, ten of them: then 310 ms are enough.
        let quick = format!("{}####{}", "####....".repeat(10), ".".repeat(30));
        assert!(run(&quick, &exact).contains("ended@100"), "{}", run(&quick, &exact));
        assert!(run(&quick, &adapting).contains("ended@94"), "{}", run(&quick, &adapting));
        // What is said after an answer is no pause, however soon it comes.
        let mut listener = Listener::default();
        let mut hear = |picture: &str, answered: bool| {
            for c in picture.chars() {
                listener.frame(if c == '#' { 0.9 } else { 0.1 }, &adapting);
            }
            if answered {
                listener.answered();
            }
            listener.pauses.silence_ms(512, 100)
        };
        assert_eq!((0..10).map(|_| hear("####....................", true)).max(), Some(512));
    }

    /// Runs a picture of speech: `#` speech, `.` silence, `?` a verdict "finished" on the last question, `-` one "not yet".
    fn run(picture: &str, detection: &TurnDetection) -> String {
        let mut listener = Listener::default();
        let mut out = String::new();
        let mut asked = 0;
        for c in picture.chars() {
            let noticed = match c {
                '#' => listener.frame(0.9, detection),
                '.' => listener.frame(0.1, detection),
                '?' => listener.verdict(asked, 0.8),
                '-' => listener.verdict(asked, 0.2),
                _ => continue,
            };
            let frame = listener.position() / FRAME;
            match noticed {
                Some(Noticed::Began { from }) => out += &format!("began@{frame}({}) ", from / FRAME),
                Some(Noticed::Paused { question, range }) => {
                    asked = question;
                    out += &format!("asked@{frame}({}) ", range.end / FRAME);
                }
                Some(Noticed::Ended { range, speech_end, .. }) => {
                    out += &format!(
                        "ended@{frame}({}..{},{}) ",
                        range.start / FRAME,
                        range.end / FRAME,
                        speech_end / FRAME
                    );
                }
                None => {}
            }
        }
        out.trim_end().to_owned()
    }

    fn check(picture: &str, by: EndOfTurn, expect: &str) {
        let detection = TurnDetection { by, prefix_padding_ms: 64, ..TurnDetection::default() };
        assert_eq!(run(picture, &detection), expect, "{picture}");
    }

    const SILENCE: EndOfTurn = EndOfTurn::Silence { silence_ms: 320 };
    const MEANING: EndOfTurn = EndOfTurn::Meaning { silence_ms_max: 960 };

    #[test]
    fn silence_alone() {
        check("...###..........", SILENCE, "began@5(1) ended@16(1..12,6)");
        check("###.........#..........", SILENCE, "began@2(0) ended@23(0..19,13)");
        check("..#..#..#..", SILENCE, "");
        check("##..........##..........", SILENCE, "began@2(0) ended@12(0..8,2) began@14(10) ended@24(10..20,14)");
    }

    #[test]
    fn the_turn_model_ends_a_turn_early_and_only_at_a_pause() {
        check("####........?", MEANING, "began@2(0) asked@12(12) ended@12(0..10,4)");
        check("####........-..........?", MEANING, "began@2(0) asked@12(12) asked@22(22) ended@22(0..10,4)");
        check("####........#?", MEANING, "began@2(0) asked@12(12)");
        check(
            "####..............................",
            MEANING,
            "began@2(0) asked@12(12) asked@22(22) asked@32(32) ended@34(0..10,4)",
        );
    }

    #[test]
    fn a_turn_never_outgrows_its_bound() {
        let detection = TurnDetection::default();
        let mut listener = Listener::default();
        let ended = (0..2 * TURN_MAX / FRAME).find_map(|_| match listener.frame(1.0, &detection) {
            Some(Noticed::Ended { range, .. }) => Some(range),
            _ => None,
        });
        let range = ended.expect("a turn without a pause ends too");
        assert!(range.end - range.start <= TURN_MAX + FRAME);
    }

    #[test]
    fn forgotten_audio_never_comes_back() {
        let detection = TurnDetection::default();
        let mut listener = Listener::default();
        for _ in 0..8 {
            listener.frame(0.9, &detection);
        }
        assert!(listener.in_turn());
        listener.forget(10 * FRAME);
        assert!(!listener.in_turn());
        (0..3).for_each(|_| assert_eq!(listener.frame(0.9, &detection), None, "two of these are about old audio"));
        assert_eq!(listener.frame(0.9, &detection), Some(Noticed::Began { from: 10 * FRAME }));
    }
}
