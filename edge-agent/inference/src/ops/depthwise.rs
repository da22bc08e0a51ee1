//! Depthwise convolution over time-major frames.
//!
//! burn's convolutions want channels first, so between two linear layers each would cost two transposes; and on a GPU its general
//! convolution is tuned anew for every length. This one reads the frames as the linear layers leave them.

// CubeCL's `comptime` arguments and its casts read as needless to clippy, which sees only the unexpanded function.
#![allow(clippy::too_many_arguments, clippy::useless_conversion)]

use burn::{
    backend::{
        Backend, Dispatch, Flex, backend_extension,
        tensor::{FloatTensor, IntTensor},
    },
    tensor::{DType, Shape, Tensor, TensorData},
};
use burn_cubecl::{CubeBackend, kernel::into_contiguous, tensor::CubeTensor};
use burn_flex::FlexTensor;
use cubecl::prelude::*;

use super::{
    Spans,
    flex::{self, by_rows},
};

/// The extension trait: what burn dispatches by device. Call [`depthwise`] instead.
#[backend_extension(Cube, Flex, Fusion)]
pub trait DepthwiseOps: Backend {
    /// See [`depthwise`]. `bounds` are those of `spans`.
    #[fusion(dtype = x, shape = Shape::from([x[0], x[1]]))]
    fn depthwise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        bounds: IntTensor<Self>,
        dilation: usize,
    ) -> FloatTensor<Self>;
}

/// Each channel of x `[t, channels]` convolved over time with a kernel of its own, as long as the input (zeros beyond the ends of
/// each sequence). weight is `[taps, channels]` with an odd number of taps, `dilation` frames apart; bias `[channels]`; `spans` of t
/// rows.
pub fn depthwise(x: Tensor<2>, weight: Tensor<2>, bias: Tensor<1>, dilation: usize, spans: &Spans) -> Tensor<2> {
    let [taps, channels] = weight.dims();
    assert!(taps % 2 == 1 && dilation > 0, "depthwise: {taps} taps {dilation} apart have no middle");
    assert!(
        x.dims() == [spans.rows(), channels] && bias.dims() == [channels],
        "depthwise: input, weight and bias differ in channels, or input and spans in rows"
    );
    Tensor::from_dispatch(Dispatch::depthwise(
        x.into_dispatch(),
        weight.into_dispatch(),
        bias.into_dispatch(),
        spans.bounds().into_dispatch(),
        dilation,
    ))
}

impl DepthwiseOps for Flex {
    fn depthwise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        bounds: IntTensor<Self>,
        dilation: usize,
    ) -> FloatTensor<Self> {
        let (x, weight, bias) = (x.to_contiguous(), weight.to_contiguous(), bias.to_contiguous());
        let (t, channels) = (x.layout().shape()[0], x.layout().shape()[1]);
        let convolution = OnCpu {
            x: values(&x),
            weight: values(&weight),
            bias: values(&bias),
            bounds: flex::words(&bounds),
            dilation,
        };
        FlexTensor::from_data(TensorData::new(convolution.run(), [t, channels]))
    }
}

fn values(t: &FlexTensor) -> &[f32] {
    t.as_slice::<f32>().expect("the tensor was made contiguous and is f32: the engine computes in no other float type")
}

/// The operands.
#[derive(Clone, Copy)]
struct OnCpu<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    /// First row and end of each row's sequence.
    bounds: &'a [u32],
    dilation: usize,
}

impl OnCpu<'_> {
    fn run(self) -> Vec<f32> {
        let mut out = vec![0f32; self.x.len()];
        by_rows(&mut out, self.bias.len(), |first, out| {
            #[cfg(target_arch = "x86_64")]
            {
                if is_x86_feature_detected!("avx512f") {
                    // SAFETY: the feature was detected.
                    return unsafe { self.with_avx512(first, out) };
                }
                if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                    // SAFETY: the features were detected.
                    return unsafe { self.with_avx2(first, out) };
                }
            }
            self.rows(first, out);
        });
        out
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn with_avx512(self, first: usize, out: &mut [f32]) {
        self.rows(first, out);
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn with_avx2(self, first: usize, out: &mut [f32]) {
        self.rows(first, out);
    }

    /// Rows of the result from `first` on.
    #[inline(always)]
    fn rows(self, first: usize, out: &mut [f32]) {
        let Self { x, weight, bias, bounds, dilation } = self;
        let channels = bias.len();
        let taps = weight.len() / channels;
        for (i, out) in out.chunks_exact_mut(channels).enumerate() {
            let row = first + i;
            let own = bounds[2 * row] as usize..bounds[2 * row + 1] as usize;
            // The rows that the taps see; outside of the sequence are zeros.
            let seen =
                |tap: usize| (row + tap * dilation).checked_sub(taps / 2 * dilation).filter(|at| own.contains(at));
            let (wide, narrow) = out.as_chunks_mut::<LANES>();
            for (part, out) in wide.iter_mut().enumerate() {
                let at = part * LANES;
                let mut sums = [0f32; LANES];
                sums.copy_from_slice(&bias[at..at + LANES]);
                for tap in 0..taps {
                    let Some(from) = seen(tap) else { continue };
                    let row = &x[from * channels + at..][..LANES];
                    let kernel = &weight[tap * channels + at..][..LANES];
                    for l in 0..LANES {
                        sums[l] += row[l] * kernel[l];
                    }
                }
                *out = sums;
            }
            let at = channels - narrow.len();
            for (c, out) in narrow.iter_mut().enumerate() {
                *out = bias[at + c];
                for tap in 0..taps {
                    let Some(from) = seen(tap) else { continue };
                    *out += x[from * channels + at + c] * weight[tap * channels + at + c];
                }
            }
        }
    }
}

/// Channels that are summed at once: their sums stay in registers over all taps.
const LANES: usize = 32;

/// Units of a cube; each computes one value.
const UNITS: usize = 64;

#[cube(launch_unchecked)]
fn depthwise_kernel(
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    bounds: &[u32],
    out: &mut [f32],
    t: u32,
    channels: u32,
    dilation: u32,
    #[comptime] taps: usize,
) {
    let (t, channels, dilation) = (t as usize, channels as usize, dilation as usize);
    let at = ABSOLUTE_POS;
    if at < t * channels {
        let frame = at / channels;
        let channel = at % channels;
        let before = comptime!(taps / 2) * dilation;
        let (first, end) = (bounds[2 * frame] as usize, bounds[2 * frame + 1] as usize);
        let mut sum = bias[channel];
        #[unroll]
        for tap in 0..taps {
            // Shifted by `before`, so that nothing is negative.
            let shifted = frame + tap * dilation;
            if shifted >= first + before && shifted < end + before {
                sum += x[(shifted - before) * channels + channel] * weight[tap * channels + channel];
            }
        }
        out[at] = sum;
    }
}

impl DepthwiseOps for CubeBackend {
    fn depthwise(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        bounds: IntTensor<Self>,
        dilation: usize,
    ) -> FloatTensor<Self> {
        let (x, weight, bias) = (into_contiguous(x), into_contiguous(weight), into_contiguous(bias));
        let bounds = into_contiguous(bounds);
        let (t, channels, taps) = (x.meta.shape()[0], x.meta.shape()[1], weight.meta.shape()[0]);
        let client = x.client.clone();
        let out = CubeTensor::new_contiguous(
            client.clone(),
            x.device.clone(),
            Shape::from([t, channels]),
            client.empty(t * channels * size_of::<f32>()),
            DType::F32,
        );
        // SAFETY: units beyond the last value do nothing, and a frame outside of the input is not read.
        unsafe {
            depthwise_kernel::launch_unchecked(
                &client,
                CubeCount::Static((t * channels).div_ceil(UNITS) as u32, 1, 1),
                CubeDim::new_1d(UNITS as u32),
                x.into_buffer_arg(),
                weight.into_buffer_arg(),
                bias.into_buffer_arg(),
                bounds.into_buffer_arg(),
                out.clone().into_buffer_arg(),
                t as u32,
                channels as u32,
                dilation as u32,
                taps,
            );
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, nn};

    fn run(device: &Device, t: usize, channels: usize, taps: usize, dilation: usize) -> Vec<f32> {
        let values = |n: usize, f: f32| (0..n).map(|i| (i as f32 * f).sin()).collect::<Vec<_>>();
        let matrix =
            |n: usize, m: usize, f: f32| Tensor::<2>::from_data(TensorData::new(values(n * m, f), [n, m]), device);
        let bias = Tensor::from_data(TensorData::new(values(channels, 0.3), [channels]), device);
        nn::host(depthwise(
            matrix(t, channels, 0.7),
            matrix(taps, channels, 1.1),
            bias,
            dilation,
            &Spans::new([t], device),
        ))
    }

    #[test]
    fn it_equals_burns_convolution() {
        let device = Device::flex();
        for (t, channels, taps, dilation) in [(1, 4, 7, 8), (9, 3, 5, 1), (30, 8, 7, 4)] {
            let values = |n: usize, f: f32| (0..n).map(|i| (i as f32 * f).sin()).collect::<Vec<_>>();
            let x = Tensor::<2>::from_data(TensorData::new(values(t * channels, 0.7), [t, channels]), &device);
            let w = Tensor::<2>::from_data(TensorData::new(values(taps * channels, 1.1), [taps, channels]), &device);
            let b = Tensor::<1>::from_data(TensorData::new(values(channels, 0.3), [channels]), &device);
            let options = burn::tensor::ops::ConvOptions::new([1], [taps / 2 * dilation], [dilation], channels);
            let expected = burn::tensor::module::conv1d(
                x.transpose().unsqueeze::<3>(),
                w.transpose().reshape([channels, 1, taps]),
                Some(b),
                options,
            );
            let expected = nn::host(expected.squeeze_dim::<2>(0).transpose());
            for (a, b) in run(&device, t, channels, taps, dilation).iter().zip(&expected) {
                assert!((a - b).abs() < 1e-5, "{a} and {b}");
            }
        }
    }
}
