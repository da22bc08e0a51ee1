//! The caller's side: frames, turns, commits, transcripts.

use super::{
    Call, Owed, TRANSCRIBING_MAX, Transcribing, WORK_MAX,
    ahead::{Partial, Words},
    answer::Answer,
    samples_to_ms,
};
use crate::{
    events::{Event, Fault, Output, Status},
    history::{Content, Item, Role, says_something},
    ids::{ItemId, ResponseId},
    ledger::Moments,
    listen::{FRAME, Noticed},
};
use nearfield_shared::pii::Pii;
use std::{ops::Range, time::Duration};

impl Call {
    pub(super) fn frames(&mut self, now: Duration, from: u64, probabilities: &[f32]) {
        if self.notice_is_on() || self.is_deaf() {
            return;
        }
        if self.settings.turn_detection.is_some() && from > self.listener.position() {
            self.listener.skip_to(from.min(self.arrived));
        }
        for (at, probability) in (from..).step_by(FRAME as usize).zip(probabilities) {
            // A frame that began before the last one ended was told before, or it lies in audio that was passed over.
            if at >= self.listener.position() {
                self.frame(now, *probability);
            }
        }
    }

    fn frame(&mut self, now: Duration, probability: f32) {
        let Some(detection) = &self.settings.turn_detection else { return };
        if self.listener.position() + FRAME > self.arrived {
            return;
        }
        self.listened = now;
        // A detector that fails numerically is silence, not speech without end.
        let probability = if probability.is_finite() { probability } else { 0.0 };
        if let Some(noticed) = self.listener.frame(probability, detection) {
            self.noticed(now, noticed);
        }
        self.work_ahead(now);
    }

    pub(super) fn turn_verdict(&mut self, now: Duration, question: u32, probability: Option<f32>) {
        let Some((_, asked)) = self.asked_turn_model.take_if(|(asked, _)| *asked == question) else { return };
        self.turn_model_took = Some(now.saturating_sub(asked));
        if let Some(probability) = probability
            && let Some(noticed) = self.listener.verdict(question, probability)
        {
            self.noticed(now, noticed);
        }
    }

    pub(super) fn noticed(&mut self, now: Duration, noticed: Noticed) {
        match noticed {
            Noticed::Began { from } => {
                self.quiet_since = None;
                self.asked.take_goodbye_back();
                self.begin_ahead(now);
                let item = self.ids.item();
                self.turn_item = Some(item.clone());
                self.turn_began = now;
                self.turn_model_took = None;
                self.emit(Event::SpeechStarted { item, at_ms: samples_to_ms(from) });
                if self.settings.turn_detection.as_ref().is_some_and(|d| d.interrupt_response) {
                    self.interrupt(now);
                    self.turn_over_answer = self.was_interrupted_in_the_middle();
                } else {
                    self.turn_over_answer = self.playback.is_on(now);
                }
            }
            Noticed::Paused { question, range } => {
                self.asked_turn_model = Some((question, now));
                let silent_since = self.listener.turn().and_then(|(_, speech_end)| self.arrival_of(speech_end));
                let due = silent_since.unwrap_or(now).min(now);
                self.out.push_back(Output::AskTurn { question, range, due });
            }
            Noticed::Ended { range, speech_end, decided } => {
                self.asked_turn_model = None;
                let cut = std::mem::take(&mut self.cut_by_estimate);
                if !cut.is_empty() && !self.came_in_real_time(range.start, speech_end) {
                    cut.iter().for_each(|item| self.history.uncut(item));
                    self.forget_interrupted();
                }
                let item = self.turn_item.take().unwrap_or_else(|| self.ids.item());
                self.emit(Event::SpeechStopped { item: item.clone(), at_ms: samples_to_ms(decided) });
                let moments = Moments {
                    speech_end: self.arrival_of(speech_end),
                    owed: now,
                    committed: Some(now),
                    turn_model: self.turn_model_took.take(),
                    ..Moments::default()
                };
                let answer = self.answers_turns();
                self.commit(now, item, range, moments, answer);
            }
        }
    }

    /// The caller speaks: an answer in progress stops, and what they have not heard of the last one leaves the history.
    pub(super) fn interrupt(&mut self, now: Duration) {
        let active = self.answer.as_ref().filter(|answer| answer.about.in_conversation);
        let begins = active.map(|answer| answer.answers_caller() && answer.item.is_none() && !answer.can_go_on());
        let cut = self.history.cut_playback(now);
        if begins.is_none() && cut.is_empty() {
            return;
        }
        self.unheard = begins == Some(true);
        let items = cut.iter().map(|(item, _)| item.clone());
        self.cut_by_estimate = items.filter(|_| begins.is_none()).collect();
        self.pause_answer(now, &cut);
        self.playback.stop(now);
        self.put_through_by(now);
        let (item, heard_ms) = cut.into_iter().next().map_or((None, 0), |(item, ms)| (Some(item), ms));
        self.emit(Event::Interrupted { item, heard_ms });
    }

    /// Whether this audio came in about as fast as it was spoken. A client that sends recordings faster than that does not
    /// play answers in real time either, so an estimate of its playback means nothing.
    fn came_in_real_time(&self, from: u64, to: u64) -> bool {
        let (Some(first), Some(last)) = (self.arrival_of(from + FRAME), self.arrival_of(to)) else { return true };
        2 * last.saturating_sub(first).as_millis() as u64 >= samples_to_ms(to.saturating_sub(from + 2 * FRAME))
    }

    /// Makes an item of a part of the caller's audio and has its words found.
    pub(super) fn commit(&mut self, now: Duration, id: ItemId, range: Range<u64>, mut moments: Moments, answer: bool) {
        let ms = u32::try_from(samples_to_ms(range.end - range.start)).unwrap_or(u32::MAX);
        self.buffer_from = self.buffer_from.max(range.end);
        self.last_speech_end = moments.speech_end;
        let item =
            Item { id: id.clone(), role: Role::User, content: Content::Heard { transcript: None, ms }, complete: true };
        let previous = self.history.push(item.clone());
        self.emit(Event::Committed { item: id.clone(), previous: previous.clone() });
        self.emit(Event::ItemAdded { item, previous });
        if self.transcribing.len() >= TRANSCRIBING_MAX {
            // FAILURE LADDER: the turn is kept, its words are not looked for, and the client is told.
            let fault = Fault {
                code: "overloaded".into(),
                message: format!("{TRANSCRIBING_MAX} turns of this call wait for their words; speak again in a moment"),
            };
            self.emit(Event::TranscriptionFailed { item: id, fault: fault.clone() });
            self.throw_away(now);
            if answer {
                self.owe(Owed { moments, fault: Some(fault) });
            }
            return;
        }
        let (attempt, known) = match self.ahead.take_words(&range, now) {
            Words::Known(words, began) => {
                moments.ahead = Some(began);
                (0, Some(words))
            }
            Words::Coming(attempt, began) => {
                moments.ahead = Some(began);
                (attempt, None)
            }
            Words::Unknown(attempt) => {
                self.out.push_back(Output::Transcribe { item: id.clone(), attempt, range, partial: false });
                (attempt, None)
            }
        };
        if known.is_none() {
            // An answer was thought on other words than these.
            self.throw_away(now);
        }
        let partial = self.ahead.take_partial();
        let over_answer = answer && self.turn_over_answer;
        self.transcribing.push(Transcribing {
            item: id.clone(),
            attempt,
            partial,
            ms,
            since: now,
            moments,
            answer,
            over_answer,
        });
        if let Some(words) = known {
            self.transcript(now, &id, attempt, Ok(words));
        }
    }

    /// Has the words of an item found that came with its audio. What is asked for meanwhile waits for them, as for those of a turn.
    pub(super) fn find_given_words(&mut self, now: Duration, item: ItemId, ms: u32, samples: Pii<Vec<f32>>) {
        let attempt = 0;
        self.out.push_back(Output::TranscribeGiven { item: item.clone(), attempt, samples });
        self.transcribing.push(Transcribing {
            item,
            attempt,
            partial: Partial::default(),
            ms,
            since: now,
            moments: Moments { owed: now, ..Moments::default() },
            answer: false,
            over_answer: false,
        });
    }

    pub(super) fn transcript(&mut self, now: Duration, id: &ItemId, attempt: u32, words: Result<Pii<String>, Fault>) {
        let Some(at) = self.transcribing.iter().position(|t| t.item == *id && t.attempt == attempt) else {
            return self.words_ahead(now, id, attempt, words);
        };
        let Transcribing { item, partial, ms, mut moments, answer, over_answer, .. } = self.transcribing.remove(at);
        let words = match words {
            Ok(words) => words,
            Err(fault) => {
                self.emit(Event::TranscriptionFailed { item, fault: fault.clone() });
                if !self.fail_waiting_answers(now, &fault) && answer {
                    self.owe(Owed { moments, fault: Some(fault) });
                }
                return;
            }
        };
        let listens_only = over_answer && self.is_sign_of_listening(words.reveal(), ms);
        let has_words = says_something(words.reveal());
        let said_something = has_words && !listens_only;
        if let Some(item) = self.history.get_mut(&item)
            && let Content::Heard { transcript, .. } = &mut item.content
        {
            *transcript = Some(words.clone());
        }
        if said_something {
            self.caller_said(words.reveal());
        }
        let rest = Pii::new(partial.rest(words.reveal()));
        self.emit(Event::Transcribed { item, words, rest, ms });
        moments.transcribed = Some(now);
        if said_something {
            self.caller_is_there();
        }
        if answer && said_something {
            // Whatever was cut short, this turn's answer is to all that was said.
            self.unheard = false;
            self.owe(Owed { moments, fault: None });
        } else if answer {
            if !has_words {
                self.heard_no_words(ms);
            }
            self.turn_came_to_nothing(moments);
        }
    }

    /// What cut an answer short was nothing: a cough, a door, a sign of listening. The caller still waits for that answer, or for the
    /// rest of it.
    pub(super) fn turn_came_to_nothing(&mut self, moments: Moments) {
        let answers = self.answers_turns();
        if answers && std::mem::take(&mut self.unheard) {
            self.owe(Owed { moments, fault: None });
        } else if !answers || !self.interrupted_by_nothing() {
            // The caller has still said nothing.
            self.quiet_since = Some(self.playback.runs_out(moments.owed));
        }
    }

    /// Notes that an answer is owed. Of two, the one that can be given covers both: it answers to all that was said.
    pub(super) fn owe(&mut self, owed: Owed) {
        if owed.fault.is_none() || self.owed.is_none() {
            self.owed = Some(owed);
        }
    }

    pub(super) fn give_up_late_work(&mut self, now: Duration) {
        self.give_up_late_functions(now);
        let late = self.transcribing.iter().filter(|t| t.since + WORK_MAX <= now);
        let late: Vec<(ItemId, u32)> = late.map(|t| (t.item.clone(), t.attempt)).collect();
        for (item, attempt) in late {
            self.out.push_back(Output::GiveUpWords { item: item.clone() });
            self.transcript(now, &item, attempt, Err(too_late("finding the words of this turn")));
        }
        let is_late = |answer: &&Answer| answer.deadline().is_some_and(|at| at <= now);
        let late = self.answer.iter().chain(&self.beside).filter(is_late);
        let late: Vec<ResponseId> = late.map(|answer| answer.about.response.clone()).collect();
        for response in late {
            self.end(now, &response, Status::Failed(too_late("answering")));
        }
    }
}

fn too_late(what: &str) -> Fault {
    Fault {
        code: "timeout".into(),
        message: format!("{what} took more than {} s; this node is overloaded, try another one", WORK_MAX.as_secs()),
    }
}
