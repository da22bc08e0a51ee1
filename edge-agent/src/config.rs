//! Settings of a node: `agent.toml` in its folder, with the command line laid over it.
//!
//! Everything that is wrong is told at once, each with its line and what is expected; nothing is bound or opened while
//! parsing.

use crate::media::telephony::{
    Settings,
    call_control::{self, API},
    message::Provider,
};
use nearfield_shared::assistant::http_tool::{UrlTemplate, is_host};
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::Path,
    path::PathBuf,
    str::FromStr,
    time::Duration,
};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// Exit code for a configuration error (`EX_USAGE` of sysexits).
pub const EXIT_CONFIG: u8 = 64;

/// Which device the models run on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// A GPU where there is a real one that passes its self-test, otherwise the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU whose name contains the text, any where it is empty; the node refuses to start without one.
    Gpu(String),
    /// A graphics driver that computes on the processor; for tests.
    SoftwareGpu,
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu(String::new())),
            "software-gpu" => Ok(Self::SoftwareGpu),
            _ => match s.strip_prefix("gpu:").map(str::trim) {
                Some(name) if !name.is_empty() => Ok(Self::Gpu(name.to_owned())),
                _ => Err(format!("`{s}` is no device; use auto, cpu, gpu, gpu:NAME or software-gpu")),
            },
        }
    }
}

/// Certificate and key for callers beyond this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub certificate: PathBuf,
    /// Its private key, PEM, mode 0600.
    pub key: PathBuf,
}

/// Where calls over WebRTC bring their audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebRtcConfig {
    /// `listen`: the UDP address. Default `127.0.0.1:0` (a free port). Beyond loopback, the rule of `listen` holds.
    pub listen: SocketAddr,
    /// `public`: the address that callers are told, where it is another than that of `listen`.
    pub public: Option<IpAddr>,
}

impl Default for WebRtcConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)), public: None }
    }
}

/// The settings of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `plane`: the control plane's address, `HOST:PORT`, or a list of them where several control planes share a fleet: they are dialled in turn
    /// until the one that leads answers. Written by `enroll`.
    pub planes: Vec<String>,
    /// `url`: where callers reach this node, for routing. Default: `http://` and the first listener's address, which is
    /// right only while callers are on this machine.
    pub url: Option<String>,
    /// `listen`: addresses for callers. Default `127.0.0.1:0` (a free port). Beyond loopback, `tls` and a `caller.key`
    /// must be there too.
    pub listen: Vec<SocketAddr>,
    /// `neighbours`: address on which this node gives models to nodes of its region, and from which it takes them, as the others reach it,
    /// for example `10.0.0.5:7444`. Both sides show the certificates of their control link. Default none: models come from the control
    /// plane alone.
    pub neighbours: Option<SocketAddr>,
    /// `device`: `auto`, `cpu`, `gpu`, `gpu:NAME` or `software-gpu`. Default `auto`.
    pub device: DeviceChoice,
    /// `calls_max`: calls at once, 1 to 1000. Default 4, what two CPU cores answer in time; raise it on a GPU.
    pub calls_max: usize,
    /// `drain_grace_s`: seconds that calls get to end when the node stops, 0 to 3600. Default 20.
    pub drain_grace: Duration,
    /// `report_window_s`: seconds between reports to the control plane, 10 to 86400. Default 300. A window with too few
    /// calls is carried into the next.
    pub report_window: Duration,
    /// `artefacts_keep`: model files kept beyond those in use, 0 to 100. Default 2, so that stepping back needs no download.
    pub artefacts_keep: usize,
    /// `log`: filter for the log, as `info` or `edge_agent=debug,info`. Default `info`; `RUST_LOG` wins.
    pub log: String,
    /// `private_hosts`: hosts within the operator's own network, each as `NAME` or `NAME:PORT`, that assistants' tools and
    /// webhooks may reach. Default none: then only public addresses are asked.
    pub private_hosts: Vec<String>,
    /// `[tls]` with `certificate` and `key`: for listeners beyond loopback. Default none.
    pub tls: Option<TlsFiles>,
    /// `[telephony]` with `provider` (`twilio`, `telnyx`) and `secret`, the path of a file: calls by telephone. With Telnyx `api_key`, the
    /// path of a file with a key that puts callers through to persons, and `api`, another address of its API. Default none.
    pub telephony: Option<Settings>,
    /// `[wyoming]` with `listen`: where the Wyoming protocol of Home Assistant is served, on loopback. Default none.
    pub wyoming: Option<SocketAddr>,
    /// `[webrtc]` with `listen` and `public`: for calls over WebRTC.
    pub webrtc: WebRtcConfig,
    /// `[update]` with `healthy_s`: seconds in which another program of the agent must be healthy, 10 to 3600, or the one before comes
    /// back. Default 300, enough to prove all models anew on two CPU cores.
    pub update_healthy: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            planes: Vec::new(),
            url: None,
            listen: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
            neighbours: None,
            device: DeviceChoice::Auto,
            calls_max: 4,
            drain_grace: Duration::from_secs(20),
            report_window: Duration::from_secs(300),
            artefacts_keep: 2,
            log: "info".into(),
            private_hosts: Vec::new(),
            tls: None,
            telephony: None,
            wyoming: None,
            webrtc: WebRtcConfig::default(),
            update_healthy: Duration::from_secs(300),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors {
    /// The file, or the command line.
    pub file: String,
    /// One line each.
    pub errors: Vec<String>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.errors.len() == 1 { "error" } else { "errors" };
        write!(f, "{}: {} {plural}", self.file, self.errors.len())?;
        self.errors.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl Config {
    /// Reads the settings of a node; a file that is not there means the defaults.
    pub fn read(path: &Path) -> Result<Self, ConfigErrors> {
        let file = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|errors| ConfigErrors { file, errors }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(ConfigErrors { file, errors: vec![format!("it cannot be read: {e}")] }),
        }
    }

    /// Parses settings, telling all errors at once.
    pub fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (table, broken) = DeTable::parse_recoverable(text);
        let mut reader = Reader { text, errors: Vec::new() };
        for error in &broken {
            let line = error.span().map_or(1, |span| reader.line(span.start));
            reader.errors.push(format!("line {line}: {}", error.message()));
        }
        // After a syntax error the values that were recovered may be wrong, and complaints about them would mislead.
        let config = if broken.is_empty() { reader.config(table.get_ref()) } else { Self::default() };
        if reader.errors.is_empty() { Ok(config) } else { Err(reader.errors) }
    }
}

struct Reader<'a> {
    text: &'a str,
    errors: Vec<String>,
}

impl Reader<'_> {
    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|b| *b == b'\n').count()
    }

    fn wrong(&mut self, at: usize, message: impl fmt::Display) {
        let line = self.line(at);
        self.errors.push(format!("line {line}: {message}"));
    }

    fn config(&mut self, table: &DeTable<'_>) -> Config {
        let mut config = Config::default();
        for (key, value) in table {
            let at = key.span().start;
            match key.get_ref().as_ref() {
                "plane" => config.planes = self.planes(value),
                "url" => config.url = self.text_of("url", value, public_url).or(config.url),
                "listen" => config.listen = self.addresses(value).unwrap_or(config.listen),
                "neighbours" => {
                    config.neighbours = self.text_of("neighbours", value, neighbours_address).or(config.neighbours);
                }
                "device" => config.device = self.text_of("device", value, DeviceChoice::from_str).unwrap_or_default(),
                "calls_max" => config.calls_max = self.number("calls_max", value, 1, 1000, 4) as usize,
                "drain_grace_s" => {
                    config.drain_grace = Duration::from_secs(self.number("drain_grace_s", value, 0, 3600, 20));
                }
                "report_window_s" => {
                    config.report_window = Duration::from_secs(self.number("report_window_s", value, 10, 86_400, 300));
                }
                "artefacts_keep" => {
                    config.artefacts_keep = self.number("artefacts_keep", value, 0, 100, 2) as usize;
                }
                "log" => config.log = self.text_of("log", value, log_filter).unwrap_or(config.log),
                "private_hosts" => config.private_hosts = self.hosts(value).unwrap_or_default(),
                "tls" => config.tls = self.tls(value),
                "telephony" => config.telephony = self.telephony(value),
                "wyoming" => config.wyoming = self.wyoming(value),
                "webrtc" => config.webrtc = self.webrtc(value).unwrap_or_default(),
                "update" => config.update_healthy = self.update(value).unwrap_or(config.update_healthy),
                unknown => self.wrong(
                    at,
                    format_args!(
                        "`{unknown}` is not a setting; the settings are plane, url, listen, neighbours, device, calls_max, \
                         drain_grace_s, report_window_s, artefacts_keep, log, private_hosts, \
                         [tls], [telephony], [webrtc], [wyoming], [update]"
                    ),
                ),
            }
        }
        config
    }

    fn text_of<T>(
        &mut self,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let at = value.span().start;
        match value.get_ref().as_str() {
            Some(text) => match parse(text) {
                Ok(parsed) => return Some(parsed),
                Err(reason) => self.wrong(at, format_args!("{name}: {reason}")),
            },
            None => self.wrong(at, format_args!("{name} must be a text in quotes, not {}", value.get_ref().type_str())),
        }
        None
    }

    fn number(&mut self, name: &str, value: &Spanned<DeValue<'_>>, least: u64, most: u64, default: u64) -> u64 {
        let found = value
            .get_ref()
            .as_integer()
            .and_then(|n| u64::from_str_radix(&n.as_str().replace('_', ""), n.radix()).ok());
        match found {
            Some(n) if (least..=most).contains(&n) => n,
            _ => {
                self.wrong(value.span().start, format_args!("{name} must be a whole number from {least} to {most}"));
                default
            }
        }
    }

    fn addresses(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Vec<SocketAddr>> {
        let expected = "addresses, for example [\"127.0.0.1:8080\"]";
        self.list("listen", value, expected, (1, 16), listen_address)
    }

    /// One address, or a list of them.
    fn planes(&mut self, value: &Spanned<DeValue<'_>>) -> Vec<String> {
        if value.get_ref().as_array().is_none() {
            return self.text_of("plane", value, plane_address).into_iter().collect();
        }
        let expected = "addresses, for example [\"plane-1.example.net:7443\", \"plane-2.example.net:7443\"]";
        self.list("plane", value, expected, (1, PLANES_MAX), plane_address).unwrap_or_default()
    }

    fn hosts(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Vec<String>> {
        let expected = "hosts, for example [\"crm.internal:8443\"]";
        self.list("private_hosts", value, expected, (0, 64), private_host)
    }

    fn list<T>(
        &mut self,
        name: &str,
        value: &Spanned<DeValue<'_>>,
        expected: &str,
        (least, most): (usize, usize),
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let at = value.span().start;
        let Some(list) = value.get_ref().as_array() else {
            self.wrong(at, format_args!("{name} must be a list of {expected}"));
            return None;
        };
        if !(least..=most).contains(&list.len()) {
            self.wrong(at, format_args!("{name} must name {least} to {most} {expected}"));
        }
        Some(list.iter().filter_map(|item| self.text_of(name, item, &parse)).collect())
    }

    fn table<'a, 'v>(&mut self, name: &str, fields: &str, value: &'a Spanned<DeValue<'v>>) -> Option<&'a DeTable<'v>> {
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.wrong(value.span().start, format_args!("{name} must be a table with {fields}"));
        }
        table
    }

    fn telephony(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Settings> {
        let at = value.span().start;
        let (mut provider, mut secret, mut key, mut api) = (None, None, None, None);
        let table = self.table("telephony", "provider and secret", value)?;
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "provider" => provider = self.text_of("telephony.provider", value, telephony_provider),
                "secret" => secret = self.text_of("telephony.secret", value, file_path),
                "api_key" => key = self.text_of("telephony.api_key", value, file_path),
                "api" => api = self.text_of("telephony.api", value, api_address),
                unknown => {
                    let message = format_args!(
                        "`telephony.{unknown}` is not a setting; use provider and secret, and with telnyx api_key and api"
                    );
                    self.wrong(name.span().start, message);
                }
            }
        }
        for (name, what) in [("provider", "twilio or telnyx"), ("secret", "the path of a file with the auth token")] {
            if !table_has(table, name) {
                self.wrong(at, format_args!("telephony.{name} is missing: {what}"));
            }
        }
        if provider == Some(Provider::Twilio) && (key.is_some() || api.is_some()) {
            let message = "telephony.api_key and telephony.api are for telnyx; Twilio asks this node whom to dial";
            self.wrong(at, message);
        }
        if key.is_none() && api.is_some() {
            self.wrong(at, "telephony.api is of no use without telephony.api_key, the path of a file with an API key");
        }
        let call_control = key.map(|key| call_control::Settings { key, api: api.unwrap_or_else(|| API.to_owned()) });
        Some(Settings { provider: provider?, secret: secret?, call_control })
    }

    fn wyoming(&mut self, value: &Spanned<DeValue<'_>>) -> Option<SocketAddr> {
        let at = value.span().start;
        let mut listen = None;
        let table = self.table("wyoming", "listen", value)?;
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "listen" => listen = self.text_of("wyoming.listen", value, listen_address),
                unknown => {
                    let message = format_args!("`wyoming.{unknown}` is not a setting; use listen");
                    self.wrong(name.span().start, message);
                }
            }
        }
        if !table_has(table, "listen") {
            let example = "wyoming.listen is missing: an address on this machine, for example \"127.0.0.1:10300\"";
            self.wrong(at, example);
        }
        listen
    }

    fn update(&mut self, value: &Spanned<DeValue<'_>>) -> Option<Duration> {
        let mut healthy = None;
        for (name, value) in self.table("update", "healthy_s", value)? {
            match name.get_ref().as_ref() {
                "healthy_s" => {
                    healthy = Some(Duration::from_secs(self.number("update.healthy_s", value, 10, 3600, 300)));
                }
                unknown => {
                    let message = format_args!("`update.{unknown}` is not a setting; use healthy_s");
                    self.wrong(name.span().start, message);
                }
            }
        }
        healthy
    }

    fn tls(&mut self, value: &Spanned<DeValue<'_>>) -> Option<TlsFiles> {
        let at = value.span().start;
        let table = self.table("tls", "certificate and key", value)?;
        let (mut certificate, mut key) = (None, None);
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "certificate" => certificate = self.text_of("tls.certificate", value, file_path),
                "key" => key = self.text_of("tls.key", value, file_path),
                unknown => self.wrong(
                    name.span().start,
                    format_args!("`tls.{unknown}` is not a setting; use certificate and key"),
                ),
            }
        }
        for (name, missing) in [("certificate", !table_has(table, "certificate")), ("key", !table_has(table, "key"))] {
            if missing {
                self.wrong(at, format_args!("tls.{name} is missing: the path of a PEM file"));
            }
        }
        Some(TlsFiles { certificate: certificate?, key: key? })
    }

    fn webrtc(&mut self, value: &Spanned<DeValue<'_>>) -> Option<WebRtcConfig> {
        let at = value.span().start;
        let table = self.table("webrtc", "listen and public", value)?;
        let mut webrtc = WebRtcConfig::default();
        for (name, value) in table {
            match name.get_ref().as_ref() {
                "listen" => webrtc.listen = self.text_of("webrtc.listen", value, listen_address)?,
                "public" => webrtc.public = Some(self.text_of("webrtc.public", value, public_address)?),
                unknown => self.wrong(
                    name.span().start,
                    format_args!("`webrtc.{unknown}` is not a setting; use listen and public"),
                ),
            }
        }
        if webrtc.listen.ip().is_unspecified() && webrtc.public.is_none() {
            self.wrong(at, "webrtc.public is missing: where listen is every address, say which one callers are told");
        }
        if webrtc.public.is_some_and(|public| public.is_ipv4() != webrtc.listen.is_ipv4()) {
            self.wrong(at, "webrtc.public and webrtc.listen must both be IPv4 or both IPv6");
        }
        Some(webrtc)
    }
}

fn table_has(table: &DeTable<'_>, name: &str) -> bool {
    table.keys().any(|key| key.get_ref() == name)
}

/// Addresses of control planes at most.
pub const PLANES_MAX: usize = 16;

/// Checks `HOST:PORT`.
pub fn plane_address(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0) => {
            Ok(text.to_owned())
        }
        _ => Err(format!("`{text}` is no address; HOST:PORT is expected, for example plane.example.net:7443")),
    }
}

/// Checks an address to listen on.
pub fn listen_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address; IP:PORT is expected, for example 127.0.0.1:8080"))
}

fn public_address(text: &str) -> Result<IpAddr, String> {
    let address: IpAddr = text.parse().map_err(|_| format!("`{text}` is no IP address, for example 203.0.113.7"))?;
    if address.is_unspecified() || address.is_multicast() {
        return Err(format!("callers cannot reach `{text}`; write an address of this node"));
    }
    Ok(address)
}

/// Checks an address that others are told of as it stands.
fn neighbours_address(text: &str) -> Result<SocketAddr, String> {
    let address = listen_address(text)?;
    if address.ip().is_unspecified() {
        return Err(format!(
            "`{text}` is no address that other nodes can reach; name the one that this node has in their network, for example 10.0.0.5:7444"
        ));
    }
    Ok(address)
}

fn private_host(text: &str) -> Result<String, String> {
    if is_host(text) {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "`{text}` is no host; NAME or NAME:PORT in small letters is expected, for example crm.internal:8443"
        ))
    }
}

/// Checks the base URL that callers use.
pub fn public_url(text: &str) -> Result<String, String> {
    text.parse::<nearfield_shared::wire::PublicUrl>().map(|url| url.as_str().to_owned())
}

fn telephony_provider(text: &str) -> Result<Provider, String> {
    match text {
        "twilio" => Ok(Provider::Twilio),
        "telnyx" => Ok(Provider::Telnyx),
        _ => Err(format!("`{text}` is no provider; use twilio or telnyx")),
    }
}

/// Checks the address of another program's API, which may have a path.
fn api_address(text: &str) -> Result<String, String> {
    match UrlTemplate::parse(text) {
        Ok(url) if url.arguments().next().is_none() => Ok(text.trim_end_matches('/').to_owned()),
        Ok(_) => Err("an address without {} is expected, for example https://api.example.com/v2".into()),
        Err(error) => Err(error.to_string()),
    }
}

fn log_filter(text: &str) -> Result<String, String> {
    text.parse::<tracing_subscriber::EnvFilter>()
        .map(|_| text.to_owned())
        .map_err(|e| format!("`{text}` is no log filter ({e}); use for example info"))
}

fn file_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("the path of a PEM file is expected".into()) } else { Ok(PathBuf::from(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        Config::parse(text).expect_err("wrong")
    }

    #[test]
    fn a_full_configuration_is_read() {
        let text = r#"
            plane = "plane.example.net:7443"
            url = "https://fra-1.example.net"
            listen = ["127.0.0.1:8080", "[::1]:8080"]
            neighbours = "10.0.0.5:7444"
            device = "cpu"
            calls_max = 12
            drain_grace_s = 5
            report_window_s = 1_000
            artefacts_keep = 0
            log = "edge_agent=debug,info"
            private_hosts = ["crm.internal:8443", "10.0.0.5"]
            [telephony]
            provider = "twilio"
            secret = "/etc/nearfield/twilio"
            [wyoming]
            listen = "127.0.0.1:10300"
            [tls]
            certificate = "/etc/nearfield/tls.crt"
            key = "/etc/nearfield/tls.key"
            [webrtc]
            listen = "0.0.0.0:3478"
            public = "203.0.113.7"
        "#;
        let config = Config::parse(text).expect("right");
        assert_eq!(config.planes, ["plane.example.net:7443"]);
        assert_eq!((config.calls_max, config.listen.len(), config.device), (12, 2, DeviceChoice::Cpu));
        assert_eq!(config.neighbours, Some(SocketAddr::from(([10, 0, 0, 5], 7444))));
        assert_eq!(config.private_hosts, ["crm.internal:8443", "10.0.0.5"]);
        assert_eq!(config.report_window, Duration::from_secs(1000));
        assert_eq!(config.telephony.expect("telephony").provider, Provider::Twilio);
        assert_eq!(config.wyoming, Some(SocketAddr::from(([127, 0, 0, 1], 10_300))));
        assert_eq!(config.tls.expect("tls").key, Path::new("/etc/nearfield/tls.key"));
        assert_eq!((config.webrtc.listen.port(), config.webrtc.public), (3478, "203.0.113.7".parse().ok()));
        assert_eq!(Config::parse("").expect("defaults"), Config::default());
    }

    #[test]
    fn three_mistakes_are_three_errors_with_their_lines() {
        let said = errors("plane = \"nowhere\"\ncalls_max = 0\ncolour = 1\n");
        assert_eq!(said.len(), 3, "{said:?}");
        for (line, word) in [("line 1", "HOST:PORT"), ("line 2", "1 to 1000"), ("line 3", "not a setting")] {
            assert!(said.iter().any(|e| e.starts_with(line) && e.contains(word)), "{line}: {said:?}");
        }
    }

    #[test]
    fn three_broken_lines_are_three_errors() {
        let said = errors("plane = \ncalls_max 4\nlog == 1\n");
        assert!(said.len() >= 3, "{said:?}");
        for line in ["line 1", "line 2", "line 3"] {
            assert!(said.iter().any(|e| e.starts_with(line)), "{said:?}");
        }
    }

    #[test]
    fn wrong_types_and_half_tables_are_told() {
        for (text, word) in [
            ("listen = \"127.0.0.1:1\"", "list of addresses"),
            ("listen = [\"localhost\"]", "IP:PORT"),
            ("neighbours = \"10.0.0.5\"", "IP:PORT"),
            ("neighbours = \"0.0.0.0:7444\"", "can reach"),
            ("listen = []", "1 to 16"),
            ("device = \"tpu\"", "auto, cpu, gpu"),
            ("device = 1", "text in quotes"),
            ("calls_max = \"4\"", "whole number"),
            ("drain_grace_s = -1", "0 to 3600"),
            ("url = \"fra-1\"", "http"),
            ("private_hosts = \"a\"", "list of hosts"),
            ("private_hosts = [\"https://a\"]", "NAME:PORT"),
            ("tls = 1", "table"),
            ("[telephony]\nprovider = \"bell\"\nsecret = \"a\"", "twilio or telnyx"),
            ("[telephony]\nprovider = \"twilio\"", "telephony.secret is missing"),
            ("[telephony]\nprovider = \"twilio\"\nsecret = \"a\"\napi_key = \"b\"", "for telnyx"),
            ("[telephony]\nprovider = \"telnyx\"\nsecret = \"a\"\napi = \"https://a/v2\"", "without telephony.api_key"),
            ("[telephony]\nprovider = \"telnyx\"\nsecret = \"a\"\napi_key = \"b\"\napi = \"a\"", "https://"),
            ("wyoming = true", "table with listen"),
            ("[wyoming]", "wyoming.listen is missing"),
            ("[wyoming]\nlisten = \"here\"", "IP:PORT"),
            ("[wyoming]\nlisten = \"127.0.0.1:1\"\nport = 1", "wyoming.port"),
            ("[tls]\ncertificate = \"a\"", "tls.key is missing"),
            ("webrtc = 1", "table"),
            ("[webrtc]\nlisten = \"0.0.0.0:3478\"", "webrtc.public is missing"),
            ("[webrtc]\npublic = \"::1\"", "both be IPv4"),
            ("[webrtc]\npublic = \"0.0.0.0\"", "cannot reach"),
            ("[webrtc]\nport = 5", "webrtc.port"),
            ("[tls]\ncertificate = \"a\"\nkey = \"b\"\nca = \"c\"", "tls.ca"),
        ] {
            let said = errors(text);
            assert!(said.len() == 1 && said[0].contains(word), "{text}: {said:?}");
        }
    }
}
