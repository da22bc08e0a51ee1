//! Serving the streams on which a node asks: for an artefact (a request, a header, then the file from the byte asked for), for
//! its next certificate, or for neighbours that hold an artefact.

use super::renewal;
use crate::{
    ca::NodeIdentity,
    plane::Plane,
    registry::shelf::{ArtefactCache, cache::PIECE_BYTES},
};
use anyhow::{Context as _, bail};
use nearfield_shared::{
    artefact::Manifest,
    wire::{
        ArtefactReply, ArtefactRequest, Frame, Limit, Neighbours, NeighboursRequest, frame::HEADER_BYTES, neighbour,
        renew,
    },
};
use std::{io::SeekFrom, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

/// Longest time for a request to arrive.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest time in which an agent takes none of the bytes that are ready for it.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);

/// Bytes read from the disk at once. Larger reads gain nothing; smaller ones cost a thread switch each.
const READ_BYTES: usize = 512 << 10;

/// Priority of artefacts; control messages have 0 and go first.
const PRIORITY: i32 = -1;

/// Reads one frame.
pub(crate) async fn read_frame(recv: &mut quinn::RecvStream, limit: Limit) -> anyhow::Result<Frame> {
    let mut header = [0; HEADER_BYTES];
    recv.read_exact(&mut header).await?;
    let (bytes, kind) = Frame::parse_header(header, limit)?;
    let mut body = vec![0; bytes];
    recv.read_exact(&mut body).await?;
    Ok(Frame { kind, body })
}

/// Serves one stream. A stream that fails does not touch the others.
pub async fn serve(
    plane: Arc<Plane>,
    identity: NodeIdentity,
    mut send: quinn::SendStream,
    mut recv: quinn::RecvStream,
) {
    if let Err(error) = answer(&plane, &identity, &mut send, &mut recv).await {
        tracing::debug!(error = format!("{error:#}"), "a stream ended early");
        send.reset(super::close::PROTOCOL.into()).ok();
    }
}

async fn answer(
    plane: &Plane,
    identity: &NodeIdentity,
    send: &mut quinn::SendStream,
    recv: &mut quinn::RecvStream,
) -> anyhow::Result<()> {
    let frame = tokio::time::timeout(REQUEST_TIMEOUT, read_frame(recv, Limit::ENROL)).await.context("no request")??;
    if frame.kind == renew::KIND_REQUEST {
        return renewal::answer(plane, identity, &frame, send).await;
    }
    if frame.kind == neighbour::KIND_REQUEST {
        let NeighboursRequest { digest } = frame.json()?;
        let addresses = plane.look(|fleet| fleet.neighbours(&identity.node, &digest));
        send.write_all(&Neighbours { addresses }.encode()?).await?;
        return Ok(send.finish()?);
    }
    send.set_priority(PRIORITY)?;
    let Some(request) = ArtefactRequest::decode(&frame)? else { bail!("a request of unknown kind {}", frame.kind) };
    // The name is a digest and nothing else, so it cannot lead out of the folder.
    let path = plane.dir.artefact(&request.digest);
    let mut file = match tokio::fs::File::open(&path).await {
        Ok(file) => file,
        Err(error) => {
            if error.kind() != std::io::ErrorKind::NotFound {
                tracing::error!(path = %path.display(), %error, "an artefact cannot be read");
            } else if let (Some(cache), Some(manifest)) = (&plane.artefact_cache, plane.manifest_of(&request.digest)) {
                return from_shelf(plane, cache, &manifest, request.offset, send).await;
            } else if plane.manifest_of(&request.digest).is_some() {
                let digest = request.digest;
                tracing::error!(%digest, "the model's file is not in the state folder; name its place with `artefacts` in config.toml, or import it again");
            }
            send.write_all(&ArtefactReply::NotHere.encode()?).await?;
            return Ok(send.finish()?);
        }
    };
    let size = file.metadata().await?.len();
    let Some(left) = size.checked_sub(request.offset) else {
        send.write_all(&ArtefactReply::BadOffset { size }.encode()?).await?;
        return Ok(send.finish()?);
    };
    send.write_all(&ArtefactReply::Here { bytes: left }.encode()?).await?;
    let _transfer = plane.transfers.begin();
    pass_on(&mut file, request.offset, left, send).await.with_context(|| path.display().to_string())?;
    Ok(send.finish()?)
}

/// Sends so many bytes of a file from this one on.
async fn pass_on(
    file: &mut tokio::fs::File,
    offset: u64,
    mut left: u64,
    send: &mut quinn::SendStream,
) -> anyhow::Result<()> {
    file.seek(SeekFrom::Start(offset)).await?;
    file.set_max_buf_size(READ_BYTES);
    let mut buffer = vec![0; READ_BYTES];
    while left > 0 {
        let want = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let n = file.read(&mut buffer[..want]).await?;
        if n == 0 {
            bail!("it is shorter than it was");
        }
        tokio::time::timeout(STALL_TIMEOUT, send.write_all(&buffer[..n]))
            .await
            .context("the agent does not read")??;
        left -= n as u64;
    }
    Ok(())
}

/// Serves a model that stands on a shelf, piece by piece through the cache. What goes wrong before the first byte is said as if the model were not here, and
/// after it ends the stream: the agent comes again either way, and goes on where it was.
async fn from_shelf(
    plane: &Plane,
    cache: &ArtefactCache,
    manifest: &Manifest,
    mut offset: u64,
    send: &mut quinn::SendStream,
) -> anyhow::Result<()> {
    let size = manifest.bytes;
    let Some(left) = size.checked_sub(offset) else {
        send.write_all(&ArtefactReply::BadOffset { size }.encode()?).await?;
        return Ok(send.finish()?);
    };
    let mut begun = false;
    while offset < size {
        let piece = cache.piece(manifest, offset).await;
        if let Err(error) = &piece {
            tracing::error!(model = manifest.name, %error, "a model cannot be served");
            if !begun {
                send.write_all(&ArtefactReply::NotHere.encode()?).await?;
                return Ok(send.finish()?);
            }
        }
        if !begun {
            send.write_all(&ArtefactReply::Here { bytes: left }.encode()?).await?;
            begun = true;
        }
        let _transfer = plane.transfers.begin();
        let end = ((offset / PIECE_BYTES + 1) * PIECE_BYTES).min(size);
        pass_on(&mut tokio::fs::File::from_std(piece?), offset % PIECE_BYTES, end - offset, send).await?;
        offset = end;
    }
    if !begun {
        send.write_all(&ArtefactReply::Here { bytes: left }.encode()?).await?;
    }
    Ok(send.finish()?)
}
