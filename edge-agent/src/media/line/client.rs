//! What a client sends, event by event.

use super::{Goodbye, Line, TOO_BIG, UNSUPPORTED, bye};
use crate::media::{
    MESSAGE_BYTES_MAX,
    client_event::{self, ClientEvent},
    codec::Format,
    outbox::Overflow,
    resample::Resampler,
    server_event,
    session::{Kind, WireError},
};
use axum::extract::ws::Message;
use nearfield_dialogue::{Command, call::BUFFER_MAX, events::Refusal};
use serde_json::json;
use std::time::{Duration, Instant};

impl Line {
    pub(super) fn frame(
        &mut self,
        frame: Option<Result<Message, axum::Error>>,
    ) -> Result<Result<(), Overflow>, Option<Goodbye>> {
        self.last_frame = Instant::now();
        match frame {
            None => Err(None),
            Some(Err(error)) => Err(self.broken(&error)),
            Some(Ok(Message::Close(_))) => Err(None),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(Ok(())),
            Some(Ok(Message::Binary(_))) => {
                let error = WireError {
                    code: "invalid_message",
                    message: "events are JSON in text messages; send audio as base64 in input_audio_buffer.append"
                        .into(),
                    param: None,
                };
                let told = self.refuse(&error, None);
                if told.is_err() {
                    Ok(told)
                } else {
                    Err(bye(UNSUPPORTED, "binary messages are not part of this protocol"))
                }
            }
            Some(Ok(Message::Text(text))) => {
                self.last_event = self.last_frame;
                Ok(self.client_event(&text))
            }
        }
    }

    /// The protocol itself was broken: say so where the connection still carries words.
    fn broken(&mut self, error: &axum::Error) -> Option<Goodbye> {
        let words = error.to_string();
        tracing::debug!(call = %self.id, %error, "a socket broke");
        if words.contains("too long") || words.contains("too large") || words.contains("Space limit") {
            let message = format!("a message may have {} bytes; send less audio in one event", MESSAGE_BYTES_MAX);
            let error = WireError { code: "message_too_large", message, param: None };
            let _overflow = self.refuse(&error, None);
            return bye(TOO_BIG, "message too large; send less audio in one event");
        }
        None
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
        let settings = self.session.settings(before.greeting.clone());
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
        self.greet()?;
        self.pump()
    }

    pub(super) fn greet(&mut self) -> Result<(), Overflow> {
        if self.greet_at.take().is_some() {
            self.call.greet(self.now());
        }
        self.pump()
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
        self.call.hear(now, samples.len() as u64).map_err(refusal)?;
        self.heard.push(&samples);
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
