//! Which turns a candidate gets: chance that can be repeated, from a seed that each trial draws once.

use super::verdict::Side;

/// The side of a turn. The same numbers give the same side, and neither the call nor the number of the turn says which without the seed.
pub fn side_of(seed: u64, call: u128, turn: u64, share_percent: f64) -> Side {
    let mixed = [call as u64, (call >> 64) as u64, turn].into_iter().fold(seed, |mixed, part| mix(mixed ^ part));
    // The upper 53 bits as a number from 0 to 1, which an f64 holds exactly.
    let place = (mixed >> 11) as f64 / (1u64 << 53) as f64;
    if place * 100.0 < share_percent { Side::Candidate } else { Side::Live }
}

/// SplitMix64: every bit of what goes in changes about half of what comes out.
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(seed: u64, calls: u128, turns: u64, share_percent: f64) -> usize {
        let sides = (0..calls).flat_map(|call| (0..turns).map(move |turn| (call << 70, turn)));
        sides.filter(|(call, turn)| side_of(seed, *call, *turn, share_percent) == Side::Candidate).count()
    }

    #[test]
    fn the_share_is_kept_over_turns_of_one_call_and_first_turns_of_many() {
        for share in [1.0, 10.0, 50.0] {
            for (calls, turns) in [(1, 10_000), (10_000, 1), (100, 100)] {
                let found = tried(7, calls, turns, share) as f64 / 100.0;
                // Five times the standard deviation of a fair draw.
                let spread = 5.0 * (share * (100.0 - share) / 10_000.0).sqrt();
                assert!((found - share).abs() < spread, "{found} % of {share} % for {calls} calls of {turns} turns");
            }
        }
    }

    #[test]
    fn a_turn_has_one_side_and_another_trial_draws_anew() {
        let sides = |seed: u64| (0..64).map(|turn| side_of(seed, 9, turn, 50.0)).collect::<Vec<_>>();
        assert_eq!(sides(1), sides(1));
        assert_ne!(sides(1), sides(2));
    }
}
