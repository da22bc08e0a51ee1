//! What goes into the machine and what comes out of it.

use crate::{
    history::{Item, Message},
    ids::{ItemId, ResponseId},
    keys::Key,
    settings::Settings,
    tools::{Tool, ToolCall, ToolChoice},
};
use nearfield_shared::pii::Pii;
use std::{collections::BTreeMap, ops::Range, time::Duration};

pub use crate::response::{About, Called, Ended, Status, Uttered};

/// What the shell reports: results of the work that was asked for. A result for work that is no longer wanted is ignored.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Speech probabilities of frames that follow each other. Frames that were told before are passed over; a gap before
    /// the first one was not listened to, and counts as speech of a turn in progress, so that no word of it is lost.
    Frames {
        /// Position of the first frame's first sample.
        from: u64,
        /// One probability for each frame.
        probabilities: Vec<f32>,
    },
    /// The turn model's verdict; `None` where it failed, and silence alone decides.
    Turn {
        /// Which question it answers.
        question: u32,
        /// How likely it is that the caller has finished.
        probability: Option<f32>,
    },
    /// A transcript.
    Transcript {
        /// The item it belongs to.
        item: ItemId,
        /// Which attempt it is, as it was asked for.
        attempt: u32,
        /// The words, or why there are none.
        words: Result<Pii<String>, Fault>,
    },
    /// What the assistant knows about a question; `None` where it could not be compared, and the model answers.
    Matched {
        /// The response it is for.
        response: ResponseId,
        /// What was found.
        found: Found,
    },
    /// A piece of the model's text.
    Text {
        /// The response it is for.
        response: ResponseId,
        /// The piece.
        piece: Pii<String>,
    },
    /// The model's text is complete.
    TextDone {
        /// The response it is for.
        response: ResponseId,
        /// Whether it ended because the limit was reached.
        cut_off: bool,
    },
    /// A phrase as audio.
    Rendered {
        /// The response it is for.
        response: ResponseId,
        /// Which phrase.
        phrase: u32,
        /// 24 kHz samples in [-1, 1].
        samples: Vec<f32>,
    },
    /// Work for a response failed.
    Failed {
        /// The response it was for.
        response: ResponseId,
        /// Why.
        fault: Fault,
    },
    /// What a function returned that this node did.
    Returned {
        /// The call.
        call_id: String,
        /// What it returned, or in short words for the model why it returned nothing.
        output: Result<Pii<String>, String>,
    },
    /// Whoever carries the call has put the caller through to a person, or does not.
    PutThrough {
        /// Whether it has.
        done: bool,
    },
    /// Nothing but time has passed.
    Tick,
}

/// What the assistant's file has to say about a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// No known question is close enough; these facts may help the model.
    Nothing {
        /// Facts near the question, nearest first.
        facts: Vec<String>,
    },
    /// A known question, and its answer.
    Answer(String),
    /// Something that the assistant does not speak about.
    Forbidden {
        /// What is said instead.
        say: String,
        /// Whether the call is handed to a person, too.
        hand_over: bool,
    },
    /// The caller asks for a person; this is said.
    HandOver(String),
}

/// Why work failed, with a code for programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// A short code, for example `overloaded`.
    pub code: String,
    /// Words for a person, with the remedy.
    pub message: String,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// New settings, whole.
    Update(Box<Settings>),
    /// The caller's audio so far becomes an item.
    Commit,
    /// The caller's audio so far is thrown away.
    Clear,
    /// The caller pressed a key of a telephone.
    Press(Key),
    /// A new item.
    CreateItem {
        /// The item's id, where the client chose one.
        id: Option<ItemId>,
        /// Behind which item; `None` is the end.
        place: Option<Place>,
        /// What it holds.
        given: Given,
    },
    /// An item leaves the conversation.
    DeleteItem(ItemId),
    /// Only the first part of a spoken item was heard.
    TruncateItem {
        /// The item.
        item: ItemId,
        /// How much was heard.
        audio_end_ms: u32,
    },
    /// An answer is wanted.
    CreateResponse(Box<Wish>),
    /// The conversation's answer in progress (or this one) is not wanted any more.
    CancelResponse(Option<ResponseId>),
    /// A person takes over a call that waits for one, or none will.
    EndHandOver(HandOverEnd),
    /// The assistant is to come back after a person had the call.
    Resume,
    /// The caller shall hear nothing more of what was said so far; an answer in progress is cancelled.
    StopPlayback,
}

/// What a client puts into a conversation.
#[derive(Debug, Clone, PartialEq)]
pub enum Given {
    /// A message.
    Message(Message),
    /// A call of a function, from an earlier conversation.
    Call(ToolCall),
    /// What a function returned.
    Result {
        /// The call, which must be known.
        call_id: String,
        /// What it returned.
        output: Pii<String>,
    },
    /// Something that the caller said, as samples at 16 kHz; its words are found. Not for the input of a response.
    Audio(Pii<Vec<f32>>),
    /// An item that is in the conversation already; for the input of a response.
    Reference(ItemId),
}

/// Where a new item goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Before all others.
    Beginning,
    /// Behind this one.
    After(ItemId),
}

/// What one response should be like, where it differs from the settings.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Wish {
    /// Other instructions.
    pub instructions: Option<String>,
    /// Another limit of tokens.
    pub tokens_max: Option<usize>,
    /// Spoken or text alone.
    pub spoken: Option<bool>,
    /// Other items than the conversation's.
    pub input: Option<Vec<Given>>,
    /// Other functions than the settings'.
    pub tools: Option<Vec<Tool>>,
    /// Another choice among them.
    pub tool_choice: Option<ToolChoice>,
    /// Whether the answer stays out of the conversation.
    pub out_of_band: bool,
    /// The name of another audio format than the session's. The shell made it and gets it back with the response.
    pub audio_format: Option<&'static str>,
    /// The name of a voice. It is the shell's to look at: which voice there is, no answer decides.
    pub voice: Option<String>,
    /// The client's own marks, given back with the response.
    pub metadata: BTreeMap<String, String>,
}

/// Why a command was not followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// A short code, as the OpenAI API uses them where it has one.
    pub code: &'static str,
    /// Words for a person, with the remedy.
    pub message: String,
    /// The field that is wrong, where one is.
    pub param: Option<&'static str>,
}

/// What the machine wants done.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Ask the turn model about this part of the caller's audio (16 kHz samples since the call began).
    AskTurn {
        /// To be given back with the verdict.
        question: u32,
        /// The turn so far.
        range: Range<u64>,
        /// When the verdict is wanted: since the caller fell silent, so that it comes before whatever is done ahead of it.
        due: Duration,
    },
    /// Find the words in this part of the caller's audio. An earlier attempt for the same item is not waited for any more.
    Transcribe {
        /// To be given back with the words.
        item: ItemId,
        /// To be given back with the words.
        attempt: u32,
        /// The part.
        range: Range<u64>,
        /// Whether the caller is still speaking: then it is not urgent, and not worth a second attempt.
        partial: bool,
    },
    /// Find the words in audio that came with an item.
    TranscribeGiven {
        /// To be given back with the words.
        item: ItemId,
        /// To be given back with the words.
        attempt: u32,
        /// The audio, at 16 kHz.
        samples: Pii<Vec<f32>>,
    },
    /// The words of this item are not waited for any more.
    GiveUpWords {
        /// Which.
        item: ItemId,
    },
    /// The caller's audio before this sample is not needed any more.
    Release {
        /// The first sample still needed.
        before: u64,
    },
    /// Compare a question with what the assistant knows.
    Match {
        /// To be given back.
        response: ResponseId,
        /// The question.
        question: Pii<String>,
        /// When the result is wanted.
        due: Duration,
        /// Whether it is for an answer beside the conversation, so that no caller waits for it.
        beside: bool,
    },
    /// Think of an answer.
    Generate {
        /// To be given back.
        response: ResponseId,
        /// The prompt.
        prompt: Vec<Message>,
        /// Tokens it may have.
        tokens_max: usize,
        /// When the first of it is wanted: at once, or when the turn it answers is likely to be over.
        due: Duration,
        /// Whether it is for an answer beside the conversation, so that no caller waits for it.
        beside: bool,
    },
    /// Stop thinking, keep speaking: the answer is long enough.
    StopGenerating {
        /// Which.
        response: ResponseId,
    },
    /// Make audio of a phrase.
    Speak {
        /// To be given back.
        response: ResponseId,
        /// To be given back.
        phrase: u32,
        /// The phrase.
        text: Pii<String>,
        /// Whether the phrase is the assistant's own and the same for every caller, so that its audio may be kept.
        keep: bool,
        /// When its audio is wanted: when what was sent so far has been played.
        due: Duration,
        /// Whether it is for an answer beside the conversation, so that no caller waits for it.
        beside: bool,
    },
    /// Send audio to the caller.
    Audio {
        /// The response it belongs to.
        response: ResponseId,
        /// The item it belongs to.
        item: ItemId,
        /// 24 kHz samples in [-1, 1].
        samples: Vec<f32>,
        /// The name of the answer's own audio format, where it has one.
        format: Option<&'static str>,
        /// Whether a call opens with it, before anybody asked for anything: a notice, a greeting.
        opens: bool,
    },
    /// Ask whoever carries the call to put the caller through to a person, and report whether that was done.
    PutThrough,
    /// Do what a function is called for, and report what it returned.
    CallFunction(ToolCall),
    /// Stop all work for a response, and send none of its audio that is still here.
    Cancel {
        /// Which.
        response: ResponseId,
    },
    /// Send none of an answer's audio that is still here, and make no more of it; thinking goes on.
    Hush {
        /// Which.
        response: ResponseId,
    },
    /// Tell the client.
    Event(Event),
}

/// What a client is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Speech began.
    SpeechStarted {
        /// The item that the turn will become.
        item: ItemId,
        /// Where the turn's audio begins, in milliseconds since the call began.
        at_ms: u64,
    },
    /// The turn is over.
    SpeechStopped {
        /// The item that the turn becomes.
        item: ItemId,
        /// Where, in milliseconds since the call began.
        at_ms: u64,
    },
    /// The caller has been silent for as long as the settings allow.
    IdleTimeout {
        /// The item that the silence becomes.
        item: ItemId,
        /// Where the silence began, in milliseconds since the call began.
        start_ms: u64,
        /// Where it ends.
        end_ms: u64,
    },
    /// The caller said nothing any more, and has heard the goodbye: the call is over.
    Goodbye,
    /// The notice that must be said before anything else cannot be said: the call is over.
    NoticeFailed,
    /// Audio became an item.
    Committed {
        /// The item.
        item: ItemId,
        /// The one before it.
        previous: Option<ItemId>,
    },
    /// Audio was thrown away.
    Cleared,
    /// The caller pressed a key.
    KeyPressed(Key),
    /// An item is in the conversation, whole.
    ItemAdded {
        /// The item.
        item: Item,
        /// The one before it.
        previous: Option<ItemId>,
    },
    /// An item left.
    ItemDeleted {
        /// Which.
        item: ItemId,
    },
    /// An item was cut at what the caller heard.
    ItemTruncated {
        /// Which.
        item: ItemId,
        /// How much was heard.
        audio_end_ms: u32,
    },
    /// More words of the turn in progress, or of one that was just committed, are known for certain enough to be shown.
    TranscribedPart {
        /// The item that the turn becomes.
        item: ItemId,
        /// The words, with the space before them.
        words: Pii<String>,
    },
    /// The words of an item are known.
    Transcribed {
        /// The item.
        item: ItemId,
        /// The words; empty where none were found.
        words: Pii<String>,
        /// Those that were not told before, with the space before them; empty where what was told before was wrong.
        rest: Pii<String>,
        /// Length of the audio in milliseconds.
        ms: u32,
    },
    /// The words of an item could not be found.
    TranscriptionFailed {
        /// The item.
        item: ItemId,
        /// Why.
        fault: Fault,
    },
    /// An answer begins.
    ResponseCreated(About),
    /// The answer has a first word.
    OutputStarted {
        /// The answer.
        about: About,
        /// Its item.
        item: ItemId,
        /// The item before it, where the answer is part of the conversation.
        previous: Option<ItemId>,
    },
    /// More words of the answer; of a spoken one, just ahead of their audio.
    Said {
        /// The answer.
        about: About,
        /// Its item.
        item: ItemId,
        /// The words, with the space before them.
        words: Pii<String>,
    },
    /// A function that this node did has returned, or failed.
    Returned {
        /// The answer that called it.
        response: ResponseId,
        /// The place of the call among the answer's items.
        output_index: usize,
        /// The call's item.
        item: ItemId,
        /// The item before it.
        previous: Option<ItemId>,
        /// The call.
        call: ToolCall,
        /// What it returned, or why it returned nothing.
        output: Result<Pii<String>, String>,
    },
    /// The call is handed to a person: whoever can is to fetch one.
    HandedOver {
        /// The answer that says so.
        response: ResponseId,
        /// Why.
        reason: HandOverReason,
    },
    /// A caller who waited for a person waits no more.
    HandOverEnded {
        /// Why.
        end: HandOverEnd,
    },
    /// The assistant is back after a person had the call.
    Resumed,
    /// The caller spoke over an answer.
    Interrupted {
        /// Its item, where it had begun.
        item: Option<ItemId>,
        /// How much of it was heard, by estimate.
        heard_ms: u32,
    },
    /// The answer has ended. Told exactly once for each [`Event::ResponseCreated`].
    ResponseEnded(Box<Ended>),
}

/// Why a call is handed to a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOverReason {
    /// The caller asked for one.
    Asked,
    /// The caller was misunderstood too often.
    Misunderstood,
    /// The caller spoke about something that the assistant does not speak about.
    ForbiddenTopic,
    /// The caller's words told of displeasure.
    Upset,
}

impl HandOverReason {
    /// Its name for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked_for_person",
            Self::Misunderstood => "misunderstood",
            Self::ForbiddenTopic => "forbidden_topic",
            Self::Upset => "upset",
        }
    }
}

/// Why a caller waits no more for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandOverEnd {
    /// A person takes over.
    Accepted,
    /// Nobody will.
    Closed,
    /// Nobody did in time.
    NobodyCame,
    /// The caller has heard that they are put through, and now are.
    Transferred,
}

impl HandOverEnd {
    /// Its name for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Closed => "closed",
            Self::NobodyCame => "nobody_came",
            Self::Transferred => "transferred",
        }
    }
}
