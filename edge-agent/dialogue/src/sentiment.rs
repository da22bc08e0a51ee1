//! How a caller feels, as far as their words tell: VADER, a list of English words with rules for negation and emphasis.
//!
//! Source: Hutto and Gilbert, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text, 2014. It knows nothing of
//! the tone of a voice, and takes what is said in irony at its word.

use vader_sentimental::SentimentIntensityAnalyzer;

/// From -1, as bad as words can be, to 1; 0 where they tell nothing.
pub fn sentiment(words: &str) -> f32 {
    // What a recogniser writes in capitals is no shouting, and its marks are its own.
    let words = words.to_lowercase().replace(['!', '?'], ".");
    SentimentIntensityAnalyzer::new().polarity_scores(&words).compound as f32
}

#[cfg(test)]
mod tests {
    use super::sentiment;

    #[test]
    fn words_tell_how_somebody_feels() {
        for bad in [
            "This is terrible, I am really angry.",
            "You are useless and I hate this.",
            "That was an awful, awful answer.",
        ] {
            assert!(sentiment(bad) <= -0.5, "{bad}: {}", sentiment(bad));
        }
        for calm in ["When are you open on Saturday?", "My number is four two seven.", "", "?!", "\u{1f525}\u{0}"] {
            assert!(sentiment(calm).abs() < 0.1, "{calm}: {}", sentiment(calm));
        }
        for good in ["Great, thank you, that helps.", "That is not bad at all."] {
            assert!(sentiment(good) > 0.2, "{good}: {}", sentiment(good));
        }
    }
}
