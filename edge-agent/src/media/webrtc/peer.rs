//! One caller's connection: drives str0m, which has neither socket nor clock, between the socket, the call and the time.
//!
//! Every turn of the loop makes one change to the connection and then lets it say all that follows from it, as str0m wants it.

use super::{
    bad_offer,
    hearing::Hearing,
    playout::{FRAME, Loudspeaker},
    socket::{Datagram, Registered},
};
use crate::{
    media::{
        line,
        outbox::Outbox,
        server_event,
        transport::{Arrived, Goodbye, Incoming, Outgoing, binary_message, code},
    },
    refusal::Refusal,
    speech::SPOKEN_HZ,
};
use ropus::{Application, Bitrate, Channels, Encoder, InbandFec};
use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use str0m::{
    Event, IceConnectionState, Input, Output, Rtc,
    channel::{ChannelData, ChannelId},
    format::Codec,
    media::{Frequency, MediaTime, Mid, Pt},
    net::{Protocol, Receive},
};
use tokio::{
    net::UdpSocket,
    sync::mpsc::{self, error::TrySendError},
};
use tokio_util::sync::CancellationToken;

/// How long a caller may take from the answer to a connection: ICE and DTLS need a second on a slow network.
pub const CONNECT_MAX: Duration = Duration::from_secs(15);

/// A caller from whom no datagram came for this long is gone. Browsers send checks every few seconds even when muted.
pub const SILENT_MAX: Duration = Duration::from_secs(10);

/// Bytes of an event to a client: what data channels of every browser carry in one message.
pub const EVENT_BYTES_MAX: usize = 256 * 1024;

/// Events and audio on their way to the call.
const ARRIVED_MAX: usize = 64;

/// How long the last events may take to reach a client.
const GOODBYE: Duration = Duration::from_secs(2);

/// The clock of outgoing audio.
const TICK: Duration = Duration::from_millis(20);

/// Ticks that are made up for when this task was late; beyond that they are left out.
const LATE_MAX: u32 = 10;

/// A tick in the 48 kHz that audio is counted in.
const TICK_48K: u64 = 960;

/// Bits per second: for one voice more is not heard.
const BITRATE: u32 = 32_000;

/// The loss that outgoing packets are prepared for, in percent.
const LOSS_PERCENT: u8 = 10;

/// How much work the encoder does for its bits, of 10. Beyond this nobody hears a difference in speech.
const COMPLEXITY: u8 = 5;

/// Bytes of the longest packet.
const PACKET_BYTES_MAX: usize = 1_275;

/// 20 ms of silence (RFC 6716: one CELT frame that says "silent").
const SILENCE: [u8; 3] = [0xf8, 0xff, 0xfe];

/// An answered offer.
pub struct Connection {
    rtc: Rtc,
    /// The address that callers were told.
    told: SocketAddr,
    audio: Mid,
    opus: Pt,
    /// Whether the offer has a data channel.
    has_channel: bool,
}

impl Connection {
    /// Finds the line of the answer that carries Opus.
    pub fn new(mut rtc: Rtc, told: SocketAddr, answer: &str, has_channel: bool) -> Result<Self, Refusal> {
        let mut opus_of = |mid: Mid| {
            let writer = rtc.writer(mid)?;
            let opus = writer.payload_params().find(|params| params.spec().codec == Codec::Opus)?;
            Some((mid, opus.pt()))
        };
        let (audio, opus) = audio_lines(answer).find_map(|mid| opus_of(Mid::from(mid))).ok_or_else(|| {
            bad_offer("the offer has no audio line with Opus; add an audio track or transceiver to it")
        })?;
        Ok(Self { rtc, told, audio, opus, has_channel })
    }
}

/// The names of an answer's audio lines.
fn audio_lines(sdp: &str) -> impl Iterator<Item = &str> {
    let mut is_audio = false;
    sdp.lines().filter_map(move |line| {
        if let Some(media) = line.strip_prefix("m=") {
            is_audio = media.starts_with("audio ");
        }
        line.strip_prefix("a=mid:").filter(|_| is_audio).map(str::trim)
    })
}

/// Why a connection is not carried any further.
enum Ending {
    /// The call is over.
    Over(Option<Goodbye>),
    /// The client left.
    Left,
    /// Nothing came any more.
    Vanished,
}

/// Brings the call what its client sends.
struct Arriving(mpsc::Receiver<Arrived>);

impl Incoming for Arriving {
    async fn next(&mut self) -> Arrived {
        self.0.recv().await.unwrap_or(Arrived::Left(None))
    }
}

/// The task of one connection.
pub struct Peer {
    connection: Connection,
    socket: Arc<UdpSocket>,
    _registered: Registered,
    connected: bool,
    gone: bool,
    channel: Option<ChannelId>,
    hearing: Hearing,
    speaker: Loudspeaker,
    encoder: Encoder,
    /// Position of the outgoing audio, at 48 kHz.
    position: u64,
    /// For the call.
    arrived: VecDeque<Arrived>,
    /// The event that is to be sent next.
    event: Option<String>,
    last_datagram: Instant,
}

impl Peer {
    /// A connection that waits for its client.
    pub fn new(connection: Connection, socket: Arc<UdpSocket>, registered: Registered) -> Self {
        let encoder = Encoder::builder(SPOKEN_HZ, Channels::Mono, Application::Voip)
            .bitrate(Bitrate::Bits(BITRATE))
            .complexity(COMPLEXITY)
            .inband_fec(InbandFec::Enabled)
            .packet_loss_perc(LOSS_PERCENT)
            .build()
            .expect("24 kHz mono is one of the rates of Opus");
        Self {
            connection,
            socket,
            _registered: registered,
            connected: false,
            gone: false,
            channel: None,
            hearing: Hearing::new(),
            speaker: Loudspeaker::default(),
            encoder,
            position: 0,
            arrived: VecDeque::new(),
            event: None,
            last_datagram: Instant::now(),
        }
    }

    /// Waits for the client, then holds the call until either side ends it.
    pub async fn run(
        mut self,
        start: line::Start,
        mut datagrams: mpsc::Receiver<Datagram>,
        hung_up: CancellationToken,
    ) {
        if !self.connect(&mut datagrams, &hung_up).await {
            tracing::debug!("a caller with an offer did not connect");
            return;
        }
        let outbox = Arc::new(Outbox::default());
        let (to_call, arriving) = mpsc::channel(ARRIVED_MAX);
        let out = Outgoing { outbox: Arc::clone(&outbox), track: Some(Box::new(self.speaker.clone())) };
        let mut call = tokio::spawn(line::hold(Arriving(arriving), out, start));
        let carried = async {
            tokio::select! {
                ending = self.carry(&outbox, &to_call, &mut datagrams) => ending,
                () = hung_up.cancelled() => Ending::Left,
                over = &mut call => Ending::Over(over.unwrap_or_default()),
            }
        };
        match carried.await {
            Ending::Over(goodbye) => {
                let last = self.say_goodbye(&outbox, goodbye, &mut datagrams);
                let _too_slow = tokio::time::timeout(GOODBYE, last).await;
            }
            ending => {
                let reason = match ending {
                    Ending::Vanished => Goodbye::some(code::NORMAL, "the connection is dead"),
                    _ => None,
                };
                // A call that is over by itself takes nothing any more.
                let _over = to_call.send(Arrived::Left(reason)).await;
            }
        }
        self.close();
    }

    async fn connect(&mut self, datagrams: &mut mpsc::Receiver<Datagram>, hung_up: &CancellationToken) -> bool {
        let connect_by = Instant::now() + CONNECT_MAX;
        loop {
            let Some(wake) = self.drain() else { return false };
            if self.connected || Instant::now() >= connect_by {
                return self.connected;
            }
            tokio::select! {
                Some(datagram) = datagrams.recv() => self.receive(&datagram),
                () = tokio::time::sleep_until(wake.min(connect_by).into()) => self.time_passed(),
                () = hung_up.cancelled() => return false,
            }
        }
    }

    async fn carry(
        &mut self,
        outbox: &Outbox,
        to_call: &mpsc::Sender<Arrived>,
        datagrams: &mut mpsc::Receiver<Datagram>,
    ) -> Ending {
        let mut next_tick = Instant::now();
        loop {
            let Some(wake) = self.drain() else { return Ending::Left };
            let now = Instant::now();
            if now >= self.last_datagram + SILENT_MAX {
                return Ending::Vanished;
            }
            self.hand_over(to_call);
            if self.send_event() {
                continue;
            }
            if now >= next_tick {
                next_tick = self.tick(now, next_tick);
                continue;
            }
            // While the call takes nothing, neither does this: the client is slowed down as by a network.
            let has_room = self.arrived.len() < ARRIVED_MAX;
            let may_send = self.event.is_none() && (self.channel.is_some() || !self.connection.has_channel);
            tokio::select! {
                Some(datagram) = datagrams.recv(), if has_room => self.receive(&datagram),
                Some(event) = outbox.next(), if may_send => self.event = Some(event),
                () = tokio::time::sleep_until(wake.min(next_tick).into()) => {
                    if Instant::now() >= wake {
                        self.time_passed();
                    }
                }
            }
        }
    }

    /// Sends what the call said last, and why it ended, until the client has it.
    async fn say_goodbye(
        &mut self,
        outbox: &Outbox,
        goodbye: Option<Goodbye>,
        datagrams: &mut mpsc::Receiver<Datagram>,
    ) {
        let mut reason = goodbye.map(|goodbye| server_event::call_ended(goodbye.reason).to_string());
        loop {
            let Some(wake) = self.drain() else { return };
            if self.send_event() {
                continue;
            }
            if self.event.is_none() {
                // The outbox is closed, so nothing is waited for.
                self.event = outbox.next().await.or_else(|| reason.take());
            }
            let id = self.channel.filter(|_| self.event.is_none());
            let on_its_way = id.and_then(|id| self.connection.rtc.channel(id)).map(|mut c| c.buffered_amount());
            if self.channel.is_none() || on_its_way == Some(0) {
                return;
            }
            tokio::select! {
                Some(datagram) = datagrams.recv() => self.receive(&datagram),
                () = tokio::time::sleep_until(wake.min(Instant::now() + TICK).into()) => self.time_passed(),
            }
        }
    }

    fn close(mut self) {
        // Closing says goodbye in the protocol's own words; whether they arrive is not waited for.
        if self.connection.rtc.close().is_ok() {
            while self.drain().is_some_and(|wake| wake <= Instant::now()) {
                self.time_passed();
            }
        }
    }

    /// Sends what is to be sent and takes what has happened; returns when time must be told next, or `None` when the connection
    /// is over.
    fn drain(&mut self) -> Option<Instant> {
        loop {
            match self.connection.rtc.poll_output() {
                Ok(Output::Timeout(at)) => return (self.connection.rtc.is_alive() && !self.gone).then_some(at),
                Ok(Output::Transmit(datagram)) => {
                    // A full socket loses datagrams, as a network would.
                    let _lost = self.socket.try_send_to(&datagram.contents, datagram.destination);
                }
                Ok(Output::Event(event)) => self.happened(event),
                Err(error) => {
                    tracing::debug!(%error, "a connection broke");
                    return None;
                }
            }
        }
    }

    fn happened(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) | Event::Closed => self.gone = true,
            Event::ChannelOpen(id, _) => {
                self.channel.get_or_insert(id);
            }
            Event::ChannelClose(id) if self.channel == Some(id) => {
                // What would have gone there is left out from now on.
                self.channel = None;
                self.connection.has_channel = false;
            }
            Event::ChannelData(data) if self.channel == Some(data.id) => self.arrived.push_back(text(data)),
            Event::MediaData(data) if data.mid == self.connection.audio => {
                let samples = self.hearing.packet(**data.seq_range.end(), &data.data);
                self.heard(samples);
            }
            _ => {}
        }
    }

    fn heard(&mut self, samples: Vec<f32>) {
        // What nobody takes in time is lost, as on a slow network.
        if !samples.is_empty() && self.arrived.len() < ARRIVED_MAX {
            self.arrived.push_back(Arrived::Audio(samples));
        }
    }

    fn receive(&mut self, Datagram { source, bytes }: &Datagram) {
        let Ok(received) = Receive::new(Protocol::Udp, *source, self.connection.told, bytes) else { return };
        self.last_datagram = Instant::now();
        self.take(Input::Receive(self.last_datagram, received));
    }

    fn time_passed(&mut self) {
        self.take(Input::Timeout(Instant::now()));
    }

    fn take(&mut self, input: Input<'_>) {
        if let Err(error) = self.connection.rtc.handle_input(input) {
            // One bad datagram is not the end of a call; a connection that is broken says so when it is asked for more.
            tracing::debug!(%error, "a connection refused what came");
        }
    }

    fn hand_over(&mut self, to_call: &mpsc::Sender<Arrived>) {
        while let Some(arrived) = self.arrived.pop_front() {
            match to_call.try_send(arrived) {
                Ok(()) => {}
                Err(TrySendError::Full(arrived)) => return self.arrived.push_front(arrived),
                // The call is over, which its own end tells.
                Err(TrySendError::Closed(_)) => {}
            }
        }
    }

    /// Sends the event that is next, if there is one and the channel has room; says whether anything was done.
    fn send_event(&mut self) -> bool {
        let Some(event) = self.event.take() else { return false };
        let Some(id) = self.channel else { return !self.connection.has_channel };
        let Some(mut channel) = self.connection.rtc.channel(id) else { return true };
        let bytes = event.len();
        match channel.write(false, event.as_bytes()) {
            // What is full now has room later, unless the event is larger than all the room there is.
            Ok(false) if bytes <= EVENT_BYTES_MAX => {
                self.event = Some(event);
                return false;
            }
            Ok(true) => {}
            Ok(false) => tracing::warn!(bytes, "an event is larger than {EVENT_BYTES_MAX} bytes, and was left out"),
            Err(error) => tracing::warn!(%error, bytes, "an event does not go into this client's channel"),
        }
        true
    }

    /// Plays the next 20 ms; returns when the tick after it is due.
    fn tick(&mut self, now: Instant, due: Instant) -> Instant {
        let (frame, notices) = {
            let mut playout = self.speaker.lock();
            (playout.next_frame(), playout.take_notices())
        };
        self.arrived.extend(notices.into_iter().map(Arrived::Tell));
        let packet = frame.map_or_else(|| SILENCE.to_vec(), |frame| self.encode(&frame));
        let Connection { rtc, audio, opus, .. } = &mut self.connection;
        if rtc.media(*audio).is_some_and(|media| media.direction().is_sending())
            && let Some(writer) = rtc.writer(*audio)
        {
            let time = MediaTime::new(self.position, Frequency::FORTY_EIGHT_KHZ);
            if let Err(error) = writer.write(*opus, now, time, packet) {
                tracing::debug!(%error, "a packet of audio was not sent");
            }
        }
        let silence = self.hearing.tick();
        self.heard(silence);
        let late = u32::try_from(now.saturating_duration_since(due).as_millis() / TICK.as_millis()).unwrap_or(u32::MAX);
        let skipped = if late > LATE_MAX { late } else { 0 };
        self.position += TICK_48K * u64::from(1 + skipped);
        due + TICK * (1 + skipped)
    }

    fn encode(&mut self, frame: &[i16; FRAME]) -> Vec<u8> {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        match self.encoder.encode(frame, &mut packet) {
            Ok(bytes) => {
                packet.truncate(bytes);
                packet
            }
            Err(error) => {
                tracing::error!(%error, "20 ms of an answer could not be encoded");
                SILENCE.to_vec()
            }
        }
    }
}

fn text(data: ChannelData) -> Arrived {
    match String::from_utf8(data.data) {
        Ok(text) if !data.binary => Arrived::Event(text),
        _ => Arrived::Refused(binary_message()),
    }
}
