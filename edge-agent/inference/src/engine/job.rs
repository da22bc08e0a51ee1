//! A job on its way through the engine, and how it is answered: exactly once, whatever happens.

use super::door::ModelId;
use super::stepper::{Output, Work};
use super::{Cancel, EngineError};
use std::time::Instant;
use tokio::sync::{mpsc, oneshot};

/// One request of a caller.
pub(crate) struct Job {
    pub work: Work,
    /// When the result (or the first piece of it) is wanted. It orders jobs; a late job is still done.
    pub deadline: Instant,
    /// Whether no call waits for it: it was wanted so late when it came that it is somebody's preparation.
    pub is_background: bool,
    pub cancel: Cancel,
    pub reply: Reply,
    /// The candidate that is to do it; `None` is the live model of its stage. A job never goes to another model than this.
    pub on: Option<ModelId>,
    /// The VAD stream it belongs to. Such a job goes to its stream's slot and to no other.
    pub stream: Option<StreamId>,
}

/// A VAD stream: its slot, and which opening of that slot it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamId {
    pub slot: usize,
    pub generation: u64,
}

impl Job {
    /// Whether nobody wants the result any more. A VAD job is never cancelled: its frames belong to the stream's
    /// recurrent state, which later frames build upon.
    pub fn is_cancelled(&self) -> bool {
        self.stream.is_none() && (self.cancel.is_cancelled() || self.reply.is_gone())
    }
}

/// Where the answer goes. Dropping it unanswered says `WorkerDied`, so that no path can lose a job silently.
pub(crate) struct Reply(Option<Channel>);

enum Channel {
    Whole(oneshot::Sender<Result<Output, EngineError>>),
    Pieces(mpsc::Sender<Result<String, EngineError>>),
}

impl Reply {
    /// An answer that comes as a whole.
    pub fn whole() -> (Self, oneshot::Receiver<Result<Output, EngineError>>) {
        let (sender, receiver) = oneshot::channel();
        (Self(Some(Channel::Whole(sender))), receiver)
    }

    /// An answer that comes in at most `pieces_max` pieces and an end. The channel holds all of them: the engine never
    /// waits for a slow reader.
    pub fn pieces(pieces_max: usize) -> (Self, mpsc::Receiver<Result<String, EngineError>>) {
        let (sender, receiver) = mpsc::channel(pieces_max + 2);
        (Self(Some(Channel::Pieces(sender))), receiver)
    }

    /// Whether the receiving end was dropped.
    pub fn is_gone(&self) -> bool {
        match &self.0 {
            Some(Channel::Whole(sender)) => sender.is_closed(),
            Some(Channel::Pieces(sender)) => sender.is_closed(),
            None => true,
        }
    }

    /// Sends a piece. False if it cannot be taken: the reader left, or the model produced more than was asked for.
    pub fn piece(&self, piece: String) -> bool {
        match &self.0 {
            Some(Channel::Pieces(sender)) => piece.is_empty() || sender.try_send(Ok(piece)).is_ok(),
            _ => false,
        }
    }

    /// Ends the job. A receiver that has left is no error: the job was about to be cancelled.
    pub fn finish(mut self, result: Result<Output, EngineError>) {
        self.answer(result);
    }

    fn answer(&mut self, result: Result<Output, EngineError>) {
        match self.0.take() {
            Some(Channel::Whole(sender)) => drop(sender.send(result)),
            Some(Channel::Pieces(sender)) => match result {
                Ok(Output::End(last)) if last.is_empty() => {}
                Ok(Output::End(last)) => drop(sender.try_send(Ok(last))),
                Ok(_) => drop(sender.try_send(Err(EngineError::Model("the language model produced no text".into())))),
                Err(error) => drop(sender.try_send(Err(error))),
            },
            None => {}
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.answer(Err(EngineError::WorkerDied));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_is_lost_says_that_the_worker_died() {
        let (reply, mut whole) = Reply::whole();
        drop(reply);
        assert_eq!(whole.try_recv().expect("answered"), Err(EngineError::WorkerDied));
        let (reply, mut pieces) = Reply::pieces(3);
        assert!(reply.piece("a".into()));
        drop(reply);
        assert_eq!(pieces.try_recv().expect("first"), Ok("a".to_owned()));
        assert_eq!(pieces.try_recv().expect("second"), Err(EngineError::WorkerDied));
        assert!(pieces.try_recv().is_err(), "it ends exactly once");
    }

    #[test]
    fn a_finished_answer_ends_without_an_error() {
        let (reply, mut pieces) = Reply::pieces(3);
        assert!(reply.piece(String::new()), "half a character is no piece yet");
        reply.finish(Ok(Output::End("b".into())));
        assert_eq!(pieces.try_recv().expect("last"), Ok("b".to_owned()));
        assert_eq!(pieces.try_recv(), Err(mpsc::error::TryRecvError::Disconnected));
    }

    #[test]
    fn more_pieces_than_were_asked_for_are_refused() {
        let (reply, _pieces) = Reply::pieces(1);
        let taken = (0..10).filter(|_| reply.piece("x".into())).count();
        assert_eq!(taken, 3);
    }
}
