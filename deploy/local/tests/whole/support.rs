//! What the tests of the whole system share: a folder, regions, recordings, ears.

use control_plane::registry::{Cache, Catalogue, Fetcher, ensure, speech::Utterance};
use edge_agent::{
    call_client::{CallOptions, CallOutcome, Recording, place_call},
    media::resample::Resampler,
};
use nearfield::{home::Home, process::Launcher, system::Options};
use nearfield_inference::{
    Device,
    asr::{Moonshine, RATE_HZ},
};
use nearfield_shared::gguf::Gguf;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// The binary under test.
pub const NEARFIELD: &str = env!("CARGO_BIN_EXE_nearfield");

/// The project's own regions.
pub fn project_regions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../regions")
}

/// A local system's folders, gone when the test ends.
pub struct Place {
    pub home: Home,
    pub options: Options,
    _folder: tempfile::TempDir,
}

impl Place {
    /// One region, `eu-central`, whose file is the project's own after `change`.
    pub fn with_one_region(change: impl Fn(String) -> String) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let regions = folder.path().join("regions");
        fs::create_dir_all(regions.join("assistants")).unwrap();
        let own = project_regions();
        let region = fs::read_to_string(own.join("eu-central.toml")).unwrap();
        fs::write(regions.join("eu-central.toml"), change(region)).unwrap();
        fs::copy(own.join("assistants/front-desk.toml"), regions.join("assistants/front-desk.toml")).unwrap();
        let home = Home::open(&folder.path().join("state")).unwrap();
        let options =
            Options { launcher: Launcher::of(NEARFIELD), regions, offline: false, device: Some("cpu".to_owned()) };
        Self { home, options, _folder: folder }
    }
}

/// A recording of the catalogue.
pub fn utterance(id: &str) -> Utterance {
    let fetcher = Fetcher::new(Cache::of_user().unwrap());
    let speech = Catalogue::builtin().unwrap().speech().unwrap();
    speech.get(&fetcher, &[id]).unwrap().remove(0)
}

/// Calls a node with a recording, sent at once.
pub async fn call(url: &str, utterance: &Utterance, real_time: bool) -> CallOutcome {
    let recording = Recording { samples: utterance.samples(), rate_hz: control_plane::registry::speech::RATE_HZ };
    let mut options = CallOptions::new(url, recording);
    options.country = Some("DE".to_owned());
    options.real_time = real_time;
    options.consent = true;
    place_call(options).await.unwrap()
}

/// What our own recogniser hears in 24 kHz audio, cut where it is long.
pub fn read_back(samples: &[f32]) -> String {
    let path = ensure(&["moonshine-tiny"]).unwrap().remove(0);
    let moonshine = Moonshine::load(&Gguf::open(path).unwrap(), &Device::flex()).unwrap();
    let mut resampler = Resampler::new(24_000, RATE_HZ as u32).unwrap();
    let mut audio = resampler.push(samples);
    audio.extend(resampler.flush());
    // The recogniser takes up to 30 s, and hears best what is a sentence or two.
    pieces_at_pauses(&audio).map(|piece| moonshine.transcribe(piece).unwrap()).collect::<Vec<_>>().join(" ")
}

/// Cuts 16 kHz audio in the middle of its quietest 0.2 s, wherever a piece would be longer than 12 s.
fn pieces_at_pauses(mut audio: &[f32]) -> impl Iterator<Item = &[f32]> {
    const SECOND: usize = RATE_HZ;
    let mut pieces = Vec::new();
    while audio.len() > 12 * SECOND {
        let loudness = |at: &usize| audio[*at..*at + SECOND / 5].iter().map(|s| f64::from(s * s)).sum::<f64>();
        let candidates = (4 * SECOND..12 * SECOND).step_by(SECOND / 20);
        let quietest = candidates.min_by(|a, b| loudness(a).total_cmp(&loudness(b))).unwrap();
        let (piece, rest) = audio.split_at(quietest + SECOND / 10);
        pieces.push(piece);
        audio = rest;
    }
    pieces.push(audio);
    pieces.into_iter()
}
