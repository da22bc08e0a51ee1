//! The fleet in a browser: who may look, what is shown, and that what others wrote is shown as text.

use super::{agent::Agent, plane::TestPlane};
use control_plane::fleet::accounts::Role;
use reqwest::{Response, StatusCode};
use std::{path::Path, process::Command};

struct Viewer {
    base: String,
    token: String,
}

impl Viewer {
    async fn of(plane: &TestPlane) -> Self {
        let token = plane.admin.add_account("eve".parse().unwrap(), Role::Viewer).await.unwrap().token;
        Self { base: format!("http://{}", plane.running.admin), token }
    }

    async fn ask(&self, name: &str, token: &str, path: &str) -> Response {
        let ask = reqwest::Client::new().get(format!("{}{path}", self.base)).basic_auth(name, Some(token));
        ask.send().await.unwrap()
    }

    async fn page(&self, path: &str) -> String {
        let answer = self.ask("eve", &self.token, path).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        answer.text().await.unwrap()
    }
}

#[tokio::test]
async fn only_accounts_look_and_looking_changes_nothing() {
    let plane = TestPlane::new().await;
    let viewer = Viewer::of(&plane).await;
    for path in ["/dashboard", "/dashboard/nodes", "/dashboard/rollouts", "/dashboard/audit", "/dashboard/style.css"] {
        let nobody = reqwest::get(format!("{}{path}", viewer.base)).await.unwrap();
        assert_eq!(nobody.status(), StatusCode::UNAUTHORIZED, "{path}");
        assert!(nobody.headers()["www-authenticate"].to_str().unwrap().starts_with("Basic "));
        assert!(nobody.text().await.unwrap().contains("control-plane admin add"));
        for (name, token) in [("eve", "wrong"), ("mallory", viewer.token.as_str()), ("owner", viewer.token.as_str())] {
            assert_eq!(viewer.ask(name, token, path).await.status(), StatusCode::UNAUTHORIZED, "{name} {path}");
        }
        assert_eq!(viewer.ask("eve", &viewer.token, path).await.status(), StatusCode::OK, "{path}");
    }
    // What a browser sends by itself opens nothing else.
    let status = viewer.ask("eve", &viewer.token, "/v1/admin/status").await;
    assert_eq!(status.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn regions_nodes_and_changes_are_shown_as_they_are() {
    let plane = TestPlane::new().await;
    let viewer = Viewer::of(&plane).await;
    let _up = Agent::new(&plane, "eu", "fra-1").await;
    let reason = "<script>alert('stolen')</script>";
    Agent::new(&plane, "us", "nyc-1").await;
    plane.admin.revoke("nyc-1", Some(reason.to_owned())).await.unwrap();

    let overview = viewer.page("/dashboard").await;
    for shown in ["<circle", ">eu</a>", ">us</a>", "links open: 1"] {
        assert!(overview.contains(shown), "{shown} is missing in {overview}");
    }
    let nodes = viewer.page("/dashboard/nodes").await;
    assert!(nodes.contains("fra-1") && nodes.contains("nyc-1") && nodes.contains("2 nodes"), "{nodes}");
    let revoked = viewer.page("/dashboard/nodes?state=revoked").await;
    assert!(!revoked.contains(">fra-1<") && revoked.contains(">nyc-1<") && revoked.contains("1 node<"), "{revoked}");
    let none = viewer.page("/dashboard/nodes?region=%3Cscript%3E&page=99").await;
    assert!(none.contains("0 nodes") && !none.contains("<script"), "{none}");
    let audit = viewer.page("/dashboard/audit").await;
    assert!(audit.contains("node.revoke") && audit.contains("&lt;script&gt;alert"), "{audit}");
    assert!(!audit.contains("<script"), "{audit}");
    assert_eq!(viewer.ask("eve", &viewer.token, "/dashboard/nodes?page=-1").await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_browser_shows_it() {
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let is_there = |name: &&&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let Some(browser) = browsers.iter().find(is_there) else {
        println!("SKIPPED: there is no Chromium on this machine (Debian: apt install chromium)");
        return;
    };
    let plane = TestPlane::new().await;
    let viewer = Viewer::of(&plane).await;
    let _up = Agent::new(&plane, "eu", "fra-1").await;
    let url = format!("http://eve:{}@{}/dashboard", viewer.token, plane.running.admin);
    let screenshot = Path::new(env!("CARGO_TARGET_TMPDIR")).join("dashboard.png");
    let profile = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new(browser);
    command
        // The tests may run as root, where its sandbox does not start; what it loads is ours.
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1280,1500",
            "--dump-dom",
        ])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--screenshot={}", screenshot.display()))
        .arg(url);
    let output = command.output().await.unwrap();
    let page = String::from_utf8_lossy(&output.stdout);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(page.contains("<h1>Fleet</h1>") && page.contains("</svg>"), "{page}\n{told}");
    assert!(!told.contains("Content Security Policy"), "{told}");
    println!("{}", screenshot.display());
}
