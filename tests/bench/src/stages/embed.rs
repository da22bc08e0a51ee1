//! MiniLM beside ONNX Runtime on an int8 export of the same model.

use super::{Material, Row, Verdict, Work};
use crate::{
    measure::{Run, timed},
    peer::{Peer, Timed},
};
use anyhow::Result;
use nearfield_inference::embed::MiniLm;
use serde::Deserialize;
use serde_json::json;

/// The int8 export alone turns sentences this far away from the float model; see the reference figures of the package.
const COSINE_MIN: f32 = 0.97;

/// How the sentences come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Way {
    /// As questions of callers do.
    OneByOne,
    /// As the known questions of an assistant do: theirs in padded batches of like lengths.
    AtOnce,
}

#[derive(Deserialize)]
struct Embeddings {
    embeddings: Vec<Vec<f32>>,
}

pub(super) struct Embed {
    way: Way,
    minilm: MiniLm,
    sentences: Vec<String>,
    ours: Vec<Vec<f32>>,
    theirs: Vec<Vec<f32>>,
}

impl Embed {
    pub fn new(material: &Material, way: Way) -> Result<Self> {
        let minilm = MiniLm::load(&material.gguf("minilm-l6-v2")?, material.device())?;
        Ok(Self { way, minilm, sentences: sentences(), ours: Vec::new(), theirs: Vec::new() })
    }
}

impl Row for Embed {
    fn work(&self) -> Work {
        Work::Sentences(self.sentences.len())
    }

    fn ours(&mut self) -> Result<Run> {
        let texts: Vec<&str> = self.sentences.iter().map(String::as_str).collect();
        let (run, found) = timed(|| match self.way {
            Way::OneByOne => texts.iter().flat_map(|t| self.minilm.embed(&[t])).collect(),
            Way::AtOnce => self.minilm.embed(&texts),
        });
        self.ours = found;
        Ok(run)
    }

    fn theirs(&mut self, peer: &mut Peer) -> Result<Run> {
        let what = if self.way == Way::OneByOne { "embed" } else { "embed_batched" };
        let answer: Timed<Embeddings> = peer.ask(what, json!({ "texts": self.sentences }))?;
        self.theirs = answer.found.embeddings;
        Ok(answer.run.into())
    }

    fn verdict(&self) -> Result<Verdict> {
        let cosines = self.ours.iter().zip(&self.theirs).map(|(a, b)| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>());
        let least = cosines.fold(f32::INFINITY, f32::min);
        let same = self.ours.len() == self.theirs.len() && least >= COSINE_MIN;
        Ok(Verdict { same, said: format!("{} sentences; least cosine {least:.3}", self.ours.len()) })
    }
}

/// Two hundred questions as callers ask them, of 4 to 20 words.
fn sentences() -> Vec<String> {
    const FORMS: [&str; 10] = [
        "Where is {}?",
        "How much does {} cost?",
        "Can you tell me about {}, please?",
        "I would like to change {} that I ordered last week.",
        "Who do I have to talk to about {}?",
        "Is {} open on Saturday afternoon, and do I need an appointment?",
        "My neighbour said that {} has moved, is that right?",
        "Good morning, I am calling because {} did not work for me yesterday evening.",
        "Cancel {}.",
        "If it rains tomorrow, will {} still be there, or should I rather come the day after tomorrow?",
    ];
    const THINGS: [&str; 20] = [
        "the office",
        "my insurance policy",
        "the swimming pool",
        "a single room with a view",
        "the last train to the city",
        "the repair of my washing machine",
        "the dentist",
        "a taxi to the airport",
        "the German course for beginners",
        "the meeting room",
        "my parcel",
        "the guided tour of the castle",
        "the pharmacy",
        "a table for two",
        "the new telephone line",
        "the car park behind the station",
        "my prescription",
        "the blood test",
        "the summer concert",
        "the lost property office",
    ];
    THINGS.iter().flat_map(|thing| FORMS.iter().map(move |form| form.replace("{}", thing))).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_are_two_hundred_different_sentences() {
        let all = super::sentences();
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!((all.len(), different.len()), (200, 200));
    }
}
