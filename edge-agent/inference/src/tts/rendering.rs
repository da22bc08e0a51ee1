//! Phrases on their way to becoming sound, and the steps that take several of them further at once.
//!
//! The rows of those that stand at the same place are put below one another, go through the network as one, and are taken apart
//! again. A phrase may join at any step and be dropped at any: the others do not notice.

use super::{FRAMES_MAX, Hibari, Prosody, RenderError, net::Encoded, vocoder::FRAME_VALUES};
use crate::{nn::Share, ops::team};
use std::{collections::BTreeMap, mem, sync::Arc};

/// A phrase on its way to becoming sound. Dropping it is cancelling it.
pub struct Rendering {
    seed: u64,
    stage: Stage,
}

/// Where a phrase stands. Those that stand at the same place can take their next step together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Before the text encoders.
    Text,
    /// Before its durations become frames.
    Prosody,
    /// Before this block of the decoder, or behind the last.
    Decoder(usize),
    /// Before the vocoder.
    Vocoder,
    /// Behind it.
    Done,
}

// A rendering is one of a few at a time, so the size of its largest stage matters less than a pointer to chase.
#[allow(clippy::large_enum_variant)]
enum Stage {
    Text(Text),
    Prosody(Planned),
    Decoder(usize, Framed),
    Vocoder(Voiced),
    Done,
}

struct Text {
    ids: Vec<u32>,
    speed: f32,
}

/// With durations: a row for each phoneme.
struct Planned {
    sound: Share,
    prosody: Share,
    durations: Vec<u32>,
}

/// With pitch: a row for each 12.5 ms.
struct Framed {
    frames: Share,
    durations: Vec<u32>,
    f0: Vec<f32>,
}

struct Voiced {
    /// Of all phrases that were computed together, and where this one's begins.
    spectrum: Arc<Vec<f32>>,
    first: usize,
    f0: Vec<f32>,
}

impl Rendering {
    pub(super) fn new(ids: &[u32], speed: f32, seed: u64) -> Self {
        // Between its pads there is nothing to say.
        let stage = if ids.len() < 3 { Stage::Done } else { Stage::Text(Text { ids: ids.to_vec(), speed }) };
        Self { seed, stage }
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        match &self.stage {
            Stage::Text(_) => Place::Text,
            Stage::Prosody(_) => Place::Prosody,
            Stage::Decoder(block, _) => Place::Decoder(*block),
            Stage::Vocoder(_) => Place::Vocoder,
            Stage::Done => Place::Done,
        }
    }

    /// Rows that its next step goes over: phonemes, then units of 12.5 ms.
    pub fn rows(&self) -> usize {
        match &self.stage {
            Stage::Text(text) => text.ids.len(),
            Stage::Prosody(planned) => 2 * planned.frames(),
            Stage::Decoder(_, framed) => framed.frames.len(),
            Stage::Vocoder(voiced) => voiced.f0.len(),
            Stage::Done => 0,
        }
    }

    /// Durations and pitch, once they are known and as long as the decoder has work.
    pub(super) fn prosody(&mut self) -> Option<Prosody> {
        match &mut self.stage {
            Stage::Decoder(_, framed) => {
                Some(Prosody { durations: mem::take(&mut framed.durations), f0: mem::take(&mut framed.f0) })
            }
            _ => None,
        }
    }
}

impl Planned {
    fn frames(&self) -> usize {
        self.durations.iter().map(|d| *d as usize).fold(0, usize::saturating_add)
    }
}

/// Phrases at one place, and the numbers of those they belong to.
struct Group<T> {
    who: Vec<usize>,
    what: Vec<T>,
}

impl<T> Default for Group<T> {
    fn default() -> Self {
        Self { who: Vec::new(), what: Vec::new() }
    }
}

impl<T> Group<T> {
    fn push(&mut self, who: usize, what: T) {
        self.who.push(who);
        self.what.push(what);
    }
}

impl Hibari {
    /// One step of each, in their order: what [`Hibari::step`] gives. Those that stand at the same place are one batch.
    pub fn step_together(&self, renderings: &mut [&mut Rendering]) -> Vec<Result<Option<Vec<f32>>, RenderError>> {
        let (mut texts, mut planned, mut voiced) = (Group::default(), Group::default(), Group::default());
        let mut framed: BTreeMap<usize, Group<Framed>> = BTreeMap::new();
        let mut found: Vec<_> = renderings.iter().map(|_| Ok(None)).collect();
        for (i, rendering) in renderings.iter_mut().enumerate() {
            match mem::replace(&mut rendering.stage, Stage::Done) {
                Stage::Text(text) => texts.push(i, text),
                Stage::Prosody(one) => planned.push(i, one),
                Stage::Decoder(block, one) => framed.entry(block).or_default().push(i, one),
                Stage::Vocoder(one) => voiced.push(i, one),
                Stage::Done => found[i] = Ok(Some(Vec::new())),
            }
        }
        let mut moved: Vec<(usize, Stage)> = Vec::with_capacity(renderings.len());
        for (i, planned) in texts.who.into_iter().zip(self.plan(texts.what)) {
            match planned {
                Ok(planned) => moved.push((i, Stage::Prosody(planned))),
                Err(error) => found[i] = Err(error),
            }
        }
        let framed_now = self.frame(planned.what).into_iter().map(|framed| Stage::Decoder(0, framed));
        moved.extend(planned.who.into_iter().zip(framed_now));
        for (block, group) in framed {
            let next: Vec<Stage> = if block < self.net.decoder_blocks() {
                self.decode(block, group.what).into_iter().map(|framed| Stage::Decoder(block + 1, framed)).collect()
            } else {
                self.voice(group.what).into_iter().map(Stage::Vocoder).collect()
            };
            moved.extend(group.who.into_iter().zip(next));
        }
        for (i, stage) in moved {
            renderings[i].stage = stage;
        }
        let seeds: Vec<u64> = voiced.who.iter().map(|i| renderings[*i].seed).collect();
        for (i, samples) in voiced.who.into_iter().zip(self.synthesise(&voiced.what, &seeds)) {
            found[i] = Ok(Some(samples));
        }
        found
    }

    /// The text encoders and durations.
    fn plan(&self, texts: Vec<Text>) -> Vec<Result<Planned, RenderError>> {
        if texts.is_empty() {
            return Vec::new();
        }
        let phrases = self.net.spans(texts.iter().map(|text| text.ids.len()));
        let ids: Vec<u32> = texts.iter().flat_map(|text| &text.ids).copied().collect();
        let speeds: Vec<f32> = texts.iter().map(|text| text.speed).collect();
        let encoded = self.net.encode(&ids, &phrases);
        let durations = self.net.durations(&encoded, &speeds, &phrases);
        let sound = Share::divided(encoded.sound, phrases.lengths());
        let prosody = Share::divided(encoded.prosody, phrases.lengths());
        let planned = sound.into_iter().zip(prosody).zip(durations).map(|((sound, prosody), durations)| {
            let planned = Planned { sound, prosody, durations };
            let frames = planned.frames();
            if frames > FRAMES_MAX { Err(RenderError::TooLong { seconds: frames / 40 }) } else { Ok(planned) }
        });
        planned.collect()
    }

    /// Pitch, and what the decoder reads.
    fn frame(&self, planned: Vec<Planned>) -> Vec<Framed> {
        if planned.is_empty() {
            return Vec::new();
        }
        let frames: Vec<usize> = planned.iter().map(Planned::frames).collect();
        let halves: Vec<usize> = frames.iter().map(|frames| 2 * frames).collect();
        let (mut sound, mut prosody, mut durations) = (Vec::new(), Vec::new(), Vec::new());
        for one in planned {
            sound.push(one.sound);
            prosody.push(one.prosody);
            durations.push(one.durations);
        }
        let encoded = Encoded { sound: Share::joined(&sound), prosody: Share::joined(&prosody) };
        let all = durations.concat();
        let (accents, f0) = self.net.prosody(&encoded, &all, &self.net.spans(frames));
        let inputs = self.net.decoder_input(&encoded, accents, &all, &self.net.spans(halves.iter().copied()));
        let mut f0 = f0.into_iter();
        let framed = Share::divided(inputs, &halves).into_iter().zip(durations).map(|(frames, durations)| {
            let f0 = f0.by_ref().take(frames.len()).collect();
            Framed { frames, durations, f0 }
        });
        framed.collect()
    }

    /// A block of the decoder.
    fn decode(&self, block: usize, mut framed: Vec<Framed>) -> Vec<Framed> {
        let frames: Vec<Share> = framed.iter().map(|one| one.frames.clone()).collect();
        let phrases = self.net.spans(frames.iter().map(Share::len));
        let next = self.net.decoder_block(block, Share::joined(&frames), &phrases);
        for (one, frames) in framed.iter_mut().zip(Share::divided(next, phrases.lengths())) {
            one.frames = frames;
        }
        framed
    }

    /// What the vocoder reads.
    fn voice(&self, framed: Vec<Framed>) -> Vec<Voiced> {
        let frames: Vec<Share> = framed.iter().map(|one| one.frames.clone()).collect();
        let spectrum = Arc::new(self.net.spectrum(Share::joined(&frames)));
        let mut end = 0;
        let voiced = framed.into_iter().map(|one| {
            let first = end;
            end += one.frames.len() * FRAME_VALUES;
            Voiced { spectrum: spectrum.clone(), first, f0: one.f0 }
        });
        voiced.collect()
    }

    /// Samples. One phrase is divided among the threads, several are shared out.
    fn synthesise(&self, voiced: &[Voiced], seeds: &[u64]) -> Vec<Vec<f32>> {
        let samples = |i: usize| {
            let one = &voiced[i];
            let own = one.first..one.first + one.f0.len() * FRAME_VALUES;
            self.vocoder.synthesise(&one.spectrum[own], &one.f0, seeds[i])
        };
        team::map(voiced.len(), samples)
    }
}
