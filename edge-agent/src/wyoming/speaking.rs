//! Text that a client wants to hear.

use super::{Answers, event::Event, refused};
use crate::{
    media::codec,
    node::Services,
    refusal::Refusal,
    rest::{INPUT_CHARS_MAX, Visit, outlet::Ended, transcriptions::check_language},
    speech::SPOKEN_HZ,
};
use nearfield_dialogue::phrases::Phraser;
use nearfield_shared::artefact::Stage;
use serde_json::{Value, json};

/// Samples of one `audio-chunk`: a tenth of a second.
const CHUNK_SAMPLES: usize = SPOKEN_HZ as usize / 10;

/// Speaks a text that came as a whole.
pub async fn speak(services: &Services, answers: &Answers, event: &Event) -> Result<(), Ended> {
    let mut text = Text::begin(services, answers, event)?;
    text.push(event).await?;
    text.finish().await
}

/// A text while it comes. Each phrase is spoken when it is complete.
pub struct Text {
    visit: Visit,
    answers: Answers,
    phraser: Phraser,
    chars: usize,
    /// Samples that were sent; `None` before `audio-start`.
    sent: Option<u64>,
}

impl Text {
    /// Takes a place at the voice; `event` says how the text is to be spoken. Any name means this node's voice.
    pub fn begin(services: &Services, answers: &Answers, event: &Event) -> Result<Self, Ended> {
        if event.text("text_format").is_some_and(|format| format != "text") {
            return Err(refused("unsupported_format", "this node speaks plain text; leave `text_format` out"));
        }
        let language = event.data.get("voice").and_then(|voice| voice.get("language")).and_then(Value::as_str);
        if language.is_some_and(|language| check_language(language).is_err()) {
            return Err(refused("unsupported_language", "this node's voice speaks English; ask for `en`"));
        }
        let visit = Visit::enter(services, Stage::Tts)?;
        Ok(Self { visit, answers: answers.clone(), phraser: Phraser::new(), chars: 0, sent: None })
    }

    /// Takes more text, and speaks the phrases that are complete with it.
    pub async fn push(&mut self, event: &Event) -> Result<(), Ended> {
        let Some(text) = event.text("text") else {
            return Err(refused("invalid_value", "`text` is missing: the words that are to be spoken"));
        };
        self.chars += text.chars().count();
        if self.chars > INPUT_CHARS_MAX {
            let message = format!("a text has {INPUT_CHARS_MAX} characters at most; cut it into several requests");
            return Err(refused("text_too_long", message));
        }
        for phrase in self.phraser.push(text) {
            self.speak(&phrase).await?;
        }
        Ok(())
    }

    /// The end of the text: speaks the rest.
    pub async fn finish(mut self) -> Result<(), Ended> {
        for phrase in self.phraser.finish() {
            self.speak(&phrase).await?;
        }
        // Nothing to be spoken is a stream without audio.
        self.start().await?;
        let stop = self.event("audio-stop", Vec::new());
        Ok(self.answers.tell(&stop).await?)
    }

    async fn speak(&mut self, phrase: &str) -> Result<(), Ended> {
        let samples = {
            let _turn = self.visit.place.turn().await;
            self.visit.speak(phrase, 1.0).await.map_err(Refusal::from)?
        };
        self.start().await?;
        for chunk in samples.chunks(CHUNK_SAMPLES) {
            let event = self.event("audio-chunk", codec::Format::Pcm.encode(chunk));
            self.answers.tell(&event).await?;
            self.sent = self.sent.map(|sent| sent + chunk.len() as u64);
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<(), Ended> {
        if self.sent.is_none() {
            self.sent = Some(0);
            let event = self.event("audio-start", Vec::new());
            self.answers.tell(&event).await?;
        }
        Ok(())
    }

    fn event(&self, kind: &str, audio: Vec<u8>) -> Event {
        let timestamp_ms = self.sent.unwrap_or(0) * 1_000 / u64::from(SPOKEN_HZ);
        let data = json!({ "rate": SPOKEN_HZ, "width": 2, "channels": 1, "timestamp": timestamp_ms });
        Event::new(kind, data).with(audio)
    }
}
