//! Scaled dot-product attention over whole sequences. Over a cache that grows: [`crate::ops::attend`].

use burn::tensor::{Bool, Tensor, module};

/// `softmax(q · kᵀ / √dim) · v` for q, k, v `[batch, heads, t, dim]`; places where `mask` `[batch, heads, t, t_keys]` is
/// true are not seen.
pub fn attention(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, mask: Option<Tensor<4, Bool>>) -> Tensor<4> {
    module::attention(q, k, v, mask, None, Default::default())
}
