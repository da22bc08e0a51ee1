//! Handing a call to a person: the client's events, and the webhook, against a receiver that decides, hesitates, fails and is not there.

use crate::support::{Client, FakeSpeech, Node, front_desk, serving, until};
use axum::{
    Json, Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use edge_agent::{hand_over::signature, secrets};
use nearfield_shared::assistant::{Assistant, HandOver, Webhook};
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};

/// A request, as far as it is looked at.
type Delivery = (HeaderMap, Vec<u8>);

/// What a receiver got, and what it answers next.
#[derive(Clone, Default)]
struct Receiver {
    got: Arc<Mutex<Vec<Delivery>>>,
}

async fn receiver(answers: &'static [(u16, &'static str)]) -> (String, Receiver) {
    let receiver = Receiver::default();
    let got = Arc::clone(&receiver.got);
    let answer = move |headers: HeaderMap, body: Bytes| async move {
        let mut got = got.lock().unwrap();
        let (status, said) = answers[got.len().min(answers.len() - 1)];
        got.push((headers, body.to_vec()));
        let answer: Response = (StatusCode::from_u16(status).unwrap(), Json(json!({ "status": said }))).into_response();
        answer
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.unwrap() });
    (host, receiver)
}

fn desk(host: Option<&str>) -> Assistant {
    let webhook = host.map(|host| Webhook { url: format!("http://{host}/calls"), secret: "desk_hook".into() });
    let known = front_desk();
    let hand_over = HandOver { misunderstandings: 2, webhook, ..known.hand_over.clone() };
    Assistant { hand_over, hosts: host.into_iter().map(str::to_owned).collect(), ..known }
}

async fn node(host: Option<&str>) -> Node {
    let private = host.into_iter().map(str::to_owned).collect();
    let node = Node::asking(FakeSpeech::default(), serving(vec![desk(host)]), 8, private).await;
    secrets::private_folder(&node.secrets()).unwrap();
    secrets::write(&node.secrets().join("desk_hook"), b"key\n").unwrap();
    node
}

/// Says these words, by typing them, and asks for the answer.
async fn says(client: &mut Client, words: &str) {
    let item = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": words}]});
    client.ask(json!({"type": "conversation.item.create", "item": item}), "conversation.item.done").await;
    client.ask(json!({"type": "response.create"}), "response.done").await;
}

async fn calls_a_person(node: &Node, consent: bool) -> Client {
    let mut client = node.call().await;
    client.manual().await;
    let update = json!({"type": "session.update", "session": {"type": "realtime", "nearfield": {"consent": consent}}});
    client.ask(update, "session.updated").await;
    says(&mut client, "My name is Ada Lovelace and my number is 4711.").await;
    says(&mut client, "i want to talk to a person").await;
    client
}

#[tokio::test]
async fn the_client_is_told_and_says_when_a_person_takes_over() {
    let node = node(None).await;
    let mut client = calls_a_person(&node, false).await;
    let told = client.seen.iter().find(|e| e["type"] == "nearfield.handed_over").expect("told").clone();
    assert_eq!(told["reason"], "asked_for_person");
    let wrong = client.ask(json!({"type": "nearfield.hand_over.end", "status": "maybe"}), "error").await;
    assert_eq!(wrong["error"]["param"], "status");
    client.seen.clear();
    client.ask(json!({"type": "nearfield.hand_over.end", "status": "accepted"}), "nearfield.hand_over.ended").await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], "A colleague takes over now.");
    let again = client.ask(json!({"type": "nearfield.hand_over.end", "status": "closed"}), "error").await;
    assert_eq!(again["error"]["code"], "no_hand_over");
}

#[tokio::test]
async fn the_webhook_is_signed_tried_again_and_decides() {
    let (host, receiver) = receiver(&[(500, ""), (200, "accepted")]).await;
    let node = node(Some(&host)).await;
    let mut client = calls_a_person(&node, true).await;
    let ended = client.expect("nearfield.hand_over.ended").await;
    assert_eq!(ended["status"], "accepted");
    let got = receiver.got.lock().unwrap().clone();
    let [(first, body), (second, again)] = got.as_slice() else { panic!("{} deliveries", got.len()) };
    assert_eq!((body, &first["idempotency-key"]), (again, &second["idempotency-key"]));
    for (headers, body) in &got {
        let timestamp = headers["x-nearfield-timestamp"].to_str().unwrap();
        assert_eq!(headers["x-nearfield-signature"], format!("v1={}", signature(b"key", timestamp, body)));
    }
    let notice: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(
        (&notice["id"], &notice["reason"]),
        (&first["idempotency-key"].to_str().unwrap().into(), &"asked_for_person".into())
    );
    assert_eq!((&notice["assistant"], &notice["region"]), (&"front-desk".into(), &"eu-central".into()));
    assert_eq!(
        notice["summary"][0],
        json!({"speaker": "caller", "text": "My name is [name] and my number is [number]."})
    );
    assert_eq!(notice["summary_left_out"], Value::Null);
}

#[tokio::test]
async fn without_consent_only_the_reason_and_counts_are_told() {
    let (host, receiver) = receiver(&[(200, "closed")]).await;
    let node = node(Some(&host)).await;
    let mut client = calls_a_person(&node, false).await;
    assert_eq!(client.expect("nearfield.hand_over.ended").await["status"], "closed");
    let (_, body) = receiver.got.lock().unwrap()[0].clone();
    let notice: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((&notice["summary"], &notice["turns"]["caller"]), (&Value::Null, &json!(2)));
    assert!(notice["summary_left_out"].as_str().is_some_and(|reason| !reason.is_empty()), "{notice}");
    let text = String::from_utf8(body).unwrap();
    assert!(!text.contains("Ada") && !text.contains("4711"), "{text}");
}

#[tokio::test]
async fn a_notice_survives_the_call_and_a_receiver_that_refuses_is_not_asked_again() {
    let (host, receiver) = receiver(&[(503, ""), (403, ""), (200, "accepted")]).await;
    let node = node(Some(&host)).await;
    drop(calls_a_person(&node, false).await);
    node.quiet().await;
    until(|| receiver.got.lock().unwrap().len() == 2).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
    assert_eq!(receiver.got.lock().unwrap().len(), 2, "a refusal is final");
}

#[tokio::test]
async fn answers_that_do_not_know_fetch_a_person() {
    let node = node(None).await;
    node.script(|s| {
        s.answers.push_back(vec![crate::support::Did::Well("I do not know that.")]);
        s.answers.push_back(vec![crate::support::Did::Well("I am not sure about that.")]);
    });
    let mut client = node.call().await;
    client.manual().await;
    says(&mut client, "what is my balance").await;
    says(&mut client, "tell me my balance").await;
    assert_eq!(client.expect("nearfield.handed_over").await["reason"], "misunderstood");
    assert_eq!(
        client.expect("response.done").await["response"]["output"][0]["content"][0]["transcript"],
        "One moment please."
    );
}

#[tokio::test]
async fn after_a_person_took_over_the_assistant_is_silent_until_it_is_wanted_back() {
    let node = node(None).await;
    let mut client = calls_a_person(&node, false).await;
    client.ask(json!({"type": "nearfield.hand_over.end", "status": "accepted"}), "nearfield.hand_over.ended").await;
    let done = client.expect("response.done").await;
    assert_eq!(done["response"]["output"][0]["content"][0]["transcript"], "A colleague takes over now.");
    client.server_vad().await;
    let heard = node.speech.script.lock().unwrap().transcribed_ms.len();
    client.seen.clear();
    client.speak(600).await;
    let refused = client.ask(json!({"type": "input_audio_buffer.commit"}), "error").await;
    assert_eq!(refused["error"]["code"], "person_has_call");
    // What is asked for is still done, and nothing else was.
    let summary = json!({"conversation": "none", "output_modalities": ["text"], "instructions": "Sum up."});
    client.ask(json!({"type": "response.create", "response": summary}), "response.done").await;
    let of_turns = |e: &Value| e["type"].as_str().is_some_and(|kind| kind.starts_with("input_audio_buffer."));
    assert!(!client.seen.iter().any(of_turns), "{:?}", client.kinds());
    assert_eq!(node.speech.script.lock().unwrap().transcribed_ms.len(), heard, "no word of it was looked for");
    assert_eq!(client.seen.iter().filter(|e| e["type"] == "response.created").count(), 1);

    client.ask(json!({"type": "nearfield.hand_over.resume"}), "nearfield.hand_over.resumed").await;
    client.speak(600).await;
    assert_eq!(client.expect("response.done").await["response"]["status"], "completed");
    let again = client.ask(json!({"type": "nearfield.hand_over.resume"}), "error").await;
    assert_eq!(again["error"]["code"], "no_person");
}

#[tokio::test]
async fn with_consent_the_words_are_told_and_not_answered() {
    let (host, _receiver) = receiver(&[(200, "accepted")]).await;
    let node = node(Some(&host)).await;
    let mut client = calls_a_person(&node, true).await;
    loop {
        let done = client.expect("response.done").await;
        if done["response"]["output"][0]["content"][0]["transcript"] == "A colleague takes over now." {
            break;
        }
    }
    client.server_vad().await;
    client.seen.clear();
    client.speak(600).await;
    client.expect("conversation.item.input_audio_transcription.completed").await;
    client.ask(json!({"type": "nearfield.hand_over.resume"}), "nearfield.hand_over.resumed").await;
    assert!(!client.seen.iter().any(|e| e["type"] == "response.created"), "{:?}", client.kinds());
}
