//! Calls by telephone over real WebSockets, with scripted models: the shapes of Twilio and of Telnyx, and peers that misbehave.

#[path = "../../tests/environments/mod.rs"]
mod environments;
mod support;

use aws_lc_rs::hmac;
use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode, Uri},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use edge_agent::{
    media::{
        codec::Format,
        telephony::{Telephony, call_control, message::Provider, signature},
    },
    node::Serving,
    outbound::Outbound,
    secrets,
};
use futures_util::{SinkExt as _, StreamExt as _};
use nearfield_shared::policy::Policy;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use support::{Did, FakeSpeech, Node, front_desk, serving, until};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{self, Message, client::IntoClientRequest as _},
};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";
const URL: &str = "https://node.example";

async fn node(provider: Provider, serving: Serving, calls_max: usize) -> Node {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    secrets::write(&secret, format!("{TOKEN}\n").as_bytes()).expect("written");
    let telephony = Telephony::new(provider, &secret, URL).expect("a secret");
    let speech = FakeSpeech::default();
    let node = Node::made(speech, serving, calls_max, |services| services.telephony = Some(Arc::new(telephony))).await;
    node.warm().await;
    node
}

async fn twilio() -> Node {
    node(Provider::Twilio, serving(vec![front_desk()]), 8).await
}

fn sign(url: &str, form: &str) -> String {
    let mut fields: Vec<(&str, &str)> = form.split('&').filter_map(|field| field.split_once('=')).collect();
    fields.sort_unstable();
    let text: String = fields.into_iter().flat_map(|(name, value)| [name, value]).collect();
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, TOKEN.as_bytes());
    STANDARD.encode(hmac::sign(&key, format!("{url}{text}").as_bytes()))
}

/// Asks as Twilio does when somebody calls; the status and the answer.
async fn incoming(node: &Node, query: &str, form: &str, signature: Option<&str>) -> (u16, String) {
    ask(node, &format!("/v1/telephony/incoming{query}"), form, signature).await
}

/// Asks as Twilio does what to do with a call; the status and the answer.
async fn ask(node: &Node, path: &str, form: &str, signature: Option<&str>) -> (u16, String) {
    let right = sign(&format!("{URL}{path}"), form);
    let request = reqwest::Client::new()
        .post(format!("http://{}{path}", node.address))
        .header("x-twilio-signature", signature.unwrap_or(&right))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form.to_owned());
    let answer = request.send().await.expect("answered");
    (answer.status().as_u16(), answer.text().await.expect("text"))
}

/// A provider's end of a media stream.
struct Peer {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    provider: Provider,
    chunk: u64,
}

impl Peer {
    async fn connect(node: &Node, signature: &str) -> Result<WebSocketStream<MaybeTlsStream<TcpStream>>, u16> {
        let url = format!("ws://{}/v1/telephony/stream", node.address);
        let mut request = url.into_client_request().expect("a request");
        request.headers_mut().insert("x-twilio-signature", signature.parse().expect("a header"));
        match tokio_tungstenite::connect_async(request).await {
            Ok((socket, _)) => Ok(socket),
            Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
            Err(other) => panic!("{other}"),
        }
    }

    /// Connected, and nothing said.
    async fn silent(node: &Node, provider: Provider) -> Self {
        let socket = Self::connect(node, &sign("wss://node.example/v1/telephony/stream", "")).await.expect("connected");
        let mut peer = Self { socket, provider, chunk: 0 };
        peer.send(json!({"event": "connected", "protocol": "Call", "version": "1.0.0"})).await;
        peer
    }

    async fn start(&mut self, encoding: &str, parameters: Value) {
        let rate = 8_000;
        let start = match self.provider {
            Provider::Twilio => json!({
                "event": "start", "sequenceNumber": "1", "streamSid": "MZ1",
                "start": {
                    "accountSid": "AC1", "streamSid": "MZ1", "callSid": "CA1", "tracks": ["inbound"],
                    "mediaFormat": {"encoding": encoding, "sampleRate": rate, "channels": 1},
                    "customParameters": parameters,
                },
            }),
            Provider::Telnyx => json!({
                "event": "start", "sequence_number": "1", "stream_id": "MZ1",
                "start": {
                    "user_id": "u", "call_control_id": "v2:x", "from": "+1", "to": "+2",
                    "media_format": {"encoding": encoding, "sample_rate": rate, "channels": 1},
                    "custom_parameters": parameters,
                },
            }),
        };
        self.send(start).await;
    }

    /// In a call.
    async fn call(node: &Node) -> Self {
        let mut peer = Self::silent(node, Provider::Twilio).await;
        peer.start("audio/x-mulaw", json!({"country": "DE", "assistant": "front-desk"})).await;
        until(|| node.services.calls.inside() > 0).await;
        peer
    }

    async fn send(&mut self, message: Value) {
        self.socket.send(Message::text(message.to_string())).await.expect("sent");
    }

    /// 20 ms of a tone or of silence in each message, as telephones send it.
    async fn audio(&mut self, ms: usize, loud: bool) {
        let format = if self.provider == Provider::Twilio { Format::Pcmu } else { Format::Pcma };
        for _ in 0..ms / 20 {
            let tone = |n: usize| if loud { 0.3 * (n as f32 * 0.4).sin() } else { 0.0 };
            let payload = STANDARD.encode(format.encode(&(0..160).map(tone).collect::<Vec<_>>()));
            self.chunk += 1;
            let media =
                json!({"track": "inbound", "chunk": self.chunk.to_string(), "timestamp": "5", "payload": payload});
            self.send(json!({"event": "media", "streamSid": "MZ1", "stream_id": "MZ1", "media": media})).await;
        }
    }

    async fn speak(&mut self) {
        self.audio(400, true).await;
        self.audio(1_000, false).await;
    }

    async fn next(&mut self) -> Option<Value> {
        loop {
            match self.socket.next().await? {
                Ok(Message::Text(text)) => return Some(serde_json::from_str(&text).expect("JSON")),
                Ok(Message::Close(_)) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// What is said until so many milliseconds of audio are here; the milliseconds, and the names of the marks.
    async fn hear(&mut self, ms: usize) -> (usize, Vec<String>) {
        let (mut heard, mut marks) = (0, Vec::new());
        while heard < ms || marks.len() * 200 < heard {
            let message = self.next().await.expect("the call goes on");
            assert_eq!(message.get("streamSid").or(message.get("stream_id")), Some(&json!("MZ1")), "{message}");
            match message["event"].as_str() {
                Some("media") => {
                    let payload = message["media"]["payload"].as_str().expect("a payload");
                    let bytes = STANDARD.decode(payload).expect("base64");
                    assert!(bytes.len() >= 160 && bytes.len() <= 1_600 && bytes.len() % 160 == 0);
                    heard += bytes.len() / 8;
                }
                Some("mark") => marks.push(message["mark"]["name"].as_str().expect("a name").to_owned()),
                _ => panic!("{message}"),
            }
        }
        (heard, marks)
    }

    async fn mark(&mut self, name: &str) {
        self.send(json!({"event": "mark", "sequenceNumber": "4", "streamSid": "MZ1", "mark": {"name": name}})).await;
    }

    /// How the stream is closed.
    async fn closed(mut self) -> (u16, String) {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return (frame.code.into(), frame.reason.to_string()),
                Some(Ok(_)) => {}
                other => panic!("closed without a reason: {other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn a_call_is_answered_from_the_first_ring_to_the_end() {
    let node = twilio().await;
    let (status, twiml) = incoming(&node, "?assistant=front-desk", "CallSid=CA1&FromCountry=DE", None).await;
    let stream = "<Connect><Stream url=\"wss://node.example/v1/telephony/stream\"><Parameter name=\"country\" value=\"DE\"/>\
                  <Parameter name=\"assistant\" value=\"front-desk\"/><Parameter name=\"transfer\" value=\"on\"/></Stream></Connect>\
                  <Redirect method=\"POST\">https://node.example/v1/telephony/after?assistant=front-desk</Redirect>";
    assert!(status == 200 && twiml.contains(stream), "{status} {twiml}");

    node.script(|s| s.words.push_back(Did::Well("When are you open?".into())));
    let mut peer = Peer::call(&node).await;
    peer.speak().await;
    // 37 letters of two sentences, each sentence filled up to 20 ms.
    let (heard, marks) = peer.hear(37 * 50).await;
    assert!((1_840..=1_900).contains(&heard), "{heard} ms");
    for mark in &marks {
        peer.mark(mark).await;
    }
    peer.send(json!({"event": "stop", "sequenceNumber": "9", "streamSid": "MZ1", "stop": {"callSid": "CA1"}})).await;
    assert_eq!(peer.next().await, None);
    node.quiet().await;
    until(|| node.services.tally.calls() == 1).await;
}

#[tokio::test]
async fn speech_over_an_answer_clears_it_and_the_marks_say_what_was_heard() {
    let node = twilio().await;
    node.script(|s| s.answers.push_back(vec![Did::Well("One two three four five. "), Did::Hangs]));
    let mut peer = Peer::call(&node).await;
    peer.speak().await;
    let (_, marks) = peer.hear(1_200).await;
    // 600 ms were played when the caller begins to speak: two words and a part of the third, whatever a clock says.
    peer.mark(&marks[2]).await;
    peer.audio(400, true).await;
    loop {
        let message = peer.next().await.expect("the call goes on");
        if message["event"] == "clear" {
            break;
        }
    }
    for mark in &marks[3..] {
        peer.mark(mark).await;
    }
    peer.audio(1_000, false).await;
    let before = node.speech.script.lock().expect("whole").prompts.len();
    until(|| node.speech.script.lock().expect("whole").prompts.len() > before.max(1)).await;
    let prompts = node.speech.script.lock().expect("whole").prompts.clone();
    let said: Vec<&str> =
        prompts.last().expect("two").iter().filter(|m| m.role == "assistant").map(|m| m.content.as_str()).collect();
    assert_eq!(said, ["One two"]);
    drop(peer);
    node.quiet().await;
}

#[tokio::test]
async fn keys_that_are_pressed_become_what_the_caller_says() {
    let node = twilio().await;
    let mut peer = Peer::call(&node).await;
    for key in ["4", "2", "#"] {
        let dtmf = json!({"track": "inbound_track", "digit": key});
        peer.send(json!({"event": "dtmf", "streamSid": "MZ1", "sequenceNumber": "5", "dtmf": dtmf})).await;
    }
    peer.hear(1_000).await;
    let prompts = node.speech.script.lock().expect("whole").prompts.clone();
    assert_eq!(prompts[0].last().map(|m| m.content.as_str()), Some("[keys: 42#]"));
    drop(peer);
    node.quiet().await;
}

#[tokio::test]
async fn a_caller_who_wants_a_person_is_put_through_and_comes_back_if_nobody_answers() {
    let mut assistant = front_desk();
    assistant.hand_over.transfer = Some("+493012345678".into());
    assistant.hand_over.closed = Some("Nobody is there. Try later.".into());
    let node = node(Provider::Twilio, serving(vec![assistant]), 8).await;
    let after = "/v1/telephony/after?assistant=front-desk";
    let form = "CallSid=CA1&FromCountry=DE";
    node.script(|s| s.words.push_back(Did::Well("i want to talk to a person".into())));
    let mut peer = Peer::silent(&node, Provider::Twilio).await;
    peer.start("audio/x-mulaw", json!({"country": "DE", "assistant": "front-desk", "transfer": "on"})).await;
    until(|| node.services.calls.inside() > 0).await;
    peer.speak().await;
    // "One moment please.", whole, and only then the end.
    let (heard, _) = peer.hear(18 * 50).await;
    assert!(heard >= 900, "{heard} ms");
    assert_eq!(peer.closed().await, (1000, "the caller is put through to a person".into()));
    node.quiet().await;

    assert_eq!(ask(&node, after, form, Some("wrong")).await.0, 403);
    let dial = "<Dial answerOnBridge=\"true\" timeout=\"30\" method=\"POST\" \
                action=\"https://node.example/v1/telephony/dialled?assistant=front-desk\"><Number>+493012345678</Number></Dial>";
    let (status, twiml) = ask(&node, after, form, None).await;
    assert!(status == 200 && twiml.contains(dial), "{status} {twiml}");
    // Asked again, or about a call that was not put through, it is the end.
    for form in [form, "CallSid=CA2"] {
        let (_, twiml) = ask(&node, after, form, None).await;
        assert!(twiml.contains("<Response><Hangup/></Response>"), "{twiml}");
    }

    let dialled = "/v1/telephony/dialled?assistant=front-desk";
    let (_, twiml) = ask(&node, dialled, "CallSid=CA1&FromCountry=DE&DialCallStatus=completed", None).await;
    assert!(twiml.contains("<Response><Hangup/></Response>"), "{twiml}");
    let (_, twiml) = ask(&node, dialled, "CallSid=CA1&FromCountry=DE&DialCallStatus=no-answer", None).await;
    assert!(twiml.contains("<Parameter name=\"greeting\" value=\"nobody_came\"/>"), "{twiml}");
    let mut peer = Peer::silent(&node, Provider::Twilio).await;
    let again = json!({"country": "DE", "assistant": "front-desk", "greeting": "nobody_came", "transfer": "on"});
    peer.start("audio/x-mulaw", again).await;
    // "Nobody is there." and "Try later."
    let (heard, _) = peer.hear(26 * 50).await;
    assert!((1_300..=1_360).contains(&heard), "{heard} ms");
    drop(peer);
    node.quiet().await;
}

#[tokio::test]
async fn without_a_number_or_a_way_to_dial_it_the_caller_waits_in_the_call() {
    let with_number = || {
        let mut assistant = front_desk();
        assistant.hand_over.transfer = Some("+493012345678".into());
        assistant
    };
    // A stream of somebody's own TwiML that does not go on, and an assistant without a number.
    for (assistant, transfer) in [(with_number(), "off"), (front_desk(), "on")] {
        let node = node(Provider::Twilio, serving(vec![assistant]), 8).await;
        node.script(|s| s.words.push_back(Did::Well("i want to talk to a person".into())));
        let mut peer = Peer::silent(&node, Provider::Twilio).await;
        peer.start("audio/x-mulaw", json!({"country": "DE", "assistant": "front-desk", "transfer": transfer})).await;
        peer.speak().await;
        peer.hear(18 * 50).await;
        node.script(|s| s.words.push_back(Did::Well("When are you open?".into())));
        peer.speak().await;
        // Over what was said, which may be cleared; the call goes on with an answer.
        let mut heard = 0;
        while heard < 37 * 50 {
            let message = peer.next().await.expect("the call goes on");
            heard += message["media"]["payload"].as_str().map_or(0, |payload| payload.len() / 4 * 3 / 8);
        }
        drop(peer);
        node.quiet().await;
    }
}

#[tokio::test]
async fn telnyx_speaks_in_snake_case_and_brings_the_secret() {
    let node = node(Provider::Telnyx, serving(vec![front_desk()]), 8).await;
    assert_eq!(
        incoming(&node, "", "CallSid=CA1", None).await.0,
        404,
        "only Twilio asks in a way that is answered here"
    );
    let mut stranger = Peer::silent(&node, Provider::Telnyx).await;
    stranger.start("PCMA", json!({"country": "DE", "secret": "guessed"})).await;
    assert_eq!(stranger.closed().await.0, 1008);
    let mut peer = Peer::silent(&node, Provider::Telnyx).await;
    peer.start("PCMA", json!({"country": "DE", "secret": TOKEN})).await;
    node.script(|s| s.words.push_back(Did::Well("When are you open?".into())));
    peer.speak().await;
    let (heard, _) = peer.hear(37 * 50).await;
    assert!((1_840..=1_900).contains(&heard), "{heard} ms");
    drop(peer);
    node.quiet().await;
}

/// A stand-in for Telnyx's Call Control API: what it was asked, and what it answers next; the last answer again and again.
#[derive(Clone)]
struct CallControlApi {
    host: String,
    asked: Arc<Mutex<Vec<(String, String, Value)>>>,
}

impl CallControlApi {
    async fn answering(statuses: &'static [u16]) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&asked);
        let answer = move |uri: Uri, headers: HeaderMap, body: Bytes| async move {
            let mut asked = noted.lock().expect("whole");
            let status = statuses[asked.len().min(statuses.len() - 1)];
            let key = headers["authorization"].to_str().expect("text").to_owned();
            asked.push((uri.path().to_owned(), key, serde_json::from_slice(&body).expect("JSON")));
            StatusCode::from_u16(status).expect("a status")
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let host = listener.local_addr().expect("an address").to_string();
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await.expect("served") });
        Self { host, asked }
    }

    /// A node that asks it to put callers through.
    async fn node(&self, private_hosts: &[String]) -> Node {
        let mut assistant = front_desk();
        assistant.hand_over.transfer = Some("+493012345678".into());
        assistant.hand_over.closed = Some("Nobody is there. Try later.".into());
        let folder = tempfile::tempdir().expect("a folder");
        let (secret, key) = (folder.path().join("secret"), folder.path().join("key"));
        secrets::write(&secret, TOKEN.as_bytes()).expect("written");
        secrets::write(&key, b"KEY0123456789\n").expect("written");
        let mut telephony = Telephony::new(Provider::Telnyx, &secret, URL).expect("a secret");
        let settings = call_control::Settings { key, api: format!("http://{}/v2", self.host) };
        telephony.use_call_control(&settings).expect("a key");
        let outbound = Outbound::new(private_hosts, folder.path()).expect("TLS");
        let node = Node::made(FakeSpeech::default(), serving(vec![assistant]), 8, |services| {
            services.telephony = Some(Arc::new(telephony));
            services.outbound = outbound;
        });
        let node = node.await;
        // The key is read at each request.
        std::mem::forget(folder);
        node.warm().await;
        node
    }

    /// A caller who has asked for a person and heard that they are put through.
    async fn caller(node: &Node) -> Peer {
        let mut peer = Peer::silent(node, Provider::Telnyx).await;
        peer.start("PCMA", json!({"country": "DE", "secret": TOKEN})).await;
        until(|| node.services.calls.inside() > 0).await;
        node.script(|s| s.words.push_back(Did::Well("i want to talk to a person".into())));
        peer.speak().await;
        let (heard, _) = peer.hear(18 * 50).await;
        assert!(heard >= 900, "{heard} ms");
        peer
    }
}

#[tokio::test]
async fn telnyx_is_asked_to_put_a_caller_through_once_however_often_it_takes() {
    let api = CallControlApi::answering(&[503, 429, 200]).await;
    let node = api.node(std::slice::from_ref(&api.host)).await;
    let peer = CallControlApi::caller(&node).await;
    assert_eq!(peer.closed().await, (1000, "the caller is put through to a person".into()));
    node.quiet().await;
    let asked = api.asked.lock().expect("whole").clone();
    let [(path, key, first), second, third] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!((path.as_str(), key.as_str()), ("/v2/calls/v2%3Ax/actions/transfer", "Bearer KEY0123456789"));
    assert_eq!((&first["to"], &first["timeout_secs"]), (&json!("+493012345678"), &json!(30)));
    assert!(first["command_id"].is_string());
    assert_eq!((first, first), (&second.2, &third.2), "one command, and Telnyx does a command once");
}

#[tokio::test]
async fn a_caller_whom_telnyx_does_not_put_through_is_told_and_stays() {
    let api = CallControlApi::answering(&[422]).await;
    // A refusal is final, and a host that is not public is not asked unless the operator names it.
    for (private_hosts, attempts) in [(vec![api.host.clone()], 1), (vec![], 1)] {
        let node = api.node(&private_hosts).await;
        let mut peer = CallControlApi::caller(&node).await;
        // "Nobody is there." and "Try later."
        peer.hear(26 * 50).await;
        assert_eq!(api.asked.lock().expect("whole").len(), attempts);
        node.script(|s| s.words.push_back(Did::Well("When are you open?".into())));
        peer.speak().await;
        // Over what was said, which may be cleared; the call goes on with an answer.
        let mut heard = 0;
        while heard < 37 * 50 {
            let message = peer.next().await.expect("the call goes on");
            heard += message["media"]["payload"].as_str().map_or(0, |payload| payload.len() / 4 * 3 / 8);
        }
        drop(peer);
        node.quiet().await;
    }
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let (secret, key) = (folder.path().join("secret"), folder.path().join("key"));
    secrets::write(&secret, TOKEN.as_bytes()).expect("written");
    secrets::write(&key, b"KEY").expect("written");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("set");
    let mut telephony = Telephony::new(Provider::Telnyx, &secret, URL).expect("a secret");
    let settings = |api: &str| call_control::Settings { key: key.clone(), api: api.into() };
    let refused = telephony.use_call_control(&settings(call_control::API)).expect_err("too open").to_string();
    assert!(refused.starts_with("telephony.api_key:") && refused.contains("chmod"), "{refused}");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("set");
    let refused = telephony.use_call_control(&settings("http://api.example.com")).expect_err("no TLS").to_string();
    assert!(refused.starts_with("telephony.api:") && refused.contains("https"), "{refused}");
    telephony.use_call_control(&settings(call_control::API)).expect("fine");
}

#[tokio::test]
async fn who_is_not_the_provider_gets_nothing() {
    let node = twilio().await;
    let good = sign("wss://node.example/v1/telephony/stream", "");
    for wrong in ["", "AAAA", &sign("wss://node.example/v1/telephony/other", ""), &good[1..]] {
        assert_eq!(Peer::connect(&node, wrong).await.err(), Some(403), "{wrong}");
        assert_eq!(incoming(&node, "", "CallSid=CA1&FromCountry=DE", Some(wrong)).await.0, 403, "{wrong}");
    }
    let of_another_form = sign("https://node.example/v1/telephony/incoming", "CallSid=CA1");
    assert_eq!(incoming(&node, "", "CallSid=CA2", Some(&of_another_form)).await.0, 403);
    let plain = reqwest::get(format!("http://{}/v1/telephony/stream", node.address)).await.expect("answered");
    assert_eq!(plain.status(), 426);
    let plain = support::Node::start().await;
    assert_eq!(incoming(&plain, "", "CallSid=CA1", None).await.0, 404, "a node without [telephony] has no such door");
    assert_eq!(Peer::connect(&plain, &good).await.err(), Some(404));
}

#[tokio::test]
async fn the_law_and_a_full_node_are_told_as_a_telephone_tells_it() {
    let mut german = serving(vec![front_desk()]);
    let policy = german.policy.take().expect("a policy");
    german.policy = Some(Policy { serves_countries: vec!["DE".into()], ..policy });
    let node = node(Provider::Twilio, german, 1).await;
    for (query, form, verb) in [
        ("", "FromCountry=DE", "<Connect>"),
        ("", "FromCountry=US", "<Reject reason=\"rejected\"/>"),
        ("", "FromCountry=", "<Reject reason=\"rejected\"/>"),
        ("", "From=anonymous", "<Reject reason=\"rejected\"/>"),
        ("?assistant=nobody", "FromCountry=DE", "<Reject reason=\"rejected\"/>"),
    ] {
        let (status, twiml) = incoming(&node, query, form, None).await;
        assert!(status == 200 && twiml.contains(verb), "{query} {form}: {status} {twiml}");
    }
    for parameters in [json!({"country": "US"}), json!({}), json!({"country": "Germany"})] {
        let mut peer = Peer::silent(&node, Provider::Twilio).await;
        peer.start("audio/x-mulaw", parameters).await;
        let (code, reason) = peer.closed().await;
        assert!(code == 1008 && reason.starts_with("451"), "{code} {reason}");
    }
    let caller = Peer::call(&node).await;
    let (_, twiml) = incoming(&node, "", "FromCountry=DE", None).await;
    assert!(twiml.contains("<Reject reason=\"busy\"/>"), "{twiml}");
    let mut second = Peer::silent(&node, Provider::Twilio).await;
    second.start("audio/x-mulaw", json!({"country": "DE"})).await;
    assert_eq!(second.closed().await.0, 1013);
    drop(caller);
    node.quiet().await;
}

#[tokio::test]
async fn streams_that_misbehave_end_with_a_reason_and_others_go_on() {
    let node = twilio().await;
    node.script(|s| s.words.push_back(Did::Well("When are you open?".into())));
    let mut good = Peer::call(&node).await;
    let mut early = Peer::silent(&node, Provider::Twilio).await;
    early.audio(20, true).await;
    assert_eq!(early.closed().await.0, 1008, "audio before the start");
    for format in ["audio/l16", "PCM", ""] {
        let mut peer = Peer::silent(&node, Provider::Twilio).await;
        peer.start(format, json!({"country": "DE"})).await;
        assert_eq!(peer.closed().await.0, 1003, "{format}");
    }
    let mut none = Peer::silent(&node, Provider::Twilio).await;
    none.socket.send(Message::text("hello")).await.expect("sent");
    assert_eq!(none.closed().await.0, 1003);
    let mut binary = Peer::silent(&node, Provider::Twilio).await;
    binary.socket.send(Message::binary(vec![1, 2, 3])).await.expect("sent");
    assert_eq!(binary.closed().await.0, 1003);
    let mut large = Peer::silent(&node, Provider::Twilio).await;
    large.start("audio/x-mulaw", json!({"country": "DE"})).await;
    let payload = "A".repeat(1 << 20);
    // It may be closed before all of it is sent.
    let _broken =
        large.socket.send(Message::text(json!({"event": "media", "media": {"payload": payload}}).to_string())).await;
    assert_eq!(large.closed().await.0, 1009);
    let mut twice = Peer::silent(&node, Provider::Twilio).await;
    twice.start("audio/x-mulaw", json!({"country": "DE"})).await;
    twice.start("audio/x-mulaw", json!({"country": "DE"})).await;
    assert_eq!(twice.closed().await.0, 1008);

    // What is not known, cannot be read, or is another stream's is passed over.
    for odd in [
        json!({"event": "tomorrow", "streamSid": "MZ1"}),
        json!({"event": "media", "streamSid": "MZ1", "media": {"payload": "%%%"}}),
        json!({"event": "media", "streamSid": "MZ9", "media": {"chunk": "1", "payload": "AAAA"}}),
        json!({"event": "mark", "streamSid": "MZ1"}),
        json!({"event": "dtmf", "streamSid": "MZ1", "dtmf": {"track": "inbound_track", "digit": "ten"}}),
        json!([1, 2, 3]),
    ] {
        good.send(odd).await;
    }
    good.speak().await;
    let (heard, _) = good.hear(37 * 50).await;
    assert!((1_840..=1_900).contains(&heard), "{heard} ms");
    drop(good);
    node.quiet().await;
}

#[test]
fn signatures_are_those_of_the_official_package() {
    let target = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = std::process::Command::new(environments::python(target, "twilio==9.13.0"));
    let command = command.arg(environments::script("telephony/signatures.py")).arg(TOKEN);
    let signed = environments::printed(command, "sign with the official package of Twilio");
    let signed = signed.as_array().expect("a list");
    assert_eq!(signed.len(), 8);
    for request in signed {
        let form: Vec<(String, String)> = serde_json::from_value(request["form"].clone()).expect("pairs");
        let (url, told) = (request["url"].as_str().expect("text"), request["signature"].as_str().expect("text"));
        assert!(signature::holds(TOKEN.as_bytes(), url, &form, told), "{url}");
        assert!(!signature::holds(b"another token of the same", url, &form, told), "{url}");
        assert!(!signature::holds(TOKEN.as_bytes(), &format!("{url}/"), &form, told), "{url}");
    }
}
