//! The engines that we are measured against, in a Python process of their own.
//!
//! One JSON object a line goes in and one comes out, one request at a time; whoever waits for an answer does nothing else, so
//! the two sides never compute at once.

mod environment;
mod files;

pub use environment::{NAIVE_SERVER, Python};
pub use files::{ModelFiles, model_files};

use crate::measure::Run;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

/// The process.
pub struct Peer {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Versions of the engines.
    pub versions: String,
}

/// An answer to a measured request.
#[derive(Debug, Deserialize)]
pub struct Timed<T> {
    /// The time of the work alone.
    #[serde(flatten)]
    pub run: Times,
    /// What was computed.
    #[serde(flatten)]
    pub found: T,
}

/// The clock's part of an answer.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct Times {
    wall_ms: f64,
    cpu_ms: f64,
}

impl From<Times> for Run {
    fn from(t: Times) -> Self {
        Self { wall_ms: t.wall_ms, cpu_ms: t.cpu_ms }
    }
}

impl Peer {
    /// Starts it with the files of the published models.
    ///
    /// # Errors
    /// When it cannot be started or does not find its packages.
    pub fn start(python: &Python, files: &ModelFiles, threads: usize) -> Result<Self> {
        let mut command = Command::new(&python.interpreter);
        command.arg(python.scripts.join("stages.py")).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Libraries that ask the environment how many threads there shall be.
        for name in ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS"] {
            command.env(name, threads.to_string());
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start the other engines with {}", python.interpreter.display()))?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().context("a pipe that was asked for")?);
        let mut peer = Self { child, requests, answers, versions: String::new() };
        let hello: Value = peer.ask("begin", json!({ "files": files.paths, "threads": threads }))?;
        let said = |key: &str| hello[key].as_str().unwrap_or("?").to_owned();
        peer.versions = format!(
            "ONNX Runtime {}, llama-cpp-python {}, Python {}",
            said("onnxruntime"),
            environment::pinned("llama-cpp-python"),
            said("python")
        );
        Ok(peer)
    }

    /// Asks for one thing and waits for its answer.
    ///
    /// # Errors
    /// What the other side says, or that it is gone.
    pub fn ask<T: DeserializeOwned>(&mut self, what: &str, mut request: Value) -> Result<T> {
        request["do"] = what.into();
        let requests = self.requests.as_mut().context("the other engines were stopped")?;
        let gone =
            || format!("the process of the other engines ended while it was asked for {what}; its words stand above");
        writeln!(requests, "{request}").and_then(|()| requests.flush()).with_context(gone)?;
        let mut line = String::new();
        if self.answers.read_line(&mut line).with_context(gone)? == 0 {
            bail!(gone());
        }
        let answer: Value = serde_json::from_str(&line).with_context(gone)?;
        if let Some(error) = answer["error"].as_str() {
            bail!("the other engine failed at {what}: {error}");
        }
        serde_json::from_value(answer).with_context(|| format!("an answer to {what} that is not understood"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input is the end of its work.
        self.requests = None;
        let _ = self.child.wait();
    }
}
