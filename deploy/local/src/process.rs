//! The control plane and the agents as real processes: this binary started again under another name.
//!
//! FAILURE LADDER: a process that ends while it is waited for is reported with the last lines of its log; on the way
//! out every process gets SIGTERM and time to drain, then SIGKILL.

use anyhow::{Context, Result, bail};
use std::{
    ffi::{OsStr, OsString},
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::{Child, Command};

/// Which program a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// `control-plane`
    ControlPlane,
    /// `edge-agent`
    EdgeAgent,
}

impl Program {
    /// The hidden first argument under which this binary behaves as that program.
    pub fn argument(self) -> &'static str {
        match self {
            Program::ControlPlane => "as-control-plane",
            Program::EdgeAgent => "as-edge-agent",
        }
    }
}

/// Starts programs from one binary, which is this one unless a test says otherwise.
#[derive(Debug, Clone)]
pub struct Launcher {
    binary: PathBuf,
}

impl Launcher {
    /// Starts programs from this process's own binary.
    ///
    /// # Errors
    /// When the system does not tell which file that is.
    pub fn own() -> Result<Self> {
        Ok(Self { binary: std::env::current_exe().context("cannot find this program's own file")? })
    }

    /// Starts programs from another `nearfield` binary.
    pub fn of(binary: impl Into<PathBuf>) -> Self {
        Self { binary: binary.into() }
    }

    /// Runs a program to its end and returns what it printed on standard output.
    ///
    /// # Errors
    /// With what it printed on standard error when it does not succeed.
    pub async fn run(&self, program: Program, args: &[OsString]) -> Result<String> {
        self.run_with(program, args, &[]).await
    }

    /// Like [`Launcher::run`], with variables added to the environment.
    ///
    /// # Errors
    /// Like [`Launcher::run`].
    pub async fn run_with(&self, program: Program, args: &[OsString], variables: &[(&str, &str)]) -> Result<String> {
        let mut command = self.command(program, args);
        let output = command.envs(variables.iter().copied()).output().await.context("cannot start a process")?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Starts a program that keeps running, with its output appended to `log`.
    ///
    /// # Errors
    /// When the log cannot be written or the process cannot be started.
    pub fn start(&self, name: &str, program: Program, args: &[OsString], log: &Path) -> Result<Daemon> {
        if let Some(folder) = log.parent() {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut command = self.command(program, args);
        command.stdout(file.try_clone().context("cannot share the log")?).stderr(file).kill_on_drop(true);
        // Ctrl-C goes to the whole foreground group; a group of its own lets us drain in order.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Daemon { name: name.to_owned(), log: log.to_owned(), child })
    }

    fn command(&self, program: Program, args: &[OsString]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg(program.argument()).args(args).stdin(Stdio::null());
        // The account of another control plane has no say in this one.
        command.env_remove("NEARFIELD_ADMIN_TOKEN").env_remove("NEARFIELD_PLANE_ADMIN");
        command
    }
}

/// A process that keeps running, its output in a log file.
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Daemon {
    /// Fails with the log's last lines if the process has ended.
    pub fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot ask after a process")? {
            None => Ok(()),
            Some(status) => {
                bail!("{} ended ({status}). The end of {}:\n{}", self.name, self.log.display(), tail(&self.log, 12))
            }
        }
    }

    /// The process's number, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until the process ends.
    pub async fn ended(&mut self) -> String {
        let status = self.child.wait().await.map_or_else(|e| e.to_string(), |status| status.to_string());
        format!("{} ended ({status}). The end of {}:\n{}", self.name, self.log.display(), tail(&self.log, 12))
    }

    /// Kills the process at once, as a crash or a power cut would.
    pub async fn kill(mut self) {
        // It may have ended already; either way it is gone.
        let _ = self.child.kill().await;
    }

    /// Asks the process to drain, and kills it if it has not ended within `grace`.
    pub async fn stop(mut self, grace: Duration) -> Stopped {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // SAFETY: kill only sends a signal; the child has not been waited for, so the number is still its own.
            unsafe { libc::kill(pid, libc::SIGTERM) };
        }
        let drained = tokio::time::timeout(grace, self.child.wait()).await.is_ok();
        if !drained {
            // Nothing is left to do with a failure here: the kernel ends the process when we end.
            let _ = self.child.kill().await;
        }
        Stopped { name: self.name, drained }
    }
}

/// How a process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stopped {
    /// The process.
    pub name: String,
    /// False when it had to be killed.
    pub drained: bool,
}

fn tail(log: &Path, lines: usize) -> String {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

/// Arguments from anything that looks like them.
pub fn args<const N: usize>(parts: [&dyn AsRef<OsStr>; N]) -> Vec<OsString> {
    parts.iter().map(|part| part.as_ref().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_of_a_log_is_its_last_lines() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        fs::write(file.path(), "a\nb\nc\nd\n").expect("write");
        assert_eq!(tail(file.path(), 2), "c\nd");
        assert_eq!(tail(Path::new("/does/not/exist"), 2), "");
    }
}
