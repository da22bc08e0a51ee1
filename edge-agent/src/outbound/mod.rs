//! Requests to other hosts, for assistants: their tools and webhooks. Nothing else of a node asks anybody over HTTP.
//!
//! What a model wrote decides what is asked, so nothing here is trusted: the host must stand in the assistant's own list, exactly;
//! redirects are not followed, because they lead off it; and an address that is not public (loopback, the operator's network, a
//! cloud's metadata service) is refused unless the operator's own `private_hosts` names that host. Addresses are checked where the
//! connection is made, so that a name which changes its address between two look-ups changes nothing.

mod address;
pub mod tool;

use crate::secrets::{self, SecretError};
use address::is_public;
use nearfield_shared::assistant::http_tool::{HeaderPart, header_parts};
use reqwest::{
    Client, ClientBuilder, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

/// Requests of all calls at once. A node holds fewer calls than that.
const REQUESTS_MAX: usize = 64;

/// How long a host may take to take the connection; part of a request's own limit.
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What asks other hosts. Clones share connections and bounds.
#[derive(Clone)]
pub struct Outbound {
    public: Client,
    private: Client,
    private_hosts: Arc<[String]>,
    secrets: Arc<Path>,
    places: Arc<Semaphore>,
}

/// One request.
#[derive(Debug)]
pub struct Ask<'a> {
    /// The method.
    pub method: reqwest::Method,
    /// The whole URL.
    pub url: String,
    /// The host as it was checked: `NAME` or `NAME:PORT`.
    pub host: &'a str,
    /// Headers.
    pub headers: HeaderMap,
    /// The body, where there is one.
    pub body: Option<Vec<u8>>,
    /// How long all of it may take.
    pub timeout: Duration,
    /// Bytes that the answer may have.
    pub response_bytes_max: usize,
}

/// An answer, whole.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

/// Why a host was not asked, or gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The host is not in the assistant's list.
    #[error("the host is not in the assistant's `hosts`; add it there if it is meant")]
    NotAllowed,
    /// The address is not public.
    #[error("the host's address is not public; add the host to `private_hosts` of agent.toml if it is meant")]
    NotPublic,
    /// Too many requests at once.
    #[error("{REQUESTS_MAX} requests are under way already")]
    Busy,
    /// It took too long.
    #[error("no whole answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
    /// The answer is too long.
    #[error("the answer has more than {0} bytes")]
    TooLong(usize),
    /// The host sent us elsewhere.
    #[error("the host redirects, which is not followed; use the address that it redirects to")]
    Redirected,
    /// A secret could not be read.
    #[error("secret `{name}`: {source}")]
    Secret {
        /// Its name.
        name: String,
        /// Why.
        source: SecretError,
    },
    /// A header's value holds what headers cannot hold.
    #[error("the header `{0}` has a name or a value that cannot be sent")]
    Header(String),
    /// The client could not be made.
    #[error("what asks other hosts cannot be made: {0}")]
    Client(reqwest::Error),
    /// The network or the host failed.
    #[error("{0}")]
    Failed(String),
}

impl Outbound {
    /// A client that may ask these hosts although they are not public, and reads secrets from this folder.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(private_hosts: &[String], secrets: &Path) -> Result<Self, OutboundError> {
        let plain = || -> ClientBuilder {
            Client::builder()
                .redirect(redirect::Policy::none())
                // A proxy would look the name up itself, past our check.
                .no_proxy()
                .referer(false)
                .connect_timeout(CONNECT_MAX)
                .user_agent(concat!("nearfield/", env!("CARGO_PKG_VERSION")))
        };
        Ok(Self {
            public: plain().dns_resolver(Arc::new(PublicOnly)).build().map_err(OutboundError::Client)?,
            private: plain().build().map_err(OutboundError::Client)?,
            private_hosts: private_hosts.into(),
            secrets: secrets.into(),
            places: Arc::new(Semaphore::new(REQUESTS_MAX)),
        })
    }

    /// Asks a host that stands in this list.
    ///
    /// # Errors
    /// When it must not be asked, or does not answer as it should.
    pub async fn ask(&self, ask: Ask<'_>, hosts: &[String]) -> Result<Answer, OutboundError> {
        let Ask { method, url, host, headers, body, timeout, response_bytes_max } = ask;
        if !hosts.iter().any(|allowed| allowed == host) {
            return Err(OutboundError::NotAllowed);
        }
        let url: Url = url.parse().map_err(|_| OutboundError::Failed("the URL is none".into()))?;
        // What was checked as text must be what is connected to.
        let name = host_name(host);
        if url.host_str() != Some(name) || !url.username().is_empty() {
            return Err(OutboundError::NotAllowed);
        }
        let client = if self.private_hosts.iter().any(|private| private == host) {
            &self.private
        } else {
            // An address needs no look-up, so the resolver never sees it.
            if name.trim_matches(['[', ']']).parse().is_ok_and(|address: IpAddr| !is_public(address)) {
                return Err(OutboundError::NotPublic);
            }
            &self.public
        };
        let _place = self.places.try_acquire().map_err(|_| OutboundError::Busy)?;
        let mut request = client.request(method, url).headers(headers);
        if let Some(body) = body {
            request = request.body(body);
        }
        let answer = async {
            let mut response = request.send().await.map_err(failed)?;
            if response.status().is_redirection() {
                return Err(OutboundError::Redirected);
            }
            let status = response.status().as_u16();
            let mut body = Vec::new();
            while let Some(chunk) = response.chunk().await.map_err(failed)? {
                if body.len() + chunk.len() > response_bytes_max {
                    return Err(OutboundError::TooLong(response_bytes_max));
                }
                body.extend_from_slice(&chunk);
            }
            Ok(Answer { status, body })
        };
        tokio::time::timeout(timeout, answer).await.map_err(|_| OutboundError::TimedOut(timeout))?
    }

    /// Headers with the node's secrets in them.
    ///
    /// # Errors
    /// When a secret cannot be read, or a value cannot be sent.
    pub fn headers<'h>(&self, headers: impl Iterator<Item = (&'h str, &'h str)>) -> Result<HeaderMap, OutboundError> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let wrong = || OutboundError::Header(name.to_owned());
            let mut whole = Zeroizing::new(String::new());
            let mut is_secret = false;
            for part in header_parts(value).ok_or_else(wrong)? {
                match part {
                    HeaderPart::Text(text) => whole.push_str(text),
                    HeaderPart::Secret(name) => {
                        let secret = self.secret(name)?;
                        whole.push_str(std::str::from_utf8(&secret).map_err(|_| wrong())?);
                        is_secret = true;
                    }
                }
            }
            let mut value = HeaderValue::from_str(&whole).map_err(|_| wrong())?;
            value.set_sensitive(is_secret);
            map.insert(HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?, value);
        }
        Ok(map)
    }

    /// A secret of this node, without white space around it. Read each time, so that a new one counts at once.
    ///
    /// # Errors
    /// When it is not there, or others can read it.
    pub fn secret(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, OutboundError> {
        let path: PathBuf = self.secrets.join(name);
        let bytes = secrets::read(&path).map_err(|source| OutboundError::Secret { name: name.to_owned(), source })?;
        Ok(Zeroizing::new(bytes.trim_ascii().to_vec()))
    }
}

/// A host without its port.
fn host_name(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

fn failed(error: reqwest::Error) -> OutboundError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    let mut innermost = String::new();
    while let Some(error) = source {
        if error.is::<NotPublic>() {
            return OutboundError::NotPublic;
        }
        // The outer ones repeat the URL, in which what a caller said may stand.
        innermost = error.to_string();
        source = error.source();
    }
    OutboundError::Failed(innermost)
}

/// Looks names up and gives out public addresses only.
struct PublicOnly;

#[derive(Debug, thiserror::Error)]
#[error("the address is not public")]
struct NotPublic;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found: Vec<_> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            if found.iter().any(|address| !is_public(address.ip())) {
                // One private address among public ones is how a rebinding name looks.
                return Err(NotPublic.into());
            }
            let addresses: Addrs = Box::new(found.into_iter());
            Ok(addresses)
        })
    }
}
