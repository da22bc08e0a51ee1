//! A desk for scripts of whole conversations: a caller, a clock, workers that do what the script says, and a log of what the
//! client is told.
#![allow(dead_code, reason = "each test uses what it needs")]

use nearfield_dialogue::{
    call::Call,
    events::{Command, Event, Found, HandOverReason, Input, Output, Status},
    history::Role,
    ids::{ItemId, ResponseId},
    keys::Key,
    ledger::Ledger,
    settings::{EndOfTurn, Settings, TurnDetection},
};
use nearfield_shared::pii::Pii;
use std::{collections::VecDeque, time::Duration};

pub const FRAME_MS: u64 = 32;

/// A caller, a clock and workers that do what the script says.
pub struct Desk {
    pub call: Call,
    pub now: Duration,
    /// Work that was asked for and not done yet.
    pub work: VecDeque<Output>,
    pub log: Vec<String>,
    pub ledgers: Vec<Ledger>,
    /// Names of the calls that answers made.
    pub calls: Vec<String>,
}

impl Desk {
    pub fn new(settings: Settings) -> Self {
        Self {
            call: Call::new(settings, "t"),
            now: Duration::ZERO,
            work: VecDeque::new(),
            log: vec![],
            ledgers: vec![],
            calls: vec![],
        }
    }

    pub fn wait(&mut self, ms: u64) -> &mut Self {
        self.now += Duration::from_millis(ms);
        self
    }

    /// Speech (`#`) and silence (`.`), one frame each, in real time.
    pub fn hears(&mut self, picture: &str) -> &mut Self {
        for c in picture.chars() {
            self.wait(FRAME_MS);
            self.call.hear(self.now, 512).expect("room");
            if self.call.listens_from().is_some() {
                self.call.handle(self.now, frames(&self.call, if c == '#' { 0.9 } else { 0.05 }));
            }
            self.drain();
        }
        self
    }

    pub fn tell(&mut self, input: Input) -> &mut Self {
        self.call.handle(self.now, input);
        self.drain();
        self
    }

    pub fn ask(&mut self, command: Command) -> Result<(), &'static str> {
        let result = self.call.command(self.now, command).map_err(|refusal| refusal.code);
        self.drain();
        result
    }

    /// Presses keys of a telephone, one every 200 ms.
    pub fn presses(&mut self, keys: &str) -> &mut Self {
        for sign in keys.chars() {
            self.wait(200);
            assert_eq!(self.ask(Command::Press(Key::new(sign).expect("a key"))), Ok(()));
        }
        self
    }

    pub fn transcript(&mut self, words: &str) -> &mut Self {
        let (item, attempt) = self.transcription();
        self.tell(Input::Transcript { item, attempt, words: Ok(Pii::new(words.to_owned())) })
    }

    /// The first transcript that is asked for.
    pub fn transcription(&mut self) -> (ItemId, u32) {
        self.take(|work| match work {
            Output::Transcribe { item, attempt, .. } | Output::TranscribeGiven { item, attempt, .. } => {
                Some((item.clone(), *attempt))
            }
            _ => None,
        })
    }

    pub fn found(&mut self, found: Found) -> &mut Self {
        let response = self.take(|work| match work {
            Output::Match { response, .. } => Some(response.clone()),
            _ => None,
        });
        self.tell(Input::Matched { response, found })
    }

    pub fn thinks(&mut self, text: &str) -> &mut Self {
        let response = self.take(|work| match work {
            Output::Generate { response, .. } => Some(response.clone()),
            _ => None,
        });
        for piece in text.split_inclusive(' ') {
            self.tell(Input::Text { response: response.clone(), piece: Pii::new(piece.to_owned()) });
        }
        self.tell(Input::TextDone { response, cut_off: false })
    }

    /// Renders the next phrase, at 50 ms of audio for each character.
    pub fn speaks(&mut self) -> &mut Self {
        let (response, phrase, chars) = self.take(|work| match work {
            Output::Speak { response, phrase, text, .. } => Some((response.clone(), *phrase, text.reveal().len())),
            _ => None,
        });
        self.tell(Input::Rendered { response, phrase, samples: vec![0.1; chars * 50 * 24] })
    }

    pub fn take<T>(&mut self, pick: impl Fn(&Output) -> Option<T>) -> T {
        let (at, found) = self
            .work
            .iter()
            .enumerate()
            .find_map(|(at, work)| pick(work).map(|found| (at, found)))
            .unwrap_or_else(|| panic!("no such work; there is {:?}", self.work));
        self.work.remove(at);
        found
    }

    pub fn drain(&mut self) {
        while let Some(output) = self.call.poll_output() {
            match output {
                Output::Event(event) => self.note(event),
                Output::Audio { samples, .. } => self.log.push(format!("audio {}", samples.len() / 24)),
                Output::Cancel { response } => {
                    self.work.retain(|work| !belongs(work, &response));
                }
                Output::Hush { response } => {
                    let speaks = |work: &Output| matches!(work, Output::Speak { response: of, .. } if *of == response);
                    self.work.retain(|work| !speaks(work));
                }
                Output::GiveUpWords { item } => {
                    self.work.retain(|work| !matches!(work, Output::Transcribe { item: i, .. } if *i == item));
                }
                Output::Release { .. } => {}
                Output::Transcribe { ref item, .. } => {
                    self.work.retain(|work| !matches!(work, Output::Transcribe { item: i, .. } if i == item));
                    self.work.push_back(output);
                }
                work => self.work.push_back(work),
            }
        }
    }

    fn note(&mut self, event: Event) {
        let line = match event {
            Event::SpeechStarted { at_ms, .. } => format!("started {at_ms}"),
            Event::SpeechStopped { at_ms, .. } => format!("stopped {at_ms}"),
            Event::IdleTimeout { start_ms, end_ms, .. } => format!("idle {start_ms} to {end_ms}"),
            Event::Committed { .. } => "committed".into(),
            Event::Goodbye => "goodbye".into(),
            Event::NoticeFailed => "no notice".into(),
            Event::Cleared => "cleared".into(),
            Event::KeyPressed(key) => format!("key {}", key.sign()),
            Event::ItemAdded { item, .. } => format!("{} item", item.role.as_str()),
            Event::ItemDeleted { .. } => "deleted".into(),
            Event::ItemTruncated { audio_end_ms, .. } => format!("truncated {audio_end_ms}"),
            Event::Transcribed { words, .. } => format!("words `{}`", words.reveal()),
            Event::TranscribedPart { words, .. } => format!("part `{}`", words.reveal()),
            Event::TranscriptionFailed { fault, .. } => format!("no words: {}", fault.code),
            Event::ResponseCreated(_) => "created".into(),
            Event::OutputStarted { .. } => "output".into(),
            Event::Said { words, .. } => format!("said `{}`", words.reveal()),
            Event::Returned { call, output, .. } => match output {
                Ok(output) => format!("{} returned `{}`", call.name, output.reveal()),
                Err(reason) => format!("{} failed: {reason}", call.name),
            },
            Event::HandedOver { reason: HandOverReason::Asked, .. } => "handed over".into(),
            Event::HandedOver { reason, .. } => format!("handed over: {}", reason.as_str()),
            Event::HandOverEnded { end } => format!("hand-over ended: {}", end.as_str()),
            Event::Resumed => "resumed".into(),
            Event::Interrupted { heard_ms, .. } => format!("interrupted {heard_ms}"),
            Event::ResponseEnded(ended) => {
                for called in ended.calls {
                    let call = called.call;
                    self.log.push(format!("calls {}{}", call.name, call.arguments.reveal()));
                    self.calls.push(call.call_id);
                }
                self.ledgers.push(ended.ledger);
                match ended.status {
                    Status::Completed => "completed".into(),
                    Status::Interrupted => "ended: interrupted".into(),
                    Status::Cancelled => "ended: cancelled".into(),
                    Status::CutOff => "ended: cut off".into(),
                    Status::Failed(fault) => format!("ended: {}", fault.code),
                }
            }
        };
        self.log.push(line);
    }

    /// What happened since the last look.
    pub fn happened(&mut self) -> String {
        self.log.drain(..).collect::<Vec<_>>().join(", ")
    }

    pub fn heard_by_caller(&self) -> Vec<String> {
        self.call.history().items().filter(|i| i.role == Role::Assistant).filter_map(|i| i.words()).collect()
    }
}

/// The next frame, as the detector tells it.
pub fn frames(call: &Call, probability: f32) -> Input {
    Input::Frames { from: call.listens_from().expect("it listens"), probabilities: vec![probability] }
}

fn belongs(work: &Output, id: &ResponseId) -> bool {
    match work {
        Output::Match { response, .. } | Output::Generate { response, .. } | Output::Speak { response, .. } => {
            response == id
        }
        _ => false,
    }
}

pub fn settings() -> Settings {
    Settings {
        turn_detection: Some(TurnDetection { by: EndOfTurn::Silence { silence_ms: 320 }, ..TurnDetection::default() }),
        instructions: "Be kind.".into(),
        ..Settings::default()
    }
}

pub fn by_hand() -> Settings {
    Settings { turn_detection: None, ..settings() }
}

pub const NOTHING: Found = Found::Nothing { facts: vec![] };
