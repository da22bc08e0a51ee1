//! The vault behind the admin socket: what the daemon's own policy permits, and no more.

use crate::{
    host::Behaviour,
    rig::{Rig, policy},
};
use edge_agent::{
    admin::{self, Answer, Ask},
    vault::{Speaker, Transcript, Utterance},
};
use nearfield_shared::{
    artefact::Stage,
    pii::Pii,
    policy::{Policy, Request, decide},
};
use std::os::unix::fs::PermissionsExt;
use uuid::Uuid;

const NOW_S: u64 = 4_000_000_000;

async fn ask(rig: &Rig, question: Ask) -> Answer {
    admin::ask(&rig.dir, &question).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn transcripts_are_listed_shown_and_erased_through_the_socket() {
    let mut rig = Rig::new().await;
    let model = rig.model(Stage::Asr, Behaviour::Good, "one");
    rig.plane.want(rig.state(1, &[&model]));
    let daemon = rig.start().await;
    rig.acked(1).await;
    assert_eq!(std::fs::metadata(rig.dir.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    let in_force = daemon.services().serving.borrow().policy.clone();
    let permit = decide(in_force.as_ref(), &Request::StoreTranscript { consent: true }).unwrap();
    let call = Uuid::from_u128(7);
    let said = vec![Utterance { speaker: Speaker::Caller, text: Pii::new("the marmot sleeps".into()) }];
    let transcript = Transcript { call, assistant: "front-desk".into(), said };
    daemon.services().vault.store(&permit, transcript, NOW_S).await.unwrap();

    let Answer::Kept { kept } = ask(&rig, Ask::VaultList).await else { panic!("a list") };
    assert_eq!((kept.len(), kept[0].call, kept[0].expires_at_s), (1, call, NOW_S + 30 * 86_400));
    let Answer::Transcript(shown) = ask(&rig, Ask::VaultShow { call }).await else { panic!("a transcript") };
    assert_eq!(shown.said, [(Speaker::Caller, "the marmot sleeps".to_owned())]);

    // A stricter policy forbids reading, and what is stored goes at once.
    let strict = Policy { store_transcripts: false, retention_days: 0, ..policy() };
    let mut state = rig.state(2, &[&model]);
    state.policy = strict;
    rig.plane.want(state);
    rig.acked(2).await;
    let Answer::Failed { reason } = ask(&rig, Ask::VaultShow { call }).await else { panic!("refused") };
    assert!(reason.contains("policy"), "{reason}");
    let emptied = async {
        loop {
            let Answer::Kept { kept } = ask(&rig, Ask::VaultList).await else { panic!("a list") };
            if kept.is_empty() {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(60), emptied).await.expect("what may not be kept goes");
    let Answer::Failed { reason } = ask(&rig, Ask::VaultErase { call: Some(call) }).await else { panic!("gone") };
    assert!(reason.contains("vault list"), "{reason}");
    daemon.drain().await;
    assert!(matches!(admin::ask(&rig.dir, &Ask::Status).await, Err(admin::AskError::NotRunning(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_policy_nothing_is_read_or_erased() {
    let rig = Rig::new().await;
    let daemon = rig.start().await;
    for question in [Ask::VaultShow { call: Uuid::nil() }, Ask::VaultErase { call: None }] {
        let Answer::Failed { reason } = ask(&rig, question).await else { panic!("refused") };
        assert!(reason.contains("no policy is in force"), "{reason}");
    }
    let Answer::Status(status) = ask(&rig, Ask::Status).await else { panic!("a status") };
    assert_eq!((status.node.as_str(), status.serving), ("fra-1", 0));
    daemon.drain().await;
}
