//! A process with many simulated nodes, and how the one that measures talks to it: a line of JSON for an order, one for its answer.

use super::node::{Node, Told};
use crate::measure::cpu_ms;
use anyhow::{Context, Result, bail};
use edge_agent::{
    artefacts::{ArtefactStore, Fetcher, Progress},
    control::dial::Dialer,
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nearfield_shared::artefact::Manifest;
use serde::{Deserialize, Serialize};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Instant,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, watch},
};
use tokio_util::sync::CancellationToken;

/// Enrolments of one process at once; the plane has its own bound for all.
const ENROLMENTS: usize = 16;
/// Links that are begun at once, so that a start is not one burst of packets.
const BEGUN_AT_ONCE: usize = 64;

/// What a crowd is asked to do.
#[derive(Debug, Serialize, Deserialize)]
pub enum Order {
    /// Enrol a node with each token. Nodes are numbered from `first`.
    Enrol {
        /// The control plane, `HOST:PORT`.
        plane: String,
        /// One for each node.
        tokens: Vec<String>,
        /// Number of the first node, for its name.
        first: usize,
    },
    /// Begin all links.
    Connect,
    /// Say what has happened since the last time.
    Tell,
    /// Fetch a model to the disk, through the link of the first node.
    Fetch {
        /// What to fetch.
        manifest: Box<Manifest>,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The order was carried out.
    Done,
    /// To [`Order::Tell`].
    News(News),
    /// To [`Order::Fetch`]: seconds.
    Fetched(f64),
    /// It was not.
    Failed(String),
}

/// What has happened since the last time; moments in microseconds since 1970.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct News {
    /// Nodes that the plane has welcomed and that have not lost it.
    pub live: usize,
    /// When nodes were welcomed.
    pub welcomed: Vec<i64>,
    /// How often a node lost the plane.
    pub lost: usize,
    /// Which generation was taken when.
    pub activated: Vec<(u64, i64)>,
    /// Milliseconds that the process has computed, since its start.
    pub cpu_ms: f64,
}

/// The process itself: carries orders out until its standard input ends.
///
/// # Errors
/// When its standard output fails.
pub async fn serve(folder: &Path) -> Result<()> {
    let mut crowd = Crowd::new(folder);
    let (order, mut orders) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if order.blocking_send(line).is_err() {
                return;
            }
        }
    });
    while let Some(line) = orders.recv().await {
        let answer = match serde_json::from_str(&line) {
            Ok(order) => crowd.obey(order).await.unwrap_or_else(|e| Answer::Failed(format!("{e:#}"))),
            Err(e) => Answer::Failed(format!("no order: {e}")),
        };
        writeln!(std::io::stdout(), "{}", serde_json::to_string(&answer)?)?;
    }
    crowd.stop.cancel();
    Ok(())
}

struct Crowd {
    folder: PathBuf,
    nodes: Vec<Node>,
    told: (mpsc::UnboundedSender<Told>, mpsc::UnboundedReceiver<Told>),
    live: usize,
    first: watch::Receiver<Option<quinn::Connection>>,
    dialer: Dialer,
    stop: CancellationToken,
}

impl Crowd {
    fn new(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            nodes: Vec::new(),
            // What nodes tell is bounded by what the plane sends them, and is taken by every `Tell`.
            told: mpsc::unbounded_channel(),
            live: 0,
            first: watch::channel(None).1,
            dialer: Dialer::default(),
            stop: CancellationToken::new(),
        }
    }

    async fn obey(&mut self, order: Order) -> Result<Answer> {
        match order {
            Order::Enrol { plane, tokens, first } => {
                let enrolments = tokens.iter().enumerate().map(|(i, token)| {
                    let (folder, plane) = (self.folder.join(format!("{i}")), plane.clone());
                    async move { Node::enrol(&folder, &plane, token, first + i).await }
                });
                self.nodes = stream::iter(enrolments).buffer_unordered(ENROLMENTS).try_collect().await?;
                Ok(Answer::Done)
            }
            Order::Connect => {
                for (i, node) in self.nodes.drain(..).enumerate() {
                    let (connection, shown) = watch::channel(None);
                    if i == 0 {
                        self.first = shown;
                    }
                    let (dialer, told, stop) = (self.dialer.clone(), self.told.0.clone(), self.stop.clone());
                    tokio::spawn(async move {
                        if let Err(e) = node.run(i as u64 + 1, dialer, told, connection, stop).await {
                            eprintln!("a simulated node has no link: {e:#}");
                        }
                    });
                    if (i + 1).is_multiple_of(BEGUN_AT_ONCE) {
                        tokio::task::yield_now().await;
                    }
                }
                Ok(Answer::Done)
            }
            Order::Tell => {
                let mut news = News::default();
                while let Ok(told) = self.told.1.try_recv() {
                    match told {
                        Told::Welcomed(at) => {
                            self.live += 1;
                            news.welcomed.push(at);
                        }
                        Told::Lost => {
                            self.live = self.live.saturating_sub(1);
                            news.lost += 1;
                        }
                        Told::Activated(generation, at) => news.activated.push((generation, at)),
                    }
                }
                Ok(Answer::News(News { live: self.live, cpu_ms: cpu_ms(), ..news }))
            }
            Order::Fetch { manifest } => {
                let store = ArtefactStore::at(&self.folder.join("artefacts"));
                std::fs::create_dir_all(store.folder()).context("no folder for the model")?;
                let mut fetcher = Fetcher::new(self.first.clone(), Progress::default());
                let began = Instant::now();
                fetcher.fetch(&store, &manifest).await?;
                let seconds = began.elapsed().as_secs_f64();
                std::fs::remove_file(store.path(manifest.digest)).context("the model cannot be removed again")?;
                Ok(Answer::Fetched(seconds))
            }
        }
    }
}

/// A running crowd, as the one that measures sees it.
pub struct CrowdProcess {
    _child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl CrowdProcess {
    /// Starts it from this very program.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(folder: &Path) -> Result<Self> {
        let program = std::env::current_exe().context("this program does not know where it lies")?;
        let mut command = Command::new(program);
        command.arg("fleet-crowd").arg(folder).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("cannot start a process of simulated nodes")?;
        let orders = child.stdin.take().context("no standard input")?;
        let answers = BufReader::new(child.stdout.take().context("no standard output")?).lines();
        Ok(Self { _child: child, orders, answers })
    }

    /// Gives an order and waits for its answer.
    ///
    /// # Errors
    /// When the crowd has ended or could not do it.
    pub async fn ask(&mut self, order: &Order) -> Result<Answer> {
        let line = format!("{}\n", serde_json::to_string(order)?);
        self.orders.write_all(line.as_bytes()).await.context("the crowd has ended")?;
        let answer = self.answers.next_line().await?.context("the crowd has ended")?;
        match serde_json::from_str(&answer)? {
            Answer::Failed(why) => bail!("{why}"),
            answer => Ok(answer),
        }
    }

    /// What has happened.
    ///
    /// # Errors
    /// Like [`CrowdProcess::ask`].
    pub async fn news(&mut self) -> Result<News> {
        match self.ask(&Order::Tell).await? {
            Answer::News(news) => Ok(news),
            other => bail!("the crowd answered {other:?}"),
        }
    }
}
