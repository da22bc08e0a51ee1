//! One client: what it sends, and what is done about it.

use super::{
    Answers, error,
    event::{Event, Malformed},
    info::{PROGRAM, info},
    listening::Stream,
    refused,
    speaking::{Text, speak},
};
use crate::{
    node::Services,
    rest::{outlet::Ended, transcriptions::check_language},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc;

/// How long a client may send nothing: between requests, and in the middle of one, where it holds a place that others want.
pub const IDLE: (Duration, Duration) = (Duration::from_secs(300), Duration::from_secs(60));

/// The state of one connection.
pub struct Session {
    services: Services,
    answers: Answers,
    /// `transcribe` was sent, and its audio did not begin yet.
    wants_words: bool,
    stream: Option<Stream>,
    text: Option<Text>,
}

impl Session {
    /// A client that has just connected.
    pub fn new(services: Services, answers: Answers) -> Self {
        Self { services, answers, wants_words: false, stream: None, text: None }
    }

    /// Serves the client until it sends no more, or something that cannot be.
    pub async fn run(mut self, mut events: mpsc::Receiver<Result<Event, Malformed>>) {
        loop {
            let is_at_work = self.stream.is_some() || self.text.is_some();
            let idle = if is_at_work { IDLE.1 } else { IDLE.0 };
            let taken = match tokio::time::timeout(idle, events.recv()).await {
                Ok(Some(Ok(event))) => self.take(event).await,
                Ok(Some(Err(malformed))) => Err(refused("malformed_event", malformed.to_string())),
                Ok(None) => return,
                Err(_) => {
                    let text = format!("nothing came for {} s; connect again", idle.as_secs());
                    Err(refused("idle", text))
                }
            };
            match taken {
                Ok(()) => {}
                Err(Ended::Gone) => return,
                Err(Ended::Refused(refusal)) => {
                    // A client that has left needs no reason.
                    let _left = self.answers.tell(&error(refusal.code, &refusal.message)).await;
                    return;
                }
            }
        }
    }

    async fn take(&mut self, event: Event) -> Result<(), Ended> {
        match event.kind.as_str() {
            "describe" => {
                let info = info(&self.services.serving.borrow());
                self.answers.tell(&Event::new("info", info)).await?;
            }
            "ping" => {
                let text = event.data.get("text").filter(|text| text.is_string()).cloned().unwrap_or(Value::Null);
                self.answers.tell(&Event::new("pong", json!({ "text": text }))).await?;
            }
            "select-program" if event.text("name") != Some(PROGRAM) => {
                let message = format!("there is one program here, `{PROGRAM}`; `describe` lists what it does");
                return Err(refused("unknown_program", message));
            }
            "transcribe" => {
                check_language(event.text("language").unwrap_or_default())?;
                self.wants_words = true;
            }
            "audio-start" => self.begin(&event, true).await?,
            "audio-chunk" => {
                if self.stream.is_none() {
                    // Audio that nothing announced is listened to for voices; words are found where they were asked for.
                    let words = self.wants_words;
                    self.begin(&event, words).await?;
                }
                if let Some(stream) = &mut self.stream {
                    stream.hear(&event).await?;
                }
            }
            "audio-stop" => {
                if let Some(stream) = self.stream.take() {
                    stream.finish().await?;
                }
            }
            // Sent besides the pieces, for services that cannot take pieces.
            "synthesize" if self.text.is_some() => {}
            "synthesize" => speak(&self.services, &self.answers, &event).await?,
            "synthesize-start" => self.text = Some(Text::begin(&self.services, &self.answers, &event)?),
            "synthesize-chunk" => {
                if let Some(text) = &mut self.text {
                    text.push(&event).await?;
                }
            }
            "synthesize-stop" => {
                if let Some(text) = self.text.take() {
                    text.finish().await?;
                    self.answers.tell(&Event::new("synthesize-stopped", Value::Null)).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    async fn begin(&mut self, event: &Event, words: bool) -> Result<(), Ended> {
        // A stream that did not end is given up for the next one.
        self.stream = None;
        self.wants_words = false;
        self.stream = Some(Stream::begin(&self.services, &self.answers, event, words).await?);
        Ok(())
    }
}
