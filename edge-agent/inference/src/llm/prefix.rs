//! Beginnings of conversations that were fed before: an assistant's instructions, which all its calls share, and the earlier
//! turns of a call. Their keys and values are copied instead of computed again.
//!
//! A tree of turns: each node holds the keys and values of one message behind those of its ancestors, so what conversations
//! have in common is kept once. A message is fed in chunks of its own, whatever stands before or after it; what is copied is
//! therefore bit for bit what feeding would give, and an answer cannot tell.
//!
//! The memory is bounded. When it is full, the leaf that was unused for longest goes first; instructions are used by every
//! call and stay.

use super::Sequence;
use burn::tensor::Tensor;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Keys and values of some tokens of a conversation.
pub struct Segment {
    pub(super) tokens: Vec<u32>,
    /// One for each layer, `[tokens, kv_heads · head_dim]`.
    pub(super) keys: Vec<Tensor<2>>,
    pub(super) values: Vec<Tensor<2>>,
}

/// The content belongs to a caller, so only its size is shown.
impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Segment({} tokens, {} bytes)", self.tokens.len(), self.bytes())
    }
}

impl Segment {
    /// Tokens there are.
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    fn bytes(&self) -> usize {
        let bytes = |tables: &[Tensor<2>]| {
            tables.iter().map(|t| t.dtype().size() * t.dims().iter().product::<usize>()).sum::<usize>()
        };
        size_of::<u32>() * self.tokens.len() + bytes(&self.keys) + bytes(&self.values)
    }
}

/// A node of the tree; of use as long as the cache still holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Prefix(u64);

struct Node {
    parent: Option<Prefix>,
    segment: Rc<Segment>,
    /// Whether nothing in it, nor before it, was said by a caller.
    is_instruction: bool,
    used: u64,
}

/// Beginnings of conversations, by their tokens.
pub struct PrefixCache {
    nodes: BTreeMap<Prefix, Node>,
    bytes: usize,
    bytes_max: usize,
    /// Counts uses, for the order of eviction.
    uses: u64,
    next: u64,
}

impl PrefixCache {
    /// An empty cache that keeps at most `bytes_max` bytes; of 0 bytes it keeps nothing.
    pub fn new(bytes_max: usize) -> Self {
        Self { nodes: BTreeMap::new(), bytes: 0, bytes_max, uses: 0, next: 0 }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The longest beginning of a conversation that is kept, turn by turn.
    pub fn longest(&mut self, turns: &[Vec<u32>]) -> Vec<(Prefix, Rc<Segment>)> {
        self.uses += 1;
        let mut found: Vec<(Prefix, Rc<Segment>)> = Vec::new();
        for turn in turns {
            let parent = found.last().map(|(prefix, _)| *prefix);
            let child = self.nodes.iter_mut().find(|(_, node)| node.parent == parent && node.segment.tokens == *turn);
            let Some((prefix, node)) = child else { break };
            node.used = self.uses;
            found.push((*prefix, node.segment.clone()));
        }
        found
    }

    /// Keeps a turn that ends where the sequence now stands, behind `parent`. `is_instruction` says that no caller's words are
    /// in it. Nothing is kept where the parent is gone, or where even without all others there is no room.
    pub fn keep(
        &mut self,
        parent: Option<Prefix>,
        turn: &[u32],
        is_instruction: bool,
        sequence: &Sequence,
    ) -> Option<Prefix> {
        if let Some((prefix, _)) = self.nodes.iter().find(|(_, n)| n.parent == parent && n.segment.tokens == turn) {
            // Two calls fed the same turn at the same time.
            return Some(*prefix);
        }
        let needed = turn.len() * sequence.bytes_per_token();
        if parent.is_some_and(|parent| !self.nodes.contains_key(&parent)) || !self.make_room(needed, parent) {
            return None;
        }
        let from = sequence.tokens().checked_sub(turn.len())?;
        let segment = Rc::new(sequence.copied(from, turn.to_vec()));
        self.bytes += segment.bytes();
        self.uses += 1;
        self.next += 1;
        let is_instruction = is_instruction && parent.is_none_or(|parent| self.nodes[&parent].is_instruction);
        self.nodes.insert(Prefix(self.next), Node { parent, segment, is_instruction, used: self.uses });
        Some(Prefix(self.next))
    }

    /// Lets go of everything that callers or answers to them have said; instructions stay.
    pub fn forget_callers(&mut self) {
        self.nodes.retain(|_, node| node.is_instruction);
        self.bytes = self.nodes.values().map(|node| node.segment.bytes()).sum();
    }

    /// Evicts until `needed` bytes fit; false if that cannot be. `behind` and its ancestors stay.
    fn make_room(&mut self, needed: usize, behind: Option<Prefix>) -> bool {
        while self.bytes + needed > self.bytes_max {
            let is_leaf = |prefix: &Prefix| self.nodes.values().all(|node| node.parent != Some(*prefix));
            let oldest = self
                .nodes
                .iter()
                .filter(|(prefix, _)| Some(**prefix) != behind && is_leaf(prefix))
                .min_by_key(|(_, node)| node.used)
                .map(|(prefix, _)| *prefix);
            let Some(node) = oldest.and_then(|oldest| self.nodes.remove(&oldest)) else { return false };
            self.bytes -= node.segment.bytes();
        }
        true
    }
}
