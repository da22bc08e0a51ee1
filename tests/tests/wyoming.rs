//! The Wyoming protocol with the six real models: the official package, unmodified, does what Home Assistant does.

#[path = "../environments/mod.rs"]
mod environments;

#[path = "../real_node/mod.rs"]
mod real_node;
#[path = "../wyoming/mod.rs"]
mod wyoming;

use control_plane::registry::speech::wer::word_errors;
use real_node::{Node, recorded_question};
use std::path::PathBuf;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_official_package_understands_a_person_and_is_spoken_to() {
    let node = Node::start().await;
    let (said, recording) = recorded_question().await;
    let file = node.file("question.wav", &recording).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let (address, stop) = (listener.local_addr().expect("an address"), CancellationToken::new());
    let serving = tokio::spawn(edge_agent::wyoming::serve(listener, node.services.clone(), stop.clone()));
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let found = tokio::task::spawn_blocking(move || wyoming::be_at_home(&target, address, &file)).await.expect("ran");
    println!("was said: {said}\n{}", serde_json::to_string_pretty(&found).expect("JSON"));

    let text = found["heard"]["text"][0].as_str().expect("words");
    let errors = word_errors(&said, text);
    assert!(errors.errors * 4 <= errors.words, "heard `{text}`");
    let pieces = found["heard"]["pieces"].as_array().expect("pieces");
    assert_eq!(pieces.iter().filter_map(|piece| piece.as_str()).collect::<String>(), text);
    assert_eq!(found["heard"]["at_once"].as_array().map(Vec::len), Some(3));
    assert_eq!((&found["voices"][0][0], &found["spoken"]["formats"][0][0]), (&"voice-started".into(), &24_000.into()));
    for spoken in ["spoken", "streamed"] {
        let seconds = found[spoken]["seconds"].as_f64().expect("seconds");
        assert!((3.0..8.0).contains(&seconds), "{spoken}: {seconds} s for fourteen words");
    }
    stop.cancel();
    serving.await.expect("ended");
}
