//! Calls over WebRTC: `POST /v1/realtime/calls`, as the OpenAI API has it.
//!
//! The client's offer comes over HTTP, behind the same key and law as every call, and is answered at once with this node's one UDP
//! address ("ICE lite": the node only answers checks, so it needs no STUN server of its own). From then on everything goes
//! over UDP, encrypted (DTLS, SRTP) and authenticated by what offer and answer say of each other: speech as Opus, both ways, and
//! a data channel with the same events as a WebSocket carries.
//!
//! ```text
//! UDP socket -> socket (finds the call) -> peer -> hearing -> line (as for every call)
//!            <------------------------------ peer <- playout <-'
//! ```
//!
//! BACKPRESSURE: a call has its place in the node (`CallDoor`) from its offer on, and gives it back if it is not connected within
//! [`peer::CONNECT_MAX`]. Datagrams that a call does not take in time are dropped, as a network would.

mod hearing;
mod peer;
mod playout;
mod request;
mod socket;

pub use request::{OFFER_BYTES_MAX, Offer};

use super::line;
use crate::{config::WebRtcConfig, http::ListenError, refusal::Refusal};
use axum::http::StatusCode;
use peer::{Connection, Peer};
use socket::Peers;
use std::{net::SocketAddr, sync::Arc, time::Instant};
use str0m::{
    Candidate, IceCreds, RtcConfig,
    change::SdpOffer,
    config::{CryptoProvider, DtlsCert},
};
use tokio::net::UdpSocket;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

/// Where calls over WebRTC are opened.
pub const WEBRTC_PATH: &str = "/v1/realtime/calls";

/// Packets that are held back to be sorted, and for how long: 60 ms of speech.
const REORDERED: (usize, std::time::Duration) = (3, std::time::Duration::from_millis(60));

/// Takes calls over WebRTC. Clones share it; the default takes none.
#[derive(Clone, Default)]
pub struct WebRtc(Option<Arc<Hub>>);

struct Hub {
    socket: Arc<UdpSocket>,
    /// The address that callers are told.
    told: SocketAddr,
    peers: Arc<Peers>,
    crypto: Arc<CryptoProvider>,
    /// One for the process: what it is good for is to be named in an answer.
    certificate: DtlsCert,
    _reader: AbortOnDropHandle<()>,
}

/// An offer that can be taken.
pub struct Answered {
    connection: Connection,
    creds: IceCreds,
    sdp: String,
}

impl WebRtc {
    /// Binds the UDP socket and begins to read from it; inside a tokio runtime. That it may be reachable from other machines is for
    /// `http::bind` to judge.
    pub fn listen(config: &WebRtcConfig) -> Result<Self, ListenError> {
        let failed = |source| ListenError::BindUdp { address: config.listen, source };
        let socket = std::net::UdpSocket::bind(config.listen).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?;
        let told = SocketAddr::new(config.public.unwrap_or(local.ip()), local.port());
        let socket = Arc::new(UdpSocket::from_std(socket).map_err(failed)?);
        let crypto = Arc::new(str0m::crypto::from_feature_flags());
        let certificate = crypto
            .dtls_provider
            .generate_certificate()
            .ok_or_else(|| failed(std::io::Error::other("no DTLS certificate can be made")))?;
        let peers = Arc::new(Peers::default());
        let reader = tokio::spawn(socket::read(Arc::clone(&socket), Arc::clone(&peers)));
        let _reader = AbortOnDropHandle::new(reader);
        Ok(Self(Some(Arc::new(Hub { socket, told, peers, crypto, certificate, _reader }))))
    }

    /// Reads an offer and makes the answer; no call is begun.
    pub fn answer(&self, offer: &str) -> Result<Answered, Refusal> {
        let hub = self.hub()?;
        let has_channel = offer.lines().any(|line| line.starts_with("m=application "));
        let offer = SdpOffer::from_sdp_string(offer)
            .map_err(|_| bad_offer("the offer is not SDP that can be read; send what createOffer() gave, as it is"))?;
        let creds = IceCreds { ufrag: Uuid::new_v4().simple().to_string(), pass: Uuid::new_v4().simple().to_string() };
        let now = Instant::now();
        let mut rtc = RtcConfig::new()
            .set_crypto_provider(Arc::clone(&hub.crypto))
            .set_dtls_cert(hub.certificate.clone())
            .set_local_ice_credentials(creds.clone())
            .set_ice_lite(true)
            .clear_codecs()
            .enable_opus(true, false)
            .set_reordering_size_audio(REORDERED.0)
            .set_reordering_timeout_audio(Some(REORDERED.1))
            .set_sctp_max_buffered_amount(2 * peer::EVENT_BYTES_MAX)
            .build(now);
        let candidate = Candidate::host(hub.told, "udp").map_err(|error| {
            tracing::error!(%error, address = %hub.told, "callers cannot be told this address; set `public` under [webrtc]");
            Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "webrtc_unavailable", "this node has no address for WebRTC; use its WebSocket")
        })?;
        rtc.add_local_candidate(candidate);
        // What str0m says may quote the offer, which is the client's; the kinds of mistakes are few.
        let answer = rtc.sdp_api().accept_offer(offer).map_err(|error| {
            tracing::debug!(%error, "an offer was refused");
            bad_offer(
                "the offer cannot be answered; it needs ICE credentials, a DTLS fingerprint and at least one media line, \
                 as createOffer() makes them",
            )
        })?;
        let sdp = answer.to_sdp_string();
        let connection = Connection::new(rtc, hub.told, &sdp, has_channel)?;
        Ok(Answered { connection, creds, sdp })
    }

    /// Begins a call; returns its name and the answer's SDP.
    pub fn begin(&self, answered: Answered, start: line::Start) -> Result<(String, String), Refusal> {
        let hub = self.hub()?;
        let Answered { connection, creds, sdp } = answered;
        let name = format!("rtc_{}", Uuid::new_v4().simple());
        let hung_up = CancellationToken::new();
        let (registered, datagrams) = hub.peers.register(creds.ufrag, name.clone(), hung_up.clone());
        let peer = Peer::new(connection, Arc::clone(&hub.socket), registered);
        tokio::spawn(peer.run(start, datagrams, hung_up));
        Ok((name, sdp))
    }

    /// Ends a call; says whether there was one of this name.
    pub fn hang_up(&self, name: &str) -> bool {
        self.0.as_ref().is_some_and(|hub| hub.peers.hang_up(name))
    }

    fn hub(&self) -> Result<&Hub, Refusal> {
        self.0.as_deref().ok_or_else(|| {
            let message = "this node takes no calls over WebRTC; connect to /v1/realtime with a WebSocket";
            Refusal::new(StatusCode::NOT_FOUND, "webrtc_off", message)
        })
    }
}

fn bad_offer(message: &str) -> Refusal {
    Refusal { param: Some("sdp".into()), ..Refusal::new(StatusCode::BAD_REQUEST, "invalid_offer", message) }
}
