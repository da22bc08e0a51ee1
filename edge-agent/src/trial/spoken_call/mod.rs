//! A call that a node makes to its own models: a sentence is spoken by the voice, heard by the detector, ended by the turn model, read back by the
//! recogniser, answered by the language model, and the answer is spoken. Nobody's words are in it.
//!
//! Golden results prove each model alone; this proves that they fit together on this device. Where stages are missing, the call is made of what is there; without
//! a voice nothing can be heard, and the language model alone is asked.
//!
//! It is done in the pauses of live work. The downside: one voice says one sentence, in English, so this finds what is broken and not what is worse.

pub mod judge;

use crate::{
    assistants::{phrases, unhurried},
    media::{jobs::patiently, resample::resample},
    speech::{ChatMessage, HEARD_HZ, SPOKEN_HZ, Speech, SpeechError},
};
use judge::{Trouble, TroubleKind};
use nearfield_dialogue::{
    listen::{Listener, Noticed},
    settings::{EndOfTurn, TurnDetection},
};
use nearfield_shared::artefact::Stage;
use std::{
    collections::BTreeSet,
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

/// What is said. One clause, so that no pause in it could end the turn, and common words only.
pub const SENTENCE: &str = "I would like to know when your shop is open on Saturday";

/// What the language model is told it is.
const INSTRUCTIONS: &str = "You answer the telephone of a shop. Answer in one short spoken sentence.";

/// Tokens of the answer: enough for some words, and for the time of one.
pub const ANSWER_TOKENS: usize = 24;

/// Silence before the sentence, for the detector to begin with, and behind it, in milliseconds. The latter is longer than what ends a turn.
const SILENCE_MS: (u32, u32) = (320, 2_560);

/// Silence that ends the turn whatever the turn model says, in milliseconds; as in calls.
const TURN_ENDS_MS: u32 = 2_000;

/// The longest that a step may take. It takes some hundred milliseconds on two cores, and seconds where live calls go first; a model that takes
/// a minute does not answer.
const STEP_MAX: Duration = Duration::from_secs(60);

/// What a call came to that went well.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// How long its steps took together. Of the answer, the time of a token counts for [`ANSWER_TOKENS`] of them, because models that answer in few words
    /// are not quicker; speaking the answer does not count, because every model's is another.
    pub took: Duration,
    /// Whether the turn model said that the caller had finished; `None` where it was not asked.
    pub finished: Option<bool>,
}

/// Makes a call to the models of these stages.
pub async fn place(speech: &Arc<dyn Speech>, stages: &BTreeSet<Stage>) -> Result<Outcome, Trouble> {
    let mut call = Call { speech, took: Duration::ZERO, finished: None };
    let has = |stage: Stage| stages.contains(&stage);
    let mut heard = SENTENCE.to_owned();
    if has(Stage::Tts) {
        let audio = call.says(SENTENCE).await?;
        let audio = heard_from(&audio).map_err(|what| Trouble::new(Stage::Tts, what))?;
        let turn = if has(Stage::Vad) { call.listens(&audio, has(Stage::Turn)).await? } else { audio };
        if has(Stage::Turn) && !has(Stage::Vad) {
            let probability = call.asks_turn(&turn).await?;
            call.finished = Some(probability >= judge::FINISHED);
        }
        if has(Stage::Asr) {
            heard = call.reads_back(turn).await?;
        }
    }
    if has(Stage::Embed) {
        call.compares(&heard).await?;
    }
    if has(Stage::Llm) {
        let answer = call.answers(heard).await?;
        let first = phrases(&answer).into_iter().next().filter(|phrase| phrase.chars().any(char::is_alphanumeric));
        if let Some(first) = first.filter(|_| has(Stage::Tts)) {
            let took = call.took;
            call.says(&first).await?;
            call.took = took;
        }
    }
    Ok(Outcome { took: call.took, finished: call.finished })
}

/// The sentence between silences, as a caller's audio comes in.
fn heard_from(spoken: &[f32]) -> Result<Vec<f32>, String> {
    let silence = |ms: u32| vec![0.0; (ms * HEARD_HZ / 1_000) as usize];
    let heard = resample(spoken, SPOKEN_HZ, HEARD_HZ).map_err(|e| e.to_string())?;
    Ok([silence(SILENCE_MS.0), heard, silence(SILENCE_MS.1)].concat())
}

struct Call<'a> {
    speech: &'a Arc<dyn Speech>,
    took: Duration,
    finished: Option<bool>,
}

impl Call<'_> {
    /// Does one step, in the pauses of live work, and counts its time. A model that is busy is asked again.
    async fn step<T, F>(&mut self, stage: Stage, mut attempt: impl FnMut(Arc<dyn Speech>) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, SpeechError>>,
    {
        let tried = patiently(|| {
            let begun = Instant::now();
            let work = attempt(unhurried(self.speech));
            async move { Ok((work.await?, begun.elapsed())) }
        });
        match tokio::time::timeout(STEP_MAX, tried).await {
            Ok(Ok((done, took))) => {
                self.took += took;
                Ok(done)
            }
            Ok(Err(error)) => Err(Trouble::failed(stage, &error)),
            Err(_) => Err(Trouble::new(stage, format!("no answer within {} s", STEP_MAX.as_secs()))),
        }
    }

    async fn says(&mut self, phrase: &str) -> Result<Vec<f32>, Trouble> {
        let audio = self.step(Stage::Tts, |speech| async move { speech.speak(phrase.to_owned(), 1.0).await }).await?;
        judge::audio(&audio).map_err(|what| Trouble::new(Stage::Tts, what))?;
        Ok(audio)
    }

    /// What of the audio is turns, by the detector and, where there is one, the turn model.
    async fn listens(&mut self, audio: &[f32], asks_turn: bool) -> Result<Vec<f32>, Trouble> {
        let listening = |speech: Arc<dyn Speech>| async move { speech.open_vad()?.push(audio).await };
        let frames = self.step(Stage::Vad, listening).await?;
        let by = if asks_turn {
            EndOfTurn::Meaning { silence_ms_max: TURN_ENDS_MS }
        } else {
            EndOfTurn::Silence { silence_ms: TURN_ENDS_MS }
        };
        let detection = TurnDetection { by, ..TurnDetection::default() };
        let mut listener = Listener::default();
        let mut turns: Option<(u64, u64)> = None;
        let part = |from: u64, to: u64| audio[from as usize..(to as usize).min(audio.len())].to_vec();
        for probability in frames {
            if !(0.0..=1.0).contains(&probability) {
                return Err(Trouble::new(Stage::Vad, format!("{probability} is no probability")));
            }
            let mut noticed = listener.frame(probability, &detection);
            if let Some(Noticed::Paused { question, range }) = noticed {
                let finished = self.asks_turn(&part(range.start, range.end)).await?;
                self.finished = Some(finished >= judge::FINISHED);
                noticed = listener.verdict(question, finished);
            }
            if let Some(Noticed::Ended { range, .. }) = noticed {
                turns = Some((turns.map_or(range.start, |(from, _)| from), range.end));
            }
        }
        match turns {
            _ if listener.in_turn() => Err(Trouble::new(Stage::Vad, "speech was heard in silence, and no turn ended")),
            None => Err(Trouble::new(Stage::Vad, "no speech was detected in the spoken sentence")),
            Some((from, to)) => Ok(part(from, to)),
        }
    }

    async fn asks_turn(&mut self, audio: &[f32]) -> Result<f32, Trouble> {
        let asking = |speech: Arc<dyn Speech>| async move { speech.turn_probability(audio.to_vec()).await };
        let probability = self.step(Stage::Turn, asking).await?;
        if (0.0..=1.0).contains(&probability) {
            Ok(probability)
        } else {
            Err(Trouble::new(Stage::Turn, format!("{probability} is no probability")))
        }
    }

    async fn reads_back(&mut self, audio: Vec<f32>) -> Result<String, Trouble> {
        let audio = &audio;
        let reading = |speech: Arc<dyn Speech>| async move { speech.transcribe(audio.clone()).await };
        let heard = self.step(Stage::Asr, reading).await?;
        let wrong = judge::words_wrong(SENTENCE, &heard);
        if wrong > judge::WORDS_WRONG_MAX {
            let kind = TroubleKind::Misheard { wrong };
            // Our own sentence, so what was heard may be told.
            return Err(Trouble { stage: Stage::Asr, kind, words: format!("\"{SENTENCE}\" was heard as {heard:?}") });
        }
        Ok(heard)
    }

    async fn compares(&mut self, text: &str) -> Result<(), Trouble> {
        let comparing = |speech: Arc<dyn Speech>| async move { speech.embed(vec![text.to_owned()]).await };
        let vectors = self.step(Stage::Embed, comparing).await?;
        let good = vectors.len() == 1 && !vectors[0].is_empty() && vectors[0].iter().all(|value| value.is_finite());
        if good { Ok(()) } else { Err(Trouble::new(Stage::Embed, "the sentence has no embedding")) }
    }

    async fn answers(&mut self, question: String) -> Result<String, Trouble> {
        let message = |role, content: &str| ChatMessage { role, content: content.to_owned(), is_shared: false };
        let messages = [message("system", INSTRUCTIONS), message("user", &question)];
        let before = self.took;
        let messages = &messages;
        let thinking = |speech: Arc<dyn Speech>| async move {
            let mut pieces = speech.generate(messages.to_vec(), ANSWER_TOKENS)?;
            let (mut answer, mut count) = (String::new(), 0u32);
            while let Some(piece) = pieces.next().await {
                answer.push_str(&piece?);
                count += 1;
            }
            Ok((answer, count))
        };
        let (answer, pieces) = self.step(Stage::Llm, thinking).await?;
        let per_piece = (self.took - before) / pieces.max(1);
        self.took = before + per_piece * ANSWER_TOKENS as u32;
        if answer.chars().any(char::is_alphanumeric) {
            Ok(answer)
        } else {
            Err(Trouble::new(Stage::Llm, "the answer has no words"))
        }
    }
}

#[cfg(test)]
mod tests;
