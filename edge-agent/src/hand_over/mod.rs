//! A call that is handed to a person: who is told, and what they are told of it.
//!
//! The webhook gets the reason and counts of every hand-over, and what was said only where the region's policy and the caller's consent
//! permit to keep it, with numbers, addresses and names taken out ([`redact`]). It goes to a host of the assistant's own list, signed, and
//! survives the call: a caller who hangs up while it is on its way may be called back.

mod redact;
mod webhook;

pub use redact::redacted;
pub use webhook::{deliver, signature};

use crate::{media::record::said, node::Serving, vault::Speaker};
use nearfield_dialogue::{events::HandOverReason, history::History};
use nearfield_shared::policy::{Request, decide};
use serde_json::{Value, json};
use uuid::Uuid;

/// The latest utterances that a summary holds.
const UTTERANCES_MAX: usize = 12;

/// Characters of each of them.
const UTTERANCE_CHARS_MAX: usize = 240;

/// What is told of a call that is handed over.
pub struct Notice<'a> {
    /// Its own name, by which a receiver knows a second delivery.
    pub id: Uuid,
    /// The call.
    pub call: Uuid,
    /// The node.
    pub node: &'a str,
    /// The assistant.
    pub assistant: &'a str,
    /// Why.
    pub reason: HandOverReason,
    /// Whether the caller agreed to a transcript being kept.
    pub consent: bool,
    /// What was said.
    pub history: &'a History,
}

impl Notice<'_> {
    /// The notice as JSON. `now_unix_s` is the time.
    pub fn show(&self, serving: &Serving, now_unix_s: u64) -> Value {
        let said = said(self.history);
        let by_caller = said.iter().filter(|said| said.speaker == Speaker::Caller).count();
        let permit = decide(serving.policy.as_ref(), &Request::StoreTranscript { consent: self.consent });
        let from = said.len().saturating_sub(UTTERANCES_MAX);
        let summary = permit.as_ref().ok().map(|_| {
            let latest = said[from..].iter();
            latest
                .map(|said| {
                    let text: String = redacted(said.text.reveal()).chars().take(UTTERANCE_CHARS_MAX).collect();
                    json!({ "speaker": said.speaker, "text": text })
                })
                .collect::<Vec<_>>()
        });
        json!({
            "type": "nearfield.hand_over",
            "id": self.id,
            "created_unix_s": now_unix_s,
            "node": self.node,
            "region": serving.region,
            "assistant": self.assistant,
            "call": self.call,
            "reason": self.reason.as_str(),
            "turns": { "caller": by_caller, "assistant": said.len() - by_caller },
            "summary": summary,
            "summary_left_out": permit.err().map(|denial| denial.reason),
        })
    }
}
