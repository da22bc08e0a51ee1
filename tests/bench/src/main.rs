//! `nearfield-bench`: measures Nearfield beside the engines a user would pick instead.

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser, Subcommand};
use control_plane::registry::{Cache, Fetcher};
use nearfield_bench::{
    calls::{
        self, Load, Target, caller::TurnDetection, naive::NaiveServer, node::Node, report::Report, script::Script,
    },
    fleet::{
        crowd,
        script::{self, Size},
    },
    machine::{Machine, bound_threads},
    peer::{Peer, Python, model_files},
    quality,
    stages::{self, Material, ROWS, RUNS},
};
use nearfield_inference::device::{Want, select};
use serde_json::json;
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// Measures Nearfield on this machine, beside ONNX Runtime and llama.cpp on the same weights.
#[derive(Debug, Parser)]
#[command(name = "nearfield-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The speed of each stage, as ratios: both sides take turns.
    Stages(StagesArgs),
    /// Many calls at once over the real protocol, rising, beside a naive server with the same models.
    Calls(CallsArgs),
    /// A fleet of simulated nodes against one control plane, over real QUIC on loopback.
    Fleet(FleetArgs),
    /// One process of simulated nodes; `fleet` starts it.
    #[command(hide = true)]
    FleetCrowd {
        /// Folder for the nodes' state.
        folder: PathBuf,
    },
    /// Whether speed was paid for with errors: perplexity and word errors beside float weights.
    Quality(Common),
}

#[derive(Debug, Args)]
struct Common {
    /// What our models run on: auto, cpu, gpu, gpu:NAME or software-gpu. The other engines always run on the CPU.
    #[arg(long, default_value = "auto")]
    device: Want,
    /// Threads that each side computes with on the CPU; both keep to as many cores.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Ours alone: no Python, no ratios.
    #[arg(long)]
    no_peers: bool,
    /// Use what was fetched before; touch no network.
    #[arg(long)]
    offline: bool,
    /// Print JSON on standard output, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct StagesArgs {
    #[command(flatten)]
    common: Common,
    /// Only these rows; may be given more than once. `--list` names them.
    #[arg(long, value_name = "ROW", value_delimiter = ',')]
    only: Vec<String>,
    /// Name the rows and stop.
    #[arg(long)]
    list: bool,
    /// Measured runs of each side. Fewer than seven are for looking around, not for telling.
    #[arg(long, default_value_t = RUNS)]
    runs: usize,
    /// The device's memory bandwidth, to say which share of it decoding uses.
    #[arg(long, value_name = "GB/S")]
    bandwidth: Option<f64>,
    /// Also measure how many callers one device keeps up with when their steps go in batches. Always done on a GPU.
    #[arg(long)]
    streams: bool,
}

#[derive(Debug, Args)]
struct CallsArgs {
    #[command(flatten)]
    common: Common,
    /// Calls at once, one level after the other.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 2, 4, 8, 12, 16, 24, 32, 48, 64])]
    levels: Vec<usize>,
    /// How long each level lasts.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Who finds the end of a turn.
    #[arg(long, value_enum, default_value = "server-vad")]
    turn_detection: TurnDetection,
    /// Turns of one caller alone that commits by itself, before the levels; 0 for none.
    #[arg(long, default_value_t = 40)]
    alone: usize,
    /// Load a server that runs already instead of starting a node: `ws://HOST:PORT/v1/realtime?…`. Its process is not watched.
    #[arg(long)]
    url: Option<String>,
    /// Folder for the tables and the plot.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct FleetArgs {
    /// Simulated nodes.
    #[arg(long, default_value_t = 5_000)]
    agents: usize,
    /// Processes that they are spread over.
    #[arg(long, default_value_t = 2)]
    processes: usize,
    /// Regions that they are spread over.
    #[arg(long, default_value_t = 20)]
    regions: usize,
    /// States pushed to all of them.
    #[arg(long, default_value_t = 5)]
    pushes: usize,
    /// Fetches of one model by one node.
    #[arg(long, default_value_t = 5)]
    fetches: usize,
    /// Seconds that nothing is done before memory and load at rest are read.
    #[arg(long, default_value_t = 20)]
    rest: u64,
    /// Use what was fetched before; touch no network.
    #[arg(long)]
    offline: bool,
    /// Print JSON on standard output, for programs.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    // The load generator starts the real programs from this very file, as `nearfield` does.
    if std::env::args().nth(1).is_some_and(|first| first.starts_with("as-")) {
        return nearfield::cli::main_from(std::env::args_os());
    }
    let run = || match Cli::parse().command {
        Command::Stages(args) => stages(&args),
        Command::Calls(args) => calls(&args),
        Command::Quality(args) => quality(&args),
        Command::Fleet(args) => fleet(&args),
        Command::FleetCrowd { folder } => one_thread()?.block_on(crowd::serve(&folder)),
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("nearfield-bench: {e:#}");
            ExitCode::FAILURE
        }
    }
}

impl Common {
    fn fetcher(&self) -> Result<Fetcher> {
        Ok(Fetcher { offline: self.offline, ..Fetcher::new(Cache::of_user()?) })
    }

    /// The device as the agent's command line takes it.
    fn device_name(&self) -> String {
        match &self.device {
            Want::Auto => "auto".to_owned(),
            Want::Cpu => "cpu".to_owned(),
            Want::Gpu(name) if name.is_empty() => "gpu".to_owned(),
            Want::Gpu(name) => format!("gpu:{name}"),
            Want::SoftwareGpu => "software-gpu".to_owned(),
        }
    }

    fn peer(&self, fetcher: &Fetcher) -> Result<Option<Peer>> {
        if self.no_peers {
            return Ok(None);
        }
        let files = model_files(fetcher).context("the published models cannot be had")?;
        let python = Python::ensure(&fetcher.cache).context("--no-peers measures without the other engines")?;
        Peer::start(&python, &files, self.threads).map(Some)
    }
}

fn stages(args: &StagesArgs) -> Result<()> {
    if args.list {
        ROWS.iter().for_each(|(id, title, against)| println!("{id:<14}{title}; against {against}"));
        return Ok(());
    }
    ensure!(args.runs > 0 && args.common.threads > 0, "--runs and --threads are at least 1");
    bound_threads(args.common.threads)?;
    let selected = select(&args.common.device)?;
    let machine = Machine::look(&selected, args.common.threads);
    eprintln!("{}\n({})", machine.describe(), selected.why);
    let fetcher = args.common.fetcher()?;
    let mut peer = args.common.peer(&fetcher)?;
    let gpu = machine.gpu;
    let material = Material::new(selected.device.clone(), fetcher);
    let progress = |what: &str| eprintln!("measuring {what} …");
    let mut table = stages::measure(&material, machine, peer.as_mut(), &args.only, args.runs, progress)?;
    table.bandwidth_gb_s = args.bandwidth;
    if args.streams || gpu && args.only.is_empty() {
        eprintln!("measuring batches …");
        table.streams = Some(stages::streams(&material)?);
    }
    if args.common.json {
        println!("{:#}", table.json())
    } else {
        println!("{}", table.text())
    }
    Ok(())
}

fn calls(args: &CallsArgs) -> Result<()> {
    ensure!(!args.levels.contains(&0), "a level has at least one call");
    bound_threads(args.common.threads)?;
    let selected = select(&args.common.device)?;
    let machine = Machine::look(&selected, args.common.threads);
    drop(selected);
    eprintln!("{}", machine.describe());
    let report = one_thread()?.block_on(load(args, machine))?;
    let written = report.write(&args.out)?;
    if args.common.json {
        println!("{:#}", report.json())
    } else {
        print!("{}", report.text())
    }
    written.iter().for_each(|file| eprintln!("written: {}", file.display()));
    Ok(())
}

async fn load(args: &CallsArgs, machine: Machine) -> Result<Report> {
    let common = &args.common;
    let fetcher = common.fetcher()?;
    let blocking = fetcher.clone();
    let script =
        tokio::task::spawn_blocking(move || Script::load(&blocking)).await.context("loading the recordings")??;
    let load = Load {
        levels: args.levels.clone(),
        lasts: Duration::from_secs(args.seconds),
        detection: args.turn_detection,
        turns_alone: args.alone,
    };
    let say = |line: &str| eprintln!("{line}");
    let mut curves = Vec::new();
    if let Some(url) = &args.url {
        let target = Target { name: url.clone(), url: url.clone(), process: 0 };
        curves.push(calls::measure(&target, &load, &script, say).await);
    } else {
        eprintln!("starting a control plane and an agent …");
        let node = Node::start(&fetcher.cache, &common.device_name(), common.offline).await?;
        curves.push(calls::measure(node.target(), &load, &script, say).await);
        node.stop().await;
    }
    if !common.no_peers {
        let (blocking, threads) = (fetcher.clone(), common.threads);
        let ready = tokio::task::spawn_blocking(move || -> Result<_> {
            Ok((Python::ensure(&blocking.cache)?, model_files(&blocking)?))
        });
        let (python, files) = ready.await.context("preparing the naive server")??;
        eprintln!("starting the naive server …");
        let naive = NaiveServer::start(&python, &files, threads).await?;
        curves.push(calls::measure(naive.target(), &load, &script, say).await);
        naive.stop().await;
    }
    let turns = match args.turn_detection {
        TurnDetection::ServerVad => "the server ends turns after 500 ms of silence",
        TurnDetection::SemanticVad => "the server ends turns by meaning (the naive server by 500 ms of silence)",
        TurnDetection::Commit => "callers end their turns themselves",
    };
    let turns = format!("half known questions, half language model; {turns}; {} s a level", args.seconds);
    Ok(Report { machine, turns, curves })
}

fn one_thread() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().context("no runtime")
}

fn fleet(args: &FleetArgs) -> Result<()> {
    ensure!(args.agents > 0 && args.processes > 0, "--agents and --processes are at least 1");
    ensure!((1..=100).contains(&args.regions), "--regions is 1 to 100");
    ensure!(args.rest > 0, "--rest is at least 1");
    let FleetArgs { agents, processes, regions, pushes, fetches, rest, offline, json } = *args;
    let folder = tempfile::tempdir().context("no temporary folder")?;
    let size = Size { agents, processes, regions, pushes, fetches, rest: Duration::from_secs(rest) };
    let report = one_thread()?.block_on(script::run(folder.path(), size, offline, |line| eprintln!("{line}")))?;
    if json {
        println!("{:#}", serde_json::to_value(&report)?);
    } else {
        println!("{}", report.text());
    }
    Ok(())
}

fn quality(args: &Common) -> Result<()> {
    bound_threads(args.threads)?;
    let selected = select(&args.device)?;
    let machine = Machine::look(&selected, args.threads);
    let fetcher = args.fetcher()?;
    let mut peer = args.peer(&fetcher)?;
    let llm = quality::perplexity(&fetcher, &selected.device, peer.as_mut())?;
    let asr = quality::wer(&fetcher, &selected.device)?;
    if args.json {
        println!("{:#}", json!({ "machine": machine, "perplexity": llm, "word_errors": asr }));
        return Ok(());
    }
    println!("{}\n", machine.describe());
    println!(
        "perplexity of SmolLM2 on the passage: {:.3}; its weights as floats {:.3} ({:+.2} %){}",
        llm.ours,
        llm.floats,
        100.0 * llm.change(),
        llm.llama_cpp.map_or_else(String::new, |p| format!("; llama.cpp {p:.3}"))
    );
    println!(
        "word errors of Moonshine on the labelled utterances: {:.2} %; with float weights {:.2} %",
        asr.ours_percent, asr.floats_percent
    );
    Ok(())
}
