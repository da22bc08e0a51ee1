//! `edge-agent doctor`: looks at this machine and says, line by line, what is fine, what is doubtful and what to do.
//!
//! Works with the daemon up (it is asked) or down (the device is opened and the models are loaded here, which takes as long as
//! a start of the node). With `--bench` it measures how many calls the node can hold.

pub mod bench;
mod program;

use crate::{
    admin::{self, Answer, Ask},
    artefacts::{ArtefactStore, free_bytes},
    cli::{self, Doctor, megabytes},
    config::Config,
    control::{
        dial::{self, DialError},
        tls, unix_now_s,
    },
    http,
    identity::Identity,
    inference,
    memory::Memory,
    secrets,
    slots::{LastKnownGood, ModelHost},
    state_dir::StateDir,
    status::StatusReport,
};
use nearfield_shared::artefact::Manifest;
use serde::Serialize;
use std::{net::SocketAddr, process::ExitCode, time::Duration, time::Instant};

/// Free disk below which new models will not fit, and below which nothing will.
const DISK_WARN_BYTES: u64 = 1 << 30;
const DISK_FAIL_BYTES: u64 = 128 << 20;

/// Certificate days below which somebody should look: it is renewed long before.
const CERTIFICATE_WARN_DAYS: i64 = 3;

/// Difference to the control plane's clock above which retention times and certificates get doubtful.
const CLOCK_WARN_S: i64 = 10;

/// 2026-01-01: a clock before it was never set.
const CLOCK_LEAST_UNIX_S: i64 = 1_767_225_600;

const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// How a line came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It works, and somebody should look.
    Warn,
    /// The node cannot work like this.
    Fail,
}

/// One line of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What was looked at.
    pub check: String,
    /// How it came out.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do, where something is to be done.
    pub remedy: Option<String>,
}

impl Line {
    fn ok(check: &str, found: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Ok, found: found.into(), remedy: None }
    }

    fn warn(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Warn, found: found.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check: check.into(), verdict: Verdict::Fail, found: found.into(), remedy: Some(remedy.into()) }
    }
}

/// Prints the report. Fails where a line does.
pub fn command(doctor: Doctor) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if doctor.bench {
        runtime.block_on(measure_calls(&doctor))?;
        return Ok(ExitCode::SUCCESS);
    }
    let lines = runtime.block_on(examine(&doctor));
    if doctor.json {
        cli::print_line(&serde_json::to_string_pretty(&lines)?)?;
    } else {
        let mut table = cli::table();
        table.set_header(["", "check", "found", "remedy"]);
        for line in &lines {
            let mark = match line.verdict {
                Verdict::Ok => "ok",
                Verdict::Warn => "warn",
                Verdict::Fail => "FAIL",
            };
            table.add_row([mark, &line.check, &line.found, line.remedy.as_deref().unwrap_or("")]);
        }
        cli::print_line(&table.to_string())?;
    }
    let failed = lines.iter().any(|line| line.verdict == Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Measures how many calls this node can hold.
async fn measure_calls(doctor: &Doctor) -> anyhow::Result<()> {
    let dir = StateDir::open(&doctor.folder.dir)?;
    if matches!(admin::ask(&dir, &Ask::Status).await, Ok(Answer::Status(_))) {
        anyhow::bail!(
            "the daemon is running, and its calls and this measurement would disturb each other; stop it first"
        );
    }
    let config = cli::settings(&dir, Vec::new(), doctor.device.clone())?;
    bench::command(&dir, &config, doctor.json).await
}

/// Looks at everything.
pub async fn examine(doctor: &Doctor) -> Vec<Line> {
    let dir = match StateDir::open(&doctor.folder.dir) {
        Ok(dir) => dir,
        Err(e) => return vec![Line::fail("folder", e.to_string(), "mend it, or name another folder with --dir")],
    };
    let mut lines = vec![Line::ok("folder", dir.root().display().to_string())];
    let config = match cli::settings(&dir, Vec::new(), doctor.device.clone()) {
        Ok(config) => config,
        Err(e) => {
            lines
                .extend(e.errors.iter().map(|error| Line::fail("settings", error.clone(), format!("edit {}", e.file))));
            Config::default()
        }
    };
    let report = match admin::ask(&dir, &Ask::Status).await {
        Ok(Answer::Status(report)) => Some(*report),
        _ => None,
    };
    lines.push(match &report {
        Some(report) => Line::ok("daemon", format!("running, process {}, up {} s", report.pid, report.uptime_s)),
        None => Line::warn("daemon", "not running", "start it with `edge-agent run`"),
    });
    lines.push(program::check(&dir));
    lines.extend(check_secrets(&dir));
    lines.push(check_disk(&dir));
    let identity = Identity::load(&dir);
    lines.push(match &identity {
        Ok(identity) => check_certificate(identity.valid_unix_s, unix_now_s(), report.as_ref()),
        Err(e) => Line::fail("certificate", e.to_string(), "enrol this node"),
    });
    let ahead = report.as_ref().and_then(|report| report.link.plane_ahead_s);
    lines.push(check_clock(unix_now_s(), ahead));
    lines.push(match (&report, &identity) {
        (Some(report), _) => check_running_link(report),
        (None, Ok(identity)) => check_plane(&dir, identity, &config).await,
        (None, Err(_)) => Line::warn("control plane", "not asked, since this node has no identity", "enrol this node"),
    });
    lines.extend(match &report {
        Some(report) => check_running_ports(report).await,
        None => check_ports(&dir, &config),
    });
    match &report {
        Some(report) => lines.extend(models_of_daemon(report)),
        None => lines.extend(device_and_models(&dir, &config, identity.ok().as_ref()).await),
    }
    lines.push(bench::hint());
    lines
}

fn check_secrets(dir: &StateDir) -> Vec<Line> {
    let of_tools =
        std::fs::read_dir(dir.tool_secrets()).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    let there = dir.secrets().into_iter().filter(|path| path.exists()).chain(of_tools);
    let lines: Vec<Line> = there
        .map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match secrets::check(&path) {
                Ok(()) => Line::ok("secret", format!("{name}, mode 0600")),
                Err(e) => Line::fail("secret", e.to_string(), format!("chmod 0600 {}", path.display())),
            }
        })
        .collect();
    if lines.is_empty() { vec![Line::ok("secret", "none yet")] } else { lines }
}

fn check_disk(dir: &StateDir) -> Line {
    match free_bytes(dir.root()) {
        Ok(free) if free < DISK_FAIL_BYTES => Line::fail(
            "disk",
            format!("{} free", megabytes(free)),
            "free some space, or move the folder to a larger disk",
        ),
        Ok(free) if free < DISK_WARN_BYTES => {
            Line::warn("disk", format!("{} free", megabytes(free)), "new models may not fit; free some space")
        }
        Ok(free) => Line::ok("disk", format!("{} free", megabytes(free))),
        Err(e) => Line::fail("disk", e.to_string(), "mend the disk"),
    }
}

/// Judges by the control plane's clock, where that is known. An ended certificate keeps nobody from coming back.
fn check_certificate((begins, ends): (i64, i64), now: i64, report: Option<&StatusReport>) -> Line {
    let check = "certificate";
    let now = now.saturating_add(report.and_then(|report| report.link.plane_ahead_s).unwrap_or(0));
    if let Some(problem) = report.and_then(|report| report.certificate_problem.as_ref()) {
        let remedy =
            "see why; only a revoked node has to be enrolled again, with `edge-agent enroll --again` and a fresh token";
        return Line::warn(check, format!("it could not be renewed: {problem}"), remedy);
    }
    let days = (ends - now) / 86_400;
    let by_itself = "nothing, if the control plane can be reached: it is renewed then";
    if now < begins {
        Line::warn(
            check,
            "it is not valid yet, says this machine's clock",
            "set the clock; the certificate works all the same",
        )
    } else if now >= ends {
        Line::warn(check, "it has ended", by_itself)
    } else if days < CERTIFICATE_WARN_DAYS {
        Line::warn(check, format!("{days} days left"), by_itself)
    } else {
        let renews = report
            .map(|report| format!(", renewed from {}", cli::time(report.certificate_renews_unix_s.max(0) as u64)));
        Line::ok(check, format!("{days} days left{}", renews.unwrap_or_default()))
    }
}

fn check_clock(now: i64, plane_ahead_s: Option<i64>) -> Line {
    let shown = cli::time(now.max(0) as u64);
    if now < CLOCK_LEAST_UNIX_S {
        return Line::fail(
            "clock",
            format!("{shown} is before this program was made"),
            "set the clock, and keep it with NTP",
        );
    }
    match plane_ahead_s {
        Some(ahead) if ahead.abs() > CLOCK_WARN_S => {
            Line::warn("clock", format!("{shown}; the control plane's is {ahead} s ahead"), "keep both with NTP")
        }
        Some(ahead) => Line::ok("clock", format!("{shown}, {} s from the control plane's", ahead.abs())),
        None => Line::ok(
            "clock",
            format!("{shown}, plausible; the control plane's is not known while the daemon is down or cut off"),
        ),
    }
}

fn check_running_link(report: &StatusReport) -> Line {
    let check = "control plane";
    match (report.link.connected, &report.link.last_problem) {
        (true, _) => Line::ok(check, format!("connected to {}", report.link.plane)),
        (false, problem) => Line::warn(
            check,
            format!("{}: {}", report.link.plane, problem.as_deref().unwrap_or("dialling")),
            "the node serves on; check the address, UDP on the way, and that the plane runs",
        ),
    }
}

async fn check_plane(dir: &StateDir, identity: &Identity, config: &Config) -> Line {
    let check = "control plane";
    if config.planes.is_empty() {
        return Line::fail(check, "agent.toml does not name it", "add `plane = \"HOST:PORT\"`");
    }
    let tls = match tls::link_config(dir, identity) {
        Ok(tls) => tls,
        Err(e) => return Line::fail(check, e.to_string(), "enrol this node"),
    };
    let dialer = dial::Dialer::default();
    let mut found = Line::warn(check, "nobody was asked", "name an address in agent.toml");
    for plane in &config.planes {
        found = match tokio::time::timeout(DIAL_TIMEOUT, dialer.dial(plane, &tls)).await {
            // Which of the two is no matter: the daemon renews what has ended.
            Ok(Ok(_)) | Ok(Err(DialError::MustRenew { .. })) => {
                return Line::ok(check, format!("{plane} answers and knows this node's certificate authority"));
            }
            Ok(Err(reason)) => Line::warn(
                check,
                reason.to_string(),
                "the node would serve what it has; check the address and that the plane runs",
            ),
            Err(_) => Line::warn(
                check,
                format!("{plane} did not answer within {} s", DIAL_TIMEOUT.as_secs()),
                "check the address, that UDP reaches it, and that the plane runs",
            ),
        };
    }
    found
}

async fn check_running_ports(report: &StatusReport) -> Vec<Line> {
    let mut lines = Vec::new();
    for url in &report.listeners {
        let address = url.split_once("//").and_then(|(_, rest)| rest.parse::<SocketAddr>().ok());
        let reached = match address {
            Some(address) => tokio::net::TcpStream::connect(address).await.map(drop).map_err(|e| e.to_string()),
            None => Err("it is no address".to_owned()),
        };
        lines.push(match reached {
            Ok(()) => Line::ok("port", format!("{url} is open")),
            Err(e) => Line::fail("port", format!("{url}: {e}"), "restart the daemon"),
        });
    }
    lines
}

fn check_ports(dir: &StateDir, config: &Config) -> Vec<Line> {
    // Binding is the only honest test; the sockets close again at the end of this function.
    match http::bind(dir, config) {
        Ok(listeners) => {
            let free = config.listen.iter().map(|address| match address.port() {
                0 => Line::ok("port", format!("any free port of {}, as configured", address.ip())),
                _ => Line::ok("port", format!("{address} is free")),
            });
            let lines = free.collect();
            drop(listeners);
            lines
        }
        Err(e) => vec![Line::fail("port", e.to_string(), "change `listen` in agent.toml, or add what is missing")],
    }
}

fn in_memory(memory: Memory) -> Line {
    Line::ok(
        "memory",
        format!("the process takes {}, {} at most", megabytes(memory.resident_bytes), megabytes(memory.peak_bytes)),
    )
}

fn models_of_daemon(report: &StatusReport) -> Vec<Line> {
    let mut lines = vec![Line::ok("device", format!("{}: {}", report.device.name, report.device_reason))];
    lines.extend(report.memory.map(in_memory));
    lines.extend(report.models.iter().map(|model| {
        let cost = format!(
            "{} {}: {} in memory, loaded in {} ms, {} golden cases reproduced in {} ms",
            model.name,
            model.version,
            megabytes(model.resident_bytes),
            model.load_ms,
            model.golden_cases,
            model.proven_ms
        );
        Line::ok(&format!("model {}", model.stage), cost)
    }));
    if let Some(refusal) = &report.last_refusal {
        let found = format!("generation {} was refused: {}", refusal.generation, refusal.reason);
        lines.push(Line::warn("last state", found, "mend the cause; the control plane pushes again"));
    }
    for stage in &report.missing {
        lines.push(Line::warn(
            &format!("model {stage}"),
            "none is live, so no calls are taken",
            "name one in the region's file and run `control-plane apply`",
        ));
    }
    lines
}

/// Opens the device and loads, one after the other, the models of the last-known-good state.
async fn device_and_models(dir: &StateDir, config: &Config, identity: Option<&Identity>) -> Vec<Line> {
    let (choice, calls_max) = (config.device.clone(), config.calls_max);
    let started = tokio::task::spawn_blocking(move || inference::start(&choice, calls_max)).await;
    let inference = match started {
        Ok(Ok(inference)) => inference,
        Ok(Err(e)) => {
            return vec![Line::fail("device", format!("{e:#}"), "set `device` to cpu, or install the driver")];
        }
        Err(_) => return vec![Line::fail("device", "looking at it panicked; see above", "set `device` to cpu")],
    };
    let mut lines = vec![Line::ok("device", format!("{}: {}", inference.device.name, inference.reason))];
    let state = match LastKnownGood::at(&dir.last_known_good()).load() {
        Ok(Some(state)) => state,
        Ok(None) => {
            lines.push(Line::warn(
                "models",
                "none were served here yet",
                "start the node while its control plane runs",
            ));
            return lines;
        }
        Err(e) => {
            lines.push(Line::fail("models", e.to_string(), "start the node while its control plane runs"));
            return lines;
        }
    };
    let store = ArtefactStore::at(&dir.artefacts());
    for (stage, signed) in &state.models {
        let check = format!("model {stage}");
        let manifest = identity
            .ok_or_else(|| "this node has no identity to verify it with".to_owned())
            .and_then(|identity| signed.verify(&identity.signing_key).map_err(|e| e.to_string()));
        let measured = match manifest {
            Ok(manifest) => measure(&*inference.host, &store, manifest).await,
            Err(reason) => Err(reason),
        };
        lines.push(match measured {
            Ok(cost) => Line::ok(&check, cost),
            Err(reason) => {
                Line::fail(&check, reason, "start the node while its control plane runs; it fetches the model again")
            }
        });
    }
    lines
}

async fn measure(host: &dyn ModelHost, store: &ArtefactStore, manifest: Manifest) -> Result<String, String> {
    let (digest, hashing) = (manifest.digest, store.clone());
    let file = tokio::task::spawn_blocking(move || hashing.verified(digest))
        .await
        .map_err(|_| "hashing it panicked".to_owned())?
        .map_err(|e| e.to_string())?;
    host.supports(&manifest).map_err(|e| e.to_string())?;
    let candidate = host.load(manifest.stage, file).await.map_err(|e| e.to_string())?;
    let begun = Instant::now();
    let proven = host.reproduce_golden(&candidate).await;
    let proven_ms = begun.elapsed().as_millis();
    let (memory, load_ms) = (megabytes(candidate.resident_bytes), candidate.load_ms);
    host.discard(candidate).await;
    let cases = proven.map_err(|e| e.to_string())?;
    let (name, version) = (&manifest.name, &manifest.version);
    Ok(format!(
        "{name} {version}: {memory} in memory, loaded in {load_ms} ms, {cases} golden cases reproduced in {proven_ms} ms"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_and_clocks_are_judged() {
        const DAY: i64 = 86_400;
        for (now, verdict) in [
            (-1, Verdict::Warn),
            (0, Verdict::Ok),
            (11 * DAY, Verdict::Ok),
            (12 * DAY, Verdict::Warn),
            (14 * DAY, Verdict::Warn),
        ] {
            assert_eq!(check_certificate((0, 14 * DAY), now, None).verdict, verdict, "{now}");
        }
        for (now, ahead, verdict) in [
            (1000, None, Verdict::Fail),
            (CLOCK_LEAST_UNIX_S, None, Verdict::Ok),
            (CLOCK_LEAST_UNIX_S, Some(-10), Verdict::Ok),
            (CLOCK_LEAST_UNIX_S, Some(-11), Verdict::Warn),
        ] {
            assert_eq!(check_clock(now, ahead).verdict, verdict, "{now} {ahead:?}");
        }
    }
}
