//! Bytes that show any loss, repetition or change on the way.

use crate::until::uninterrupted;
use std::fmt;
use std::io::{self, Read, Write};

/// The bytes that are written or read at a time.
const CHUNK: usize = 64 * 1024;

/// A number of bytes that follow from a seed and do not repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload {
    /// Length of the payload in bytes.
    pub bytes: usize,
    /// Start of the pseudo-random sequence: another value gives other bytes.
    pub seed: u64,
}

impl Payload {
    /// Writes all of it.
    pub fn write_to(self, out: &mut impl Write) -> io::Result<()> {
        self.chunks(|chunk| out.write_all(chunk))
    }

    /// The checksum of all of it.
    pub fn checksum(self) -> Checksum {
        let mut sum = Checksum::default();
        let done: io::Result<()> = self.chunks(|chunk| {
            sum.add(chunk);
            Ok(())
        });
        done.expect("a checksum has no input or output");
        sum
    }

    fn chunks(self, mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.seed | 1;
        let mut buffer = vec![0; CHUNK];
        let mut left = self.bytes;
        while left > 0 {
            for word in buffer.chunks_exact_mut(8) {
                // xorshift64
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                word.copy_from_slice(&state.to_le_bytes());
            }
            let now = left.min(CHUNK);
            each(&buffer[..now])?;
            left -= now;
        }
        Ok(())
    }
}

/// Length and checksum of a stream, however it was cut; every bit and its place count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Checksum {
    length: u64,
    hash: u64,
    /// The bytes of a word that is not whole yet.
    started: [u8; 8],
}

impl Checksum {
    /// Reads a stream to its end.
    pub fn of(stream: &mut impl Read) -> io::Result<Self> {
        let (mut sum, mut buffer) = (Self::default(), vec![0; CHUNK]);
        loop {
            match uninterrupted(|| stream.read(&mut buffer))? {
                0 => return Ok(sum),
                n => sum.add(&buffer[..n]),
            }
        }
    }

    /// Adds the next bytes.
    pub fn add(&mut self, mut bytes: &[u8]) {
        let filled = (self.length % 8) as usize;
        self.length += bytes.len() as u64;
        if filled > 0 {
            let taken = bytes.len().min(8 - filled);
            self.started[filled..filled + taken].copy_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if filled + taken < 8 {
                return;
            }
            self.mix(self.started);
        }
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(word.try_into().expect("a word has eight bytes"));
        }
        self.started = [0; 8];
        self.started[..words.remainder().len()].copy_from_slice(words.remainder());
    }

    fn mix(&mut self, word: [u8; 8]) {
        self.hash = (self.hash.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes, {:016x}{:016x}", self.length, self.hash, u64::from_le_bytes(self.started))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_does_not_depend_on_the_cuts() {
        let payload = Payload { bytes: 100_003, seed: 7 };
        let mut all = Vec::new();
        payload.write_to(&mut all).unwrap();
        for cut in [1, 3, 7, 8, 9, 1000, 65_536] {
            let mut sum = Checksum::default();
            all.chunks(cut).for_each(|piece| sum.add(piece));
            assert_eq!(sum, payload.checksum(), "cut into {cut}");
        }
    }

    #[test]
    fn a_checksum_sees_one_bit_and_one_byte_less() {
        let payload = Payload { bytes: 4099, seed: 9 };
        let mut all = Vec::new();
        payload.write_to(&mut all).unwrap();
        let sum = |bytes: &[u8]| Checksum::of(&mut &bytes[..]).unwrap();
        let whole = sum(&all);
        assert_ne!(sum(&all[..4098]), whole);
        all[4098] ^= 1;
        assert_ne!(sum(&all), whole);
    }
}
