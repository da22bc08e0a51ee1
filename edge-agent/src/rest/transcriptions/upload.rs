//! The form of a transcription: a file and some words about it.

use crate::{
    language::primary,
    refusal::Refusal,
    rest::body::{ARRIVES_WITHIN, missing, one_of, too_large, too_slow},
};
use axum::{
    extract::{FromRequest, Request},
    http::{StatusCode, header},
};
use multer::{Constraints, Multipart, SizeLimit, parse_boundary};

/// Bytes of a recording, as in the OpenAI API.
pub const FILE_BYTES_MAX: usize = 25 << 20;

/// Bytes of any other field.
const FIELD_BYTES_MAX: usize = 64 << 10;

/// Fields of one form.
const FIELDS_MAX: usize = 64;

/// How the words come back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `{"text": …}`
    Json,
    /// The words alone.
    Text,
    /// SubRip captions.
    Srt,
    /// WebVTT captions.
    Vtt,
    /// Segments, and words where they are asked for.
    Verbose,
}

impl Format {
    /// Whether words stand in it with their times.
    pub fn has_times(self) -> bool {
        matches!(self, Self::Srt | Self::Vtt | Self::Verbose)
    }
}

const FORMATS: [(&str, Format); 5] = [
    ("json", Format::Json),
    ("text", Format::Text),
    ("srt", Format::Srt),
    ("vtt", Format::Vtt),
    ("verbose_json", Format::Verbose),
];

/// A recording and what is to be done with it.
pub struct Upload {
    /// The file's bytes.
    pub file: Vec<u8>,
    /// The end of its name, which says what it may be.
    pub extension: Option<String>,
    /// The model that was asked for.
    pub model: String,
    /// How the words come back.
    pub format: Format,
    /// Whether segments are told; for [`Format::Verbose`].
    pub segments: bool,
    /// Whether words are told; for [`Format::Verbose`].
    pub words: bool,
    /// Whether the words are sent as they are found.
    pub stream: bool,
}

impl<S: Send + Sync> FromRequest<S> for Upload {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Self::Rejection> {
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let boundary = parse_boundary(kind).map_err(|_| {
            let message = "send the recording as multipart/form-data with the fields `file` and `model`";
            Refusal::new(StatusCode::BAD_REQUEST, "invalid_multipart", message)
        })?;
        let sizes = SizeLimit::new()
            .whole_stream((FILE_BYTES_MAX + FIELDS_MAX * FIELD_BYTES_MAX) as u64)
            .per_field(FIELD_BYTES_MAX as u64)
            .for_field("file", FILE_BYTES_MAX as u64);
        let form = Multipart::with_constraints(
            request.into_body().into_data_stream(),
            boundary,
            Constraints::new().size_limit(sizes),
        );
        tokio::time::timeout(ARRIVES_WITHIN, read(form)).await.unwrap_or_else(|_| Err(too_slow()))
    }
}

fn unreadable(error: &multer::Error) -> Refusal {
    match error {
        multer::Error::FieldSizeExceeded { field_name, .. } if field_name.as_deref() == Some("file") => Refusal {
            param: Some("file".into()),
            ..too_large(FILE_BYTES_MAX, "cut the recording into parts, or compress it (flac, opus, mp3)")
        },
        multer::Error::FieldSizeExceeded { .. } | multer::Error::StreamSizeExceeded { .. } => {
            too_large(FIELD_BYTES_MAX, "that is the limit of every field but `file`")
        }
        // What it says may quote what was sent.
        _ => {
            Refusal::new(StatusCode::BAD_REQUEST, "invalid_multipart", "the form is not multipart/form-data to its end")
        }
    }
}

async fn read(mut form: Multipart<'_>) -> Result<Upload, Refusal> {
    let (mut file, mut fields) = (None, Vec::new());
    while let Some(field) = form.next_field().await.map_err(|e| unreadable(&e))? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "file" && file.is_none() {
            let extension = field.file_name().and_then(|name| Some(name.rsplit_once('.')?.1.to_lowercase()));
            let bytes = field.bytes().await.map_err(|e| unreadable(&e))?;
            file = Some((bytes.to_vec(), extension));
        } else if fields.len() < FIELDS_MAX {
            let bytes = field.bytes().await.map_err(|e| unreadable(&e))?;
            fields.push((name, String::from_utf8_lossy(&bytes).into_owned()));
        } else {
            let message = format!("the form has more than {FIELDS_MAX} fields; leave some out");
            return Err(Refusal::new(StatusCode::BAD_REQUEST, "invalid_multipart", message));
        }
    }
    let (file, extension) = file.ok_or_else(|| missing("file"))?;
    understand(file, extension, &fields)
}

/// Refuses the languages that this node's recogniser does not hear. No language at all is fine.
pub(crate) fn check_language(language: &str) -> Result<(), Refusal> {
    if language.is_empty() || primary(language).as_deref() == Some("en") {
        return Ok(());
    }
    let message = "this node's recogniser hears English; leave `language` out or send `en`";
    Err(Refusal::field("language", message))
}

fn understand(file: Vec<u8>, extension: Option<String>, fields: &[(String, String)]) -> Result<Upload, Refusal> {
    let get = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.trim());
    let model = get("model").ok_or_else(|| missing("model"))?.to_owned();
    let format = one_of("response_format", Some(get("response_format").unwrap_or_default()), &FORMATS)?;
    let stream = one_of(
        "stream",
        Some(get("stream").unwrap_or_default()),
        &[("false", false), ("true", true), ("False", false), ("True", true)],
    )?;
    if stream && !matches!(format, Format::Json | Format::Text) {
        let message = "words that are sent as they are found come as events; leave `stream` or `response_format` out";
        return Err(Refusal::field("stream", message));
    }
    get("language").map_or(Ok(()), check_language)?;
    // Accepted where it asks for what is done anyway: the likeliest words.
    if get("temperature").is_some_and(|temperature| temperature.parse() != Ok(0.0f32)) {
        let message = "the recogniser always writes the likeliest words; leave `temperature` out or send 0";
        return Err(Refusal::field("temperature", message));
    }
    for (field, _) in fields {
        if field.starts_with("include") || field.starts_with("known_speaker") {
            return Err(crate::media::session::unsupported(field.clone(), "probabilities and names of speakers").into());
        }
    }
    let asked = fields.iter().filter(|(field, _)| field.starts_with("timestamp_granularities"));
    let granularities: Vec<&str> = asked.map(|(_, value)| value.trim()).collect();
    for granularity in &granularities {
        one_of("timestamp_granularities", Some(granularity), &[("segment", ()), ("word", ())])?;
    }
    if !granularities.is_empty() && format != Format::Verbose {
        let message = "times are told with `response_format` `verbose_json`; send that, too";
        return Err(Refusal::field("timestamp_granularities", message));
    }
    let segments = granularities.is_empty() || granularities.contains(&"segment");
    Ok(Upload { file, extension, model, format, segments, words: granularities.contains(&"word"), stream })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &[(&str, &str)]) -> Result<Upload, Refusal> {
        let fields: Vec<(String, String)> = fields.iter().map(|(a, b)| ((*a).into(), (*b).into())).collect();
        understand(vec![1], None, &fields)
    }

    #[test]
    fn a_form_is_understood_with_its_defaults() {
        let plain =
            check(&[("model", "whisper-1"), ("prompt", "names"), ("language", "en-GB"), ("temperature", "0.0")]);
        let plain = plain.expect("fine");
        assert_eq!((plain.format, plain.segments, plain.words, plain.stream), (Format::Json, true, false, false));
        let words = check(&[
            ("model", "m"),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
            ("stream", "false"),
        ]);
        let words = words.expect("fine");
        assert_eq!((words.format, words.segments, words.words), (Format::Verbose, false, true));
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (field, value) in [
            ("response_format", "diarized_json"),
            ("language", "de"),
            ("temperature", "0.7"),
            ("temperature", "warm"),
            ("include[]", "logprobs"),
            ("stream", "perhaps"),
            ("timestamp_granularities[]", "word"),
        ] {
            let refused = check(&[("model", "m"), (field, value)]).err().expect("refused");
            let param = refused.param.expect("a field");
            assert!(field.starts_with(&param), "{field}: {param}");
        }
        assert_eq!(check(&[]).err().expect("refused").param.as_deref(), Some("model"));
        let both = check(&[("model", "m"), ("stream", "true"), ("response_format", "srt")]);
        assert_eq!(both.err().expect("refused").param.as_deref(), Some("stream"));
    }
}
