//! `POST /v1/chat/completions`: a written conversation.
//!
//! `model` names an assistant, which answers as in a call: its instructions come first, and a question that it knows gets its answer
//! word for word. Any other name means the language model alone. More tokens than this node thinks in one answer are as many as it
//! does, and `usage` counts a token for four characters of the prompt and for each piece of the answer.

mod calling;
mod request;
mod stops;
mod thinking;

use super::{
    Rest,
    body::JsonBody,
    outlet::{EVENTS, Ended, streamed},
};
use crate::{control::unix_now_s, refusal::Refusal};
use axum::{
    Json,
    extract::State,
    response::{IntoResponse as _, Response},
};
use nearfield_dialogue::tools::Wanted;
use nearfield_shared::artefact::Stage;
use request::Request;
use serde_json::{Value, json};
use thinking::{AnsweredBy, Finish, Said, Thinking};
use uuid::Uuid;

pub(super) async fn complete(State(rest): State<Rest>, body: JsonBody) -> Result<Response, Refusal> {
    let request = Request::read(&body)?;
    let visit = rest.visit(Stage::Llm)?;
    let desk = rest.assistants.has(&request.model).then(|| rest.assistants.take(Some(&request.model)));
    let model = match &desk {
        Some(desk) => desk.assistant.name.clone(),
        None => visit.model(Stage::Llm, &request.model)?,
    };
    let (stream, include_usage) = (request.stream, request.include_usage);
    let turn = visit.place.turn().await;
    let mut thinking = Thinking::begin(visit, desk, request).await?;
    let shape = Shape { id: format!("chatcmpl-{}", Uuid::new_v4().simple()), created: unix_now_s(), model };
    // The first words before the answer begins, so that what cannot be answered is refused with a status.
    let mut next = thinking.next().await?;
    if !stream {
        let (mut words, mut calls) = (String::new(), Vec::new());
        while let Some(said) = next {
            match said {
                Said::Words(more) => words.push_str(&more),
                Said::Calls(made) => calls = made.into_iter().map(show_call).collect(),
            }
            next = thinking.next().await?;
        }
        return Ok(Json(shape.whole(&thinking, &words, calls)).into_response());
    }
    Ok(streamed(EVENTS, move |outlet| async move {
        let _turn = turn;
        outlet
            .event(&shape.chunk(json!({ "role": "assistant", "content": "" }), None, &thinking, include_usage))
            .await?;
        while let Some(said) = next {
            let delta = match said {
                Said::Words(words) => json!({ "content": words }),
                Said::Calls(calls) => {
                    json!({ "tool_calls": calls.into_iter().enumerate().map(indexed).collect::<Value>() })
                }
            };
            outlet.event(&shape.chunk(delta, None, &thinking, include_usage)).await?;
            next = thinking.next().await?;
        }
        outlet.event(&shape.chunk(json!({}), Some(thinking.finish), &thinking, include_usage)).await?;
        if include_usage {
            let mut last = shape.begun("chat.completion.chunk", json!([]), &thinking);
            last["usage"] = usage(&thinking);
            outlet.event(&last).await?;
        }
        outlet.send("data: [DONE]\n\n").await.map_err(Ended::from)
    }))
}

/// What all objects of one answer have in common.
struct Shape {
    id: String,
    created: i64,
    model: String,
}

impl Shape {
    fn begun(&self, object: &str, choices: Value, thinking: &Thinking) -> Value {
        let by = match thinking.by {
            AnsweredBy::Model => "model",
            AnsweredBy::KnownQuestion => "known_question",
            AnsweredBy::ForbiddenTopic => "forbidden_topic",
            AnsweredBy::HandOver => "hand_over",
        };
        let nearest = thinking.nearest.as_ref().map(|nearest| json!({ "ask": nearest.ask, "cosine": nearest.cosine }));
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
            "nearfield": { "answered_by": by, "nearest": nearest },
        })
    }

    fn whole(&self, thinking: &Thinking, words: &str, calls: Vec<Value>) -> Value {
        let mut message = json!({ "role": "assistant", "content": words, "refusal": null });
        if !calls.is_empty() {
            message["content"] = if words.is_empty() { Value::Null } else { words.into() };
            message["tool_calls"] = calls.into();
        }
        let reason = show_finish(thinking.finish);
        let choice = json!({ "index": 0, "message": message, "logprobs": null, "finish_reason": reason });
        let mut whole = self.begun("chat.completion", json!([choice]), thinking);
        whole["usage"] = usage(thinking);
        whole
    }

    fn chunk(&self, delta: Value, finish: Option<Finish>, thinking: &Thinking, include_usage: bool) -> Value {
        let reason = finish.map(show_finish);
        let choice = json!({ "index": 0, "delta": delta, "logprobs": null, "finish_reason": reason });
        let mut chunk = self.begun("chat.completion.chunk", json!([choice]), thinking);
        if include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }
}

fn show_finish(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
        Finish::ToolCalls => "tool_calls",
    }
}

fn show_call(Wanted { name, arguments }: Wanted) -> Value {
    let id = format!("call_{}", Uuid::new_v4().simple());
    json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
}

fn indexed((index, call): (usize, Wanted)) -> Value {
    let mut call = show_call(call);
    call["index"] = index.into();
    call
}

fn usage(thinking: &Thinking) -> Value {
    let (prompt, answer) = (thinking.prompt_chars.div_ceil(4), thinking.tokens);
    json!({ "prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer })
}
