//! Receiving an artefact: bytes in, verified chunks out.
//!
//! The receiver believes only the signed manifest. It gathers one chunk, compares its digest, and hands the chunk out to be
//! written; a wrong byte is noticed within its megabyte and costs no more. What was received of an unfinished chunk is kept, so
//! a transfer can go on at any byte after a cut ([`ArtefactReceiver::next_offset`]) and no byte is fetched twice.
//!
//! Memory: one chunk of at most [`CHUNK_BYTES`].

use crate::artefact::{CHUNK_BYTES, Content, Digest};
use std::io::{self, Read};

/// Why received bytes are not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A chunk has another digest. It was dropped whole; the next bytes wanted are its first.
    #[error(
        "chunk {chunk} (bytes {first} to {last}) has digest {found}, the manifest says {wanted}; it is fetched again"
    )]
    WrongChunk {
        /// Its number, from 0.
        chunk: usize,
        /// Its first byte in the file.
        first: u64,
        /// Its last byte in the file.
        last: u64,
        /// Digest of what came.
        found: Digest,
        /// Digest in the manifest.
        wanted: Digest,
    },
    /// More bytes came than the file has.
    #[error("more than the {bytes} bytes of the manifest arrived")]
    TooLong {
        /// Size in the manifest.
        bytes: u64,
    },
    /// All chunks hold, but not the digest of the file: the manifest contradicts itself.
    #[error("all chunks hold, but the file has digest {found} where the manifest says {wanted}; import it again")]
    WrongFile {
        /// Digest of the file.
        found: Digest,
        /// Digest in the manifest.
        wanted: Digest,
    },
    /// The end was asked for too early.
    #[error("the file ends after {have} of {bytes} bytes")]
    Incomplete {
        /// Bytes verified.
        have: u64,
        /// Size in the manifest.
        bytes: u64,
    },
}

/// A chunk that may be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedChunk {
    /// Where in the file it goes.
    pub offset: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Takes the bytes of one artefact.
#[derive(Debug)]
pub struct ArtefactReceiver {
    bytes: u64,
    digest: Digest,
    chunks: Vec<Digest>,
    /// Bytes in verified chunks.
    verified: u64,
    /// What came of the chunk that begins at `verified`.
    partial: Vec<u8>,
    whole: blake3::Hasher,
}

impl ArtefactReceiver {
    /// Nothing received yet. The manifest must be verified: its number of chunks must fit its size.
    pub fn new(manifest: &impl Content) -> Self {
        Self {
            bytes: manifest.bytes(),
            digest: manifest.digest(),
            chunks: manifest.chunks().to_vec(),
            verified: 0,
            partial: Vec::new(),
            whole: blake3::Hasher::new(),
        }
    }

    /// Goes on from a partial file, whose bytes are hashed again. Returns the receiver and how many bytes of the file are
    /// good chunks; the file must be cut to that length, since whatever lay behind is held by the receiver or is wrong.
    pub fn restore(manifest: &impl Content, partial: &mut impl Read) -> io::Result<(Self, u64)> {
        let mut receiver = Self::new(manifest);
        loop {
            let wanted = receiver.chunk_bytes_wanted();
            let mut chunk = Vec::with_capacity(wanted as usize);
            partial.by_ref().take(wanted).read_to_end(&mut chunk)?;
            if chunk.is_empty() {
                break;
            }
            let whole_chunk = chunk.len() as u64 == wanted;
            if receiver.receive(&chunk).is_err() || !whole_chunk {
                break;
            }
        }
        let verified = receiver.verified;
        Ok((receiver, verified))
    }

    /// The next byte wanted; ask for the artefact from here on.
    pub fn next_offset(&self) -> u64 {
        self.verified + self.partial.len() as u64
    }

    /// Bytes received of a chunk that is not complete, not verified yet. Writing them behind the verified ones of
    /// a partial file saves fetching them again after a restart ([`ArtefactReceiver::restore`] checks them).
    pub fn unverified(&self) -> &[u8] {
        &self.partial
    }

    /// Bytes in verified chunks.
    pub fn verified_bytes(&self) -> u64 {
        self.verified
    }

    /// Size of the whole file in bytes.
    pub fn total_bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether every chunk is verified.
    pub fn is_complete(&self) -> bool {
        self.verified == self.bytes
    }

    /// Takes the bytes that follow [`ArtefactReceiver::next_offset`] and returns the chunks that they complete.
    ///
    /// After a [`Refusal::WrongChunk`] everything before that chunk stays good; go on from `next_offset`, best from
    /// another source. Chunks completed by the same call before the wrong one are lost to the caller, so hand in at most
    /// [`CHUNK_BYTES`] at a time: then there is none.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<Vec<VerifiedChunk>, Refusal> {
        let mut done = Vec::new();
        while !bytes.is_empty() {
            let wanted = self.chunk_bytes_wanted() - self.partial.len() as u64;
            if wanted == 0 {
                return Err(Refusal::TooLong { bytes: self.bytes });
            }
            let n = bytes.len().min(wanted as usize);
            self.partial.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if n as u64 == wanted {
                done.push(self.finish_chunk()?);
            }
        }
        Ok(done)
    }

    /// The end: checks the digest of the whole file.
    pub fn finish(&self) -> Result<Digest, Refusal> {
        if !self.is_complete() {
            return Err(Refusal::Incomplete { have: self.verified, bytes: self.bytes });
        }
        let found = Digest(*self.whole.finalize().as_bytes());
        if found == self.digest { Ok(found) } else { Err(Refusal::WrongFile { found, wanted: self.digest }) }
    }

    /// Bytes of the chunk that begins at `verified`; 0 at the end of the file.
    fn chunk_bytes_wanted(&self) -> u64 {
        (self.bytes - self.verified).min(CHUNK_BYTES)
    }

    fn finish_chunk(&mut self) -> Result<VerifiedChunk, Refusal> {
        let bytes = std::mem::take(&mut self.partial);
        let number = (self.verified / CHUNK_BYTES) as usize;
        let found = Digest::of(&bytes);
        // A manifest without the chunk was refused by `SignedManifest::verify`; should one come here, no bytes satisfy it.
        let wanted = self.chunks.get(number).copied().unwrap_or(Digest([0; 32]));
        if found != wanted {
            return Err(Refusal::WrongChunk {
                chunk: number,
                first: self.verified,
                last: self.verified + bytes.len() as u64 - 1,
                found,
                wanted,
            });
        }
        let offset = self.verified;
        self.whole.update(&bytes);
        self.verified += bytes.len() as u64;
        Ok(VerifiedChunk { offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artefact::{Manifest, Stage};
    use proptest::prelude::*;

    fn file(bytes: usize, salt: u64) -> Vec<u8> {
        let mut seed = super::super::Seed(salt);
        (0..bytes).map(|_| seed.next_u64() as u8).collect()
    }

    fn manifest(file: &[u8]) -> Manifest {
        Manifest::of_file("m", Stage::Vad, "a", file)
    }

    fn feed(receiver: &mut ArtefactReceiver, disk: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Refusal> {
        for piece in bytes.chunks(1 << 16) {
            for chunk in receiver.receive(piece)? {
                assert_eq!(chunk.offset, disk.len() as u64, "chunks come in order, without gaps");
                disk.extend(chunk.bytes);
            }
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        /// Cut anywhere, as often as one likes, with the process dying at every second cut: the file is whole, and
        /// exactly its size was fetched.
        #[test]
        fn resumes_at_any_byte_and_fetches_none_twice(size in 1_usize..3_500_000, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..5)) {
            let file = file(size, size as u64);
            let manifest = manifest(&file);
            let mut receiver = ArtefactReceiver::new(&manifest);
            let mut disk = Vec::new();
            let mut fetched = 0;
            let mut stops: Vec<usize> = cuts.iter().map(|cut| cut.index(size)).collect();
            stops.sort_unstable();
            stops.push(size);
            for (i, stop) in stops.into_iter().enumerate() {
                let from = receiver.next_offset() as usize;
                fetched += stop - from;
                feed(&mut receiver, &mut disk, &file[from..stop]).expect("good bytes");
                prop_assert_eq!(receiver.next_offset(), stop as u64);
                if i % 2 == 0 {
                    disk.extend_from_slice(receiver.unverified());
                    let (restored, good) = ArtefactReceiver::restore(&manifest, &mut &disk[..]).expect("memory reads");
                    disk.truncate(good as usize);
                    receiver = restored;
                }
            }
            prop_assert_eq!(fetched, size);
            prop_assert!(disk == file);
            prop_assert_eq!(receiver.finish(), Ok(manifest.digest));
        }

        #[test]
        fn one_wrong_bit_is_refused_and_named(size in 1_usize..2_500_000, at in any::<prop::sample::Index>(), bit in 0_u8..8) {
            let file = file(size, 1);
            let manifest = manifest(&file);
            let mut sent = file.clone();
            let at = at.index(size);
            sent[at] ^= 1 << bit;
            let (mut receiver, mut disk) = (ArtefactReceiver::new(&manifest), Vec::new());
            let error = feed(&mut receiver, &mut disk, &sent).expect_err("a wrong bit");
            let number = at / CHUNK_BYTES as usize;
            let named = matches!(error, Refusal::WrongChunk { chunk, .. } if chunk == number);
            prop_assert!(named, "{}", error);
            prop_assert_eq!(receiver.next_offset(), number as u64 * CHUNK_BYTES, "it asks for that chunk again");
            let from = receiver.next_offset() as usize;
            feed(&mut receiver, &mut disk, &file[from..]).expect("good bytes this time");
            prop_assert!(disk == file);
            prop_assert_eq!(receiver.finish(), Ok(manifest.digest));
        }
    }

    #[test]
    fn bytes_beyond_the_end_and_a_short_file_are_refused() {
        let file = file(1000, 3);
        let mut receiver = ArtefactReceiver::new(&manifest(&file));
        receiver.receive(&file[..999]).expect("good");
        assert_eq!(receiver.finish(), Err(Refusal::Incomplete { have: 0, bytes: 1000 }));
        assert_eq!(receiver.receive(&file[999..]).expect("good").len(), 1);
        assert_eq!(receiver.receive(b"x"), Err(Refusal::TooLong { bytes: 1000 }));
    }

    #[test]
    fn a_partial_file_with_a_wrong_chunk_is_kept_up_to_it() {
        let file = file(3 * CHUNK_BYTES as usize, 4);
        let manifest = manifest(&file);
        let mut on_disk = file.clone();
        on_disk[CHUNK_BYTES as usize + 5] ^= 1;
        let (receiver, good) = ArtefactReceiver::restore(&manifest, &mut &on_disk[..]).expect("memory reads");
        assert_eq!((good, receiver.next_offset()), (CHUNK_BYTES, CHUNK_BYTES));
    }

    #[test]
    fn a_manifest_whose_file_digest_is_wrong_is_found_out() {
        let file = file(10, 5);
        let manifest = Manifest { digest: Digest::of(b"other"), ..manifest(&file) };
        let mut receiver = ArtefactReceiver::new(&manifest);
        receiver.receive(&file).expect("the chunk holds");
        assert!(matches!(receiver.finish(), Err(Refusal::WrongFile { .. })));
    }
}
