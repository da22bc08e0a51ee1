//! The QUIC side while another control plane leads: whoever dials is told so, and dials the next address it knows.
//!
//! The handshake is made whole, because only then can the reason be told; nothing is read. BACKPRESSURE: as for links, [`HANDSHAKES_MAX`] at once.

use super::{HANDSHAKE_TIMEOUT, HANDSHAKES_MAX, hang_up};
use crate::store::etcd::Leader;
use nearfield_shared::wire::CLOSE_NOT_LEADING;
use std::{sync::Arc, time::Duration};
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// How long the reason may take to arrive.
const TOLD_TIMEOUT: Duration = Duration::from_secs(2);

/// Turns every connection away until the token fires.
pub async fn turn_away(endpoint: quinn::Endpoint, leader: watch::Receiver<Option<Leader>>, over: CancellationToken) {
    let tasks = TaskTracker::new();
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    loop {
        let next = async {
            let permit = handshakes.clone().acquire_owned().await.ok()?;
            Some((permit, endpoint.accept().await?))
        };
        let next = tokio::select! {
            next = next => next,
            () = over.cancelled() => break,
        };
        let Some((permit, incoming)) = next else { break };
        let reason = match &*leader.borrow() {
            Some(leader) => format!("not leading: {} does", leader.name),
            None => "not leading, and nobody else does yet".to_owned(),
        };
        tasks.spawn(async move {
            let _permit = permit;
            let handshake = async { incoming.accept()?.await };
            if let Ok(Ok(connection)) = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await {
                hang_up(&connection, CLOSE_NOT_LEADING, &reason);
                tokio::time::timeout(TOLD_TIMEOUT, connection.closed()).await.ok();
            }
        });
    }
    tasks.close();
    tokio::time::timeout(TOLD_TIMEOUT, tasks.wait()).await.ok();
}
