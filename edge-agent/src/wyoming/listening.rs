//! Audio that a client sends: when somebody speaks in it, and what is said.
//!
//! Words are found in a task beside the detector, so a voice is told while an earlier part is still transcribed.

use super::{Answers, event::Event, info::LANGUAGE, refused};
use crate::{
    media::codec,
    node::Services,
    refusal::Refusal,
    rest::{
        Visit,
        outlet::{Ended, Gone},
        transcriptions::{
            cutter::{BEGINS, FRAME, PAUSE, Part},
            hearing::{Found, Hearing},
            intake::Intake,
        },
    },
    speech::HEARD_HZ,
};
use nearfield_shared::artefact::Stage;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;

/// Parts of speech that wait for the recogniser: of 28 s at most, so two megabytes of each stream.
const PARTS_WAITING_MAX: usize = 2;

/// Channels of a stream.
const CHANNELS_MAX: u32 = 8;

/// Bytes of a sample: 16-bit PCM.
const WIDTH: u32 = 2;

/// One stream of audio.
pub struct Stream {
    format: Format,
    intake: Intake,
    hearing: Hearing,
    telling: Telling,
    _turn: OwnedSemaphorePermit,
}

impl Stream {
    /// Takes the place that a stream needs; `event` tells the format.
    pub async fn begin(services: &Services, answers: &Answers, event: &Event, words: bool) -> Result<Self, Ended> {
        let format = Format::of(event)?;
        let visit = Visit::enter(services, if words { Stage::Asr } else { Stage::Vad })?;
        let turn = visit.place.turn().await;
        let hearing = Hearing::begin(&*visit.speech()).map_err(Refusal::from)?;
        let find =
            if words { Find::Words(Words::begin(visit, answers.clone())) } else { Find::Voices { _visit: visit } };
        let telling = Telling { voice: Voice::from(event.number("timestamp")), answers: answers.clone(), find };
        Ok(Self { format, intake: Intake::default(), hearing, telling, _turn: turn })
    }

    /// Takes an `audio-chunk`.
    pub async fn hear(&mut self, event: &Event) -> Result<(), Ended> {
        if Format::of(event)? != self.format {
            let message = "the format changes in the middle of a stream; send `audio-stop` and `audio-start` between";
            return Err(refused("invalid_audio", message));
        }
        let samples = self.format.samples(&event.payload)?;
        let heard = self.intake.take(&samples, self.format.rate_hz, self.format.channels).map_err(Refusal::from)?;
        let found = self.hearing.hear(heard).await.map_err(Refusal::from)?;
        self.telling.tell(found).await
    }

    /// The end of the stream: tells the rest.
    pub async fn finish(self) -> Result<(), Ended> {
        let Self { mut intake, mut hearing, mut telling, _turn, .. } = self;
        let rest = intake.rest().map_err(Refusal::from)?;
        telling.tell(hearing.hear(rest).await.map_err(Refusal::from)?).await?;
        telling.tell(hearing.finish().await.map_err(Refusal::from)?).await?;
        telling.finish().await
    }
}

/// How samples stand in a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    rate_hz: u32,
    channels: usize,
}

impl Format {
    fn of(event: &Event) -> Result<Self, Ended> {
        let number = |name| event.number(name).and_then(|n| u32::try_from(n).ok());
        match (number("rate"), number("width"), number("channels")) {
            (Some(rate_hz), Some(WIDTH), Some(channels @ 1..=CHANNELS_MAX)) => {
                Ok(Self { rate_hz, channels: channels as usize })
            }
            _ => {
                let message = format!(
                    "audio is 16-bit PCM: `rate` in hertz, `width` {WIDTH}, `channels` 1 to {CHANNELS_MAX}; 16000, 2 and 1 fit best"
                );
                Err(refused("invalid_audio", message))
            }
        }
    }

    fn samples(self, payload: &[u8]) -> Result<Vec<f32>, Ended> {
        if !payload.len().is_multiple_of(WIDTH as usize * self.channels) {
            return Err(refused("invalid_audio", "the payload is no whole number of samples for each channel"));
        }
        codec::Format::Pcm.decode(payload).map_err(|odd| refused("invalid_audio", odd.to_string()))
    }
}

/// What a stream is listened to for.
enum Find {
    Words(Words),
    Voices { _visit: Visit },
}

/// Tells what is found in a stream.
struct Telling {
    voice: Voice,
    answers: Answers,
    find: Find,
}

impl Telling {
    async fn tell(&mut self, Found { frames, parts }: Found) -> Result<(), Ended> {
        for probability in frames {
            let noticed = self.voice.push(probability);
            self.noticed(noticed).await?;
        }
        if let Find::Words(words) = &mut self.find {
            for part in parts {
                words.push(part).await?;
            }
        }
        Ok(())
    }

    async fn noticed(&self, noticed: Option<(&'static str, u64)>) -> Result<(), Gone> {
        match noticed {
            Some((kind, at_ms)) => self.answers.tell(&Event::new(kind, json!({ "timestamp": at_ms }))).await,
            None => Ok(()),
        }
    }

    async fn finish(mut self) -> Result<(), Ended> {
        let noticed = self.voice.finish();
        self.noticed(noticed).await?;
        match self.find {
            Find::Words(words) => words.finish(&self.answers).await,
            Find::Voices { .. } => Ok(()),
        }
    }
}

/// When somebody speaks. Pure: probabilities go in.
#[derive(Debug, Default)]
struct Voice {
    /// When the stream began, as its client counts, in milliseconds.
    began_ms: u64,
    frames: u64,
    /// Frames without speech since the last one with it; `None` while nobody speaks.
    quiet: Option<u64>,
}

impl Voice {
    fn from(began_ms: Option<u64>) -> Self {
        Self { began_ms: began_ms.unwrap_or(0), ..Self::default() }
    }

    /// Takes the probability of the next frame; gives the event that it brings, and its time.
    fn push(&mut self, probability: f32) -> Option<(&'static str, u64)> {
        self.frames += 1;
        match &mut self.quiet {
            None if probability >= BEGINS => {
                self.quiet = Some(0);
                Some(("voice-started", self.ms(self.frames - 1)))
            }
            None => None,
            Some(quiet) if Part::is_speech(probability) => {
                *quiet = 0;
                None
            }
            Some(quiet) => {
                *quiet += 1;
                if *quiet < PAUSE as u64 { None } else { self.finish() }
            }
        }
    }

    /// The stream ends here; gives the end of a voice that was speaking.
    fn finish(&mut self) -> Option<(&'static str, u64)> {
        let quiet = self.quiet.take()?;
        Some(("voice-stopped", self.ms(self.frames - quiet)))
    }

    fn ms(&self, frame: u64) -> u64 {
        self.began_ms.saturating_add(frame * FRAME as u64 * 1_000 / u64::from(HEARD_HZ))
    }
}

/// The words of a stream, found part by part.
struct Words {
    parts: mpsc::Sender<Part>,
    task: AbortOnDropHandle<Result<String, Ended>>,
}

impl Words {
    fn begin(visit: Visit, answers: Answers) -> Self {
        let (parts, mut waiting) = mpsc::channel::<Part>(PARTS_WAITING_MAX);
        let task = tokio::spawn(async move {
            answers.tell(&Event::new("transcript-start", json!({ "language": LANGUAGE }))).await?;
            let mut all = String::new();
            while let Some(part) = waiting.recv().await {
                let Some(text) = visit.words(&part.samples).await.map_err(Refusal::from)? else { continue };
                let piece = if all.is_empty() { text } else { format!(" {text}") };
                all.push_str(&piece);
                answers.tell(&Event::new("transcript-chunk", json!({ "text": piece }))).await?;
            }
            Ok(all)
        });
        Self { parts, task: AbortOnDropHandle::new(task) }
    }

    async fn push(&mut self, part: Part) -> Result<(), Ended> {
        if self.parts.send(part).await.is_ok() {
            return Ok(());
        }
        // The task has ended early, and knows why.
        all(&mut self.task).await.and(Err(Ended::Gone))
    }

    async fn finish(self, answers: &Answers) -> Result<(), Ended> {
        let Self { parts, mut task } = self;
        drop(parts);
        let text = all(&mut task).await?;
        answers.tell(&Event::new("transcript", json!({ "text": text, "language": LANGUAGE }))).await?;
        Ok(answers.tell(&Event::new("transcript-stop", Value::Null)).await?)
    }
}

async fn all(task: &mut AbortOnDropHandle<Result<String, Ended>>) -> Result<String, Ended> {
    task.await.unwrap_or_else(|_| Err(refused("model_failed", "the recogniser failed at this audio; try again")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(runs: &[(usize, f32)]) -> Vec<(&'static str, u64)> {
        let mut voice = Voice::from(Some(1_000));
        let frames = runs.iter().flat_map(|(count, p)| std::iter::repeat_n(*p, *count));
        let mut events: Vec<_> = frames.filter_map(|p| voice.push(p)).collect();
        events.extend(voice.finish());
        events
    }

    #[test]
    fn a_voice_begins_and_ends_where_it_does_and_short_pauses_are_none() {
        assert_eq!(events(&[(50, 0.1), (50, 0.4)]), []);
        assert_eq!(events(&[(10, 0.1), (10, 0.9), (100, 0.1)]), [("voice-started", 1_320), ("voice-stopped", 1_640)]);
        let twice = events(&[(10, 0.9), (15, 0.1), (10, 0.4), (20, 0.1), (5, 0.9)]);
        assert_eq!(
            twice,
            [("voice-started", 1_000), ("voice-stopped", 2_120), ("voice-started", 2_760), ("voice-stopped", 2_920)]
        );
    }
}
