//! What a question leads to, from how near it is to the ways of asking that an assistant's file names.
//!
//! Nearness is the cosine of two sentence embeddings; who makes them is the caller's. Nodes decide with this in calls, and `control-plane
//! assistant check` tries a file with it before it is applied.

use super::Assistant;

/// Cosine at which an answer is near enough to a question to be told to the language model as a fact.
const FACT_COSINE_MIN: f32 = 0.3;

/// Facts told for one question: more would crowd a small model's prompt.
const FACTS_MAX: usize = 2;

/// Characters of facts that go into a prompt beside the instructions.
const FACTS_CHARS_MAX: usize = 800;

/// Ways of asking that one assistant may have; more are ignored.
pub const ASKS_MAX: usize = 2_000;

/// What a way of asking leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeadsTo {
    /// The answer of the question of this number.
    Question(usize),
    /// A person.
    Person,
    /// The words of the forbidden topic of this number.
    Forbidden(usize),
}

/// What a question leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// A place in the file.
    To(LeadsTo),
    /// The language model, with the answers of these questions as facts, nearest first.
    Model {
        /// Numbers of questions.
        facts: Vec<usize>,
    },
}

/// Every way of asking that the file names, and what it leads to. At most [`ASKS_MAX`].
pub fn asks(assistant: &Assistant) -> Vec<(&str, LeadsTo)> {
    let questions = assistant.questions.iter().enumerate().flat_map(|(n, q)| of(&q.ask, LeadsTo::Question(n)));
    let people = of(&assistant.hand_over.ask, LeadsTo::Person);
    let forbidden = assistant.forbidden.iter().enumerate().flat_map(|(n, f)| of(&f.ask, LeadsTo::Forbidden(n)));
    // Those that must not be missed come first.
    let all = forbidden.chain(people).chain(questions);
    all.filter(|(ask, _)| !ask.trim().is_empty()).take(ASKS_MAX).collect()
}

fn of(asks: &[String], leads_to: LeadsTo) -> impl Iterator<Item = (&str, LeadsTo)> {
    asks.iter().map(move |ask| (ask.as_str(), leads_to))
}

/// Decides, from the cosine with each way of asking.
pub fn decide(assistant: &Assistant, cosines: &[(f32, LeadsTo)]) -> Decision {
    let mut by_cosine = cosines.to_vec();
    by_cosine.sort_by(|a, b| b.0.total_cmp(&a.0));
    let is_meant = |(cosine, leads_to): &&(f32, LeadsTo)| *cosine >= threshold(assistant, *leads_to);
    if let Some((_, leads_to)) = by_cosine.iter().find(is_meant) {
        return Decision::To(*leads_to);
    }
    let mut facts: Vec<usize> = Vec::new();
    for (_, leads_to) in by_cosine.iter().take_while(|(cosine, _)| *cosine >= FACT_COSINE_MIN) {
        let says = |n: usize| assistant.questions.get(n).map(|question| question.answer.as_str());
        if let LeadsTo::Question(n) = *leads_to
            && facts.iter().all(|known| says(*known) != says(n))
        {
            facts.push(n);
        }
        if facts.len() == FACTS_MAX {
            break;
        }
    }
    Decision::Model { facts }
}

/// The least cosine at which what leads there is meant.
pub fn threshold(assistant: &Assistant, leads_to: LeadsTo) -> f32 {
    let own = match leads_to {
        LeadsTo::Forbidden(n) => assistant.forbidden.get(n).and_then(|topic| topic.threshold),
        LeadsTo::Question(_) | LeadsTo::Person => None,
    };
    own.unwrap_or(assistant.match_threshold)
}

/// How near two embeddings are: 1 in the same direction; 0 where they are of different models.
pub fn cosine(a: &[f32], b: &[f32]) -> f32 {
    if a.len() != b.len() {
        return 0.0;
    }
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Instructions with what may be of use for an answer, as far as there is room.
pub fn with_facts(instructions: &str, facts: &[String]) -> String {
    let mut text = instructions.to_owned();
    let mut left = FACTS_CHARS_MAX;
    for (n, fact) in facts.iter().enumerate() {
        let Some(rest) = left.checked_sub(fact.chars().count()) else { break };
        left = rest;
        text.push_str(if n == 0 { "\nFacts you may use:\n- " } else { "\n- " });
        text.push_str(fact);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assistant::{ForbiddenTopic, HandOver, KnownQuestion};
    use LeadsTo::{Forbidden, Person, Question};

    fn desk() -> Assistant {
        let question = |ask: &str, answer: &str| KnownQuestion { ask: vec![ask.into()], answer: answer.into() };
        Assistant {
            match_threshold: 0.6,
            questions: vec![
                question("when", "at nine"),
                question("where", "in the old town"),
                question("how", "by card"),
            ],
            hand_over: HandOver { ask: vec!["a person".into(), " ".into()], ..HandOver::default() },
            forbidden: vec![ForbiddenTopic {
                ask: vec!["shares".into()],
                say: "No.".into(),
                threshold: Some(0.5),
                hand_over: false,
            }],
            ..Assistant::default()
        }
    }

    #[test]
    fn the_nearest_that_reaches_its_threshold_is_meant_and_otherwise_there_are_facts() {
        let check =
            |cosines: &[(f32, LeadsTo)], expect: Decision| assert_eq!(decide(&desk(), cosines), expect, "{cosines:?}");
        let facts = |facts: &[usize]| Decision::Model { facts: facts.to_vec() };
        check(&[(0.61, Question(0)), (0.5, Question(1))], Decision::To(Question(0)));
        check(&[(0.61, Question(0)), (0.7, Person)], Decision::To(Person));
        check(&[(0.59, Question(0)), (0.4, Question(2)), (0.35, Question(1))], facts(&[0, 2]));
        check(&[(0.5, Question(0)), (0.45, Question(0)), (0.2, Question(1))], facts(&[0]));
        check(&[(0.59, Person), (0.1, Question(1))], facts(&[]));
        check(&[(0.55, Forbidden(0)), (0.59, Question(1))], Decision::To(Forbidden(0)));
        check(&[(0.55, Forbidden(0)), (0.7, Question(1))], Decision::To(Question(1)));
        check(&[(0.49, Forbidden(0))], facts(&[]));
        check(&[], facts(&[]));
    }

    #[test]
    fn every_way_of_asking_is_known_and_what_must_not_be_missed_comes_first() {
        let found = [
            ("shares", Forbidden(0)),
            ("a person", Person),
            ("when", Question(0)),
            ("where", Question(1)),
            ("how", Question(2)),
        ];
        assert_eq!(asks(&desk()), found);
        let many = KnownQuestion { ask: vec!["again".into(); ASKS_MAX + 5], answer: "x".into() };
        assert_eq!(asks(&Assistant { questions: vec![many], ..desk() }).len(), ASKS_MAX);
    }

    #[test]
    fn facts_are_told_as_far_as_there_is_room() {
        assert_eq!(with_facts("Be kind.", &[]), "Be kind.");
        let told = with_facts("Be kind.", &["At nine.".into(), "x".repeat(FACTS_CHARS_MAX), "Never.".into()]);
        assert_eq!(told, "Be kind.\nFacts you may use:\n- At nine.");
    }
}
