//! The Python environment of the other engines: made once for each user, with pinned versions.

use anyhow::{Context, Result, bail};
use control_plane::registry::Cache;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

const REQUIREMENTS: &str = include_str!("../../peers/requirements.txt");
const SCRIPTS: [(&str, &str); 3] = [
    ("engines.py", include_str!("../../peers/engines.py")),
    ("stages.py", include_str!("../../peers/stages.py")),
    (NAIVE_SERVER, include_str!("../../peers/naive_server.py")),
];

/// Names an interpreter that has the packages already, instead of an environment of our own.
const PYTHON: &str = "NEARFIELD_PEER_PYTHON";

/// The script that answers whole calls.
pub const NAIVE_SERVER: &str = "naive_server.py";

/// An interpreter with the packages, and the scripts it runs.
#[derive(Debug, Clone)]
pub struct Python {
    /// The interpreter.
    pub interpreter: PathBuf,
    /// Folder of the scripts.
    pub scripts: PathBuf,
}

impl Python {
    /// The environment of this user, made where there is none: that compiles llama.cpp, which takes about half an hour on two cores.
    ///
    /// # Errors
    /// With the remedy, where Python, pip or a compiler is missing, or a package cannot be had.
    pub fn ensure(cache: &Cache) -> Result<Self> {
        let folder = cache.folder().join("peers");
        let scripts = folder.join("scripts");
        write_scripts(&scripts).with_context(|| format!("cannot write {}", scripts.display()))?;
        if let Some(interpreter) = env::var_os(PYTHON).filter(|v| !v.is_empty()) {
            return Ok(Self { interpreter: interpreter.into(), scripts });
        }
        let _lock = cache.lock("peers")?;
        let digest = nearfield_shared::artefact::Digest::of(REQUIREMENTS.as_bytes()).to_string();
        let venv = folder.join(format!("venv-{}", &digest[..12]));
        let (interpreter, ready) = (venv.join("bin/python"), venv.join("ready"));
        if !ready.exists() {
            make(&venv, &interpreter, &folder.join("pip.log"))?;
            fs::write(&ready, "").with_context(|| format!("cannot write {}", ready.display()))?;
        }
        Ok(Self { interpreter, scripts })
    }
}

/// The pinned version of a package.
pub(super) fn pinned(package: &str) -> &'static str {
    let mut pins = REQUIREMENTS.lines().filter_map(|line| line.split_once("=="));
    pins.find(|(name, _)| *name == package).map_or("?", |(_, version)| version)
}

fn write_scripts(folder: &Path) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    for (name, text) in SCRIPTS {
        let file = folder.join(name);
        // Another process may be reading it.
        if fs::read_to_string(&file).ok().as_deref() != Some(text) {
            fs::write(file, text)?;
        }
    }
    Ok(())
}

fn make(venv: &Path, interpreter: &Path, log: &Path) -> Result<()> {
    let has = |program: &str| {
        let mut command = Command::new(program);
        command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    if !has("python3") {
        bail!(
            "`python3` was not found; install Python 3.11 or newer with pip and venv (Debian: python3-pip python3-venv)"
        );
    }
    if !has("c++") {
        bail!("`c++` was not found, and llama.cpp is compiled from its source; install a C++ compiler (Debian: g++)");
    }
    eprintln!(
        "Making the environment of the other engines in {} (once; compiling llama.cpp takes about half an hour on two cores).",
        venv.display()
    );
    let run = |command: &mut Command, what: &str| -> Result<()> {
        let file = fs::OpenOptions::new().create(true).append(true).open(log);
        let file = file.with_context(|| format!("cannot write {}", log.display()))?;
        let status = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("cannot share the log")?)
            .stderr(file)
            .status()
            .with_context(|| format!("cannot {what}"))?;
        if !status.success() {
            bail!("cannot {what}; the reason is at the end of {}", log.display());
        }
        Ok(())
    };
    let _left_over = fs::remove_dir_all(venv);
    run(
        Command::new("python3").args(["-m", "venv"]).arg(venv),
        "make a virtual environment (Debian: apt install python3-venv)",
    )?;
    let requirements = venv.join("requirements.txt");
    fs::write(&requirements, REQUIREMENTS).with_context(|| format!("cannot write {}", requirements.display()))?;
    run(
        Command::new(interpreter)
            .args(["-m", "pip", "install", "--disable-pip-version-check", "--requirement"])
            .arg(&requirements)
            // For the processor at hand, as a user who cares for speed would.
            .env("CMAKE_ARGS", "-DGGML_NATIVE=ON"),
        "install the other engines with pip; is a package index reachable?",
    )
}
