//! Regions whose newest change the disk does not have yet. What their nodes are offered stays as it is meanwhile: a plane that told of a number and lost it with its memory could give the same
//! number to something else.
//!
//! A change is in the fleet before it is on the disk, and others publish in between. So whoever publishes asks here first, and what was held back is told as soon as the disk has it.
//! A batch that the disk did not take leaves its regions held until their records were written anew.

use crate::store::Write;
use nearfield_shared::region::RegionId;
use std::collections::{BTreeMap, BTreeSet};

/// What is not on the disk.
#[derive(Debug, Default)]
pub struct Unstored {
    /// How many batches of each region wait for the disk.
    waiting: BTreeMap<RegionId, usize>,
    /// Regions that the disk does not have as they are.
    failed: BTreeSet<RegionId>,
    /// Regions that somebody would have published.
    held: BTreeSet<RegionId>,
}

/// The regions of one batch; whether it has all that is offered in each.
pub type Regions = BTreeMap<RegionId, bool>;

impl Unstored {
    /// A batch goes to the disk; returns the regions whose offers it concerns.
    pub fn queued(&mut self, batch: &[Write]) -> Regions {
        let mut regions = Regions::new();
        for write in batch {
            let (kind, name) = write.key().split_once('/').unwrap_or_default();
            if matches!(kind, "region" | "rollout")
                && let Ok(region) = name.parse()
            {
                *regions.entry(region).or_default() |= kind == "region";
            }
        }
        for region in regions.keys() {
            *self.waiting.entry(region.clone()).or_default() += 1;
        }
        regions
    }

    /// A batch is on the disk, or will not be; returns the regions that were held back and may be told now.
    pub fn ended(&mut self, batch: &Regions, stored: bool) -> BTreeSet<RegionId> {
        for (region, whole) in batch {
            match self.waiting.get_mut(region) {
                Some(waiting) if *waiting > 1 => *waiting -= 1,
                _ => _ = self.waiting.remove(region),
            }
            if !stored {
                self.failed.insert(region.clone());
            } else if *whole {
                self.failed.remove(region);
            }
        }
        let may = |region: &RegionId| !self.waiting.contains_key(region) && !self.failed.contains(region);
        let (free, held) = std::mem::take(&mut self.held).into_iter().partition(may);
        self.held = held;
        free
    }

    /// Whether a region may not be published now; it is remembered that somebody wanted to.
    pub fn holds(&mut self, region: &RegionId) -> bool {
        let holds = self.waiting.contains_key(region) || self.failed.contains(region);
        if holds {
            self.held.insert(region.clone());
        }
        holds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str) -> Write {
        Write::Put { key: key.into(), value: String::new() }
    }

    /// Found by the simulation (seed 1015): an apply that the disk refused was told to nodes with the next thing that was published.
    #[test]
    fn regression_what_is_not_stored_is_not_told_and_what_was_held_is_told_then() {
        let eu: RegionId = "eu".parse().unwrap();
        let mut unstored = Unstored::default();
        let (first, second) =
            (unstored.queued(&[put("node/a"), put("region/eu")]), unstored.queued(&[put("rollout/eu")]));
        assert!(unstored.holds(&eu));
        assert!(unstored.ended(&first, true).is_empty(), "a later change of it still waits");
        assert_eq!(unstored.ended(&second, true), [eu.clone()].into());
        assert!(!unstored.holds(&eu) && unstored.ended(&second, true).is_empty());

        let refused = unstored.queued(&[put("region/eu")]);
        assert!(unstored.ended(&refused, false).is_empty() && unstored.holds(&eu));
        let part = unstored.queued(&[put("rollout/eu")]);
        assert!(unstored.ended(&part, true).is_empty(), "the region's record is still not there");
        let whole = unstored.queued(&[put("rollout/eu"), put("region/eu")]);
        assert_eq!(unstored.ended(&whole, true), [eu].into());
    }
}
