//! The inference engine of this process: the device is chosen, the engine started, and both sides of it handed out.

use crate::{config::DeviceChoice, slots::ModelHost, speech::Speech};
use nearfield_shared::wire::message::DeviceSummary;
use std::sync::Arc;

/// A started engine.
pub struct Inference {
    /// For the slots.
    pub host: Arc<dyn ModelHost>,
    /// For calls.
    pub speech: Arc<dyn Speech>,
    /// What the models run on.
    pub device: DeviceSummary,
    /// Why it was chosen.
    pub reason: String,
    /// Keeps the engine's thread.
    #[cfg(feature = "inference")]
    _engine: nearfield_inference::engine::Engine,
}

/// Starts the engine on the device that is wanted, with a slot for each of `calls_max` calls.
#[cfg(feature = "inference")]
pub fn start(choice: &DeviceChoice, calls_max: usize) -> anyhow::Result<Inference> {
    use nearfield_inference::{
        device,
        engine::{Engine, Limits},
    };
    let selected = device::select(&wanted(choice))?;
    tracing::info!(device = %selected.name, kind = %selected.kind, why = %selected.why, "device chosen");
    let (device, reason) = (summary(&selected), selected.why.clone());
    // One more than there may be calls, so that a node that is full can still make the spoken call with which a candidate is tried.
    let limits = Limits { vad_streams: calls_max + 1, ..Limits::default() };
    let engine = Engine::start(selected, limits)?;
    let handle = engine.handle();
    Ok(Inference {
        host: Arc::new(crate::slots::EngineHost::new(handle.clone())),
        speech: Arc::new(handle),
        device,
        reason,
        _engine: engine,
    })
}

/// Without the feature there is nothing to start.
#[cfg(not(feature = "inference"))]
pub fn start(_choice: &DeviceChoice, _calls_max: usize) -> anyhow::Result<Inference> {
    anyhow::bail!(
        "this edge-agent was built without inference; build it with the feature `inference`, which is on by default"
    )
}

/// What the device module calls this choice.
#[cfg(feature = "inference")]
fn wanted(choice: &DeviceChoice) -> nearfield_inference::device::Want {
    use nearfield_inference::device::Want;
    match choice {
        DeviceChoice::Auto => Want::Auto,
        DeviceChoice::Cpu => Want::Cpu,
        DeviceChoice::Gpu(name) => Want::Gpu(name.clone()),
        DeviceChoice::SoftwareGpu => Want::SoftwareGpu,
    }
}

#[cfg(feature = "inference")]
fn summary(selected: &nearfield_inference::device::Selected) -> DeviceSummary {
    use nearfield_inference::device::Kind;
    use nearfield_shared::wire::{DeviceName, message::DeviceKind};
    let kind = match selected.kind {
        Kind::DiscreteGpu => DeviceKind::DiscreteGpu,
        Kind::IntegratedGpu => DeviceKind::IntegratedGpu,
        Kind::VirtualGpu => DeviceKind::VirtualGpu,
        Kind::SoftwareGpu => DeviceKind::SoftwareGpu,
        Kind::Cpu => DeviceKind::Cpu,
    };
    // wgpu does not tell a card's memory; for the processor it is the machine's.
    let memory_bytes = if kind == DeviceKind::Cpu { machine_memory_bytes() } else { 0 };
    DeviceSummary { kind, name: DeviceName::from_driver(&selected.name), memory_bytes }
}

#[cfg(feature = "inference")]
fn machine_memory_bytes() -> u64 {
    // SAFETY: sysconf only reads a number; an unknown name gives -1.
    let (pages, page) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(page).unwrap_or(0)
}
