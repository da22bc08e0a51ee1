//! Many clients at once, and clients that vanish: what they leave behind is counted exactly, and is nothing.
//!
//! One test at a time, because all of the process is counted: its live bytes, its tasks, its open files.

mod support;

use futures_util::{SinkExt as _, StreamExt as _, future::join_all};
use serde_json::json;
use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::{
        Arc,
        atomic::{AtomicIsize, Ordering},
    },
};
use support::{Client, FakeSpeech, Node, Script, front_desk, serving, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Barrier, Mutex},
};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest as _, protocol::CloseFrame};

/// Counts what is allocated and not freed.
struct Counting;

static LIVE_BYTES: AtomicIsize = AtomicIsize::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: the caller's promises about `layout` hold for it too.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size() as isize, Ordering::Relaxed);
        // SAFETY: `at` came from `alloc` above, that is from the system.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALONE: Mutex<()> = Mutex::const_new(());

/// Clients that connect and vanish.
const VANISHING: usize = 1_000;

/// Those of them that are there at once.
const TOGETHER: usize = 50;

/// Bytes that a thousand clients may leave: what the runtime keeps for the next ones. A call that stayed would have its outbox, its
/// history and its audio, some ten kilobytes, and a thousand of them ten megabytes.
const LEFT_BYTES_MAX: isize = 256 << 10;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// What a node and its process hold.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    calls: usize,
    detectors: usize,
    places: usize,
    jobs: usize,
    tasks: usize,
    files: usize,
}

fn held(node: &Node) -> Held {
    Held {
        calls: node.services.calls.inside(),
        detectors: node.speech.slots_open.load(Ordering::SeqCst),
        places: node.speech.places.load(Ordering::SeqCst),
        jobs: node.speech.jobs.load(Ordering::SeqCst),
        tasks: tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        files: open_files(),
    }
}

async fn connect_raw(node: &Node) -> TcpStream {
    TcpStream::connect(node.address).await.expect("connected")
}

/// Connects, gets as far as `moment`, and is gone.
async fn vanish(node: &Node, moment: usize) {
    let upgrade = "GET /v1/realtime?model=m HTTP/1.1\r\nHost: node\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    match moment {
        0 => drop(connect_raw(node).await),
        1 => {
            let mut socket = connect_raw(node).await;
            socket.write_all(&upgrade.as_bytes()[..90]).await.expect("sent");
        }
        // Asks for the upgrade and does not wait for it.
        2 => {
            let mut socket = connect_raw(node).await;
            socket.write_all(upgrade.as_bytes()).await.expect("sent");
        }
        3 => {
            let mut socket = connect_raw(node).await;
            socket.write_all(upgrade.as_bytes()).await.expect("sent");
            let mut some = [0; 16];
            socket.read_exact(&mut some).await.expect("answered");
            // A frame of 60,000 bytes, of which some come.
            let head = [&[0x81, 0xfe, 0xea, 0x60, 1, 2, 3, 4][..], &[b'x'; 1_000]].concat();
            socket.write_all(&head).await.expect("sent");
        }
        4 => {
            let mut client = node.call().await;
            client.append(300, true).await;
        }
        5 => {
            let mut client = node.call().await;
            client.manual().await;
            let item = json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]});
            client.send(json!({"type": "conversation.item.create", "item": item})).await;
            client.ask(json!({"type": "response.create"}), "response.output_audio.delta").await;
        }
        6 => {
            let mut client = node.call().await;
            client.server_vad().await;
            client.speak(300).await;
            client.expect("input_audio_buffer.committed").await;
        }
        _ => {
            let mut client = node.call().await;
            let goodbye = CloseFrame { code: 1000.into(), reason: "".into() };
            client.socket.close(Some(goodbye)).await.expect("closed");
        }
    }
}

async fn a_thousand_vanish(node: &Node) {
    let mut crowd = futures_util::stream::iter(0..VANISHING).map(|n| vanish(node, n % 8)).buffer_unordered(TOGETHER);
    while crowd.next().await.is_some() {}
}

#[tokio::test]
async fn a_thousand_clients_that_vanish_leave_nothing() {
    let _alone = ALONE.lock().await;
    // Work takes some milliseconds, so that there is some to vanish from.
    let speech = FakeSpeech { work_ms: 5, ..FakeSpeech::default() };
    let node = Node::with(speech, serving(vec![front_desk()]), 2 * TOGETHER).await;
    node.warm().await;
    until(|| held(&node).jobs == 0).await;
    let before = held(&node);
    let mut live = Vec::new();
    for _ in 0..3 {
        a_thousand_vanish(&node).await;
        // Whoever left is noticed a moment later.
        until(|| held(&node) == before).await;
        // What the script noted is the test's own.
        node.script(|script| *script = Script::default());
        live.push(LIVE_BYTES.load(Ordering::Relaxed));
    }
    println!("live bytes after each thousand: {live:?}");
    // The first thousand fill what is kept for later ones.
    assert!(live[2] - live[1] < LEFT_BYTES_MAX, "{live:?}");
    assert_eq!(node.services.calls.refused(), 0, "there was room for everybody");
    assert!(node.services.calls.admitted() >= 3 * VANISHING as u64 / 2);
    let mut client = node.call().await;
    client.server_vad().await;
    client.speak(300).await;
    assert_eq!(client.expect("response.done").await["response"]["status"], "completed");
}

/// Comes in and holds a whole call; otherwise how it was turned away: the status, and after how many seconds to come again.
async fn call_or_refusal(url: String, all_came: Arc<Barrier>) -> Result<String, (u16, u64)> {
    let (socket, _) = match tokio_tungstenite::connect_async(url.into_client_request().expect("a request")).await {
        Ok(connected) => connected,
        Err(tungstenite::Error::Http(answer)) => {
            all_came.wait().await;
            let again = answer.headers().get("retry-after").and_then(|v| v.to_str().ok()?.parse().ok());
            return Err((answer.status().as_u16(), again.expect("a hint when to come again")));
        }
        Err(other) => panic!("{other}"),
    };
    let mut client = Client { socket, seen: vec![] };
    client.expect("session.created").await;
    client.server_vad().await;
    client.speak(300).await;
    let done = client.expect("response.done").await;
    all_came.wait().await;
    Ok(done["response"]["status"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn of_two_hundred_calls_at_once_twelve_are_served_and_the_rest_are_told_when_to_come() {
    let _alone = ALONE.lock().await;
    let speech = FakeSpeech { work_ms: 5, ..FakeSpeech::default() };
    let node = Node::with(speech, serving(vec![front_desk()]), 12).await;
    node.warm().await;
    let all_came = Arc::new(Barrier::new(200));
    let outcomes = join_all((0..200).map(|_| call_or_refusal(node.url(), Arc::clone(&all_came)))).await;
    let served: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    assert_eq!(served, vec!["completed"; 12]);
    for refused in outcomes.iter().filter_map(|outcome| outcome.as_ref().err()) {
        assert_eq!(*refused, (503, 5));
    }
    assert_eq!((node.services.calls.admitted(), node.services.calls.refused()), (12, 188));
    node.quiet().await;
    // Whoever comes again then is served.
    assert_eq!(call_or_refusal(node.url(), Arc::new(Barrier::new(1))).await, Ok("completed".into()));
}

#[tokio::test]
async fn a_slow_reader_is_told_why_it_is_sent_away() {
    let _alone = ALONE.lock().await;
    let node = Node::start().await;
    node.warm().await;
    let before = held(&node);
    let mut client = node.call().await;
    let wrong = json!({"type": "no.such.event", "event_id": "x".repeat(100)}).to_string();
    let mut other = node.call().await;
    let sent_away = until(|| node.services.calls.inside() == 1);
    tokio::pin!(sent_away);
    loop {
        tokio::select! {
            sent = client.socket.send(Message::Text(wrong.clone().into())) => sent.expect("the node still reads"),
            // In the middle of a message, since nobody takes any more of it.
            () = &mut sent_away => break,
        }
    }
    // It reads at last: what was under way, and then the reason.
    let mut reason = None;
    while let Some(Ok(message)) = client.socket.next().await {
        if let Message::Close(Some(frame)) = message {
            reason = Some((u16::from(frame.code), frame.reason.to_string()));
        }
    }
    let (code, words) = reason.expect("a close frame with a reason");
    assert!(code == 1008 && words.contains("too slowly"), "{code} {words}");
    other.server_vad().await;
    other.speak(300).await;
    assert_eq!(other.expect("response.done").await["response"]["status"], "completed");
    drop((client, other));
    until(|| held(&node) == before).await;
}
