//! The phonemes the voice knows and their ids.

use super::G2pError;

/// Id that stands before and after every phrase; also what the id table holds where there is no phoneme.
pub const PAD: u32 = 0;

/// Two-way map between phoneme characters and the ids the acoustic model was trained with. All ids fit in a byte, so a
/// pronunciation is kept as one byte per phoneme.
#[derive(Debug, Clone)]
pub struct Alphabet {
    characters: Vec<Option<char>>,
    /// Sorted by character.
    ids: Vec<(char, u8)>,
}

impl Alphabet {
    /// Builds the map from a list whose index is the id and whose entries are one character, or empty where an id is unused.
    pub fn new<S: AsRef<str>>(by_id: &[S]) -> Result<Self, G2pError> {
        let bad = |what: String| G2pError::Data { name: "alphabet", what };
        if by_id.len() > 256 {
            return Err(bad(format!("{} phonemes, at most 256 fit", by_id.len())));
        }
        let mut characters = Vec::with_capacity(by_id.len());
        let mut ids = Vec::new();
        for (id, text) in (0u8..=255).zip(by_id) {
            let mut chars = text.as_ref().chars();
            let (first, more) = (chars.next(), chars.next());
            if more.is_some() || (id == 0 && first.is_some()) {
                return Err(bad(format!("entry {id} is {:?}, not one character", text.as_ref())));
            }
            characters.push(first);
            ids.extend(first.map(|c| (c, id)));
        }
        ids.sort_unstable();
        Ok(Self { characters, ids })
    }

    /// The id of a phoneme, `None` for a character the voice does not know.
    pub fn id(&self, phoneme: char) -> Option<u8> {
        self.ids.binary_search_by_key(&phoneme, |&(c, _)| c).ok().map(|i| self.ids[i].1)
    }

    /// Ids of a phrase between two [`PAD`]s; unknown characters are left out.
    pub fn ids(&self, phonemes: &str) -> Vec<u32> {
        let known = phonemes.chars().filter_map(|c| self.id(c)).map(u32::from);
        std::iter::once(PAD).chain(known).chain([PAD]).collect()
    }

    /// The characters of a stored pronunciation.
    pub fn text(&self, ids: &[u8]) -> String {
        ids.iter().filter_map(|&id| self.characters.get(usize::from(id)).copied().flatten()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_back() {
        let a = Alphabet::new(&["", "a", "", "ˈ", "b"]).unwrap();
        assert_eq!(a.ids("ˈab?a"), [0, 3, 1, 4, 1, 0]);
        assert_eq!(a.text(&[3, 1, 2, 200, 4]), "ˈab");
        assert_eq!(a.ids(""), [0, 0]);
        assert!(Alphabet::new(&["", "ab"]).is_err());
        assert!(Alphabet::new(&["a"]).is_err(), "id 0 is the pad");
        assert!(Alphabet::new(&vec![""; 257]).is_err());
    }
}
