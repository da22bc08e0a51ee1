//! A listener in the middle of a control link, so that a test sees in the clear every byte that an agent sends.
//!
//! It shows the agent a certificate of the plane's own authority and shows the plane the agent's own certificate; the test holds both
//! keys, nobody else does. It is no part of the product: an agent accepts it only because the test can sign as the plane.

use control_plane::{config::Config, control::tls::server_config, state_dir::StateDir as PlaneDir};
use edge_agent::{control::tls::link_config, identity::Identity, state_dir::StateDir as AgentDir};
use nearfield_shared::{
    clock::{Clock, SystemClock},
    wire::PLANE_SERVER_NAME,
};
use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
};

/// What an agent sent, all streams one after the other as the bytes came.
type Heard = Arc<Mutex<Vec<u8>>>;

/// A running tap.
pub struct Tap {
    address: SocketAddr,
    heard: Heard,
    // Closes when the test lets go of the tap.
    _endpoint: quinn::Endpoint,
}

impl Tap {
    /// Listens for one agent and carries its streams to the plane and back.
    pub fn start(plane: &PlaneDir, plane_address: SocketAddr, agent: &AgentDir) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let server = server_config(&Arc::new(plane.ca().unwrap()), &Config::on_loopback(), &clock).unwrap();
        let endpoint = quinn::Endpoint::server(server, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let client = link_config(agent, &Identity::load(agent).unwrap()).unwrap();
        let (address, heard) = (endpoint.local_addr().unwrap(), Heard::default());
        tokio::spawn(carry_connections(endpoint.clone(), client, plane_address, heard.clone()));
        Self { address, heard, _endpoint: endpoint }
    }

    /// Where the agent finds the tap.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Everything that the agent has sent so far.
    pub fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }
}

async fn carry_connections(endpoint: quinn::Endpoint, client: quinn::ClientConfig, plane: SocketAddr, heard: Heard) {
    while let Some(incoming) = endpoint.accept().await {
        let Ok(agent) = incoming.await else { continue };
        let dialled = endpoint_for_dialling().connect_with(client.clone(), plane, PLANE_SERVER_NAME).unwrap();
        let Ok(plane) = dialled.await else { continue };
        tokio::spawn(carry_streams(agent, plane, heard.clone()));
    }
}

fn endpoint_for_dialling() -> quinn::Endpoint {
    quinn::Endpoint::client((Ipv4Addr::LOCALHOST, 0).into()).unwrap()
}

async fn carry_streams(agent: quinn::Connection, plane: quinn::Connection, heard: Heard) {
    while let Ok((to_agent, from_agent)) = agent.accept_bi().await {
        let Ok((to_plane, from_plane)) = plane.open_bi().await else { break };
        tokio::spawn(carry(from_agent, to_plane, Some(heard.clone())));
        tokio::spawn(carry(from_plane, to_agent, None));
    }
    plane.close(0_u32.into(), b"the agent is gone");
    agent.close(0_u32.into(), b"the plane is gone");
}

async fn carry(mut from: quinn::RecvStream, mut to: quinn::SendStream, heard: Option<Heard>) {
    while let Ok(Some(chunk)) = from.read_chunk(64 << 10, true).await {
        if let Some(heard) = &heard {
            heard.lock().unwrap().extend_from_slice(&chunk.bytes);
        }
        if to.write_chunk(chunk.bytes).await.is_err() {
            return;
        }
    }
    // The stream may be reset already; then there is nothing left to end.
    let _ = to.finish();
}
