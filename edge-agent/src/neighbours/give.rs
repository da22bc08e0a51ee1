//! Giving: whole, verified model files to members of the region, slowly enough that no call suffers.

use super::members::Credentials;
use crate::{
    artefacts::{ArtefactStore, read_frame},
    control::LinkState,
};
use nearfield_shared::wire::{ArtefactReply, ArtefactRequest, Limit};
use std::{
    io::SeekFrom,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::{Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

/// Connections at once. Who is sent away asks the next neighbour.
pub const CONNECTIONS_MAX: usize = 8;

/// Uploads at once.
pub const UPLOADS_MAX: usize = 2;

/// Bytes a second that all uploads take together: 100 MB in four seconds, and a few hundredths of a core.
pub const BYTES_PER_SECOND: u64 = 25 << 20;

/// Bytes that are read and sent before the pace is looked at again: five milliseconds of it.
const PIECE_BYTES: u64 = 128 << 10;

/// Longest handshake, and longest time for a request to come.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// Longest time in which a neighbour takes nothing of what is ready for it.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);

/// When the next piece may go out, for all uploads together.
#[derive(Debug)]
struct Pace(Mutex<Instant>);

impl Pace {
    /// Waits for the turn of so many bytes.
    async fn turn(&self, bytes: u64) {
        let turn = self.take(Instant::now(), bytes);
        sleep_until(turn).await;
    }

    /// Takes the next turn at or after `now`; the one after it comes when these bytes are through.
    fn take(&self, now: Instant, bytes: u64) -> Instant {
        // Whoever panicked under the lock left a whole moment.
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = now.max(*next);
        *next = turn + Duration::from_secs_f64(bytes as f64 / BYTES_PER_SECOND as f64);
        turn
    }
}

/// The half that gives.
pub struct Giver {
    endpoint: quinn::Endpoint,
    credentials: Credentials,
    link: watch::Receiver<LinkState>,
    store: ArtefactStore,
    connections: Arc<Semaphore>,
    uploads: Arc<Semaphore>,
    pace: Arc<Pace>,
}

impl Giver {
    pub(super) fn new(
        endpoint: quinn::Endpoint,
        credentials: Credentials,
        store: ArtefactStore,
        link: watch::Receiver<LinkState>,
    ) -> Self {
        Self {
            endpoint,
            credentials,
            link,
            store,
            connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            pace: Arc::new(Pace(Mutex::new(Instant::now()))),
        }
    }

    /// Gives until the token fires.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut shown = self.link.borrow_and_update().certificate.valid_unix_s;
        loop {
            tokio::select! {
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => self.take(incoming),
                    None => break,
                },
                Ok(()) = self.link.changed() => {
                    let held = self.link.borrow_and_update().certificate.valid_unix_s;
                    if std::mem::replace(&mut shown, held) != held {
                        self.show_renewed();
                    }
                }
                () = stop.cancelled() => break,
            }
        }
        self.endpoint.close(0_u32.into(), b"the node goes down");
    }

    fn show_renewed(&self) {
        match self.credentials.server() {
            Ok(config) => self.endpoint.set_server_config(Some(config)),
            // The old one still shows who this is, until it ends.
            Err(error) => tracing::warn!(%error, "neighbours are not shown the renewed certificate"),
        }
    }

    fn take(&self, incoming: quinn::Incoming) {
        let Ok(permit) = self.connections.clone().try_acquire_owned() else { return incoming.refuse() };
        let (store, uploads, pace) = (self.store.clone(), self.uploads.clone(), self.pace.clone());
        tokio::spawn(async move {
            let from = incoming.remote_address();
            let handshake = async { incoming.accept()?.await };
            let connection = match timeout(GREETING_TIMEOUT, handshake).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => return tracing::info!(%from, %error, "a neighbour was not let in"),
                Err(_) => return tracing::debug!(%from, "a neighbour's handshake took too long"),
            };
            // One request after the other, so a connection holds one upload at most.
            while let Ok(Ok((send, recv))) = timeout(GREETING_TIMEOUT, connection.accept_bi()).await {
                if let Err(reason) = give(&store, &uploads, &pace, send, recv).await {
                    tracing::info!(%from, %reason, "a neighbour was not given all that it asked for");
                }
            }
            connection.close(0_u32.into(), b"done");
            drop(permit);
        });
    }
}

/// Answers one request.
async fn give(
    store: &ArtefactStore,
    uploads: &Semaphore,
    pace: &Pace,
    mut send: quinn::SendStream,
    mut recv: quinn::RecvStream,
) -> Result<(), String> {
    let said = |e: &dyn std::fmt::Display| e.to_string();
    let asked = timeout(GREETING_TIMEOUT, read_frame(&mut recv, Limit::ARTEFACT));
    let frame = asked.await.map_err(|_| "no request came")??;
    let request = ArtefactRequest::decode(&frame).map_err(|e| said(&e))?.ok_or("its request is of a later version")?;
    // A file of this name was verified before it got it; whoever receives it verifies it again.
    let opened = tokio::fs::File::open(store.path(request.digest)).await;
    let upload = uploads.try_acquire();
    let (reply, mut file) = match (opened, &upload) {
        (Err(_), _) => (ArtefactReply::NotHere, None),
        (Ok(_), Err(_)) => (ArtefactReply::Busy, None),
        (Ok(file), Ok(_)) => {
            let size = file.metadata().await.map_err(|e| said(&e))?.len();
            match size.checked_sub(request.offset) {
                Some(bytes) => (ArtefactReply::Here { bytes }, Some(file)),
                None => (ArtefactReply::BadOffset { size }, None),
            }
        }
    };
    send.write_all(&reply.encode().map_err(|e| said(&e))?).await.map_err(|e| said(&e))?;
    if let (Some(file), ArtefactReply::Here { bytes: mut left }) = (&mut file, reply) {
        tracing::info!(artefact = %request.digest, bytes = left, "giving a model to a neighbour");
        file.seek(SeekFrom::Start(request.offset)).await.map_err(|e| said(&e))?;
        let mut piece = vec![0; PIECE_BYTES as usize];
        while left > 0 {
            let part = &mut piece[..left.min(PIECE_BYTES) as usize];
            pace.turn(part.len() as u64).await;
            file.read_exact(part).await.map_err(|e| said(&e))?;
            timeout(STALL_TIMEOUT, send.write_all(part))
                .await
                .map_err(|_| "it does not read")?
                .map_err(|e| said(&e))?;
            left -= part.len() as u64;
        }
    }
    send.finish().map_err(|e| said(&e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_keep_to_one_pace_together_and_save_nothing_up() {
        let began = Instant::now();
        let pace = Pace(Mutex::new(began));
        // Two uploads, each of which asks when its turn before has come.
        let mut now = [began; 2];
        for piece in 0..200 {
            now[piece % 2] = pace.take(now[piece % 2], PIECE_BYTES);
        }
        let rate = 199.0 * PIECE_BYTES as f64 / (now[1] - began).as_secs_f64();
        assert!((0.99..1.01).contains(&(rate / BYTES_PER_SECOND as f64)), "{rate}");
        let later = now[1] + Duration::from_secs(60);
        assert_eq!(pace.take(later, PIECE_BYTES), later);
        assert!(pace.take(later, PIECE_BYTES) > later, "a pause is not caught up");
    }
}
