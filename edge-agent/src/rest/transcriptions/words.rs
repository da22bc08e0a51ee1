//! When each word was said, and the words as segments and captions.
//!
//! The recogniser tells when it looked at the sound of each word (`tests/tests/asr_times.rs` measures how far off that is); the pauses around
//! a word, which count to it there, are cut off where the detector hears no speech. A recogniser that does not tell leaves an estimate:
//! the frames in which there is speech are shared out among the words by their letters.

use super::cutter::{FRAME, Part};
use crate::speech::{HEARD_HZ, WordTime};
use serde_json::{Value, json};

/// Letters of a caption: two lines on a screen.
const CAPTION_CHARS_MAX: usize = 84;

/// The pause that ends a segment, in seconds.
const PAUSE_S: f64 = 0.4;

/// Seconds of one frame.
const FRAME_S: f64 = FRAME as f64 / HEARD_HZ as f64;

/// A word as it is written, and when it was said.
#[derive(Debug, Clone, PartialEq)]
pub struct Word {
    /// With its punctuation.
    pub text: String,
    /// Seconds from the beginning of the recording.
    pub start_s: f64,
    /// The end.
    pub end_s: f64,
}

/// Words that belong together.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// The words, with spaces.
    pub text: String,
    /// When the first word begins.
    pub start_s: f64,
    /// When the last word ends.
    pub end_s: f64,
}

/// The words of a part with their times. `times` are the recogniser's, one for each word; with another number of them they are estimated.
pub fn place(part: &Part, text: &str, times: &[WordTime]) -> Vec<Word> {
    if times.is_empty() || times.len() != text.split_whitespace().count() {
        return estimate(part, text);
    }
    let frame_ms = FRAME_S * 1e3;
    let words = text.split_whitespace().zip(times).map(|(word, time)| {
        let (start, end) = (f64::from(time.start_ms) / frame_ms, f64::from(time.end_ms) / frame_ms);
        // Where a frame of speech lies wholly or partly in it, the word is not longer than from the first to the last such frame.
        let last = (end.ceil() as usize).min(part.frames.len());
        let within = (start as usize).min(last)..last;
        let mut spoken = within.filter(|frame| Part::is_speech(part.frames[*frame]));
        let (start, end) = match (spoken.next(), spoken.next_back()) {
            (Some(first), Some(last)) => (start.max(first as f64), end.min(last as f64 + 1.0)),
            (Some(only), None) => (start.max(only as f64), end.min(only as f64 + 1.0)),
            (None, _) => (start, end),
        };
        let at = |frame: f64| (part.begins as f64 + frame.min(part.frames.len() as f64)) * FRAME_S;
        Word { text: word.to_owned(), start_s: at(start), end_s: at(end.max(start)) }
    });
    words.collect()
}

/// The words of a part where nobody tells their times.
fn estimate(part: &Part, text: &str) -> Vec<Word> {
    let spoken: Vec<usize> = (0..part.frames.len()).filter(|n| Part::is_speech(part.frames[*n])).collect();
    let letters = |word: &str| word.chars().filter(|c| c.is_alphanumeric()).count().max(1);
    let all: usize = text.split_whitespace().map(letters).sum();
    // The time after so many letters; a boundary belongs to the frame before it as an end and to the one behind it as a beginning.
    let at = |said: usize, is_end: bool| {
        let place = said as f64 / all as f64 * spoken.len() as f64;
        let whole = if is_end { (place.ceil() as usize).saturating_sub(1) } else { place as usize };
        let frame = spoken.get(whole.min(spoken.len().saturating_sub(1))).copied().unwrap_or_default();
        (part.begins as f64 + frame as f64 + (place - whole as f64).clamp(0.0, 1.0)) * FRAME_S
    };
    let mut said = 0;
    let words = text.split_whitespace().map(|word| {
        let start_s = at(said, false);
        said += letters(word);
        Word { text: word.to_owned(), start_s, end_s: at(said, true).max(start_s) }
    });
    words.collect()
}

/// The words cut into segments: at the ends of sentences, at pauses, and where a caption is full.
pub fn segments(words: &[Word]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut is_open = false;
    for word in words {
        match segments.last_mut() {
            Some(last)
                if is_open
                    && word.start_s - last.end_s < PAUSE_S
                    && last.text.chars().count() + 1 + word.text.chars().count() <= CAPTION_CHARS_MAX =>
            {
                last.text.push(' ');
                last.text.push_str(&word.text);
                last.end_s = word.end_s;
            }
            _ => {
                segments.push(Segment { text: word.text.clone(), start_s: word.start_s, end_s: word.end_s });
            }
        }
        is_open = !word.text.ends_with(['.', '?', '!']);
    }
    segments
}

/// A word as `verbose_json` tells it: without the marks around it.
pub fn show_word(word: &Word) -> Value {
    let bare = word.text.trim_matches(|c: char| !c.is_alphanumeric());
    let text = if bare.is_empty() { word.text.as_str() } else { bare };
    json!({ "word": text, "start": seconds(word.start_s), "end": seconds(word.end_s) })
}

/// A segment as `verbose_json` tells it. What this recogniser does not know is `null`.
pub fn show_segment(id: usize, segment: &Segment) -> Value {
    json!({
        "id": id, "seek": 0, "start": seconds(segment.start_s), "end": seconds(segment.end_s), "text": segment.text,
        "tokens": [], "temperature": 0.0, "avg_logprob": null, "compression_ratio": null, "no_speech_prob": null,
    })
}

/// Seconds in whole milliseconds.
pub fn seconds(seconds: f64) -> f64 {
    (seconds * 1e3).round() / 1e3
}

/// SubRip captions.
pub fn srt(segments: &[Segment]) -> String {
    let caption = |(n, segment): (usize, &Segment)| {
        let (start, end) = (clock(segment.start_s, ','), clock(segment.end_s, ','));
        format!("{}\n{start} --> {end}\n{}\n\n", n + 1, segment.text)
    };
    segments.iter().enumerate().map(caption).collect()
}

/// WebVTT captions.
pub fn vtt(segments: &[Segment]) -> String {
    let caption = |segment: &Segment| {
        // An arrow or a tag in the words would be read as the format's own.
        let text = segment.text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        format!("{} --> {}\n{text}\n\n", clock(segment.start_s, '.'), clock(segment.end_s, '.'))
    };
    format!("WEBVTT\n\n{}", segments.iter().map(caption).collect::<String>())
}

fn clock(seconds: f64, point: char) -> String {
    let ms = (seconds * 1e3).round() as u64;
    format!("{:02}:{:02}:{:02}{point}{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(begins: u64, runs: &[(usize, f32)]) -> Part {
        let frames: Vec<f32> = runs.iter().flat_map(|(count, p)| std::iter::repeat_n(*p, *count)).collect();
        Part { begins, samples: vec![0.0; frames.len() * FRAME], frames }
    }

    #[test]
    fn words_share_the_time_of_speech_and_leave_pauses_out() {
        // 10 frames of silence, 10 of speech, a pause of 10, 10 of speech.
        let part = part(100, &[(10, 0.0), (10, 0.9), (10, 0.0), (10, 0.9)]);
        let words = place(&part, "hello, world", &[]);
        let frames: Vec<(f64, f64)> =
            words.iter().map(|w| ((w.start_s / FRAME_S).round(), (w.end_s / FRAME_S).round())).collect();
        assert_eq!(frames, [(110.0, 120.0), (130.0, 140.0)]);
        assert_eq!(words[0].text, "hello,");
        assert_eq!(show_word(&words[0]), json!({"word": "hello", "start": 3.52, "end": 3.84}));
        assert_eq!(place(&part, " ", &[]), []);
    }

    #[test]
    fn the_recognisers_times_hold_without_the_pauses() {
        // 10 frames of silence, 10 of speech, a pause of 10, 10 of speech.
        let part = part(100, &[(10, 0.0), (10, 0.9), (10, 0.0), (10, 0.9)]);
        let time = |start: u32, end: u32| WordTime { start_ms: start * 32, end_ms: end * 32 };
        let frames = |times: &[WordTime]| -> Vec<(f64, f64)> {
            let words = place(&part, "hello, world", times);
            words.iter().map(|w| ((w.start_s / FRAME_S).round(), (w.end_s / FRAME_S).round())).collect()
        };
        assert_eq!(frames(&[time(0, 25), time(25, 40)]), [(110.0, 120.0), (130.0, 140.0)]);
        assert_eq!(frames(&[time(11, 14), time(14, 33)]), [(111.0, 114.0), (114.0, 133.0)]);
        assert_eq!(
            frames(&[time(22, 24), time(39, 90)]),
            [(122.0, 124.0), (139.0, 140.0)],
            "in silence, and beyond the end"
        );
        assert_eq!(frames(&[time(0, 25)]), frames(&[]), "not one for each word");
    }

    #[test]
    fn words_never_overlap_and_stay_within_their_part() {
        let part = part(7, &[(3, 0.1), (5, 0.9), (2, 0.1), (9, 0.6), (4, 0.2)]);
        let words = place(&part, "a few words more than there are frames of speech in this one: ... 42!", &[]);
        let mut before = 7.0 * FRAME_S;
        for word in words {
            assert!(before <= word.start_s + 1e-9 && word.start_s <= word.end_s, "{word:?} after {before}");
            before = word.end_s;
        }
        assert!(before <= (7.0 + 23.0) * FRAME_S);
    }

    fn word(text: &str, start_s: f64) -> Word {
        Word { text: text.into(), start_s, end_s: start_s + 0.3 }
    }

    #[test]
    fn segments_end_with_sentences_at_pauses_and_when_they_are_full() {
        let words = [word("Yes.", 0.0), word("We", 0.4), word("are", 0.7), word("open", 2.0)];
        let texts = |words: &[Word]| segments(words).into_iter().map(|s| s.text).collect::<Vec<_>>();
        assert_eq!(texts(&words), ["Yes.", "We are", "open"]);
        let long: Vec<Word> = (0..30).map(|n| word("seven77", f64::from(n) * 0.35)).collect();
        assert!(texts(&long).iter().all(|text| text.chars().count() <= CAPTION_CHARS_MAX));
        assert_eq!(texts(&long).join(" ").split(' ').count(), 30);
    }

    #[test]
    fn captions_are_in_the_shapes_of_their_formats() {
        let segments = [
            Segment { text: "One & <two>.".into(), start_s: 0.5, end_s: 1.25 },
            Segment { text: "Three.".into(), start_s: 3_661.0, end_s: 3_662.0 },
        ];
        assert_eq!(
            srt(&segments),
            "1\n00:00:00,500 --> 00:00:01,250\nOne & <two>.\n\n2\n01:01:01,000 --> 01:01:02,000\nThree.\n\n"
        );
        assert_eq!(vtt(&segments[..1]), "WEBVTT\n\n00:00:00.500 --> 00:00:01.250\nOne &amp; &lt;two&gt;.\n\n");
    }
}
