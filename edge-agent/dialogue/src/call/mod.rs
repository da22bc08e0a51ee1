//! The machine: one caller, one conversation, at most one answer in it at a time, and some beside it.

mod ahead;
mod answer;
mod beside;
mod commands;
mod functions;
mod hand_over;
mod idle;
mod language;
mod notice;
mod person;
mod resume;
mod speak;
mod think;
mod turns;
mod typed;

use crate::{
    events::{Event, Fault, Input, Output, Refusal},
    history::History,
    ids::{Ids, ItemId, ResponseId},
    keys::Keys,
    ledger::{AnsweredBy, Moments},
    listen::{FRAME, HEARD_HZ, Listener},
    playback::Playback,
    settings::Settings,
};
use ahead::{Ahead, Begun, Partial};
use answer::Answer;
use functions::Functions;
use hand_over::HandOver;
use idle::Asked;
use notice::{Held, Notice};
use resume::Interrupted;
use std::{collections::VecDeque, time::Duration};

/// Samples of the caller's audio that wait to be committed: ten minutes.
pub const BUFFER_MAX: u64 = 600 * HEARD_HZ;

/// Turns whose words are being found at once. More than two at a time means that something is stuck.
pub const TRANSCRIBING_MAX: usize = 8;

/// The longest that one piece of work may take before the answer is given up: nobody waits longer on a telephone.
pub const WORK_MAX: Duration = Duration::from_secs(30);

/// Without any audio for this long in the middle of a turn, the client has stopped sending and the turn is over.
pub const STALL_MAX: Duration = Duration::from_millis(1_500);

/// In the middle of a turn, without word from the detector about audio that is there for this long, the turn is taken to end with
/// what was heard. Long enough for a detector that is being restarted, short enough for a caller who waits for an answer.
pub const DEAF_MAX: Duration = Duration::from_secs(6);

/// No turn is open for longer than this, however slowly its audio comes: [`listen::TURN_MAX`](crate::listen::TURN_MAX) and half of it again.
pub const TURN_TIME_MAX: Duration = Duration::from_secs(180);

/// How many arrivals are remembered, to tell when a sample came in.
const ARRIVALS_MAX: usize = 1_024;

/// One call. `now` is the time since the call began, everywhere.
#[derive(Debug)]
pub struct Call {
    settings: Settings,
    ids: Ids,
    listener: Listener,
    history: History,
    playback: Playback,
    /// Samples that came in.
    arrived: u64,
    /// Up to which sample, at what time; oldest first.
    arrivals: VecDeque<(u64, Duration)>,
    /// First sample that is not committed, cleared or passed by.
    buffer_from: u64,
    released: u64,
    /// The item that the turn in progress will become.
    turn_item: Option<ItemId>,
    turn_began: Duration,
    /// Whether the turn in progress, or the latest one, began over an answer that was being heard.
    turn_over_answer: bool,
    /// When the detector last told something new, or there was nothing to tell.
    listened: Duration,
    asked_turn_model: Option<(u32, Duration)>,
    turn_model_took: Option<Duration>,
    /// The finished answers that the turn in progress cut short, by estimate.
    cut_by_estimate: Vec<ItemId>,
    /// Whether the turn in progress, or the latest one, cut an answer short before it had a first word.
    unheard: bool,
    /// The answer that the turn in progress, or the latest one, cut short in the middle.
    interrupted: Option<Interrupted>,
    /// What the latest answer of the conversation was made from.
    said_last: Option<AnsweredBy>,
    /// When the speech of the latest committed audio ended.
    last_speech_end: Option<Duration>,
    transcribing: Vec<Transcribing>,
    ahead: Ahead,
    /// What was asked for, before the answer in progress began.
    begun: Option<Begun>,
    /// Work that waits for the device.
    backlog: Duration,
    /// An automatic answer that begins as soon as nothing stands in its way.
    owed: Option<Owed>,
    answer: Option<Answer>,
    /// Answers beside the conversation that are in progress; at most [`BESIDE_MAX`](beside::BESIDE_MAX).
    beside: Vec<Answer>,
    keys: Keys,
    /// Functions that are being done here.
    functions: Functions,
    hand_over: HandOver,
    asked: Asked,
    notice: Notice,
    /// Answers that a client wants and that wait for what is being said; at most one, and
    /// [`BESIDE_MAX`](beside::BESIDE_MAX) beside the conversation.
    held: VecDeque<Held>,
    /// Whether the greeting waits for the notice.
    greets: bool,
    /// Whether the caller is still to be told that their language is not spoken.
    tells_language: bool,
    greeted: bool,
    /// Since when the caller hears nothing, while nothing happens.
    quiet_since: Option<Duration>,
    out: VecDeque<Output>,
}

/// An answer that begins by itself.
#[derive(Debug)]
struct Owed {
    moments: Moments,
    /// Why it can only fail, where it can.
    fault: Option<Fault>,
}

#[derive(Debug)]
struct Transcribing {
    item: ItemId,
    attempt: u32,
    partial: Partial,
    ms: u32,
    since: Duration,
    moments: Moments,
    answer: bool,
    /// Whether it was spoken over an answer that was being heard.
    over_answer: bool,
}

impl Call {
    /// A call with nothing said. `seed` makes its ids unique: letters and digits that the shell draws by chance.
    pub fn new(settings: Settings, seed: &str) -> Self {
        let mut call = Self {
            settings,
            ids: Ids::new(seed),
            listener: Listener::default(),
            history: History::default(),
            playback: Playback::default(),
            arrived: 0,
            arrivals: VecDeque::new(),
            buffer_from: 0,
            released: 0,
            turn_item: None,
            turn_began: Duration::ZERO,
            turn_over_answer: false,
            listened: Duration::ZERO,
            asked_turn_model: None,
            turn_model_took: None,
            cut_by_estimate: Vec::new(),
            unheard: false,
            interrupted: None,
            said_last: None,
            last_speech_end: None,
            transcribing: Vec::new(),
            ahead: Ahead::default(),
            begun: None,
            backlog: Duration::ZERO,
            owed: None,
            answer: None,
            beside: Vec::new(),
            keys: Keys::default(),
            functions: Functions::default(),
            hand_over: HandOver::default(),
            asked: Asked::default(),
            notice: Notice::default(),
            held: VecDeque::new(),
            greets: false,
            tells_language: false,
            greeted: false,
            quiet_since: None,
            out: VecDeque::new(),
        };
        call.note_notice();
        call.note_language(None);
        call
    }

    /// The settings in force.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The conversation.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The answer in progress that the caller hears.
    pub fn answering(&self) -> Option<&ResponseId> {
        self.answer.as_ref().map(|answer| &answer.about.response)
    }

    /// Whether anything is still to be done or heard: an answer in progress or owed, words being found, a number being typed, a
    /// function being done, audio being played.
    pub fn is_busy(&self, now: Duration) -> bool {
        self.answer.is_some() || !self.beside.is_empty() || self.waits() || self.playback.is_on(now)
    }

    /// Whether something is under way of which an answer is to come.
    fn waits(&self) -> bool {
        let owes = self.owed.is_some() || self.interrupted.is_some() || self.keys.whole_at().is_some();
        owes || !self.transcribing.is_empty() || !self.functions.are_done()
    }

    /// Whether nothing is being said, heard or worked on, so that words of our own disturb nobody.
    fn is_at_rest(&self) -> bool {
        self.answer.is_none() && !self.waits() && !self.listener.in_turn() && !self.notice_is_on()
    }

    /// Whether frames are wanted, and from which sample on.
    pub fn listens_from(&self) -> Option<u64> {
        let listens = self.settings.turn_detection.is_some() && !self.notice_is_on() && !self.is_deaf();
        listens.then(|| self.listener.position())
    }

    /// Takes note that this many more samples of the caller's audio are in the shell's buffer.
    ///
    /// Refused, and not taken, when the buffer would outgrow [`BUFFER_MAX`].
    pub fn hear(&mut self, now: Duration, samples: u64) -> Result<(), Refusal> {
        if (self.arrived + samples).saturating_sub(self.needed_from()) > BUFFER_MAX {
            return Err(Refusal {
                code: "input_audio_buffer_full",
                message: format!(
                    "the input audio buffer holds {} s at most; commit or clear it before appending more",
                    BUFFER_MAX / HEARD_HZ
                ),
                param: Some("audio"),
            });
        }
        if self.has_listened_to_all() {
            self.listened = now;
        }
        self.arrived += samples;
        if self.arrivals.len() == ARRIVALS_MAX {
            self.arrivals.pop_front();
        }
        self.arrivals.push_back((self.arrived, now));
        if self.settings.turn_detection.is_none() {
            self.listener.skip_to(self.arrived);
        }
        if self.is_deaf() {
            self.pass_over(now);
        }
        Ok(())
    }

    /// Says the notice that is demanded, then the assistant's greeting, if there is one and nothing was said before. Later calls do
    /// nothing.
    pub fn greet(&mut self, now: Duration) {
        self.notice_goes_first(now);
        self.greets = true;
        self.settle(now);
    }

    fn say_greeting(&mut self, now: Duration) {
        if std::mem::replace(&mut self.greeted, true) || !self.history.is_empty() || self.answer.is_some() {
            return;
        }
        if let Some(greeting) = self.settings.greeting.clone() {
            self.begin_to_say(now, AnsweredBy::Greeting, &greeting);
        }
    }

    /// Takes a report. Follow it with [`Call::poll_output`] until that returns `None`.
    pub fn handle(&mut self, now: Duration, input: Input) {
        self.take(now, input);
        self.settle(now);
    }

    fn take(&mut self, now: Duration, input: Input) {
        match input {
            Input::Matched { ref response, .. }
            | Input::Text { ref response, .. }
            | Input::TextDone { ref response, .. }
            | Input::Rendered { ref response, .. }
            | Input::Failed { ref response, .. }
                if self.is_ahead(response) =>
            {
                self.result_ahead(now, input);
            }
            Input::Text { ref response, .. }
            | Input::TextDone { ref response, .. }
            | Input::Rendered { ref response, .. }
            | Input::Failed { ref response, .. }
                if self.is_interrupted(response) =>
            {
                self.result_while_interrupted(input);
            }
            Input::Frames { from, probabilities } => self.frames(now, from, &probabilities),
            Input::Turn { question, probability } => self.turn_verdict(now, question, probability),
            Input::Transcript { item, attempt, words } => self.transcript(now, &item, attempt, words),
            Input::Matched { response, found } => self.matched(now, &response, found),
            Input::Text { response, piece } => self.text(now, &response, piece.reveal()),
            Input::TextDone { response, cut_off } => self.text_done(now, &response, cut_off),
            Input::Rendered { response, phrase, samples } => self.rendered(now, &response, phrase, samples),
            Input::Failed { response, fault } => self.failed(now, &response, fault),
            Input::Returned { call_id, output } => self.returned(now, &call_id, output),
            Input::PutThrough { done } => self.put_through(done),
            Input::Tick => {}
        }
    }

    /// The next thing to do, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.pop_front()
    }

    /// When [`Input::Tick`] is due if nothing happens before.
    pub fn deadline(&self) -> Option<Duration> {
        let transcripts = self.transcribing.iter().map(|t| t.since + WORK_MAX);
        let answer = self.answer.iter().chain(&self.beside).filter_map(Answer::deadline);
        let functions = self.functions.deadline().into_iter().chain(self.filler_at()).chain(self.hand_over_at());
        let turn = self.turn_ends_at().into_iter().chain(self.keys.whole_at());
        let silence = self.idle_at().into_iter().chain(self.over_at()).chain(self.notice_heard_at());
        let heard = self.transfer_at().into_iter();
        transcripts.chain(answer).chain(functions).chain(turn).chain(silence).chain(heard).min()
    }

    /// When the turn in progress ends although the detector did not say so: no more audio comes, the detector tells nothing
    /// about the audio that came, or it has gone on for too long.
    fn turn_ends_at(&self) -> Option<Duration> {
        if self.settings.turn_detection.is_none() || !self.listener.in_turn() {
            return None;
        }
        let last = self.arrivals.back().map_or(self.turn_began, |(_, at)| *at);
        let silent = if self.has_listened_to_all() { last + STALL_MAX } else { self.listened + DEAF_MAX };
        Some(silent.min(self.turn_began + TURN_TIME_MAX))
    }

    fn has_listened_to_all(&self) -> bool {
        self.listener.position() + FRAME > self.arrived
    }

    /// Restores what must hold after every input: deadlines are kept, an answer that can go on goes on, an answer that is owed
    /// begins, and audio that nobody needs is released.
    fn settle(&mut self, now: Duration) {
        if self.turn_ends_at().is_some_and(|at| at <= now) {
            let deaf = !self.has_listened_to_all();
            let ended = if deaf { self.listener.gave_up(self.arrived) } else { self.listener.stalled() };
            if let Some(noticed) = ended {
                self.noticed(now, noticed);
            }
        }
        if self.keys.whole_at().is_some_and(|at| at <= now) {
            self.keys_are_whole(now);
        }
        self.give_up_late_work(now);
        self.continue_waiting_answers(now);
        self.go_on_after_notice(now);
        self.begin_owed_answer(now);
        self.go_on(now);
        if self.filler_at().is_some_and(|at| at <= now) {
            self.say_filler(now);
        }
        if self.idle_at().is_some_and(|at| at <= now) {
            self.speak_to_idle_caller(now);
        }
        if self.over_at().is_some_and(|at| at <= now) {
            self.be_over();
        }
        if self.transfer_at().is_some_and(|at| at <= now) {
            self.transfer(now);
        }
        self.speak_next(now);
        self.speak_beside(now);
        self.speak_to_waiting_caller(now);
        let needed = self.needed_from();
        if needed > self.released {
            self.released = needed;
            self.out.push_back(Output::Release { before: needed });
        }
    }

    fn needed_from(&self) -> u64 {
        match &self.settings.turn_detection {
            None => self.buffer_from,
            detection => self.listener.needed_from(detection.as_ref()).min(self.listener.position()).max(self.released),
        }
    }

    fn emit(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    /// When the sample before this position came in.
    fn arrival_of(&self, position: u64) -> Option<Duration> {
        self.arrivals.iter().find(|(until, _)| *until >= position).map(|(_, at)| *at)
    }
}

fn samples_to_ms(samples: u64) -> u64 {
    samples * 1000 / HEARD_HZ
}
