//! The naive server: a Python process with the same models, which every caller shares.

use super::{Target, node::ASSISTANT_FILE};
use crate::peer::{ModelFiles, NAIVE_SERVER, Python};
use anyhow::{Context, Result};
use serde::Deserialize;
use std::{fs, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

/// How long it may take to load its models and render its known answers.
const READY_PATIENCE: Duration = Duration::from_secs(180);
/// How long it may take to end.
const GRACE: Duration = Duration::from_secs(5);

/// The running server.
pub struct NaiveServer {
    child: Child,
    target: Target,
    _folder: tempfile::TempDir,
}

#[derive(Deserialize)]
struct Ready {
    port: u16,
}

impl NaiveServer {
    /// Starts it and waits until it listens.
    ///
    /// # Errors
    /// When it ends before, or takes too long.
    pub async fn start(python: &Python, files: &ModelFiles, threads: usize) -> Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let assistant = folder.path().join("assistant.toml");
        fs::write(&assistant, ASSISTANT_FILE).context("cannot write the assistant's file")?;
        let paths = serde_json::to_string(&files.paths).context("paths that are no text")?;
        let mut child = Command::new(&python.interpreter)
            .arg(python.scripts.join(NAIVE_SERVER))
            .args([&paths, &assistant.display().to_string(), &threads.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start the naive server with {}", python.interpreter.display()))?;
        let process = child.id().context("the naive server ended at once")?;
        let mut lines = BufReader::new(child.stdout.take().context("a pipe that was asked for")?).lines();
        let line = tokio::time::timeout(READY_PATIENCE, lines.next_line()).await;
        let line = line.context("the naive server was not ready in time")?.context("the naive server's words")?;
        let line = line.context("the naive server ended; its words stand above")?;
        let ready: Ready = serde_json::from_str(&line).with_context(|| format!("the naive server said `{line}`"))?;
        let url = format!("ws://127.0.0.1:{}/v1/realtime", ready.port);
        Ok(Self { child, target: Target { name: "naive server".to_owned(), url, process }, _folder: folder })
    }

    /// Where it is called.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Ends it.
    pub async fn stop(mut self) {
        // The end of its input asks it to end.
        drop(self.child.stdin.take());
        if tokio::time::timeout(GRACE, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }
}
