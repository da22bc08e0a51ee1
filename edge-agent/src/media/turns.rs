//! Which models the turns of a call are on, while candidates are tried: drawn once at a turn's beginning, and kept for all of it, for what is begun ahead
//! and for its answers.
//!
//! A turn begins with what the caller says, or with an item that a client puts in the caller's mouth. What is said before the first one (the greeting)
//! is the live models'.

use crate::{
    node::Services,
    speech::Speech,
    trial::{Trials, TriedTurn},
};
use nearfield_dialogue::{
    events::{Ended, Event, Status},
    history::Role,
    ids::{ItemId, ResponseId},
    ledger::AnsweredBy,
};
use std::{collections::VecDeque, sync::Arc};
use uuid::Uuid;

/// Turns, and answers, of which is known what they are on. A call has one or two of each at work, and four answers may wait.
const KNOWN_MAX: usize = 16;

/// The turns of one call.
pub(super) struct Turns {
    live: Arc<dyn Speech>,
    trials: Trials,
    call: Uuid,
    begun: u64,
    items: Known<ItemId>,
    answers: Known<ResponseId>,
}

/// The models of one turn.
#[derive(Clone)]
pub(super) struct On {
    /// The models.
    pub speech: Arc<dyn Speech>,
    /// The turn, where candidates were tried when it began.
    pub tried: Option<Arc<TriedTurn>>,
}

/// The latest of something, and the turns that they belong to.
struct Known<K>(VecDeque<(K, Option<Arc<TriedTurn>>)>);

impl<K: PartialEq> Known<K> {
    fn get(&self, key: &K) -> Option<&Option<Arc<TriedTurn>>> {
        self.0.iter().rev().find(|(known, _)| known == key).map(|(_, turn)| turn)
    }

    fn add(&mut self, key: K, turn: Option<Arc<TriedTurn>>) {
        if self.0.len() == KNOWN_MAX {
            self.0.pop_front();
        }
        self.0.push_back((key, turn));
    }
}

impl Turns {
    /// No turn yet.
    pub fn new(services: &Services, call: Uuid) -> Self {
        Self {
            live: Arc::clone(&services.speech),
            trials: services.trials.clone(),
            call,
            begun: 0,
            items: Known(VecDeque::new()),
            answers: Known(VecDeque::new()),
        }
    }

    /// The models that serve, for what belongs to no turn.
    pub fn live(&self) -> &Arc<dyn Speech> {
        &self.live
    }

    /// Follows the conversation: turns begin, answers end and are counted.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::SpeechStarted { item, .. } => self.begin(item),
            Event::ItemAdded { item, .. } if item.role == Role::User => self.begin(&item.id),
            Event::ResponseEnded(ended) => self.ended(ended),
            _ => {}
        }
    }

    /// What the latest turn is on.
    pub fn latest(&self) -> On {
        self.on(self.items.0.back().and_then(|(_, turn)| turn.clone()))
    }

    /// What the turn is on that becomes this item.
    pub fn of_item(&mut self, item: &ItemId) -> On {
        self.begin(item);
        self.on(self.items.get(item).cloned().flatten())
    }

    /// What an answer is on: what the turn is on that was the latest when its work began.
    pub fn of_answer(&mut self, response: &ResponseId) -> On {
        if self.answers.get(response).is_none() {
            self.answers.add(response.clone(), self.latest().tried);
        }
        self.on(self.answers.get(response).cloned().flatten())
    }

    fn begin(&mut self, item: &ItemId) {
        if self.items.get(item).is_none() {
            self.begun += 1;
            self.items.add(item.clone(), self.trials.turn(self.call, self.begun));
        }
    }

    fn ended(&mut self, ended: &Ended) {
        // It ends a turn that was counted when it was interrupted.
        if ended.about.goes_on_with.is_some() {
            return;
        }
        let by = ended.ledger.answered_by;
        let own = matches!(by, Some(AnsweredBy::Notice | AnsweredBy::Language));
        // What a client wants beside the conversation stands back, so neither its times nor its end say anything of a model.
        if !ended.about.in_conversation && !own {
            return;
        }
        let Some(tried) = self.of_answer(&ended.about.response).tried else { return };
        let failed = matches!(ended.status, Status::Failed(_));
        if failed || by.is_some_and(AnsweredBy::is_about_question) {
            // What is answered word for word may be there already, with one voice and not with the other.
            let timed = ended.ledger.commit_to_first_audio_ms.filter(|_| by == Some(AnsweredBy::Model));
            tried.ended(failed, timed);
        }
    }

    fn on(&self, tried: Option<Arc<TriedTurn>>) -> On {
        let speech = tried.as_ref().map_or_else(|| Arc::clone(&self.live), |tried| tried.speech(&self.live));
        On { speech, tried }
    }
}
