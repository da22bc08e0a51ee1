//! The bounds on quality that every gain in speed has to keep.

use control_plane::registry::{Cache, Fetcher};
use nearfield_bench::quality::{perplexity, wer};
use nearfield_inference::Device;

fn fetcher() -> Fetcher {
    Fetcher::new(Cache::of_user().expect("a cache"))
}

#[test]
fn the_language_model_foretells_a_text_as_well_as_its_own_weights_as_floats() {
    let found = perplexity(&fetcher(), &Device::flex(), None).expect("measured");
    println!("perplexity {:.3}, as floats {:.3}: {:+.3} %", found.ours, found.floats, 100.0 * found.change());
    // A model that is broken foretells nothing: a fifth of the vocabulary's size would be an upper bound of no use.
    assert!(found.floats > 1.0 && found.floats < 100.0, "{found:?}");
    assert!(found.change().abs() <= 0.01, "{found:?}");
}

#[test]
fn the_recogniser_hears_as_well_as_its_float_reference() {
    let found = wer(&fetcher(), &Device::flex()).expect("measured");
    println!("word errors {:.2} %, with float weights {:.2} %", found.ours_percent, found.floats_percent);
    assert!(found.ours_percent <= found.floats_percent + 0.5, "{found:?}");
}
