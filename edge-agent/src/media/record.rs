//! What is left of a call when it is over: figures for the tally, and a transcript where law and caller allow one.

use crate::{
    node::{Services, Serving},
    vault::{Speaker, Transcript, Utterance},
};
use nearfield_dialogue::{
    events::Event,
    history::{History, Item, Role},
    ledger::AnsweredBy,
    response::Status,
};
use nearfield_shared::{
    desired::Generation,
    pii::Pii,
    policy::{Request, decide},
    report::CallTally,
};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use uuid::Uuid;

/// Figures of one call while it goes on.
#[derive(Debug, Default)]
pub struct Figures {
    tally: CallTally,
}

impl Figures {
    /// Counts what an event says.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::Interrupted { item: Some(_), .. } => self.tally.barge_ins += 1,
            Event::HandedOver { .. } => self.tally.handed_over = 1,
            // It ends a turn that was counted when it was interrupted.
            Event::ResponseEnded(ended) if ended.about.goes_on_with.is_some() => {}
            Event::ResponseEnded(ended) => {
                self.tally.turns_failed += u64::from(matches!(ended.status, Status::Failed(_)));
                self.tally.begun_ahead += u64::from(ended.ledger.begun_ahead_ms.is_some());
                self.tally.wasted_ahead_ms += u64::from(ended.ledger.speculative_waste_ms);
                match ended.ledger.answered_by {
                    Some(AnsweredBy::KnownQuestion | AnsweredBy::ForbiddenTopic | AnsweredBy::HandOver) => {
                        self.tally.turns_from_cache += 1
                    }
                    Some(AnsweredBy::Model) => self.tally.turns_by_model += 1,
                    Some(
                        AnsweredBy::Greeting
                        | AnsweredBy::Unheard
                        | AnsweredBy::Idle
                        | AnsweredBy::Goodbye
                        | AnsweredBy::Filler
                        | AnsweredBy::Language
                        | AnsweredBy::Notice,
                    )
                    | None => {
                        return;
                    }
                }
                // What a client wants beside the conversation stands back, and no caller waits for it.
                if let Some(ms) = ended.ledger.commit_to_first_audio_ms.filter(|_| ended.about.in_conversation) {
                    self.tally.count_first_audio(ms);
                }
            }
            _ => {}
        }
    }

    /// The figures of the whole call. `dropped` says that the caller left before the last answer was complete; `served` are the generations
    /// at its beginning and at its end.
    pub fn of_call(mut self, lasted: Duration, dropped: bool, served: (Generation, Generation)) -> CallTally {
        self.tally.generation = (served.0 == served.1).then_some(served.0);
        self.tally.calls = 1;
        self.tally.dropped = u64::from(dropped);
        self.tally.count_duration(u32::try_from(lasted.as_secs()).unwrap_or(u32::MAX));
        self.tally
    }
}

/// Whether a transcript of this session would be stored now; the reason where not.
pub fn may_store(serving: &Serving, consent: bool) -> Result<(), String> {
    let request = Request::StoreTranscript { consent };
    decide(serving.policy.as_ref(), &request).map(drop).map_err(|denial| denial.reason)
}

/// What was said, as the caller knows it.
pub fn said(history: &History) -> Vec<Utterance> {
    let utterance = |item: &Item| {
        let speaker = match item.role {
            Role::User => Speaker::Caller,
            Role::Assistant => Speaker::Assistant,
            Role::System => return None,
        };
        let text = item.words().filter(|words| !words.trim().is_empty())?;
        Some(Utterance { speaker, text: Pii::new(text) })
    };
    history.items().filter_map(utterance).collect()
}

/// Stores the transcript of a call that is over, if the policy permits it and the caller agreed.
pub async fn store(
    services: &Services,
    serving: &Serving,
    call: Uuid,
    assistant: &str,
    consent: bool,
    history: &History,
) {
    let Ok(permit) = decide(serving.policy.as_ref(), &Request::StoreTranscript { consent }) else { return };
    let said = said(history);
    if said.is_empty() {
        return;
    }
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let transcript = Transcript { call, assistant: assistant.to_owned(), said };
    if let Err(error) = services.vault.store(&permit, transcript, now_s).await {
        tracing::error!(%call, %error, "the transcript of a call was not stored");
    }
}
