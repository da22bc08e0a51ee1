//! `POST /v1/audio/transcriptions`: the words of a recording.
//!
//! ```text
//! form -> recording (decoded on a thread) -> detector of speech -> cutter -> recogniser, part by part -> words -> shape
//! ```
//!
//! A recording of any length up to [`intake::SECONDS_MAX`] goes through in parts, so memory does not grow with it, and the words of
//! a part can be sent while the next one is heard. `prompt` is taken and has no effect: this recogniser takes no hints. `temperature` may
//! be 0, which is what is done. Times are estimates (see [`words`]).

pub(crate) mod cutter;
pub(crate) mod hearing;
pub mod intake;
pub mod recording;
pub mod upload;
mod words;

use super::{
    Rest, Visit,
    outlet::{EVENTS, Ended, Outlet, streamed},
};
use crate::{
    refusal::Refusal,
    speech::{HEARD_HZ, WordTime},
};
use axum::{
    Json,
    extract::{FromRequest as _, Request, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use cutter::Part;
use hearing::Hearing;
use intake::RecordingError;
use nearfield_shared::artefact::Stage;
use recording::Piece;
use serde_json::{Value, json};
use std::collections::VecDeque;
use tokio::sync::mpsc;
pub(crate) use upload::check_language;
use upload::{Format, Upload};
use words::Word;

/// The language of the recogniser, as `verbose_json` names it.
const LANGUAGE: &str = "english";

impl From<RecordingError> for Refusal {
    fn from(error: RecordingError) -> Self {
        let refusal = Self::new(StatusCode::BAD_REQUEST, "invalid_audio", error.to_string());
        Self { param: Some("file".into()), ..refusal }
    }
}

pub(super) async fn transcribe(State(rest): State<Rest>, request: Request) -> Result<Response, Refusal> {
    // A place first: whoever gets none has sent nothing for nothing.
    let visit = rest.visit(Stage::Asr)?;
    let upload = Upload::from_request(request, &()).await?;
    visit.model(Stage::Asr, &upload.model)?;
    let turn = visit.place.turn().await;
    let Upload { file, extension, format, segments, words, stream, .. } = upload;
    let mut listening = Listening::begin(visit, recording::decode(file, extension), format.has_times() && !stream)?;
    if stream {
        // The first words before the answer begins, so that what cannot be read is refused with a status.
        let first = listening.next().await?;
        return Ok(streamed(EVENTS, |outlet| async move {
            let _turn = turn;
            tell(&outlet, first, listening).await
        }));
    }
    let mut found = Vec::new();
    let mut texts = Vec::new();
    while let Some((part, text, times)) = listening.next().await? {
        found.extend(words::place(&part, &text, &times));
        texts.push(text);
    }
    let heard = Heard { text: texts.join(" "), words: found, seconds: listening.seconds() };
    Ok(heard.show(format, segments, words))
}

async fn tell(outlet: &Outlet, first: Option<Placed>, mut listening: Listening) -> Result<(), Ended> {
    let (mut all, mut next) = (String::new(), first);
    while let Some((_, text, _)) = next {
        let delta = if all.is_empty() { text } else { format!(" {text}") };
        all.push_str(&delta);
        outlet.event(&json!({ "type": "transcript.text.delta", "delta": delta })).await?;
        next = listening.next().await?;
    }
    Ok(outlet.event(&json!({ "type": "transcript.text.done", "text": all })).await?)
}

/// A part of a recording, its words, and their times where they were asked for and are known.
type Placed = (Part, String, Vec<WordTime>);

/// A recording while it is heard.
struct Listening {
    visit: Visit,
    /// Whether times are wanted.
    timed: bool,
    pieces: mpsc::Receiver<Result<Piece, RecordingError>>,
    /// `None` when everything was heard.
    hearing: Option<Hearing>,
    parts: VecDeque<Part>,
    samples: u64,
}

impl Listening {
    fn begin(
        visit: Visit,
        pieces: mpsc::Receiver<Result<Piece, RecordingError>>,
        timed: bool,
    ) -> Result<Self, Refusal> {
        let hearing = Some(Hearing::begin(&*visit.speech())?);
        Ok(Self { visit, timed, pieces, hearing, parts: VecDeque::new(), samples: 0 })
    }

    /// The next part with words in it, and the words.
    async fn next(&mut self) -> Result<Option<Placed>, Refusal> {
        while let Some(part) = self.next_part().await? {
            let found = if self.timed {
                self.visit.timed_words(&part.samples).await?
            } else {
                self.visit.words(&part.samples).await?.map(|text| (text, Vec::new()))
            };
            if let Some((text, times)) = found {
                return Ok(Some((part, text, times)));
            }
        }
        Ok(None)
    }

    async fn next_part(&mut self) -> Result<Option<Part>, Refusal> {
        while self.parts.is_empty()
            && let Some(hearing) = &mut self.hearing
        {
            match self.pieces.recv().await {
                Some(Ok(Piece::Samples(samples))) => {
                    self.samples += samples.len() as u64;
                    self.parts.extend(hearing.hear(samples).await?.parts);
                }
                Some(Ok(Piece::End)) => {
                    if let Some(hearing) = self.hearing.take() {
                        self.parts.extend(hearing.finish().await?.parts);
                    }
                }
                Some(Err(error)) => return Err(error.into()),
                // The thread that decodes ended without a word: the decoder panicked at this recording.
                None => return Err(RecordingError::Unreadable("its decoder gave it up").into()),
            }
        }
        Ok(self.parts.pop_front())
    }

    fn seconds(&self) -> f64 {
        words::seconds(self.samples as f64 / f64::from(HEARD_HZ))
    }
}

/// What was heard in all of a recording.
struct Heard {
    text: String,
    words: Vec<Word>,
    seconds: f64,
}

impl Heard {
    fn show(&self, format: Format, segments: bool, words: bool) -> Response {
        let usage = json!({ "type": "duration", "seconds": self.seconds });
        match format {
            Format::Json => Json(json!({ "text": self.text, "usage": usage })).into_response(),
            Format::Verbose => Json(self.verbose(usage, segments, words)).into_response(),
            Format::Text => plain("text/plain; charset=utf-8", format!("{}\n", self.text)),
            Format::Srt => plain("application/x-subrip; charset=utf-8", words::srt(&words::segments(&self.words))),
            Format::Vtt => plain("text/vtt; charset=utf-8", words::vtt(&words::segments(&self.words))),
        }
    }

    fn verbose(&self, usage: Value, segments: bool, words: bool) -> Value {
        let mut shown = json!({
            "task": "transcribe", "language": LANGUAGE, "duration": self.seconds, "text": self.text, "usage": usage,
        });
        if segments {
            let segments = words::segments(&self.words);
            shown["segments"] = segments.iter().enumerate().map(|(n, s)| words::show_segment(n, s)).collect();
        }
        if words {
            shown["words"] = self.words.iter().map(words::show_word).collect();
        }
        shown
    }
}

fn plain(content_type: &'static str, text: String) -> Response {
    ([(header::CONTENT_TYPE, content_type)], text).into_response()
}
