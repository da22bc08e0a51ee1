//! Audio in its order. A WebSocket keeps the order of what it is given, but providers do not promise to give it in order.

use std::collections::BTreeMap;

/// Pieces of audio that wait for an earlier one: 80 ms. Then the earlier one counts as lost.
const WAITING_MAX: usize = 4;

/// The order of one stream. Pure.
#[derive(Debug, Default)]
pub struct Order {
    /// The place after the last piece that was given on.
    next: Option<u64>,
    waiting: BTreeMap<u64, Vec<u8>>,
}

impl Order {
    /// Takes a piece with its place; gives the audio that is next, if any. What comes too late is left out.
    pub fn push(&mut self, place: Option<u64>, audio: Vec<u8>) -> Vec<u8> {
        let Some(place) = place else { return audio };
        if self.next.is_some_and(|next| place < next) {
            return Vec::new();
        }
        self.waiting.insert(place, audio);
        let mut ready = Vec::new();
        while let Some(first) = self.waiting.first_entry() {
            let is_next = self.next.is_none_or(|next| next == *first.key());
            if !is_next && self.waiting.len() <= WAITING_MAX {
                break;
            }
            let Some((place, audio)) = self.waiting.pop_first() else { break };
            self.next = place.checked_add(1);
            ready.extend(audio);
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_early_waits_and_what_is_late_is_left_out() {
        let mut order = Order::default();
        let mut push = |place: u64| order.push(Some(place), vec![place as u8]);
        assert_eq!(push(3), [3]);
        assert!(push(5).is_empty());
        assert_eq!(push(4), [4, 5]);
        assert!(push(4).is_empty(), "again");
        for early in [7, 8, 9, 10] {
            assert!(push(early).is_empty());
        }
        assert_eq!(push(11), [7, 8, 9, 10, 11], "the sixth is lost");
        assert!(push(6).is_empty());
        assert!(push(u64::MAX).is_empty());
        assert_eq!(order.push(None, vec![1]), [1], "without a place it is as it comes");
    }

    proptest! {
        #[test]
        fn nothing_is_told_twice_or_before_what_it_follows(places in prop::collection::vec(0u64..64, 0..300)) {
            let mut order = Order::default();
            let told: Vec<u8> = places.iter().flat_map(|place| order.push(Some(*place), vec![*place as u8])).collect();
            prop_assert!(told.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(order.waiting.len() <= WAITING_MAX);
        }
    }
}
