//! A sorted byte table: what a lexicon looks like inside a model file and in memory.
//!
//! A pronunciation lexicon of 184,000 words costs some 20 MB as a `HashMap<String, String>` (two strings and two allocations an
//! entry), and has to be filled at every start. Here it is one run of bytes that is written once by the importer, stored as a
//! tensor of raw bytes in the GGUF file, and searched in place: keys are sorted and front-coded (each stores only what differs from
//! the key before it) in blocks of 16, and a block begins with a whole key, so a look-up is a binary search over blocks and a walk
//! inside one.
//!
//! Layout, all integers little endian:
//! `magic "NFT1" | entries u32 | blocks u32 | block offset u32 × blocks | entries…`; an entry is
//! `bytes shared with the key before u8 | rest of key: length u8, bytes | value: length (LEB128), bytes`.
//!
//! The downside of the design: a look-up is a search of some twenty steps instead of one, and nothing can be changed after writing.
//! Both are fine for text that is spoken.

use std::fmt;

/// Entries in a block. 16 keeps the index at two bits an entry and the walk inside a block short.
const BLOCK: usize = 16;
/// Longest key. Lengths are one byte; the longest word of the lexicons in use has 45.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest value, so that a damaged length cannot ask for much.
pub const VALUE_BYTES_MAX: usize = 65_535;
const MAGIC: &[u8; 4] = b"NFT1";
const HEADER: usize = 12;

/// Why bytes are not a table, or a table cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The bytes do not follow the layout.
    #[error("the byte table is damaged at byte {at}: {what}; import the model again")]
    Damaged {
        /// Where.
        at: usize,
        /// What is wrong there.
        what: &'static str,
    },
    /// The same key was given twice.
    #[error("the key {0:?} stands twice in the table to be written")]
    Twice(String),
    /// A key or value is longer than the layout can hold.
    #[error("the entry {0:?} is longer than a table can hold (key {KEY_BYTES_MAX}, value {VALUE_BYTES_MAX} bytes)")]
    TooLong(String),
}

/// A read-only map from bytes to bytes, searched where it lies.
#[derive(Clone)]
pub struct Table {
    bytes: Box<[u8]>,
    entries: usize,
    /// Where the offsets of the blocks stand, and how many there are.
    blocks: usize,
    longest_key: usize,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("entries", &self.entries).field("bytes", &self.bytes.len()).finish()
    }
}

impl Table {
    /// Checks every offset, length and the order of the keys once, so that no later look-up can fail.
    pub fn parse(bytes: impl Into<Box<[u8]>>) -> Result<Self, TableError> {
        let bytes: Box<[u8]> = bytes.into();
        let damaged = |at, what| TableError::Damaged { at, what };
        if bytes.len() < HEADER || &bytes[..4] != MAGIC {
            return Err(damaged(0, "it does not begin with NFT1"));
        }
        let entries = u32_at(&bytes, 4) as usize;
        let blocks = u32_at(&bytes, 8) as usize;
        if blocks != entries.div_ceil(BLOCK) {
            return Err(damaged(8, "the number of blocks does not follow from the number of entries"));
        }
        let first = blocks.checked_mul(4).and_then(|b| b.checked_add(HEADER)).filter(|&end| end <= bytes.len());
        let Some(mut at) = first else {
            return Err(damaged(8, "the block index reaches past the end"));
        };
        let (mut key, mut before): (Vec<u8>, Vec<u8>) = (Vec::new(), Vec::new());
        let mut longest_key = 0;
        for i in 0..entries {
            if i % BLOCK == 0 && u32_at(&bytes, HEADER + i / BLOCK * 4) as usize != at {
                return Err(damaged(HEADER + i / BLOCK * 4, "a block offset does not point at its block"));
            }
            let entry = Entry::read(&bytes, at).ok_or_else(|| damaged(at, "an entry reaches past the end"))?;
            if entry.shared > key.len() || (i % BLOCK == 0 && entry.shared != 0) {
                return Err(damaged(at, "a key shares more than there is"));
            }
            key.truncate(entry.shared);
            key.extend_from_slice(entry.rest);
            if key.len() > KEY_BYTES_MAX || entry.value.len() > VALUE_BYTES_MAX {
                return Err(damaged(at, "an entry is too long"));
            }
            if i > 0 && key <= before {
                return Err(damaged(at, "the keys are not in order"));
            }
            before.clone_from(&key);
            longest_key = longest_key.max(key.len());
            at = entry.end;
        }
        if at != bytes.len() {
            return Err(damaged(at, "bytes follow the last entry"));
        }
        Ok(Self { bytes, entries, blocks, longest_key })
    }

    /// The value of a key.
    pub fn get(&self, key: impl AsRef<[u8]>) -> Option<&[u8]> {
        let key = key.as_ref();
        // The last block whose first key is not greater than the key.
        let (mut low, mut high) = (0, self.blocks);
        while low < high {
            let middle = (low + high) / 2;
            if self.first_key(middle) <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let block = low.checked_sub(1)?;
        let mut at = self.block_at(block);
        // `same` bytes of the entry before agree with the key looked for; with sorted keys, an entry that shares fewer bytes with
        // its predecessor than that has gone past the key.
        let mut same = 0;
        for _ in 0..BLOCK.min(self.entries - block * BLOCK) {
            let entry = Entry::read(&self.bytes, at)?;
            if entry.shared < same {
                return None;
            }
            if entry.shared == same {
                same += entry.rest.iter().zip(&key[same..]).take_while(|(a, b)| a == b).count();
                if same == key.len() && entry.shared + entry.rest.len() == key.len() {
                    return Some(entry.value);
                }
            }
            at = entry.end;
        }
        None
    }

    /// Whether the key is there.
    pub fn contains(&self, key: impl AsRef<[u8]>) -> bool {
        self.get(key).is_some()
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// Bytes of the longest key: what is longer need not be looked up.
    pub fn longest_key(&self) -> usize {
        self.longest_key
    }

    /// Bytes it holds in memory.
    pub fn resident_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Sorts the entries and writes the bytes that [`Table::parse`] reads.
    pub fn write(mut entries: Vec<(Vec<u8>, Vec<u8>)>) -> Result<Vec<u8>, TableError> {
        entries.sort();
        let blocks = entries.len().div_ceil(BLOCK);
        let mut out = Vec::with_capacity(HEADER + blocks * 4 + entries.len() * 16);
        out.extend_from_slice(MAGIC);
        for n in [entries.len(), blocks] {
            let n = u32::try_from(n).map_err(|_| TableError::TooLong("the whole table".into()))?;
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.resize(HEADER + blocks * 4, 0);
        let mut before: &[u8] = &[];
        for (i, (key, value)) in entries.iter().enumerate() {
            let name = || String::from_utf8_lossy(key).into_owned();
            if i > 0 && before == key.as_slice() {
                return Err(TableError::Twice(name()));
            }
            if key.len() > KEY_BYTES_MAX || value.len() > VALUE_BYTES_MAX {
                return Err(TableError::TooLong(name()));
            }
            let mut shared = 0;
            if i % BLOCK == 0 {
                let at = u32::try_from(out.len()).map_err(|_| TableError::TooLong(name()))?;
                out[HEADER + i / BLOCK * 4..][..4].copy_from_slice(&at.to_le_bytes());
            } else {
                shared = before.iter().zip(key).take_while(|(a, b)| a == b).count();
            }
            // Both fit: a key is at most 255 bytes long.
            out.push(shared as u8);
            out.push((key.len() - shared) as u8);
            out.extend_from_slice(&key[shared..]);
            let mut length = value.len();
            while length >= 0x80 {
                out.push((length & 0x7f) as u8 | 0x80);
                length >>= 7;
            }
            out.push(length as u8);
            out.extend_from_slice(value);
            before = key;
        }
        Ok(out)
    }

    fn block_at(&self, block: usize) -> usize {
        u32_at(&self.bytes, HEADER + block * 4) as usize
    }

    /// The first key of a block, which shares nothing.
    fn first_key(&self, block: usize) -> &[u8] {
        Entry::read(&self.bytes, self.block_at(block)).map_or(&[], |e| e.rest)
    }
}

/// One entry as it stands in the bytes.
struct Entry<'a> {
    shared: usize,
    rest: &'a [u8],
    value: &'a [u8],
    end: usize,
}

impl<'a> Entry<'a> {
    fn read(bytes: &'a [u8], at: usize) -> Option<Self> {
        let shared = usize::from(*bytes.get(at)?);
        let rest_length = usize::from(*bytes.get(at + 1)?);
        let rest = bytes.get(at + 2..at + 2 + rest_length)?;
        let mut p = at + 2 + rest_length;
        let (mut length, mut shift) = (0usize, 0);
        loop {
            let byte = *bytes.get(p)?;
            p += 1;
            length |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 14 {
                return None;
            }
        }
        let value = bytes.get(p..p.checked_add(length)?)?;
        Some(Self { shared, rest, value, end: p + length })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn entries(n: usize) -> BTreeMap<Vec<u8>, Vec<u8>> {
        // A small multiplicative generator gives words that share prefixes, some of them empty or equal.
        let mut x = 7u32;
        let mut next = move |below: u32| {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (x >> 16) % below
        };
        (0..n)
            .map(|_| {
                let key = (0..next(9)).map(|_| b'a' + next(4) as u8).collect();
                let value = (0..next(300)).map(|_| next(256) as u8).collect();
                (key, value)
            })
            .collect()
    }

    #[test]
    fn every_key_is_found_and_no_other() {
        for n in [0, 1, 15, 16, 17, 500, 5000] {
            let map = entries(n);
            let table = Table::parse(Table::write(map.clone().into_iter().collect()).unwrap()).unwrap();
            assert_eq!(table.len(), map.len());
            for (key, value) in &map {
                assert_eq!(table.get(key), Some(value.as_slice()), "{key:?}");
                for other in [b'a', b'b', b'd', b'z'] {
                    let mut longer = key.clone();
                    longer.push(other);
                    assert_eq!(table.get(&longer), map.get(&longer).map(Vec::as_slice), "{longer:?}");
                }
                let shorter = &key[..key.len().saturating_sub(1)];
                assert_eq!(table.get(shorter), map.get(shorter).map(Vec::as_slice), "{shorter:?}");
            }
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_harmless() {
        let bytes = Table::write(entries(60).into_iter().collect()).unwrap();
        for end in 0..bytes.len() {
            assert!(Table::parse(&bytes[..end]).is_err(), "cut at {end}");
        }
        for at in 0..bytes.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                if let Ok(table) = Table::parse(bad) {
                    for key in ["", "a", "abc", "dddddddd", "zz"] {
                        let _ = table.get(key);
                    }
                }
            }
        }
        assert!(Table::parse(&b"NFT1\xff\xff\xff\xff\xff\xff\xff\x0f"[..]).is_err());
    }

    #[test]
    fn what_cannot_be_written_is_said() {
        let twice = vec![(b"a".to_vec(), vec![]), (b"a".to_vec(), vec![1])];
        assert_eq!(Table::write(twice), Err(TableError::Twice("a".into())));
        assert!(matches!(Table::write(vec![(vec![b'x'; 256], vec![])]), Err(TableError::TooLong(_))));
        assert!(matches!(Table::write(vec![(vec![], vec![0; 65_536])]), Err(TableError::TooLong(_))));
    }
}
