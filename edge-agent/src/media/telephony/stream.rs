//! `GET /v1/telephony/stream`: the audio of a call, both ways, as the provider carries it.
//!
//! Audio of the caller goes to the call as it comes; what the call says goes to the provider at once, which plays it at its pace. Marks
//! between tell how far it is. When the caller speaks over it the rest is thrown away at both ends, and the conversation's estimate of
//! what was heard is corrected by the last mark that had come back.

use super::{
    Exchange, PutThrough, START_WITHIN, Scheme, Telephony,
    message::{self, Begin, Message, Provider},
    order::Order,
    permit,
    phone::Phone,
};
use crate::{
    media::{
        Door, RealtimeQuery, Upgrade,
        client_event::Dialect,
        codec::Format,
        line,
        outbox::{Outbox, Overflow},
        resample::{Resampler, resample},
        transport::{Arrived, Goodbye, Incoming, Outgoing, Track, code},
        websocket::{Reader, Socket},
    },
    refusal::Refusal as NotTaken,
    speech::{HEARD_HZ, SPOKEN_HZ},
};
use axum::{
    extract::{State, ws::WebSocket},
    http::{HeaderMap, Uri},
    response::Response,
};
use nearfield_dialogue::{events::HandOverEnd, ids::ResponseId, settings::Transfers};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// Audio in one message to the provider, and between two marks: how exactly is known what was heard.
const PIECE_MS: u32 = 200;

/// The least audio that Telnyx takes in one message.
const PIECE_MS_MIN: u32 = 20;

/// Corrections on their way to the call. One is enough for each time that a caller speaks over an answer.
const CORRECTIONS_MAX: usize = 8;

pub(super) async fn connect(
    State(exchange): State<Exchange>,
    uri: Uri,
    headers: HeaderMap,
    Upgrade(upgrade): Upgrade,
) -> Result<Response, NotTaken> {
    let Exchange { door, telephony } = exchange;
    let upgrade = upgrade.map_err(|_| crate::media::websocket_required())?;
    telephony.check_signature(Scheme::WebSocket, &uri, &headers, &[])?;
    let waiting = Arc::clone(&telephony.waiting).try_acquire_owned().map_err(|_| {
        let message = "too many streams are connected and did not begin; try again in some seconds";
        NotTaken::busy("too_many_streams", message, 5_000)
    })?;
    let sized = upgrade.max_message_size(message::MESSAGE_BYTES_MAX).max_frame_size(message::MESSAGE_BYTES_MAX);
    Ok(sized.on_upgrade(move |socket| hold(socket, door, telephony, waiting)))
}

/// Holds a stream to its end.
async fn hold(socket: WebSocket, door: Door, telephony: Arc<Telephony>, waiting: OwnedSemaphorePermit) {
    let wire = Arc::new(Outbox::default());
    let mut socket = Socket::open(socket, Arc::clone(&wire));
    let begun = tokio::time::timeout(START_WITHIN, begin(&mut socket.reader, &door, &telephony)).await;
    drop(waiting);
    let goodbye = match begun {
        Ok(Ok((begin, format, start))) => converse(&mut socket.reader, &wire, &telephony, begin, format, start).await,
        Ok(Err(goodbye)) => goodbye,
        Err(_) => Goodbye::some(code::POLICY, "no start event came in time"),
    };
    wire.close();
    if goodbye.as_ref().is_some_and(|goodbye| goodbye.code == code::POLICY) {
        // Only the reason is still worth sending to a provider that is this far behind.
        wire.clear();
    }
    socket.close(goodbye).await;
}

/// Waits for what the stream carries, and lets the call in.
async fn begin(
    mut reader: &mut Reader,
    door: &Door,
    telephony: &Telephony,
) -> Result<(Begin, Format, line::Start), Option<Goodbye>> {
    let begin = loop {
        match reader.next().await {
            Arrived::Event(text) => match message::parse(&text, telephony.provider) {
                Ok(Message::Start(begin)) => break *begin,
                Ok(Message::Stop) => return Err(None),
                Ok(Message::Other) => {}
                Ok(_) => return Err(Goodbye::some(code::POLICY, "a stream begins with connected and start")),
                Err(error) => {
                    tracing::debug!(%error, "a media stream does not begin");
                    return Err(Goodbye::some(
                        code::UNSUPPORTED,
                        "this is no media stream of the provider in agent.toml",
                    ));
                }
            },
            Arrived::Left(goodbye) => return Err(goodbye),
            Arrived::Audio(_) | Arrived::Tell(_) | Arrived::Refused(_) => {}
        }
    };
    let Some(format) = begin.format else {
        return Err(Goodbye::some(code::UNSUPPORTED, "the audio is G.711 at 8000 Hz in one channel, or there is none"));
    };
    let parameter = |name: &str| begin.parameters.get(name).cloned();
    if !telephony.opens(parameter("secret").as_deref()) {
        return Err(Goodbye::some(code::POLICY, "the parameter secret is not the one in telephony.secret"));
    }
    let serving = door.services.serving.borrow().clone();
    if let Err(refused) = permit(&serving, parameter("country").as_deref()) {
        tracing::info!(code = refused.code(), "a call by telephone was refused by law");
        return Err(Goodbye::some(code::POLICY, "451: this node may not serve callers of this country"));
    }
    let query = RealtimeQuery {
        model: None,
        assistant: parameter("assistant"),
        greeting: parameter("greeting"),
        language: parameter("language"),
        intent: None,
    };
    match door.admit(query, &HeaderMap::new(), None) {
        Ok(mut start) => {
            start.put_through = put_through(telephony, &begin, &start);
            let transfers = match (&start.put_through, number_for(telephony, &begin, &start)) {
                (Some(_), _) => Transfers::ByAsking,
                (None, Some(_)) => Transfers::ByEnding,
                (None, None) => Transfers::No,
            };
            if let Some(rules) = start.session.hand_over.as_mut() {
                rules.transfers = transfers;
            }
            Ok((begin, format, line::Start { dialect: Dialect::Ga, ..start }))
        }
        Err(refused) => {
            tracing::info!(code = refused.code, "a call by telephone was not taken");
            let again = refused.retry_after_s.is_some();
            let goodbye = if again {
                Goodbye::some(code::AGAIN, "this node has no room for the call now; try again, or another node")
            } else {
                Goodbye::some(code::POLICY, "the call cannot be taken as its parameters want it")
            };
            Err(goodbye)
        }
    }
}

/// The number that the caller of a stream is put through to, where whoever began the stream goes on to ask for it.
fn number_for<'a>(telephony: &Telephony, begin: &Begin, start: &'a line::Start) -> Option<&'a String> {
    let asks = telephony.provider == Provider::Twilio
        && begin.call.is_some()
        && begin.parameters.get("transfer").is_some_and(|value| value == "on");
    start.desk.assistant.hand_over.transfer.as_ref().filter(|_| asks)
}

/// How the provider is asked to put the caller of a stream through, where it takes such a request.
fn put_through(telephony: &Telephony, begin: &Begin, start: &line::Start) -> Option<PutThrough> {
    let (control, call) = (telephony.call_control.clone()?, begin.call.as_ref()?);
    let number = start.desk.assistant.hand_over.transfer.as_ref()?;
    Some(PutThrough::new(control, call, number))
}

async fn converse(
    reader: &mut Reader,
    wire: &Arc<Outbox>,
    telephony: &Telephony,
    begin: Begin,
    format: Format,
    start: line::Start,
) -> Option<Goodbye> {
    let provider = telephony.provider;
    let number = number_for(telephony, &begin, &start).cloned();
    let events = Arc::new(Outbox::default());
    let phone = Arc::new(Mutex::new(Phone::default()));
    let (corrected, corrections) = mpsc::channel(CORRECTIONS_MAX);
    let watching = watch(Arc::clone(&events), Arc::clone(&phone), corrected);
    let resampler = Resampler::new(format.rate_hz(), HEARD_HZ).expect("8 kHz converts to 16 kHz");
    let stream = begin.stream;
    let caller = Caller {
        reader,
        provider,
        format,
        stream: stream.clone(),
        order: Order::default(),
        resampler,
        phone: Arc::clone(&phone),
        corrections,
    };
    let speaker = Speaker { wire: Arc::clone(wire), provider, format, stream, phone };
    let out = Outgoing { outbox: events, track: Some(Box::new(speaker)) };
    // The outbox is closed when the call has ended, which ends the watching.
    let (goodbye, is_transferred) = tokio::join!(line::hold(caller, out, start), watching);
    if let (true, Some(call), Some(number)) = (is_transferred, begin.call, number) {
        telephony.transfers.put(call, number, Instant::now());
    }
    goodbye
}

/// Looks through what the call tells for what concerns the telephone. The rest has no place in a provider's stream. Says whether the
/// caller is to be put through.
async fn watch(events: Arc<Outbox>, phone: Arc<Mutex<Phone>>, corrected: mpsc::Sender<String>) -> bool {
    let mut is_transferred = false;
    while let Some(text) = events.next().await {
        let Ok(event) = serde_json::from_str::<Value>(&text) else { continue };
        let at = |pointer: &str| event.pointer(pointer).and_then(Value::as_str);
        match at("/type") {
            Some("response.output_item.added") => {
                if let (Some(response), Some(item)) = (at("/response_id"), at("/item/id")) {
                    lock(&phone).speaks(&ResponseId::from_client(response), item);
                }
            }
            Some("conversation.item.truncated") => {
                let Some(item) = at("/item_id") else { continue };
                if let Some(heard_ms) = lock(&phone).was_truncated(item) {
                    let kind = "conversation.item.truncate";
                    let event = json!({ "type": kind, "item_id": item, "content_index": 0, "audio_end_ms": heard_ms });
                    // A call that has so many to apply has a better idea than one more.
                    let _full = corrected.try_send(event.to_string());
                }
            }
            Some("nearfield.hand_over.ended") => {
                is_transferred |= at("/status") == Some(HandOverEnd::Transferred.as_str());
            }
            _ => {}
        }
    }
    is_transferred
}

/// What comes from the caller.
struct Caller<'a> {
    reader: &'a mut Reader,
    provider: Provider,
    format: Format,
    stream: String,
    order: Order,
    resampler: Resampler,
    phone: Arc<Mutex<Phone>>,
    corrections: mpsc::Receiver<String>,
}

impl Incoming for Caller<'_> {
    async fn next(&mut self) -> Arrived {
        loop {
            let arrived = tokio::select! {
                // What was heard before what was said after it.
                biased;
                Some(correction) = self.corrections.recv() => return Arrived::Event(correction),
                arrived = self.reader.next() => arrived,
            };
            let Arrived::Event(text) = arrived else { return arrived };
            if let Some(arrived) = self.message(&text) {
                return arrived;
            }
        }
    }
}

impl Caller<'_> {
    fn message(&mut self, text: &str) -> Option<Arrived> {
        match message::parse(text, self.provider) {
            // Of another stream.
            Ok(Message::Media { stream: Some(stream), .. }) if stream != self.stream => None,
            Ok(Message::Media { chunk, audio, .. }) => {
                let bytes = self.order.push(chunk, audio);
                // G.711 has a sample in every byte, so any number of bytes is whole samples.
                let samples = self.resampler.push(&self.format.decode(&bytes).ok()?);
                (!samples.is_empty()).then_some(Arrived::Audio(samples))
            }
            Ok(Message::Mark(name)) => {
                lock(&self.phone).came_back(&name);
                None
            }
            Ok(Message::Stop) => Some(Arrived::Left(None)),
            Ok(Message::Start(_)) => {
                Some(Arrived::Left(Goodbye::some(code::POLICY, "a stream begins once; open another one")))
            }
            Ok(Message::Dtmf(key)) => {
                Some(Arrived::Event(json!({ "type": "nearfield.dtmf", "event": key }).to_string()))
            }
            Ok(Message::Other) => None,
            // One message that cannot be read is lost; the call goes on.
            Err(error) => {
                tracing::debug!(%error, "a message of a media stream was passed over");
                None
            }
        }
    }
}

/// Sends what the call says.
struct Speaker {
    wire: Arc<Outbox>,
    provider: Provider,
    format: Format,
    stream: String,
    phone: Arc<Mutex<Phone>>,
}

impl Track for Speaker {
    fn play(&mut self, response: &ResponseId, samples: &[f32]) -> Result<(), Overflow> {
        let rate_hz = self.format.rate_hz();
        let per_ms = rate_hz as usize / 1_000;
        // Each phrase is converted whole: phrases are cut in silence, where nothing has to be carried over.
        let mut samples = resample(samples, SPOKEN_HZ, rate_hz).unwrap_or_default();
        let least = per_ms * PIECE_MS_MIN as usize;
        samples.resize(samples.len().next_multiple_of(least), 0.0);
        for piece in samples.chunks(per_ms * PIECE_MS as usize) {
            let media = self.provider.media(&self.stream, &self.format.encode(piece));
            self.wire.push(media, Some(response.clone()))?;
            let mark = lock(&self.phone).sent(response, (piece.len() / per_ms) as u32);
            self.wire.push(self.provider.mark(&self.stream, &mark), Some(response.clone()))?;
        }
        Ok(())
    }

    fn end(&mut self, _: &ResponseId) {}

    fn take_back(&mut self, response: &ResponseId) {
        lock(&self.phone).take_back(response);
        self.wire.take_back(response);
    }

    fn clear(&mut self) {
        if lock(&self.phone).cut() {
            self.wire.clear();
            // The outbox is empty, so there is room.
            let _room = self.wire.push(self.provider.clear(&self.stream), None);
        }
    }
}

/// Every change of the phone is a whole one, so what a panic left behind is good.
fn lock(phone: &Mutex<Phone>) -> MutexGuard<'_, Phone> {
    phone.lock().unwrap_or_else(PoisonError::into_inner)
}
