//! How a value stands in the engine: one byte of format, eight bytes of checksum over key and value, the value.

use super::StoreError;

/// The format that this version writes. Format 1 is the first.
pub const FORMAT: u8 = 1;

const HEADER_BYTES: usize = 9;

/// Eight bytes of BLAKE3: enough against accidents; an attacker with the disk is not what this is for.
fn checksum(key: &str, value: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(key.len() as u64).to_le_bytes());
    hasher.update(key.as_bytes());
    hasher.update(value);
    let mut sum = [0; 8];
    sum.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    sum
}

/// The bytes for the engine.
pub fn encode(key: &str, value: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + value.len());
    bytes.push(FORMAT);
    bytes.extend(checksum(key, value.as_bytes()));
    bytes.extend(value.as_bytes());
    bytes
}

/// The value, if the bytes are what was written under this key.
pub fn decode(key: &str, bytes: &[u8]) -> Result<String, StoreError> {
    let damaged = |detail: &str| StoreError::Damaged { key: key.to_owned(), detail: detail.to_owned() };
    let (header, value) = bytes.split_at_checked(HEADER_BYTES).ok_or_else(|| damaged("it is cut off"))?;
    match header[0] {
        FORMAT => {}
        found if found > FORMAT => return Err(StoreError::Newer { key: key.to_owned(), found }),
        _ => return Err(damaged("its format is not one")),
    }
    if header[1..] != checksum(key, value) {
        return Err(damaged("its checksum does not hold"));
    }
    String::from_utf8(value.to_vec()).map_err(|_| damaged("it is not text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_changed_byte_is_noticed() {
        let bytes = encode("node/a", r#"{"x":1}"#);
        assert_eq!(decode("node/a", &bytes).unwrap(), r#"{"x":1}"#);
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 4;
            assert!(decode("node/a", &changed).is_err(), "byte {i}");
        }
        for n in 0..bytes.len() {
            assert!(decode("node/a", &bytes[..n]).is_err(), "cut at {n}");
        }
        assert!(decode("node/b", &bytes).is_err(), "a value under another key");
    }

    #[test]
    fn a_later_format_is_named_and_not_called_damage() {
        let mut bytes = encode("k", "v");
        bytes[0] = FORMAT + 1;
        assert!(matches!(decode("k", &bytes), Err(StoreError::Newer { found: 2, .. })));
    }
}
