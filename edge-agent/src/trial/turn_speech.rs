//! The models of a turn that is on the candidates' side.
//!
//! FAILURE LADDER: what a candidate fails to do is done again by the live model, and the turn counts as failed on the candidate. An answer of which the
//! caller may have heard the beginning is not begun again; it fails as it would on a live model. A candidate that was freed meanwhile, because the
//! trial is over, is a candidate that fails.

use super::{TRIED, TriedTurn};
use crate::speech::{BoxFuture, ChatMessage, Pieces, Speech, SpeechError, Transcript, VadSlot, Wish, WordTime};
use nearfield_shared::artefact::Stage;
use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

pub(super) struct TurnSpeech {
    candidate: Arc<dyn Speech>,
    live: Arc<dyn Speech>,
    turn: Arc<TriedTurn>,
}

impl TurnSpeech {
    pub fn new(candidate: Arc<dyn Speech>, live: Arc<dyn Speech>, turn: Arc<TriedTurn>) -> Self {
        Self { candidate, live, turn }
    }

    fn is_tried(&self, stage: Stage) -> bool {
        TRIED.contains(&stage) && self.turn.candidate(stage).is_some()
    }

    /// Does work of a stage on the candidate, and again on the live model where that is the candidate's failure.
    async fn ladder<'a, T>(
        &'a self,
        stage: Stage,
        mut on: impl FnMut(&'a Arc<dyn Speech>) -> BoxFuture<'a, Result<T, SpeechError>>,
    ) -> Result<T, SpeechError> {
        if !self.is_tried(stage) {
            return on(&self.live).await;
        }
        match on(&self.candidate).await {
            Err(error) if is_own_failure(&error) => {
                note(&self.turn, stage, &error);
                on(&self.live).await
            }
            done => done,
        }
    }
}

/// Whether an error is the model's: one that is busy, or whose caller has left, has not failed.
fn is_own_failure(error: &SpeechError) -> bool {
    !matches!(error, SpeechError::Overloaded { .. } | SpeechError::Cancelled)
}

fn note(turn: &TriedTurn, stage: Stage, error: &SpeechError) {
    tracing::warn!(%stage, code = error.code(), "a candidate failed in a turn; the live model goes on with it");
    turn.fall_back();
}

impl Speech for TurnSpeech {
    fn due(self: Arc<Self>, by: Instant) -> Arc<dyn Speech> {
        let [candidate, live] = [&self.candidate, &self.live].map(|speech| Arc::clone(speech).due(by));
        Arc::new(Self { candidate, live, turn: Arc::clone(&self.turn) })
    }

    fn backlog(&self) -> Duration {
        self.live.backlog()
    }

    fn admit(&self) -> Result<Box<dyn Any + Send>, SpeechError> {
        self.live.admit()
    }

    fn visit(&self) -> Result<Box<dyn Any + Send>, SpeechError> {
        self.live.visit()
    }

    fn open_vad(&self) -> Result<Box<dyn VadSlot>, SpeechError> {
        self.live.open_vad()
    }

    fn turn_probability(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<f32, SpeechError>> {
        Box::pin(self.ladder(Stage::Turn, move |speech| speech.turn_probability(audio.clone())))
    }

    fn transcribe(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<String, SpeechError>> {
        Box::pin(self.ladder(Stage::Asr, move |speech| speech.transcribe(audio.clone())))
    }

    fn transcribe_timed(&self, audio: Vec<f32>) -> BoxFuture<'_, Result<(String, Vec<WordTime>), SpeechError>> {
        Box::pin(self.ladder(Stage::Asr, move |speech| speech.transcribe_timed(audio.clone())))
    }

    fn transcribe_after(&self, audio: Vec<f32>, draft: Transcript) -> BoxFuture<'_, Result<Transcript, SpeechError>> {
        self.transcribe_with(audio, draft, Arc::default())
    }

    fn transcribe_with(
        &self,
        audio: Vec<f32>,
        draft: Transcript,
        words: Arc<[String]>,
    ) -> BoxFuture<'_, Result<Transcript, SpeechError>> {
        // Tokens of one model mean nothing to the other; a wrong draft costs time and no word, so the live model may get it.
        Box::pin(
            self.ladder(Stage::Asr, move |speech| {
                speech.transcribe_with(audio.clone(), draft.clone(), Arc::clone(&words))
            }),
        )
    }

    fn generate(&self, messages: Vec<ChatMessage>, tokens_max: usize) -> Result<Pieces, SpeechError> {
        self.generate_as(messages, tokens_max, Wish::default())
    }

    fn generate_as(&self, messages: Vec<ChatMessage>, tokens_max: usize, wish: Wish) -> Result<Pieces, SpeechError> {
        if !self.is_tried(Stage::Llm) {
            return self.live.generate_as(messages, tokens_max, wish);
        }
        let (live, turn) = (Arc::clone(&self.live), Arc::clone(&self.turn));
        match self.candidate.generate_as(messages.clone(), tokens_max, wish.clone()) {
            Ok(pieces) => Ok(pieces.or_else(move |error, begun| {
                if !is_own_failure(error) {
                    return None;
                }
                note(&turn, Stage::Llm, error);
                (!begun).then(|| live.generate_as(messages, tokens_max, wish))
            })),
            Err(error) if is_own_failure(&error) => {
                note(&turn, Stage::Llm, &error);
                live.generate_as(messages, tokens_max, wish)
            }
            Err(error) => Err(error),
        }
    }

    fn speak(&self, phrase: String, speed: f32) -> BoxFuture<'_, Result<Vec<f32>, SpeechError>> {
        Box::pin(self.ladder(Stage::Tts, move |speech| speech.speak(phrase.clone(), speed)))
    }

    fn embed(&self, texts: Vec<String>) -> BoxFuture<'_, Result<Vec<Vec<f32>>, SpeechError>> {
        self.live.embed(texts)
    }
}
