//! Every change is in the audit with whoever made it, and whoever tampers with that is found.

use super::{
    agent::{Agent, enrolled, renew_on},
    command_line::Served,
    plane::TestPlane,
};
use control_plane::{
    admin_client::AdminClient,
    audit::Entry,
    fleet::accounts::{AccountName, Role},
};
use std::fs;

fn eve() -> AccountName {
    "eve".parse().unwrap()
}

pub async fn entries(plane: &TestPlane) -> Vec<Entry> {
    let view = plane.admin.audit(1000).await.unwrap();
    assert!(view.problems.is_empty());
    view.entries
}

/// The same after the lines of the four models that a test's plane begins with.
async fn entries_since_the_start(plane: &TestPlane) -> Vec<Entry> {
    entries(plane).await.split_off(4)
}

#[tokio::test]
async fn who_did_what_when_and_to_what() {
    let mut plane = TestPlane::new().await;
    let token = plane.admin.add_account(eve(), Role::Operator).await.unwrap().token;
    let as_eve = AdminClient::at(plane.running.admin, token.clone().into()).unwrap();
    enrolled(&plane, "eu", "a").await;
    as_eve.revoke("a", Some("stolen".into())).await.unwrap();
    // None of these changes anything.
    as_eve.revoke("a", None).await.unwrap();
    plane.apply(&plane.files()).await;
    as_eve.revoke("nobody", None).await.unwrap_err();
    as_eve.apply(plane.files_with("other")).await.unwrap();
    plane.admin.rotate_account(&eve()).await.unwrap();
    plane.admin.remove_account(&eve()).await.unwrap();
    let all = entries_since_the_start(&plane).await;
    let told: Vec<_> = all.iter().map(|e| (e.n, e.who.as_str(), e.what.as_str(), e.object.as_str())).collect();
    let token_object = all[2].object.clone();
    assert_eq!(
        told,
        [
            (5, "owner", "region.apply", "regions"),
            (6, "owner", "account.add", "account/eve"),
            (7, "owner", "token.create", token_object.as_str()),
            (8, "control-plane", "node.enrol", "node/a"),
            (9, "eve", "node.revoke", "node/a"),
            (10, "eve", "region.apply", "regions"),
            (11, "owner", "account.rotate", "account/eve"),
            (12, "owner", "account.remove", "account/eve"),
        ]
    );
    assert!(all[3].detail.contains(&token_object[..18]), "by which token: {}", all[3].detail);
    let serial = all[3].detail.split("certificate ").nth(1).unwrap().split(' ').next().unwrap();
    assert_eq!((all[4].detail.clone(), all[4].role), (format!("certificate {serial}; stolen"), Some(Role::Operator)));
    assert!(all[5].detail.contains("eu becomes generation 2"), "{}", all[5].detail);
    assert_eq!((&all[3].before, &all[3].after), (&None, &all[4].before), "one record, from digest to digest");
    assert_eq!((&all[0].after, &all[6].after), (&all[5].before, &all[7].before));
    assert!(all[7].after.is_none());
    plane.start_again().await;
    assert_eq!(entries_since_the_start(&plane).await, all);
    assert_eq!(plane.admin.verify_audit().await.unwrap().lines, 12);
    let log = fs::read_to_string(plane.dir.audit()).unwrap();
    assert!(!log.contains(&token), "no token stands there");
}

#[tokio::test]
async fn changes_at_once_are_in_one_order_and_none_is_missing() {
    let plane = TestPlane::new().await;
    let names: Vec<AccountName> = (0..40).map(|i| format!("a{i}").parse().unwrap()).collect();
    let added = names.iter().map(|name| plane.admin.add_account(name.clone(), Role::Viewer));
    for added in futures_util::future::join_all(added).await {
        added.unwrap();
    }
    let verdict = plane.admin.verify_audit().await.unwrap();
    assert_eq!((verdict.lines, verdict.problem), (45, None));
}

#[test]
fn verify_fails_and_names_the_line_and_a_kill_loses_nothing() {
    let mut served = Served::new();
    served.good(&["apply"]);
    for name in ["a", "b", "c"] {
        served.good(&["admin", "add", name, "--role", "viewer"]);
    }
    assert_eq!(served.good(&["audit", "verify"]), "10 lines hold.\n");
    let list = served.good(&["audit", "list", "--last", "2"]);
    assert!(list.contains("account/c") && list.contains("owner") && !list.contains("account/a"), "{list}");
    let imports = served.good(&["audit", "list", "--last", "2", "--what", "model.import"]);
    assert!(
        imports.contains("model/vad-1") && !imports.contains("model/asr-1") && !imports.contains("account"),
        "{imports}"
    );
    let one = served.json(&["audit", "list", "--object", "account/a", "--json"]);
    assert_eq!((one["entries"].as_array().unwrap().len(), &one["entries"][0]["what"]), (1, &"account.add".into()));
    served.kill_and_serve();
    assert_eq!(served.json(&["audit", "verify", "--json"])["lines"], 10);

    let path = served.dir().audit();
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.replace("account/b", "account/x")).unwrap();
    let failed = served.run(&["audit", "verify"]);
    assert_eq!(failed.status.code(), Some(1));
    let said = String::from_utf8(failed.stderr).unwrap();
    assert!(said.contains("line 9"), "{said}");
    let cut: String = good.lines().take(8).map(|line| format!("{line}\n")).collect();
    fs::write(&path, cut).unwrap();
    let said = String::from_utf8(served.run(&["audit", "verify"]).stderr).unwrap();
    assert!(said.contains("line 9 is missing"), "{said}");
    // Not after a restart either.
    served.kill_and_serve();
    let said = String::from_utf8(served.run(&["audit", "verify"]).stderr).unwrap();
    assert!(said.contains("line 9 is missing"), "{said}");
}

#[tokio::test]
async fn a_renewal_stands_in_the_audit_of_the_node_that_made_it() {
    let plane = TestPlane::new().await;
    let agent = Agent::new(&plane, "eu", "a").await;
    renew_on(&agent.connection, &agent.identity).await.unwrap();
    let all = entries(&plane).await;
    let renewed = all.last().unwrap();
    assert_eq!(
        (renewed.who.as_str(), renewed.what.as_str(), renewed.object.as_str()),
        ("control-plane", "node.renew", "node/a")
    );
    assert!(renewed.before.is_some() && renewed.before != renewed.after);
    // Which certificates a node had, and until when, can be followed from line to line.
    enrolled(&plane, "eu", "a").await;
    let next = renewed.detail.strip_prefix("certificate ").unwrap().split(' ').next().unwrap();
    let again = entries(&plane).await.pop().unwrap();
    assert!(again.what == "node.enrol" && again.detail.contains(&format!(", in place of {next}")), "{}", again.detail);
}
