//! The caller side: one router, listeners that are loopback only unless they are secured, and the door's law.
//!
//! | path | who | what |
//! |---|---|---|
//! | `GET /v1/healthz` | anyone | whether calls are taken |
//! | `GET /metrics` | this machine | operational figures |
//! | `GET /v1/route` | callers with the key, where one is required | the permitted nodes for a caller, nearest first |
//! | `GET /talk` | anyone | the page to speak with this node; what it asks for wants the key |
//! | `/v1/telephony/…` | the telephone provider | calls by telephone; see `media::telephony` |
//! | everything else of `media::router` | the same, if the law lets this node serve them | calls, and the endpoints of `rest` |
//!
//! A listener beyond loopback needs a certificate and a `caller.key`; without them the agent does not start.

use crate::{
    config::{Config, TlsFiles},
    cors,
    first_byte::FirstByteWithin,
    media::{client_secret::ClientSecrets, opens_calls, presented_key, telephony},
    node::Serving,
    refusal::Refusal,
    secrets::{self, SecretError},
    state_dir::StateDir,
    status::StatusSource,
    talk,
};
use axum::{
    Json, Router,
    extract::{ConnectInfo, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use axum_server::tls_rustls::RustlsConfig;
use hyper_util::{
    rt::{TokioExecutor, TokioTimer},
    server::conn::auto::Builder,
};
use nearfield_shared::{
    caller_key::{CallerKey, ShortKey},
    exposition::Exposition,
    routing::{self, Caller, NoRoute, RouteQuery},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use serde::Deserialize;
use serde_json::json;
use std::{
    net::{IpAddr, SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Duration,
};

/// How long a connection may take to say what it wants, at its beginning and between two requests. TLS has ten seconds before that.
pub const HEAD_WITHIN: Duration = Duration::from_secs(15);

/// Why the agent does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// A listener beyond loopback without what secures it.
    #[error(
        "refusing to listen on {address}, which is reachable from other machines: {missing}. Or listen on 127.0.0.1 behind a proxy that does this"
    )]
    Unsecured {
        /// The address.
        address: SocketAddr,
        /// What is missing, with the remedy.
        missing: String,
    },
    /// The address is taken, or is not ours.
    #[error("cannot listen on {address}: {source}; choose another with --listen, or stop what uses it")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The UDP address is taken, or is not ours.
    #[error(
        "cannot take WebRTC calls on {address} (UDP): {source}; choose another `listen` under [webrtc], or stop what uses it"
    )]
    BindUdp {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The certificate or key is of no use.
    #[error("{file}: {reason}")]
    Certificate {
        /// The PEM file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The key file is open to others, or empty.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// The caller key is too short.
    #[error("{file}: {source}")]
    ShortKey {
        /// The key file.
        file: String,
        /// What is wrong.
        source: ShortKey,
    },
}

/// Reads `caller.key`, if it is there.
fn read_key(path: &Path) -> Result<Option<CallerKey>, ListenError> {
    match secrets::read(path) {
        Ok(bytes) => CallerKey::new(&bytes)
            .map(Some)
            .map_err(|source| ListenError::ShortKey { file: path.display().to_string(), source }),
        Err(e) if e.is_missing() => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// A bound listener.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    tls: Option<Arc<rustls::ServerConfig>>,
    key: Option<Arc<CallerKey>>,
}

impl Listener {
    /// Its base URL.
    pub fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// Whether callers on other machines can use this URL as it stands.
    pub fn is_wildcard(&self) -> bool {
        self.address.ip().is_unspecified()
    }
}

/// Checks that every listener is secured as it must be, then binds them all. Nothing is bound if one is not.
pub fn bind(dir: &StateDir, config: &Config) -> Result<Vec<Listener>, ListenError> {
    let beyond = |address: &&SocketAddr| !address.ip().is_loopback();
    let (mut tls, mut key) = (None, None);
    // WebRTC is encrypted by itself, but who may call is decided over HTTP: one rule for both.
    if let Some(&address) = config.listen.iter().chain([&config.webrtc.listen]).find(beyond) {
        let unsecured = |missing: String| ListenError::Unsecured { address, missing };
        let files = config.tls.as_ref().ok_or_else(|| {
            unsecured("agent.toml has no [tls] with the certificate and key of this node's public name".into())
        })?;
        tls = Some(server_tls(files)?);
        let path = dir.caller_key();
        key = read_key(&path)?.map(Arc::new);
        if key.is_none() {
            return Err(unsecured(CallerKey::missing(&path)));
        }
    }
    config
        .listen
        .iter()
        .map(|&wanted| {
            let bound = |source| ListenError::Bind { address: wanted, source };
            let socket = TcpListener::bind(wanted).map_err(bound)?;
            socket.set_nonblocking(true).map_err(bound)?;
            let address = socket.local_addr().map_err(bound)?;
            let open = wanted.ip().is_loopback();
            Ok(Listener {
                socket,
                address,
                tls: if open { None } else { tls.clone() },
                key: if open { None } else { key.clone() },
            })
        })
        .collect()
}

fn server_tls(files: &TlsFiles) -> Result<Arc<rustls::ServerConfig>, ListenError> {
    let certificate =
        |reason: String| ListenError::Certificate { file: files.certificate.display().to_string(), reason };
    let key_file = |reason: String| ListenError::Certificate { file: files.key.display().to_string(), reason };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(|iter| iter.collect())
        .map_err(|e| certificate(e.to_string()))?;
    let key = PrivateKeyDer::from_pem_slice(&secrets::read(&files.key)?).map_err(|e| key_file(e.to_string()))?;
    let provider = nearfield_shared::tls::provider();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| certificate(e.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| certificate(e.to_string()))?;
    // WebSocket upgrades need HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves a router on a listener until the handle shuts it down.
pub async fn serve(listener: Listener, handle: axum_server::Handle<SocketAddr>, router: Router) -> std::io::Result<()> {
    let app = router.into_make_service_with_connect_info::<SocketAddr>();
    match listener.tls {
        Some(tls) => {
            let server = axum_server::from_tcp_rustls(listener.socket, RustlsConfig::from_config(tls))?;
            let mut server = server.map(|inner| FirstByteWithin { inner, within: HEAD_WITHIN });
            bound_heads(server.http_builder());
            server.handle(handle).serve(app).await
        }
        None => {
            let server = axum_server::from_tcp(listener.socket)?;
            let mut server = server.map(|inner| FirstByteWithin { inner, within: HEAD_WITHIN });
            bound_heads(server.http_builder());
            server.handle(handle).serve(app).await
        }
    }
}

/// Lets go of connections on which only a part of a request comes, or no further one.
fn bound_heads(builder: &mut Builder<TokioExecutor>) {
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
}

/// The router of a listener: our own paths, and `calls` behind the law; what is for callers behind the key.
pub fn router(status: StatusSource, calls: Router, secrets: ClientSecrets, listener: &Listener) -> Router {
    let calls = calls.layer(middleware::from_fn_with_state(status.clone(), lawful));
    let for_callers = Router::new()
        .route("/v1/route", get(route))
        .with_state(status.clone())
        .merge(calls)
        .layer(middleware::from_fn_with_state(Keys { key: listener.key.clone(), secrets }, keyed))
        .layer(middleware::from_fn_with_state(listener.key.is_some(), cors::pages));
    Router::new()
        .route("/v1/healthz", get(healthz))
        .route("/metrics", get(metrics))
        .with_state(status)
        .merge(talk::router())
        .merge(for_callers)
}

/// The same statuses and codes as the control plane's.
fn refused(refusal: &NoRoute) -> Response {
    let status = StatusCode::from_u16(refusal.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let retry_after_s = refusal.retry_after_s();
    Refusal { retry_after_s, ..Refusal::new(status, refusal.code(), refusal.to_string()) }.into_response()
}

/// What opens a listener.
#[derive(Clone)]
struct Keys {
    key: Option<Arc<CallerKey>>,
    secrets: ClientSecrets,
}

/// Lets in whoever has the key, where the listener has one. A client secret opens calls, and nothing else.
async fn keyed(State(keys): State<Keys>, request: Request, next: Next) -> Response {
    let opens = |secret: &str| opens_calls(request.uri().path()) && keys.secrets.find(secret).is_some();
    let admitted = is_telephony(&request)
        || keys.key.as_ref().is_none_or(|key| presents(request.headers(), key))
        || presented_key(request.headers()).is_some_and(opens);
    if admitted {
        return next.run(request).await;
    }
    let message = "this node wants its caller key as `Authorization: Bearer KEY`; ask the node's operator for it";
    Refusal::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message).into_response()
}

/// Calls by telephone come from a provider: its signature is the key, and not its address but what it states is where the caller is.
/// `media::telephony` checks both.
fn is_telephony(request: &Request) -> bool {
    request.uri().path().starts_with(telephony::PATHS)
}

fn presents(headers: &HeaderMap, key: &CallerKey) -> bool {
    let text = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    key.admits(text(header::AUTHORIZATION).next(), text(header::SEC_WEBSOCKET_PROTOCOL))
}

/// Lets in whom this node may serve.
async fn lawful(
    State(status): State<StatusSource>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
    next: Next,
) -> Response {
    if is_telephony(&request) {
        return next.run(request).await;
    }
    let serving = status.serving.borrow().clone();
    let placed = Query::<StatedPlace>::try_from_uri(request.uri())
        .map_err(|e| NoRoute::BadQuery { reason: e.body_text() })
        .and_then(|Query(stated)| permit_caller(&serving, stated, peer.ip()));
    match placed {
        Ok(()) => next.run(request).await,
        Err(refusal) => refused(&refusal),
    }
}

/// What the query of a call may say about where the caller is; the rest of the query belongs to the call.
#[derive(Debug, Default, Deserialize)]
struct StatedPlace {
    country: Option<String>,
    latitude: Option<f64>,
    longitude: Option<f64>,
}

/// Whether this node may serve a caller from this address, as strictly as `/v1/route` would. Addresses of private networks say
/// nothing about a country; a caller there who states nothing either is let in, since the operator of the network is taken to have
/// routed by law already.
fn permit_caller(serving: &Serving, stated: StatedPlace, peer: IpAddr) -> Result<(), NoRoute> {
    let StatedPlace { country, latitude, longitude } = stated;
    let caller = RouteQuery { country, latitude, longitude, address: None }.caller(Some(peer), country_of)?;
    if caller.is_unknown() && is_private(peer) {
        return Ok(());
    }
    permit(serving, &caller)
}

/// Whether this node may serve a caller of whom this is known.
pub(crate) fn permit(serving: &Serving, caller: &Caller) -> Result<(), NoRoute> {
    let jurisdiction = serving.jurisdiction.as_ref().ok_or(NoRoute::NotReady)?;
    routing::permit(&serving.routes, caller, jurisdiction, serving.policy.as_ref())
        .map_err(|denial| NoRoute::NotHere { reason: denial.reason })
}

fn is_private(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local(),
    }
}

fn country_of(address: IpAddr) -> Option<String> {
    iptocc::country_code(address.to_canonical()).map(str::to_owned)
}

async fn healthz(State(status): State<StatusSource>) -> Response {
    let serving = status.serving.borrow().clone();
    let (code, word) = match (status.calls.is_draining() || status.calls.is_held(), status.accepting()) {
        (true, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        (false, true) => (StatusCode::OK, "ok"),
        (false, false) => (StatusCode::SERVICE_UNAVAILABLE, "starting"),
    };
    let body = json!({
        "status": word,
        "node": &*status.node,
        "region": &*status.region,
        "generation": serving.generation,
        "missing": serving.missing(),
        "calls": status.calls.inside(),
        "calls_max": status.calls.calls_max(),
    });
    (code, Json(body)).into_response()
}

async fn route(
    State(status): State<StatusSource>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    query: Result<Query<RouteQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let answer = query
        .map_err(|e| NoRoute::BadQuery { reason: e.body_text() })
        .and_then(|Query(query)| query.caller(Some(peer.ip()), country_of))
        .and_then(|caller| routing::nearest(&status.routes(), &caller));
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => refused(&refusal),
    }
}

async fn metrics(State(status): State<StatusSource>, ConnectInfo(peer): ConnectInfo<SocketAddr>) -> Response {
    if !peer.ip().to_canonical().is_loopback() {
        let message = "metrics are shown to programs on this machine only";
        return Refusal::new(StatusCode::FORBIDDEN, "loopback_only", message).into_response();
    }
    ([(header::CONTENT_TYPE, Exposition::CONTENT_TYPE)], status.report().exposition()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use nearfield_shared::{
        desired::Route,
        policy::Policy,
        region::{Jurisdiction, Location},
    };

    fn serving(law: &str, countries: &[&str]) -> Serving {
        let policy = Policy {
            serves_countries: countries.iter().map(|c| (*c).to_owned()).collect(),
            store_transcripts: false,
            retention_days: 0,
            metrics_group_min: 5,
            notices: vec![],
        };
        let route = Route {
            region: "here".parse().expect("region"),
            jurisdiction: Jurisdiction(law.into()),
            location: Location { latitude: 0.0, longitude: 0.0 },
            policy: policy.clone(),
            nodes: vec![],
        };
        Serving {
            jurisdiction: Some(Jurisdiction(law.into())),
            policy: Some(policy),
            routes: vec![route],
            ..Serving::default()
        }
    }

    #[test]
    fn the_door_asks_the_law_too() {
        let (german, loopback) = ("193.99.144.80".parse().expect("address"), "127.0.0.1".parse().expect("address"));
        assert_eq!(country_of(german).as_deref(), Some("DE"));
        let (us, eu) = (serving("us", &["*"]), serving("eu", &["DE"]));
        let nothing = StatedPlace::default;
        let country = |code: &str| StatedPlace { country: Some(code.into()), ..nothing() };
        let at =
            |latitude, longitude| StatedPlace { latitude: Some(latitude), longitude: Some(longitude), ..nothing() };
        assert!(permit_caller(&us, nothing(), german).expect_err("refused").to_string().contains("/v1/route"));
        permit_caller(&eu, nothing(), german).expect("at home");
        permit_caller(&us, nothing(), loopback).expect("a private address says nothing");
        permit_caller(&us, country("FR"), loopback).expect_err("stated, and at home in the EU");
        let unready = permit_caller(&Serving::default(), country("FR"), loopback).expect_err("no policy means deny");
        assert_eq!(unready, NoRoute::NotReady);
        permit_caller(&eu, nothing(), "198.51.100.1".parse().expect("address")).expect_err("unknown is not listed");
        // The strictest of address, statement and position wins.
        permit_caller(&us, country("US"), german).expect_err("a stated country is no way out of the Union");
        permit_caller(&eu, country("US"), german).expect("served at home, whatever is stated");
        permit_caller(&us, at(50.9, 9.5), loopback).expect_err("a position in Germany, and no country");
        permit_caller(&us, at(50.9, 9.5), "8.8.8.8".parse().expect("address")).expect_err("nor an American address");
        permit_caller(&eu, at(50.9, 9.5), loopback).expect("only Germany lies there");
        permit_caller(&us, at(40.7, -74.0), loopback).expect("a position in New York keeps nobody");
        for bad in [country("Germany"), country("4X"), StatedPlace { latitude: Some(1.0), ..nothing() }, at(91.0, 0.0)]
        {
            let said = permit_caller(&us, bad, loopback).expect_err("not a place");
            assert_eq!(said.http_status(), 400, "{said}");
        }
    }

    #[test]
    fn beyond_loopback_each_missing_piece_is_named_and_nothing_is_bound() {
        let temporary = tempfile::tempdir().expect("dir");
        let dir = StateDir::open(&temporary.path().join("node")).expect("dir");
        let beyond = |tls| Config { listen: vec!["0.0.0.0:0".parse().expect("address")], tls, ..Config::default() };
        let said = |config: &Config| bind(&dir, config).err().expect("refused").to_string();
        assert!(said(&beyond(None)).contains("[tls]"));
        let made = rcgen::generate_simple_self_signed(["node.example".to_owned()]).expect("certificate");
        let files = TlsFiles { certificate: dir.root().join("tls.crt"), key: dir.root().join("tls.key") };
        std::fs::write(&files.certificate, made.cert.pem()).expect("write");
        secrets::write(&files.key, made.signing_key.serialize_pem().as_bytes()).expect("write");
        let config = beyond(Some(files));
        assert!(said(&config).contains("caller.key"), "{}", said(&config));
        secrets::write(&dir.caller_key(), b"short\n").expect("write");
        assert!(said(&config).contains("guessed"));
        secrets::write(&dir.caller_key(), b"abcdefghijklmnopqrstuvwx\n").expect("write");
        let bound = bind(&dir, &config).expect("secured");
        assert!(bound[0].url().starts_with("https://0.0.0.0:") && bound[0].key.is_some());
        let open = bind(&dir, &Config::default()).expect("loopback needs nothing");
        assert!(open[0].url().starts_with("http://127.0.0.1:") && open[0].key.is_none());
    }
}
