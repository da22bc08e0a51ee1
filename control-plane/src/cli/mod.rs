//! The command line: `control-plane …`. Tables for people, `--json` for programs.
//!
//! Exit codes: 0 done, 1 it failed, 2 the arguments are not understood, 64 a configuration or definition has mistakes.

mod accounts;
mod admin;
mod assistants;
mod audit;
mod backup;
mod events;
mod registry;
mod rollout_tables;
mod rollouts;
mod serve;
mod several;
mod shelves;
mod tables;
mod watching;

use crate::{
    api::views::LabelsWanted,
    config::{Config, ConfigErrors, TlsFiles},
    peer::Bundle,
    registry::{cli as models, programs::cli as programs, tuf::Keeper},
    state_dir::StateDir,
};
use accounts::AdminCommand;
use admin::Access;
use anyhow::Context as _;
use audit::AuditCommand;
use clap::{Args, CommandFactory as _, Parser, Subcommand};
use events::{EventsArgs, TopArgs};
use nearfield_shared::{
    caller_key::CallerKey,
    clock::{Clock as _, SystemClock},
    panic_words,
    rollout::Label,
};
use registry::RegistryCommand;
use rollouts::RolloutCommand;
use std::{
    collections::BTreeSet,
    ffi::OsString,
    io::{self, IsTerminal as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};
use zeroize::Zeroizing;

/// Exit code for configurations and definitions with mistakes (EX_USAGE of sysexits).
pub const EXIT_CONFIG: u8 = 64;

#[derive(Debug, Parser)]
#[command(name = "control-plane", version, about = "Runs a fleet of voice nodes: models, regions, policies")]
struct Cli {
    /// The state folder: keys, store, models.
    #[arg(long, global = true, value_name = "DIR", env = "NEARFIELD_PLANE_STATE")]
    state: Option<PathBuf>,
    /// Ask the server whose admin API is at this address of this machine (for example through `ssh -L`), not the one of the state
    /// folder; wants the token of an account in NEARFIELD_ADMIN_TOKEN.
    #[arg(long, global = true, value_name = "ADDR:PORT", env = "NEARFIELD_PLANE_ADMIN")]
    server: Option<SocketAddr>,
    /// The store that several control planes share, etcd://HOST:2379,HOST:2379,HOST:2379[/PREFIX], in place of `store` in config.toml.
    #[arg(long, global = true, value_name = "URL", env = "NEARFIELD_PLANE_STORE")]
    store: Option<String>,
    /// The token of an account, where you are not the owner of the state folder. Only from the environment: arguments can be seen by others.
    #[arg(skip = std::env::var("NEARFIELD_ADMIN_TOKEN").ok())]
    token: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make the state folder: a certificate authority, a signing key, the admin credential, config.toml.
    Init(InitArgs),
    /// Run the server in the foreground; Ctrl-C or SIGTERM drains it.
    Serve(serve::ServeArgs),
    /// How the server and its regions are.
    Status(Json),
    /// Enrolment tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Nodes.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Models.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Releases of the agent that nodes can be told to run.
    #[command(subcommand)]
    Agent(AgentCommand),
    /// The registry's signed metadata, by which nodes know which models there are now, and its keys.
    #[command(subcommand)]
    Registry(RegistryCommand),
    /// Show what applying a folder of regions would change.
    Plan(FolderArgs),
    /// Apply a folder of regions; shows what changes first.
    Apply(FolderArgs),
    /// How changes of regions go out in waves.
    #[command(subcommand)]
    Rollout(RolloutCommand),
    /// What happened in the fleet lately: nodes that come, go, serve or refuse, and steps of rollouts.
    Events(EventsArgs),
    /// A live table of the nodes: load, version, errors, latency.
    Top(TopArgs),
    /// Assistants' files.
    #[command(subcommand)]
    Assistant(AssistantCommand),
    /// Figures by region and day, about groups of calls only.
    Metrics(Json),
    /// Who may administer: named accounts with roles.
    #[command(subcommand)]
    Admin(AdminCommand),
    /// Who changed what, and whether that record is whole.
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Copy everything that this control plane cannot be made anew without, while it runs or not: store, keys, audit, models, agents.
    Backup(backup::BackupArgs),
    /// Make a state folder from a backup, where there is none yet.
    Restore(backup::RestoreArgs),
    /// Check a backup, or the state folder: every file, key and signature, and what they say of one another. Changes nothing.
    Verify(backup::VerifyArgs),
    /// Move the store of a control plane that does not run: to etcd, for several control planes, or back. The source stays, marked as moved.
    Migrate(several::MigrateArgs),
    /// Further control planes that share the store.
    #[command(subcommand)]
    Peer(several::PeerCommand),
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

#[derive(Debug, Args)]
struct Json {
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct InitArgs {
    /// Where agents will connect and enrol (UDP).
    #[arg(long, value_name = "ADDR:PORT")]
    agents: Option<SocketAddr>,
    /// Where callers will ask for a route: HTTP on loopback, beyond it HTTPS with the two files below and a caller.key.
    #[arg(long, value_name = "ADDR:PORT")]
    api: Option<SocketAddr>,
    /// Certificate chain of this machine's public name (PEM), for an --api beyond loopback.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its private key (PEM, mode 0600).
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Where this command will reach the server (HTTP, loopback).
    #[arg(long, value_name = "ADDR:PORT")]
    admin: Option<SocketAddr>,
    /// Take the keys and the store of another control plane, which `peer export` has written into this file.
    #[arg(long, value_name = "FILE")]
    join: Option<PathBuf>,
    /// Where to keep the root key of the registry's metadata, for example on another disk; root.key in the state folder if not given.
    /// It is needed once a year, and when keys change.
    #[arg(long, value_name = "FILE")]
    root_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Make a token with which one node can enrol, once.
    Create(TokenArgs),
}

#[derive(Debug, Args)]
struct TokenArgs {
    /// The region that the node enrols into.
    #[arg(long)]
    region: String,
    /// How long the token works, for example 30m, 1h or 2d.
    #[arg(long, default_value = "1h", value_parser = duration)]
    ttl: Duration,
    /// The node's name. With the name of a node that is there, the token replaces that node's certificate.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Subcommand)]
enum NodeCommand {
    /// List all nodes.
    List(Json),
    /// Show one node.
    Show(NodeArgs),
    /// Send no callers to a node, and let rollouts pass it over.
    Cordon(NodeArgs),
    /// Let a node take part again.
    Uncordon(NodeArgs),
    /// The same as cordon, and the node takes no new calls; those in progress go on.
    Drain(NodeArgs),
    /// Give a node labels, by which the waves of rollouts find it.
    Label(LabelArgs),
    /// Shut a node out at once: its certificate is no longer valid, and every region is told.
    Revoke(RevokeArgs),
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// The node's name.
    node: String,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Args)]
struct LabelArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Labels that it gets, for example canary.
    #[arg(value_name = "LABEL")]
    add: Vec<Label>,
    /// Labels that it loses.
    #[arg(long, value_name = "LABEL")]
    remove: Vec<Label>,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// Why, for those who look later.
    #[arg(long)]
    reason: Option<String>,
}

#[derive(Debug, Subcommand)]
enum ModelCommand {
    /// Fetch models of the catalogue, convert, sign and store them.
    Import(models::ImportArgs),
    /// List the models that are here, or could be.
    List(models::ListArgs),
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Sign and store a program of the agent.
    Import(programs::ImportArgs),
    /// List the programs that are here.
    List(programs::ListArgs),
}

#[derive(Debug, Args)]
struct FolderArgs {
    /// The folder with a file for each region, and assistants/ in it.
    #[arg(default_value = "regions")]
    folder: PathBuf,
    #[command(flatten)]
    json: Json,
}

#[derive(Debug, Subcommand)]
enum AssistantCommand {
    /// Say everything that is wrong with a file, and try questions on it. Needs no server; questions need a node with models.
    Check(assistants::CheckArgs),
}

/// `90s`, `30m`, `1h`, `2d`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a time; write a number and s, m, h or d, for example 1h");
    let split = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let number: u64 = text[..split].parse().map_err(|_| wrong())?;
    let unit = match &text[split..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(unit).map(Duration::from_secs).ok_or_else(wrong)
}

/// A command that ended with mistakes that it has already printed.
#[derive(Debug, thiserror::Error)]
#[error("there are mistakes in the definition")]
struct MistakesPrinted;

/// Runs the program with these arguments, the first of which is its name.
pub fn main_from<I: IntoIterator<Item = OsString>>(args: I) -> ExitCode {
    nearfield_shared::tls::install();
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, with code 0. Output that is gone cannot be told anything.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<MistakesPrinted>() => ExitCode::from(EXIT_CONFIG),
        Err(error) => {
            // A pipe that was closed (`| head`) is the reader's choice.
            if error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe) {
                return ExitCode::SUCCESS;
            }
            eprintln!("control-plane: {error:#}");
            ExitCode::from(if error.is::<ConfigErrors>() { EXIT_CONFIG } else { 1 })
        }
    }
}

/// The state folder where none is named: `$XDG_DATA_HOME/nearfield/control-plane`, or below `~/.local/share`.
fn default_state() -> anyhow::Result<PathBuf> {
    let data = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".local/share")))
        .context("there is no home folder; name the state folder with --state DIR")?;
    Ok(data.join("nearfield/control-plane"))
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let root = cli.state.map_or_else(default_state, Ok)?;
    let token = cli.token.filter(|token| !token.trim().is_empty()).map(|token| Zeroizing::new(token.trim().to_owned()));
    let access = &Access { root: root.clone(), server: cli.server, token, store: cli.store };
    let out = &mut io::stdout().lock();
    match cli.command {
        Command::Init(args) => {
            let standard = Config::default();
            let joins = args.join.as_deref().map(Bundle::read).transpose()?;
            let of_first = joins.as_ref().map(|first| (first.store.clone(), first.planes.clone()));
            let (store, planes) = of_first.unwrap_or_default();
            let config = Config {
                agents: args.agents.unwrap_or(standard.agents),
                api: args.api.unwrap_or(standard.api),
                admin: args.admin.unwrap_or(standard.admin),
                tls: args.tls_certificate.zip(args.tls_key).map(|(certificate, key)| TlsFiles { certificate, key }),
                store: access.store.clone().or(store),
                planes,
                ..standard
            };
            // What is beyond loopback wants `[etcd]`, which comes into the file that is made here; `serve` insists.
            Config { store: None, ..config.clone() }.check().map_err(ConfigErrors)?;
            let dir = match &joins {
                None => StateDir::init(&root, &config)?,
                Some(first) => StateDir::join(&root, &config, first)?,
            };
            writeln!(out, "Made {}.", root.display())?;
            writeln!(out, "Settings are in {}.", dir.config_path().display())?;
            if joins.is_none() {
                let keeper = Keeper::new(&dir, config.registry, SystemClock::default().unix_s());
                let keeper = Keeper { root_key: args.root_key, ..keeper };
                keeper.bring_up_to_date(&[], &BTreeSet::new())?;
                let root_key = keeper.root_key.unwrap_or_else(|| "root.key".into());
                writeln!(out, "Back up ca.key, signing.key and {}; agents trust no others.", root_key.display())?;
            }
            if let Err(missing) = config.shared_store() {
                writeln!(out, "Still missing there: {missing}.")?;
            }
            if !config.api.ip().is_loopback() {
                writeln!(out, "Callers need a key: {}.", CallerKey::missing(&dir.caller_key()))?;
            }
            writeln!(out, "Next: `control-plane --state {} serve`.", root.display())?;
            Ok(())
        }
        Command::Serve(args) => serve::serve(&StateDir::open(&root)?, args, access),
        Command::Agent(AgentCommand::Import(args)) => {
            programs::run_import(&args, &StateDir::open(&root)?, out)?;
            admin::note_imports(access);
            Ok(())
        }
        Command::Agent(AgentCommand::List(args)) => programs::run_list(&args, &StateDir::open(&root)?, out),
        Command::Model(ModelCommand::Import(args)) => {
            let dir = StateDir::open(&root)?;
            let digests = models::run_import(&args, &dir, out)?;
            let keeper = Keeper::new(&dir, registry::lifetimes(&dir)?, SystemClock::default().unix_s());
            let keeper = Keeper { signing_key: args.signing_key, ..keeper };
            let listed = keeper
                .bring_up_to_date(&registry::imported(&dir)?, &digests)
                .context("what was imported is not listed in the registry's metadata, so nodes do not take it yet")?;
            listed.to_do.iter().for_each(|what| eprintln!("{what}"));
            let shelved = shelves::shelve(&dir, &digests);
            admin::note_imports(access);
            shelved.context(
                "the models are imported and served from the state folder, but they are not where `artefacts` says; when that is mended, run \
                 `control-plane registry copy --move --to PLACE`",
            )?;
            Ok(())
        }
        Command::Model(ModelCommand::List(args)) => models::run_list(&args, &StateDir::open(&root)?, out),
        Command::Status(json) => admin::status(access, json.json, out),
        Command::Token(TokenCommand::Create(args)) => {
            admin::create_token(access, &args.region, args.node.as_deref(), args.ttl, args.json.json, out)
        }
        Command::Node(NodeCommand::List(json)) => admin::list_nodes(access, json.json, out),
        Command::Node(NodeCommand::Show(args)) => admin::show_node(access, &args.node, args.json.json, out),
        Command::Node(NodeCommand::Cordon(args)) => admin::cordon_node(access, &args.node, false, args.json.json, out),
        Command::Node(NodeCommand::Drain(args)) => admin::cordon_node(access, &args.node, true, args.json.json, out),
        Command::Node(NodeCommand::Uncordon(args)) => admin::uncordon_node(access, &args.node, args.json.json, out),
        Command::Node(NodeCommand::Label(LabelArgs { node, add, remove })) => {
            admin::label_node(access, &node.node, &LabelsWanted { add, remove }, node.json.json, out)
        }
        Command::Node(NodeCommand::Revoke(args)) => {
            let RevokeArgs { node, reason } = args;
            admin::revoke_node(access, &node.node, reason, node.json.json, out)
        }
        Command::Registry(command) => registry::run(access, command, out),
        Command::Plan(args) => admin::plan(access, &args.folder, args.json.json, out),
        Command::Apply(args) => admin::apply(access, &args.folder, args.json.json, out),
        Command::Rollout(command) => rollouts::run(access, command, out),
        Command::Events(args) => events::events(access, &args, out),
        Command::Top(args) => events::top(access, &args, out),
        Command::Assistant(AssistantCommand::Check(args)) => assistants::check(&args, out),
        Command::Metrics(json) => admin::metrics(access, json.json, out),
        Command::Admin(command) => accounts::run(access, command, out),
        Command::Audit(command) => audit::run(access, command, out),
        Command::Backup(args) => backup::backup(access, &args, out),
        Command::Restore(args) => backup::restore(&root, &args, out),
        Command::Verify(args) => backup::verify(access, &args, out),
        Command::Migrate(args) => several::migrate(access, &args, out),
        Command::Peer(command) => several::peer(access, &command, out),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "control-plane", &mut script);
            Ok(out.write_all(&script)?)
        }
        Command::Man { folder } => clap_mangen::generate_to(Cli::command(), &folder)
            .with_context(|| format!("the pages cannot be written to {}", folder.display())),
    }
}

/// Logs go to the standard error; `RUST_LOG` chooses what. Of a panic they tell where, never what: a query may hold a caller's
/// position.
pub fn log_to_stderr() {
    use tracing_subscriber::EnvFilter;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // A process that has a subscriber already keeps it.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init()
        .ok();
    panic_words::leave_out(|panicked| tracing::error!("{panicked}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn times_have_a_unit() {
        let check = |text, expect: Option<u64>| assert_eq!(duration(text).ok().map(|d| d.as_secs()), expect, "{text}");
        check("90s", Some(90));
        check("30m", Some(1800));
        check("1h", Some(3600));
        check("2d", Some(172_800));
        for wrong in ["", "1", "h", "1.5h", "-1h", "1w", "99999999999999999999d", "18446744073709551615d"] {
            check(wrong, None);
        }
    }
}
