//! The spoken side of an answer: its text becomes phrases, they are spoken one after the other, and what was sent is told.

use super::{Call, answer::Answer, beside::BESIDE_PATIENCE};
use crate::{
    events::{Event, Output, Status},
    history::{Content, Item, Role, Speech, Spoken},
    ids::{ItemId, ResponseId},
    ledger::AnsweredBy,
    phrases::Phrase,
};
use nearfield_shared::pii::Pii;
use std::time::Duration;

/// A greeting may come this much later than an answer: nobody has asked for it yet, and it delays the answers of other calls.
const GREETING_PATIENCE: Duration = Duration::from_millis(500);

/// How far speech that goes on may step back to a quiet moment: about a word, so that little is heard twice.
const STEP_BACK_MS: u32 = 300;

/// The length of a quiet moment: the gap of a plosive is shorter, that between two words is not.
const QUIET_MS: u32 = 20;

/// Samples per second of an answer's audio.
const SPOKEN_HZ: u64 = 24_000;

impl Call {
    pub(super) fn take_text(&mut self, now: Duration, response: &ResponseId, piece: &str) {
        let Some(answer) = self.active(response) else { return };
        answer.progress = now;
        if answer.about.spoken {
            let phrases = answer.phraser.push(piece);
            self.take_phrases(now, response, phrases);
            self.be_brief(now, response);
        } else if !piece.is_empty() {
            answer.moments.first_phrase.get_or_insert(now);
            self.sent_words(response, piece.to_owned());
        }
    }

    /// Ends the text of a long answer with the sentence that makes it long. That is a whole answer, not one cut off.
    fn be_brief(&mut self, now: Duration, response: &ResponseId) {
        let chars_max = self.settings.spoken_chars_max;
        let Some(answer) = self.active(response) else { return };
        let by_model = answer.source == Some(AnsweredBy::Model);
        if !by_model || answer.text_done.is_some() || answer.phrased_chars < chars_max {
            return;
        }
        if answer.waiting.back().is_some_and(|phrase| phrase.words.reveal().ends_with(['.', '!', '?', '"'])) {
            answer.text_done = Some(false);
            answer.progress = now;
            self.out.push_back(Output::StopGenerating { response: response.clone() });
        }
    }

    pub(super) fn take_phrases(&mut self, now: Duration, response: &ResponseId, phrases: Vec<String>) {
        let Some(answer) = self.active(response) else { return };
        if !phrases.is_empty() {
            answer.moments.first_phrase.get_or_insert(now);
        }
        answer.phrased_chars += phrases.iter().map(|phrase| phrase.chars().count()).sum::<usize>();
        let own = answer.source != Some(AnsweredBy::Model);
        answer.waiting.extend(phrases.into_iter().map(|text| Phrase::whole(text, own)));
    }

    /// Has the next phrase of the answer in progress spoken, or ends that when there is nothing left to say.
    pub(super) fn speak_next(&mut self, now: Duration) {
        let Some(response) = self.answering().cloned() else { return };
        if let Some(ended) = self.speak_phrase(now, &response) {
            self.end_answer(now, ended);
            self.go_on_after_notice(now);
            self.begin_owed_answer(now);
            self.go_on(now);
            if self.answer.is_some() {
                self.speak_next(now);
            }
        }
    }

    /// Has the next phrase of an answer spoken, one at a time; says how the answer ends when there is nothing left to say.
    pub(super) fn speak_phrase(&mut self, now: Duration, response: &ResponseId) -> Option<Status> {
        let (beside, heard_until) = (self.is_beside(response), self.playback.runs_out(now));
        let answer = self.active(response).filter(|answer| answer.speaking.is_none())?;
        // It stays at the head of the queue: words count as said only when their audio leaves.
        let Some(Phrase { text, own: keep, .. }) = answer.waiting.front().cloned() else {
            return answer.text_done.map(|cut_off| if cut_off { Status::CutOff } else { Status::Completed });
        };
        let phrase = answer.spoken;
        answer.spoken += 1;
        answer.speaking = Some(phrase);
        answer.progress = now;
        let patience = match beside {
            true => BESIDE_PATIENCE,
            false if answer.answers_caller() => Duration::ZERO,
            false => GREETING_PATIENCE,
        };
        let (response, due) = (answer.about.response.clone(), heard_until + patience);
        self.request(Output::Speak { response, phrase, text, keep, due, beside });
        None
    }

    pub(super) fn rendered(&mut self, now: Duration, response: &ResponseId, phrase: u32, mut samples: Vec<f32>) {
        let beside = self.is_beside(response);
        let wanted = |answer: &&mut Answer| answer.about.response == *response && answer.speaking == Some(phrase);
        let Some(answer) = self.active(response).filter(wanted) else { return };
        answer.speaking = None;
        answer.progress = now;
        answer.moments.first_audio.get_or_insert(now);
        let Some(mut phrase) = answer.waiting.pop_front() else { return };
        if phrase.from_ms > 0 {
            let from = quiet_before(&samples, phrase.from_ms);
            phrase.from_ms = (from as u64 * 1000 / SPOKEN_HZ) as u32;
            samples.drain(..from);
        }
        let ms = u32::try_from(samples.len() as u64 * 1000 / SPOKEN_HZ).unwrap_or(u32::MAX);
        answer.audio_ms = answer.audio_ms.saturating_add(ms);
        let first = answer.sent.is_empty();
        let words = phrase.words.reveal();
        let (format, opens) = (answer.about.audio_format, answer.opens_call());
        let item = self.sent_words(response, if first { words.clone() } else { format!(" {words}") });
        if !beside {
            self.playback_grows(now, ms, &item, phrase);
        }
        self.out.push_back(Output::Audio { response: response.clone(), item, samples, format, opens });
    }

    /// Audio of an answer that the caller hears was sent.
    fn playback_grows(&mut self, now: Duration, ms: u32, item: &ItemId, phrase: Phrase) {
        self.listener.answered();
        let starts = self.playback.sent(now, ms);
        if let Some(item) = self.history.get_mut(item)
            && let Content::Spoken(speech) = &mut item.content
        {
            speech.phrases.push(Spoken { text: phrase.words.clone(), ms, starts, phrase });
        }
    }

    /// Words leave: the first ones make the item.
    fn sent_words(&mut self, response: &ResponseId, words: String) -> ItemId {
        let Some(answer) = self.active(response) else { return self.ids.item() };
        answer.sent.push_str(&words);
        let (about, begun) = (answer.about.clone(), answer.item.clone());
        let item = match begun {
            Some(item) => item,
            None => {
                let item = self.ids.item();
                let content =
                    if about.spoken { Content::Spoken(Speech::default()) } else { Content::Text(Pii::default()) };
                let previous = if about.in_conversation {
                    self.history.push(Item { id: item.clone(), role: Role::Assistant, content, complete: false })
                } else {
                    None
                };
                if let Some(answer) = self.active(response) {
                    (answer.item, answer.previous) = (Some(item.clone()), previous.clone());
                }
                self.out.push_back(Output::Event(Event::OutputStarted {
                    about: about.clone(),
                    item: item.clone(),
                    previous,
                }));
                item
            }
        };
        if let Some(item) = self.history.get_mut(&item)
            && let Content::Text(text) = &mut item.content
        {
            *text = std::mem::take(text).map(|text| text + &words);
        }
        self.emit(Event::Said { about, item: item.clone(), words: Pii::new(words) });
        item
    }
}

/// Where to begin in the audio of a phrase that was heard up to here: the quietest moment shortly before, so that no word begins in
/// its middle.
fn quiet_before(samples: &[f32], heard_ms: u32) -> usize {
    let at = |ms: u32| (u64::from(ms) * SPOKEN_HZ / 1000) as usize;
    let until = at(heard_ms).min(samples.len());
    let window = at(QUIET_MS);
    let starts = (until.saturating_sub(at(STEP_BACK_MS))..(until + 1).saturating_sub(window)).step_by(window / 2);
    let energy = |start: &usize| samples[*start..*start + window].iter().map(|s| s * s).sum::<f32>();
    starts.min_by(|a, b| energy(a).total_cmp(&energy(b))).map_or(until, |start| start + window / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speech_goes_on_from_a_quiet_moment_shortly_before() {
        let mut samples = vec![0.5f32; SPOKEN_HZ as usize];
        let at = |ms: usize| ms * 24;
        samples[at(600)..at(640)].fill(0.0);
        let from = quiet_before(&samples, 800) / 24;
        assert!((600..640).contains(&from), "{from}");
        // A quiet moment long before is another word's.
        let from = quiet_before(&samples, 990) / 24;
        assert!((690..990).contains(&from), "{from}");
        assert_eq!(quiet_before(&samples, 10), at(10));
        assert!(quiet_before(&samples, 5_000) <= samples.len());
        assert_eq!(quiet_before(&[], 500), 0);
    }
}
