//! What a client sends, event by event.

use super::{Line, settings};
use crate::media::{
    client_event::{self, ClientEvent},
    codec::Format,
    outbox::Overflow,
    resample::{Resampler, resample},
    server_event,
    session::{Kind, WireError},
    transport::{Arrived, Goodbye},
};
use crate::speech::HEARD_HZ;
use nearfield_dialogue::{
    Command,
    call::BUFFER_MAX,
    events::{Given, Place, Refusal, Wish},
    ids::ItemId,
};
use nearfield_shared::pii::Pii;
use serde_json::json;
use std::time::{Duration, Instant};

/// The longest audio of one item: that of the longest turn.
const ITEM_AUDIO_MAX: Duration = Duration::from_secs(120);

impl Line {
    /// Takes what arrived; an error is the end of the call.
    pub(super) fn arrived(&mut self, arrived: Arrived) -> Result<Result<(), Overflow>, Option<Goodbye>> {
        if matches!(arrived, Arrived::Event(_) | Arrived::Audio(_)) {
            self.last_event = Instant::now();
        }
        match arrived {
            Arrived::Event(text) => Ok(self.client_event(&text)),
            Arrived::Audio(samples) => Ok(match self.hear(self.now(), &samples) {
                Ok(()) => {
                    self.is_full = false;
                    self.pump()
                }
                // A track goes on for ever, so this is told once.
                Err(_) if std::mem::replace(&mut self.is_full, true) => Ok(()),
                Err(error) => self.refuse(&error, None),
            }),
            Arrived::Tell(event) => Ok(self.send(event)),
            Arrived::Refused(error) => Ok(self.refuse(&error, None)),
            Arrived::Left(goodbye) => Err(goodbye),
        }
    }

    fn client_event(&mut self, text: &str) -> Result<(), Overflow> {
        let (event, event_id) = match client_event::parse(text, self.start.dialect) {
            Ok(parsed) => parsed,
            Err(refused) => return self.refuse(&refused.error, refused.event_id.as_deref()),
        };
        let now = self.now();
        let done = match event {
            ClientEvent::Append(bytes) => self.append(now, &bytes),
            ClientEvent::Update(update) => match self.session.merge(&update) {
                Ok(()) => return self.updated(now),
                Err(error) => Err(error),
            },
            ClientEvent::Retrieve(id) => match self.call.history().get(&id).map(server_event::show_item) {
                Some(item) => return self.send(json!({ "type": "conversation.item.retrieved", "item": item })),
                None => Err(WireError {
                    code: "item_not_found",
                    message: "no item with this id is in the conversation".into(),
                    param: Some("item_id".into()),
                }),
            },
            ClientEvent::Command(Command::CreateResponse(_)) if self.session.kind == Kind::Transcription => {
                Err(WireError {
                    code: "not_in_transcription_session",
                    message: "a transcription session answers nothing; open one of type realtime for answers".into(),
                    param: Some("type".into()),
                })
            }
            ClientEvent::Command(Command::CreateResponse(wish)) => {
                self.greet_at = None;
                self.create_response(now, wish)
            }
            ClientEvent::Command(Command::StopPlayback) => match &mut self.out.track {
                Some(track) => {
                    let done = self.call.command(now, Command::StopPlayback);
                    if done.is_ok() {
                        track.clear();
                    }
                    done.map_err(refusal)
                }
                None => Err(WireError::at(
                    "type",
                    "output_audio_buffer.clear is for WebRTC and SIP; send response.cancel instead",
                )),
            },
            ClientEvent::CreateAudio { id, place, audio } => {
                self.greet_at = None;
                self.create_audio(now, id, place, &audio)
            }
            ClientEvent::Command(command) => {
                self.greet_at = None;
                self.call.command(now, command).map_err(refusal)
            }
        };
        match done {
            Ok(()) => self.pump(),
            Err(error) => self.refuse(&error, event_id.as_deref()),
        }
    }

    fn updated(&mut self, now: Duration) -> Result<(), Overflow> {
        let before = self.call.settings().clone();
        let one_track = self.out.track.is_some();
        let settings = settings(&self.session, &self.start.serving, one_track, before.greeting.clone());
        let listens = (before.turn_detection.is_some(), settings.turn_detection.is_some());
        if self.call.command(now, Command::Update(Box::new(settings))).is_err() {
            unreachable!("an update is never refused");
        }
        self.to_heard = resampler(self.session.input);
        if listens == (false, true) {
            // The detector starts again from here: what it missed would confuse its memory.
            self.ear.restart();
        }
        let shown = self.show_session();
        self.send(json!({ "type": "session.updated", "session": shown }))?;
        self.tell_language()?;
        self.greet()?;
        self.pump()
    }

    pub(super) fn greet(&mut self) -> Result<(), Overflow> {
        if self.greet_at.take().is_some() {
            self.call.greet(self.now());
        }
        self.pump()
    }

    fn create_response(&mut self, now: Duration, wish: Box<Wish>) -> Result<(), WireError> {
        let mut voice = self.session.voice.clone();
        if let Some(name) = wish.voice.as_deref().filter(|_| !wish.out_of_band) {
            voice.choose(name, || "response.audio.output.voice".into())?;
        }
        self.call.command(now, Command::CreateResponse(wish)).map_err(refusal)?;
        self.session.voice = voice;
        Ok(())
    }

    fn create_audio(
        &mut self,
        now: Duration,
        id: Option<ItemId>,
        place: Option<Place>,
        bytes: &[u8],
    ) -> Result<(), WireError> {
        let wrong = |message: String| WireError::at("item.content[0].audio", message);
        let samples = self.session.input.decode(bytes).map_err(|e| wrong(e.to_string()))?;
        let rate_hz = self.session.input.rate_hz();
        let seconds = samples.len() as u64 / u64::from(rate_hz);
        if seconds > ITEM_AUDIO_MAX.as_secs() {
            return Err(wrong(format!(
                "{seconds} s of audio are more than the {} s of one item",
                ITEM_AUDIO_MAX.as_secs()
            )));
        }
        let heard = resample(&samples, rate_hz, HEARD_HZ).map_err(|e| wrong(e.to_string()))?;
        let given = Given::Audio(Pii::new(heard));
        self.call.command(now, Command::CreateItem { id, place, given }).map_err(refusal)
    }

    fn append(&mut self, now: Duration, bytes: &[u8]) -> Result<(), WireError> {
        let samples = self.session.input.decode(bytes).map_err(|e| WireError::at("audio", e.to_string()))?;
        // Looked at before the work of converting: a client can send faster than anybody speaks.
        let seconds = samples.len() as u64 / u64::from(self.session.input.rate_hz());
        if seconds > BUFFER_MAX / 16_000 {
            return Err(WireError {
                code: "input_audio_buffer_full",
                message: format!("{seconds} s of audio in one event are more than the buffer holds; send less at once"),
                param: Some("audio".into()),
            });
        }
        let samples = self.to_heard.push(&samples);
        self.hear(now, &samples)
    }

    /// Takes 16 kHz samples of the caller.
    fn hear(&mut self, now: Duration, samples: &[f32]) -> Result<(), WireError> {
        self.call.hear(now, samples.len() as u64).map_err(refusal)?;
        self.heard.push(samples);
        if self.greet_at.is_some() {
            self.greet_at = Some(Instant::now());
        }
        Ok(())
    }
}

pub(super) fn resampler(from: Format) -> Resampler {
    Resampler::new(from.rate_hz(), crate::speech::HEARD_HZ).expect("the three rates convert to 16 kHz")
}

fn refusal(refusal: Refusal) -> WireError {
    WireError { code: refusal.code, message: refusal.message, param: refusal.param.map(str::to_owned) }
}
