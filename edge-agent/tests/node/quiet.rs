//! What callers say reaches neither a log line nor the control plane: every event of a busy node is read here.

use crate::{
    host::Behaviour,
    rig::{Rig, until},
};
use edge_agent::{
    admin::{self, Answer, Ask},
    config::Config,
    vault::{Speaker, Transcript, Utterance},
};
use nearfield_shared::{
    artefact::Stage,
    pii::Pii,
    policy::{Request, decide},
    report::CallTally,
    wire::AgentToPlane,
};
use std::{
    fmt::{Debug, Write as _},
    sync::{Arc, Mutex},
    time::Duration,
};
use tracing::field::{Field, Visit};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt as _};
use uuid::Uuid;

/// The words that must appear nowhere.
const MARKED: &str = "xylophone-aardvark-4711";

/// Keeps every event and span of the process, at every level.
#[derive(Clone, Default)]
struct Everything(Arc<Mutex<String>>);

struct Text<'a>(&'a mut String);

impl Visit for Text<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "{field}={value:?} ");
    }
}

impl<S: tracing::Subscriber> Layer<S> for Everything {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = self.0.lock().unwrap();
        event.record(&mut Text(&mut text));
        text.push('\n');
    }

    fn on_new_span(&self, span: &tracing::span::Attributes<'_>, _: &tracing::span::Id, _: Context<'_, S>) {
        span.record(&mut Text(&mut self.0.lock().unwrap()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn marked_words_are_in_no_log_line_and_in_no_byte_to_the_plane() {
    let everything = Everything::default();
    // For the whole process: the node's tasks run on other threads. The other tests only add lines.
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(everything.clone()))
        .expect("no other test of this binary sets one");
    let mut rig = Rig::new().await;
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&model]));
    let config = Config { report_window: Duration::from_millis(50), ..rig.config() };
    let daemon = rig.start_with(config).await.unwrap();
    rig.acked(1).await;

    let services = daemon.services().clone();
    let text = || Pii::new(format!("my code is {MARKED}"));
    let transcript = Transcript {
        call: Uuid::from_u128(1),
        assistant: "front-desk".into(),
        said: vec![Utterance { speaker: Speaker::Caller, text: text() }],
    };
    tracing::info!(?transcript, "even whoever logs a transcript by mistake logs nothing of it");
    let policy = services.serving.borrow().policy.clone();
    let permit = decide(policy.as_ref(), &Request::StoreTranscript { consent: true }).unwrap();
    services.vault.store(&permit, transcript, 4_000_000_000).await.unwrap();
    let call = Uuid::from_u128(1);
    let Ok(Answer::Transcript(shown)) = admin::ask(&rig.dir, &Ask::VaultShow { call }).await else { panic!("shown") };
    assert!(shown.said[0].1.contains(MARKED), "whoever may read it, can");
    (0..9).for_each(|_| services.tally.add(&CallTally { calls: 1, ..CallTally::default() }));
    rig.hear(|message| matches!(message, AgentToPlane::Report(_)).then_some(())).await;
    admin::ask(&rig.dir, &Ask::VaultErase { call: None }).await.unwrap();
    let url = format!("{}/v1/route?country={MARKED}", daemon.urls()[0]);
    assert_eq!(reqwest::get(url).await.unwrap().status(), 400);
    daemon.drain().await;
    until("the goodbye arrived", || rig.plane.log().contains(&AgentToPlane::Goodbye)).await;

    let log = everything.0.lock().unwrap().clone();
    assert!(log.contains("even whoever logs") && log.contains("transcripts erased"), "the layer sees the node's log");
    assert!(!log.contains(MARKED), "caller data in the log");
    let sent = rig.plane.bytes_in();
    assert!(sent.len() > 500, "the plane heard the node");
    assert!(!sent.windows(MARKED.len()).any(|window| window == MARKED.as_bytes()), "caller data on the wire");
}
