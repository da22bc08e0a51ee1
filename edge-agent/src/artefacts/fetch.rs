//! Fetching model files: from neighbours where there are any, and from the control plane, on streams behind the control messages.
//!
//! FAILURE LADDER: a neighbour that fails in any way, is slow or sends a wrong chunk is left for the next, and after the last of them for the
//! control plane, which goes on at the very byte; a lost connection waits for the next and goes on at the very byte; a stream that ends early is opened again,
//! as long as bytes come; a wrong chunk is fetched again, three times at most; after that the state is refused.
//! BACKPRESSURE: at most [`QUEUED_PIECES_MAX`] pieces wait for the disk; then the stream is not read, and QUIC slows the sender.

use super::store::{ArtefactStore, Incoming, StoreError};
use crate::neighbours::find::Finder;
use nearfield_shared::{
    artefact::{Content, Digest},
    link::Refusal,
    wire::{ArtefactReply, ArtefactRequest, Frame, Limit, frame::HEADER_BYTES},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

/// Pieces of up to 64 KiB between the network and the disk: 1 MiB, a few milliseconds of a fast link.
const QUEUED_PIECES_MAX: usize = 16;
const PIECE_BYTES: usize = 64 << 10;

/// Times that a chunk may come wrong before the artefact is refused: once may be a bad cable, thrice is a bad file.
const WRONG_CHUNKS_MAX: u32 = 3;

/// Streams in a row that bring no byte before the fetch is given up.
const BARREN_STREAMS_MAX: u32 = 5;

/// Rest between streams that failed while the connection stands.
const STREAM_PAUSE: Duration = Duration::from_millis(500);

/// Priority of artefact streams; the control stream has 0.
const STREAM_PRIORITY: i32 = -1;

/// Longest time in which a neighbour sends nothing, and what it may take on top of [`NEIGHBOUR_BYTES_PER_SECOND_MIN`] in all.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_secs(5);

/// A neighbour that is slower than this on the whole is left: the control plane is quicker over most lines.
const NEIGHBOUR_BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// The connection to the control plane, while there is one.
pub type Connections = watch::Receiver<Option<quinn::Connection>>;

/// Why an artefact was not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// It came, and cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control plane does not have it.
    #[error(
        "the control plane does not hold artefact {0}; import the model or the agent again with `control-plane model import` or `agent import`"
    )]
    NotThere(Digest),
    /// The control plane's file has another size than its manifest says.
    #[error("the control plane offers {found} bytes from byte {offset} on, where the manifest says {wanted}")]
    WrongSize {
        /// The first byte asked for.
        offset: u64,
        /// Bytes offered.
        found: u64,
        /// Bytes that the manifest leaves.
        wanted: u64,
    },
    /// The streams bring nothing.
    #[error("{BARREN_STREAMS_MAX} streams in a row brought no byte, the last because: {0}")]
    Barren(String),
    /// The agent goes down.
    #[error("the agent goes down")]
    Stopping,
}

/// How far the fetch in progress is; shared with `status`.
#[derive(Debug, Clone, Default)]
pub struct Progress {
    have: Arc<AtomicU64>,
    total: Arc<AtomicU64>,
    fetched: Arc<AtomicU64>,
    near: Arc<AtomicU64>,
}

impl Progress {
    /// Bytes of the file in progress that are here, and its size; both 0 when nothing is being fetched.
    pub fn in_file(&self) -> (u64, u64) {
        (self.have.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    /// Bytes that came over the network since the start.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// How many of them came from neighbours.
    pub fn near_bytes(&self) -> u64 {
        self.near.load(Ordering::Relaxed)
    }

    fn set(&self, have: u64, total: u64) {
        self.have.store(have, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }
}

/// Fetches artefacts over whatever connection stands.
#[derive(Debug, Clone)]
pub struct Fetcher {
    connections: Connections,
    progress: Progress,
    near: Option<Finder>,
}

/// Where bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Plane,
    Neighbour,
}

/// How one stream ended.
enum StreamEnd {
    Complete,
    /// The connection or the stream broke.
    Cut(String),
    /// What came, or what was offered, cannot be used.
    Unusable(FetchError),
}

impl Fetcher {
    /// A fetcher over these connections.
    pub fn new(connections: Connections, progress: Progress) -> Self {
        Self { connections, progress, near: None }
    }

    /// The same, which asks neighbours first.
    #[must_use]
    pub fn with_neighbours(self, near: Option<Finder>) -> Self {
        Self { near, ..self }
    }

    /// Makes sure that the whole file is in the store. Dropping the future stops the fetch; what came stays on the disk.
    pub async fn fetch<C>(&mut self, store: &ArtefactStore, manifest: &C) -> Result<(), FetchError>
    where
        C: Content + Clone + Send + Sync + 'static,
    {
        if store.holds(manifest) {
            return Ok(());
        }
        let fetched = self.fetch_missing(store, manifest).await;
        self.progress.set(0, 0);
        fetched
    }

    async fn fetch_missing<C>(&mut self, store: &ArtefactStore, manifest: &C) -> Result<(), FetchError>
    where
        C: Content + Clone + Send + Sync + 'static,
    {
        let digest = manifest.digest();
        let mut incoming = on_disk({
            let (store, manifest) = (store.clone(), manifest.clone());
            move || store.begin(&manifest)
        })
        .await??;
        if let Some(near) = self.near.clone() {
            incoming = self.fetch_from_neighbours(&near, digest, incoming).await?;
        }
        let (mut wrong_chunks, mut barren_streams) = (0, 0);
        while !incoming.is_complete() {
            let connection = self.connected().await?;
            let before = incoming.offset();
            let ended;
            (incoming, ended) = self.one_stream(&connection, digest, incoming, Source::Plane).await?;
            match ended {
                StreamEnd::Complete => {}
                StreamEnd::Cut(reason) => {
                    tracing::info!(artefact = %digest, at = incoming.offset(), %reason, "artefact stream cut");
                    barren_streams = if incoming.offset() == before { barren_streams + 1 } else { 0 };
                    if barren_streams >= BARREN_STREAMS_MAX && connection.close_reason().is_none() {
                        return Err(FetchError::Barren(reason));
                    }
                    self.pause_after_cut(&connection).await;
                }
                StreamEnd::Unusable(FetchError::Store(StoreError::Refused(refusal @ Refusal::WrongChunk { .. }))) => {
                    wrong_chunks += 1;
                    tracing::warn!(artefact = %digest, %refusal, "a wrong chunk arrived");
                    if wrong_chunks >= WRONG_CHUNKS_MAX {
                        return Err(StoreError::Refused(refusal).into());
                    }
                }
                StreamEnd::Unusable(e) => return Err(e),
            }
        }
        on_disk(move || incoming.finish()).await??;
        Ok(())
    }

    /// Takes what neighbours give, from one after the other, until the file is whole or none is left.
    async fn fetch_from_neighbours(
        &mut self,
        near: &Finder,
        digest: Digest,
        mut incoming: Incoming,
    ) -> Result<Incoming, FetchError> {
        let plane = self.connected().await?;
        for address in near.find(&plane, digest).await {
            if incoming.is_complete() {
                break;
            }
            let connection = match near.dial(address).await {
                Ok(connection) => connection,
                Err(reason) => {
                    tracing::info!(%address, %reason, "a neighbour is not reached");
                    continue;
                }
            };
            let before = incoming.offset();
            let ended;
            (incoming, ended) = self.one_stream(&connection, digest, incoming, Source::Neighbour).await?;
            connection.close(0_u32.into(), b"done");
            let bytes = incoming.offset().saturating_sub(before);
            match ended {
                StreamEnd::Complete => {
                    tracing::info!(artefact = %digest, %address, bytes, "a neighbour gave the rest of a model");
                }
                StreamEnd::Cut(reason) => tracing::info!(%address, bytes, %reason, "a neighbour gave a part"),
                // A full disk is told by the control plane's turn, which meets it at its first byte.
                StreamEnd::Unusable(reason) => tracing::warn!(%address, bytes, %reason, "a neighbour is left"),
            }
        }
        Ok(incoming)
    }

    /// Waits for a connection.
    async fn connected(&mut self) -> Result<quinn::Connection, FetchError> {
        loop {
            let standing = self
                .connections
                .wait_for(|connection| connection.as_ref().is_some_and(|c| c.close_reason().is_none()))
                .await
                .map_err(|_| FetchError::Stopping)?;
            if let Some(connection) = standing.as_ref() {
                return Ok(connection.clone());
            }
        }
    }

    /// Waits a moment, or until the broken connection is replaced.
    async fn pause_after_cut(&mut self, broken: &quinn::Connection) {
        if broken.close_reason().is_none() {
            tokio::time::sleep(STREAM_PAUSE).await;
        } else {
            // The owner of the link replaces the value; until then the broken one must not be tried in a hot loop.
            let id = broken.stable_id();
            let replaced = self.connections.wait_for(|c| c.as_ref().is_none_or(|c| c.stable_id() != id));
            let _ = tokio::time::timeout(STREAM_PAUSE, replaced).await;
        }
    }

    /// Asks for the rest of the file on one stream and writes what comes.
    async fn one_stream(
        &self,
        connection: &quinn::Connection,
        digest: Digest,
        incoming: Incoming,
        source: Source,
    ) -> Result<(Incoming, StreamEnd), FetchError> {
        let offset = incoming.offset();
        let wanted = incoming.total_bytes() - offset;
        let unusable = |incoming, e| Ok((incoming, StreamEnd::Unusable(e)));
        let began = Instant::now();
        let asked = ask(connection, ArtefactRequest { digest, offset });
        let mut recv = match within(source.deadline(began, 0), asked).await.unwrap_or_else(Err) {
            Ok((ArtefactReply::Here { bytes }, recv)) if bytes == wanted => recv,
            Ok((ArtefactReply::Here { bytes: found }, _)) => {
                return unusable(incoming, FetchError::WrongSize { offset, found, wanted });
            }
            Ok((ArtefactReply::BadOffset { size }, _)) => {
                let found = size.saturating_sub(offset);
                return unusable(incoming, FetchError::WrongSize { offset, found, wanted });
            }
            Ok((ArtefactReply::NotHere, _)) => return unusable(incoming, FetchError::NotThere(digest)),
            Ok((ArtefactReply::Busy, _)) => return Ok((incoming, StreamEnd::Cut("it gives enough already".into()))),
            Ok((ArtefactReply::Unknown(kind), _)) => {
                let reason = format!("the answer is of kind {kind}, which this agent does not know");
                return Ok((incoming, StreamEnd::Cut(reason)));
            }
            Err(reason) => return Ok((incoming, StreamEnd::Cut(reason))),
        };
        let (to_disk, pieces) = mpsc::channel::<Vec<u8>>(QUEUED_PIECES_MAX);
        let writer = tokio::task::spawn_blocking({
            let progress = self.progress.clone();
            move || write_pieces(incoming, pieces, &progress, source)
        });
        let mut cut = None;
        let mut received = 0;
        loop {
            let next = within(source.deadline(began, received), recv.read_chunk(PIECE_BYTES, true)).await;
            match next.and_then(|next| next.map_err(|e| e.to_string())) {
                Ok(Some(chunk)) => {
                    received += chunk.bytes.len() as u64;
                    // The writer hangs up when it refuses a piece.
                    if to_disk.send(chunk.bytes.to_vec()).await.is_err() {
                        break;
                    }
                }
                Ok(None) => break,
                Err(e) => {
                    cut = Some(e);
                    break;
                }
            }
        }
        drop(to_disk);
        let (incoming, written) = writer.await.map_err(|_| FetchError::Stopping)?;
        let ended = match written {
            Err(e) => StreamEnd::Unusable(e.into()),
            Ok(()) if incoming.is_complete() => StreamEnd::Complete,
            Ok(()) => StreamEnd::Cut(cut.unwrap_or_else(|| "the stream ended before the file".into())),
        };
        Ok((incoming, ended))
    }
}

impl Source {
    /// When the next bytes must be there, after so many of a stream; the control plane is waited for as long as its connection stands.
    fn deadline(self, began: Instant, received: u64) -> Option<Instant> {
        let slowest = Duration::from_secs_f64(received as f64 / NEIGHBOUR_BYTES_PER_SECOND_MIN as f64);
        let whole = began + NEIGHBOUR_PATIENCE + slowest;
        (self == Self::Neighbour).then(|| whole.min(Instant::now() + NEIGHBOUR_PATIENCE))
    }
}

async fn within<T>(deadline: Option<Instant>, work: impl Future<Output = T>) -> Result<T, String> {
    match deadline {
        Some(deadline) => timeout_at(deadline, work).await.map_err(|_| "it is too slow".to_owned()),
        None => Ok(work.await),
    }
}

fn write_pieces(
    mut incoming: Incoming,
    mut pieces: mpsc::Receiver<Vec<u8>>,
    progress: &Progress,
    source: Source,
) -> (Incoming, Result<(), StoreError>) {
    while let Some(piece) = pieces.blocking_recv() {
        progress.fetched.fetch_add(piece.len() as u64, Ordering::Relaxed);
        if source == Source::Neighbour {
            progress.near.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        if let Err(e) = incoming.write(&piece) {
            return (incoming, Err(e));
        }
        progress.set(incoming.offset(), incoming.total_bytes());
    }
    (incoming, Ok(()))
}

async fn ask(
    connection: &quinn::Connection,
    request: ArtefactRequest,
) -> Result<(ArtefactReply, quinn::RecvStream), String> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| e.to_string())?;
    send.set_priority(STREAM_PRIORITY).map_err(|e| e.to_string())?;
    let request = request.encode().map_err(|e| e.to_string())?;
    send.write_all(&request).await.map_err(|e| e.to_string())?;
    send.finish().map_err(|e| e.to_string())?;
    let frame = read_frame(&mut recv, Limit::ARTEFACT).await?;
    let reply = ArtefactReply::decode(&frame).map_err(|e| e.to_string())?;
    Ok((reply, recv))
}

/// Reads one frame from a stream on which raw bytes may follow.
pub(crate) async fn read_frame(recv: &mut quinn::RecvStream, limit: Limit) -> Result<Frame, String> {
    let mut header = [0; HEADER_BYTES];
    recv.read_exact(&mut header).await.map_err(|e| e.to_string())?;
    let (json_bytes, kind) = Frame::parse_header(header, limit).map_err(|e| e.to_string())?;
    let mut body = vec![0; json_bytes];
    recv.read_exact(&mut body).await.map_err(|e| e.to_string())?;
    Ok(Frame { kind, body })
}

async fn on_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| FetchError::Stopping)
}
