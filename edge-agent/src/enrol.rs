//! Enrolment: a one-time token becomes a certificate, and the private key never leaves this node.

use crate::{
    artefacts::read_frame,
    config::{PLANES_MAX, plane_address},
    control::{dial, tls},
    durable,
    identity::{self, Identity, IdentityError},
    state_dir::StateDir,
};
use nearfield_shared::wire::{
    Limit, NodeName, VersionName,
    enrol::{EnrolRefused, EnrolReply, EnrolRequest, EnrolToken, Enrolled},
};
use std::{path::PathBuf, time::Duration};
use zeroize::Zeroizing;

/// Longest time for an enrolment, from the first packet to the reply.
const ENROL_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for a connection to one of several control planes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What `enroll` was asked to do.
#[derive(Debug, Clone)]
pub struct EnrolOrder {
    /// The control planes, `HOST:PORT`; the first that leads is asked.
    pub planes: Vec<String>,
    /// The token.
    pub token: EnrolToken,
    /// The name that the node would like.
    pub node: Option<NodeName>,
    /// Where callers reach it.
    pub url: Option<String>,
    /// Whether an identity that stands in the folder is replaced.
    pub again: bool,
}

/// Why a node is not enrolled. Nothing of the folder was changed, unless the message says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The folder has an identity.
    #[error("{folder} is enrolled already, as {node}; use another --dir, or --again with a fresh token to replace that identity", folder = .folder.display())]
    Enrolled {
        /// The folder.
        folder: PathBuf,
        /// The node it belongs to.
        node: NodeName,
    },
    /// No certificate request could be made.
    #[error("the certificate request could not be made: {0}")]
    Request(String),
    /// TLS cannot be configured.
    #[error(transparent)]
    Tls(#[from] tls::TlsSetupError),
    /// The plane was not reached, or is not the token's.
    #[error(transparent)]
    Dial(#[from] dial::DialError),
    /// It took too long.
    #[error("the control plane did not answer within {} s; check the address and that UDP reaches it", ENROL_TIMEOUT.as_secs())]
    Timeout,
    /// The plane said no.
    #[error(transparent)]
    Refused(#[from] EnrolRefused),
    /// The reply cannot be used.
    #[error("the control plane's reply cannot be used: {0}")]
    Reply(String),
    /// The result could not be stored; the token is used up.
    #[error(
        "the node was enrolled, but the result could not be stored: {0}; mend that and enrol again with a new token"
    )]
    Store(#[from] IdentityError),
    /// The settings could not be written.
    #[error("{path}: {source}", path = .path.display())]
    Settings {
        /// `agent.toml`.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Enrols the node of this folder and writes its key, certificate, identity and, where there is none, its `agent.toml`.
pub async fn enrol(dir: &StateDir, order: &EnrolOrder) -> Result<Enrolled, EnrolError> {
    if let Ok(identity) = Identity::load(dir)
        && !order.again
    {
        return Err(EnrolError::Enrolled { folder: dir.root().to_owned(), node: identity.node });
    }
    let request_error = |e: rcgen::Error| EnrolError::Request(e.to_string());
    let key = rcgen::KeyPair::generate().map_err(request_error)?;
    let csr = rcgen::CertificateParams::default().serialize_request(&key).map_err(request_error)?;
    let request = EnrolRequest {
        secret: order.token.secret_text().to_string(),
        csr_pem: csr.pem().map_err(request_error)?,
        node: order.node.clone(),
        agent_version: agent_version(),
    };
    let enrolled = tokio::time::timeout(ENROL_TIMEOUT, exchange_in_turn(order, &request))
        .await
        .map_err(|_| EnrolError::Timeout)??;
    Identity::from_enrolled(&enrolled).map_err(EnrolError::Reply)?;
    identity::store(dir, &enrolled, &Zeroizing::new(key.serialize_pem()))?;
    write_settings(dir, order, &enrolled.planes)?;
    Ok(enrolled)
}

/// Asks one control plane after the other until one leads. A token is used up by an answer only, so what was not answered is asked again elsewhere.
async fn exchange_in_turn(order: &EnrolOrder, request: &EnrolRequest) -> Result<Enrolled, EnrolError> {
    let mut last = EnrolError::Timeout;
    for plane in &order.planes {
        match exchange(order, plane, request).await {
            Err(error @ EnrolError::Dial(_)) => last = error,
            answer => return answer,
        }
    }
    Err(last)
}

async fn exchange(order: &EnrolOrder, plane: &str, request: &EnrolRequest) -> Result<Enrolled, EnrolError> {
    let config = tls::enrol_config(*order.token.ca_fingerprint())?;
    let dialer = dial::Dialer::default();
    let connecting = dialer.connect(plane, &config);
    let connection = match order.planes.len() {
        1 => connecting.await?,
        // One that is switched off must leave time for the others.
        _ => tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| {
            Err(dial::DialError::Connect { plane: plane.to_owned(), reason: "no answer".into() })
        })?,
    };
    let broken = |e: String| EnrolError::Dial(dial::DialError::of(plane, &connection, e));
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| broken(e.to_string()))?;
    let bytes = request.encode().map_err(|e| EnrolError::Request(e.to_string()))?;
    send.write_all(&bytes).await.map_err(|e| broken(e.to_string()))?;
    send.finish().map_err(|e| broken(e.to_string()))?;
    let frame = read_frame(&mut recv, Limit::ENROL).await.map_err(broken)?;
    let reply = EnrolReply::decode(&frame).map_err(|e| EnrolError::Reply(e.to_string()))?;
    connection.close(0_u32.into(), b"done");
    dialer.wait_idle().await;
    match reply {
        EnrolReply::Enrolled(enrolled) => Ok(enrolled),
        EnrolReply::Refused(refused) => Err(refused.into()),
        EnrolReply::Unknown(kind) => {
            Err(EnrolError::Reply(format!("it is of kind {kind}, which this agent does not know; upgrade the agent")))
        }
    }
}

/// Writes `plane` and `url` into `agent.toml`; one that stands there is the operator's, and only its `plane` may be missing. The addresses are those that
/// were asked for, and those that the control plane told of.
fn write_settings(dir: &StateDir, order: &EnrolOrder, told: &[String]) -> Result<(), EnrolError> {
    let path = dir.config();
    let settings = |source| EnrolError::Settings { path: path.clone(), source };
    let mut planes = order.planes.clone();
    for plane in told.iter().filter(|plane| plane_address(plane).is_ok()) {
        if planes.len() < PLANES_MAX && !planes.contains(plane) {
            planes.push(plane.clone());
        }
    }
    let planes = match planes.as_slice() {
        [one] => toml::Value::from(one.as_str()),
        several => toml::Value::from(several.to_vec()),
    };
    let mut lines = format!("plane = {planes}\n");
    if let Some(url) = &order.url {
        lines += &format!("url = {}\n", toml::Value::from(url.as_str()));
    }
    let existing = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(settings(e)),
    };
    // Lines of ours go first: a key at the end of a file could fall into its last table.
    let ours = |line: &&str| {
        let key = line.split('=').next().unwrap_or_default().trim();
        key == "plane" || (key == "url" && order.url.is_some())
    };
    let rest: String = existing.lines().filter(|line| !ours(line)).map(|line| format!("{line}\n")).collect();
    durable::write(&path, (lines + &rest).as_bytes(), 0o600).map_err(settings)
}

/// This program's version, as it goes on the wire.
pub fn agent_version() -> VersionName {
    env!("CARGO_PKG_VERSION").parse().expect("a crate's version fits the wire's rule")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_written_and_an_operators_own_are_kept() {
        let folder = tempfile::tempdir().expect("dir");
        let dir = StateDir::open(&folder.path().join("node")).expect("dir");
        let mut order = EnrolOrder {
            planes: vec!["plane.example.net:7443".into()],
            token: EnrolToken::new([1; 24], [2; 32]),
            node: None,
            url: Some("https://fra-1.example.net".into()),
            again: false,
        };
        write_settings(&dir, &order, &[]).expect("written");
        let config = crate::config::Config::read(&dir.config()).expect("read");
        assert_eq!(config.planes, ["plane.example.net:7443"]);
        assert_eq!(config.url.as_deref(), Some("https://fra-1.example.net"));
        std::fs::write(
            dir.config(),
            "calls_max = 9\nurl = \"http://old\"\nplane = \"old:1\"\n[tls]\ncertificate = \"c\"\nkey = \"k\"\n",
        )
        .expect("operator");
        order.url = None;
        write_settings(&dir, &order, &[]).expect("written");
        let config = crate::config::Config::read(&dir.config()).expect("read");
        assert_eq!((config.calls_max, config.planes), (9, vec!["plane.example.net:7443".to_owned()]));
        assert_eq!(config.url.as_deref(), Some("http://old"));
        assert!(config.tls.is_some());
        let told = ["b.example:7443".to_owned(), "plane.example.net:7443".into(), "no address".into()];
        write_settings(&dir, &order, &told).expect("written");
        let config = crate::config::Config::read(&dir.config()).expect("read");
        assert_eq!(config.planes, ["plane.example.net:7443", "b.example:7443"], "asked for, and told of");
    }
}
