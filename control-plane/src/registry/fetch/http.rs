//! One HTTP download into a partial file: resumed with `Range` where the server allows, retried while it makes progress.

use super::{Event, FetchError, Progress};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    thread,
    time::Duration,
};

/// Attempts in a row that may bring no byte before it is given up.
const ATTEMPTS_MAX: u32 = 4;
/// Pause before the second attempt; doubled each time.
const PAUSE: Duration = Duration::from_millis(300);
/// Longest wait for a connection, and for the next bytes of a body.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const READ_TIMEOUT: Duration = Duration::from_secs(60);

/// What to download.
pub(super) struct Request {
    pub url: String,
    /// Where the bytes go; what is there already is not fetched again.
    pub partial: PathBuf,
    /// Its name for messages and progress.
    pub what: String,
    /// Its size, where a pin tells.
    pub bytes_expected: Option<u64>,
    /// The size at which it is given up.
    pub bytes_max: u64,
    pub progress: Arc<dyn Progress>,
}

/// How one attempt ended, other than well.
enum Fault {
    /// May work next time.
    Network(String),
    /// Will not.
    Final(FetchError),
}

/// Downloads. Blocks; runs on a thread with a runtime of its own, so that it may be called from anywhere.
pub(super) fn download(request: Request) -> Result<(), FetchError> {
    let what = request.what.clone();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| FetchError::disk(&request.partial, e))?;
        runtime.block_on(attempts(&request))
    };
    thread::Builder::new()
        .name("download".into())
        .spawn(run)
        .map_err(|e| FetchError::NoNetwork { what: what.clone(), why: format!("no thread could be started: {e}") })?
        .join()
        .unwrap_or_else(|_| Err(FetchError::NoNetwork { what, why: "the download thread panicked".into() }))
}

async fn attempts(request: &Request) -> Result<(), FetchError> {
    let client = reqwest::Client::builder()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(READ_TIMEOUT)
        .user_agent(concat!("nearfield/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| FetchError::NoNetwork { what: request.what.clone(), why: chain(&e) })?;
    let mut failed = 0;
    loop {
        let before = length(request)?;
        match attempt(&client, request, before).await {
            Ok(()) => return Ok(()),
            Err(Fault::Final(e)) => return Err(e),
            Err(Fault::Network(why)) => {
                failed = if length(request)? > before { 1 } else { failed + 1 };
                if failed >= ATTEMPTS_MAX {
                    return Err(FetchError::NoNetwork { what: request.what.clone(), why });
                }
                tracing::debug!(what = request.what, why, failed, "the download was cut; trying again");
                tokio::time::sleep(PAUSE * 2u32.pow(failed - 1)).await;
            }
        }
    }
}

fn length(request: &Request) -> Result<u64, FetchError> {
    match fs::metadata(&request.partial) {
        Ok(m) => Ok(m.len()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(e) => Err(FetchError::disk(&request.partial, e)),
    }
}

async fn attempt(client: &reqwest::Client, request: &Request, have: u64) -> Result<(), Fault> {
    if request.bytes_expected == Some(have) {
        return Ok(());
    }
    let disk = |e| Fault::Final(FetchError::disk(&request.partial, e));
    let mut get = client.get(&request.url).header("accept-encoding", "identity");
    if have > 0 {
        get = get.header("range", format!("bytes={have}-"));
    }
    let mut response = get.send().await.map_err(|e| Fault::Network(chain(&e)))?;
    let status = response.status().as_u16();
    let mut have = have;
    match status {
        206 if starts_at(&response, have) => {}
        // The whole file, from a server that does not resume; or a range that is not the one asked for.
        200 => have = 0,
        // The partial file is as long as the file, or longer: a longer one is useless. The digest decides about the other.
        416 if total_of_range(&response) == Some(have) => return Ok(()),
        206 | 416 => {
            File::create(&request.partial).map_err(disk)?;
            return Err(Fault::Network(format!("the server cannot resume at byte {have}")));
        }
        408 | 429 | 500..=599 => return Err(Fault::Network(format!("the server answered {}", response.status()))),
        _ => {
            let status = response.status().to_string();
            return Err(Fault::Final(FetchError::Refused { what: request.what.clone(), status }));
        }
    }
    let total = response.content_length().map(|rest| have + rest).or(request.bytes_expected);
    let limit = request.bytes_expected.unwrap_or(request.bytes_max);
    let too_large = |found| {
        Fault::Final(FetchError::WrongSize { what: request.what.clone(), expected: limit, found, at_least: true })
    };
    if let Some(total) = total.filter(|t| *t > limit) {
        return Err(too_large(total));
    }
    let mut file = File::options().create(true).append(true).open(&request.partial).map_err(disk)?;
    if have == 0 && file.metadata().map_err(disk)?.len() > 0 {
        file.set_len(0).map_err(disk)?;
    }
    let report = |done_bytes| {
        request.progress.event(Event::Downloading { what: &request.what, done_bytes, total_bytes: total });
    };
    report(have);
    while let Some(bytes) = response.chunk().await.map_err(|e| Fault::Network(chain(&e)))? {
        have += bytes.len() as u64;
        if have > limit {
            return Err(too_large(have));
        }
        file.write_all(&bytes).map_err(disk)?;
        report(have);
    }
    file.sync_all().map_err(disk)?;
    match total {
        Some(total) if have < total => Err(Fault::Network(format!("it was cut at byte {have} of {total}"))),
        _ => Ok(()),
    }
}

fn content_range(response: &reqwest::Response) -> Option<&str> {
    response.headers().get("content-range")?.to_str().ok()?.strip_prefix("bytes ")
}

fn starts_at(response: &reqwest::Response, have: u64) -> bool {
    content_range(response).and_then(|r| r.split('-').next()?.parse().ok()) == Some(have)
}

fn total_of_range(response: &reqwest::Response) -> Option<u64> {
    content_range(response)?.rsplit('/').next()?.parse().ok()
}

/// An error with its causes, without the address: an index's address may hold credentials.
fn chain(error: &reqwest::Error) -> String {
    let mut text = if error.is_timeout() { "it took too long".to_owned() } else { "the connection failed".to_owned() };
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
