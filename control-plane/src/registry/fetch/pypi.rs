//! Asks pip where an archive is, and lets pip download it where only pip can.
//!
//! pip knows the index, its mirrors, proxies and credentials; we do not want to know any of them. [`locate`] runs
//! `python3 -m pip download --no-deps --only-binary :all: --python-version 1`: no archive fits a Python that old, so pip
//! reads the index, logs for each archive why it passes it over, with its address, and takes none. That matters for
//! source archives: asked to download one, pip would run the package's build code just to read its metadata.

use super::{Archive, Event, FetchError, Progress};
use std::{
    env, fs,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

/// Most of pip's output that is read; an index page with thousands of archives logs about 1 MB.
const OUTPUT_BYTES_MAX: u64 = 32 << 20;
/// How much of pip's last words an error repeats.
const SAID_LINES_MAX: usize = 8;

/// Where an archive is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Link {
    Http(String),
    Local(PathBuf),
}

/// What pip says when asked where an archive is.
#[derive(Debug)]
pub(super) enum Located {
    /// Here.
    At(Link),
    /// It named no such link. Perhaps there is none, as the error says; perhaps its log is only worded in another way.
    Unnamed(FetchError),
}

/// Where the index has the archive.
pub(super) fn locate(python: &Path, archive: &Archive) -> Result<Located, FetchError> {
    let folder = tempfile::tempdir().map_err(|e| FetchError::disk(&env::temp_dir(), e))?;
    let mut command = pip(python, archive, folder.path());
    command.args(["-vv", "--python-version", "1"]);
    let (_, output) = run(command, python, || {})?;
    if let Some(link) = link(&output, &archive.archive) {
        return Ok(Located::At(link));
    }
    match judge(archive, &output) {
        unnamed @ (FetchError::NoSuchPackage { .. } | FetchError::Pip { .. }) => Ok(Located::Unnamed(unnamed)),
        clear => Err(clear),
    }
}

/// Lets pip download a wheel into a folder. pip runs no code of a wheel.
pub(super) fn download(
    python: &Path,
    archive: &Archive,
    folder: &Path,
    progress: &dyn Progress,
) -> Result<(), FetchError> {
    let mut command = pip(python, archive, folder);
    // name-version(-build)?-python-abi-platform.whl; several platforms are joined by dots.
    let tags: Vec<&str> = archive.archive.trim_end_matches(".whl").rsplit('-').take(3).collect();
    if let [platform, abi, python_tag] = tags[..]
        && platform != "any"
    {
        platform.split('.').for_each(|p| {
            command.args(["--platform", p]);
        });
        abi.split('.').for_each(|a| {
            command.args(["--abi", a]);
        });
        let (implementation, version) =
            python_tag.split('.').next().unwrap_or(python_tag).split_at(2.min(python_tag.len()));
        command.args(["--implementation", implementation]);
        if version.len() > 1 {
            command.args(["--python-version", version]);
        }
    }
    // pip streams into its temporary folder: put inside ours, so that its growth can be watched and it is removed with it.
    command.env("TMPDIR", folder);
    let what = archive.archive.as_str();
    let (success, output) = run(command, python, || {
        progress.event(Event::Downloading { what, done_bytes: bytes_under(folder, 4), total_bytes: None })
    })?;
    let there = folder.join(&archive.archive).is_file();
    if success && there {
        return Ok(());
    }
    Err(if success {
        FetchError::NoSuchPackage {
            archive: what.to_owned(),
            said: format!("; pip chose another archive:\n{}", end(&output)),
        }
    } else {
        judge(archive, &output)
    })
}

fn pip(python: &Path, archive: &Archive, folder: &Path) -> Command {
    let mut command = Command::new(python);
    command
        .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--progress-bar", "off"])
        .arg("--dest")
        .arg(folder)
        .arg(format!("{}=={}", archive.package, archive.version))
        .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
        .env("PIP_NO_COLOR", "1")
        // Words are looked for in its output.
        .env("LC_ALL", "C.UTF-8");
    command
}

/// Runs pip to its end and gives what it wrote. `tick` is called a few times a second.
fn run(mut command: Command, python: &Path, tick: impl Fn()) -> Result<(bool, String), FetchError> {
    let start = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => FetchError::NoPython { python: python.to_owned() },
        _ => FetchError::disk(python, e),
    };
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(start)?;
    let reader = |pipe: Option<Box<dyn Read + Send>>| {
        thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut pipe) = pipe {
                // What comes after the limit is read and dropped: a full pipe would stop pip for ever.
                let _ = pipe.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut text);
                let _ = std::io::copy(&mut pipe, &mut std::io::sink());
            }
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = reader(child.stdout.take().map(|p| Box::new(p) as _));
    let err = reader(child.stderr.take().map(|p| Box::new(p) as _));
    let status = loop {
        match child.try_wait().map_err(|e| FetchError::disk(python, e))? {
            Some(status) => break status,
            None => {
                tick();
                thread::sleep(Duration::from_millis(100));
            }
        }
    };
    let text = |t: thread::JoinHandle<String>| t.join().unwrap_or_default();
    let output = format!("{}\n{}", text(out), text(err));
    if !status.success() && output.contains("No module named pip") {
        return Err(FetchError::NoPip);
    }
    Ok((status.success(), output))
}

/// The first address in pip's output whose last part is the archive's name.
fn link(output: &str, archive: &str) -> Option<Link> {
    let plain = |url: &str| url.split(['#', '?']).next().unwrap_or(url).replace("%2B", "+").replace("%2b", "+");
    output
        .split_whitespace()
        .map(|word| word.trim_matches(|c: char| "()<>,;'\"".contains(c)))
        .filter(|word| plain(word).rsplit('/').next() == Some(archive))
        .find_map(|word| {
            let url = word.split('#').next().unwrap_or(word);
            if let Some(path) = url.strip_prefix("file://") {
                return Some(Link::Local(PathBuf::from(path)));
            }
            // pip hides credentials as ****; such an address is of use to pip alone.
            let http = url.starts_with("https://") || url.starts_with("http://");
            (http && !url.contains("****@")).then(|| Link::Http(url.to_owned()))
        })
}

/// What pip's output means.
fn judge(archive: &Archive, output: &str) -> FetchError {
    const NETWORK: [&str; 9] = [
        "NewConnectionError",
        "Failed to establish a new connection",
        "name resolution",
        "Name or service not known",
        "Network is unreachable",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "Max retries exceeded",
        "ProxyError",
    ];
    let what = archive.archive.clone();
    if output.contains("No space left on device") {
        return FetchError::DiskFull { path: env::temp_dir() };
    }
    if let Some(line) = output.lines().find(|l| NETWORK.iter().any(|n| l.contains(n))) {
        let why = line.trim().chars().take(300).collect();
        return FetchError::NoNetwork { what, why };
    }
    if output.contains("No matching distribution found") {
        return FetchError::NoSuchPackage { archive: what, said: format!("; pip said:\n{}", end(output)) };
    }
    FetchError::Pip { archive: what, said: end(output) }
}

fn end(output: &str) -> String {
    let lines: Vec<&str> = output.lines().filter(|l| !l.trim().is_empty()).collect();
    let text = lines[lines.len().saturating_sub(SAID_LINES_MAX)..].join("\n");
    if text.is_empty() { "(nothing)".into() } else { text.chars().take(2_000).collect() }
}

/// Bytes of the files under a folder, to a depth.
fn bytes_under(folder: &Path, depth: u32) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|e| match e.metadata() {
            Ok(m) if m.is_dir() && depth > 0 => bytes_under(&e.path(), depth - 1),
            Ok(m) if m.is_file() => m.len(),
            _ => 0,
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(name: &str) -> Archive {
        Archive { package: "p".into(), version: "1.0".into(), archive: name.into() }
    }

    #[test]
    fn an_archive_is_found_in_the_words_of_several_pips() {
        let check = |line: &str, expect: Option<Link>| assert_eq!(link(line, "p-1.0.tar.gz"), expect, "{line}");
        let http = Some(Link::Http("https://i.example/x/p-1.0.tar.gz".into()));
        check(
            "  Skipping link: No sources permitted for p: https://i.example/x/p-1.0.tar.gz (from https://i.example/simple/p/)",
            http.clone(),
        );
        check(
            "  Skipping link: No sources permitted for p: https://i.example/x/p-1.0.tar.gz#sha256=00 (from x)",
            http.clone(),
        );
        check(
            "Link requires a different Python (1.0.0 not in: '>=3.8'): https://i.example/x/p-1.0.tar.gz (from x)",
            http,
        );
        check("Found link file:///opt/p-1.0.tar.gz, version: 1.0", Some(Link::Local("/opt/p-1.0.tar.gz".into())));
        check("https://user:****@i.example/x/p-1.0.tar.gz", None);
        check("https://i.example/x/p-1.0.tar.gz.asc", None);
        check("https://i.example/x/pp-1.0.tar.gz", None);
        check("", None);
    }

    #[test]
    fn what_pip_says_becomes_an_error_with_a_remedy() {
        let check = |output: &str, expect: &str| {
            let text = judge(&archive("p-1.0.whl"), output).to_string();
            assert!(text.contains(expect), "{text}");
        };
        check(
            "WARNING: Retrying ... NewConnectionError('<x>: [Errno -3] Temporary failure in name resolution')",
            "cannot reach the network",
        );
        check(
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device",
            "the disk is full",
        );
        check("ERROR: No matching distribution found for p==1.0", "is not on the package index");
        check("Traceback\nValueError: odd", "ValueError: odd");
    }
}
