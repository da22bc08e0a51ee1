//! What a caller on the telephone has heard, by the marks that come back. Pure.
//!
//! A mark follows each piece of audio. The provider sends it back when what stands before it was played; after `clear` it sends back
//! all others, too, which therefore count no more.

use nearfield_dialogue::ids::ResponseId;
use std::collections::VecDeque;

/// Marks that did not come back yet: thirteen minutes of audio, more than any answer is long.
const MARKS_MAX: usize = 4_096;

/// Answers that are remembered. Only the last ones can still be heard.
const ANSWERS_MAX: usize = 8;

struct Mark {
    number: u64,
    response: ResponseId,
    /// Audio of the answer before this mark, in milliseconds.
    ms: u32,
}

struct Answer {
    response: ResponseId,
    /// The item that it speaks, once that is known.
    item: Option<String>,
    sent_ms: u32,
    heard_ms: u32,
    /// Audio was thrown away since the conversation last said how much of it was heard.
    was_cut: bool,
}

/// Playback of one call.
#[derive(Default)]
pub struct Phone {
    marks: VecDeque<Mark>,
    marks_made: u64,
    answers: VecDeque<Answer>,
    /// Whether any mark ever came back: a provider that sends none tells nothing about what was heard.
    is_telling: bool,
}

impl Phone {
    /// Audio of an answer was sent; gives the name of the mark that follows it.
    pub fn sent(&mut self, response: &ResponseId, ms: u32) -> String {
        let answer = self.answer(response);
        answer.sent_ms += ms;
        let ms = answer.sent_ms;
        if self.marks.len() >= MARKS_MAX {
            self.marks.pop_front();
        }
        self.marks_made += 1;
        self.marks.push_back(Mark { number: self.marks_made, response: response.clone(), ms });
        self.marks_made.to_string()
    }

    /// An answer speaks this item.
    pub fn speaks(&mut self, response: &ResponseId, item: &str) {
        self.answer(response).item = Some(item.to_owned());
    }

    /// A mark came back.
    pub fn came_back(&mut self, name: &str) {
        let number = name.parse::<u64>().ok();
        let Some(at) = self.marks.iter().position(|mark| Some(mark.number) == number) else { return };
        self.is_telling = true;
        for mark in self.marks.drain(..=at).collect::<Vec<_>>() {
            self.answer(&mark.response).heard_ms = mark.ms;
        }
    }

    /// Everything that was not played is thrown away; says whether there is any.
    pub fn cut(&mut self) -> bool {
        let any = !self.marks.is_empty();
        self.marks.clear();
        if any {
            self.answers.iter_mut().for_each(|answer| answer.was_cut = true);
        }
        any
    }

    /// An answer's audio that was not sent is not sent any more.
    pub fn take_back(&mut self, response: &ResponseId) {
        self.marks.retain(|mark| mark.response != *response);
    }

    /// The conversation has cut an item by its own estimate; gives how much of it was heard, where that is known better.
    pub fn was_truncated(&mut self, item: &str) -> Option<u32> {
        let answer = self.answers.iter_mut().find(|answer| answer.item.as_deref() == Some(item))?;
        let was_cut = std::mem::take(&mut answer.was_cut);
        (was_cut && self.is_telling).then_some(answer.heard_ms)
    }

    fn answer(&mut self, response: &ResponseId) -> &mut Answer {
        let at = self.answers.iter().position(|answer| answer.response == *response).unwrap_or_else(|| {
            if self.answers.len() >= ANSWERS_MAX {
                self.answers.pop_front();
            }
            self.answers.push_back(Answer {
                response: response.clone(),
                item: None,
                sent_ms: 0,
                heard_ms: 0,
                was_cut: false,
            });
            self.answers.len() - 1
        });
        &mut self.answers[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_is_what_the_marks_say_before_the_cut() {
        let (a, b) = (ResponseId::from_client("a"), ResponseId::from_client("b"));
        let mut phone = Phone::default();
        phone.speaks(&a, "item_a");
        let marks: Vec<String> = (0..5).map(|_| phone.sent(&a, 200)).collect();
        phone.came_back(&marks[2]);
        phone.came_back(&marks[1]);
        phone.came_back("nonsense");
        assert!(phone.cut());
        // The provider sends back what it threw away.
        phone.came_back(&marks[3]);
        phone.came_back(&marks[4]);
        assert_eq!(phone.was_truncated("item_a"), Some(600));
        assert_eq!(phone.was_truncated("item_a"), None, "once for each cut");
        assert!(!phone.cut(), "nothing is left");

        phone.speaks(&b, "item_b");
        let marks: Vec<String> = (0..2).map(|_| phone.sent(&b, 200)).collect();
        assert!(phone.cut());
        assert_eq!(phone.was_truncated("item_b"), Some(0));
        phone.came_back(&marks[0]);
        assert_eq!(phone.was_truncated("item_of_nobody"), None);
    }

    #[test]
    fn a_provider_without_marks_leaves_the_estimate_alone_and_takes_no_memory() {
        let mut phone = Phone::default();
        for n in 0..20 {
            let response = ResponseId::from_client(&format!("r{n}"));
            phone.speaks(&response, &format!("item_{n}"));
            (0..1_000).for_each(|_| drop(phone.sent(&response, 200)));
        }
        assert_eq!((phone.marks.len(), phone.answers.len()), (MARKS_MAX, ANSWERS_MAX));
        assert!(phone.cut());
        assert_eq!(phone.was_truncated("item_19"), None);
    }
}
