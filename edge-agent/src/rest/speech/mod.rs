//! `POST /v1/audio/speech`: a text, spoken.
//!
//! The text is cut into phrases, and each is sent as soon as it is spoken. `voice` may be any name: this node has the voices of its
//! speech model, and names of other houses' voices mean its own. `instructions` are taken and have no effect.

mod encoder;
mod flac;
mod mp3;
mod opus;

use super::{
    Rest, Visit,
    body::{JsonBody, missing},
    outlet::{EVENTS, Gone, Outlet, streamed},
};
use crate::{assistants::phrases, refusal::Refusal};
use axum::{extract::State, http::StatusCode, response::Response};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use encoder::{Encoder, FORMATS};
use nearfield_shared::artefact::Stage;
use serde_json::{Value, json};

/// Characters of a text, as in the OpenAI API.
pub(crate) const INPUT_CHARS_MAX: usize = 4_096;

/// What the voice can: half and twice its own pace.
const SPEED: (f64, f64) = (0.5, 2.0);

pub(super) async fn speak(State(rest): State<Rest>, body: JsonBody) -> Result<Response, Refusal> {
    let input = body.text("input", 4 * INPUT_CHARS_MAX)?;
    let chars = input.chars().count();
    if chars > INPUT_CHARS_MAX {
        let message = format!("`input` has {chars} characters, {INPUT_CHARS_MAX} are the most; cut it into parts");
        return Err(Refusal { code: "string_above_max_length", ..Refusal::field("input", message) });
    }
    let mut phrases = phrases(&input).into_iter();
    let Some(first) = phrases.next() else {
        return Err(Refusal::field("input", "there is nothing to be spoken in `input`; send some words"));
    };
    match body.get("voice") {
        Value::Null => return Err(missing("voice")),
        Value::String(_) | Value::Object(_) => {}
        _ => return Err(Refusal::field("voice", "`voice` is a name; any name means this node's voice")),
    }
    let format = body.one_of("response_format", &FORMATS)?;
    let is_events = body.one_of("stream_format", &[("audio", false), ("sse", true)])?;
    let speed = body.number("speed", SPEED.0, SPEED.1)?.unwrap_or(1.0);
    let asked = body.text("model", 256)?;
    let visit = rest.visit(Stage::Tts)?;
    visit.model(Stage::Tts, &asked)?;
    let turn = visit.place.turn().await;
    // The first phrase before the answer begins, so that a failure has a status.
    let mut voice = Voice { visit, speed, encoder: Some(format.encoder()?), samples: 0 };
    let spoken = voice.speak(first).await?;
    let content_type = if is_events { EVENTS } else { format.content_type() };
    Ok(streamed(content_type, move |outlet| async move {
        let _turn = turn;
        send(&outlet, spoken, is_events).await?;
        for phrase in phrases {
            send(&outlet, voice.speak(phrase).await?, is_events).await?;
        }
        send(&outlet, voice.finish().await?, is_events).await?;
        if is_events {
            // Estimates, as everywhere at this node: a token for four characters, ten for a second of audio.
            let tokens = (chars.div_ceil(4), voice.samples / 2_400);
            let usage =
                json!({ "input_tokens": tokens.0, "output_tokens": tokens.1, "total_tokens": tokens.0 + tokens.1 });
            outlet.event(&json!({ "type": "speech.audio.done", "usage": usage })).await?;
        }
        Ok(())
    }))
}

async fn send(outlet: &Outlet, bytes: Vec<u8>, is_events: bool) -> Result<(), Gone> {
    if !is_events || bytes.is_empty() {
        return outlet.send(bytes).await;
    }
    outlet.event(&json!({ "type": "speech.audio.delta", "audio": STANDARD.encode(bytes) })).await
}

/// A text that is being spoken.
struct Voice {
    visit: Visit,
    speed: f32,
    /// Out while it works.
    encoder: Option<Box<dyn Encoder>>,
    samples: usize,
}

impl Voice {
    async fn speak(&mut self, phrase: String) -> Result<Vec<u8>, Refusal> {
        let samples = self.visit.speak(&phrase, self.speed).await?;
        self.samples += samples.len();
        self.encode(move |encoder| encoder.push(&samples)).await
    }

    async fn finish(&mut self) -> Result<Vec<u8>, Refusal> {
        self.encode(|encoder| encoder.finish()).await
    }

    /// Encodes on a thread for such work: a phrase is some tens of milliseconds of computing.
    async fn encode(
        &mut self,
        work: impl FnOnce(&mut dyn Encoder) -> Result<Vec<u8>, Refusal> + Send + 'static,
    ) -> Result<Vec<u8>, Refusal> {
        let broken = || {
            let message = "the encoder failed at this speech; ask for another `response_format`";
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "encoder_failed", message)
        };
        let mut encoder = self.encoder.take().ok_or_else(broken)?;
        let worked = tokio::task::spawn_blocking(move || {
            let bytes = work(&mut *encoder);
            (encoder, bytes)
        });
        let (encoder, bytes) = worked.await.map_err(|_| broken())?;
        self.encoder = Some(encoder);
        bytes
    }
}
