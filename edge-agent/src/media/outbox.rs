//! What waits to be sent to one client.
//!
//! BACKPRESSURE: bounded in events and bytes. A client that does not read is cut off with a reason when the bound is reached;
//! the models never wait for it. Audio of a cancelled answer that is still here is taken back.

use nearfield_dialogue::ids::ResponseId;
use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;

/// Events that may wait.
pub const EVENTS_MAX: usize = 4_096;

/// Bytes that may wait: about three minutes of answer as base64 of 24 kHz PCM, more than any answer is long.
pub const BYTES_MAX: usize = 12 << 20;

/// The client reads too slowly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client reads too slowly: {EVENTS_MAX} events or {BYTES_MAX} bytes wait for it")]
pub struct Overflow;

struct Letter {
    text: String,
    /// The answer whose audio this is.
    audio_of: Option<ResponseId>,
}

#[derive(Default)]
struct Waiting {
    letters: VecDeque<Letter>,
    bytes: usize,
    closed: bool,
}

/// The queue between the owner of a call and the task that writes to its socket.
#[derive(Default)]
pub struct Outbox {
    waiting: Mutex<Waiting>,
    changed: Notify,
}

impl Outbox {
    /// Adds an event. `audio_of` marks audio, which [`Outbox::take_back`] can remove.
    pub fn push(&self, text: String, audio_of: Option<ResponseId>) -> Result<(), Overflow> {
        let mut waiting = self.lock();
        if waiting.letters.len() >= EVENTS_MAX || waiting.bytes + text.len() > BYTES_MAX {
            return Err(Overflow);
        }
        waiting.bytes += text.len();
        waiting.letters.push_back(Letter { text, audio_of });
        drop(waiting);
        self.changed.notify_one();
        Ok(())
    }

    /// Takes back the audio of an answer that is not on its way yet.
    pub fn take_back(&self, response: &ResponseId) {
        let mut waiting = self.lock();
        waiting.letters.retain(|letter| letter.audio_of.as_ref() != Some(response));
        waiting.bytes = waiting.letters.iter().map(|letter| letter.text.len()).sum();
    }

    /// No more will come: [`Outbox::next`] returns `None` once everything is out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_one();
    }

    /// Throws away what waits.
    pub fn clear(&self) {
        let mut waiting = self.lock();
        waiting.letters.clear();
        waiting.bytes = 0;
    }

    /// The next event to send; waits for one. For a single reader.
    pub async fn next(&self) -> Option<String> {
        loop {
            {
                let mut waiting = self.lock();
                if let Some(letter) = waiting.letters.pop_front() {
                    waiting.bytes -= letter.text.len();
                    return Some(letter.text);
                }
                if waiting.closed {
                    return None;
                }
            }
            self.changed.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change is complete before anything that could panic.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn audio_of_a_cancelled_answer_is_taken_back_and_nothing_else() {
        let outbox = Outbox::default();
        let (a, b) = (ResponseId::from_client("a"), ResponseId::from_client("b"));
        for (text, of) in [("1", None), ("2", Some(&a)), ("3", Some(&b)), ("4", Some(&a)), ("5", None)] {
            outbox.push(text.into(), of.cloned()).expect("room");
        }
        outbox.take_back(&a);
        outbox.close();
        let mut sent = Vec::new();
        while let Some(text) = outbox.next().await {
            sent.push(text);
        }
        assert_eq!(sent, ["1", "3", "5"]);
        assert_eq!(outbox.lock().bytes, 0);
    }

    #[test]
    fn both_bounds_hold() {
        let outbox = Outbox::default();
        (0..EVENTS_MAX).for_each(|_| outbox.push("x".into(), None).expect("room"));
        assert_eq!(outbox.push("x".into(), None), Err(Overflow));
        let outbox = Outbox::default();
        outbox.push("x".repeat(BYTES_MAX), None).expect("room");
        assert_eq!(outbox.push("x".into(), None), Err(Overflow));
    }
}
