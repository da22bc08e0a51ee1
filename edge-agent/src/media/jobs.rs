//! The work of one call that others do: the models, in tasks that report back to the call's owner.
//!
//! Invariant: dropping [`Jobs`] stops all of it. A task that is stopped drops its future, which stops the engine's job.

mod outward;
mod wanted;

pub use wanted::Wanted;

use super::{
    heard::parts,
    phrase::{KeepIn, Phrase},
    turns::{On, Turns},
};
use crate::{
    assistants::Desk,
    node::Services,
    outbound::Outbound,
    rest::Places,
    speech::{ChatMessage, Pieces, Speech, SpeechError, Transcript, VadSlot},
};
use nearfield_dialogue::{
    events::{Event, Fault, Found, HandOverEnd, Input},
    history::{Message, Role},
    ids::{ItemId, ResponseId},
};
use nearfield_shared::{
    artefact::{Digest, Stage},
    pii::Pii,
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};
use uuid::Uuid;

/// Reports that wait for the owner. A full channel makes the tasks wait, never the owner.
const REPORTS_MAX: usize = 64;

/// How often work is tried again that the models refused for the moment. With the longest waits that is six seconds, which
/// a caller just bears; a call that was admitted should not fail because of a busy moment.
const RETRIES_MAX: u32 = 3;

/// When the words of a turn that still goes on are wanted: before the next ones are asked for.
const PARTIAL_PATIENCE: Duration = Duration::from_millis(320);

/// What a task reports.
pub enum Report {
    /// Something for the conversation.
    Input(Input),
    /// Whoever was told of a hand-over has decided.
    HandOver(HandOverEnd),
    /// The detector is free again.
    Vad {
        /// The slot, given back.
        slot: Box<dyn VadSlot>,
        /// Which beginning of the detector this is about.
        beginning: u32,
        /// The probabilities.
        frames: Result<Vec<f32>, SpeechError>,
    },
}

/// The tasks of one call.
pub struct Jobs {
    turns: Turns,
    outbound: Outbound,
    desk: Arc<Desk>,
    tasks: JoinSet<()>,
    report: mpsc::Sender<Report>,
    answers: HashMap<ResponseId, Vec<(Kind, AbortHandle)>>,
    transcripts: HashMap<ItemId, AbortHandle>,
    /// The latest transcript of the latest turn, from which the next one starts.
    draft: Draft,
    /// What the assistant's callers are likely to say.
    words: Arc<[String]>,
    /// The lines of work that no caller waits for.
    places: Places,
}

type Draft = Arc<Mutex<Option<(ItemId, Transcript)>>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Generating,
    Other,
}

impl Jobs {
    /// No tasks yet, and where they will report.
    pub fn new(services: &Services, desk: Arc<Desk>, call: Uuid) -> (Self, mpsc::Receiver<Report>) {
        let (report, reports) = mpsc::channel(REPORTS_MAX);
        let words = desk.assistant.words.as_slice().into();
        let jobs = Self {
            turns: Turns::new(services, call),
            outbound: services.outbound.clone(),
            desk,
            tasks: JoinSet::new(),
            report,
            answers: HashMap::new(),
            transcripts: HashMap::new(),
            draft: Draft::default(),
            words,
            places: services.places.clone(),
        };
        (jobs, reports)
    }

    /// Follows the conversation, for which models its turns are on.
    pub fn note(&mut self, event: &Event) {
        self.turns.note(event);
    }

    /// The file of the candidate whose voice speaks an answer; `None` where the live voice does.
    pub fn candidate_voice(&mut self, response: &ResponseId) -> Option<Digest> {
        self.turns.of_answer(response).tried?.candidate(Stage::Tts)
    }

    /// Takes a slot of the detector.
    pub fn open_detector(&self) -> Result<Box<dyn VadSlot>, SpeechError> {
        self.turns.live().open_vad()
    }

    /// Feeds the detector.
    pub fn detect(&mut self, mut slot: Box<dyn VadSlot>, samples: Vec<f32>, beginning: u32) -> AbortHandle {
        let report = self.report.clone();
        self.tasks.spawn(async move {
            let frames = slot.push(&samples).await;
            send(&report, Report::Vad { slot, beginning, frames }).await;
        })
    }

    /// Asks the turn model.
    pub fn ask_turn(&mut self, question: u32, audio: Vec<f32>, due: Instant) {
        let (speech, report) = (self.turns.latest().speech.due(due), self.report.clone());
        self.tasks.spawn(async move {
            let probability = match speech.turn_probability(audio).await {
                Ok(probability) => Some(probability),
                Err(error) => {
                    tracing::warn!(%error, "the turn model did not answer; silence alone decides");
                    None
                }
            };
            send(&report, Report::Input(Input::Turn { question, probability })).await;
        });
    }

    /// Finds the words of a turn; of one that still goes on, in the pauses of more urgent work, and only where there are such pauses.
    pub fn transcribe(&mut self, item: ItemId, attempt: u32, audio: Vec<f32>, partial: bool) {
        // The caller waits for everything that comes after the words.
        let patience = if partial { PARTIAL_PATIENCE } else { Duration::ZERO };
        let speech = self.turns.of_item(&item).speech.due(Instant::now() + patience);
        let (report, of) = (self.report.clone(), item.clone());
        let retries_max = if partial { 0 } else { RETRIES_MAX };
        let (drafts, words) = (Arc::clone(&self.draft), Arc::clone(&self.words));
        let task = self.tasks.spawn(async move {
            let boosted = words;
            let mut words = Ok(String::new());
            let parts = parts(&audio);
            let whole = parts.len() == 1;
            for part in parts {
                let draft = draft_of(&drafts, &item).filter(|_| whole).unwrap_or_default();
                let hear = || speech.transcribe_with(part.to_vec(), draft.clone(), Arc::clone(&boosted));
                let heard = persistently(retries_max, hear).await;
                if let Ok(heard) = heard.as_ref()
                    && whole
                {
                    *lock(&drafts) = Some((item.clone(), heard.clone()));
                }
                match (&mut words, heard.map(|heard| heard.text)) {
                    (Ok(words), Ok(more)) => {
                        if !words.is_empty() {
                            words.push(' ');
                        }
                        words.push_str(more.trim());
                    }
                    (_, Err(error)) => {
                        words = Err(error);
                        break;
                    }
                    (Err(_), _) => break,
                }
            }
            let words = words.map(Pii::new).map_err(|error| fault(&error));
            send(&report, Report::Input(Input::Transcript { item, attempt, words })).await;
        });
        if let Some(earlier) = self.transcripts.insert(of, task) {
            earlier.abort();
        }
    }

    /// Compares a question with what the assistant knows.
    pub fn find(&mut self, response: ResponseId, question: Pii<String>, wanted: Wanted) {
        let speech = self.turns.of_answer(&response).speech.due(wanted.due);
        let (desk, report) = (Arc::clone(&self.desk), self.report.clone());
        let (of, place) = (response.clone(), self.place(Stage::Embed, wanted));
        let task = self.tasks.spawn(async move {
            let _place = match place.await {
                Ok(place) => place,
                Err(fault) => return send(&report, Report::Input(Input::Failed { response, fault })).await,
            };
            let found = patiently(|| desk.find(&speech, question.reveal())).await.unwrap_or_else(|error| {
                // FAILURE LADDER: without the comparison the language model answers everything.
                tracing::warn!(%error, "a question could not be compared with the known ones");
                Found::Nothing { facts: Vec::new() }
            });
            send(&report, Report::Input(Input::Matched { response, found })).await;
        });
        self.keep(of, Kind::Other, task);
    }

    /// Thinks of an answer.
    pub fn generate(&mut self, response: ResponseId, prompt: Vec<Message>, tokens_max: usize, wanted: Wanted) {
        let own = self.desk.assistant.instructions.trim();
        let messages: Vec<ChatMessage> = prompt.into_iter().map(|message| chat_message(message, own)).collect();
        let speech = self.turns.of_answer(&response).speech.due(wanted.due);
        let (report, of) = (self.report.clone(), response.clone());
        let place = self.place(Stage::Llm, wanted);
        let task = self.tasks.spawn(async move {
            let _place = match place.await {
                Ok(place) => place,
                Err(fault) => return send(&report, Report::Input(Input::Failed { response, fault })).await,
            };
            // Once a piece is out, beginning again would say it twice.
            let begun = patiently(|| begin(&*speech, messages.clone(), tokens_max)).await;
            let last = match begun {
                Ok(begun) => pump(&report, &response, begun, tokens_max).await,
                Err(error) => Err(error),
            };
            let input = match last {
                Ok(cut_off) => Input::TextDone { response, cut_off },
                Err(error) => Input::Failed { response, fault: fault(&error) },
            };
            send(&report, Report::Input(input)).await;
        });
        self.keep(of, Kind::Generating, task);
    }

    /// Makes audio of a phrase; one that is already kept is there at once.
    pub fn speak(&mut self, of: Phrase, text: Pii<String>, speed: f32, keep: Option<KeepIn>) {
        let Phrase { response, phrase, wanted } = of;
        let On { speech, tried } = self.turns.of_answer(&response);
        let (speech, report, of) = (speech.due(wanted.due), self.report.clone(), response.clone());
        let place = self.place(Stage::Tts, wanted);
        let task = self.tasks.spawn(async move {
            let kept = keep.as_ref().and_then(|keep| keep.get());
            let rendered = match kept {
                Some(audio) => Ok(audio.to_vec()),
                None => match place.await {
                    Ok(_place) => patiently(|| speech.speak(text.reveal().clone(), speed)).await,
                    Err(fault) => return send(&report, Report::Input(Input::Failed { response, fault })).await,
                },
            };
            let input = match rendered {
                Ok(samples) => {
                    // In a turn in which a candidate failed it is not certain whose voice this is.
                    let certain = tried.is_none_or(|tried| !tried.fell_back());
                    if let Some(keep) = keep.filter(|_| certain) {
                        keep.put(&samples);
                    }
                    Input::Rendered { response, phrase, samples }
                }
                Err(error) => Input::Failed { response, fault: fault(&error) },
            };
            send(&report, Report::Input(input)).await;
        });
        self.keep(of, Kind::Other, task);
    }

    /// Stops everything for an answer.
    pub fn cancel(&mut self, response: &ResponseId) {
        self.answers.remove(response).into_iter().flatten().for_each(|(_, task)| task.abort());
    }

    /// Stops the thinking for an answer; what was thought is still spoken.
    pub fn stop_generating(&mut self, response: &ResponseId) {
        let tasks = self.answers.get(response).into_iter().flatten();
        tasks.filter(|(kind, _)| *kind == Kind::Generating).for_each(|(_, task)| task.abort());
    }

    /// Stops everything for an answer but the thinking.
    pub fn hush(&mut self, response: &ResponseId) {
        let tasks = self.answers.get(response).into_iter().flatten();
        tasks.filter(|(kind, _)| *kind != Kind::Generating).for_each(|(_, task)| task.abort());
    }

    /// Stops looking for the words of a turn.
    pub fn give_up(&mut self, item: &ItemId) {
        if let Some(task) = self.transcripts.remove(item) {
            task.abort();
        }
    }

    /// Lets go of what has ended.
    pub fn tidy(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                // The conversation's own deadline ends the answer that waits for it.
                tracing::error!("a task of a call panicked; its answer will time out");
            }
        }
        self.transcripts.retain(|_, task| !task.is_finished());
        self.answers.retain(|_, tasks| {
            tasks.retain(|(_, task)| !task.is_finished());
            !tasks.is_empty()
        });
    }

    fn keep(&mut self, response: ResponseId, kind: Kind, task: AbortHandle) {
        self.answers.entry(response).or_default().push((kind, task));
    }
}

/// Does work again where the models say that this helps: they are busy for a moment, or are being restarted.
pub(crate) async fn patiently<T, F>(attempt: impl FnMut() -> F) -> Result<T, SpeechError>
where
    F: Future<Output = Result<T, SpeechError>>,
{
    persistently(RETRIES_MAX, attempt).await
}

async fn persistently<T, F>(retries_max: u32, mut attempt: impl FnMut() -> F) -> Result<T, SpeechError>
where
    F: Future<Output = Result<T, SpeechError>>,
{
    for _ in 0..retries_max {
        let wait = match attempt().await {
            Err(SpeechError::Overloaded { retry_after_ms }) => Duration::from_millis(retry_after_ms.min(2_000)),
            Err(SpeechError::WorkerDied) => Duration::from_millis(300),
            done => return done,
        };
        tokio::time::sleep(wait.max(Duration::from_millis(20))).await;
    }
    attempt().await
}

/// An answer whose first piece is there, or which is empty.
struct Begun {
    first: Option<String>,
    rest: Pieces,
}

async fn begin(speech: &dyn Speech, messages: Vec<ChatMessage>, tokens_max: usize) -> Result<Begun, SpeechError> {
    let mut rest = speech.generate(messages, tokens_max)?;
    Ok(Begun { first: rest.next().await.transpose()?, rest })
}

/// Passes pieces on; `Ok(true)` where the limit of tokens ended them.
async fn pump(
    report: &mpsc::Sender<Report>,
    response: &ResponseId,
    begun: Begun,
    tokens_max: usize,
) -> Result<bool, SpeechError> {
    let Begun { first, mut rest } = begun;
    let mut next = first.map(Ok);
    let mut count = 0;
    while let Some(piece) = next {
        count += 1;
        let piece = Pii::new(piece?);
        send(report, Report::Input(Input::Text { response: response.clone(), piece })).await;
        next = rest.next().await;
    }
    Ok(count >= tokens_max)
}

/// Every change of a draft is a whole one, so one that a panic left behind is good.
fn lock(draft: &Draft) -> MutexGuard<'_, Option<(ItemId, Transcript)>> {
    draft.lock().unwrap_or_else(PoisonError::into_inner)
}

fn draft_of(draft: &Draft, item: &ItemId) -> Option<Transcript> {
    lock(draft).as_ref().filter(|(of, _)| of == item).map(|(_, draft)| draft.clone())
}

async fn send(report: &mpsc::Sender<Report>, what: Report) {
    // Nobody is left to tell when the call has ended.
    let _ended = report.send(what).await;
}

/// A message as the model takes it. What a client or a caller's question has added to the assistant's `own` instructions belongs to
/// the call.
fn chat_message(message: Message, own: &str) -> ChatMessage {
    let role = match message.role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
    };
    let content = message.text.into_inner();
    let is_shared = message.role == Role::System && content == own;
    ChatMessage { role, content, is_shared }
}

/// An error of the models as the conversation tells it.
pub fn fault(error: &SpeechError) -> Fault {
    Fault { code: error.code().into(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_assistants_own_instructions_outlive_a_call() {
        let shared = |role: Role, text: &str| {
            chat_message(Message { role, text: Pii::new(text.to_owned()) }, "Be brief.").is_shared
        };
        assert!(shared(Role::System, "Be brief."));
        // With what a client has told of its caller, or with facts that tell what was asked.
        assert!(!shared(Role::System, "Be brief.\nThe caller is Ada."));
        assert!(!shared(Role::User, "Be brief.") && !shared(Role::Assistant, "Be brief."));
    }
}
