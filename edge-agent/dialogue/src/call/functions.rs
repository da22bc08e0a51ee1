//! Functions that this node does itself: the shell is asked, the caller is told to wait, and the answer goes on.
//!
//! Everything that would be answered meanwhile waits for them, because what they return belongs into the answer. Each ends within
//! [`WORK_MAX`](super::WORK_MAX), whatever the shell does.

use super::{Call, Owed, WORK_MAX, answer::Answer};
use crate::{
    events::{Called, Event, Output, Status},
    history::{Content, Item, Role},
    ids::ResponseId,
    ledger::{AnsweredBy, Moments},
    tools::{DoneBy, ToolResult},
};
use nearfield_shared::pii::Pii;
use serde_json::json;
use std::time::Duration;

/// How long a caller hears nothing before they are told that something is being looked up, and how long until they are told again.
const FILLER_AFTER: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(6));

/// Functions that are being done.
#[derive(Debug, Default)]
pub(super) struct Functions {
    /// At most as many as one answer may call: the next answer waits until they are done.
    running: Vec<Running>,
    /// Whether the client does some of the same answer's calls, and asks for the next answer itself.
    client_goes_on: bool,
    filler_due: Duration,
}

#[derive(Debug)]
struct Running {
    called: Called,
    response: ResponseId,
    output_index: usize,
    since: Duration,
}

impl Functions {
    /// Whether none is being done.
    pub fn are_done(&self) -> bool {
        self.running.is_empty()
    }

    /// When the first of them has taken too long.
    pub fn deadline(&self) -> Option<Duration> {
        self.running.iter().map(|running| running.since + WORK_MAX).min()
    }
}

impl Call {
    /// Asks for what this node does of an answer's calls. The first of them is the answer's item number `first`.
    pub(super) fn do_functions(&mut self, now: Duration, response: &ResponseId, first: usize, calls: Vec<Called>) {
        let client_goes_on = calls.iter().any(|called| called.call.by == DoneBy::Client);
        for (output_index, called) in (first..).zip(calls) {
            if called.call.by == DoneBy::Node {
                self.functions.client_goes_on = client_goes_on;
                self.functions.filler_due = self.playback.runs_out(now) + FILLER_AFTER.0;
                self.out.push_back(Output::CallFunction(called.call.clone()));
                let running = Running { called, response: response.clone(), output_index, since: now };
                self.functions.running.push(running);
            }
        }
    }

    /// What a function returned becomes an item; after the last one, the answer goes on.
    pub(super) fn returned(&mut self, now: Duration, call_id: &str, output: Result<Pii<String>, String>) {
        let running = &mut self.functions.running;
        let Some(at) = running.iter().position(|running| running.called.call.call_id == call_id) else { return };
        let Running { called, response, output_index, .. } = running.remove(at);
        let Called { item, previous, call } = called;
        let told = match &output {
            Ok(output) => output.clone(),
            Err(reason) => Pii::new(json!({ "error": reason }).to_string()),
        };
        let result = ToolResult { call_id: call.call_id.clone(), name: call.name.clone(), output: told };
        let id = self.ids.item();
        let content = Content::Returned(result);
        self.history.push(Item { id, role: Role::System, content, complete: true });
        // What it returned comes after whatever was being said.
        self.forget_interrupted();
        self.emit(Event::Returned { response, output_index, item, previous, call, output });
        // Words to wait that were not spoken yet are not needed any more, and would follow what they announce.
        let unsaid = |answer: &&Answer| answer.source == Some(AnsweredBy::Filler) && answer.item.is_none();
        if self.answer.as_ref().filter(unsaid).is_some() {
            self.end_answer(now, Status::Completed);
        }
        if self.functions.are_done() && !self.functions.client_goes_on {
            self.owe(Owed { moments: Moments { owed: now, ..Moments::default() }, fault: None });
        }
    }

    /// When a caller who hears nothing is to be told to wait.
    pub(super) fn filler_at(&self) -> Option<Duration> {
        let silent = self.answer.is_none() && self.interrupted.is_none() && !self.caller_goes_on();
        (self.settings.spoken && silent && !self.functions.are_done()).then_some(self.functions.filler_due)
    }

    pub(super) fn say_filler(&mut self, now: Duration) {
        let words = self.settings.filler.clone();
        self.begin_to_say(now, AnsweredBy::Filler, &words);
        self.functions.filler_due = self.playback.runs_out(now) + FILLER_AFTER.1;
    }

    pub(super) fn give_up_late_functions(&mut self, now: Duration) {
        let is_late = |since: Duration| since + WORK_MAX <= now;
        let late = self.functions.running.iter().filter(|running| is_late(running.since));
        let late: Vec<String> = late.map(|running| running.called.call.call_id.clone()).collect();
        for call_id in late {
            self.returned(now, &call_id, Err("it took too long".into()));
        }
    }
}
