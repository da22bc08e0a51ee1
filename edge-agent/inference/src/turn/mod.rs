//! Turn detection: has the caller finished what they wanted to say?
//!
//! Smart Turn v3: whisper-tiny's encoder over the last eight seconds, attention pooling, a small classifier. It hears intonation and
//! syntax where a silence timeout hears only silence. It is often wrong on short commands and on verse (about half of utterances
//! cut in the middle are taken for complete), so keep the timeout beside it.
//!
//! Both convolutions are matrix products over (tap, channel), the matrices stay in 8-bit blocks.

mod mel;

use crate::{
    Device,
    nn::{self, LayerNorm, Linear, LoadError, Resident, Share},
    ops::{self, Spans, team},
};
use burn::tensor::{
    Tensor, TensorData,
    activation::{sigmoid, softmax},
};
use mel::{BANDS, FRAMES, LogMel};
use nearfield_shared::gguf::Gguf;
use std::collections::BTreeMap;

const WIDTH: usize = 384;
const HEADS: usize = 6;
const HEAD: usize = WIDTH / HEADS;
/// Rows that a turn has in the network, however short it is.
pub const POSITIONS: usize = FRAMES / 2;
const LAYERS: usize = 4;
const FEED_FORWARD: usize = 4 * WIDTH;
const EPSILON: f32 = 1e-5;
/// Inputs of the first convolution: 3 taps of 80 bands, filled up to whole blocks.
const CONV1_COLUMNS: usize = 256;

/// Smart Turn on a device.
pub struct SmartTurn {
    device: Device,
    mel: LogMel,
    conv1: Linear,
    conv2: Linear,
    /// [400, 384]
    positions: Tensor<2>,
    layers: Vec<Layer>,
    norm: LayerNorm,
    pool: [Linear; 2],
    classifier: [Linear; 3],
    classifier_norm: LayerNorm,
}

/// A turn on its way through the network. Turns after as many steps take the next one together.
pub struct Listening {
    x: Share,
    done: usize,
}

impl Listening {
    /// Steps that were done.
    pub fn done(&self) -> usize {
        self.done
    }
}

struct Layer {
    attention_norm: LayerNorm,
    /// Query, key and value below one another.
    qkv: Linear,
    out: Linear,
    feed_forward_norm: LayerNorm,
    up: Linear,
    down: Linear,
}

impl SmartTurn {
    /// Loads the weights.
    pub fn load(gguf: &Gguf, device: &Device) -> Result<Self, LoadError> {
        nn::expect_architecture(gguf, "smart-turn")?;
        check(gguf)?;
        let linear = |name: &str| Linear::load(gguf, name, device);
        let norm = |name: &str| LayerNorm::load(gguf, name, EPSILON, device);
        let layers = (0..LAYERS)
            .map(|i| {
                Ok(Layer {
                    attention_norm: norm(&format!("encoder.{i}.attention_norm"))?,
                    qkv: linear(&format!("encoder.{i}.qkv"))?,
                    out: linear(&format!("encoder.{i}.out"))?,
                    feed_forward_norm: norm(&format!("encoder.{i}.feed_forward_norm"))?,
                    up: linear(&format!("encoder.{i}.up"))?,
                    down: linear(&format!("encoder.{i}.down"))?,
                })
            })
            .collect::<Result<_, LoadError>>()?;
        Ok(Self {
            device: device.clone(),
            mel: LogMel::new(),
            conv1: linear("conv1")?,
            conv2: linear("conv2")?,
            positions: nn::tensor_f32(gguf, "encoder.position.weight", device)?,
            layers,
            norm: norm("encoder.norm")?,
            pool: [linear("pool.0")?, linear("pool.1")?],
            classifier: [linear("classifier.0")?, linear("classifier.1")?, linear("classifier.2")?],
            classifier_norm: norm("classifier.norm")?,
        })
    }

    /// The probability that the turn is complete. `pcm16k` is the turn so far, 16 kHz in [-1, 1], of which the last 8 s count.
    pub fn probability(&self, pcm16k: &[f32]) -> f32 {
        let mut listening = self.listen(pcm16k);
        loop {
            if let Some(probability) = self.step(&mut listening) {
                return probability;
            }
        }
    }

    /// Starts to listen to the same: the spectrum is taken here, the network comes step by step.
    pub fn listen(&self, pcm16k: &[f32]) -> Listening {
        self.listen_together(&[pcm16k]).remove(0)
    }

    /// [`listen`](Self::listen) to several turns, in their order.
    pub fn listen_together(&self, turns: &[&[f32]]) -> Vec<Listening> {
        let taps = team::map(turns.len(), |i| unfolded(&self.mel.compute(turns[i]))).concat();
        let taps = TensorData::new(taps, [turns.len() * FRAMES, CONV1_COLUMNS]);
        let shares = Share::divided(Tensor::from_data(taps, &self.device), &vec![FRAMES; turns.len()]);
        shares.into_iter().map(|x| Listening { x, done: 0 }).collect()
    }

    /// One bounded step: the convolutions, a layer, or the classifier, which gives the probability.
    pub fn step(&self, listening: &mut Listening) -> Option<f32> {
        self.step_together(&mut [listening]).pop().flatten()
    }

    /// [`step`](Self::step) of each, in their order. Those that have done as many steps are one batch.
    pub fn step_together(&self, turns: &mut [&mut Listening]) -> Vec<Option<f32>> {
        let mut found = vec![None; turns.len()];
        let mut groups: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (i, turn) in turns.iter().enumerate() {
            groups.entry(turn.done).or_default().push(i);
        }
        for (done, who) in groups {
            let shares: Vec<Share> = who.iter().map(|i| turns[*i].x.clone()).collect();
            let (x, count) = (Share::joined(&shares), who.len());
            let x = match done {
                0 => self.convolutions(x, count),
                done if done <= LAYERS => {
                    let spans = Spans::new(vec![POSITIONS; count], &self.device);
                    self.layers[done - 1].forward(x, &spans)
                }
                _ => {
                    let probabilities = nn::host(self.classify(self.norm.forward(x), count));
                    who.into_iter().zip(probabilities).for_each(|(i, probability)| found[i] = Some(probability));
                    continue;
                }
            };
            for (i, x) in who.into_iter().zip(Share::divided(x, &vec![POSITIONS; count])) {
                *turns[i] = Listening { x, done: done + 1 };
            }
        }
        found
    }

    /// [800, 256] to [400, 384] of each turn.
    fn convolutions(&self, taps: Tensor<2>, count: usize) -> Tensor<2> {
        let x = self.conv1.forward_gelu(taps);
        // Stride 2: each output sees a pair of frames and the second one of the pair before.
        let pairs = x.reshape([count, POSITIONS, 2 * WIDTH]);
        let before = pairs.clone().narrow(1, 0, POSITIONS - 1).narrow(2, WIDTH, WIDTH);
        let before = Tensor::cat(vec![Tensor::zeros([count, 1, WIDTH], &self.device), before], 1);
        let seen = Tensor::cat(vec![before, pairs], 2).reshape([count * POSITIONS, 3 * WIDTH]);
        let y = self.conv2.forward_gelu(seen).reshape([count, POSITIONS, WIDTH]);
        (y + self.positions.clone().unsqueeze::<3>()).reshape([count * POSITIONS, WIDTH])
    }

    /// [400, 384] to [1, 1] of each turn.
    fn classify(&self, x: Tensor<2>, count: usize) -> Tensor<2> {
        let scores = self.pool[1].forward(self.pool[0].forward_tanh(x.clone()));
        let shares = softmax(scores.reshape([count, 1, POSITIONS]), 2);
        let pooled = shares.matmul(x.reshape([count, POSITIONS, WIDTH])).reshape([count, WIDTH]);
        let y = nn::gelu(self.classifier_norm.forward(self.classifier[0].forward(pooled)));
        let y = self.classifier[1].forward_gelu(y);
        sigmoid(self.classifier[2].forward(y))
    }
}

impl Layer {
    fn forward(&self, x: Tensor<2>, turns: &Spans) -> Tensor<2> {
        let qkv = self.qkv.forward(self.attention_norm.forward(x.clone()));
        let [q, k, v] = [0, 1, 2].map(|i| qkv.clone().narrow(1, i * WIDTH, WIDTH));
        let seen = ops::attend_within(q, k, v, HEADS, turns, (HEAD as f32).sqrt().recip());
        let x = self.out.forward_add(seen, x);
        let y = self.up.forward_gelu(self.feed_forward_norm.forward(x.clone()));
        self.down.forward_add(y, x)
    }
}

impl Resident for SmartTurn {
    fn resident_bytes(&self) -> usize {
        let layers: usize = self
            .layers
            .iter()
            .map(|l| {
                l.attention_norm.resident_bytes()
                    + l.qkv.resident_bytes()
                    + l.out.resident_bytes()
                    + l.feed_forward_norm.resident_bytes()
                    + l.up.resident_bytes()
                    + l.down.resident_bytes()
            })
            .sum();
        let linears = [&self.conv1, &self.conv2].into_iter().chain(&self.pool).chain(&self.classifier);
        layers
            + linears.map(Resident::resident_bytes).sum::<usize>()
            + self.norm.resident_bytes()
            + self.classifier_norm.resident_bytes()
            + 4 * POSITIONS * WIDTH
    }
}

/// Every weight has the one shape that the network has.
fn check(gguf: &Gguf) -> Result<(), LoadError> {
    let linear = |name: &str, inputs, outputs| nn::expect_linear(gguf, name, inputs, outputs);
    linear("conv1", CONV1_COLUMNS, WIDTH)?;
    linear("conv2", 3 * WIDTH, WIDTH)?;
    nn::expect_shape(gguf, "encoder.position.weight", &[POSITIONS, WIDTH])?;
    for i in 0..LAYERS {
        nn::expect_norm(gguf, &format!("encoder.{i}.attention_norm"), WIDTH)?;
        linear(&format!("encoder.{i}.qkv"), WIDTH, 3 * WIDTH)?;
        linear(&format!("encoder.{i}.out"), WIDTH, WIDTH)?;
        nn::expect_norm(gguf, &format!("encoder.{i}.feed_forward_norm"), WIDTH)?;
        linear(&format!("encoder.{i}.up"), WIDTH, FEED_FORWARD)?;
        linear(&format!("encoder.{i}.down"), FEED_FORWARD, WIDTH)?;
    }
    nn::expect_norm(gguf, "encoder.norm", WIDTH)?;
    linear("pool.0", WIDTH, 256)?;
    linear("pool.1", 256, 1)?;
    linear("classifier.0", WIDTH, 256)?;
    nn::expect_norm(gguf, "classifier.norm", 256)?;
    linear("classifier.1", 256, 64)?;
    linear("classifier.2", 64, 1)
}

/// Each frame with the one before and the one after it, zeros beyond the ends, rows filled up to [`CONV1_COLUMNS`].
fn unfolded(mel: &[f32]) -> Vec<f32> {
    let mut taps = vec![0.0; FRAMES * CONV1_COLUMNS];
    for (t, row) in taps.chunks_exact_mut(CONV1_COLUMNS).enumerate() {
        for tap in 0..3 {
            if let Some(frame) = (t + tap).checked_sub(1).filter(|f| *f < FRAMES) {
                row[tap * BANDS..(tap + 1) * BANDS].copy_from_slice(&mel[frame * BANDS..(frame + 1) * BANDS]);
            }
        }
    }
    taps
}
