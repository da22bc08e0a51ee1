//! `POST /v1/embeddings`: sentence embeddings of unit length.
//!
//! The model reads the first 256 word pieces of a text, some 1,000 characters of English. `usage` is an estimate, a token for four
//! characters, as everywhere at this node.

use super::{
    Rest,
    body::{JsonBody, missing},
};
use crate::{media::jobs::patiently, refusal::Refusal};
use axum::{Json, extract::State};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nearfield_shared::artefact::Stage;
use serde_json::{Value, json};

/// Texts of one request, as in the OpenAI API.
const INPUTS_MAX: usize = 2_048;

/// Characters of one text; the engine takes no longer ones, rather than leaving their end out silently.
const INPUT_CHARS_MAX: usize = 2_000;

/// Texts of one job: small enough that an embedding of a call waits for no more than a few milliseconds.
const INPUTS_PER_JOB: usize = 16;

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Float,
    Base64,
}

pub(super) async fn embed(State(rest): State<Rest>, body: JsonBody) -> Result<Json<Value>, Refusal> {
    let inputs = inputs(body.get("input"))?;
    let encoding = body.one_of("encoding_format", &[("float", Encoding::Float), ("base64", Encoding::Base64)])?;
    let asked = body.text("model", 256)?;
    let visit = rest.visit(Stage::Embed)?;
    let model = visit.model(Stage::Embed, &asked)?;
    let chars: usize = inputs.iter().map(|input| input.chars().count()).sum();
    let tokens = chars.div_ceil(4);
    let _turn = visit.place.turn().await;
    let mut data = Vec::with_capacity(inputs.len());
    for batch in inputs.chunks(INPUTS_PER_JOB) {
        let vectors = patiently(|| {
            let (speech, batch) = (visit.speech(), batch.to_vec());
            async move { speech.embed(batch).await }
        })
        .await?;
        for vector in vectors {
            check_dimensions(body.get("dimensions"), vector.len())?;
            data.push(json!({ "object": "embedding", "index": data.len(), "embedding": show(&vector, encoding) }));
        }
    }
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Json(json!({ "object": "list", "data": data, "model": model, "usage": usage })))
}

fn inputs(value: &Value) -> Result<Vec<String>, Refusal> {
    let wrong = |message: String| Refusal::field("input", message);
    let shape = || wrong("`input` is a text or a list of texts; this node does not take lists of tokens".into());
    let inputs: Vec<String> = match value {
        Value::Null => return Err(missing("input")),
        Value::String(text) => vec![text.clone()],
        Value::Array(texts) if texts.len() > INPUTS_MAX => {
            return Err(wrong(format!(
                "`input` has {} texts, {INPUTS_MAX} are the most; send several requests",
                texts.len()
            )));
        }
        Value::Array(texts) => {
            texts.iter().map(|text| text.as_str().map(str::to_owned)).collect::<Option<_>>().ok_or_else(shape)?
        }
        _ => return Err(shape()),
    };
    if inputs.is_empty() {
        return Err(wrong("`input` is an empty list; send at least one text".into()));
    }
    for (n, input) in inputs.iter().enumerate() {
        let chars = input.chars().count();
        if input.trim().is_empty() {
            return Err(wrong(format!("text {n} of `input` is empty; leave it out")));
        }
        if chars > INPUT_CHARS_MAX {
            return Err(wrong(format!(
                "text {n} of `input` has {chars} characters, {INPUT_CHARS_MAX} are the most; cut it into parts"
            )));
        }
    }
    Ok(inputs)
}

/// The model has one size; asking for another is refused instead of being ignored.
fn check_dimensions(asked: &Value, are: usize) -> Result<(), Refusal> {
    if asked.is_null() || asked.as_u64() == Some(are as u64) {
        return Ok(());
    }
    Err(Refusal::field("dimensions", format!("this model's embeddings have {are} dimensions; leave `dimensions` out")))
}

fn show(vector: &[f32], encoding: Encoding) -> Value {
    match encoding {
        Encoding::Float => vector.into(),
        Encoding::Base64 => {
            let bytes: Vec<u8> = vector.iter().flat_map(|value| value.to_le_bytes()).collect();
            STANDARD.encode(bytes).into()
        }
    }
}
