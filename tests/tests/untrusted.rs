//! Every parser of bytes from outside with bytes that it should refuse: arbitrary ones, and valid ones that were damaged. None panics, and
//! none takes much more memory than it was given bytes.
//!
//! The same functions are fuzz targets (`fuzz/`). One test function, because all of the process's memory is counted.

#[path = "../../fuzz/untrusted.rs"]
mod untrusted;

use nearfield_shared::{
    gguf::GgufWriter,
    wire::{Frame, Limit},
};
use proptest::{
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};
use serde_json::json;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Cases of each parser.
const CASES: u32 = 2_000;

/// What a parser may take besides some times its input: buffers of a fixed size, a decoder's tables.
const FIXED_BYTES_MAX: usize = 24 << 20;

/// How much more than its input a parser may take. Text as a tree of JSON is the worst: a byte becomes a value of some dozen.
const TIMES_MAX: usize = 200;

/// Knows how much memory is taken, and was taken at most.
struct Watching;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Watching {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` hold for it too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `at` came from `alloc` above, that is from the system.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// One thing that happens to valid bytes.
#[derive(Debug, Clone)]
enum Damage {
    Set(Index, u8),
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    Insert(Index, Vec<u8>),
}

fn damage() -> impl Strategy<Value = Damage> {
    let odd = prop::sample::select(vec![
        vec![0xff; 4],
        vec![0xff; 8],
        vec![0; 8],
        vec![0xff, 0xff, 0xff, 0x7f],
        b"99999999999".to_vec(),
        b"-1".to_vec(),
        b"\"".to_vec(),
        b"{\"a\":[[[[[".to_vec(),
        "ä\u{202e}".as_bytes().to_vec(),
    ]);
    prop_oneof![
        3 => (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        3 => (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => any::<Index>().prop_map(Damage::Cut),
        1 => (any::<Index>(), 1usize..64).prop_map(|(at, count)| Damage::Remove(at, count)),
        1 => (any::<Index>(), 1usize..64, 1usize..50).prop_map(|(at, count, times)| Damage::Repeat(at, count, times)),
        2 => (any::<Index>(), odd).prop_map(|(at, bytes)| Damage::Insert(at, bytes)),
    ]
}

impl Damage {
    fn happen(self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let some = |bytes: &[u8], at: Index, count: usize| {
            let from = at.index(bytes.len());
            from..bytes.len().min(from + count)
        };
        match self {
            Damage::Set(at, byte) => *at.get_mut(bytes) = byte,
            Damage::Flip(at, bit) => *at.get_mut(bytes) ^= 1 << bit,
            Damage::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Damage::Remove(at, count) => drop(bytes.drain(some(bytes, at, count))),
            Damage::Repeat(at, count, times) => {
                let part = bytes[some(bytes, at, count)].repeat(times);
                let at = at.index(bytes.len());
                bytes.splice(at..at, part);
            }
            Damage::Insert(at, odd) => {
                let at = at.index(bytes.len());
                bytes.splice(at..at, odd);
            }
        }
    }
}

/// A parser, and some bytes that it takes.
type Entry = (&'static str, fn(&[u8]), Vec<Vec<u8>>);

fn entries() -> Vec<Entry> {
    let texts = |texts: &[&str]| texts.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>();
    let file =
        |path: &str| std::fs::read(format!("{}/../{path}", env!("CARGO_MANIFEST_DIR"))).expect("in the repository");
    let events = [
        json!({"type": "session.update", "event_id": "e", "session": {"type": "realtime", "audio": {"input": {"turn_detection": {"type": "server_vad", "threshold": 0.5}}}, "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}]}}),
        json!({"type": "session.update", "session": {"modalities": ["audio", "text"], "input_audio_format": "g711_ulaw", "turn_detection": null}}),
        json!({"type": "input_audio_buffer.append", "audio": "AAAAAAAA"}),
        json!({"type": "conversation.item.create", "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}}),
        json!({"type": "conversation.item.truncate", "item_id": "i", "content_index": 0, "audio_end_ms": 700}),
        json!({"type": "response.create", "response": {"input": [], "tool_choice": "auto", "max_output_tokens": 9}}),
    ];
    let telephone = [
        json!({"event": "start", "sequenceNumber": "1", "streamSid": "MZ", "start": {"mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}, "customParameters": {"country": "DE"}}}),
        json!({"event": "media", "streamSid": "MZ", "media": {"track": "inbound", "chunk": "2", "payload": "AAAA"}}),
        json!({"event": "dtmf", "stream_id": "s", "dtmf": {"digit": "1"}}),
    ];
    let lines = |values: &[serde_json::Value]| values.iter().map(|v| v.to_string().into_bytes()).collect::<Vec<_>>();
    let wyoming = b"{\"type\":\"audio-chunk\",\"data\":{\"rate\":16000},\"data_length\":11,\"payload_length\":4}\n{\"width\":  2}abcd{\"type\":\"describe\"}\n";
    let frames =
        [(1u8, json!({"node": "n", "region": "r", "serving": 1})), (2, json!({"generation": 7})), (200, json!(null))]
            .iter()
            .flat_map(|(kind, body)| Frame::encode(*kind, body, Limit::FROM_AGENT).expect("small"))
            .collect::<Vec<u8>>();
    let mut gguf = GgufWriter::new("test");
    gguf.meta("general.name", "x".to_owned());
    gguf.bytes("blob", vec![7; 100]).expect("written");
    let form = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\nRIFF\r\n--x\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nm\r\n--x--\r\n";
    vec![
        ("client_event", untrusted::client_event, lines(&events)),
        ("client_secret", untrusted::client_secret, texts(&[r#"{"expires_after":{"anchor":"created_at","seconds":60},"session":{"type":"realtime"}}"#])),
        ("wyoming_event", untrusted::wyoming_event, vec![wyoming.to_vec()]),
        ("telephone_message", untrusted::telephone_message, lines(&telephone)),
        ("telephone_signature", untrusted::telephone_signature, texts(&["https://[::1]:8443/a?b=c\nL/OH5YylLD5NRKLltdqwSvS0BnU="])),
        ("recording", untrusted::recording, recordings()),
        ("upload", untrusted::upload, texts(&[form])),
        ("control_link", untrusted::control_link, vec![frames]),
        ("gguf", untrusted::gguf, vec![gguf.to_bytes()]),
        (
            "toml_files",
            untrusted::toml_files,
            vec![
                file("regions/eu-central.toml"),
                file("regions/assistants/front-desk.toml"),
                b"listen = [\"127.0.0.1:1\"]\n[telephony]\nprovider = \"twilio\"\nsecret = \"/s\"\n[wyoming]\nlisten = \"[::1]:1\"\n".to_vec(),
            ],
        ),
    ]
}

/// A tone in the containers and codecs that this house can write; the others are met by what is made of these.
fn recordings() -> Vec<Vec<u8>> {
    let tone: Vec<i16> = (0..4_000).map(|n| (8_000.0 * (n as f32 * 0.1).sin()) as i16).collect();
    let mut wav = std::io::Cursor::new(Vec::new());
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::new(&mut wav, spec).expect("a writer");
    tone.iter().for_each(|sample| writer.write_sample(*sample).expect("written"));
    writer.finalize().expect("finished");
    // The first bytes of the other containers, with enough behind them to be looked into.
    let begun = |magic: &[u8]| [magic, &wav.get_ref()[44..2_000]].concat();
    let mut all = vec![
        begun(b"fLaC\0\0\0\x22\x10\0\x10\0\0\0\0\0\0\0\x03\xe8\0\xf0"),
        begun(b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x01\0\0\x80\xbb\0\0\0\0\0"),
        begun(b"\xff\xf3\x84\xc4"),
        begun(b"ID3\x04\0\0\0\0\0\x0a"),
        begun(b"\0\0\0\x18ftypM4A \0\0\0\0M4A isom\0\0\0\x08moov"),
        begun(b"\x1a\x45\xdf\xa3\x93\x42\x82\x84webm\x18\x53\x80\x67"),
    ];
    all.push(wav.into_inner());
    all
}

#[test]
fn no_bytes_from_outside_make_a_parser_panic_or_take_much_memory() {
    for (name, parse, seeds) in entries() {
        // Once without a limit, for what is made once for the process.
        seeds.iter().for_each(|seed| parse(seed));
        let arbitrary = prop::collection::vec(any::<u8>(), 0..2_000);
        let damaged =
            (prop::sample::select(seeds), prop::collection::vec(damage(), 1..6)).prop_map(|(mut bytes, all)| {
                all.into_iter().for_each(|damage| damage.happen(&mut bytes));
                bytes
            });
        let inputs = prop_oneof![1 => arbitrary, 6 => damaged];
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        let outcome = TestRunner::new(config).run(&inputs, |bytes| {
            let before = LIVE.load(Ordering::Relaxed);
            PEAK.store(before, Ordering::Relaxed);
            parse(&bytes);
            let took = PEAK.load(Ordering::Relaxed).saturating_sub(before);
            prop_assert!(took <= FIXED_BYTES_MAX + TIMES_MAX * bytes.len(), "{} bytes took {took}", bytes.len());
            Ok(())
        });
        if let Err(failed) = outcome {
            panic!("{name}: {failed}");
        }
    }
}
