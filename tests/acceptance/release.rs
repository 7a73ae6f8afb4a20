//! The programs as files: static, and without needs of their host.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use culvert_tests::process::binaries::Binaries;

/// `PT_INTERP` of elf.h: the dynamic loader that a program asks for.
const INTERPRETER: u32 = 3;

/// Kinds of the segments of a 64-bit little-endian ELF file.
fn segments(path: &Path) -> Result<Vec<u32>> {
    let file = fs::read(path)?;
    let number = |at: usize, bytes: usize| -> Result<usize> {
        let field = file.get(at..at + bytes).context("the file is too short")?;
        Ok(field.iter().rev().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    };
    anyhow::ensure!(file.starts_with(b"\x7fELF\x02\x01"), "{} is no 64-bit ELF file", path.display());
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    (0..count).map(|n| Ok(u32::try_from(number(table + n * size, 4)?)?)).collect()
}

#[test]
fn no_binary_needs_anything_of_its_host() -> Result<()> {
    let Binaries { cni, sidecar, install } = Binaries::built()?;
    for binary in [cni, sidecar, install] {
        let segments = segments(binary)?;
        assert!(!segments.is_empty());
        assert!(!segments.contains(&INTERPRETER), "{} is not static", binary.display());
    }
    // The check can fail: a program of the distribution is not static.
    let dynamic = Path::new("/bin/cat");
    assert!(segments(dynamic)?.contains(&INTERPRETER), "{} is static", dynamic.display());
    Ok(())
}
