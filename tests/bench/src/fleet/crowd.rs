//! A process with many simulated nodes, and how the one that measures talks to it: a line of JSON for an order, one for its answer.

use super::node::{Fetching, Node, Told};
use crate::measure::cpu_ms;
use anyhow::{Context, Result, bail};
use edge_agent::control::dial::Dialer;
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
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

/// Enrolments of one process at once; the plane has its own bound for all.
const ENROLMENTS: usize = 16;
/// Nodes that share a socket: real ones have one each, and of one socket's buffer each must have enough for its packets.
const NODES_A_SOCKET: usize = 25;
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
    Connect {
        /// Number of the node that is in the first one's region, among the nodes of this process.
        second: usize,
    },
    /// Say what has happened since the last time.
    Tell,
    /// Fetch a model to the disk of one of the two nodes that can: the first, and the next one of its region.
    Fetch {
        /// What to fetch.
        manifest: Box<Manifest>,
        /// Which of the two.
        second: bool,
        /// Whether to keep the model and tell the plane that it is served; else it is removed again.
        keep: bool,
    },
}

/// What it answers.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The order was carried out.
    Done,
    /// To [`Order::Tell`].
    News(News),
    /// To [`Order::Fetch`].
    Fetched {
        /// How long it took.
        seconds: f64,
        /// Bytes that came.
        bytes: u64,
        /// How many of them came from a neighbour.
        near_bytes: u64,
    },
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
    /// The two nodes that fetch.
    fetching: Vec<Fetching>,
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
            fetching: Vec::new(),
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
                self.nodes = stream::iter(enrolments).buffered(ENROLMENTS).try_collect().await?;
                Ok(Answer::Done)
            }
            Order::Connect { second } => {
                let mut dialer = Dialer::default();
                let mut fetching = Vec::new();
                for (i, node) in self.nodes.drain(..).enumerate() {
                    if i.is_multiple_of(NODES_A_SOCKET) {
                        dialer = Dialer::default();
                    }
                    let fetches = (i == 0 || i == second).then(|| {
                        let (tell, told) = oneshot::channel();
                        fetching.push(told);
                        tell
                    });
                    let (dialer, told, stop) = (dialer.clone(), self.told.0.clone(), self.stop.clone());
                    tokio::spawn(async move {
                        if let Err(e) = node.run(i as u64 + 1, dialer, told, fetches, stop).await {
                            eprintln!("a simulated node has no link: {e:#}");
                        }
                    });
                    if (i + 1).is_multiple_of(BEGUN_AT_ONCE) {
                        tokio::task::yield_now().await;
                    }
                }
                for told in fetching {
                    self.fetching.push(told.await.context("a node that fetches has no link")?);
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
            Order::Fetch { manifest, second, keep } => {
                let node = self.fetching.get_mut(usize::from(second)).context("there is no such node")?;
                let before = (node.progress.fetched_bytes(), node.progress.near_bytes());
                let began = Instant::now();
                node.fetcher.fetch(&node.shelf.store, &*manifest).await?;
                let seconds = began.elapsed().as_secs_f64();
                if keep {
                    node.shelf.serve(&manifest);
                } else {
                    let path = node.shelf.store.path(manifest.digest);
                    std::fs::remove_file(path).context("the model cannot be removed again")?;
                }
                let (bytes, near_bytes) =
                    (node.progress.fetched_bytes() - before.0, node.progress.near_bytes() - before.1);
                Ok(Answer::Fetched { seconds, bytes, near_bytes })
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
