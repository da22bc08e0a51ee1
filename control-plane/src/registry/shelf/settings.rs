//! Settings of an S3-compatible store, and the credentials for it.

use super::ShelfError;
use crate::secret_file;
use reqwest::Url;
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, path::PathBuf};
use zeroize::Zeroizing;

/// `[s3]` in `config.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct S3 {
    /// Address of a server other than Amazon's: https, or http on this machine. Default none.
    pub endpoint: Option<String>,
    /// Its region. Default AWS_REGION, or `us-east-1`, which servers without regions take.
    pub region: Option<String>,
    /// A file, mode 0600, with `access_key_id`, `secret_access_key` and, where there is one, `session_token`. Default: AWS_ACCESS_KEY_ID,
    /// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN in the environment.
    pub credentials: Option<PathBuf>,
    /// Megabytes of model files that are kept on this machine. Default 4096.
    pub cache_mb: u64,
}

impl Default for S3 {
    fn default() -> Self {
        Self { endpoint: None, region: None, credentials: None, cache_mb: 4_096 }
    }
}

/// What a store asks for.
pub(super) struct Credentials {
    pub access_key_id: Zeroizing<String>,
    pub secret_access_key: Zeroizing<String>,
    pub session_token: Option<Zeroizing<String>>,
}

/// The file of credentials.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    access_key_id: String,
    secret_access_key: String,
    #[serde(default)]
    session_token: Option<String>,
}

fn of_environment(name: &str) -> Option<Zeroizing<String>> {
    std::env::var(name).ok().filter(|value| !value.trim().is_empty()).map(Zeroizing::new)
}

impl S3 {
    /// What is out of bounds.
    pub fn check(&self) -> Vec<String> {
        let mut wrong: Vec<String> = self.endpoint().err().map(|error| error.to_string()).into_iter().collect();
        if !(64..=1 << 24).contains(&self.cache_mb) {
            wrong.push(format!("s3.cache_mb = {} must be within 64 to 16777216", self.cache_mb));
        }
        wrong
    }

    pub(super) fn region(&self) -> String {
        let of_environment = || of_environment("AWS_REGION").map(|region| region.to_string());
        self.region.clone().or_else(of_environment).unwrap_or_else(|| "us-east-1".into())
    }

    pub(super) fn endpoint(&self) -> Result<Option<Url>, ShelfError> {
        let Some(text) = &self.endpoint else { return Ok(None) };
        let wrong = |why: &str| ShelfError::Settings(format!("s3.endpoint = \"{text}\" {why}"));
        let url = Url::parse(text).map_err(|_| wrong("is not an address such as https://s3.example.net"))?;
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        match url.scheme() {
            "https" => Ok(Some(url)),
            "http" if is_here => Ok(Some(url)),
            _ => Err(wrong("would send models and signed requests in the clear; use https, or http on this machine")),
        }
    }

    pub(super) fn credentials(&self) -> Result<Credentials, ShelfError> {
        let Some(path) = &self.credentials else {
            let both = of_environment("AWS_ACCESS_KEY_ID").zip(of_environment("AWS_SECRET_ACCESS_KEY"));
            let (access_key_id, secret_access_key) = both.ok_or_else(|| {
                ShelfError::Settings(
                    "there are no credentials for the store of model files; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file (mode 0600) with \
                     `credentials` under [s3] in config.toml"
                        .into(),
                )
            })?;
            return Ok(Credentials {
                access_key_id,
                secret_access_key,
                session_token: of_environment("AWS_SESSION_TOKEN"),
            });
        };
        let secret = secret_file::read(path).map_err(|error| ShelfError::Settings(error.to_string()))?;
        let damaged = |why: &str| {
            ShelfError::Settings(format!(
                "{} {why}; it has to have the lines access_key_id = \"…\" and secret_access_key = \"…\"",
                path.display()
            ))
        };
        let text = std::str::from_utf8(&secret).map_err(|_| damaged("is not text"))?;
        // What the parser says might quote the secret.
        let FileForm { access_key_id, secret_access_key, session_token } =
            toml::from_str(text).map_err(|_| damaged("cannot be read"))?;
        Ok(Credentials {
            access_key_id: Zeroizing::new(access_key_id),
            secret_access_key: Zeroizing::new(secret_access_key),
            session_token: session_token.map(Zeroizing::new),
        })
    }
}
