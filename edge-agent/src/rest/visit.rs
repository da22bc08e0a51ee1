//! Work for somebody who is not in a call: a request over HTTP, a stream of another protocol.

use super::places::Place;
use crate::{
    assistants::unhurried,
    media::jobs::patiently,
    node::{Services, Serving},
    refusal::Refusal,
    speech::{Speech, SpeechError, WordTime},
};
use nearfield_shared::artefact::Stage;
use std::{
    any::Any,
    sync::{Arc, Mutex},
};

/// A request that was let in. Dropping it is the end of the request.
pub(crate) struct Visit {
    /// What this node serves, for all of the request.
    pub serving: Arc<Serving>,
    /// The place in the line of one stage.
    pub place: Place,
    speech: Arc<dyn Speech>,
    // Never locked: a mutex is what makes a value that is only held shareable between threads.
    _inside: Mutex<Box<dyn Any + Send>>,
}

impl Visit {
    /// Lets a request in that works with a stage, or says at once why not.
    pub fn enter(services: &Services, stage: Stage) -> Result<Self, Refusal> {
        if services.calls.is_draining() {
            let message = "this node is going down; ask for another node at /v1/route";
            return Err(Refusal::busy("node_draining", message, 30_000));
        }
        let serving = Arc::clone(&services.serving.borrow());
        if !serving.models.contains_key(&stage) {
            return Err(SpeechError::NoModel(stage).into());
        }
        let place = services.places.enter(stage)?;
        let inside = services.speech.visit()?;
        Ok(Self { serving, place, speech: Arc::clone(&services.speech), _inside: Mutex::new(inside) })
    }

    /// The models, for work that calls go before.
    pub fn speech(&self) -> Arc<dyn Speech> {
        unhurried(&self.speech)
    }

    /// Speaks a phrase: samples at [`crate::speech::SPOKEN_HZ`].
    pub async fn speak(&self, phrase: &str, speed: f32) -> Result<Vec<f32>, SpeechError> {
        patiently(|| {
            let (speech, phrase) = (self.speech(), phrase.to_owned());
            async move { speech.speak(phrase, speed).await }
        })
        .await
    }

    /// The words in a part of a recording; `None` where there are none.
    pub async fn words(&self, samples: &[f32]) -> Result<Option<String>, SpeechError> {
        let heard = patiently(|| {
            let (speech, samples) = (self.speech(), samples.to_vec());
            async move { speech.transcribe(samples).await }
        });
        let text = heard.await?.trim().to_owned();
        Ok(says_something(&text).then_some(text))
    }

    /// As [`Visit::words`], with the times of the words where the model tells them.
    pub async fn timed_words(&self, samples: &[f32]) -> Result<Option<(String, Vec<WordTime>)>, SpeechError> {
        let heard = patiently(|| {
            let (speech, samples) = (self.speech(), samples.to_vec());
            async move { speech.transcribe_timed(samples).await }
        });
        let (text, times) = heard.await?;
        Ok(says_something(&text).then(|| (text.trim().to_owned(), times)))
    }

    /// Checks the `model` of a request for a stage and gives the name of the model that does it. Names of other houses' models mean
    /// the one that is here; one of ours that does something else is a mistake.
    pub fn model(&self, stage: Stage, asked: &str) -> Result<String, Refusal> {
        let other = self.serving.models.iter().find(|(other, model)| **other != stage && model.name == asked);
        if let Some((other, _)) = other {
            let message = format!("`{asked}` is this node's {other} model; this endpoint takes its {stage} model");
            return Err(Refusal::field("model", message));
        }
        Ok(self.serving.models.get(&stage).map_or_else(|| asked.to_owned(), |model| model.name.clone()))
    }
}

/// A full stop is what a recogniser hears in a cough.
fn says_something(text: &str) -> bool {
    text.chars().any(char::is_alphanumeric)
}
