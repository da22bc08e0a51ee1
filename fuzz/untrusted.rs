//! Every parser of bytes from outside, each behind one function that takes any bytes. It may refuse them and must not panic.
//!
//! The fuzz targets beside this file run these under libFuzzer, and `tests/tests/untrusted.rs` on stable with bytes of its own.

use axum::{
    body::Body,
    extract::{FromRequest as _, Request},
    http::header,
};
use control_plane::definition::{self, SourceFile};
use edge_agent::{
    config::Config,
    media::{
        client_event::{self, Dialect},
        client_secret,
        telephony::{
            message::{self, Provider},
            signature,
        },
    },
    rest::transcriptions::{
        recording::{self, Piece},
        upload::Upload,
    },
    wyoming::event,
};
use nearfield_shared::{
    assistant::Assistant,
    gguf::Gguf,
    wire::{
        AgentToPlane, ArtefactReply, ArtefactRequest, FrameDecoder, Hello, Limit, PlaneToAgent, RenewReply,
        RenewRequest,
        enrol::{EnrolReply, EnrolRequest},
    },
};
use std::sync::OnceLock;
use tokio::runtime::Runtime;

/// Blocks on work that waits for nothing but this thread and those for blocking work.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().expect("a runtime")
    });
    runtime.block_on(work)
}

/// Events of a Realtime client, of today's API and of the beta.
pub fn client_event(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for dialect in [Dialect::Ga, Dialect::Beta] {
        let _refused = client_event::parse(&text, dialect);
    }
}

/// The body of `POST /v1/realtime/client_secrets`.
pub fn client_secret(bytes: &[u8]) {
    let _refused = client_secret::read(bytes);
}

/// Events of a Wyoming client, one after the other.
pub fn wyoming_event(mut bytes: &[u8]) {
    block_on(async { while let Ok(Some(_)) = event::read(&mut bytes).await {} });
}

/// Messages of a telephone provider's media stream.
pub fn telephone_message(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for provider in [Provider::Twilio, Provider::Telnyx] {
        let _refused = message::parse(&text, provider);
    }
}

/// A signature over an address.
pub fn telephone_signature(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (url, signature) = text.split_once('\n').unwrap_or((&text, ""));
    assert!(!signature::holds(b"a token that nobody knows", url, &[], signature), "a signature was guessed");
}

/// A recording in any container and codec.
///
/// # Panics
/// Where the decoder did, on the thread where it works.
pub fn recording(bytes: &[u8]) {
    block_on(async {
        let mut pieces = recording::decode(bytes.to_vec(), None);
        loop {
            match pieces.recv().await {
                Some(Ok(Piece::Samples(_))) => {}
                Some(Ok(Piece::End) | Err(_)) => return,
                None => panic!("the decoder panicked"),
            }
        }
    });
}

/// The form of a transcription.
pub fn upload(bytes: &[u8]) {
    let request = Request::post("/")
        .header(header::CONTENT_TYPE, "multipart/form-data; boundary=x")
        .body(Body::from(bytes.to_vec()))
        .expect("a request");
    let _refused = block_on(Upload::from_request(request, &()));
}

/// Frames of the control link, of both sides and of the streams beside it.
pub fn control_link(bytes: &[u8]) {
    if let Some(hello) = bytes.first_chunk() {
        let _refused = Hello::from_bytes(hello);
    }
    for limit in [Limit::FROM_AGENT, Limit::FROM_PLANE] {
        let mut decoder = FrameDecoder::new(limit);
        for some in bytes.chunks(7) {
            decoder.receive(some);
            while let Ok(Some(frame)) = decoder.next_frame() {
                let _refused = AgentToPlane::decode(&frame);
                let _refused = PlaneToAgent::decode(&frame);
                let _refused = ArtefactRequest::decode(&frame);
                let _refused = ArtefactReply::decode(&frame);
                let _refused = EnrolRequest::decode(&frame);
                let _refused = EnrolReply::decode(&frame);
                let _refused = frame.json::<RenewRequest>();
                let _refused = RenewReply::decode(&frame);
            }
        }
    }
}

/// A model's file.
pub fn gguf(bytes: &[u8]) {
    let _refused = Gguf::parse(bytes.to_vec());
}

/// Files that people write: a region, an assistant, the settings of a node.
pub fn toml_files(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let file = |assistant| SourceFile { path: "a.toml".into(), stem: "a".into(), assistant, text: text.to_string() };
    for assistant in [false, true] {
        let _refused = definition::parse(&[file(assistant)], &definition::Known::default());
    }
    let _refused = toml::from_str::<Assistant>(&text);
    let _refused = Config::parse(&text);
}
