//! A node with the agent's own link machine and the addresses of several control planes; it serves whatever it is offered.

use super::agent::{Agent, Identity, client, read_frame};
use nearfield_shared::{
    clock::SystemClock,
    link::{AgentInput, AgentLink, AgentLinkConfig, AgentOutput, BackoffConfig, Seed},
    wire::{ALPN, AgentToPlane, Hello, Limit, PLANE_SERVER_NAME, PlaneToAgent, hello::HELLO_BYTES, message::Status},
};
use quinn::{Connection, Endpoint, RecvStream, SendStream};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

/// How the node is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Which of the control planes it is connected to.
    pub plane: Option<usize>,
    /// The generation that it serves.
    pub serving: u64,
}

pub struct Roaming {
    seen: watch::Receiver<Seen>,
    task: AbortHandle,
}

impl Roaming {
    pub fn new(identity: &Identity, planes: Vec<SocketAddr>) -> Self {
        let (show, seen) = watch::channel(Seen::default());
        let task = tokio::spawn(run(identity.clone(), planes, show)).abort_handle();
        Self { seen, task }
    }

    pub async fn is(&self, wanted: Seen) {
        self.seen.clone().wait_for(|seen| *seen == wanted).await.unwrap();
    }
}

impl Drop for Roaming {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Streams = (Connection, SendStream, RecvStream);

enum Event {
    Dialled(Option<Streams>),
    Message(PlaneToAgent),
    Ended,
}

async fn dial(endpoint: Endpoint, config: quinn::ClientConfig, plane: SocketAddr) -> Option<Streams> {
    let connection = endpoint.connect_with(config, plane, PLANE_SERVER_NAME).ok()?.await.ok()?;
    let (mut send, mut recv) = connection.open_bi().await.ok()?;
    send.write_all(&Hello::OURS.to_bytes()).await.ok()?;
    recv.read_exact(&mut [0; HELLO_BYTES]).await.ok()?;
    Some((connection, send, recv))
}

async fn run(identity: Identity, planes: Vec<SocketAddr>, show: watch::Sender<Seen>) {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let tls = client(Arc::new(SystemClock::default()), &identity.enrolled.ca_pem, ALPN, Some(&identity));
    let backoff = BackoffConfig { first: Duration::from_millis(50), max: Duration::from_millis(400) };
    let config = AgentLinkConfig {
        backoff,
        dial_timeout: Duration::from_secs(1),
        planes: planes.len(),
        ..AgentLinkConfig::default()
    };
    let started = Instant::now();
    let seed = Seed(identity.enrolled.node.as_str().bytes().map(u64::from).sum());
    let mut link = AgentLink::new(config, Agent::here_i_am(&identity, 0), seed, Duration::ZERO);
    let (events, mut incoming) = mpsc::unbounded_channel::<(u64, Event)>();
    let (mut number, mut wires) = (0, None::<(Connection, mpsc::UnboundedSender<AgentToPlane>)>);
    link.handle_input(Duration::ZERO, AgentInput::Tick);
    loop {
        while let Some(output) = link.poll_output() {
            match output {
                AgentOutput::Dial => {
                    number += 1;
                    let dialling = dial(endpoint.clone(), tls.clone(), planes[link.plane()]);
                    let (number, events) = (number, events.clone());
                    tokio::spawn(async move { events.send((number, Event::Dialled(dialling.await))).ok() });
                }
                AgentOutput::Send(message) => {
                    if let Some((_, say)) = &wires {
                        say.send(message).ok();
                    }
                }
                AgentOutput::Close(_) => {
                    number += 1;
                    if let Some((connection, _)) = wires.take() {
                        connection.close(0_u32.into(), b"");
                    }
                }
                AgentOutput::Activate(state) => {
                    link.handle_input(started.elapsed(), AgentInput::Activated(state.generation));
                }
                AgentOutput::StatusDue => {
                    let status = Status {
                        serving: link.serving(),
                        activating: None,
                        trial: None,
                        accepting: true,
                        models: vec![],
                        calls_in_progress: 0,
                        calls_max: 4,
                        load: 0.0,
                        resident_bytes: 0,
                        uptime_s: 1,
                        program: None,
                    };
                    link.handle_input(started.elapsed(), AgentInput::Status(status));
                }
                _ => {}
            }
        }
        let plane = link.is_live().then(|| link.plane());
        let now = Seen { plane, serving: link.serving().0 };
        show.send_if_modified(|seen| std::mem::replace(seen, now) != now);
        let deadline = started + link.poll_timeout().unwrap();
        let input = tokio::select! {
            event = incoming.recv() => match event.unwrap() {
                (of, _) if of != number => continue,
                (_, Event::Dialled(None)) | (_, Event::Ended) => {
                    wires = None;
                    AgentInput::Disconnected
                }
                (_, Event::Dialled(Some((connection, mut send, mut recv)))) => {
                    let (say, mut said) = mpsc::unbounded_channel::<AgentToPlane>();
                    wires = Some((connection, say));
                    tokio::spawn(async move {
                        while let Some(message) = said.recv().await {
                            if send.write_all(&message.encode().unwrap()).await.is_err() {
                                return;
                            }
                        }
                    });
                    let (number, events) = (number, events.clone());
                    tokio::spawn(async move {
                        while let Ok(frame) = read_frame(&mut recv, Limit::FROM_PLANE).await {
                            events.send((number, Event::Message(PlaneToAgent::decode(&frame).unwrap()))).ok();
                        }
                        events.send((number, Event::Ended)).ok();
                    });
                    AgentInput::Connected
                }
                (_, Event::Message(message)) => AgentInput::Message(message),
            },
            () = tokio::time::sleep_until(deadline.into()) => AgentInput::Tick,
        };
        link.handle_input(started.elapsed(), input);
    }
}
