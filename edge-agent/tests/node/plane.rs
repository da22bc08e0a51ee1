//! A control plane that follows a script: real certificates, real QUIC, real frames, and faults on request.

use crate::host::{ARCHITECTURE, GOLDEN_CASES};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use nearfield_shared::{
    artefact::{Digest, Manifest, SignedManifest, Stage},
    desired::DesiredState,
    release::{ProgramManifest, Release, own_target},
    wire::{
        ALPN, AgentToPlane, ArtefactReply, ArtefactRequest, CLOSE_NOT_LEADING, ENROL_ALPN, Frame, FrameDecoder, Hello,
        Limit, PLANE_SERVER_NAME, PlaneToAgent,
        enrol::{EnrolRefusal, EnrolRefused, EnrolReply, EnrolRequest, EnrolToken, Enrolled},
        frame::HEADER_BYTES,
        hello::HELLO_BYTES,
        message::{Desired, Duty, Nonce, Registry, ReportTaken, Welcome},
    },
};
use rcgen::{BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair};
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, watch};

pub const NODE: &str = "fra-1";
pub const REGION: &str = "eu-central";

/// The secret of the one token that works.
pub const SECRET: [u8; 24] = [7; 24];

/// What goes wrong with an artefact's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed before this byte of the file, once.
    CutConnectionAt(u64),
    /// The stream is reset before this byte of the file, once.
    ResetStreamAt(u64),
    /// This byte is wrong, so many times.
    WrongByte { at: u64, times: u32 },
    /// Nothing comes after this byte, and the stream stays open.
    StallAt(u64),
    /// The plane says that it does not hold it.
    NotHere,
}

/// One request for an artefact: from which byte on, and how many bytes went out for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Served {
    pub offset: u64,
    pub bytes: u64,
}

#[derive(Default)]
struct Shelf {
    files: HashMap<Digest, Vec<u8>>,
    faults: HashMap<Digest, Vec<Fault>>,
    served: HashMap<Digest, Vec<Served>>,
}

/// The plane. Dropping it closes its port.
pub struct Plane {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    ca_der: Vec<u8>,
    signing: Ed25519KeyPair,
    endpoint: Mutex<Option<quinn::Endpoint>>,
    address: SocketAddr,
    shelf: Mutex<Shelf>,
    wanted: watch::Sender<Option<Arc<DesiredState>>>,
    duty: watch::Sender<Duty>,
    registry: watch::Sender<Option<Registry>>,
    /// The plane's clock minus this machine's, seconds.
    ahead_s: AtomicI64,
    /// What an enrolment brings of the registry.
    registry_root: Mutex<Option<String>>,
    heard: mpsc::UnboundedSender<AgentToPlane>,
    log: Mutex<Vec<AgentToPlane>>,
    token_used: Mutex<bool>,
    /// Every byte that any node sent.
    bytes_in: Mutex<Vec<u8>>,
}

impl Plane {
    /// Starts a plane on a free port of this machine.
    pub async fn start() -> (Arc<Self>, mpsc::UnboundedReceiver<AgentToPlane>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let certificate = params.self_signed(&key).unwrap();
        let (ca_pem, ca_der) = (certificate.pem(), certificate.der().to_vec());
        let issuer = Issuer::new(params, key);
        let (heard, hearing) = mpsc::unbounded_channel();
        let endpoint = listen(&issuer, &ca_der, SocketAddr::from(([127, 0, 0, 1], 0)));
        let plane = Arc::new(Self {
            address: endpoint.local_addr().unwrap(),
            issuer,
            ca_pem,
            ca_der,
            signing: Ed25519KeyPair::generate().unwrap(),
            endpoint: Mutex::new(Some(endpoint.clone())),
            shelf: Mutex::default(),
            wanted: watch::channel(None).0,
            duty: watch::channel(Duty::default()).0,
            registry: watch::channel(None).0,
            ahead_s: AtomicI64::new(0),
            registry_root: Mutex::default(),
            heard,
            log: Mutex::default(),
            token_used: Mutex::new(false),
            bytes_in: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&plane).accept(endpoint));
        (plane, hearing)
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The address of another plane of this authority, which does not lead and turns everybody away.
    pub fn standing_by(&self) -> String {
        let endpoint = listen(&self.issuer, &self.ca_der, SocketAddr::from(([127, 0, 0, 1], 0)));
        let address = endpoint.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Some(incoming) = endpoint.accept().await {
                let Ok(connection) = incoming.await else { continue };
                connection.close(CLOSE_NOT_LEADING.into(), b"not leading: another does");
            }
        });
        address
    }

    /// Goes away without a word: connections are cut, the port is closed.
    pub async fn vanish(&self) {
        let endpoint = self.endpoint.lock().unwrap().take();
        if let Some(endpoint) = endpoint {
            endpoint.close(9_u32.into(), b"gone");
            endpoint.wait_idle().await;
        }
    }

    /// Comes back at the same address.
    pub async fn come_back(self: &Arc<Self>) {
        let endpoint = loop {
            // The port is free as soon as the old endpoint's driver has ended.
            if let Ok(socket) = std::net::UdpSocket::bind(self.address) {
                drop(socket);
                break listen(&self.issuer, &self.ca_der, self.address);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        };
        *self.endpoint.lock().unwrap() = Some(endpoint.clone());
        tokio::spawn(Arc::clone(self).accept(endpoint));
    }

    pub fn token(&self) -> EnrolToken {
        let fingerprint = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &self.ca_der);
        EnrolToken::new(SECRET, fingerprint.as_ref().try_into().unwrap())
    }

    /// What an enrolment would bring for this certificate request.
    pub fn enrolled(&self, csr_pem: &str) -> Enrolled {
        let csr = CertificateSigningRequestParams::from_pem(csr_pem).unwrap();
        let certificate = csr.signed_by(&self.issuer).unwrap();
        Enrolled {
            node: NODE.parse().unwrap(),
            region: REGION.parse().unwrap(),
            certificate_pem: certificate.pem(),
            ca_pem: self.ca_pem.clone(),
            signing_key: STANDARD.encode(self.signing.public_key().as_ref()),
            expires_unix_s: 0,
            planes: vec![],
            registry_root: self.registry_root.lock().unwrap().clone(),
        }
    }

    /// Puts a file on the shelf and returns its manifest.
    pub fn stock(&self, stage: Stage, file: &[u8]) -> Manifest {
        let digest = Digest::of(file);
        self.shelf.lock().unwrap().files.insert(digest, file.to_vec());
        Manifest {
            golden_cases: GOLDEN_CASES,
            ..Manifest::of_file(format!("{stage}-model"), stage, ARCHITECTURE, file)
        }
    }

    pub fn sign(&self, manifest: &Manifest) -> SignedManifest {
        SignedManifest::sign(manifest, &self.signing).unwrap()
    }

    /// Puts a program on the shelf and returns the release of this version that has it for this machine.
    pub fn release(&self, version: &str, file: &[u8]) -> Release {
        let (version, target) = (version.parse().unwrap(), own_target().unwrap());
        let manifest = ProgramManifest::of_file(version, target.clone(), file);
        self.shelf.lock().unwrap().files.insert(manifest.digest, file.to_vec());
        let signed = manifest.sign(&self.signing).unwrap();
        Release { version: manifest.version, programs: [(target, signed)].into() }
    }

    pub fn fault(&self, digest: Digest, fault: Fault) {
        self.shelf.lock().unwrap().faults.entry(digest).or_default().push(fault);
    }

    /// What went out for an artefact.
    pub fn served(&self, digest: Digest) -> Vec<Served> {
        self.shelf.lock().unwrap().served.get(&digest).cloned().unwrap_or_default()
    }

    /// Wants this state from now on; pushed at once and after every welcome.
    pub fn want(&self, state: DesiredState) {
        self.wanted.send_replace(Some(Arc::new(state)));
    }

    /// Asks something of the node beside its state.
    pub fn ask(&self, duty: Duty) {
        self.duty.send_replace(duty);
    }

    /// Tells the registry's metadata from now on, before any state.
    pub fn tell_registry(&self, registry: Registry) {
        self.registry.send_replace(Some(registry));
    }

    /// Has enrolments bring this root metadata.
    pub fn give_root(&self, root: &str) {
        *self.registry_root.lock().unwrap() = Some(root.to_owned());
    }

    /// Sets the plane's clock, which is told with each welcome.
    pub fn set_ahead_s(&self, seconds: i64) {
        self.ahead_s.store(seconds, Ordering::SeqCst);
    }

    /// The plane's time, seconds since 1970.
    pub fn now(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs() as i64 + self.ahead_s.load(Ordering::SeqCst)
    }

    /// Everything that nodes said so far.
    pub fn log(&self) -> Vec<AgentToPlane> {
        self.log.lock().unwrap().clone()
    }

    /// Every byte that nodes sent so far.
    pub fn bytes_in(&self) -> Vec<u8> {
        self.bytes_in.lock().unwrap().clone()
    }

    async fn accept(self: Arc<Self>, endpoint: quinn::Endpoint) {
        while let Some(incoming) = endpoint.accept().await {
            let plane = Arc::clone(&self);
            tokio::spawn(async move {
                let Ok(connection) = incoming.await else { return };
                let data = connection.handshake_data().unwrap();
                let data = data.downcast::<quinn::crypto::rustls::HandshakeData>().unwrap();
                match data.protocol.as_deref() {
                    Some(ALPN) => plane.control(connection).await,
                    Some(ENROL_ALPN) => plane.enrol(connection).await,
                    _ => {}
                }
            });
        }
    }

    async fn control(self: Arc<Self>, connection: quinn::Connection) {
        assert!(connection.peer_identity().is_some(), "the link is mutual");
        let Ok((mut send, mut recv)) = connection.accept_bi().await else { return };
        let mut hello = [0; HELLO_BYTES];
        if recv.read_exact(&mut hello).await.is_err() {
            return;
        }
        assert_eq!(Hello::from_bytes(&hello), Ok(Hello::OURS));
        let _ = send.write_all(&Hello::OURS.to_bytes()).await;
        let artefacts = {
            let (plane, connection) = (Arc::clone(&self), connection.clone());
            tokio::spawn(async move {
                while let Ok((send, recv)) = connection.accept_bi().await {
                    tokio::spawn(Arc::clone(&plane).artefact(connection.clone(), send, recv));
                }
            })
        };
        let mut decoder = FrameDecoder::new(Limit::FROM_AGENT);
        let mut wanted = self.wanted.subscribe();
        let mut duty = self.duty.subscribe();
        let mut registry = self.registry.subscribe();
        registry.mark_changed();
        let mut welcomed = false;
        let mut nonce = 0;
        loop {
            let message = tokio::select! {
                chunk = recv.read_chunk(usize::MAX, true) => match chunk {
                    Ok(Some(chunk)) => {
                        self.bytes_in.lock().unwrap().extend_from_slice(&chunk.bytes);
                        decoder.receive(&chunk.bytes);
                        None
                    }
                    _ => break,
                },
                _ = wanted.changed(), if welcomed => wanted.borrow_and_update().clone(),
                _ = registry.changed(), if welcomed => {
                    registry.mark_changed();
                    None
                }
                _ = duty.changed(), if welcomed => {
                    let told = PlaneToAgent::Duty(*duty.borrow_and_update());
                    let _ = send.write_all(&told.encode().unwrap()).await;
                    None
                }
            };
            if welcomed && registry.has_changed().unwrap() {
                let told = registry.borrow_and_update().clone();
                tell(&mut send, told).await;
            }
            if let Some(state) = message {
                nonce += 1;
                let push = PlaneToAgent::Desired(Desired { nonce: Nonce(nonce), state }.into());
                let _ = send.write_all(&push.encode().unwrap()).await;
            }
            while let Some(frame) = decoder.next_frame().unwrap() {
                let message = AgentToPlane::decode(&frame).unwrap();
                if let AgentToPlane::HereIAm(here) = &message {
                    let welcome = PlaneToAgent::Welcome(Welcome {
                        plane_version: "0.1.0".parse().unwrap(),
                        heartbeat_ms: 100,
                        unix_s: self.now(),
                        generation: here.serving,
                    });
                    let _ = send.write_all(&welcome.encode().unwrap()).await;
                    let told = registry.borrow_and_update().clone();
                    tell(&mut send, told).await;
                    welcomed = true;
                    // As the real plane: a node that serves the newest state is left alone.
                    let newest = wanted.borrow().as_ref().map(|state| state.generation);
                    match newest {
                        Some(generation) if generation != here.serving => wanted.mark_changed(),
                        _ => wanted.mark_unchanged(),
                    }
                }
                if let AgentToPlane::Status(_) = &message {
                    let _ = send.write_all(&PlaneToAgent::StillHere.encode().unwrap()).await;
                }
                if let AgentToPlane::Report(report) = &message {
                    let taken = PlaneToAgent::ReportTaken(ReportTaken { id: report.id });
                    let _ = send.write_all(&taken.encode().unwrap()).await;
                }
                self.log.lock().unwrap().push(message.clone());
                let _ = self.heard.send(message);
            }
        }
        artefacts.abort();
    }

    async fn artefact(
        self: Arc<Self>,
        connection: quinn::Connection,
        mut send: quinn::SendStream,
        mut recv: quinn::RecvStream,
    ) {
        let Some(frame) = read_frame(&mut recv).await else { return };
        let Ok(Some(ArtefactRequest { digest, offset })) = ArtefactRequest::decode(&frame) else { return };
        let (file, fault) = {
            let mut shelf = self.shelf.lock().unwrap();
            let fault = shelf.faults.get_mut(&digest).and_then(|faults| faults.first().copied());
            if let Some(faults) = shelf.faults.get_mut(&digest) {
                match faults.first_mut() {
                    Some(Fault::WrongByte { times, .. }) if *times > 1 => *times -= 1,
                    Some(Fault::NotHere) | None => {}
                    Some(_) => drop(faults.remove(0)),
                }
            }
            shelf.served.entry(digest).or_default().push(Served { offset, bytes: 0 });
            (shelf.files.get(&digest).cloned(), fault)
        };
        let file = match (file, fault) {
            (Some(file), fault) if fault != Some(Fault::NotHere) => file,
            _ => {
                let _ = send.write_all(&ArtefactReply::NotHere.encode().unwrap()).await;
                let _ = send.finish();
                let _ = send.stopped().await;
                return;
            }
        };
        let mut rest = file[offset as usize..].to_vec();
        let here = ArtefactReply::Here { bytes: rest.len() as u64 };
        if send.write_all(&here.encode().unwrap()).await.is_err() {
            return;
        }
        let until = |at: u64| at.saturating_sub(offset) as usize;
        if let Some(Fault::WrongByte { at, .. }) = fault
            && at >= offset
        {
            rest[until(at)] ^= 1;
        }
        let stop_at = match fault {
            Some(Fault::CutConnectionAt(at) | Fault::ResetStreamAt(at) | Fault::StallAt(at)) => until(at),
            _ => rest.len(),
        };
        let sent = send.write_all(&rest[..stop_at.min(rest.len())]).await;
        if let Some(last) = self.shelf.lock().unwrap().served.get_mut(&digest).and_then(|served| served.last_mut()) {
            last.bytes = stop_at as u64;
        }
        if sent.is_err() {
            return;
        }
        match fault {
            Some(Fault::StallAt(_)) => {
                let _ = send.stopped().await;
            }
            Some(Fault::CutConnectionAt(_)) => {
                // Whatever was written must have arrived, or the test could not say which byte comes next.
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                connection.close(9_u32.into(), b"cut");
            }
            Some(Fault::ResetStreamAt(_)) => {
                tokio::time::sleep(std::time::Duration::from_millis(300)).await;
                let _ = send.reset(9_u32.into());
            }
            _ => {
                let _ = send.finish();
                let _ = send.stopped().await;
            }
        }
    }

    async fn enrol(self: Arc<Self>, connection: quinn::Connection) {
        let Ok((mut send, mut recv)) = connection.accept_bi().await else { return };
        let Some(frame) = read_frame(&mut recv).await else { return };
        let request: EnrolRequest = EnrolRequest::decode(&frame).unwrap().unwrap();
        let refused = |code, reason: &str| EnrolReply::Refused(EnrolRefused { code, reason: reason.into() });
        let reply = {
            let mut used = self.token_used.lock().unwrap();
            if request.secret != self.token().secret_text().as_str() {
                refused(EnrolRefusal::WrongToken, "no such token")
            } else if *used {
                refused(EnrolRefusal::UsedToken, "the token was used before; make a new one")
            } else {
                *used = true;
                EnrolReply::Enrolled(self.enrolled(&request.csr_pem))
            }
        };
        let _ = send.write_all(&reply.encode().unwrap()).await;
        let _ = send.finish();
        connection.closed().await;
    }
}

async fn tell(send: &mut quinn::SendStream, registry: Option<Registry>) {
    if let Some(registry) = registry {
        let _ = send.write_all(&PlaneToAgent::Registry(registry.into()).encode().unwrap()).await;
    }
}

fn listen(issuer: &Issuer<'static, KeyPair>, ca_der: &[u8], address: SocketAddr) -> quinn::Endpoint {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([PLANE_SERVER_NAME.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, issuer).unwrap();
    let chain = vec![certificate.der().clone(), ca_der.to_vec().into()];
    let mut roots = RootCertStore::empty();
    roots.add(ca_der.to_vec().into()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .unwrap();
    let mut tls = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())))
        .unwrap();
    tls.alpn_protocols = vec![ALPN.to_vec(), ENROL_ALPN.to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    quinn::Endpoint::server(quinn::ServerConfig::with_crypto(Arc::new(crypto)), address).unwrap()
}

async fn read_frame(recv: &mut quinn::RecvStream) -> Option<Frame> {
    let mut header = [0; HEADER_BYTES];
    recv.read_exact(&mut header).await.ok()?;
    let (json_bytes, kind) = Frame::parse_header(header, Limit::ENROL).ok()?;
    let mut body = vec![0; json_bytes];
    recv.read_exact(&mut body).await.ok()?;
    Some(Frame { kind, body })
}
