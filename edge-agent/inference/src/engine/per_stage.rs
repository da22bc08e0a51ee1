//! A table with one entry for each stage of the pipeline.

use nearfield_shared::artefact::Stage;
use std::ops::{Index, IndexMut};

/// One `T` per [`Stage`]; indexing cannot miss.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PerStage<T>([T; Stage::ALL.len()]);

impl<T> PerStage<T> {
    /// Fills the table.
    pub fn from_fn(mut entry: impl FnMut(Stage) -> T) -> Self {
        Self(Stage::ALL.map(&mut entry))
    }

    /// The entries in pipeline order.
    pub fn iter(&self) -> impl Iterator<Item = (Stage, &T)> {
        Stage::ALL.into_iter().zip(self.0.iter())
    }
}

impl<T> Index<Stage> for PerStage<T> {
    type Output = T;

    fn index(&self, stage: Stage) -> &T {
        &self.0[stage as usize]
    }
}

impl<T> IndexMut<Stage> for PerStage<T> {
    fn index_mut(&mut self, stage: Stage) -> &mut T {
        &mut self.0[stage as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_has_its_own_entry() {
        let mut table = PerStage::from_fn(|stage| stage.as_str().to_owned());
        for stage in Stage::ALL {
            assert_eq!(table[stage], stage.as_str());
        }
        table[Stage::Llm].push('!');
        let read: Vec<_> = table.iter().map(|(stage, entry)| format!("{stage}={entry}")).collect();
        assert_eq!(read.join(" "), "vad=vad turn=turn asr=asr llm=llm! tts=tts embed=embed");
    }
}
