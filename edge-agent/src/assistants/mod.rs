//! Assistants at work: which known question a caller asks, and the phrases that are always the same, already spoken.
//!
//! Questions are embedded once for each assistant and embedding model, in the background, and at the latest when the
//! first caller asks. Matching is the cosine of unit vectors.

mod cache;
mod prepare;

pub use cache::{PhraseCache, PhraseKey};
pub use prepare::{Assistants, digest, phrases, prepare, unhurried};

use crate::speech::{Speech, SpeechError};
use nearfield_dialogue::{
    events::Found,
    settings::{HandingOver, Silence, Transfers},
    tools::{DoneBy, Tool},
};
use nearfield_shared::assistant::{
    Assistant, HttpTool,
    matching::{self, Decision, LeadsTo, cosine},
};
use std::sync::Arc;
use tokio::sync::OnceCell;

/// Sentences that the engine embeds in one job.
const EMBED_BATCH: usize = 32;

/// An assistant with its questions, ready to be compared.
pub struct Desk {
    /// The assistant as its file states it.
    pub assistant: Assistant,
    asks: OnceCell<Vec<Ask>>,
}

struct Ask {
    embedding: Vec<f32>,
    leads_to: LeadsTo,
    text: String,
}

/// The way of asking that a question is nearest to.
#[derive(Debug, Clone, PartialEq)]
pub struct Nearest {
    /// The way of asking.
    pub ask: String,
    /// How near it is; 1 is the same.
    pub cosine: f32,
}

impl Desk {
    /// A desk for an assistant; nothing is embedded yet.
    pub fn new(assistant: Assistant) -> Self {
        Self { assistant, asks: OnceCell::new() }
    }

    /// The texts that this assistant says word for word, the greeting first.
    pub fn fixed_texts(&self) -> Vec<&str> {
        let assistant = &self.assistant;
        let rules = &assistant.hand_over;
        let hand_over = [rules.words(), rules.waiting_words(), rules.accepted_words(), rules.closed_words()];
        let hand_over = hand_over.into_iter().filter(|_| self.hands_over());
        let answers = assistant.questions.iter().map(|q| q.answer.as_str());
        let forbidden = assistant.forbidden.iter().map(|topic| topic.say.as_str());
        let silence = assistant.silence.iter().flat_map(|silence| [silence.ask.as_str(), silence.goodbye.as_str()]);
        let greeting = assistant.greeting.as_deref().into_iter();
        greeting.chain(answers).chain(forbidden).chain(hand_over).chain(silence).collect()
    }

    /// Whether anything leads to a person.
    fn hands_over(&self) -> bool {
        let assistant = &self.assistant;
        let rules = &assistant.hand_over;
        !rules.ask.is_empty()
            || rules.misunderstandings > 0
            || rules.sentiment.is_some()
            || assistant.forbidden.iter().any(|topic| topic.hand_over)
    }

    /// How calls are handed to a person, where anything leads to one.
    pub fn handing_over(&self) -> Option<HandingOver> {
        let rules = &self.assistant.hand_over;
        self.hands_over().then(|| HandingOver {
            words: rules.words().to_owned(),
            misunderstandings: rules.misunderstandings,
            sentiment: rules.sentiment,
            transfers: Transfers::No,
            waiting: rules.waiting_words().to_owned(),
            told_every: rules.told_every(),
            wait: rules.wait(),
            accepted: rules.accepted_words().to_owned(),
            closed: rules.closed_words().to_owned(),
        })
    }

    /// What a caller who says nothing is told, where the assistant says so.
    pub fn silence(&self) -> Option<Silence> {
        let silence = self.assistant.silence.as_ref()?;
        Some(Silence {
            after_ms: silence.after_s.saturating_mul(1_000),
            ask: silence.ask.clone(),
            times: silence.times,
            goodbye: silence.goodbye.clone(),
        })
    }

    /// The functions that this node does for the assistant, as the model is told of them.
    pub fn tools(&self) -> Vec<Tool> {
        let told = |tool: &HttpTool| Tool {
            by: DoneBy::Node,
            name: tool.name.clone(),
            description: tool.description.clone(),
            parameters: tool.parameters.clone(),
        };
        self.assistant.tools.iter().map(told).collect()
    }

    /// Embeds the known questions, once.
    pub async fn embed(&self, speech: &Arc<dyn Speech>) -> Result<(), SpeechError> {
        self.asks(speech).await.map(drop)
    }

    /// What this assistant knows about a question.
    pub async fn find(&self, speech: &Arc<dyn Speech>, question: &str) -> Result<Found, SpeechError> {
        self.compare(speech, question).await.map(|(found, _)| found)
    }

    /// As [`Desk::find`], and the way of asking that comes nearest.
    pub async fn compare(
        &self,
        speech: &Arc<dyn Speech>,
        question: &str,
    ) -> Result<(Found, Option<Nearest>), SpeechError> {
        let asks = self.asks(speech).await?;
        if asks.is_empty() {
            return Ok((Found::Nothing { facts: Vec::new() }, None));
        }
        // A question of many sentences is compared by its beginning; the model reads no more than that either.
        let question: String = question.chars().take(1_000).collect();
        let embedded = speech.embed(vec![question]).await?;
        let Some(embedding) = embedded.first() else {
            return Err(SpeechError::Model("the embedding model returned nothing".into()));
        };
        let cosines: Vec<(f32, LeadsTo)> =
            asks.iter().map(|ask| (cosine(&ask.embedding, embedding), ask.leads_to)).collect();
        let nearest = asks.iter().zip(&cosines).max_by(|(_, a), (_, b)| a.0.total_cmp(&b.0));
        let nearest = nearest.map(|(ask, (cosine, _))| Nearest { ask: ask.text.clone(), cosine: *cosine });
        Ok((self.decide(&cosines), nearest))
    }

    fn decide(&self, cosines: &[(f32, LeadsTo)]) -> Found {
        let assistant = &self.assistant;
        let answer = |n: usize| assistant.questions.get(n).map(|question| question.answer.clone());
        let found = match matching::decide(assistant, cosines) {
            Decision::To(LeadsTo::Person) => Some(Found::HandOver(assistant.hand_over.words().to_owned())),
            Decision::To(LeadsTo::Question(n)) => answer(n).map(Found::Answer),
            Decision::To(LeadsTo::Forbidden(n)) => assistant
                .forbidden
                .get(n)
                .map(|topic| Found::Forbidden { say: topic.say.clone(), hand_over: topic.hand_over }),
            Decision::Model { facts } => Some(Found::Nothing { facts: facts.into_iter().filter_map(answer).collect() }),
        };
        found.unwrap_or(Found::Nothing { facts: Vec::new() })
    }

    async fn asks(&self, speech: &Arc<dyn Speech>) -> Result<&Vec<Ask>, SpeechError> {
        self.asks
            .get_or_try_init(|| async {
                let mut asks = Vec::new();
                for batch in matching::asks(&self.assistant).chunks(EMBED_BATCH) {
                    let texts: Vec<String> = batch.iter().map(|(ask, _)| (*ask).to_owned()).collect();
                    let embedded = speech.embed(texts.clone()).await?;
                    if embedded.len() != batch.len() {
                        return Err(SpeechError::Model(
                            "the embedding model returned another number of vectors".into(),
                        ));
                    }
                    let embedded = embedded.into_iter().zip(texts).zip(batch);
                    asks.extend(embedded.map(|((embedding, text), (_, leads_to))| Ask {
                        embedding,
                        leads_to: *leads_to,
                        text,
                    }));
                }
                Ok(asks)
            })
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::assistant::{ForbiddenTopic, HandOver, KnownQuestion};

    fn desk() -> Desk {
        let question = |answer: &str| KnownQuestion { ask: vec!["?".into()], answer: answer.into() };
        Desk::new(Assistant {
            name: "a".into(),
            instructions: String::new(),
            greeting: Some("Hello.".into()),
            voice: "heart".into(),
            match_threshold: 0.6,
            questions: vec![question("at nine"), question("in the old town"), question("by card")],
            hand_over: HandOver { ask: vec!["a person".into()], ..HandOver::default() },
            forbidden: vec![ForbiddenTopic {
                ask: vec!["a secret".into()],
                say: "I may not say.".into(),
                threshold: None,
                hand_over: true,
            }],
            ..Assistant::default()
        })
    }

    #[test]
    fn what_a_question_leads_to_is_said_in_the_files_words() {
        use LeadsTo::{Forbidden, Person, Question};
        let check =
            |cosines: &[(f32, LeadsTo)], expect: Found| assert_eq!(desk().decide(cosines), expect, "{cosines:?}");
        check(&[(0.61, Question(0)), (0.5, Question(1))], Found::Answer("at nine".into()));
        check(&[(0.61, Question(0)), (0.7, Person)], Found::HandOver(desk().assistant.hand_over.words().into()));
        check(&[(0.7, Forbidden(0))], Found::Forbidden { say: "I may not say.".into(), hand_over: true });
        check(
            &[(0.59, Question(0)), (0.4, Question(2))],
            Found::Nothing { facts: vec!["at nine".into(), "by card".into()] },
        );
    }

    #[test]
    fn all_that_is_said_word_for_word_is_known_beforehand() {
        assert_eq!(
            desk().fixed_texts(),
            [
                "Hello.",
                "at nine",
                "in the old town",
                "by card",
                "I may not say.",
                "One moment please, I will put you through to a colleague.",
                "Thank you for waiting. I am still looking for a colleague.",
                "A colleague takes over now.",
                "I am sorry, nobody is free at the moment. Please try again later.",
            ]
        );
        // Without a way to a person nothing is said about one.
        let alone = Desk::new(Assistant { greeting: Some("Hello.".into()), ..Assistant::default() });
        assert_eq!((alone.fixed_texts(), alone.handing_over()), (vec!["Hello."], None));
    }
}
