//! Named accounts: what each role may do, and that a token is of use only while it should be.

use super::{agent::enrolled, command_line::Served, plane::TestPlane};
use control_plane::{
    admin_client::{AdminClient, AdminError},
    fleet::accounts::{AccountName, Role},
};
use reqwest::{Method, StatusCode};

fn name(text: &str) -> AccountName {
    text.parse().unwrap()
}

/// Every call of the admin API, with the least role that it needs.
const CALLS: [(&str, &str, Role); 24] = [
    ("GET", "status", Role::Viewer),
    ("GET", "nodes", Role::Viewer),
    ("GET", "nodes/a", Role::Viewer),
    ("POST", "plan", Role::Viewer),
    ("GET", "metrics", Role::Viewer),
    ("GET", "prometheus", Role::Viewer),
    ("GET", "audit?last=1", Role::Viewer),
    ("GET", "audit/verify", Role::Viewer),
    ("GET", "rollouts", Role::Viewer),
    ("GET", "rollouts/eu", Role::Viewer),
    ("GET", "events?after=0", Role::Viewer),
    ("POST", "nodes/a/revoke", Role::Operator),
    ("POST", "nodes/a/cordon", Role::Operator),
    ("POST", "nodes/nobody/uncordon", Role::Operator),
    ("POST", "nodes/a/labels", Role::Operator),
    ("POST", "rollouts/eu/abort", Role::Operator),
    ("POST", "tokens", Role::Operator),
    ("POST", "apply", Role::Operator),
    ("POST", "models/note", Role::Operator),
    ("GET", "accounts", Role::Admin),
    ("POST", "accounts", Role::Admin),
    ("POST", "accounts/other/rotate", Role::Admin),
    ("DELETE", "accounts/other", Role::Admin),
    ("POST", "export", Role::Admin),
];

#[tokio::test]
async fn every_call_wants_a_token_whose_role_permits_it() {
    let plane = TestPlane::new().await;
    enrolled(&plane, "eu", "a").await;
    let http = reqwest::Client::new();
    let base = format!("http://{}/v1/admin", plane.running.admin);
    let mut tokens = vec![(None, "nobody".to_owned())];
    for role in [Role::Viewer, Role::Operator, Role::Admin] {
        let made = plane.admin.add_account(name(&format!("a-{role}")), role).await.unwrap();
        tokens.push((Some(role), made.token));
    }
    for (role, token) in &tokens {
        for (method, path, needed) in CALLS {
            // A body that none of them understands: whoever gets as far as that is permitted, and nothing is changed.
            let call = http.request(Method::from_bytes(method.as_bytes()).unwrap(), format!("{base}/{path}"));
            let call = call.bearer_auth(token).header("content-type", "application/json").body("\"\"");
            let answer = call.send().await.unwrap();
            let (status, said) = (answer.status(), answer.text().await.unwrap());
            match role {
                None => assert_eq!(status, StatusCode::UNAUTHORIZED, "{method} {path}"),
                Some(role) if *role < needed => {
                    assert_eq!(status, StatusCode::FORBIDDEN, "{method} {path} as {role}");
                    assert!(said.contains(&format!("needs the role {needed}")), "{said}");
                    assert!(said.contains(&format!("a-{role} has {role}")), "{said}");
                }
                Some(role) => assert!(
                    status != StatusCode::UNAUTHORIZED && status != StatusCode::FORBIDDEN,
                    "{method} {path} as {role}: {status}"
                ),
            }
        }
    }
    assert_eq!(plane.node("a").await.state, "down", "nothing was done");
}

#[tokio::test]
async fn a_token_is_of_use_until_it_is_rotated_or_its_account_removed_and_is_not_in_the_store() {
    let mut plane = TestPlane::new().await;
    let first = plane.admin.add_account(name("eve"), Role::Viewer).await.unwrap().token;
    let as_token =
        |plane: &TestPlane, token: &str| AdminClient::at(plane.running.admin, token.to_owned().into()).unwrap();
    let eve = as_token(&plane, &first);
    eve.status().await.unwrap();
    plane.start_again().await;
    let eve = as_token(&plane, &first);
    // Anybody may make their own token anew, and of nobody else.
    let second = eve.rotate_account(&name("eve")).await.unwrap().token;
    assert!(matches!(eve.status().await, Err(AdminError::Refused { code, .. }) if code == "credential"));
    let eve = as_token(&plane, &second);
    plane.admin.add_account(name("bob"), Role::Viewer).await.unwrap();
    assert!(matches!(eve.rotate_account(&name("bob")).await, Err(AdminError::Refused { code, .. }) if code == "role"));
    let taken = plane.admin.add_account(name("eve"), Role::Admin).await.err().unwrap().to_string();
    assert!(taken.contains("admin rotate eve"), "{taken}");
    assert!(plane.admin.remove_account(&name("owner")).await.unwrap_err().to_string().contains("admin.token"));
    plane.admin.remove_account(&name("eve")).await.unwrap();
    assert!(eve.status().await.is_err());
    assert_eq!(plane.admin.accounts().await.unwrap().len(), 1);

    plane.stop().await;
    for file in super::enrolment::walk(plane.dir.root()) {
        let bytes = std::fs::read(&file).unwrap();
        for token in [&first, &second] {
            assert!(!bytes.windows(token.len()).any(|w| w == token.as_bytes()), "{}", file.display());
        }
    }
}

#[test]
fn the_command_line_acts_as_the_account_in_the_environment() {
    let served = Served::new();
    let token = served.good(&["admin", "add", "eve", "--role", "viewer"]);
    let as_eve = |args: &[&str]| {
        let output = served.command(args).env("NEARFIELD_ADMIN_TOKEN", token.trim()).output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(as_eve(&["status"]), (true, String::new()));
    let (done, said) = as_eve(&["apply"]);
    assert!(!done && said.contains("needs the role operator") && said.contains("eve has viewer"), "{said}");
    // From afar, without the folder: the server's address on this machine.
    let server = served.admin_address();
    let elsewhere = ["--state", "/nowhere", "--server", &server, "status"];
    assert!(as_eve(&elsewhere).0);
    let refused = served.run(&elsewhere);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("NEARFIELD_ADMIN_TOKEN"), "{refused:?}");
    let (done, said) = as_eve(&["--server", "192.0.2.1:7481", "status"]);
    assert!(!done && said.contains("ssh -L"), "{said}");

    assert!(served.good(&["admin", "list"]).contains("eve"));
    let again = served.good(&["admin", "rotate", "eve"]);
    assert_ne!(again, token);
    assert!(!as_eve(&["status"]).0, "the old one is of no use");
    assert!(served.good(&["admin", "remove", "eve"]).contains("removed"));
    assert_eq!(served.run(&["admin", "add", "Eve", "--role", "viewer"]).status.code(), Some(2));
}
