//! The running daemon's socket: `status` and `vault` ask through it.
//!
//! A Unix socket with mode 0600 in the state folder: who may use it is decided by the file system. One line of JSON goes in,
//! one comes back. Transcripts pass through only under the permit that the daemon's own policy gives.

use crate::{
    control::unix_now_s,
    state_dir::StateDir,
    status::{StatusReport, StatusSource},
    vault::{Kept, Speaker, Transcript, Vault},
};
use nearfield_shared::policy::{Request, decide};
use serde::{Deserialize, Serialize};
use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Longest question in bytes.
const ASK_BYTES_MAX: u64 = 4 << 10;
/// Longest answer in bytes: one transcript, or the list of a full vault (about 130 bytes each).
const ANSWER_BYTES_MAX: u64 = 32 << 20;
/// Questions answered at once.
const ASKERS_MAX: usize = 8;
/// Longest time for one question.
const ASK_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest path that a Unix socket address holds, with its final zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub enum Ask {
    /// How the node is.
    Status,
    /// What the vault holds.
    VaultList,
    /// One transcript.
    VaultShow {
        /// The call.
        call: Uuid,
    },
    /// Erase one transcript, or all.
    VaultErase {
        /// The call; all where none is named.
        call: Option<Uuid>,
    },
}

/// What comes back.
#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// How the node is.
    Status(Box<StatusReport>),
    /// What the vault holds.
    Kept {
        /// Oldest first.
        kept: Vec<Kept>,
    },
    /// One transcript, in the clear: it was asked for, under a permit, by who owns the socket.
    Transcript(Shown),
    /// So many transcripts are gone.
    Erased {
        /// How many.
        erased: usize,
    },
    /// It was not done.
    Failed {
        /// Why, with the remedy.
        reason: String,
    },
}

/// A transcript on its way to the person who asked for it. Does not print.
#[derive(Clone, Serialize, Deserialize)]
pub struct Shown {
    /// The call.
    pub call: Uuid,
    /// The assistant that took it.
    pub assistant: String,
    /// Who said what, in order.
    pub said: Vec<(Speaker, String)>,
}

impl From<Transcript> for Shown {
    fn from(transcript: Transcript) -> Self {
        let said = transcript.said.into_iter().map(|said| (said.speaker, said.text.into_inner())).collect();
        Self { call: transcript.call, assistant: transcript.assistant, said }
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No daemon runs on the folder.
    #[error("no edge-agent is running on {0}; start it with `edge-agent run`, or name its folder with --dir")]
    NotRunning(PathBuf),
    /// The socket failed.
    #[error("the running edge-agent did not answer: {0}")]
    Broken(String),
}

/// A socket's place. Where the folder's path is too long for a socket address, it is reached through the folder's descriptor.
struct SocketPlace {
    path: PathBuf,
    _folder: Option<File>,
}

impl SocketPlace {
    fn of(socket: &Path) -> io::Result<Self> {
        if socket.as_os_str().as_bytes().len() <= SOCKET_PATH_BYTES_MAX {
            return Ok(Self { path: socket.to_owned(), _folder: None });
        }
        let parent = socket.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let folder = OpenOptions::new().read(true).open(parent)?;
        let name = socket.file_name().unwrap_or_default();
        Ok(Self { path: Path::new(&format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name), _folder: Some(folder) })
    }
}

/// Opens the socket. The caller holds the folder's lock, so a socket that stands there is a leftover.
pub fn listen(dir: &StateDir) -> io::Result<UnixListener> {
    let socket = dir.socket();
    match fs::remove_file(&socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(SocketPlace::of(&socket)?.path)?;
    // The folder is 0700 already; this is the second lock on the same door.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Answers questions until the token fires.
pub async fn serve(listener: UnixListener, status: StatusSource, vault: Vault, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(ASKERS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "the admin socket could not accept");
                    // Out of descriptors, most likely: trying again at once would only spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => return,
        };
        let (status, vault) = (status.clone(), vault.clone());
        tokio::spawn(async move {
            let answered = tokio::time::timeout(ASK_TIMEOUT, answer_one(stream, &status, &vault)).await;
            if let Ok(Err(e)) = answered {
                tracing::debug!(error = %e, "an asker went away");
            }
            drop(place);
        });
    }
}

async fn answer_one(mut stream: UnixStream, status: &StatusSource, vault: &Vault) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut line = String::new();
    BufReader::new(read.take(ASK_BYTES_MAX)).read_line(&mut line).await?;
    let answer = match serde_json::from_str::<Ask>(&line) {
        Ok(ask) => answer(ask, status, vault).await,
        Err(e) => Answer::Failed { reason: format!("the question is not understood: {e}") },
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    write.write_all(&bytes).await
}

async fn answer(ask: Ask, status: &StatusSource, vault: &Vault) -> Answer {
    match ask {
        Ask::Status => Answer::Status(Box::new(status.report())),
        vault_ask => {
            let policy = status.serving.borrow().policy.clone();
            answer_about_vault(vault_ask, vault, policy.as_ref()).await
        }
    }
}

/// Answers a question about the vault under a policy; also used by the command line while no daemon runs.
pub async fn answer_about_vault(ask: Ask, vault: &Vault, policy: Option<&nearfield_shared::policy::Policy>) -> Answer {
    let permit = |request| decide(policy, &request).map_err(|denial| denial.to_string());
    let answered = match ask {
        Ask::VaultList => vault.list().await.map(|kept| Answer::Kept { kept }).map_err(|e| e.to_string()),
        Ask::VaultShow { call } => match permit(Request::ReadTranscript) {
            Ok(permit) => {
                vault.show(&permit, call).await.map(|t| Answer::Transcript(t.into())).map_err(|e| e.to_string())
            }
            Err(reason) => Err(reason),
        },
        Ask::VaultErase { call } => match permit(Request::EraseTranscript) {
            Ok(permit) => {
                let erased = vault.erase(&permit, call).await;
                if let Ok(erased) = &erased {
                    tracing::info!(erased, at_unix_s = unix_now_s(), "transcripts erased on request");
                }
                erased.map(|erased| Answer::Erased { erased }).map_err(|e| e.to_string())
            }
            Err(reason) => Err(reason),
        },
        Ask::Status => Err("a question about the vault was expected".to_owned()),
    };
    answered.unwrap_or_else(|reason| Answer::Failed { reason })
}

/// Asks the daemon of this folder.
pub async fn ask(dir: &StateDir, ask: &Ask) -> Result<Answer, AskError> {
    let broken = |e: String| AskError::Broken(e);
    let place = SocketPlace::of(&dir.socket()).map_err(|e| broken(e.to_string()))?;
    let mut stream = match UnixStream::connect(&place.path).await {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Err(AskError::NotRunning(dir.root().to_owned()));
        }
        Err(e) => return Err(broken(e.to_string())),
    };
    let exchange = async {
        let mut line = serde_json::to_vec(ask)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let mut bytes = Vec::new();
        (&mut stream).take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await?;
        Ok::<_, io::Error>(serde_json::from_slice::<Answer>(&bytes)?)
    };
    match tokio::time::timeout(ASK_TIMEOUT, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(e)) => Err(broken(e.to_string())),
        Err(_) => Err(broken(format!("nothing came within {} s", ASK_TIMEOUT.as_secs()))),
    }
}
