//! A caller with a microphone and a loudspeaker: str0m as a client, full ICE, Opus both ways.

use crate::support::Node;
use ropus::{Application, Channels, DecodeMode, Decoder, Encoder};
use serde_json::Value;
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use str0m::{
    Candidate, Event, Input, Output, Rtc, RtcConfig,
    change::{SdpAnswer, SdpPendingOffer},
    channel::ChannelId,
    media::{Direction, Frequency, MediaKind, MediaTime, Mid},
    net::{Protocol, Receive},
};
use tokio::net::UdpSocket;

const TICK: Duration = Duration::from_millis(20);

/// Samples of 20 ms at 24 kHz.
const FRAME: usize = 480;

pub struct Caller {
    rtc: Rtc,
    socket: UdpSocket,
    local: SocketAddr,
    audio: Mid,
    channel: ChannelId,
    open: bool,
    encoder: Encoder,
    decoder: Decoder,
    /// What is still to be said; silence behind it.
    saying: VecDeque<f32>,
    sent: u64,
    next_tick: Instant,
    to_send: VecDeque<(bool, String)>,
    /// The connection was closed by the other side.
    pub closed: bool,
    /// Every event from the data channel.
    pub events: Vec<Value>,
    /// The loudness of each 20 ms that were heard.
    pub heard: Vec<f32>,
}

/// An offer that was not sent yet.
pub struct Offering {
    caller: Caller,
    pending: SdpPendingOffer,
    pub sdp: String,
}

impl Offering {
    pub async fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let local = socket.local_addr().unwrap();
        let mut rtc = RtcConfig::new()
            .set_crypto_provider(Arc::new(str0m::crypto::from_feature_flags()))
            .clear_codecs()
            .enable_opus(true, false)
            .build(Instant::now());
        rtc.add_local_candidate(Candidate::host(local, "udp").unwrap());
        let mut api = rtc.sdp_api();
        let audio = api.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
        let channel = api.add_channel("oai-events".into());
        let (offer, pending) = api.apply().unwrap();
        let caller = Caller {
            rtc,
            socket,
            local,
            audio,
            channel,
            open: false,
            encoder: Encoder::builder(24_000, Channels::Mono, Application::Voip).build().unwrap(),
            decoder: Decoder::new(24_000, Channels::Mono).unwrap(),
            saying: VecDeque::new(),
            sent: 0,
            next_tick: Instant::now(),
            to_send: VecDeque::new(),
            closed: false,
            events: Vec::new(),
            heard: Vec::new(),
        };
        Self { caller, pending, sdp: offer.to_sdp_string() }
    }

    /// Takes the answer and waits until the call has begun.
    pub async fn accept(self, answer: &str) -> Caller {
        let Self { mut caller, pending, .. } = self;
        let answer = SdpAnswer::from_sdp_string(answer).unwrap();
        caller.rtc.sdp_api().accept_answer(pending, answer).unwrap();
        caller.until(|caller| caller.saw("session.created")).await;
        caller
    }
}

impl Caller {
    pub async fn call(node: &Node) -> Self {
        Self::call_at(node, "").await.0
    }

    /// Calls with a query; also returns where the call is.
    pub async fn call_at(node: &Node, query: &str) -> (Self, String) {
        let offering = Offering::new().await;
        let response = reqwest::Client::new()
            .post(format!("http://{}/v1/realtime/calls{query}", node.address))
            .header("content-type", "application/sdp")
            .body(offering.sdp.clone())
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers()["content-type"], "application/sdp");
        assert_eq!(response.headers()["x-nearfield-node"], "test-node");
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        assert!(location.starts_with("/v1/realtime/calls/rtc_"), "{location}");
        let answer = response.text().await.unwrap();
        (offering.accept(&answer).await, location)
    }

    pub fn saw(&self, kind: &str) -> bool {
        self.events.iter().any(|event| event["type"] == kind)
    }

    pub fn all(&self, kind: &str) -> Vec<&Value> {
        self.events.iter().filter(|event| event["type"] == kind).collect()
    }

    pub fn position(&self, kind: &str) -> usize {
        self.events.iter().position(|event| event["type"] == kind).unwrap_or_else(|| panic!("no {kind}"))
    }

    pub fn send(&mut self, event: &Value) {
        self.to_send.push_back((false, event.to_string()));
    }

    pub fn send_binary(&mut self, text: &str) {
        self.to_send.push_back((true, text.to_owned()));
    }

    /// Says a tone, which the scripted detector takes for speech.
    pub fn say(&mut self, ms: usize) {
        self.saying.extend((0..ms * 24).map(|n| 0.3 * (n as f32 * 0.05).sin()));
    }

    /// Milliseconds of sound that were heard from this frame on.
    pub fn heard_ms(&self, from: usize) -> usize {
        20 * self.heard[from.min(self.heard.len())..].iter().filter(|loud| **loud > 0.05).count()
    }

    /// Leaves in the protocol's own words.
    pub async fn leave(mut self) {
        self.rtc.close().unwrap();
        self.drain().await;
    }

    /// Goes on with the call until something is true.
    pub async fn until(&mut self, condition: impl Fn(&Self) -> bool) {
        while !condition(self) {
            self.step().await;
        }
    }

    pub async fn wait(&mut self, ms: u64) {
        let until = Instant::now() + Duration::from_millis(ms);
        self.until(|_| Instant::now() >= until).await;
    }

    async fn step(&mut self) {
        let wake = self.drain().await;
        if self.open
            && let Some((binary, event)) = self.to_send.pop_front()
        {
            assert!(self.rtc.channel(self.channel).unwrap().write(binary, event.as_bytes()).unwrap());
            return;
        }
        if Instant::now() >= self.next_tick {
            return self.tick();
        }
        let mut buffer = [0; 2_048];
        let wake = wake.min(self.next_tick);
        let input = tokio::select! {
            received = self.socket.recv_from(&mut buffer) => {
                let (length, source) = received.unwrap();
                let received = Receive::new(Protocol::Udp, source, self.local, &buffer[..length]).unwrap();
                Input::Receive(Instant::now(), received)
            }
            () = tokio::time::sleep_until(wake.into()) => Input::Timeout(Instant::now()),
        };
        self.rtc.handle_input(input).unwrap();
    }

    async fn drain(&mut self) -> Instant {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Timeout(at) => return at,
                Output::Transmit(datagram) => {
                    self.socket.send_to(&datagram.contents, datagram.destination).await.unwrap();
                }
                Output::Event(event) => self.happened(event),
            }
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::ChannelOpen(..) => self.open = true,
            Event::ChannelData(data) => self.events.push(serde_json::from_slice(&data.data).unwrap()),
            Event::MediaData(data) => {
                let mut samples = [0.0; 6 * FRAME];
                let made = self.decoder.decode_float(&data.data, &mut samples, DecodeMode::Normal).unwrap();
                let loud = samples[..made].iter().map(|s| s * s).sum::<f32>() / made as f32;
                self.heard.push(loud.sqrt());
            }
            Event::Closed => self.closed = true,
            _ => {}
        }
    }

    fn tick(&mut self) {
        self.next_tick += TICK;
        let frame: Vec<f32> = (0..FRAME).map(|_| self.saying.pop_front().unwrap_or(0.0)).collect();
        let mut packet = vec![0; 1_275];
        let bytes = self.encoder.encode_float(&frame, &mut packet).unwrap();
        packet.truncate(bytes);
        let time = MediaTime::new(self.sent * 960, Frequency::FORTY_EIGHT_KHZ);
        self.sent += 1;
        let writer = self.rtc.writer(self.audio).unwrap();
        let Some(opus) = writer.payload_params().next().map(|params| params.pt()) else { return };
        writer.write(opus, Instant::now(), time, packet).unwrap();
    }
}
