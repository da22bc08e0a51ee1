//! What a program was built for, from the header of its file.

use nearfield_shared::wire::TargetName;
use std::io::{self, Read, Seek, SeekFrom};

/// Bytes of the file's header.
const HEADER_BYTES: usize = 64;

/// Bytes of a program header.
const SEGMENT_BYTES: usize = 56;

/// Program headers that are looked at; a linker makes about a dozen.
const SEGMENTS_MAX: u16 = 128;

/// Longest path of an interpreter.
const INTERPRETER_BYTES_MAX: u64 = 256;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const PT_INTERP: u32 = 3;
const EM_X86_64: u16 = 62;
const EM_AARCH64: u16 = 183;

/// Why a file is no program for a node.
#[derive(Debug, thiserror::Error)]
pub enum ElfError {
    /// No ELF file.
    #[error("it is not an executable file for Linux (64-bit ELF); name the edge-agent that was built for the nodes")]
    NotElf,
    /// A library, an object or a core.
    #[error("it is an ELF file, but none that can be run; name the edge-agent itself")]
    NotExecutable,
    /// For processors that there are no releases for.
    #[error("it was built for another processor (ELF machine {0}) than x86_64 and aarch64")]
    Machine(u16),
    /// Linked statically: the file does not say against what.
    #[error(
        "it names no dynamic linker, so it does not say whether it is for {arch}-unknown-linux-gnu or -musl; state it with --target"
    )]
    Static {
        /// The processor.
        arch: &'static str,
    },
    /// An interpreter that is not known.
    #[error("it wants the dynamic linker {0}, which no supported system has")]
    Interpreter(String),
    /// Something else than was stated.
    #[error("it was built for {found}, not for {stated}")]
    OtherTarget {
        /// What its header says.
        found: String,
        /// What was stated.
        stated: TargetName,
    },
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// The target of an executable file. `stated` is needed where the file does not say it all, and must not contradict it.
///
/// # Errors
/// Why it is no program for a node.
pub fn target(file: &mut (impl Read + Seek), stated: Option<&TargetName>) -> Result<TargetName, ElfError> {
    let mut header = [0; HEADER_BYTES];
    match file.read_exact(&mut header) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Err(ElfError::NotElf),
        read => read?,
    }
    // Magic number, 64 bits, little-endian, version 1.
    if header[..7] != [0x7f, b'E', b'L', b'F', 2, 1, 1] {
        return Err(ElfError::NotElf);
    }
    let entry = u64_at(&header, 24);
    if ![ET_EXEC, ET_DYN].contains(&u16_at(&header, 16)) || entry == 0 {
        return Err(ElfError::NotExecutable);
    }
    let arch = match u16_at(&header, 18) {
        EM_X86_64 => "x86_64",
        EM_AARCH64 => "aarch64",
        other => return Err(ElfError::Machine(other)),
    };
    let triple = |libc: &str| format!("{arch}-unknown-linux-{libc}");
    let found = match interpreter(file, &header)? {
        Some(path) if path.contains("/ld-linux-") => triple("gnu"),
        Some(path) if path.contains("/ld-musl-") => triple("musl"),
        Some(path) => return Err(ElfError::Interpreter(path)),
        None => match stated.map(TargetName::as_str) {
            None => return Err(ElfError::Static { arch }),
            Some(stated) if [triple("gnu"), triple("musl")].iter().any(|known| known == stated) => stated.to_owned(),
            Some(_) => triple("gnu or -musl"),
        },
    };
    match (stated, found.parse()) {
        (Some(stated), parsed) if parsed.as_ref() != Ok(stated) => {
            Err(ElfError::OtherTarget { found, stated: stated.clone() })
        }
        (_, Ok(target)) => Ok(target),
        (_, Err(_)) => Err(ElfError::NotExecutable),
    }
}

/// The dynamic linker that a file names, if it names one.
fn interpreter(file: &mut (impl Read + Seek), header: &[u8]) -> Result<Option<String>, ElfError> {
    let (at, size, count) = (u64_at(header, 32), u16_at(header, 54), u16_at(header, 56));
    if usize::from(size) != SEGMENT_BYTES || count == 0 || count > SEGMENTS_MAX {
        return Err(ElfError::NotExecutable);
    }
    file.seek(SeekFrom::Start(at))?;
    let mut segments = Vec::new();
    file.by_ref().take(u64::from(size) * u64::from(count)).read_to_end(&mut segments)?;
    let Some(segment) = segments.chunks_exact(SEGMENT_BYTES).find(|segment| u32_at(segment, 0) == PT_INTERP) else {
        return Ok(None);
    };
    let (at, bytes) = (u64_at(segment, 8), u64_at(segment, 32));
    if bytes > INTERPRETER_BYTES_MAX {
        return Err(ElfError::NotExecutable);
    }
    file.seek(SeekFrom::Start(at))?;
    let mut path = Vec::new();
    file.by_ref().take(bytes).read_to_end(&mut path)?;
    let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(path).into_owned()))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::{fs::File, io::Cursor};

    /// The beginning of a program for this machine with this dynamic linker.
    pub fn program(machine: u16, linker: Option<&str>) -> Vec<u8> {
        let mut file = vec![0; HEADER_BYTES + SEGMENT_BYTES];
        file[..7].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1]);
        file[16] = ET_DYN as u8;
        file[18..20].copy_from_slice(&machine.to_le_bytes());
        file[24] = 1;
        file[32] = HEADER_BYTES as u8;
        file[54] = SEGMENT_BYTES as u8;
        file[56] = 1;
        if let Some(linker) = linker {
            let at = file.len();
            file[HEADER_BYTES] = PT_INTERP as u8;
            file[HEADER_BYTES + 8] = at as u8;
            file[HEADER_BYTES + 32] = linker.len() as u8 + 1;
            file.extend(linker.as_bytes());
            file.push(0);
        }
        file
    }

    fn read(file: &[u8], stated: Option<&str>) -> Result<String, ElfError> {
        let stated = stated.map(|stated| stated.parse().unwrap());
        target(&mut Cursor::new(file), stated.as_ref()).map(|target| target.to_string())
    }

    #[test]
    fn the_header_says_what_a_program_was_built_for() {
        let check = |machine, linker, stated, expect: &str| {
            let said = read(&program(machine, linker), stated).unwrap_or_else(|e| e.to_string());
            assert!(said.contains(expect), "{said}");
        };
        let (gnu, musl) = (Some("/lib64/ld-linux-x86-64.so.2"), Some("/lib/ld-musl-aarch64.so.1"));
        check(62, gnu, None, "x86_64-unknown-linux-gnu");
        check(183, musl, None, "aarch64-unknown-linux-musl");
        check(62, gnu, Some("x86_64-unknown-linux-gnu"), "x86_64-unknown-linux-gnu");
        check(62, gnu, Some("aarch64-unknown-linux-gnu"), "not for aarch64");
        check(62, None, None, "--target");
        check(62, None, Some("x86_64-unknown-linux-musl"), "x86_64-unknown-linux-musl");
        check(62, None, Some("aarch64-unknown-linux-musl"), "built for x86_64");
        check(62, Some("/system/bin/linker64"), None, "which no supported system has");
        check(243, gnu, None, "machine 243");
    }

    #[test]
    fn what_is_no_program_is_refused_wherever_it_ends() {
        let whole = program(62, Some("/lib64/ld-linux-x86-64.so.2"));
        for end in 0..whole.len() - 4 {
            let _ = read(&whole[..end], None);
        }
        assert!(matches!(read(&whole[..HEADER_BYTES - 1], None), Err(ElfError::NotElf)));
        let mut library = whole.clone();
        library[24] = 0;
        assert!(matches!(read(&library, None), Err(ElfError::NotExecutable)));
        let mut many = whole;
        many[57] = 1;
        assert!(matches!(read(&many, None), Err(ElfError::NotExecutable)));
        assert!(matches!(read(b"#!/bin/sh\n", None), Err(ElfError::NotElf)));
    }

    #[test]
    fn this_very_program_is_for_this_machine() {
        let mut own = File::open(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(target(&mut own, None).ok(), nearfield_shared::release::own_target());
    }
}
