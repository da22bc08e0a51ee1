//! Where etcd is and how it is spoken to: the store's URL and `[etcd]` of `config.toml`.

use super::EtcdError;
use crate::secret_file;
use serde::{Deserialize, Serialize};
use std::{
    net::IpAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    time::Duration,
};
use zeroize::Zeroizing;

/// Seconds that a leader may be unheard of. etcd grants no lease below two; a minute without a leader is long enough.
pub const LEASE_S: RangeInclusive<u64> = 2..=60;

/// Long enough for a pause of the process or a vote within etcd, short enough that nobody waits for a person.
pub const DEFAULT_LEASE_S: u64 = 6;

/// Endpoints of one cluster at most. etcd itself advises against more than seven members.
const ENDPOINTS_MAX: usize = 16;

/// Longest prefix, so that it and a key of ours stay small.
const PREFIX_BYTES_MAX: usize = 64;

const DEFAULT_PREFIX: &str = "nearfield";

/// etcd's port for clients.
const DEFAULT_PORT: u16 = 2379;

const SCHEME: &str = "etcd://";

/// `[etcd]` of `config.toml`: how the store's etcd is spoken to. Every field may be left out where etcd is on this machine's loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// Certificate of the authority that signed etcd's, PEM. With it etcd is spoken to by HTTPS, and it must be there for every endpoint
    /// beyond loopback. Default none.
    pub ca: Option<PathBuf>,
    /// Certificate that is shown to etcd, PEM. Default none.
    pub certificate: Option<PathBuf>,
    /// Its private key, PEM, mode 0600.
    pub key: Option<PathBuf>,
    /// User of etcd, where it wants one. Default none.
    pub user: Option<String>,
    /// File with that user's password, mode 0600.
    pub password_file: Option<PathBuf>,
    /// Seconds after which another control plane takes over from one that is not heard any more, 2 to 60. Default 6.
    pub lease_s: u64,
    /// How this control plane is called in `status` of the others. Default: this machine's name.
    pub name: Option<String>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            ca: None,
            certificate: None,
            key: None,
            user: None,
            password_file: None,
            lease_s: DEFAULT_LEASE_S,
            name: None,
        }
    }
}

impl EtcdConfig {
    /// Everything that is wrong with it by itself.
    pub(crate) fn check(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if !LEASE_S.contains(&self.lease_s) {
            wrong.push(format!(
                "etcd.lease_s = {} must be within {} to {}",
                self.lease_s,
                LEASE_S.start(),
                LEASE_S.end()
            ));
        }
        if self.certificate.is_some() != self.key.is_some() {
            wrong.push("etcd.certificate and etcd.key are wanted together".into());
        }
        if self.user.is_some() != self.password_file.is_some() {
            wrong.push("etcd.user and etcd.password_file are wanted together".into());
        }
        if self.ca.is_none() && self.certificate.is_some() {
            wrong.push("etcd.certificate needs etcd.ca: without it etcd is spoken to in the clear".into());
        }
        wrong
    }
}

/// What the TLS of a client is made of, PEM.
pub(super) struct TlsParts {
    /// Certificates of the authority.
    pub ca: Vec<u8>,
    /// Certificate and key of ours.
    pub identity: Option<Zeroizing<Vec<u8>>>,
}

/// One etcd cluster, and the part of it that is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSettings {
    /// Base URLs, tried in turn.
    pub(super) endpoints: Vec<String>,
    /// What every key of ours begins with, without a `/` at its end.
    pub(super) prefix: String,
    pub(super) config: EtcdConfig,
}

impl EtcdSettings {
    /// Reads `etcd://HOST[:PORT][,HOST[:PORT]…][/PREFIX]`.
    ///
    /// # Errors
    /// With a sentence that says what is expected.
    pub fn new(url: &str, config: &EtcdConfig) -> Result<Self, String> {
        let expected = || {
            format!(
                "`{url}` is no store; etcd://HOST:2379,HOST:2379,HOST:2379 is expected, or no `store` at all for the one in the state folder"
            )
        };
        let rest = url.strip_prefix(SCHEME).ok_or_else(expected)?;
        let (hosts, prefix) = rest.split_once('/').unwrap_or((rest, DEFAULT_PREFIX));
        let prefix = if prefix.trim_matches('/').is_empty() { DEFAULT_PREFIX } else { prefix.trim_matches('/') };
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
        if prefix.len() > PREFIX_BYTES_MAX || !prefix.chars().all(plain) {
            return Err(format!(
                "the prefix `{prefix}` of `{url}` must be at most {PREFIX_BYTES_MAX} letters, digits, `-`, `_`, `.` and `/`"
            ));
        }
        let mut endpoints = Vec::new();
        for endpoint in hosts.split(',') {
            let (host, port) = split(endpoint).ok_or_else(expected)?;
            if config.ca.is_none() && !is_loopback(host) {
                return Err(format!(
                    "`{host}` of `{url}` is beyond this machine, so it wants TLS: name the authority that signed etcd's certificate as `ca` in [etcd] of config.toml"
                ));
            }
            let scheme = if config.ca.is_some() { "https" } else { "http" };
            endpoints.push(format!("{scheme}://{host}:{port}"));
        }
        if endpoints.len() > ENDPOINTS_MAX {
            return Err(format!("`{url}` names {} endpoints, at most {ENDPOINTS_MAX} are tried", endpoints.len()));
        }
        Ok(Self { endpoints, prefix: prefix.to_owned(), config: config.clone() })
    }

    /// How this control plane is called.
    pub fn name(&self) -> String {
        let machine = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
        self.config
            .name
            .clone()
            .or_else(machine)
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "control-plane".into())
    }

    /// How long a leader may be unheard of.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.config.lease_s)
    }

    /// Longest time for one answer: several endpoints are to be tried within a lease.
    pub(super) fn timeout(&self) -> Duration {
        (self.lease() / 4).clamp(Duration::from_millis(500), Duration::from_secs(5))
    }

    /// The whole key of something of ours.
    pub(super) fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.prefix)
    }

    /// User and password, where etcd wants them.
    pub(super) fn login(&self) -> Result<Option<(String, Zeroizing<String>)>, EtcdError> {
        let (Some(user), Some(path)) = (&self.config.user, &self.config.password_file) else { return Ok(None) };
        let bytes = secret(path)?;
        let text = std::str::from_utf8(&bytes).map_err(|e| EtcdError::Settings(format!("{}: {e}", path.display())))?;
        Ok(Some((user.clone(), Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))))
    }

    /// What the TLS of a client is made of; `None` where etcd is spoken to in the clear.
    pub(super) fn tls(&self) -> Result<Option<TlsParts>, EtcdError> {
        let Some(ca) = &self.config.ca else { return Ok(None) };
        let read =
            |path: &Path| std::fs::read(path).map_err(|e| EtcdError::Settings(format!("{}: {e}", path.display())));
        let identity = match (&self.config.certificate, &self.config.key) {
            (Some(certificate), Some(key)) => {
                let mut both = Zeroizing::new(read(certificate)?);
                both.push(b'\n');
                both.extend_from_slice(&secret(key)?);
                Some(both)
            }
            _ => None,
        };
        Ok(Some(TlsParts { ca: read(ca)?, identity }))
    }
}

fn secret(path: &Path) -> Result<Zeroizing<Vec<u8>>, EtcdError> {
    secret_file::read(path).map_err(|e| EtcdError::Settings(e.to_string()))
}

/// `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`.
fn split(endpoint: &str) -> Option<(&str, u16)> {
    let good = |host: &str| {
        !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']'))
    };
    let (host, port) = match endpoint.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok().filter(|port| *port != 0)?),
        _ => (endpoint, DEFAULT_PORT),
    };
    (good(host) && host.starts_with('[') == host.contains(':')).then_some((host, port))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_endpoints_and_a_prefix() {
        let check = |url: &str, endpoints: &[&str], prefix: &str| {
            let settings = EtcdSettings::new(url, &EtcdConfig::default()).unwrap();
            assert_eq!(
                (settings.endpoints.as_slice(), settings.prefix.as_str()),
                (endpoints.map_owned().as_slice(), prefix),
                "{url}"
            );
        };
        check("etcd://127.0.0.1", &["http://127.0.0.1:2379"], "nearfield");
        check("etcd://localhost:1,[::1]:2/", &["http://localhost:1", "http://[::1]:2"], "nearfield");
        check("etcd://127.0.0.1:2379/eu/voice/", &["http://127.0.0.1:2379"], "eu/voice");
        let tls = EtcdConfig { ca: Some("ca.pem".into()), ..EtcdConfig::default() };
        let settings = EtcdSettings::new("etcd://etcd-1.example.net:2379", &tls).unwrap();
        assert_eq!(settings.endpoints, ["https://etcd-1.example.net:2379"]);
    }

    trait MapOwned {
        fn map_owned(&self) -> Vec<String>;
    }

    impl MapOwned for &[&str] {
        fn map_owned(&self) -> Vec<String> {
            self.iter().map(|text| (*text).to_owned()).collect()
        }
    }

    #[test]
    fn what_cannot_be_used_is_refused_with_the_remedy() {
        let check = |url: &str, expect: &str| {
            let said = EtcdSettings::new(url, &EtcdConfig::default()).unwrap_err();
            assert!(said.contains(expect), "{url}: {said}");
        };
        for url in ["", "http://127.0.0.1:2379", "etcd://", "etcd://127.0.0.1:0", "etcd://127.0.0.1,", "etcd://a b"] {
            check(url, "etcd://HOST:2379");
        }
        check("etcd://10.0.0.1:2379", "[etcd]");
        check("etcd://127.0.0.1/a?b", "prefix");
        check(&format!("etcd://{}", ["127.0.0.1"; 17].join(",")), "17 endpoints");
        let wrong =
            EtcdConfig { lease_s: 1, certificate: Some("c".into()), user: Some("u".into()), ..EtcdConfig::default() };
        assert_eq!(wrong.check().len(), 4, "{:?}", wrong.check());
        assert!(EtcdConfig::default().check().is_empty());
    }
}
