//! Choosing the device: which adapters there are, which one is taken, and why.
//!
//! Left alone, a GPU library takes what it finds, and a software rasteriser is something: hiding the Vulkan drivers of a
//! machine still gave one, through OpenGL, a hundred times slower than the CPU path. So adapters are listed, software ones
//! refused unless asked for, one graphics API is pinned (Metal on Apple, Vulkan elsewhere), and before a device is
//! accepted its results are compared with the CPU's: there were devices whose matrix products were wrong.
//!
//! FAILURE LADDER: discrete GPU, integrated GPU, virtual GPU, CPU; whatever is passed over is named in [`Selected::why`].

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Mutex,
};

use burn::tensor::{
    Tensor, TensorData, activation,
    wgpu::{WgpuBackend, wgpu},
};
use nearfield_shared::gguf::{BlockType, quantise};

use crate::{
    Device,
    ops::{self, Activations, Blocks},
};

/// The one graphics API that is used on this system.
#[cfg(target_vendor = "apple")]
const API: (WgpuBackend, wgpu::Backend, &str) = (WgpuBackend::Metal, wgpu::Backend::Metal, "Metal");
/// The one graphics API that is used on this system.
#[cfg(not(target_vendor = "apple"))]
const API: (WgpuBackend, wgpu::Backend, &str) = (WgpuBackend::Vulkan, wgpu::Backend::Vulkan, "Vulkan");

/// Greatest difference from the CPU's results that the self-test allows. The values are of magnitude 1 to 10, and GPUs add
/// in another order.
const SELF_TEST_TOLERANCE: f32 = 2e-3;

/// What kind of hardware computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A GPU of its own.
    DiscreteGpu,
    /// A GPU that shares the processor's memory.
    IntegratedGpu,
    /// A GPU passed into a virtual machine, or one whose driver does not say what it is.
    VirtualGpu,
    /// A driver that pretends to be a GPU and computes on the processor; for tests.
    SoftwareGpu,
    /// The processor, through our own kernels.
    Cpu,
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::DiscreteGpu => "discrete GPU",
            Self::IntegratedGpu => "integrated GPU",
            Self::VirtualGpu => "virtual GPU",
            Self::SoftwareGpu => "software GPU",
            Self::Cpu => "CPU",
        })
    }
}

/// A graphics adapter of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// The driver's name for it.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Driver and version.
    pub driver: String,
    /// Its number among those of its kind, as wgpu counts.
    index: usize,
}

/// What the operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Want {
    /// The best GPU that passes the self-test, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// A GPU, or an error: the first whose name contains this text (any where it is empty). Never a software one.
    Gpu(String),
    /// A software GPU, or an error: for tests of the GPU path on machines without one.
    SoftwareGpu,
}

impl std::str::FromStr for Want {
    type Err = String;

    /// `auto`, `cpu`, `gpu`, `gpu:NAME`, `software-gpu`.
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "gpu" => Ok(Self::Gpu(String::new())),
            "software-gpu" => Ok(Self::SoftwareGpu),
            _ => match s.strip_prefix("gpu:") {
                Some(name) if !name.trim().is_empty() => Ok(Self::Gpu(name.trim().to_owned())),
                _ => Err(format!("{s:?} is no device; use auto, cpu, gpu, gpu:NAME or software-gpu")),
            },
        }
    }
}

/// The device that was chosen.
#[derive(Clone)]
pub struct Selected {
    /// Where tensors live.
    pub device: Device,
    /// Its name for a person.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Why it was chosen, and what was passed over, for a person.
    pub why: String,
}

impl std::fmt::Debug for Selected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Selected")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

/// Why no device was chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// A GPU was asked for by the operator and cannot be had.
    #[error("no {wanted} can be used: {found}; install its {api} driver, or set the device to auto or cpu")]
    NoGpu {
        /// What was asked for.
        wanted: String,
        /// What there is, and what is wrong with it.
        found: String,
        /// The graphics API that was looked through.
        api: &'static str,
    },
}

/// All graphics adapters of this machine, in the driver's order.
pub fn adapters() -> Vec<Adapter> {
    // A broken driver may panic or crash inside of its own code; a panic is no reason to lose the CPU.
    catch_unwind(|| {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            backends: API.1.into(),
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let found = cubecl::future::block_on(instance.enumerate_adapters(API.1.into()));
        let mut counts = std::collections::HashMap::new();
        found
            .iter()
            .map(|a| {
                let info = a.get_info();
                let count = counts.entry(info.device_type).or_insert(0usize);
                let index = *count;
                *count += 1;
                let kind = match info.device_type {
                    wgpu::DeviceType::DiscreteGpu => Kind::DiscreteGpu,
                    wgpu::DeviceType::IntegratedGpu => Kind::IntegratedGpu,
                    wgpu::DeviceType::Cpu => Kind::SoftwareGpu,
                    wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => Kind::VirtualGpu,
                };
                let driver = format!("{} {}", info.driver, info.driver_info).trim().to_owned();
                Adapter { name: info.name, kind, driver, index }
            })
            .collect()
    })
    .unwrap_or_default()
}

/// Chooses a device, opens it and proves it.
///
/// # Errors
/// [`DeviceError::NoGpu`] where a GPU was asked for and there is none that works. [`Want::Auto`] and [`Want::Cpu`] always
/// find something.
pub fn select(want: &Want) -> Result<Selected, DeviceError> {
    if *want == Want::Cpu {
        return Ok(cpu("the configuration asks for the CPU".to_owned()));
    }
    let found = adapters();
    let mut passed_over = Vec::new();
    for adapter in preferred(&found, want) {
        match open(adapter) {
            Ok(device) => {
                let mut why = match want {
                    Want::Auto => "the best GPU that passes the self-test".to_owned(),
                    _ => "the configuration asks for it".to_owned(),
                };
                if !passed_over.is_empty() {
                    why = format!("{why}; passed over: {}", passed_over.join("; "));
                }
                let name = format!("{} ({}, {})", adapter.name, API.2, adapter.driver);
                return Ok(Selected { device, name, kind: adapter.kind, why });
            }
            Err(reason) => passed_over.push(format!("{}: {reason}", adapter.name)),
        }
    }
    for a in found.iter().filter(|a| a.kind == Kind::SoftwareGpu && *want != Want::SoftwareGpu) {
        passed_over.push(format!("{}: a software GPU, slower than the CPU kernels", a.name));
    }
    if passed_over.is_empty() {
        passed_over.push(format!("there is no such {} adapter on this machine", API.2));
    }
    let found = passed_over.join("; ");
    match want {
        Want::Auto => Ok(cpu(format!("no usable GPU ({found})"))),
        Want::SoftwareGpu => Err(DeviceError::NoGpu { wanted: "software GPU".to_owned(), found, api: API.2 }),
        Want::Gpu(name) if name.is_empty() => Err(DeviceError::NoGpu { wanted: "GPU".to_owned(), found, api: API.2 }),
        Want::Gpu(name) => Err(DeviceError::NoGpu { wanted: format!("GPU named {name:?}"), found, api: API.2 }),
        Want::Cpu => unreachable!("answered above"),
    }
}

/// The adapters that may be tried, best first.
fn preferred<'a>(found: &'a [Adapter], want: &Want) -> Vec<&'a Adapter> {
    let rank = |k: Kind| match k {
        Kind::DiscreteGpu => 0,
        Kind::IntegratedGpu => 1,
        Kind::VirtualGpu => 2,
        Kind::SoftwareGpu | Kind::Cpu => 3,
    };
    let mut fit: Vec<_> = found
        .iter()
        .filter(|a| match want {
            Want::SoftwareGpu => a.kind == Kind::SoftwareGpu,
            Want::Gpu(name) => a.kind != Kind::SoftwareGpu && a.name.to_lowercase().contains(&name.to_lowercase()),
            Want::Auto => a.kind != Kind::SoftwareGpu,
            Want::Cpu => false,
        })
        .collect();
    fit.sort_by_key(|a| rank(a.kind));
    fit
}

fn cpu(why: String) -> Selected {
    let threads = rayon::current_num_threads();
    let name = format!("CPU ({}, {threads} {})", ops::cpu_features(), if threads == 1 { "thread" } else { "threads" });
    Selected { device: Device::flex(), name, kind: Kind::Cpu, why }
}

/// Opens an adapter and runs the self-test on it.
fn open(adapter: &Adapter) -> Result<Device, String> {
    /// Adapters opened by this process: a runtime cannot be initialised twice, only its device be cloned.
    static OPEN: Mutex<Vec<((Kind, usize), Device)>> = Mutex::new(Vec::new());
    let key = (adapter.kind, adapter.index);
    let mut opened = OPEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some((_, device)) = opened.iter().find(|(k, _)| *k == key) {
        return Ok(device.clone());
    }
    use burn::tensor::DeviceKind;
    let kind = match adapter.kind {
        Kind::DiscreteGpu => DeviceKind::DiscreteGpu(adapter.index),
        Kind::IntegratedGpu => DeviceKind::IntegratedGpu(adapter.index),
        Kind::VirtualGpu => DeviceKind::VirtualGpu(adapter.index),
        Kind::SoftwareGpu => DeviceKind::Cpu,
        Kind::Cpu => return Err("not a graphics adapter".to_owned()),
    };
    let device = catch_unwind(|| {
        let options = Device::wgpu_options().device_kind(kind).graphics_api(API.0);
        options.init_with_setup().map_err(|e| e.to_string())
    })
    .map_err(|_| "its driver failed while it was opened".to_owned())?;
    let (device, setup) = device?;
    let got = setup.adapter.get_info();
    if got.name != adapter.name {
        return Err(format!("the driver opened {:?} instead", got.name));
    }
    self_test(&device)?;
    opened.push((key, device.clone()));
    Ok(device)
}

/// Runs each kind of operation that the networks are made of on the device and on the CPU.
///
/// # Errors
/// What differs, or what failed, in words.
pub fn self_test(device: &Device) -> Result<(), String> {
    let truth = sample(&Device::flex())?;
    let got = sample(device)?;
    for ((name, truth), (_, got)) in truth.iter().zip(&got) {
        let worst =
            truth.iter().zip(got).map(|(a, b)| (a - b).abs()).fold(0f32, |m, d| if d.is_nan() { d } else { m.max(d) });
        if worst.is_nan() || worst > SELF_TEST_TOLERANCE || truth.len() != got.len() {
            return Err(format!("self-test failed: {name} differs from the CPU's by {worst}"));
        }
    }
    Ok(())
}

type Results = Vec<(&'static str, Vec<f32>)>;

fn sample(device: &Device) -> Result<Results, String> {
    catch_unwind(AssertUnwindSafe(|| {
        let wave = |n: usize, step: f32| -> Vec<f32> { (0..n).map(|i| (i as f32 * step).sin()).collect() };
        let matrix = |rows: usize, cols: usize, step| {
            Tensor::<2>::from_data(TensorData::new(wave(rows * cols, step), [rows, cols]), device)
        };
        let (x, w) = (matrix(3, 64, 0.37), matrix(64, 40, 0.91));
        let mut out: Results = Vec::new();
        let mut put = |name, t: Tensor<2>| -> Result<(), String> {
            // Errors of a GPU surface where its results are read.
            let data = t.try_into_data().map_err(|e| format!("{name}: {e:?}"))?;
            out.push((name, data.try_to_vec().map_err(|e| format!("{name}: {e:?}"))?));
            Ok(())
        };
        put("a matrix product", x.clone().matmul(w))?;
        put("softmax", activation::softmax(x.clone() * 3.0, 1))?;
        for block in [BlockType::Q4_1, BlockType::Q8_0] {
            let bytes = quantise(block, &wave(64 * 40, 0.91)).map_err(|e| e.to_string())?;
            let blocks = Blocks::new(block, 40, 64, &bytes, device);
            put("a quantised product", ops::q_linear(x.clone(), &blocks, Activations::Exact))?;
        }
        put("attention", ops::attend(x.clone(), x.clone(), x.clone(), 4, 3, true, 0.25))?;
        Ok(out)
    }))
    .map_err(|_| "an operation failed inside of the driver".to_owned())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adapter(name: &str, kind: Kind, index: usize) -> Adapter {
        Adapter { name: name.to_owned(), kind, driver: String::new(), index }
    }

    #[test]
    fn software_is_refused_unless_forced_and_the_strongest_comes_first() {
        let found = [
            adapter("llvmpipe", Kind::SoftwareGpu, 0),
            adapter("Intel Arc", Kind::IntegratedGpu, 0),
            adapter("RTX 4070", Kind::DiscreteGpu, 0),
            adapter("Virtio", Kind::VirtualGpu, 0),
        ];
        let names = |want: &Want| preferred(&found, want).iter().map(|a| a.name.as_str()).collect::<Vec<_>>();
        assert_eq!(names(&Want::Auto), ["RTX 4070", "Intel Arc", "Virtio"]);
        assert_eq!(names(&Want::Gpu("arc".into())), ["Intel Arc"]);
        assert_eq!(names(&Want::Gpu("llvm".into())), [""; 0]);
        assert_eq!(names(&Want::SoftwareGpu), ["llvmpipe"]);
    }

    #[test]
    fn what_the_operator_writes_is_understood_or_refused() {
        let parse = |s: &str| s.parse::<Want>();
        assert_eq!(parse("auto"), Ok(Want::Auto));
        assert_eq!(parse("gpu: RTX"), Ok(Want::Gpu("RTX".into())));
        assert_eq!(parse("software-gpu"), Ok(Want::SoftwareGpu));
        assert!(parse("cuda").unwrap_err().contains("use auto, cpu"));
        assert!(parse("gpu:").is_err());
    }

    #[test]
    fn the_cpu_is_always_there_and_passes_its_own_test() {
        let s = select(&Want::Cpu).unwrap();
        assert_eq!(s.kind, Kind::Cpu);
        assert!(s.why.contains("asks for the CPU") && s.name.contains("kernels"), "{s:?}");
        self_test(&s.device).unwrap();
    }

    #[test]
    fn a_gpu_that_is_not_there_is_an_error_with_a_remedy() {
        let e = select(&Want::Gpu("no such card".into())).unwrap_err().to_string();
        assert!(e.contains("no such card") && e.contains("set the device to auto or cpu"), "{e}");
    }
}
