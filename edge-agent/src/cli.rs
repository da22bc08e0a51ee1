//! The command line. Each subcommand is a function in the module that it is about; here they only get their names.

use crate::{
    admin::{self, Answer, Ask, AskError, Shown},
    call_client::{self, CallArgs},
    config::{Config, ConfigErrors, DeviceChoice, EXIT_CONFIG, listen_address, plane_address, public_url},
    enrol::{self, EnrolOrder},
    identity::Identity,
    registry::RegistryState,
    secrets,
    slots::LastKnownGood,
    state_dir::StateDir,
    update::{Program, ProgramReport},
    vault::{Kept, Speaker, Vault},
};
use anyhow::Context as _;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use comfy_table::{ContentArrangement, Table, presets::UTF8_HORIZONTAL_ONLY};
use nearfield_shared::wire::{NodeName, enrol::EnrolToken};
use std::{ffi::OsString, io::Write as _, net::SocketAddr, path::PathBuf, process::ExitCode};
use uuid::Uuid;

/// The daemon of a Nearfield node: answers callers where they are and keeps what they say there.
#[derive(Debug, Parser)]
#[command(name = "edge-agent", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Give this node an identity with a one-time token from `control-plane token create`.
    Enroll(Enroll),
    /// Run the node.
    Run(Run),
    /// How the running node is.
    Status(Asked),
    /// Check this machine: device, models, ports, clock, disk, certificate, secrets.
    Doctor(Doctor),
    /// The transcripts kept on this node.
    #[command(subcommand)]
    Vault(VaultCommand),
    /// Place a call with a recording, and show the answer and where the time went.
    Call(CallArgs),
    /// Print a script that completes this command's words in a shell.
    Completions {
        /// For which shell.
        shell: clap_complete::Shell,
    },
    /// Write the manual pages of this command and each of its subcommands.
    Man {
        /// The folder, for example /usr/local/share/man/man1; it must exist.
        folder: PathBuf,
    },
}

/// Where the node's folder is.
#[derive(Debug, Clone, Args)]
pub struct Folder {
    /// The node's folder.
    #[arg(long, env = "NEARFIELD_AGENT_DIR", default_value_os_t = default_dir())]
    pub dir: PathBuf,
}

#[derive(Debug, Args)]
struct Enroll {
    #[command(flatten)]
    folder: Folder,
    /// The control plane, HOST:PORT; several with commas in between, where they share the fleet.
    #[arg(long, value_parser = plane_address, value_delimiter = ',', required = true, num_args = 1)]
    plane: Vec<String>,
    /// The token, as `control-plane token create` printed it.
    #[arg(long, env = "NEARFIELD_ENROL_TOKEN", hide_env_values = true)]
    token: EnrolToken,
    /// A name for the node, where the token gives none.
    #[arg(long)]
    node: Option<NodeName>,
    /// Where callers reach this node, for example https://fra-1.example.net.
    #[arg(long, value_parser = public_url)]
    url: Option<String>,
    /// Replace the identity that the folder has.
    #[arg(long)]
    again: bool,
}

/// How to run.
#[derive(Debug, Args)]
pub struct Run {
    /// The node's folder.
    #[command(flatten)]
    pub folder: Folder,
    /// An address for callers, instead of those in agent.toml. May be given more than once.
    #[arg(long, value_parser = listen_address)]
    pub listen: Vec<SocketAddr>,
    /// auto, cpu, gpu, gpu:NAME or software-gpu, instead of what agent.toml says.
    #[arg(long)]
    pub device: Option<DeviceChoice>,
}

#[derive(Debug, Args)]
struct Asked {
    #[command(flatten)]
    folder: Folder,
    /// JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// How to look at the machine.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The node's folder.
    #[command(flatten)]
    pub folder: Folder,
    /// JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// auto, cpu, gpu, gpu:NAME or software-gpu, instead of what agent.toml says.
    #[arg(long)]
    pub device: Option<DeviceChoice>,
    /// Measure how many calls this node can hold, with its own models. Takes some minutes; the daemon must be stopped.
    #[arg(long)]
    pub bench: bool,
}

#[derive(Debug, Subcommand)]
enum VaultCommand {
    /// What the vault holds, without opening it.
    List(Asked),
    /// Show one transcript, if the region's policy permits it.
    Show {
        #[command(flatten)]
        asked: Asked,
        /// The call.
        call: Uuid,
    },
    /// Erase transcripts for good.
    Erase(Erase),
}

#[derive(Debug, Args)]
struct Erase {
    #[command(flatten)]
    asked: Asked,
    /// The call whose transcript is erased.
    #[arg(long, required_unless_present = "all", conflicts_with = "all")]
    call: Option<Uuid>,
    /// All transcripts.
    #[arg(long)]
    all: bool,
}

/// Runs the program with these arguments, the first being its name. `deploy/local` calls it in a process of its own.
pub fn main_from(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    nearfield_shared::tls::install();
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are no errors; a wrong command line is a configuration error.
            let code = if e.use_stderr() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::SUCCESS };
            // A closed pipe while printing help leaves nothing to tell anyone.
            let _ = e.print();
            return code;
        }
    };
    let done = match cli.command {
        Command::Run(run) => crate::run::command(run, args.into_iter().skip(1).collect()),
        Command::Doctor(doctor) => crate::doctor::command(doctor),
        Command::Enroll(order) => on_runtime(enroll(order)),
        Command::Status(asked) => on_runtime(status(asked)),
        Command::Vault(command) => on_runtime(vault(command)),
        Command::Call(args) => on_runtime(async {
            print_line(&call_client::run(args).await?)?;
            Ok(ExitCode::SUCCESS)
        }),
        Command::Completions { shell } => completions(shell),
        Command::Man { folder } => clap_mangen::generate_to(Cli::command(), &folder)
            .with_context(|| format!("the pages cannot be written to {}", folder.display()))
            .map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(e) => {
            eprintln!("edge-agent: {e:#}");
            if e.is::<ConfigErrors>() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn completions(shell: clap_complete::Shell) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "edge-agent", &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}

fn on_runtime(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(command)
}

/// The folder of a node where none is named: what systemd gives, or the user's own.
fn default_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("STATE_DIRECTORY")
        .or_else(|| from("XDG_STATE_HOME").map(|base| base.join("nearfield/agent")))
        .or_else(|| from("HOME").map(|home| home.join(".local/state/nearfield/agent")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/nearfield/agent"))
}

async fn enroll(order: Enroll) -> anyhow::Result<ExitCode> {
    let dir = StateDir::open(&order.folder.dir)?;
    let Enroll { plane, token, node, url, again, .. } = order;
    let enrolled = enrol::enrol(&dir, &EnrolOrder { planes: plane, token, node, url, again }).await?;
    println!("enrolled as {} in region {}", enrolled.node, enrolled.region);
    println!("next: edge-agent run --dir {}", dir.root().display());
    Ok(ExitCode::SUCCESS)
}

async fn status(asked: Asked) -> anyhow::Result<ExitCode> {
    let dir = StateDir::open(&asked.folder.dir)?;
    let report = match admin::ask(&dir, &Ask::Status).await? {
        Answer::Status(report) => report,
        Answer::Failed { reason } => anyhow::bail!(reason),
        _ => anyhow::bail!("the running edge-agent answered something else; is it of another version?"),
    };
    if asked.json {
        print_line(&serde_json::to_string_pretty(&report)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut facts = table();
    let link = match (&report.link.connected, &report.link.last_problem) {
        (true, _) => format!("connected to {}", report.link.plane),
        (false, Some(problem)) => format!("not connected: {problem}"),
        (false, None) => format!("dialling {}", report.link.plane),
    };
    let mut row = |name: &str, value: String| {
        facts.add_row([name.to_owned(), value]);
    };
    row(
        "node",
        format!("{} in {}, version {}, process {}", report.node, report.region, report.agent_version, report.pid),
    );
    let ProgramReport { running, trial, previous, failures } = &report.program;
    // As long as nothing else was ever asked for, there is nothing to tell.
    if *running != Program::Installed || *previous != Program::Installed || !failures.is_empty() {
        let tried = if *trial { ", being tried" } else { "" };
        row("program", format!("{running}{tried}; before it {previous}"));
    }
    for failure in failures {
        let (generation, at) = (failure.generation, time(failure.unix_s.max(0) as u64));
        row("given up", format!("{} of generation {generation}, {at}: {}", failure.program, failure.why));
    }
    row("device", format!("{} ({})", report.device.name, report.device_reason));
    if let Some(memory) = &report.memory {
        row("memory", format!("{}, {} at most", megabytes(memory.resident_bytes), megabytes(memory.peak_bytes)));
    }
    row("listens on", report.listeners.join(", "));
    row("control plane", link);
    row(
        "serving",
        match report.serving {
            0 => "nothing yet".to_owned(),
            generation => format!("generation {generation}"),
        },
    );
    if let Some(activating) = report.activating {
        let fetching =
            report.fetching.map(|(have, total)| format!(", {} of {} fetched", megabytes(have), megabytes(total)));
        row("activating", format!("generation {activating}{}", fetching.unwrap_or_default()));
    }
    if let Some(trial) = &report.trial {
        row(
            "tries",
            format!(
                "the new models on {} % of the turns: {} of {} so far, {} on the live ones, {} s left",
                trial.share_percent, trial.turns, trial.turns_min, trial.live_turns, trial.left_s
            ),
        );
    }
    if let Some(refusal) = &report.last_refusal {
        row("last refused", format!("generation {}: {}", refusal.generation, refusal.reason));
    }
    let renewal = match &report.certificate_problem {
        None => format!("renewed from {}", time(report.certificate_renews_unix_s.max(0) as u64)),
        Some(problem) => format!("not renewed yet: {problem}"),
    };
    row("certificate", format!("until {}, {renewal}", time(report.certificate_ends_unix_s.max(0) as u64)));
    match &report.registry {
        None => {}
        Some(RegistryState { problem: Some(problem), .. }) => row("registry", format!("new models wait: {problem}")),
        Some(registry) => {
            row("registry", format!("new models are taken until {}", time(registry.ends_unix_s.max(0) as u64)))
        }
    }
    if report.certificates_revoked > 0 {
        row("revoked", format!("{} certificates of the fleet are on the list", report.certificates_revoked));
    }
    let calls = &report.calls;
    let draining = if calls.draining { ", draining" } else { "" };
    row(
        "calls",
        format!(
            "{} of {} in progress, {} admitted, {} refused{draining}",
            calls.in_progress, calls.max, calls.admitted, calls.refused
        ),
    );
    print_line(&facts.to_string())?;
    let mut models = table();
    models.set_header(["stage", "model", "version", "memory", "loaded in", "golden cases"]);
    for model in &report.models {
        models.add_row([
            model.stage.to_string(),
            model.name.clone(),
            model.version.clone(),
            megabytes(model.resident_bytes),
            format!("{} ms", model.load_ms),
            format!("{} reproduced here", model.golden_cases),
        ]);
    }
    for stage in &report.missing {
        models.add_row([stage.to_string(), "none".into(), String::new(), String::new(), String::new(), String::new()]);
    }
    print_line(&models.to_string())?;
    Ok(ExitCode::SUCCESS)
}

async fn vault(command: VaultCommand) -> anyhow::Result<ExitCode> {
    let (asked, ask) = match command {
        VaultCommand::List(asked) => (asked, Ask::VaultList),
        VaultCommand::Show { asked, call } => (asked, Ask::VaultShow { call }),
        VaultCommand::Erase(Erase { asked, call, .. }) => (asked, Ask::VaultErase { call }),
    };
    let dir = StateDir::open(&asked.folder.dir)?;
    let answer = match admin::ask(&dir, &ask).await {
        Err(AskError::NotRunning(_)) => ask_vault_directly(&dir, ask).await?,
        answered => answered?,
    };
    if let Answer::Failed { reason } = answer {
        anyhow::bail!(reason);
    }
    if asked.json {
        print_line(&serde_json::to_string_pretty(&answer)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    match answer {
        Answer::Kept { kept } => print_kept(&kept),
        Answer::Transcript(shown) => print_shown(&shown),
        Answer::Erased { erased } => {
            print_line(&format!("{erased} erased; what is left of them on the disk opens for nobody"))
        }
        _ => anyhow::bail!("the running edge-agent answered something else; is it of another version?"),
    }?;
    Ok(ExitCode::SUCCESS)
}

/// The vault while no daemon runs: under the folder's lock, and under the policy of the last-known-good state.
async fn ask_vault_directly(dir: &StateDir, ask: Ask) -> anyhow::Result<Answer> {
    let _lock = dir.lock()?;
    let policy = LastKnownGood::at(&dir.last_known_good()).load()?.map(|state| state.policy);
    let vault = Vault::open(dir)?;
    Ok(admin::answer_about_vault(ask, &vault, policy.as_ref()).await)
}

fn print_kept(kept: &[Kept]) -> anyhow::Result<()> {
    if kept.is_empty() {
        return print_line("the vault is empty");
    }
    let mut list = table();
    list.set_header(["call", "stored", "erased at the latest", "bytes"]);
    for kept in kept {
        let bytes = if kept.stored_at_s == 0 { "damaged".to_owned() } else { kept.bytes.to_string() };
        list.add_row([kept.call.to_string(), time(kept.stored_at_s), time(kept.expires_at_s), bytes]);
    }
    print_line(&list.to_string())
}

fn print_shown(shown: &Shown) -> anyhow::Result<()> {
    print_line(&format!("call {}, assistant {}", shown.call, shown.assistant))?;
    shown.said.iter().try_for_each(|(speaker, text)| {
        let who = match speaker {
            Speaker::Caller => "caller",
            Speaker::Assistant => "assistant",
        };
        print_line(&format!("{who:>9}: {text}"))
    })
}

/// Settings of a node with the command line laid over them.
pub fn settings(dir: &StateDir, listen: Vec<SocketAddr>, device: Option<DeviceChoice>) -> Result<Config, ConfigErrors> {
    let mut config = Config::read(&dir.config())?;
    if !listen.is_empty() {
        config.listen = listen;
    }
    if let Some(device) = device {
        config.device = device;
    }
    Ok(config)
}

/// The identity of a node, and a look at the modes of all its secrets.
pub fn identity(dir: &StateDir) -> anyhow::Result<Identity> {
    for secret in dir.secrets() {
        match secrets::check(&secret) {
            Err(e) if !e.is_missing() => return Err(e).context("a secret of this node is not safe"),
            _ => {}
        }
    }
    Ok(Identity::load(dir)?)
}

/// Prints a line; a reader that went away (`| head`) is an error like any other, not a panic.
pub fn print_line(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{text}")?)
}

/// A table for people.
pub fn table() -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

/// Bytes as megabytes for people.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Seconds since 1970 as a time for people, UTC.
pub fn time(unix_s: u64) -> String {
    i64::try_from(unix_s)
        .ok()
        .and_then(|s| jiff::Timestamp::from_second(s).ok())
        .map_or_else(|| "at no known time".into(), |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string())
}
