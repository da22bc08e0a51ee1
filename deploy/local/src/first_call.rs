//! One real call: ask the control plane for the nearest permitted node, speak, listen, say where the time went.

use crate::home::Home;
use anyhow::{Context, Result, bail};
use control_plane::registry::{Cache, Catalogue, Fetcher, speech};
use edge_agent::call_client::{CallOptions, CallOutcome, Recording, place_call, wav};
use nearfield_shared::{
    region::Location,
    routing::{RouteAnswer, RoutedNode},
};
use reqwest::StatusCode;
use std::{
    fs,
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

/// Samples per second of an answer.
const ANSWER_HZ: u32 = 24_000;

/// How long a caller asks again while the control plane knows of no node that is up.
const ROUTE_PATIENCE: Duration = Duration::from_secs(30);

/// Where a caller says they are.
#[derive(Debug, Clone, PartialEq)]
pub struct Caller {
    /// ISO 3166-1 alpha-2.
    pub country: String,
    /// Degrees north.
    pub latitude: f64,
    /// Degrees east.
    pub longitude: f64,
}

impl FromStr for Caller {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let expected =
            || format!("`{s}` is not a place; say country, latitude and longitude, for example DE,52.52,13.40");
        let [country, latitude, longitude] = s.split(',').map(str::trim).collect::<Vec<_>>()[..] else {
            return Err(expected());
        };
        if country.len() != 2 || !country.bytes().all(|byte| byte.is_ascii_alphabetic()) {
            return Err(expected());
        }
        Ok(Self {
            country: country.to_ascii_uppercase(),
            latitude: latitude.parse().map_err(|_| expected())?,
            longitude: longitude.parse().map_err(|_| expected())?,
        })
    }
}

/// What the caller says, and where it comes from.
#[derive(Debug)]
pub struct Question {
    source: String,
    recording: Recording,
}

impl Question {
    /// The user's own recording.
    ///
    /// # Errors
    /// When the file is not a WAV file that can be read.
    pub fn from_file(file: &Path) -> Result<Self> {
        Ok(Self { source: file.display().to_string(), recording: Recording::from_wav(file)? })
    }

    /// The recorded question of the catalogue: real speech from a public package.
    ///
    /// # Errors
    /// When it is not cached and cannot be fetched.
    pub async fn recorded(home: &Home, offline: bool) -> Result<Self> {
        let utterance = tokio::task::spawn_blocking(move || -> Result<speech::Utterance> {
            let fetcher = Fetcher { offline, ..Fetcher::new(Cache::of_user()?) };
            Ok(Catalogue::builtin()?.speech()?.question(&fetcher)?)
        })
        .await
        .context("fetching the recorded question ended unexpectedly")??;
        let file = home.root().join("question.wav");
        fs::write(&file, utterance.wav()).with_context(|| format!("cannot write {}", file.display()))?;
        let recording = Recording { samples: utterance.samples(), rate_hz: speech::RATE_HZ };
        Ok(Self { source: format!("a recorded question ({})", file.display()), recording })
    }
}

/// Places one call and prints what came of it.
///
/// # Errors
/// When no node may serve the caller, or the call fails.
pub async fn place(home: &Home, route_url: &str, caller: &Caller, question: Question, json: bool) -> Result<()> {
    let node = nearest(route_url, caller).await?;
    eprintln!(
        "\nA caller in {} ({}, {}) asks with {}.",
        caller.country, caller.latitude, caller.longitude, question.source
    );
    eprintln!(
        "Nearest permitted node: {} in {} (law: {}){}\n",
        node.node,
        node.region,
        node.jurisdiction,
        node.distance_km.map(|km| format!(", {km} km away")).unwrap_or_default()
    );
    let mut options = CallOptions::new(&node.url, question.recording);
    // The node's door judges by the same facts as the route did.
    options.country = Some(caller.country.clone());
    options.location = Some(Location { latitude: caller.latitude, longitude: caller.longitude });
    let outcome = place_call(options).await?;
    let answer = write_answer(home, &outcome)?;
    if json {
        let mut value = serde_json::to_value(&outcome).context("the outcome is not JSON")?;
        value["wav"] = answer.display().to_string().into();
        println!("{value}");
    } else {
        print!("{}", outcome.to_text());
        println!("\nThe answer as sound: {}", answer.display());
    }
    if outcome.status != "completed" {
        bail!("the answer ended as `{}`; the agent's log is {}", outcome.status, home.log("agent-<region>").display());
    }
    Ok(())
}

async fn nearest(route_url: &str, caller: &Caller) -> Result<RoutedNode> {
    let Caller { country, latitude, longitude } = caller;
    let url = format!("{route_url}?country={country}&latitude={latitude}&longitude={longitude}");
    let deadline = Instant::now() + ROUTE_PATIENCE;
    let response = loop {
        let response = reqwest::get(&url).await.context("the control plane gives no route")?;
        // A node that has just gone live tells the control plane so a moment later.
        if response.status() != StatusCode::SERVICE_UNAVAILABLE || Instant::now() > deadline {
            break response;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    if !response.status().is_success() {
        let status = response.status();
        bail!("no route for this caller ({status}): {}", response.text().await.unwrap_or_default());
    }
    let answer: RouteAnswer = response.json().await.context("the route cannot be read")?;
    answer.nodes.into_iter().next().context("the route names no node")
}

fn write_answer(home: &Home, outcome: &CallOutcome) -> Result<PathBuf> {
    let folder = home.answers();
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let file = (1..).map(|n| folder.join(format!("answer-{n:03}.wav"))).find(|file| !file.exists());
    let file = file.context("there is no free name for the answer")?;
    wav::write(&file, ANSWER_HZ, &outcome.audio)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_country_and_a_position() {
        let berlin = Caller { country: "DE".into(), latitude: 52.52, longitude: 13.4 };
        assert_eq!("DE, 52.52,13.40".parse(), Ok(berlin));
        for wrong in ["", "D&,52.52,13.40", "DE", "DE,52", "DE,north,13", "DE,1,2,3"] {
            let error = wrong.parse::<Caller>().expect_err(wrong);
            assert!(error.contains("for example"), "{error}");
        }
    }
}
