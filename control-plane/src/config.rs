//! Settings of the control plane: `config.toml` in its state folder.

use crate::{
    registry::{
        shelf::{self, S3},
        tuf::Lifetimes,
    },
    store::etcd::{EtcdConfig, EtcdSettings},
};
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// Certificate and key for callers beyond this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, mode 0600.
    pub key: PathBuf,
}

/// `config.toml`. Every field has a default, so an empty file is a configuration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where agents connect and enrol: QUIC, so a UDP port. Default `0.0.0.0:7443`.
    pub agents: SocketAddr,
    /// Where callers ask for a route. On loopback plain HTTP, for a proxy that adds TLS; beyond it HTTPS, and `tls` and a `caller.key`
    /// in the state folder must be there too. Default `127.0.0.1:7480`.
    pub api: SocketAddr,
    /// Where the command line reaches the server: HTTP with the credential; must be a loopback address. Default `127.0.0.1:7481`.
    pub admin: SocketAddr,
    /// Whether `api` stands behind a proxy that sets `X-Forwarded-For`; the last address in it is then the caller's. Default false.
    pub trust_forwarded_for: bool,
    /// Seconds between signs of life on a control link; a node counts as down after three. Default 15.
    pub heartbeat_s: f64,
    /// Agents connected at most. Default 20000.
    pub agents_max: usize,
    /// Enrolments in progress at most. Default 16.
    pub enrolments_max: usize,
    /// Artefact streams open at once on one connection, at most. Default 8.
    pub artefact_streams_max: u32,
    /// Seconds that `serve` waits for connections to end when it is told to stop. Default 5.
    pub drain_s: f64,
    /// Where the store is: `etcd://HOST:2379,HOST:2379,HOST:2379[/PREFIX]`, shared by several control planes of which one leads; see `[etcd]`.
    /// Default none: sled in the state folder, and one control plane.
    pub store: Option<String>,
    /// Addresses, `HOST:PORT`, at which nodes reach the control planes that share the store, this one too; nodes are told at their enrolment. Default none.
    pub planes: Vec<String>,
    /// `[tls]` with `certificate` and `key`, for an `api` beyond loopback. Default none.
    pub tls: Option<TlsFiles>,
    /// `[etcd]`: how the etcd of `store` is spoken to, and how soon another control plane takes over.
    pub etcd: EtcdConfig,
    /// Where model files stand: `s3://BUCKET/PREFIX`, or the absolute path of a folder. Default the state folder.
    pub artefacts: Option<String>,
    /// `[s3]`: how the store of `artefacts` is reached, and how much of it is kept on this machine.
    pub s3: S3,
    /// `[registry]`: how long the registry's signed metadata is good.
    pub registry: Lifetimes,
}

impl Default for Config {
    fn default() -> Self {
        let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self {
            agents: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), nearfield_shared::wire::DEFAULT_PLANE_PORT),
            api: SocketAddr::new(local, 7480),
            admin: SocketAddr::new(local, 7481),
            trust_forwarded_for: false,
            heartbeat_s: 15.0,
            agents_max: 20_000,
            enrolments_max: 16,
            artefact_streams_max: 8,
            drain_s: 5.0,
            store: None,
            planes: Vec::new(),
            tls: None,
            etcd: EtcdConfig::default(),
            artefacts: None,
            s3: S3::default(),
            registry: Lifetimes::default(),
        }
    }
}

/// Addresses of control planes that nodes are told at most.
pub const PLANES_MAX: usize = 16;

/// The text of a `config.toml` without its `store`, for a folder that has a store of its own.
pub(crate) fn without_store(text: &str) -> String {
    let mut table = false;
    let line = |line: &str| {
        table |= line.trim_start().starts_with('[');
        let names = line.trim_start().strip_prefix("store").is_some_and(|rest| rest.trim_start().starts_with('='));
        if names && !table { format!("# {line}\n") } else { format!("{line}\n") }
    };
    text.lines().map(line).collect()
}

/// What to tell whoever lets callers on other machines in without TLS.
pub(crate) fn unsecured(api: SocketAddr) -> String {
    format!(
        "api = \"{api}\" can be reached from other machines, so it wants TLS: add [tls] with `certificate` and `key`, the PEM files of \
         this machine's public name (for `init`: --tls-certificate and --tls-key); or use a loopback address such as 127.0.0.1:7480 behind a proxy that adds TLS"
    )
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for ConfigErrors {}

impl Config {
    /// All on loopback, on ports that the system chooses; for a plane on the machine of its agents, and for tests.
    pub fn on_loopback() -> Self {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        Self { agents: any, api: any, admin: any, ..Self::default() }
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigErrors> {
        let name = path.display();
        let text = std::fs::read_to_string(path).map_err(|e| ConfigErrors(vec![format!("{name}: {e}")]))?;
        let config: Self = toml::from_str(&text).map_err(|e| {
            let line = e.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            ConfigErrors(vec![format!("{name}:{line}: {}", e.message())])
        })?;
        config.check().map_err(|errors| ConfigErrors(errors.into_iter().map(|e| format!("{name}: {e}")).collect()))?;
        Ok(config)
    }

    /// Everything that is out of bounds.
    pub fn check(&self) -> Result<(), Vec<String>> {
        let mut wrong = Vec::new();
        if !self.admin.ip().is_loopback() {
            wrong.push(format!(
                "admin = \"{}\" can be reached by others; use a loopback address such as 127.0.0.1:7481, and ssh to administer from afar",
                self.admin
            ));
        }
        if !self.api.ip().is_loopback() && self.tls.is_none() {
            wrong.push(unsecured(self.api));
        }
        if !(0.05..=600.0).contains(&self.heartbeat_s) {
            wrong.push(format!("heartbeat_s = {} must be within 0.05 to 600", self.heartbeat_s));
        }
        if !(0.0..=3600.0).contains(&self.drain_s) {
            wrong.push(format!("drain_s = {} must be within 0 to 3600", self.drain_s));
        }
        let bounds = [
            ("agents_max", self.agents_max, 1_000_000),
            ("enrolments_max", self.enrolments_max, 10_000),
            ("artefact_streams_max", self.artefact_streams_max as usize, 1_000),
        ];
        for (name, value, max) in bounds {
            if !(1..=max).contains(&value) {
                wrong.push(format!("{name} = {value} must be within 1 to {max}"));
            }
        }
        wrong.extend(self.etcd.check());
        wrong.extend(self.shared_store().err());
        if self.planes.len() > PLANES_MAX {
            wrong.push(format!("planes names {} addresses, at most {PLANES_MAX} are told", self.planes.len()));
        }
        for address in &self.planes {
            let port = address.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
            if !port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port != 0)) {
                wrong.push(format!(
                    "planes: `{address}` is no address; HOST:PORT is expected, for example plane-1.example.net:7443"
                ));
            }
        }
        wrong.extend(self.registry.check());
        wrong.extend(self.s3.check());
        if let Some(place) = self.artefacts.as_deref().filter(|place| !shelf::is_place(place)) {
            wrong.push(shelf::not_a_place(place));
        }
        if wrong.is_empty() { Ok(()) } else { Err(wrong) }
    }

    /// The etcd that is the store, where one is.
    ///
    /// # Errors
    /// With a sentence that says what is wrong with `store`.
    pub fn shared_store(&self) -> Result<Option<EtcdSettings>, String> {
        self.store.as_deref().map(|url| EtcdSettings::new(url, &self.etcd)).transpose()
    }

    /// Time between signs of life.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_secs_f64(self.heartbeat_s)
    }

    /// The file's text, with what each setting means.
    pub fn to_toml(&self) -> String {
        let quoted = |path: &Path| toml::Value::from(path.display().to_string());
        let tls = match &self.tls {
            Some(tls) => format!("[tls]\ncertificate = {}\nkey = {}\n", quoted(&tls.certificate), quoted(&tls.key)),
            None => {
                "# [tls]\n# certificate = \"/etc/nearfield/tls.crt\"\n# key = \"/etc/nearfield/tls.key\"\n".to_owned()
            }
        };
        let store = match &self.store {
            Some(url) => format!("store = {}\n", toml::Value::from(url.as_str())),
            None => "# store = \"etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379\"\n".to_owned(),
        };
        let planes = toml::Value::from(self.planes.clone());
        let etcd = if self.etcd == EtcdConfig::default() {
            "# [etcd]\n# ca = \"/etc/nearfield/etcd-ca.crt\"\n# certificate = \"/etc/nearfield/etcd-client.crt\"\n# key = \"/etc/nearfield/etcd-client.key\"\n\
             # user = \"nearfield\"\n# password_file = \"/etc/nearfield/etcd.password\"\n# lease_s = 6\n# name = \"plane-1\"\n"
                .to_owned()
        } else {
            let fields = toml::to_string(&self.etcd).expect("texts, paths and numbers are TOML");
            format!("[etcd]\n{fields}")
        };
        let artefacts = match &self.artefacts {
            Some(place) => format!("artefacts = {}\n", toml::Value::from(place.as_str())),
            None => "# artefacts = \"s3://models/nearfield\"\n".to_owned(),
        };
        let text = |name: &str, value: Option<String>, example: &str| match value {
            Some(value) => format!("{name} = {}\n", toml::Value::from(value)),
            None => format!("# {name} = \"{example}\"\n"),
        };
        let s3 = [
            text("endpoint", self.s3.endpoint.clone(), "https://s3.example.net"),
            text("region", self.s3.region.clone(), "eu-central-1"),
            text(
                "credentials",
                self.s3.credentials.as_ref().map(|path| path.display().to_string()),
                "/etc/nearfield/s3.toml",
            ),
        ]
        .concat();
        format!(
            "# Settings of this control plane. A line that is removed means its default.\n\n\
             # QUIC, for agents and their enrolment: a UDP port that agents can reach.\n\
             agents = \"{}\"\n\
             # HTTP for callers: GET /v1/route and /v1/healthz. Plain on loopback, for a proxy that adds TLS. Beyond loopback it\n\
             # is HTTPS with [tls] below, and callers present the key in caller.key as `Authorization: Bearer KEY`.\n\
             api = \"{}\"\n\
             # HTTP for the command line, with the credential in admin.token. Loopback only.\n\
             admin = \"{}\"\n\
             # Whether a proxy before `api` sets X-Forwarded-For. Its last address is then taken for the caller's.\n\
             trust_forwarded_for = {}\n\
             # Seconds between signs of life; a node counts as down after three.\n\
             heartbeat_s = {:?}\n\
             # Bounds: agents connected, enrolments in progress, artefact streams of one agent.\n\
             agents_max = {}\nenrolments_max = {}\nartefact_streams_max = {}\n\
             # Seconds that a server that is told to stop waits for its connections.\n\
             drain_s = {:?}\n\
             # Where the store is, if not in this folder: an etcd that several control planes share, of which one leads. See [etcd] below.\n\
             {store}\
             # Addresses, HOST:PORT, at which nodes reach all of them; nodes are told at their enrolment.\n\
             planes = {planes}\n\
             # Where model files stand beyond this disk: an S3-compatible store, or the absolute path of a folder. Without it, in this folder.\n\
             {artefacts}\
             # Certificate and key of this machine's public name, for an `api` beyond loopback: PEM files, the key with mode 0600.\n\
             {tls}\
             # How etcd is spoken to. Beyond loopback `ca` must be there: then it is HTTPS. Secrets are files with mode 0600. `lease_s` is\n\
             # how many seconds a leader may be unheard of before another takes over, 2 to 60; `name` is how `status` calls this one.\n\
             {etcd}\
             # The store of `artefacts`: https, or http on this machine. Credentials come from this file (mode 0600: access_key_id, secret_access_key) or from\n\
             # AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. So many megabytes of models are kept on this machine.\n\
             [s3]\n{s3}cache_mb = {}\n\
             # How long the registry's signed metadata is good: the root's, the list of models, the snapshot, the timestamp. Without newer metadata in that\n\
             # time nodes take no new model; what they serve goes on.\n\
             [registry]\n\
             root_days = {}\ntargets_days = {}\nsnapshot_days = {}\ntimestamp_hours = {}\n",
            self.agents,
            self.api,
            self.admin,
            self.trust_forwarded_for,
            self.heartbeat_s,
            self.agents_max,
            self.enrolments_max,
            self.artefact_streams_max,
            self.drain_s,
            self.s3.cache_mb,
            self.registry.root_days,
            self.registry.targets_days,
            self.registry.snapshot_days,
            self.registry.timestamp_hours,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(file.path()).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_written_reads_back() {
        let config = Config { heartbeat_s: 0.5, agents_max: 7, ..Config::on_loopback() };
        assert_eq!(load(&config.to_toml()), Ok(config));
        let tls = TlsFiles { certificate: "/etc/a \"quoted\" folder/tls.crt".into(), key: "/etc/tls.key".into() };
        let open = Config { api: "0.0.0.0:7480".parse().unwrap(), tls: Some(tls), ..Config::default() };
        assert_eq!(load(&open.to_toml()), Ok(open));
        let etcd =
            EtcdConfig { lease_s: 9, ca: Some("/a \"b\".pem".into()), name: Some("p".into()), ..EtcdConfig::default() };
        let store = Some("etcd://a.example:2379,b.example/x".to_owned());
        let several = Config { store, planes: vec!["a:1".into(), "b:2".into()], etcd, ..Config::default() };
        assert_eq!(load(&several.to_toml()), Ok(several.clone()));
        let alone = Config { store: None, ..several.clone() };
        assert_eq!(load(&without_store(&several.to_toml())), Ok(alone));
        assert_eq!(load(""), Ok(Config::default()));
        assert_eq!(load(&Config::default().to_toml()), Ok(Config::default()));
    }

    #[test]
    fn all_values_out_of_bounds_are_reported_at_once() {
        let error = load("admin = \"0.0.0.0:1\"\nheartbeat_s = 0.0\nagents_max = 0\n").unwrap_err();
        assert_eq!(error.lines().count(), 3, "{error}");
    }

    #[test]
    fn plain_http_beyond_loopback_is_refused_with_the_remedy() {
        for api in ["0.0.0.0:7480", "192.0.2.1:80", "[::]:7480"] {
            let error = load(&format!("api = \"{api}\"\n")).unwrap_err();
            assert!(error.contains(api) && error.contains("[tls]") && error.contains("127.0.0.1:7480"), "{error}");
        }
        let error = load("store = \"etcd://10.0.0.1\"\nplanes = [\"a\"]\n[etcd]\nlease_s = 1\n").unwrap_err();
        assert_eq!(error.lines().count(), 3, "{error}");
        assert!(error.contains("wants TLS"), "{error}");
        let half = load("api = \"0.0.0.0:7480\"\n[tls]\ncertificate = \"a\"\n").unwrap_err();
        assert!(half.contains("key"), "{half}");
    }

    #[test]
    fn a_misspelt_setting_is_named_with_its_line() {
        let error = load("\nagnets = \"127.0.0.1:1\"\n").unwrap_err();
        assert!(error.contains(":2: ") && error.contains("agnets"), "{error}");
    }
}
