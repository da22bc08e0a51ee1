//! Events as they stand on the wire.
//!
//! A line of JSON, then `data_length` bytes of JSON that are laid over the line's `data`, then `payload_length` bytes of anything. Every
//! length is bounded before a byte of it is read.

use serde_json::{Map, Value, json};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncReadExt as _};

/// Bytes of the line that an event begins with, its newline included.
pub const HEADER_BYTES_MAX: usize = 64 << 10;

/// Bytes of the data behind the line.
pub const DATA_BYTES_MAX: usize = 64 << 10;

/// Bytes of a payload: two seconds of 48 kHz stereo, and more than any client sends at once.
pub const PAYLOAD_BYTES_MAX: usize = 384 << 10;

/// The edition of the protocol that is spoken, told in every event.
const VERSION: &str = "1.10.2";

/// One event.
#[derive(Clone, PartialEq)]
pub struct Event {
    /// Its type.
    pub kind: String,
    /// Its fields; what a person said may be among them.
    pub data: Map<String, Value>,
    /// Audio, where it has some.
    pub payload: Vec<u8>,
}

/// Bytes that are no event. Nothing after them can be read: where the next one begins is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The line does not end.
    #[error("the line that an event begins with is longer than {HEADER_BYTES_MAX} bytes")]
    LongHeader,
    /// The line is no JSON object with a type.
    #[error("an event begins with a line of JSON with a `type`, for example {{\"type\": \"describe\"}}")]
    Header,
    /// A length is no whole number.
    #[error("`data_length` and `payload_length` are whole numbers of bytes")]
    Length,
    /// The data is too long.
    #[error("`data_length` is more than {DATA_BYTES_MAX}; send less text in one event")]
    LongData,
    /// The payload is too long.
    #[error("`payload_length` is more than {PAYLOAD_BYTES_MAX}; send less audio in one event")]
    LongPayload,
    /// The data is no object.
    #[error("the data of an event is one JSON object of `data_length` bytes")]
    Data,
}

/// Why there is no event.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What came is none.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The connection broke in the middle of one.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Reads the next event; `None` where the client has left between two.
pub async fn read(from: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Event>, ReadError> {
    let mut line = Vec::new();
    (&mut *from).take(HEADER_BYTES_MAX as u64).read_until(b'\n', &mut line).await?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        let ended = line.len() < HEADER_BYTES_MAX;
        return Err(if ended { Malformed::Header } else { Malformed::LongHeader }.into());
    }
    let Head { mut event, data_bytes, payload_bytes } = head(&line)?;
    if data_bytes > 0 {
        let mut data = vec![0; data_bytes];
        from.read_exact(&mut data).await?;
        event.data.extend(serde_json::from_slice::<Map<String, Value>>(&data).map_err(|_| Malformed::Data)?);
    }
    event.payload = vec![0; payload_bytes];
    from.read_exact(&mut event.payload).await?;
    Ok(Some(event))
}

/// The line of an event, and what follows it.
struct Head {
    event: Event,
    data_bytes: usize,
    payload_bytes: usize,
}

fn head(line: &[u8]) -> Result<Head, Malformed> {
    let Ok(Value::Object(mut head)) = serde_json::from_slice(line) else { return Err(Malformed::Header) };
    let Some(Value::String(kind)) = head.remove("type") else { return Err(Malformed::Header) };
    let data = match head.remove("data") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(data)) => data,
        Some(_) => return Err(Malformed::Data),
    };
    let length = |name: &str, most: usize, too_long| match head.get(name) {
        None | Some(Value::Null) => Ok(0),
        Some(value) => match value.as_u64().ok_or(Malformed::Length)? {
            bytes if bytes <= most as u64 => Ok(bytes as usize),
            _ => Err(too_long),
        },
    };
    let data_bytes = length("data_length", DATA_BYTES_MAX, Malformed::LongData)?;
    let payload_bytes = length("payload_length", PAYLOAD_BYTES_MAX, Malformed::LongPayload)?;
    Ok(Head { event: Event { kind, data, payload: Vec::new() }, data_bytes, payload_bytes })
}

impl Event {
    /// An event of this type, with the fields of a JSON object.
    pub fn new(kind: &str, data: Value) -> Self {
        let data = if let Value::Object(data) = data { data } else { Map::new() };
        Self { kind: kind.to_owned(), data, payload: Vec::new() }
    }

    /// The same with a payload.
    #[must_use]
    pub fn with(self, payload: Vec<u8>) -> Self {
        Self { payload, ..self }
    }

    /// A field of text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.data.get(name).and_then(Value::as_str)
    }

    /// A field with a whole number.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.data.get(name).and_then(Value::as_u64)
    }

    /// Its bytes on the wire.
    pub fn encode(&self) -> Vec<u8> {
        let data = if self.data.is_empty() { String::new() } else { json!(self.data).to_string() };
        let mut line = json!({ "type": self.kind, "version": VERSION });
        for (name, bytes) in [("data_length", data.len()), ("payload_length", self.payload.len())] {
            if bytes > 0 {
                line[name] = json!(bytes);
            }
        }
        let mut bytes = line.to_string().into_bytes();
        bytes.push(b'\n');
        bytes.extend(data.into_bytes());
        bytes.extend(&self.payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read_all(bytes: &[u8]) -> Result<Vec<Event>, ReadError> {
        let mut from = bytes;
        futures_util::FutureExt::now_or_never(async {
            let mut events = Vec::new();
            while let Some(event) = read(&mut from).await? {
                events.push(event);
            }
            Ok(events)
        })
        .expect("bytes in memory are never waited for")
    }

    fn malformed(bytes: &[u8]) -> Malformed {
        match read_all(bytes) {
            Err(ReadError::Malformed(why)) => why,
            Err(other) => panic!("{other}"),
            Ok(events) => panic!("{} events", events.len()),
        }
    }

    #[test]
    fn events_of_both_forms_are_read_one_after_the_other() {
        let chunk = Event::new("audio-chunk", json!({"rate": 16_000})).with(b"12\n4".to_vec());
        let mut bytes = b"{\"type\": \"describe\", \"data\": null}\n".to_vec();
        bytes.extend(chunk.encode());
        bytes.extend(b"{\"type\":\"x\",\"data\":{\"a\":1,\"b\":2},\"data_length\":7}\n{\"b\":3}");
        let events = read_all(&bytes).expect("three events");
        assert_eq!(events.len(), 3);
        assert!(events[0] == Event::new("describe", Value::Null) && events[1] == chunk);
        assert_eq!(Value::Object(events[2].data.clone()), json!({"a": 1, "b": 3}));
    }

    #[test]
    fn what_is_no_event_is_named_before_it_is_read() {
        assert_eq!(malformed(b"GET / HTTP/1.1\r\n\r\n"), Malformed::Header);
        assert_eq!(malformed(b"[1]\n"), Malformed::Header);
        assert_eq!(malformed(b"{\"type\":7}\n"), Malformed::Header);
        assert_eq!(malformed(b"{\"type\":\"x\"}"), Malformed::Header);
        assert_eq!(malformed(&vec![b' '; HEADER_BYTES_MAX + 1]), Malformed::LongHeader);
        assert_eq!(malformed(b"{\"type\":\"x\",\"data\":[]}\n"), Malformed::Data);
        assert_eq!(malformed(b"{\"type\":\"x\",\"data_length\":2}\n[]"), Malformed::Data);
        assert_eq!(malformed(b"{\"type\":\"x\",\"data_length\":-1}\n"), Malformed::Length);
        assert_eq!(malformed(b"{\"type\":\"x\",\"payload_length\":\"9\"}\n"), Malformed::Length);
        assert_eq!(malformed(b"{\"type\":\"x\",\"data_length\":99999999999}\n"), Malformed::LongData);
        assert_eq!(malformed(b"{\"type\":\"x\",\"payload_length\":400000}\n"), Malformed::LongPayload);
        assert!(matches!(read_all(b"{\"type\":\"x\",\"payload_length\":9}\n12"), Err(ReadError::Io(_))));
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_nothing_else_panics(
            kind in "[a-z-]{1,20}", text in ".{0,40}", payload in prop::collection::vec(any::<u8>(), 0..200),
            at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let event = Event::new(&kind, json!({"text": text})).with(payload);
            let mut bytes = [event.encode(), event.encode()].concat();
            prop_assert!(read_all(&bytes).expect("whole") == [event.clone(), event]);
            *at.get_mut(&mut bytes) = byte;
            let _any = read_all(&bytes);
        }
    }
}
