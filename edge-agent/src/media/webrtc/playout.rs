//! The loudspeaker of a call: audio that waits, in the order of its answers, and what of it has been played.
//!
//! BACKPRESSURE: bounded by [`AUDIO_MAX`]. Nothing here knows the time; whoever plays takes a frame every 20 ms.

use crate::{
    media::{codec::to_i16, outbox::Overflow, transport::Track},
    speech::SPOKEN_HZ,
};
use nearfield_dialogue::ids::ResponseId;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Samples of a frame: 20 ms.
pub const FRAME: usize = SPOKEN_HZ as usize / 50;

/// Samples that may wait: three minutes, more than any answer is long.
pub const AUDIO_MAX: usize = 180 * SPOKEN_HZ as usize;

struct Clip {
    response: ResponseId,
    samples: VecDeque<i16>,
}

/// What waits to be played.
#[derive(Default)]
pub struct Playout {
    clips: VecDeque<Clip>,
    /// The answer that is being played, from its first frame until nothing more of it will come.
    playing: Option<ResponseId>,
    /// Answers of which everything is here.
    ended: Vec<ResponseId>,
    /// What the client is to be told, as events without their ids.
    notices: Vec<Value>,
}

impl Playout {
    fn waiting(&self) -> usize {
        self.clips.iter().map(|clip| clip.samples.len()).sum()
    }

    fn has(&self, response: &ResponseId) -> bool {
        self.clips.iter().any(|clip| clip.response == *response)
    }

    fn play(&mut self, response: &ResponseId, samples: &[f32]) -> Result<(), Overflow> {
        if self.waiting() + samples.len() > AUDIO_MAX {
            return Err(Overflow);
        }
        let samples = samples.iter().map(|sample| to_i16(*sample)).collect();
        self.clips.push_back(Clip { response: response.clone(), samples });
        Ok(())
    }

    fn end(&mut self, response: &ResponseId) {
        if self.playing.as_ref() == Some(response) || self.has(response) {
            self.ended.push(response.clone());
        }
    }

    fn take_back(&mut self, response: &ResponseId) {
        self.clips.retain(|clip| clip.response != *response);
        self.ended.retain(|ended| ended != response);
        if self.playing.take_if(|playing| playing == response).is_some() {
            self.notices.push(notice("cleared", response));
        }
    }

    fn clear(&mut self) {
        self.clips.clear();
        self.ended.clear();
        if let Some(response) = self.playing.take() {
            self.notices.push(notice("cleared", &response));
        }
    }

    /// The next 20 ms; `None` is silence.
    pub fn next_frame(&mut self) -> Option<[i16; FRAME]> {
        let next = self.clips.front().map(|clip| clip.response.clone());
        let over = |playing: &mut ResponseId| match &next {
            Some(next) => next != playing,
            // Without its end being told, the next phrase is still being made.
            None => self.ended.contains(playing),
        };
        if let Some(done) = self.playing.take_if(over) {
            self.ended.retain(|ended| *ended != done);
            self.notices.push(notice("stopped", &done));
        }
        let response = next?;
        if self.playing.is_none() {
            self.notices.push(notice("started", &response));
            self.playing = Some(response.clone());
        }
        let mut frame = [0; FRAME];
        let mut filled = 0;
        while filled < FRAME
            && let Some(clip) = self.clips.front_mut().filter(|clip| clip.response == response)
        {
            let taken = clip.samples.len().min(FRAME - filled);
            for (to, sample) in frame[filled..].iter_mut().zip(clip.samples.drain(..taken)) {
                *to = sample;
            }
            filled += taken;
            if clip.samples.is_empty() {
                self.clips.pop_front();
            }
        }
        Some(frame)
    }

    /// What the client is to be told since this was last asked.
    pub fn take_notices(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.notices)
    }
}

fn notice(what: &str, response: &ResponseId) -> Value {
    json!({ "type": format!("output_audio_buffer.{what}"), "response_id": response.as_str() })
}

/// A playout that a call fills and a connection plays.
#[derive(Clone, Default)]
pub struct Loudspeaker(Arc<Mutex<Playout>>);

impl Loudspeaker {
    /// The playout, for a moment.
    pub fn lock(&self) -> MutexGuard<'_, Playout> {
        // Every change is whole before anything that could panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Track for Loudspeaker {
    fn play(&mut self, response: &ResponseId, samples: &[f32]) -> Result<(), Overflow> {
        self.lock().play(response, samples)
    }

    fn end(&mut self, response: &ResponseId) {
        self.lock().end(response);
    }

    fn take_back(&mut self, response: &ResponseId) {
        self.lock().take_back(response);
    }

    fn clear(&mut self) {
        self.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ResponseId {
        ResponseId::from_client(name)
    }

    /// Plays some frames; tells them by their first sample, and the notices.
    fn heard(playout: &mut Playout, frames: usize) -> (Vec<i16>, Vec<String>) {
        let first = |frame: Option<[i16; FRAME]>| frame.map_or(0, |frame| frame[0]);
        let played = (0..frames).map(|_| first(playout.next_frame())).collect();
        let told = playout.take_notices();
        let short = |n: &Value| {
            format!("{} {}", n["type"].as_str().unwrap_or_default(), n["response_id"].as_str().unwrap_or_default())
        };
        (played, told.iter().map(|n| short(n).replace("output_audio_buffer.", "")).collect())
    }

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn phrases_play_in_order_and_their_answers_start_and_stop_once() {
        let mut playout = Playout::default();
        assert_eq!(heard(&mut playout, 1), (vec![0], vec![]));
        playout.play(&id("a"), &[0.5; FRAME + 1]).expect("room");
        assert_eq!(heard(&mut playout, 3), (vec![16_384, 16_384, 0], strings(&["started a"])), "the rest is padded");
        playout.play(&id("a"), &[0.25; FRAME]).expect("room");
        playout.end(&id("a"));
        assert_eq!(heard(&mut playout, 1), (vec![8_192], vec![]), "a pause between phrases is no end");
        assert_eq!(heard(&mut playout, 2), (vec![0, 0], strings(&["stopped a"])));
        playout.play(&id("b"), &[0.5; FRAME]).expect("room");
        playout.end(&id("b"));
        playout.play(&id("c"), &[0.25; FRAME]).expect("room");
        let told = strings(&["started b", "stopped b", "started c"]);
        assert_eq!(heard(&mut playout, 2), (vec![16_384, 8_192], told));
    }

    #[test]
    fn what_is_cleared_is_never_heard() {
        let mut playout = Playout::default();
        playout.play(&id("a"), &[0.5; 10 * FRAME]).expect("room");
        playout.end(&id("a"));
        heard(&mut playout, 2);
        playout.play(&id("b"), &[0.25; FRAME]).expect("room");
        playout.take_back(&id("b"));
        assert_eq!(heard(&mut playout, 1), (vec![16_384], vec![]), "nothing of it had been played");
        playout.clear();
        assert_eq!(heard(&mut playout, 2), (vec![0, 0], strings(&["cleared a"])));
        playout.end(&id("a"));
        playout.clear();
        assert_eq!(heard(&mut playout, 2), (vec![0, 0], vec![]), "nothing is told twice");
        assert!(playout.ended.is_empty());
    }

    #[test]
    fn there_is_a_most() {
        let mut playout = Playout::default();
        playout.play(&id("a"), &vec![0.0; AUDIO_MAX]).expect("room");
        assert_eq!(playout.play(&id("a"), &[0.0]), Err(Overflow));
    }
}
