//! Messages of a telephone's media stream, as Twilio writes them and as Telnyx does (in snake case).

use crate::media::codec::Format;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Bytes of one message. A provider sends 20 ms of audio in each, some hundred bytes.
pub const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Parameters that a stream begins with; more are passed over.
const PARAMETERS_MAX: usize = 32;

/// Who carries the calls, which decides how messages are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Twilio Media Streams: camel case, and requests are signed.
    Twilio,
    /// Telnyx media streaming: snake case, and a secret among the stream's parameters.
    Telnyx,
}

/// What a provider says.
#[derive(Debug, Clone, PartialEq)]
pub enum Message {
    /// The stream begins.
    Start(Box<Begin>),
    /// Audio of the caller.
    Media {
        /// Which stream, where it is said.
        stream: Option<String>,
        /// Its place in the stream, where it is said.
        chunk: Option<u64>,
        /// Bytes in the stream's format.
        audio: Vec<u8>,
    },
    /// What stood before this mark was played, or thrown away.
    Mark(String),
    /// A key was pressed.
    Dtmf(char),
    /// The call is over.
    Stop,
    /// Something that nothing is done about.
    Other,
}

/// How a stream begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Begin {
    /// Its name, which goes into every message of ours.
    pub stream: String,
    /// The name of the call, where it is said.
    pub call: Option<String>,
    /// Its audio; `None` where that cannot be heard here.
    pub format: Option<Format>,
    /// What whoever began it wants to tell.
    pub parameters: BTreeMap<String, String>,
}

/// Why a message is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// It is no JSON object with an event.
    #[error("a message is a JSON object with an `event`")]
    NoEvent,
    /// It lacks what its event needs, or has it in another form.
    #[error("a field of this event is missing, or of another form")]
    Field,
    /// The audio is no base64.
    #[error("`media.payload` is audio in base64")]
    Payload,
}

/// Reads a message of a provider. Events that are not known are none to worry about: providers add some.
pub fn parse(text: &str, provider: Provider) -> Result<Message, Malformed> {
    let message: Value = serde_json::from_str(text).map_err(|_| Malformed::NoEvent)?;
    let event = message.get("event").and_then(Value::as_str).ok_or(Malformed::NoEvent)?;
    let text_at = |pointer: &str| message.pointer(pointer).and_then(Value::as_str);
    Ok(match event {
        "start" => Message::Start(Box::new(begin(&message, provider)?)),
        "media" if text_at("/media/track").is_some_and(|track| !track.starts_with("inbound")) => Message::Other,
        "media" => {
            let payload = text_at("/media/payload").ok_or(Malformed::Field)?;
            Message::Media {
                stream: text_at(provider.stream()).map(str::to_owned),
                chunk: message.pointer("/media/chunk").and_then(whole),
                audio: STANDARD.decode(payload).map_err(|_| Malformed::Payload)?,
            }
        }
        "mark" => Message::Mark(text_at("/mark/name").ok_or(Malformed::Field)?.to_owned()),
        "dtmf" => {
            let mut digits = text_at("/dtmf/digit").ok_or(Malformed::Field)?.chars();
            match (digits.next(), digits.next()) {
                (Some(digit @ ('0'..='9' | '*' | '#' | 'A'..='D' | 'a'..='d')), None) => {
                    Message::Dtmf(digit.to_ascii_uppercase())
                }
                _ => return Err(Malformed::Field),
            }
        }
        "stop" => Message::Stop,
        _ => Message::Other,
    })
}

fn begin(message: &Value, provider: Provider) -> Result<Begin, Malformed> {
    let (media_format, rate, parameters, call) = match provider {
        Provider::Twilio => ("/start/mediaFormat", "sampleRate", "/start/customParameters", "/start/callSid"),
        Provider::Telnyx => {
            ("/start/media_format", "sample_rate", "/start/custom_parameters", "/start/call_control_id")
        }
    };
    let stream = message.pointer(provider.stream()).and_then(Value::as_str).ok_or(Malformed::Field)?;
    let media = message.pointer(media_format).ok_or(Malformed::Field)?;
    let named = match media.get("encoding").and_then(Value::as_str) {
        Some("audio/x-mulaw" | "PCMU") => Some(Format::Pcmu),
        Some("PCMA") => Some(Format::Pcma),
        _ => None,
    };
    let plain = |name: &str, wanted: u64| media.get(name).and_then(whole).is_none_or(|found| found == wanted);
    let given = message.pointer(parameters).and_then(Value::as_object);
    let parameters = given.into_iter().flatten().take(PARAMETERS_MAX);
    Ok(Begin {
        stream: stream.to_owned(),
        call: message.pointer(call).and_then(Value::as_str).map(str::to_owned),
        format: named.filter(|format| plain(rate, format.rate_hz().into()) && plain("channels", 1)),
        parameters: parameters.filter_map(|(name, v)| Some((name.clone(), v.as_str()?.to_owned()))).collect(),
    })
}

/// Whole numbers stand as numbers and as text.
fn whole(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

impl Provider {
    /// Where the stream's name stands.
    fn stream(self) -> &'static str {
        match self {
            Provider::Twilio => "/streamSid",
            Provider::Telnyx => "/stream_id",
        }
    }

    /// A message of ours about a stream.
    fn message(self, stream: &str, event: &str) -> Value {
        match self {
            Provider::Twilio => json!({ "event": event, "streamSid": stream }),
            Provider::Telnyx => json!({ "event": event, "stream_id": stream }),
        }
    }

    /// Audio for the caller.
    pub fn media(self, stream: &str, audio: &[u8]) -> String {
        let mut message = self.message(stream, "media");
        message["media"] = json!({ "payload": STANDARD.encode(audio) });
        message.to_string()
    }

    /// A mark behind the audio so far.
    pub fn mark(self, stream: &str, name: &str) -> String {
        let mut message = self.message(stream, "mark");
        message["mark"] = json!({ "name": name });
        message.to_string()
    }

    /// Throws away what was not played yet.
    pub fn clear(self, stream: &str) -> String {
        self.message(stream, "clear").to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_spellings_say_the_same() {
        let twilio = r#"{"event":"start","sequenceNumber":"1","start":{"accountSid":"AC1","streamSid":"MZ1","callSid":"CA1","tracks":["inbound"],"mediaFormat":{"encoding":"audio/x-mulaw","sampleRate":8000,"channels":1},"customParameters":{"country":"DE"}},"streamSid":"MZ1"}"#;
        let telnyx = r#"{"event":"start","sequence_number":"1","start":{"user_id":"u","call_control_id":"CA1","media_format":{"encoding":"PCMU","sample_rate":8000,"channels":1},"custom_parameters":{"country":"DE"}},"stream_id":"MZ1"}"#;
        let said = parse(twilio, Provider::Twilio).expect("read");
        assert_eq!(parse(telnyx, Provider::Telnyx), Ok(said.clone()));
        let Message::Start(begin) = said else { panic!("{said:?}") };
        assert_eq!((begin.stream.as_str(), begin.format), ("MZ1", Some(Format::Pcmu)));
        assert_eq!(begin.parameters["country"], "DE");
        assert_eq!(parse(twilio, Provider::Telnyx), Err(Malformed::Field));
        let media = r#"{"event":"media","sequenceNumber":"3","media":{"track":"inbound","chunk":"7","timestamp":"5","payload":"/38="},"streamSid":"MZ1"}"#;
        let heard = Message::Media { stream: Some("MZ1".into()), chunk: Some(7), audio: vec![0xff, 0x7f] };
        assert_eq!(parse(media, Provider::Twilio), Ok(heard));
        assert_eq!(parse(&media.replace("inbound", "outbound"), Provider::Twilio), Ok(Message::Other));
    }

    #[test]
    fn what_cannot_be_is_named_and_what_is_new_is_passed_over() {
        let check = |text: &str| parse(text, Provider::Twilio);
        assert_eq!(check("{"), Err(Malformed::NoEvent));
        assert_eq!(check("[]"), Err(Malformed::NoEvent));
        assert_eq!(check(r#"{"event":"media","media":{"payload":"%"}}"#), Err(Malformed::Payload));
        assert_eq!(check(r#"{"event":"media"}"#), Err(Malformed::Field));
        assert_eq!(check(r#"{"event":"dtmf","dtmf":{"digit":"12"}}"#), Err(Malformed::Field));
        assert_eq!(check(r#"{"event":"dtmf","dtmf":{"digit":"x"}}"#), Err(Malformed::Field));
        assert_eq!(check(r##"{"event":"dtmf","dtmf":{"digit":"#"}}"##), Ok(Message::Dtmf('#')));
        assert_eq!(check(r#"{"event":"start","streamSid":"MZ"}"#), Err(Malformed::Field));
        for other in ["connected", "transcription", ""] {
            assert_eq!(check(&format!(r#"{{"event":"{other}"}}"#)), Ok(Message::Other));
        }
        let format = |format: &str| {
            let text = format!(r#"{{"event":"start","streamSid":"MZ","start":{{"mediaFormat":{format}}}}}"#);
            match check(&text) {
                Ok(Message::Start(begin)) => begin.format,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(format(r#"{"encoding":"audio/x-mulaw","sampleRate":"8000"}"#), Some(Format::Pcmu));
        assert_eq!(format(r#"{"encoding":"audio/x-mulaw","sampleRate":16000}"#), None);
        assert_eq!(format(r#"{"encoding":"audio/l16","sampleRate":8000}"#), None);
        assert_eq!(format(r#"{"encoding":"PCMA","sampleRate":8000,"channels":2}"#), None);
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,200}", event in "start|media|mark|dtmf|stop", inside in "[{}\\[\\]:,\"a-z0-9]{0,60}") {
            for provider in [Provider::Twilio, Provider::Telnyx] {
                let _any = parse(&text, provider);
                let _any = parse(&format!("{{\"event\":\"{event}\",\"{event}\":{inside}}}"), provider);
            }
        }
    }
}
