//! Chromium without a window, driven over its DevTools protocol: one page, with a recording for a microphone.

use base64::Engine as _;
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};
use tokio::net::TcpStream;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// Names under which systems install it.
const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// A browser with one page.
pub struct Browser {
    process: Child,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// The page, in the protocol's words.
    session: String,
    sent: u64,
    _profile: tempfile::TempDir,
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _gone = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// The program, or `None` and a word to whoever reads the test's output.
pub fn installed() -> Option<&'static str> {
    let found = NAMES.into_iter().find(|name| {
        Command::new(name)
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    });
    if found.is_none() {
        // Not by a macro: what those print is kept back where a test passes.
        let _told = writeln!(
            std::io::stderr(),
            "SKIPPED: no Chromium is installed, so no page was opened (Debian: apt install chromium)"
        );
    }
    found
}

impl Browser {
    /// Starts the program; its microphone hears this recording once, and then silence.
    pub async fn start(program: &str, microphone: &Path) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let mut process = Command::new(program)
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0"])
            .args(["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"])
            .args(["--autoplay-policy=no-user-gesture-required", "--allow-loopback-in-peer-connection"])
            .args(["--window-size=1100,1100", "--force-prefers-reduced-motion"])
            .arg(format!("--use-file-for-fake-audio-capture={}%noloop", microphone.display()))
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut lines = BufReader::new(process.stderr.take().expect("a pipe")).lines().map_while(Result::ok);
        let address = tokio::task::spawn_blocking(move || {
            let found = lines.find_map(|line| line.strip_prefix("DevTools listening on ").map(str::to_owned));
            // A program whose words nobody reads comes to a stop.
            std::thread::spawn(move || lines.for_each(drop));
            found
        });
        let address = address.await.expect("ran").expect("it says where it listens");
        let (socket, _) = connect_async(address).await.expect("it is there");
        let mut browser = Self { process, socket, session: String::new(), sent: 0, _profile: profile };
        let targets = browser.ask("Target.getTargets", json!({})).await;
        let page = targets["targetInfos"].as_array().and_then(|all| all.iter().find(|one| one["type"] == "page"));
        let target = page.expect("it opens with a page")["targetId"].clone();
        let attached = browser.ask("Target.attachToTarget", json!({ "targetId": target, "flatten": true })).await;
        browser.session = attached["sessionId"].as_str().expect("a name").to_owned();
        browser.ask("Page.enable", json!({})).await;
        browser
    }

    /// Asks for something and waits for the answer; what happens meanwhile is passed over.
    pub async fn ask(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        self.socket.send(Message::text(message.to_string())).await.expect("it takes it");
        loop {
            let Some(Ok(answer)) = self.socket.next().await else { panic!("the browser is gone after {method}") };
            let Message::Text(text) = answer else { continue };
            let mut answer: Value = serde_json::from_str(&text).expect("JSON");
            if answer["id"] == self.sent {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
        }
    }

    /// Opens an address; `before` runs before anything of the page does.
    pub async fn open(&mut self, url: &str, before: &str) {
        self.ask("Page.addScriptToEvaluateOnNewDocument", json!({ "source": before })).await;
        self.ask("Page.navigate", json!({ "url": url })).await;
        self.until("document.readyState === 'complete'").await;
    }

    /// The value of an expression, awaited where it is a promise.
    pub async fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut found = self.ask("Runtime.evaluate", params).await;
        assert!(found["exceptionDetails"].is_null(), "{expression}: {found}");
        found["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub async fn until(&mut self, expression: &str) {
        while self.value(expression).await != json!(true) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presses a key and lets it go.
    pub async fn press(&mut self, key: &str, code: u32) {
        let text = if key == "Enter" { "\r" } else { "" };
        for kind in ["keyDown", "keyUp"] {
            let params = json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.ask("Input.dispatchKeyEvent", params).await;
        }
    }

    /// A picture of the page, PNG.
    pub async fn picture(&mut self, file: &Path) {
        let taken = self.ask("Page.captureScreenshot", json!({ "format": "png", "captureBeyondViewport": true })).await;
        let bytes = base64::engine::general_purpose::STANDARD.decode(taken["data"].as_str().expect("a picture"));
        std::fs::write(file, bytes.expect("base64")).expect("the build folder can be written");
    }

    /// What a screen reader is told: the role and the name of everything that has both.
    pub async fn spoken_roles(&mut self) -> Vec<(String, String)> {
        let tree = self.ask("Accessibility.getFullAXTree", json!({})).await;
        let text = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
        nodes.iter().filter(|node| node["ignored"] != true).map(|n| (text(&n["role"]), text(&n["name"]))).collect()
    }
}
