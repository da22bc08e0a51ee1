//! The agent's side of the wire, message by message.

use super::plane::TestPlane;
use nearfield_shared::{
    clock::Clock,
    desired::{DesiredState, Generation},
    link::ArtefactReceiver,
    wire::{
        ALPN, AgentToPlane, ArtefactReply, ArtefactRequest, Broadcast, DeviceName, ENROL_ALPN, Frame, Hello, Limit,
        PLANE_SERVER_NAME, PlaneToAgent, RENEW_ALPN, RenewReply, RenewRequest,
        enrol::{EnrolRefused, EnrolReply, EnrolRequest, EnrolToken, Enrolled},
        frame::HEADER_BYTES,
        hello::HELLO_BYTES,
        message::*,
    },
};
use quinn::{Connection, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    time_provider::TimeProvider,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

/// Who a node is, after its enrolment.
#[derive(Clone, Debug)]
pub struct Identity {
    pub enrolled: Enrolled,
    key_pem: String,
}

/// Tells the plane's time, so that a test's clock is both sides'.
#[derive(Debug)]
struct PlanesTime(Arc<dyn Clock>);

impl TimeProvider for PlanesTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.unix_s() as u64)))
    }
}

pub fn client(clock: Arc<dyn Clock>, ca_pem: &str, alpn: &[u8], identity: Option<&Identity>) -> quinn::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_details(provider, Arc::new(PlanesTime(clock)))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut tls = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let certificate = CertificateDer::from_pem_slice(identity.enrolled.certificate_pem.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(identity.key_pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![certificate], key).unwrap()
        }
    };
    tls.alpn_protocols = vec![alpn.to_vec()];
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()));
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_secs(5)));
    config.transport_config(Arc::new(transport));
    config
}

pub async fn dial(
    plane: &TestPlane,
    ca_pem: &str,
    alpn: &[u8],
    identity: Option<&Identity>,
) -> Result<(Endpoint, Connection), quinn::ConnectionError> {
    let endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let config = client(plane.clock.clone(), ca_pem, alpn, identity);
    let connection = endpoint.connect_with(config, plane.running.agents, PLANE_SERVER_NAME).unwrap().await?;
    Ok((endpoint, connection))
}

pub fn ca_pem(plane: &TestPlane) -> String {
    std::fs::read_to_string(plane.dir.ca_pem_path()).unwrap()
}

pub async fn read_frame(recv: &mut RecvStream, limit: Limit) -> Result<Frame, String> {
    let mut header = [0; HEADER_BYTES];
    recv.read_exact(&mut header).await.map_err(|e| e.to_string())?;
    let (bytes, kind) = Frame::parse_header(header, limit).unwrap();
    let mut body = vec![0; bytes];
    recv.read_exact(&mut body).await.map_err(|e| e.to_string())?;
    Ok(Frame { kind, body })
}

/// Enrols with a certificate request of one's own making.
pub async fn enrol_with(plane: &TestPlane, secret: &str, csr_pem: &str, node: Option<&str>) -> EnrolReply {
    let (_endpoint, connection) = dial(plane, &ca_pem(plane), ENROL_ALPN, None).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let request = EnrolRequest {
        secret: secret.into(),
        csr_pem: csr_pem.into(),
        node: node.map(|node| node.parse().unwrap()),
        agent_version: "0.1.0".parse().unwrap(),
    };
    send.write_all(&request.encode().unwrap()).await.unwrap();
    send.finish().unwrap();
    EnrolReply::decode(&read_frame(&mut recv, Limit::ENROL).await.unwrap()).unwrap()
}

pub async fn enrol(plane: &TestPlane, token: &EnrolToken, node: Option<&str>) -> Result<Identity, EnrolRefused> {
    let key = KeyPair::generate().unwrap();
    let csr = CertificateParams::default().serialize_request(&key).unwrap().pem().unwrap();
    match enrol_with(plane, &token.secret_text(), &csr, node).await {
        EnrolReply::Enrolled(enrolled) => Ok(Identity { enrolled, key_pem: key.serialize_pem() }),
        EnrolReply::Refused(refused) => Err(refused),
        EnrolReply::Unknown(kind) => panic!("unknown reply {kind}"),
    }
}

/// A certificate request as a node makes it; its key too.
pub fn renewal_request(node: &str, region: &str) -> (String, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, node);
    params.subject_alt_names = vec![rcgen::SanType::URI(format!("nearfield://{region}/{node}").try_into().unwrap())];
    (params.serialize_request(&key).unwrap().pem().unwrap(), key)
}

/// One exchange of a renewal on a new stream.
pub async fn ask_renewal(connection: &Connection, csr_pem: String) -> Result<String, String> {
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| e.to_string())?;
    send.write_all(&RenewRequest { csr_pem }.encode().unwrap()).await.map_err(|e| e.to_string())?;
    send.finish().map_err(|e| e.to_string())?;
    match RenewReply::decode(&read_frame(&mut recv, Limit::ENROL).await?).unwrap() {
        RenewReply::Renewed(renewed) => Ok(renewed.certificate_pem),
        RenewReply::Refused(refused) => Err(refused.reason),
        RenewReply::Unknown(kind) => panic!("unknown reply {kind}"),
    }
}

/// Renews on a connection that stands.
pub async fn renew_on(connection: &Connection, identity: &Identity) -> Result<Identity, String> {
    let (csr_pem, key) = renewal_request(identity.enrolled.node.as_str(), identity.enrolled.region.as_str());
    let certificate_pem = ask_renewal(connection, csr_pem).await?;
    Ok(Identity { enrolled: Enrolled { certificate_pem, ..identity.enrolled.clone() }, key_pem: key.serialize_pem() })
}

/// Renews on a connection of its own, as a node does whose certificate has ended.
pub async fn renew_alone(plane: &TestPlane, identity: &Identity) -> Result<Identity, String> {
    let (_endpoint, connection) =
        dial(plane, &ca_pem(plane), RENEW_ALPN, Some(identity)).await.map_err(|e| e.to_string())?;
    renew_on(&connection, identity).await
}

/// Enrols a node of this name.
pub async fn enrolled(plane: &TestPlane, region: &str, node: &str) -> Identity {
    let token = plane.token(region, Some(node), 3600).await;
    enrol(plane, &token, None).await.unwrap()
}

/// A node that serves whatever it is offered.
pub struct Live {
    say: mpsc::UnboundedSender<AgentToPlane>,
    shown: watch::Receiver<Option<Broadcast<State>>>,
    asked: watch::Receiver<Duty>,
    taken: watch::Receiver<u64>,
    tasks: [AbortHandle; 2],
}

impl Live {
    pub fn say(&self, message: AgentToPlane) {
        self.say.send(message).unwrap();
    }

    /// Waits until the plane has stored this many reports.
    pub async fn taken(&self, reports: u64) {
        self.taken.clone().wait_for(|taken| *taken == reports).await.unwrap();
    }

    /// Waits until it is offered this generation.
    pub async fn serves(&self, generation: u64) {
        let offered = |state: &Option<Broadcast<State>>| state.as_ref().is_some_and(|s| s.generation.0 == generation);
        self.shown.clone().wait_for(offered).await.unwrap();
    }

    /// What its assistant is told, in the state that it serves.
    pub async fn instructions(&self) -> String {
        self.shown.borrow().as_ref().unwrap().assistants[0].instructions.clone()
    }

    /// Waits until something unusual is asked of it.
    pub async fn duty(&self) -> Duty {
        *self.asked.clone().wait_for(|duty| *duty != Duty::default()).await.unwrap()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// A connected node.
pub struct Agent {
    pub identity: Identity,
    pub connection: Connection,
    pub send: SendStream,
    recv: RecvStream,
    /// What it offers to speak.
    pub hello: Hello,
    _endpoint: Endpoint,
}

impl Agent {
    pub fn here_i_am(identity: &Identity, serving: u64) -> HereIAm {
        HereIAm {
            node: identity.enrolled.node.clone(),
            region: identity.enrolled.region.clone(),
            agent_version: "0.1.0".parse().unwrap(),
            serving: Generation(serving),
            refused: None,
            device: DeviceSummary {
                kind: DeviceKind::Cpu,
                name: DeviceName::from_driver("test"),
                memory_bytes: 1 << 30,
            },
            public_url: Some(format!("http://{}.example", identity.enrolled.node).parse().unwrap()),
            neighbours: None,
        }
    }

    /// The control stream after the hellos, before any message.
    pub async fn greeted(plane: &TestPlane, identity: &Identity) -> Self {
        Self::greeted_as(plane, identity, Hello::OURS).await
    }

    /// The same of an agent that speaks these versions.
    pub async fn greeted_as(plane: &TestPlane, identity: &Identity, hello: Hello) -> Self {
        let (endpoint, connection) = dial(plane, &ca_pem(plane), ALPN, Some(identity)).await.unwrap();
        let (mut send, mut recv) = connection.open_bi().await.unwrap();
        send.write_all(&hello.to_bytes()).await.unwrap();
        let mut theirs = [0; HELLO_BYTES];
        recv.read_exact(&mut theirs).await.unwrap();
        assert_eq!(Hello::from_bytes(&theirs), Ok(Hello::OURS));
        Self { identity: identity.clone(), connection, send, recv, hello, _endpoint: endpoint }
    }

    /// Welcomed, serving this generation.
    pub async fn connect(plane: &TestPlane, identity: &Identity, serving: u64) -> Self {
        Self::welcomed(Self::greeted(plane, identity).await, serving).await
    }

    pub async fn welcomed(mut agent: Self, serving: u64) -> Self {
        let identity = &agent.identity.clone();
        agent.say(AgentToPlane::HereIAm(Self::here_i_am(identity, serving))).await;
        let PlaneToAgent::Welcome(_) = agent.hear().await.unwrap() else { panic!("a welcome comes first") };
        agent
    }

    /// Enrolled and welcomed.
    pub async fn new(plane: &TestPlane, region: &str, node: &str) -> Self {
        let identity = enrolled(plane, region, node).await;
        Self::connect(plane, &identity, 0).await
    }

    pub async fn say(&mut self, message: AgentToPlane) {
        self.send.write_all(&message.encode().unwrap()).await.unwrap();
    }

    pub async fn hear(&mut self) -> Result<PlaneToAgent, String> {
        let frame = read_frame(&mut self.recv, Limit::FROM_PLANE).await?;
        Ok(PlaneToAgent::decode(&frame).unwrap())
    }

    /// The next desired state, with every manifest of it asked for; routes, revocations and signs of life before it are skipped.
    pub async fn desired(&mut self) -> (Nonce, Arc<DesiredState>) {
        let mut waits: Option<Broadcast<State>> = None;
        let mut manifests = BTreeMap::new();
        loop {
            match self.hear().await.unwrap() {
                PlaneToAgent::Desired(desired) if self.hello.max == 1 => return (desired.nonce, desired.state.clone()),
                PlaneToAgent::State(state) if self.hello.max > 1 => {
                    let digests = state.manifests.values().copied().collect();
                    self.say(AgentToPlane::ManifestsWanted(ManifestsWanted { digests })).await;
                    waits = Some(state);
                }
                PlaneToAgent::Manifest(manifest) => {
                    manifests.insert(manifest.digest(), (*manifest).clone());
                }
                PlaneToAgent::Routes(_)
                | PlaneToAgent::Revoked(_)
                | PlaneToAgent::Registry(_)
                | PlaneToAgent::StillHere
                | PlaneToAgent::Duty(_) => {}
                other => panic!("{other:?}"),
            }
            if let Some(state) =
                waits.as_ref().filter(|state| state.manifests.values().all(|m| manifests.contains_key(m)))
            {
                return (state.nonce, Arc::new(state.with(&manifests, vec![])));
            }
        }
    }

    pub async fn ack(&mut self, nonce: Nonce, generation: Generation) {
        self.say(AgentToPlane::Ack(Ack { generation, nonce })).await;
    }

    pub async fn status(&mut self, serving: u64, accepting: bool) {
        let status = Status {
            serving: Generation(serving),
            activating: None,
            trial: None,
            accepting,
            models: vec![],
            calls_in_progress: 1,
            calls_max: 4,
            load: 0.5,
            resident_bytes: 1000,
            uptime_s: 1,
            program: None,
        };
        self.say(AgentToPlane::Status(status)).await;
    }

    /// Goes on by itself: serves whatever it is offered, and says what it is told to say, until it is dropped.
    pub fn live(self) -> Live {
        let Self { mut send, mut recv, connection, _endpoint, .. } = self;
        let (say, mut said) = mpsc::unbounded_channel::<AgentToPlane>();
        let (state, shown) = watch::channel(None);
        let (duty, asked) = watch::channel(Duty::default());
        let (count, taken) = watch::channel(0);
        let ack = say.clone();
        let hears = tokio::spawn(async move {
            while let Ok(frame) = read_frame(&mut recv, Limit::FROM_PLANE).await {
                match PlaneToAgent::decode(&frame).unwrap() {
                    PlaneToAgent::State(offered) => {
                        let (generation, nonce) = (offered.generation, offered.nonce);
                        state.send_replace(Some(offered));
                        ack.send(AgentToPlane::Ack(Ack { generation, nonce })).ok();
                    }
                    PlaneToAgent::Duty(told) => {
                        duty.send_replace(told);
                    }
                    PlaneToAgent::ReportTaken(_) => count.send_modify(|count| *count += 1),
                    _ => {}
                }
            }
        });
        let says = tokio::spawn(async move {
            let _kept = (connection, _endpoint);
            while let Some(message) = said.recv().await {
                if send.write_all(&message.encode().unwrap()).await.is_err() {
                    return;
                }
            }
        });
        Live { say, shown, asked, taken, tasks: [hears.abort_handle(), says.abort_handle()] }
    }

    /// What the plane says before it hangs up.
    pub async fn refusal(&mut self) -> Refused {
        let mut heard = Vec::new();
        loop {
            match self.hear().await {
                Ok(PlaneToAgent::Refused(refused)) => return refused,
                Ok(other) => heard.push(other),
                Err(reason) => panic!("the connection ended without a reason: {reason}; after {heard:?}"),
            }
        }
    }

    /// Asks for an artefact; the header and the stream of bytes.
    pub async fn ask(&self, request: ArtefactRequest) -> (ArtefactReply, RecvStream) {
        let (mut send, mut recv) = self.connection.open_bi().await.unwrap();
        send.write_all(&request.encode().unwrap()).await.unwrap();
        send.finish().unwrap();
        let reply = ArtefactReply::decode(&read_frame(&mut recv, Limit::ARTEFACT).await.unwrap()).unwrap();
        (reply, recv)
    }

    /// Fetches into a receiver until the end or until `stop_at` bytes are there. Returns the bytes that came.
    pub async fn fetch(
        &self,
        request: ArtefactRequest,
        receiver: &mut ArtefactReceiver,
        disk: &mut Vec<u8>,
        stop_at: u64,
    ) -> Result<u64, String> {
        let (reply, mut recv) = self.ask(request).await;
        let ArtefactReply::Here { bytes } = reply else { return Err(format!("{reply:?}")) };
        assert_eq!(bytes, receiver.total_bytes() - request.offset);
        let mut came = 0;
        while receiver.next_offset() < stop_at {
            let want = (stop_at - receiver.next_offset()).min(1 << 16) as usize;
            let Some(chunk) = recv.read_chunk(want, true).await.map_err(|e| e.to_string())? else { break };
            came += chunk.bytes.len() as u64;
            for good in receiver.receive(&chunk.bytes).map_err(|e| e.to_string())? {
                assert_eq!(good.offset, disk.len() as u64);
                disk.extend(good.bytes);
            }
        }
        Ok(came)
    }
}
