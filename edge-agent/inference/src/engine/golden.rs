//! Golden results: what a model produced on this device, beside what it must produce. The comparisons are pure; the
//! steppers bring the values.

use nearfield_shared::artefact::Stage;
use nearfield_shared::gguf::Gguf;
use nearfield_shared::golden::{GOLDEN_KEY, GoldenCase};

/// Golden cases that one file may hold. Real files have a handful; a hostile one must not keep the device busy.
const CASES_MAX: usize = 64;

/// What one golden case came to.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseOutcome {
    /// The stage of the case.
    pub stage: Stage,
    /// Whether the device reproduced it.
    pub passed: bool,
    /// What was expected, in words.
    pub expected: String,
    /// What was found, in words.
    pub found: String,
}

/// What the golden cases inside one model file came to on this device.
#[derive(Debug, Clone, PartialEq)]
pub struct GoldenReport {
    /// The stage of the model.
    pub stage: Stage,
    /// One outcome per case, in the order of the file.
    pub cases: Vec<CaseOutcome>,
    /// How long it took, in milliseconds, other work in between included.
    pub elapsed_ms: u64,
}

impl GoldenReport {
    /// Whether the model is proven: it has cases, and every one was reproduced.
    pub fn passed(&self) -> bool {
        !self.cases.is_empty() && self.cases.iter().all(|case| case.passed)
    }

    /// One line for a NACK: the first failure, or how many cases held.
    pub fn summary(&self) -> String {
        match self.cases.iter().position(|case| !case.passed) {
            Some(at) => {
                let case = &self.cases[at];
                format!(
                    "golden case {} of {} was not reproduced: expected {}, found {}",
                    at + 1,
                    self.cases.len(),
                    case.expected,
                    case.found
                )
            }
            None if self.cases.is_empty() => {
                "the file holds no golden cases; import the model again with its golden file".to_owned()
            }
            None => format!("{} golden cases reproduced in {} ms", self.cases.len(), self.elapsed_ms),
        }
    }
}

/// Reads the golden cases of a model file. A file without any gives an empty list.
pub(crate) fn cases(gguf: &Gguf, stage: Stage) -> Result<Vec<GoldenCase>, String> {
    if gguf.meta(GOLDEN_KEY).is_none() {
        return Ok(Vec::new());
    }
    let json = gguf.str(GOLDEN_KEY).map_err(|error| error.to_string())?;
    let cases: Vec<GoldenCase> = serde_json::from_str(json)
        .map_err(|error| format!("the golden cases inside the file cannot be read: {error}"))?;
    if cases.len() > CASES_MAX {
        return Err(format!("the file holds {} golden cases; at most {CASES_MAX} are run", cases.len()));
    }
    match cases.iter().find(|case| stage_of(case) != stage) {
        Some(other) => Err(format!("a golden case of stage {} stands in the file of a {stage} model", stage_of(other))),
        None => Ok(cases),
    }
}

/// The stage that a case is about.
pub(crate) fn stage_of(case: &GoldenCase) -> Stage {
    match case {
        GoldenCase::Vad { .. } => Stage::Vad,
        GoldenCase::Turn { .. } => Stage::Turn,
        GoldenCase::Asr { .. } => Stage::Asr,
        GoldenCase::Llm { .. } => Stage::Llm,
        GoldenCase::Tts { .. } => Stage::Tts,
        GoldenCase::Embed { .. } => Stage::Embed,
    }
}

/// Probabilities within a tolerance of each other, one by one.
pub(crate) fn close(stage: Stage, expected: &[f32], found: &[f32], tolerance: f32) -> CaseOutcome {
    let worst = expected.iter().zip(found).map(|(e, f)| (e - f).abs()).fold(0.0, f32::max);
    // A NaN makes `fold` forget it, so it is looked for by itself.
    let whole = expected.len() == found.len() && found.iter().all(|value| value.is_finite());
    CaseOutcome {
        stage,
        passed: whole && worst <= tolerance,
        expected: format!("{} values within {tolerance}", expected.len()),
        found: if whole {
            format!("{} values, greatest difference {worst:.6}", found.len())
        } else {
            format!("{} values, {} of them finite", found.len(), found.iter().filter(|v| v.is_finite()).count())
        },
    }
}

/// Token ids within a number of edits.
pub(crate) fn tokens(stage: Stage, expected: &[u32], found: &[u32], edits_max: u32) -> CaseOutcome {
    let edits = edit_distance(expected, found);
    CaseOutcome {
        stage,
        passed: edits <= edits_max as usize,
        expected: format!("{expected:?} within {edits_max} edits"),
        found: format!("{found:?}, {edits} edits away"),
    }
}

/// Durations that are equal and a pitch contour that follows the expected one.
pub(crate) fn prosody(expected: (&[u32], &[f32]), found: (&[u32], &[f32]), correlation_min: f32) -> CaseOutcome {
    let differing =
        expected.0.iter().zip(found.0).filter(|(e, f)| e != f).count() + expected.0.len().abs_diff(found.0.len());
    let correlation = pearson(expected.1, found.1);
    CaseOutcome {
        stage: Stage::Tts,
        passed: differing == 0 && correlation.is_some_and(|r| r >= f64::from(correlation_min)),
        expected: format!("{} durations equal, f0 correlation of {correlation_min} or more", expected.0.len()),
        found: match correlation {
            Some(r) => format!("{differing} durations differ, f0 correlation {r:.6}"),
            None => format!(
                "{differing} durations differ, f0 cannot be compared ({} values expected, {} found)",
                expected.1.len(),
                found.1.len()
            ),
        },
    }
}

/// Embeddings that point the same way.
pub(crate) fn same_direction(expected: &[f32], found: &[f32], cosine_min: f32) -> CaseOutcome {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let cosine = dot(expected, found) / (dot(expected, expected) * dot(found, found)).sqrt();
    CaseOutcome {
        stage: Stage::Embed,
        passed: expected.len() == found.len() && cosine >= f64::from(cosine_min),
        expected: format!("{} values, cosine of {cosine_min} or more", expected.len()),
        found: format!("{} values, cosine {cosine:.6}", found.len()),
    }
}

/// Insertions, deletions and replacements that turn one list into the other.
pub fn edit_distance<T: PartialEq>(a: &[T], b: &[T]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            row[j + 1] = (above + 1).min(row[j] + 1).min(diagonal + usize::from(x != y));
            diagonal = above;
        }
    }
    row[b.len()]
}

/// Pearson correlation; `None` where it is not defined (lengths differ, or a side does not vary).
fn pearson(a: &[f32], b: &[f32]) -> Option<f64> {
    if a.len() != b.len() || a.is_empty() {
        return None;
    }
    let mean = |v: &[f32]| v.iter().map(|x| f64::from(*x)).sum::<f64>() / v.len() as f64;
    let (mean_a, mean_b) = (mean(a), mean(b));
    let (mut ab, mut aa, mut bb) = (0.0, 0.0, 0.0);
    for (x, y) in a.iter().zip(b) {
        let (x, y) = (f64::from(*x) - mean_a, f64::from(*y) - mean_b);
        ab += x * y;
        aa += x * x;
        bb += y * y;
    }
    let correlation = ab / (aa * bb).sqrt();
    correlation.is_finite().then_some(correlation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_are_compared_one_by_one() {
        let check = |found: &[f32], passed: bool| {
            let outcome = close(Stage::Vad, &[0.1, 0.9], found, 2e-3);
            assert_eq!(outcome.passed, passed, "{outcome:?}");
        };
        check(&[0.1, 0.9], true);
        check(&[0.1015, 0.9], true);
        check(&[0.103, 0.9], false);
        check(&[0.1], false);
        check(&[0.1, f32::NAN], false);
    }

    #[test]
    fn tokens_are_compared_by_edits() {
        let check = |found: &[u32], edits: usize| assert_eq!(edit_distance(&[1, 2, 3, 4], found), edits, "{found:?}");
        check(&[1, 2, 3, 4], 0);
        check(&[1, 2, 4], 1);
        check(&[1, 9, 3, 4], 1);
        check(&[0, 1, 2, 3, 4], 1);
        check(&[], 4);
        assert!(tokens(Stage::Asr, &[1, 2], &[1, 3], 1).passed);
        assert!(!tokens(Stage::Asr, &[1, 2], &[1, 3], 0).passed);
    }

    #[test]
    fn prosody_needs_equal_durations_and_a_pitch_that_follows() {
        let f0 = [100.0, 120.0, 90.0];
        let check = |durations: &[u32], f0_found: &[f32], passed: bool| {
            let outcome = prosody((&[3, 4], &f0), (durations, f0_found), 0.999);
            assert_eq!(outcome.passed, passed, "{outcome:?}");
        };
        check(&[3, 4], &f0, true);
        check(&[3, 4], &[100.1, 120.1, 90.0], true);
        check(&[3, 5], &f0, false);
        check(&[3, 4, 1], &f0, false);
        check(&[3, 4], &[120.0, 100.0, 90.0], false);
        check(&[3, 4], &[100.0, 100.0, 100.0], false);
        check(&[3, 4], &[100.0], false);
    }

    #[test]
    fn embeddings_are_compared_by_direction() {
        assert!(same_direction(&[1.0, 0.0], &[2.0, 0.0], 0.999).passed);
        assert!(!same_direction(&[1.0, 0.0], &[1.0, 0.1], 0.999).passed);
        assert!(!same_direction(&[1.0, 0.0], &[0.0, 0.0], 0.999).passed);
        assert!(!same_direction(&[1.0, 0.0], &[1.0], 0.999).passed);
    }

    #[test]
    fn a_report_without_cases_proves_nothing() {
        let mut report = GoldenReport { stage: Stage::Vad, cases: vec![], elapsed_ms: 1 };
        assert!(!report.passed());
        assert!(report.summary().contains("no golden cases"), "{}", report.summary());
        report.cases = vec![close(Stage::Vad, &[0.5], &[0.5], 0.1), close(Stage::Vad, &[0.5], &[0.9], 0.1)];
        assert!(!report.passed());
        assert!(report.summary().starts_with("golden case 2 of 2"), "{}", report.summary());
        report.cases.pop();
        assert!(report.passed());
    }
}
