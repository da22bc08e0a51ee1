//! Assistants at work: which known question a caller asks, and the phrases that are always the same, already spoken.
//!
//! Questions are embedded once for each assistant and embedding model, in the background, and at the latest when the
//! first caller asks. Matching is the cosine of unit vectors.

mod cache;
mod prepare;

pub use cache::{PhraseCache, PhraseKey};
pub use prepare::{Assistants, digest, phrases, prepare, unhurried};

use crate::speech::{Speech, SpeechError};
use nearfield_dialogue::events::Found;
use nearfield_shared::assistant::Assistant;
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Cosine at which an answer is near enough to a question to be told to the language model as a fact.
const FACT_COSINE_MIN: f32 = 0.3;

/// Facts told for one question: more would crowd a small model's prompt.
const FACTS_MAX: usize = 2;

/// Ways of asking that one assistant may have; more are ignored with a warning.
const ASKS_MAX: usize = 2_000;

/// Sentences that the engine embeds in one job.
const EMBED_BATCH: usize = 32;

/// What is said at a hand-over where the assistant's file does not say it.
const HAND_OVER_SAY: &str = "One moment please, I will put you through to a colleague.";

/// An assistant with its questions, ready to be compared.
pub struct Desk {
    /// The assistant as its file states it.
    pub assistant: Assistant,
    asks: OnceCell<Vec<Ask>>,
}

struct Ask {
    embedding: Vec<f32>,
    leads_to: LeadsTo,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LeadsTo {
    Question(usize),
    Person,
}

impl Desk {
    /// A desk for an assistant; nothing is embedded yet.
    pub fn new(assistant: Assistant) -> Self {
        Self { assistant, asks: OnceCell::new() }
    }

    /// The texts that this assistant says word for word, the greeting first.
    pub fn fixed_texts(&self) -> Vec<&str> {
        let assistant = &self.assistant;
        let hand_over = (!assistant.hand_over.ask.is_empty()).then(|| self.hand_over_text());
        let answers = assistant.questions.iter().map(|q| q.answer.as_str());
        assistant.greeting.as_deref().into_iter().chain(answers).chain(hand_over).collect()
    }

    /// Embeds the known questions, once.
    pub async fn embed(&self, speech: &Arc<dyn Speech>) -> Result<(), SpeechError> {
        self.asks(speech).await.map(drop)
    }

    /// What this assistant knows about a question.
    pub async fn find(&self, speech: &Arc<dyn Speech>, question: &str) -> Result<Found, SpeechError> {
        let asks = self.asks(speech).await?;
        if asks.is_empty() {
            return Ok(Found::Nothing { facts: Vec::new() });
        }
        // A question of many sentences is compared by its beginning; the model reads no more than that either.
        let question: String = question.chars().take(1_000).collect();
        let embedded = speech.embed(vec![question]).await?;
        let Some(embedding) = embedded.first() else {
            return Err(SpeechError::Model("the embedding model returned nothing".into()));
        };
        Ok(self.nearest(asks, embedding))
    }

    fn nearest(&self, asks: &[Ask], embedding: &[f32]) -> Found {
        let mut by_cosine: Vec<(f32, LeadsTo)> =
            asks.iter().map(|ask| (cosine(&ask.embedding, embedding), ask.leads_to)).collect();
        by_cosine.sort_by(|a, b| b.0.total_cmp(&a.0));
        let answer = |n: usize| self.assistant.questions.get(n).map(|question| question.answer.clone());
        match by_cosine.first() {
            Some((best, LeadsTo::Person)) if *best >= self.assistant.match_threshold => {
                return Found::HandOver(self.hand_over_text().to_owned());
            }
            Some((best, LeadsTo::Question(n))) if *best >= self.assistant.match_threshold => {
                if let Some(answer) = answer(*n) {
                    return Found::Answer(answer);
                }
            }
            _ => {}
        }
        let mut facts: Vec<String> = Vec::new();
        for (_, leads_to) in by_cosine.iter().take_while(|(cosine, _)| *cosine >= FACT_COSINE_MIN) {
            if let LeadsTo::Question(n) = leads_to
                && let Some(fact) = answer(*n)
                && !facts.contains(&fact)
            {
                facts.push(fact);
            }
            if facts.len() == FACTS_MAX {
                break;
            }
        }
        Found::Nothing { facts }
    }

    async fn asks(&self, speech: &Arc<dyn Speech>) -> Result<&Vec<Ask>, SpeechError> {
        self.asks
            .get_or_try_init(|| async {
                let questions = self.assistant.questions.iter().enumerate();
                let questions = questions.flat_map(|(n, q)| q.ask.iter().map(move |ask| (ask, LeadsTo::Question(n))));
                let people = self.assistant.hand_over.ask.iter().map(|ask| (ask, LeadsTo::Person));
                let all: Vec<_> = questions.chain(people).filter(|(ask, _)| !ask.trim().is_empty()).collect();
                if all.len() > ASKS_MAX {
                    tracing::warn!(
                        assistant = self.assistant.name,
                        "only the first {ASKS_MAX} ways of asking are used"
                    );
                }
                let mut asks = Vec::new();
                for batch in all[..all.len().min(ASKS_MAX)].chunks(EMBED_BATCH) {
                    let embedded = speech.embed(batch.iter().map(|(ask, _)| (*ask).clone()).collect()).await?;
                    if embedded.len() != batch.len() {
                        return Err(SpeechError::Model(
                            "the embedding model returned another number of vectors".into(),
                        ));
                    }
                    asks.extend(
                        embedded
                            .into_iter()
                            .zip(batch)
                            .map(|(embedding, (_, leads_to))| Ask { embedding, leads_to: *leads_to }),
                    );
                }
                Ok(asks)
            })
            .await
    }

    fn hand_over_text(&self) -> &str {
        self.assistant.hand_over.say.as_deref().unwrap_or(HAND_OVER_SAY)
    }
}

/// How near two embeddings are: 1 in the same direction; 0 where they are of different models.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return 0.0;
    }
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::assistant::{HandOver, KnownQuestion};

    fn desk() -> Desk {
        let question = |answer: &str| KnownQuestion { ask: vec!["?".into()], answer: answer.into() };
        Desk::new(Assistant {
            name: "a".into(),
            instructions: String::new(),
            greeting: Some("Hello.".into()),
            voice: "heart".into(),
            match_threshold: 0.6,
            questions: vec![question("at nine"), question("in the old town"), question("by card")],
            hand_over: HandOver { ask: vec!["a person".into()], say: None },
        })
    }

    fn check(cosines: &[(f32, LeadsTo)], expect: Found) {
        // One axis for each ask, and one more to make the caller's vector whole.
        let asks: Vec<Ask> = cosines
            .iter()
            .enumerate()
            .map(|(n, (_, leads_to))| {
                let mut embedding = vec![0.0; cosines.len()];
                embedding[n] = 1.0;
                Ask { embedding, leads_to: *leads_to }
            })
            .collect();
        let caller: Vec<f32> = cosines.iter().map(|(cosine, _)| *cosine).collect();
        assert_eq!(desk().nearest(&asks, &caller), expect, "{cosines:?}");
    }

    #[test]
    fn the_nearest_question_answers_from_the_threshold_on() {
        use LeadsTo::{Person, Question};
        let facts = |facts: &[&str]| Found::Nothing { facts: facts.iter().map(|f| (*f).to_owned()).collect() };
        check(&[(0.61, Question(0)), (0.5, Question(1))], Found::Answer("at nine".into()));
        check(&[(0.61, Question(0)), (0.7, Person)], Found::HandOver(HAND_OVER_SAY.into()));
        check(&[(0.59, Question(0)), (0.4, Question(2)), (0.35, Question(1))], facts(&["at nine", "by card"]));
        check(&[(0.5, Question(0)), (0.45, Question(0)), (0.2, Question(1))], facts(&["at nine"]));
        check(&[(0.59, Person), (0.1, Question(1))], facts(&[]));
        check(&[], facts(&[]));
    }

    #[test]
    fn all_that_is_said_word_for_word_is_known_beforehand() {
        assert_eq!(desk().fixed_texts(), ["Hello.", "at nine", "in the old town", "by card", HAND_OVER_SAY]);
    }
}
