//! HTTP to etcd: endpoints in turn, bounded times and sizes, and errors that name the remedy.

use super::{
    settings::{EtcdSettings, TlsParts},
    wire::{
        Compare, GrantAnswer, KeepAliveAnswer, KeyValue, LoginAnswer, Range, RangeAnswer, Refusal, Step, TxnAnswer, txn,
    },
};
use crate::store::StoreError;
use reqwest::{StatusCode, header};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use zeroize::Zeroizing;

/// Largest answer that is read: twenty of our largest values in base64.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// Values asked for at once; fewer where they are large.
const PAGE_MAX: usize = 512;

/// Keys without values asked for at once.
const KEYS_PAGE_MAX: usize = 10_000;

/// How often a read begins anew because what it has read so far was compacted away.
const COMPACTED_MAX: usize = 5;

/// Longest time for a connection to one endpoint.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest text of a refusal that is shown, in characters.
const WORDS_MAX: usize = 200;

const RANGE: &str = "/v3/kv/range";
const TXN: &str = "/v3/kv/txn";

/// Longest time for a page of values: the largest over a line of some 20 Mbit/s.
const PAGE_TIMEOUT: Duration = Duration::from_secs(20);

/// Codes of gRPC.
mod code {
    pub const RESOURCE_EXHAUSTED: i64 = 8;
    pub const OUT_OF_RANGE: i64 = 11;
    pub const UNAVAILABLE: i64 = 14;
    pub const UNAUTHENTICATED: i64 = 16;
}

/// Why etcd did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EtcdError {
    /// No endpoint answers, or etcd has no leader of its own; a later attempt may succeed. It may have been done.
    #[error(
        "etcd does not answer ({0}); check that most of its members run and that `store` in config.toml names their client addresses"
    )]
    Unreachable(String),
    /// Settings cannot be used.
    #[error("etcd cannot be spoken to: {0}; see [etcd] in config.toml")]
    Settings(String),
    /// etcd says no.
    #[error("etcd refuses: {message}; {remedy}")]
    Refused {
        /// gRPC's code.
        code: i64,
        /// What it says.
        message: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The answer is larger than any that is asked for.
    #[error("etcd's answer has more than {ANSWER_BYTES_MAX} bytes")]
    TooLarge,
    /// The answer is not understood.
    #[error(
        "etcd's answer is not understood ({0}); is it etcd 3.4 or later, with its JSON gateway (`--enable-grpc-gateway`)?"
    )]
    Answer(String),
}

impl EtcdError {
    /// Whether the same may succeed a moment later.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unreachable(_))
    }

    fn refused(status: StatusCode, refusal: Refusal) -> Self {
        let Refusal { message, code } = refusal;
        if code == code::UNAVAILABLE || message.contains("too many requests") || (code == 0 && status.is_server_error())
        {
            return Self::Unreachable(if message.is_empty() { format!("HTTP {status}") } else { message });
        }
        let remedy = if message.contains("CommonName") {
            "where etcd has users, its gateway takes no client certificate with a CommonName: give this control plane one without"
        } else if message.contains("database space exceeded") {
            "compact and defragment it (`etcdctl compact`, `defrag`, `alarm disarm`), and start it with --auto-compaction-retention=1h"
        } else if message.contains("request is too large") || message.contains("too many operations") {
            "start it with its defaults for --max-request-bytes and --max-txn-ops, or larger ones"
        } else if code == code::UNAUTHENTICATED
            || ["permission denied", "user name", "authentication failed"].iter().any(|words| message.contains(words))
        {
            "check `user` and `password_file` in [etcd] of config.toml, and that this user may read and write the prefix"
        } else {
            "see its log"
        };
        Self::Refused { code, message, remedy }
    }

    /// Whether the token is no longer good: it has ended, its member has, or users have changed since.
    fn wants_login(&self) -> bool {
        let old = matches!(self, Self::Refused { message, .. } if message.contains("auth store is old"));
        old || self.is(code::UNAUTHENTICATED)
    }

    fn is(&self, wanted: i64) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == wanted)
    }
}

impl From<EtcdError> for StoreError {
    fn from(error: EtcdError) -> Self {
        Self::Etcd(error.to_string())
    }
}

/// A client of one etcd cluster. It belongs to the runtime on which it was first used.
pub struct Client {
    http: reqwest::Client,
    endpoints: Vec<String>,
    /// The endpoint that answered last.
    good: AtomicUsize,
    login: Option<(String, Zeroizing<String>)>,
    token: Mutex<Option<String>>,
    /// Longest time for an answer that is small.
    timeout: Duration,
}

impl Client {
    /// Reads what the settings name; connects to nothing yet.
    pub fn new(settings: &EtcdSettings) -> Result<Self, EtcdError> {
        let unusable = |e: reqwest::Error| EtcdError::Settings(words(&e));
        let timeout = settings.timeout();
        let mut http = reqwest::Client::builder()
            // What is stored is nothing for a proxy.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT.min(timeout));
        if let Some(TlsParts { ca, identity }) = settings.tls()? {
            let roots = reqwest::Certificate::from_pem_bundle(&ca).map_err(unusable)?;
            if roots.is_empty() {
                return Err(EtcdError::Settings("the file `ca` has no certificate (PEM)".into()));
            }
            http = http.https_only(true).tls_certs_only(roots);
            if let Some(identity) = identity {
                http = http.identity(reqwest::Identity::from_pem(&identity).map_err(unusable)?);
            }
        }
        Ok(Self {
            http: http.build().map_err(unusable)?,
            endpoints: settings.endpoints.clone(),
            good: AtomicUsize::new(0),
            login: settings.login()?,
            token: Mutex::default(),
            timeout,
        })
    }

    /// Asks one endpoint after the other, the one that answered last first.
    pub(super) async fn ask<A: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<A, EtcdError> {
        let body = body.to_string();
        let first = self.good.load(Ordering::Relaxed);
        let mut last = EtcdError::Unreachable("there is no endpoint".into());
        for n in (first..first + self.endpoints.len()).map(|n| n % self.endpoints.len()) {
            match self.ask_at(&self.endpoints[n], path, &body).await {
                Err(error) if error.may_pass() => last = error,
                answer => {
                    self.good.store(n, Ordering::Relaxed);
                    return answer;
                }
            }
        }
        Err(last)
    }

    async fn ask_at<A: DeserializeOwned>(&self, endpoint: &str, path: &str, body: &str) -> Result<A, EtcdError> {
        if self.login.is_none() {
            return self.post(endpoint, path, body.to_owned(), None).await;
        }
        let known = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = known {
            match self.post(endpoint, path, body.to_owned(), Some(&token)).await {
                Err(error) if error.wants_login() => {}
                answer => return answer,
            }
        }
        let token = self.log_in(endpoint).await?;
        let answer = self.post(endpoint, path, body.to_owned(), Some(&token)).await;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token);
        answer
    }

    async fn log_in(&self, endpoint: &str) -> Result<String, EtcdError> {
        let Some((user, password)) = &self.login else { return Ok(String::new()) };
        let body = json!({"name": user, "password": password.as_str()}).to_string();
        Ok(self.post::<LoginAnswer>(endpoint, "/v3/auth/authenticate", body, None).await?.token)
    }

    async fn post<A: DeserializeOwned>(
        &self,
        endpoint: &str,
        path: &str,
        body: String,
        token: Option<&str>,
    ) -> Result<A, EtcdError> {
        let lost = |e: reqwest::Error| EtcdError::Unreachable(format!("{endpoint}: {}", words(&e)));
        let mut request = self.http.post(format!("{endpoint}{path}")).header(header::CONTENT_TYPE, "application/json");
        request = request.timeout(if path == RANGE { self.timeout.max(PAGE_TIMEOUT) } else { self.timeout });
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, token);
        }
        let mut response = request.body(body).send().await.map_err(lost)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(EtcdError::TooLarge);
            }
            bytes.extend_from_slice(&chunk);
        }
        if !status.is_success() {
            // What is refused before the gateway is text.
            let text = || String::from_utf8_lossy(&bytes).trim().chars().take(WORDS_MAX).collect::<String>();
            let refusal = serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Refusal { message: format!("HTTP {status} {}", text()), code: 0 });
            return Err(EtcdError::refused(status, refusal));
        }
        serde_json::from_slice(&bytes).map_err(|e| EtcdError::Answer(format!("{path}: {e}")))
    }

    /// One key, as it is now.
    pub(super) async fn get(&self, key: &str) -> Result<Option<KeyValue>, EtcdError> {
        let answer = self.txn(&[], &[Step::Get(key.into())], &[]).await?;
        Ok(answer.responses.into_iter().next().and_then(|step| step.response_range.kvs.into_iter().next()))
    }

    /// All keys of a range in order, and the one revision as of which they are.
    pub(super) async fn range(
        &self,
        from: &str,
        end: &str,
        keys_only: bool,
    ) -> Result<(Vec<KeyValue>, i64), EtcdError> {
        for _ in 0..COMPACTED_MAX {
            match self.range_once(from, end, keys_only).await {
                Err(error) if error.is(code::OUT_OF_RANGE) => {}
                answer => return answer,
            }
        }
        Err(EtcdError::Unreachable("it compacts faster than it can be read".into()))
    }

    async fn range_once(&self, from: &str, end: &str, keys_only: bool) -> Result<(Vec<KeyValue>, i64), EtcdError> {
        let mut limit = if keys_only { KEYS_PAGE_MAX } else { PAGE_MAX };
        let (mut found, mut range) =
            (Vec::new(), Range { from: from.into(), end: end.into(), limit, revision: 0, keys_only });
        loop {
            range.limit = limit;
            match self.ask::<RangeAnswer>(RANGE, &range.json()).await {
                Ok(answer) => {
                    if range.revision == 0 {
                        range.revision = answer.header.revision.0;
                    }
                    found.extend(answer.kvs);
                    let last = found.last().filter(|_| answer.more);
                    let Some(last) = last else { return Ok((found, range.revision)) };
                    let last = String::from_utf8(last.key.0.clone())
                        .map_err(|_| EtcdError::Answer("a key below our prefix is not text".into()))?;
                    range.from = format!("{last}\0");
                }
                // Large values: fewer of them at once.
                Err(error)
                    if limit > 1 && (matches!(error, EtcdError::TooLarge) || error.is(code::RESOURCE_EXHAUSTED)) =>
                {
                    limit = (limit / 8).max(1);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A transaction.
    pub(super) async fn txn(
        &self,
        compares: &[Compare],
        then: &[Step],
        otherwise: &[Step],
    ) -> Result<TxnAnswer, EtcdError> {
        self.ask(TXN, &txn(compares, then, otherwise)).await
    }

    /// A lease of so many seconds; its number, and for how long it really is.
    pub(super) async fn grant(&self, ttl: Duration) -> Result<(i64, Duration), EtcdError> {
        let answer: GrantAnswer =
            self.ask("/v3/lease/grant", &json!({"TTL": ttl.as_secs().max(1).to_string()})).await?;
        Ok((answer.id.0, Duration::from_secs(answer.ttl.0.unsigned_abs())))
    }

    /// Renews a lease; for how long, or `None` where it is gone.
    pub(super) async fn keep_alive(&self, lease: i64) -> Result<Option<Duration>, EtcdError> {
        let answer: KeepAliveAnswer = self.ask("/v3/lease/keepalive", &json!({"ID": lease.to_string()})).await?;
        Ok((answer.result.ttl.0 > 0).then(|| Duration::from_secs(answer.result.ttl.0.unsigned_abs())))
    }

    /// Gives a lease back, and removes what it held.
    pub(super) async fn revoke(&self, lease: i64) -> Result<(), EtcdError> {
        self.ask::<Value>("/v3/lease/revoke", &json!({"ID": lease.to_string()})).await.map(drop)
    }
}

/// An error with what caused it, which `Display` of reqwest leaves out.
fn words(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        words = next.to_string();
        cause = next.source();
    }
    words
}
