//! A cough and a word of assent over an answer: a client that threw away its audio gets the rest of it again.

use crate::support::{Client, Did, Node};
use serde_json::{Value, json};
use std::time::Duration;

fn audio_ms(events: &[Value], response: &Value) -> usize {
    let deltas = events.iter().filter(|e| e["type"] == "response.output_audio.delta" && e["response_id"] == *response);
    // Base64 of 24 kHz PCM16: four characters for three bytes, 48 bytes for a millisecond.
    deltas.filter_map(|e| e["delta"].as_str()).map(|delta| delta.len() / 4 * 3 / 48).sum()
}

/// Speech and silence as fast as they are spoken, because the node estimates what was heard by its clock.
async fn in_real_time(client: &mut Client, ms: u64, loud: bool) {
    for _ in 0..ms / 40 {
        client.append(40, loud).await;
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

#[tokio::test]
async fn an_answer_goes_on_after_a_noise_with_its_own_events() {
    const ANSWER: &str = "One two three four five six seven eight nine ten and so on and on and on.";
    for (noise, says) in [("cough", ""), ("assent", "Mm-hm.")] {
        let node = Node::start().await;
        node.script(|s| {
            s.answers.push_back(vec![Did::Well(ANSWER)]);
            s.words.push_back(Did::Well("count".into()));
            s.words.push_back(Did::Well(says.into()));
        });
        let mut client = node.call().await;
        client.server_vad().await;
        client.speak(400).await;
        let first = client.expect("response.done").await["response"].clone();
        let whole_ms = audio_ms(&client.seen, &first["id"]);
        tokio::time::sleep(Duration::from_millis(900)).await;
        client.seen.clear();
        in_real_time(&mut client, 240, true).await;
        in_real_time(&mut client, 600, false).await;
        client.expect("input_audio_buffer.speech_started").await;
        let created = client.expect("response.created").await["response"].clone();
        assert_eq!(created["nearfield"]["goes_on_with"], first["output"][0]["id"], "{noise}");
        let rest = client.expect("response.done").await["response"].clone();
        assert_eq!((&rest["status"], &rest["id"]), (&json!("completed"), &created["id"]));
        let said = rest["output"][0]["content"][0]["transcript"].as_str().expect("words").to_owned();
        assert!(ANSWER.ends_with(&said) && said.len() < ANSWER.len(), "{noise}: {said}");
        let rest_ms = audio_ms(&client.seen, &rest["id"]);
        assert!(rest_ms > 0 && rest_ms < whole_ms - 500, "{noise}: {rest_ms} of {whole_ms} ms");
        let item = json!({"type": "conversation.item.retrieve", "item_id": first["output"][0]["id"]});
        let kept = client.ask(item, "conversation.item.retrieved").await;
        let heard = kept["item"]["content"][0]["transcript"].as_str().expect("words").to_owned();
        assert_eq!(format!("{heard} {said}"), ANSWER, "{noise}: no word is lost and none is said twice");
        let prompts = node.speech.script.lock().unwrap().prompts.len();
        assert_eq!(prompts, 1, "nothing was thought about a {noise}");
    }
}
