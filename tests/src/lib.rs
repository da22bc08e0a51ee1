//! Tests that need several crates at once: real models on real speech, the engine with all of them, a node under a real control plane,
//! and other people's clients. They stand in `tests/`, one file for each behaviour; this crate holds what they run on: a device, and the default models.

pub mod voice;

use control_plane::registry::ensure;
use nearfield_inference::{
    Device,
    device::{Selected, Want, select},
    engine::{Engine, Limits, ModelFile},
};
use nearfield_shared::artefact::Stage;
use std::sync::OnceLock;

/// The default model of the catalogue for each stage.
pub const MODELS: [(Stage, &str); 6] = [
    (Stage::Vad, "silero-vad"),
    (Stage::Turn, "smart-turn-v3.2"),
    (Stage::Asr, "moonshine-tiny"),
    (Stage::Llm, "smollm2-135m-instruct"),
    (Stage::Tts, "hibari"),
    (Stage::Embed, "minilm-l6-v2"),
];

/// Names the device that golden tests run on, as `--device` does elsewhere: `cpu` (where it is not set), `gpu`, `gpu:NAME`
/// or `software-gpu`.
pub const TEST_DEVICE: &str = "NEARFIELD_TEST_DEVICE";

/// The device that golden tests run on.
///
/// # Panics
/// Where the device that was asked for is not there: a run that was to prove a GPU must not pass on a CPU.
pub fn device() -> Device {
    static CHOSEN: OnceLock<Selected> = OnceLock::new();
    let chosen = CHOSEN.get_or_init(|| {
        let want = std::env::var(TEST_DEVICE).map_or(Ok(Want::Cpu), |name| name.parse());
        let want = want.unwrap_or_else(|e: String| panic!("{TEST_DEVICE}: {e}"));
        select(&want).unwrap_or_else(|e| panic!("{TEST_DEVICE}: {e}"))
    });
    println!("on {}", chosen.name);
    chosen.device.clone()
}

/// An engine on the CPU with a model live for each stage.
///
/// # Panics
/// Where a model cannot be had or loaded.
pub async fn engine_with_all_models() -> Engine {
    let names = MODELS.map(|(_, name)| name);
    let files = tokio::task::spawn_blocking(move || ensure(&names)).await.expect("it ran").expect("the models");
    let selected = select(&Want::Cpu).expect("the CPU is always there");
    let engine = Engine::start(selected, Limits::default()).expect("an engine");
    let handle = engine.handle();
    for ((stage, name), file) in MODELS.into_iter().zip(files) {
        let file = ModelFile::open(file).unwrap_or_else(|e| panic!("{name}: {e}"));
        let candidate = handle.load(file, stage).await.unwrap_or_else(|e| panic!("{name}: {e}"));
        handle.activate(candidate).await.unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    engine
}
