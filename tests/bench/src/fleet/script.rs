//! What is done to the control plane, and what is measured of it.

use super::{
    crowd::{Answer, CrowdProcess, News, Order},
    now_unix_us,
    report::{Report, Restart},
    subject::Subject,
};
use crate::{calls::process::Process, measure::percentile};
use anyhow::{Context, Result, bail};
use futures_util::future::try_join_all;
use nearfield_shared::artefact::Manifest;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// How often crowds are asked for news.
const POLL: Duration = Duration::from_millis(100);
/// How often nodes tell how they are: the plane's default.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long all nodes may take to be there, or to be back.
const PATIENCE: Duration = Duration::from_secs(300);

/// How large the fleet is.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Nodes.
    pub agents: usize,
    /// Processes that they are spread over.
    pub processes: usize,
    /// Regions that they are spread over.
    pub regions: usize,
    /// States that are pushed to all of them, one after the other.
    pub pushes: usize,
    /// Fetches of one model by one node.
    pub fetches: usize,
    /// How long nothing is done before memory is read, so that what a burst took is given back.
    pub rest: Duration,
}

struct Crowds {
    all: Vec<CrowdProcess>,
    welcomed: Vec<i64>,
    activated: Vec<(u64, i64)>,
    live: usize,
    lost: usize,
    cpu_ms: f64,
}

impl Crowds {
    async fn tell(&mut self) -> Result<()> {
        let news: Vec<News> = try_join_all(self.all.iter_mut().map(CrowdProcess::news)).await?;
        (self.live, self.cpu_ms) = (0, 0.0);
        for one in news {
            self.live += one.live;
            self.lost += one.lost;
            self.cpu_ms += one.cpu_ms;
            self.welcomed.extend(one.welcomed);
            self.activated.extend(one.activated);
        }
        Ok(())
    }

    fn forget(&mut self) {
        self.welcomed.clear();
        self.activated.clear();
        self.lost = 0;
    }

    /// Asks for news until it is as it should be.
    async fn until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.tell().await?;
            if is_so(self) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{what}: not within {} s; {} nodes are connected", PATIENCE.as_secs(), self.live);
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Waits until the plane itself knows that every node serves what it should.
async fn acknowledged(subject: &Subject, agents: usize) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while subject.current().await?.0 < agents {
        if Instant::now() > deadline {
            bail!("not all nodes acknowledged within {} s", PATIENCE.as_secs());
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Lets one of the two nodes that can fetch a model: seconds, bytes, and bytes from the neighbour.
async fn fetch_to(crowd: &mut CrowdProcess, model: &Manifest, second: bool, keep: bool) -> Result<(f64, u64, u64)> {
    match crowd.ask(&Order::Fetch { manifest: Box::new(model.clone()), second, keep }).await? {
        Answer::Fetched { seconds, bytes, near_bytes } => Ok((seconds, bytes, near_bytes)),
        other => bail!("the crowd answered {other:?}"),
    }
}

fn ms_since(begin_us: i64, moments: impl IntoIterator<Item = i64>) -> Vec<f64> {
    moments.into_iter().map(|at| (at - begin_us) as f64 / 1e3).collect()
}

/// Runs everything. `root` is an empty folder for the state of plane and nodes.
///
/// # Errors
/// When a process ends, or nodes do not come or come back.
pub async fn run(root: &Path, size: Size, offline: bool, mut progress: impl FnMut(&str)) -> Result<Report> {
    progress("starting a control plane …");
    let mut subject = Subject::start(&root.join("home"), size.regions, size.agents, offline).await?;
    let process = Process::of(subject.process()?);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let bytes_empty = process.resident_bytes();

    progress(&format!("enrolling {} nodes …", size.agents));
    let began = Instant::now();
    let tokens = subject.tokens(size.agents).await?;
    let mut crowds =
        Crowds { all: Vec::new(), welcomed: Vec::new(), activated: Vec::new(), live: 0, lost: 0, cpu_ms: 0.0 };
    let share = size.agents.div_ceil(size.processes);
    let mut orders = Vec::new();
    for (i, tokens) in tokens.chunks(share).enumerate() {
        let mut crowd = CrowdProcess::start(&root.join(format!("crowd-{i}")))?;
        let order = Order::Enrol { plane: subject.address()?, tokens: tokens.to_vec(), first: i * share };
        orders.push(async move { crowd.ask(&order).await.map(|_| crowd) });
    }
    crowds.all = try_join_all(orders).await?;
    let enrol_seconds = began.elapsed().as_secs_f64();
    let bytes_enrolled = process.resident_bytes();

    progress(&format!("{enrol_seconds:.0} s; connecting them …"));
    let begin = now_unix_us();
    let connect = Order::Connect { second: size.regions };
    try_join_all(crowds.all.iter_mut().map(|crowd| crowd.ask(&connect))).await?;
    crowds.until("connecting", |c| c.live == size.agents && c.activated.len() >= size.agents).await?;
    let connect_ms = ms_since(begin, crowds.welcomed.iter().copied());
    acknowledged(&subject, size.agents).await?;
    let settled_seconds = (now_unix_us() - begin) as f64 / 1e6;

    progress(&format!("{settled_seconds:.1} s; resting for {} s …", size.rest.as_secs()));
    let plane_cpu = process.cpu_seconds();
    crowds.tell().await?;
    let crowd_cpu = crowds.cpu_ms;
    tokio::time::sleep(size.rest).await;
    crowds.tell().await?;
    let idle_cores = (process.cpu_seconds() - plane_cpu) / size.rest.as_secs_f64();
    let idle_crowd_cores = (crowds.cpu_ms - crowd_cpu) / 1e3 / size.rest.as_secs_f64();
    let bytes_connected = process.resident_bytes();

    let (mut push_ms, mut acknowledged_ms, mut stored_ms) = (Vec::new(), Vec::new(), Vec::new());
    let (mut plane_us, mut crowd_us) = (Vec::new(), Vec::new());
    for push in 0..size.pushes {
        progress(&format!("pushing a state to all, {} of {} …", push + 1, size.pushes));
        crowds.tell().await?;
        crowds.forget();
        let (plane_cpu, crowd_cpu) = (process.cpu_seconds(), crowds.cpu_ms);
        let begin = now_unix_us();
        subject.change().await?;
        stored_ms.push((now_unix_us() - begin) as f64 / 1e3);
        crowds.until("a push", |c| c.activated.len() >= size.agents).await?;
        push_ms.extend(ms_since(begin, crowds.activated.iter().map(|(_, at)| *at)));
        acknowledged(&subject, size.agents).await?;
        acknowledged_ms.push((now_unix_us() - begin) as f64 / 1e3);
        crowds.tell().await?;
        let each = |seconds: f64| seconds * 1e6 / size.agents as f64;
        plane_us.push(each(process.cpu_seconds() - plane_cpu));
        crowd_us.push(each((crowds.cpu_ms - crowd_cpu) / 1e3));
    }

    let model = subject.largest_model()?;
    let mut gbit_s = Vec::new();
    for fetch in 0..size.fetches {
        progress(&format!("fetching {} ({:.0} MB), {} …", model.name, model.bytes as f64 / 1e6, fetch + 1));
        let first = crowds.all.first_mut().context("there are no nodes")?;
        let (seconds, ..) = fetch_to(first, &model, false, false).await?;
        gbit_s.push(model.bytes as f64 * 8.0 / seconds / 1e9);
    }
    progress("fetching it from a neighbour …");
    let first = crowds.all.first_mut().context("there are no nodes")?;
    let near_share = if size.agents.div_ceil(size.processes) > size.regions {
        fetch_to(first, &model, false, true).await?;
        // The plane hears with the next status that the first node serves it.
        tokio::time::sleep(HEARTBEAT * 2).await;
        let (_, bytes, near_bytes) = fetch_to(first, &model, true, false).await?;
        Some(near_bytes as f64 / bytes as f64)
    } else {
        None
    };
    let bytes_peak = process.peak_bytes();

    let mut restarts = Vec::new();
    for crash in [false, true] {
        let how = if crash { "killing the control plane and starting it" } else { "restarting the control plane" };
        progress(&format!("{how} …"));
        crowds.tell().await?;
        crowds.forget();
        let begin = now_unix_us();
        subject.restart(crash).await?;
        let started_seconds = (now_unix_us() - begin) as f64 / 1e6;
        crowds.until(how, |c| c.welcomed.len() >= size.agents && c.live == size.agents).await?;
        let back_ms = ms_since(begin, crowds.welcomed.iter().copied());
        restarts.push(Restart {
            crash,
            started_seconds,
            p50_seconds: percentile(&back_ms, 0.5).map(|ms| ms / 1e3),
            p99_seconds: percentile(&back_ms, 0.99).map(|ms| ms / 1e3),
            all_seconds: percentile(&back_ms, 1.0).map(|ms| ms / 1e3),
        });
    }
    drop(crowds);
    subject.stop().await;

    let per_agent = |bytes: u64| bytes.saturating_sub(bytes_empty) as f64 / 1024.0 / size.agents as f64;
    Ok(Report {
        agents: size.agents,
        processes: size.processes,
        regions: size.regions,
        enrol_seconds,
        connect_p99_seconds: percentile(&connect_ms, 0.99).map(|ms| ms / 1e3),
        settled_seconds,
        kib_per_agent_enrolled: per_agent(bytes_enrolled),
        kib_per_agent_connected: per_agent(bytes_connected),
        kib_per_agent_peak: per_agent(bytes_peak),
        idle_cores,
        idle_crowd_cores,
        push_p50_ms: percentile(&push_ms, 0.5),
        push_p99_ms: percentile(&push_ms, 0.99),
        acknowledged_ms: percentile(&acknowledged_ms, 0.5),
        stored_ms: percentile(&stored_ms, 0.5),
        push_plane_us: percentile(&plane_us, 0.5),
        push_crowd_us: percentile(&crowd_us, 0.5),
        model_mb: model.bytes as f64 / 1e6,
        gbit_s: percentile(&gbit_s, 0.5),
        near_share,
        restarts,
    })
}
