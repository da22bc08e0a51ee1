//! When each token was said: from what the decoder looks at while it writes.
//!
//! A transcript that is complete is fed once more, all of it at once, a layer at a step. While a token is written, heads of the upper
//! layers look at the frames in which it is heard. The mean over those heads, each evened out over the tokens, is a picture of tokens
//! over frames, and the way through it that goes only forwards and sees the most (dynamic time warping) says where one
//! token ends and the next begins. OpenAI's Whisper finds the times of words in this way.

use super::{Decoder, Decoding};
use crate::{
    nn::{Rope, host},
    ops,
};
use burn::tensor::{Int, Tensor, activation::softmax, s};

/// Frames over which a head's look is smoothed by the median, as in Whisper: a sixth of a second.
const MEDIAN: usize = 7;

/// How many frames before the sound of a token the heads begin to look at it, 96 ms: the median over a spoken text of which the times
/// are known (`tests/tests/asr_times.rs`).
const LOOKS_AHEAD: usize = 4;

/// A transcript whose times are looked for.
pub struct Aligning {
    tokens: Vec<u32>,
    x: Tensor<2>,
    positions: Tensor<1, Int>,
    /// The layer that comes next.
    layer: usize,
    frames: usize,
    heard: Vec<(Tensor<2>, Tensor<2>)>,
    /// What the heads looked at so far, `[tokens + 1, frames]`, the end in the last row.
    seen: Vec<f32>,
}

impl Decoder {
    /// Begins to look for the times of a complete transcript.
    pub fn begin_alignment(&self, decoding: Decoding, rope: &Rope) -> Aligning {
        let fed: Vec<u32> = std::iter::once(self.config.bos).chain(decoding.tokens.iter().copied()).collect();
        let places: Vec<u32> = (0..fed.len() as u32).collect();
        Aligning {
            x: self.embedding.rows(&fed),
            positions: rope.positions(&places),
            layer: 0,
            seen: vec![0.0; fed.len() * decoding.frames],
            frames: decoding.frames,
            heard: decoding.layers.into_iter().map(|cache| cache.heard).collect(),
            tokens: decoding.tokens,
        }
    }

    /// One layer further; the frames in which the tokens begin, and the one in which the last ends, when that was the last layer.
    pub fn align(&self, aligning: &mut Aligning, rope: &Rope) -> Option<Vec<usize>> {
        let (heads, scale, width) = (self.config.heads, self.config.scale(), self.config.width);
        let rows = aligning.tokens.len() + 1;
        let layer = &self.layers[aligning.layer];
        let x = aligning.x.clone();
        let qkv = layer.self_qkv.forward(layer.self_norm.forward(x.clone()));
        let qk = qkv.clone().slice(s![.., 0..2 * width]);
        let qk = rope.forward_at(qk, self.config.head(), aligning.positions.clone());
        let (q, k) = (qk.clone().slice(s![.., 0..width]), qk.slice(s![.., width..2 * width]));
        let seen = ops::attend(q, k, qkv.slice(s![.., 2 * width..3 * width]), heads, rows, true, scale);
        let x = layer.self_output.forward_add(seen, x);

        let q = layer.cross_query.forward(layer.cross_norm.forward(x.clone()));
        let (k, v) = aligning.heard[aligning.layer].clone();
        if 2 * aligning.layer >= self.layers.len() {
            let by_head = |t: Tensor<2>, rows: usize| t.reshape([rows, heads, self.config.head()]).swap_dims(0, 1);
            let scores = by_head(q.clone(), rows).matmul(by_head(k.clone(), aligning.frames).swap_dims(1, 2)) * scale;
            for look in host(softmax(scores, 2)).chunks_exact(rows * aligning.frames) {
                add_look(look, aligning.frames, &mut aligning.seen);
            }
        }
        aligning.layer += 1;
        if aligning.layer == self.layers.len() {
            let begins = way(&aligning.seen, aligning.frames);
            let late = |(row, frame): (usize, usize)| {
                if row == 0 { frame } else { (frame + LOOKS_AHEAD).min(aligning.frames) }
            };
            return Some(begins.into_iter().enumerate().map(late).collect());
        }
        let heard = ops::attend(q, k, v, heads, aligning.frames, false, scale);
        let x = layer.cross_output.forward_add(heard, x);
        let inner = layer.fc1.forward(layer.inner_norm.forward(x.clone()));
        aligning.x = layer.fc2.forward_add(ops::gated(inner, false), x);
        None
    }
}

impl Aligning {
    /// The tokens.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }
}

/// Adds what one head looked at: in each frame as deviations from the mean over the tokens, smoothed along the frames. So heads that
/// look at the same frames whatever is written do not count.
fn add_look(look: &[f32], frames: usize, seen: &mut [f32]) {
    let rows = (look.len() / frames) as f32;
    let mut even = vec![0.0; look.len()];
    for frame in 0..frames {
        let column = || look[frame..].iter().step_by(frames);
        let mean = column().sum::<f32>() / rows;
        let deviation = (column().map(|w| (w - mean).powi(2)).sum::<f32>() / rows).sqrt().max(1e-6);
        for (row, w) in column().enumerate() {
            even[row * frames + frame] = (w - mean) / deviation;
        }
    }
    let mut window = Vec::with_capacity(MEDIAN);
    for (row, seen) in even.chunks_exact(frames).zip(seen.chunks_exact_mut(frames)) {
        for (frame, seen) in seen.iter_mut().enumerate() {
            window.clear();
            window.extend(&row[frame.saturating_sub(MEDIAN / 2)..(frame + MEDIAN / 2 + 1).min(frames)]);
            let middle = window.len() / 2;
            *seen += *window.select_nth_unstable_by(middle, f32::total_cmp).1;
        }
    }
}

/// The way from the first token in the first frame to the last in the last that sees the most: the frame in which each row begins.
fn way(seen: &[f32], frames: usize) -> Vec<usize> {
    let rows = seen.len() / frames;
    // The best sum up to each place, a frame at a time, and whether it came from the row before.
    let mut best = vec![f32::NEG_INFINITY; rows];
    let mut steps = vec![false; rows * frames];
    for frame in 0..frames {
        for row in (0..rows).rev() {
            let (stay, step) = (best[row], if row > 0 { best[row - 1] } else { f32::NEG_INFINITY });
            let before = if frame == 0 && row == 0 { 0.0 } else { stay.max(step) };
            steps[frame * rows + row] = step > stay;
            best[row] = before + seen[row * frames + frame];
        }
    }
    let mut begins = vec![0; rows];
    let mut row = rows - 1;
    for frame in (0..frames).rev() {
        if row > 0 && steps[frame * rows + row] {
            begins[row] = frame;
            row -= 1;
        }
    }
    begins
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_goes_through_what_is_seen() {
        // Four tokens over ten frames; each is seen in some, and one frame misleads.
        let frames = 10;
        let places = [0..3, 3..4, 4..8, 8..10];
        let mut seen = vec![0.0f32; places.len() * frames];
        for (row, place) in places.iter().enumerate() {
            seen[row * frames..][place.clone()].fill(1.0);
        }
        seen[frames + 9] = 1.2;
        assert_eq!(way(&seen, frames), [0, 3, 4, 8]);
    }

    #[test]
    fn a_head_that_always_looks_at_the_same_frames_does_not_count() {
        let frames = 8;
        let mut look = vec![0.0f32; 3 * frames];
        look.chunks_exact_mut(frames).for_each(|row| row[2] = 1.0);
        let mut seen = vec![0.0; look.len()];
        add_look(&look, frames, &mut seen);
        assert!(seen.iter().all(|w| *w == 0.0), "{seen:?}");
    }

    #[test]
    fn more_tokens_than_frames_still_have_an_order() {
        let begins = way(&[0.5; 5 * 3], 3);
        assert_eq!(begins.len(), 5);
        assert!(begins.is_sorted() && begins[4] < 3, "{begins:?}");
    }
}
