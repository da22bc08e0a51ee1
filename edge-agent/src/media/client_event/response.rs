//! `response.create`: what one response should be like.

use super::items;
use crate::media::session::{
    INSTRUCTIONS_BYTES_MAX, WireError, format, object, spoken, text, tokens, tools, unknown, voice,
};
use nearfield_dialogue::{
    events::{Given, Wish},
    ids::{ID_CHARS_MAX, ItemId},
};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Marks that a client may give a response, as in the OpenAI API; so are their sizes.
const METADATA_PAIRS_MAX: usize = 16;

/// Items that `response.create` may bring along.
const INPUT_ITEMS_MAX: usize = 64;

/// What one response should be like.
pub fn wish(event: &Map<String, Value>) -> Result<Wish, WireError> {
    let mut wish = Wish::default();
    let empty = Map::new();
    let response = match event.get("response") {
        None | Some(Value::Null) => &empty,
        Some(value) => object(value, || "response".into())?,
    };
    for (key, value) in response.iter().filter(|(_, value)| !value.is_null()) {
        let at = || format!("response.{key}");
        match key.as_str() {
            "instructions" => wish.instructions = Some(text(value, INSTRUCTIONS_BYTES_MAX, at)?),
            "max_output_tokens" => wish.tokens_max = tokens(value, at)?,
            "output_modalities" => wish.spoken = Some(spoken(value, at)?),
            "conversation" => match value.as_str() {
                Some("auto") => {}
                Some("none") => wish.out_of_band = true,
                _ => return Err(WireError::at(at(), "conversation is auto or none")),
            },
            "metadata" => wish.metadata = metadata(value)?,
            "input" => wish.input = Some(input(value)?),
            "tools" => wish.tools = Some(tools::tools(value, at)?),
            "tool_choice" => wish.tool_choice = Some(tools::tool_choice(value, at)?),
            "audio" => (wish.audio_format, wish.voice) = audio(value)?,
            // The assistant's own, or OpenAI's own machinery.
            "prompt" | "reasoning" | "parallel_tool_calls" => {}
            _ => return Err(unknown(at())),
        }
    }
    Ok(wish)
}

/// The format of one response's audio, and the name of a voice.
fn audio(value: &Value) -> Result<(Option<&'static str>, Option<String>), WireError> {
    let (mut named, mut name_of_voice) = (None, None);
    for (key, value) in object(value, || "response.audio".into())? {
        if key != "output" {
            return Err(unknown(format!("response.audio.{key}")));
        }
        for (key, value) in object(value, || "response.audio.output".into())? {
            let at = || format!("response.audio.output.{key}");
            match key.as_str() {
                "format" if value.is_null() => {}
                "format" => named = Some(format(value, at)?.name()),
                "voice" => name_of_voice = voice(value, at)?,
                _ => return Err(unknown(at())),
            }
        }
    }
    Ok((named, name_of_voice))
}

fn metadata(value: &Value) -> Result<BTreeMap<String, String>, WireError> {
    let at = || "response.metadata".to_owned();
    let pairs = object(value, at)?;
    let fits = |(key, value): (&String, &Value)| {
        let value = value.as_str()?;
        (key.chars().count() <= 64 && value.chars().count() <= 512).then(|| (key.clone(), value.to_owned()))
    };
    let marks: Option<BTreeMap<_, _>> = pairs.iter().map(fits).collect();
    marks.filter(|marks| marks.len() <= METADATA_PAIRS_MAX).ok_or_else(|| {
        WireError::at(at(), "metadata has at most 16 pairs of a key of 64 characters and a string of 512 characters")
    })
}

fn input(value: &Value) -> Result<Vec<Given>, WireError> {
    let items = value.as_array().filter(|items| items.len() <= INPUT_ITEMS_MAX);
    let items = items.ok_or_else(|| {
        WireError::at("response.input", format!("input is a list of at most {INPUT_ITEMS_MAX} items"))
    })?;
    let read = |(n, item): (usize, &Value)| {
        let at = format!("response.input[{n}]");
        let item = object(item, || at.clone())?;
        if item.get("type").and_then(Value::as_str) == Some("item_reference") {
            let id = item.get("id").unwrap_or(&Value::Null);
            return text(id, ID_CHARS_MAX, || format!("{at}.id")).map(|id| Given::Reference(ItemId::from_client(&id)));
        }
        items::given(item, &at)
    };
    items.iter().enumerate().map(read).collect()
}
