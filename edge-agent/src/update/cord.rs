//! What a daemon and its supervisor say to one another: lines of JSON over a socket that the daemon inherits.
//!
//! The two may be of different versions, so what is here only ever grows: fields with defaults, and words that the other side may not know
//! and passes over.

use super::{Program, Terms};
use nearfield_shared::desired::Generation;
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _},
        unix::net::UnixStream as StdStream,
    },
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixStream, unix::OwnedWriteHalf},
    sync::{Mutex, mpsc},
};
use tokio_util::sync::CancellationToken;

/// The variable that tells a daemon that it is supervised.
pub const VARIABLE: &str = "NEARFIELD_SUPERVISOR";

/// Longest line.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// What a daemon is told in [`VARIABLE`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handed {
    /// The inherited socket.
    pub fd: i32,
    /// What the daemon is.
    pub program: Program,
    /// Whether it is being tried: it says that it is healthy before it takes a new state.
    #[serde(default)]
    pub trial: bool,
    /// Whether it was healthy on this node before.
    #[serde(default)]
    pub proven: bool,
}

/// What a daemon says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum ToSupervisor {
    /// The trial is healthy.
    Healthy,
    /// Try this program when the daemon has gone.
    Try {
        /// The program.
        program: Program,
        /// The generation that asks for it.
        generation: Generation,
        /// How long it may take.
        terms: Terms,
    },
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

/// What a supervisor says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromSupervisor {
    /// It is on the disk.
    Taken,
    /// It is not.
    Failed {
        /// Why.
        words: String,
    },
    /// Stop without waiting for calls.
    StopAtOnce,
    /// A word of a later version.
    #[serde(other)]
    Unknown,
}

/// Why a supervisor did not take what was said.
#[derive(Debug, thiserror::Error)]
pub enum CordError {
    /// It is gone.
    #[error("the supervisor is gone")]
    Gone,
    /// It could not write it down.
    #[error("the supervisor could not write it down: {0}")]
    Failed(String),
}

/// A daemon's end.
#[derive(Debug)]
pub struct Cord {
    /// What the daemon was told.
    pub handed: Handed,
    write: Mutex<OwnedWriteHalf>,
    answers: Mutex<mpsc::Receiver<FromSupervisor>>,
    stop_at_once: CancellationToken,
}

impl Handed {
    /// What this process was told; `None` where nobody supervises it.
    pub fn own() -> Option<Self> {
        let handed: Self = serde_json::from_str(&std::env::var(VARIABLE).ok()?).ok()?;
        // SAFETY: F_SETFD changes a flag of a descriptor, or fails where there is none of this number.
        let inherited = handed.fd > 2 && unsafe { libc::fcntl(handed.fd, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
        inherited.then_some(handed)
    }
}

impl Cord {
    /// Takes the inherited socket, once, within a runtime.
    ///
    /// # Errors
    /// Where the number is no socket.
    pub fn take(handed: Handed) -> io::Result<Self> {
        // SAFETY: the supervisor made the socket for this process, and nothing else in it knows the number.
        let stream = unsafe { StdStream::from_raw_fd(handed.fd) };
        stream.set_nonblocking(true)?;
        let (read, write) = UnixStream::from_std(stream)?.into_split();
        let (answer, answers) = mpsc::channel(1);
        let stop_at_once = CancellationToken::new();
        tokio::spawn({
            let stop_at_once = stop_at_once.clone();
            async move {
                let mut ear = Ear::new(BufReader::new(read));
                while let Some(said) = ear.hear::<FromSupervisor>().await {
                    match said {
                        FromSupervisor::StopAtOnce => stop_at_once.cancel(),
                        FromSupervisor::Unknown => {}
                        said => {
                            if answer.send(said).await.is_err() {
                                return;
                            }
                        }
                    }
                }
            }
        });
        Ok(Self { handed, write: Mutex::new(write), answers: Mutex::new(answers), stop_at_once })
    }

    /// Fires when the daemon should stop without waiting for calls.
    pub fn stop_at_once(&self) -> &CancellationToken {
        &self.stop_at_once
    }

    /// Says something and waits until it is on the disk.
    ///
    /// # Errors
    /// Where it is not.
    pub async fn say(&self, said: &ToSupervisor) -> Result<(), CordError> {
        let mut answers = self.answers.lock().await;
        let line = line(said).map_err(|e| CordError::Failed(e.to_string()))?;
        self.write.lock().await.write_all(&line).await.map_err(|_| CordError::Gone)?;
        match answers.recv().await {
            Some(FromSupervisor::Taken) => Ok(()),
            Some(FromSupervisor::Failed { words }) => Err(CordError::Failed(words)),
            _ => Err(CordError::Gone),
        }
    }
}

/// A supervisor's end, and the socket that its daemon inherits.
pub(super) fn pair() -> io::Result<(UnixStream, StdStream)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs))
}

/// The number under which a daemon inherits its socket.
pub(super) fn number(socket: &StdStream) -> i32 {
    socket.as_raw_fd()
}

/// One line.
pub(super) fn line(said: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    Ok(line)
}

/// Reads lines. What has come of one that is not whole is kept, so that waiting for it can be given up at any moment.
#[derive(Debug)]
pub(super) struct Ear<R> {
    read: R,
    partial: Vec<u8>,
}

impl<R: AsyncBufRead + Unpin> Ear<R> {
    pub(super) fn new(read: R) -> Self {
        Self { read, partial: Vec::new() }
    }

    /// The next line; `None` at the end, or where the other side says nonsense.
    pub(super) async fn hear<T: for<'de> Deserialize<'de>>(&mut self) -> Option<T> {
        let room = LINE_BYTES_MAX.saturating_sub(self.partial.len() as u64);
        (&mut self.read).take(room).read_until(b'\n', &mut self.partial).await.ok()?;
        let line = std::mem::take(&mut self.partial);
        if line.last() == Some(&b'\n') { serde_json::from_slice(&line).ok() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn words_of_a_later_version_are_passed_over_and_nonsense_ends_it() {
        let text = b"{\"say\":\"healthy\"}\n{\"say\":\"sing\",\"song\":1}\n\"x\"\n{\"say\":\"healthy\"}\n".as_slice();
        let mut ear = Ear::new(text);
        assert_eq!(ear.hear().await, Some(ToSupervisor::Healthy));
        assert_eq!(ear.hear().await, Some(ToSupervisor::Unknown));
        assert_eq!(ear.hear::<ToSupervisor>().await, None);
        let endless = vec![b'x'; 1 << 20];
        assert_eq!(Ear::new(endless.as_slice()).hear::<ToSupervisor>().await, None);
    }

    #[test]
    fn what_is_handed_over_never_changes_its_form() {
        let handed = Handed { fd: 9, program: Program::Installed, trial: true, proven: false };
        let text = r#"{"fd":9,"program":"installed","trial":true,"proven":false}"#;
        assert_eq!(serde_json::to_string(&handed).expect("writes"), text);
        let short = r#"{"fd":9,"program":{"release":{"digest":"DIGEST","version":"2"}},"later":1}"#;
        let short = short.replace("DIGEST", &"00".repeat(32));
        let read: Handed = serde_json::from_str(&short).expect("reads");
        assert!(!read.trial && read.program.digest().is_some());
    }
}
