//! From the address of a node to an open WebSocket.

use super::{CallError, CallKey, CallOptions, tls};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
    tungstenite::{self, client::IntoClientRequest as _},
};
use zeroize::Zeroizing;

/// Opens a call: TCP, TLS where the address says so, the key where there is one.
pub(super) async fn connect(options: &CallOptions) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, CallError> {
    let url = realtime_url(options)?;
    let mut request = url.as_str().into_client_request().map_err(|_| CallError::Address(options.url.clone()))?;
    let encrypted = url.starts_with("wss:");
    if let Some(CallKey(key)) = &options.key {
        if !encrypted && !request.uri().host().is_some_and(is_this_machine) {
            return Err(CallError::KeyInTheClear(options.url.clone()));
        }
        let value = Zeroizing::new(format!("Bearer {}", key.as_str()));
        let value =
            value.parse().map_err(|_| CallError::Address("a key with characters that no header takes".into()))?;
        request.headers_mut().insert(tungstenite::http::header::AUTHORIZATION, value);
    }
    let connector = match encrypted {
        true => Connector::Rustls(tls::client_config(options.ca.as_deref())?),
        false => Connector::Plain,
    };
    match connect_async_tls_with_config(request, None, true, Some(connector)).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(response)) => {
            let body: Value =
                serde_json::from_slice(response.body().as_deref().unwrap_or_default()).unwrap_or_default();
            let message = body["error"]["message"].as_str().unwrap_or("no reason was given").to_owned();
            Err(CallError::Refused { status: response.status().as_u16(), message })
        }
        Err(tungstenite::Error::Url(_)) => Err(CallError::Address(options.url.clone())),
        Err(tungstenite::Error::Io(e)) => Err(match certificate_fault(&e) {
            Some(reason) => CallError::Untrusted { url: options.url.clone(), reason },
            None => CallError::Unreachable { url: options.url.clone(), reason: e.to_string() },
        }),
        Err(e) => Err(CallError::Unreachable { url: options.url.clone(), reason: e.to_string() }),
    }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// What is wrong with the other side's certificate, where it is that which ended a handshake.
fn certificate_fault(error: &std::io::Error) -> Option<String> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(fault) => Some(fault.to_string()),
        _ => None,
    }
}

/// The WebSocket address of a call. `http` becomes `ws`; a node's base URL gets the path.
fn realtime_url(options: &CallOptions) -> Result<String, CallError> {
    let url = options.url.trim().trim_end_matches('/');
    let (scheme, rest) = url.split_once("://").ok_or_else(|| CallError::Address(url.to_owned()))?;
    let scheme = match scheme {
        "ws" | "http" => "ws",
        "wss" | "https" => "wss",
        _ => return Err(CallError::Address(url.to_owned())),
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let place = place.trim_end_matches('/');
    if place.is_empty() || place.starts_with('/') {
        return Err(CallError::Address(url.to_owned()));
    }
    let place = match place.split_once('/') {
        None => format!("{place}/v1/realtime"),
        Some((host, "v1")) => format!("{host}/v1/realtime"),
        Some(_) => place.to_owned(),
    };
    let own = [
        Some("greeting=off".to_owned()),
        options.assistant.as_ref().map(|name| format!("assistant={}", escape(name))),
        options.country.as_ref().map(|code| format!("country={}", escape(code))),
        options.location.map(|at| format!("latitude={}&longitude={}", at.latitude, at.longitude)),
    ];
    let query: Vec<String> =
        (!query.is_empty()).then(|| query.to_owned()).into_iter().chain(own.into_iter().flatten()).collect();
    Ok(format!("{scheme}://{place}?{}", query.join("&")))
}

/// Percent-encodes what is not plainly a letter, digit or `-._~`.
fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::Recording, *};
    use nearfield_shared::region::Location;

    fn options(url: &str) -> CallOptions {
        CallOptions::new(url, Recording { samples: vec![], rate_hz: 24_000 })
    }

    #[test]
    fn an_address_becomes_that_of_a_call() {
        let check = |url: &str, expect: Option<&str>| {
            assert_eq!(realtime_url(&options(url)).ok().as_deref(), expect, "{url}");
        };
        check("ws://h:1", Some("ws://h:1/v1/realtime?greeting=off"));
        check("http://h:1/", Some("ws://h:1/v1/realtime?greeting=off"));
        check("https://h/v1", Some("wss://h/v1/realtime?greeting=off"));
        check("wss://h/v1/realtime?model=x", Some("wss://h/v1/realtime?model=x&greeting=off"));
        check("h:1", None);
        check("ftp://h", None);
        check("ws://", None);
        let stated = CallOptions {
            assistant: Some("a b&c".into()),
            country: Some("DE".into()),
            location: Some(Location { latitude: 52.5, longitude: -0.25 }),
            ..options("ws://h")
        };
        assert_eq!(
            realtime_url(&stated).ok().as_deref(),
            Some("ws://h/v1/realtime?greeting=off&assistant=a%20b%26c&country=DE&latitude=52.5&longitude=-0.25")
        );
    }

    #[tokio::test]
    async fn a_key_leaves_this_machine_over_tls_only() {
        let key = Some("a-key-of-enough-bytes-for-callers".parse::<CallKey>().expect("a key"));
        for url in ["ws://node.example:7700", "http://192.0.2.1", "ws://[2001:db8::1]:1"] {
            let error = connect(&CallOptions { key: key.clone(), ..options(url) }).await.expect_err("refused");
            assert!(matches!(&error, CallError::KeyInTheClear(_)) && error.to_string().contains("wss://"), "{error}");
        }
        assert!(["localhost", "127.0.0.1", "[::1]"].into_iter().all(is_this_machine));
    }

    #[test]
    fn a_key_never_prints_and_fits_into_a_header() {
        let key: CallKey = " a-key-of-enough-bytes\n".parse().expect("a key");
        assert_eq!((format!("{key:?}"), key.0.as_str()), ("CallKey(..)".to_owned(), "a-key-of-enough-bytes"));
        for wrong in ["", " ", "two words", "schlüssel", "a\nb"] {
            wrong.parse::<CallKey>().expect_err(wrong);
        }
    }
}
