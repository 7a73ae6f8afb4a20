// SPDX-License-Identifier: Apache-2.0
//! The hashes of Envoy's rings and tables: a pod with Envoy and one with culvert choose the same endpoint for an address.

use crate::plan::balance::HashFunction;
use std::io::{Cursor, Write};
use std::net::IpAddr;

/// The primes of XXH64.
const P: [u64; 5] = [
    0x9E37_79B1_85EB_CA87,
    0xC2B2_AE3D_27D4_EB4F,
    0x1656_67B1_9E37_79F9,
    0x85EB_CA77_C2B2_AE63,
    0x27D4_EB2F_1656_67C5,
];

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn round(lane: u64, word: u64) -> u64 {
    lane.wrapping_add(word.wrapping_mul(P[1])).rotate_left(31).wrapping_mul(P[0])
}

/// Returns XXH64 of some bytes.
pub(super) fn xxh64(bytes: &[u8], seed: u64) -> u64 {
    let stripes = bytes.chunks_exact(32);
    let mut rest = stripes.remainder();
    let mut hash = if bytes.len() < 32 {
        seed.wrapping_add(P[4])
    } else {
        let mut lanes = [
            seed.wrapping_add(P[0]).wrapping_add(P[1]),
            seed.wrapping_add(P[1]),
            seed,
            seed.wrapping_sub(P[0]),
        ];
        for stripe in stripes {
            for (lane, bytes) in lanes.iter_mut().zip(stripe.chunks_exact(8)) {
                *lane = round(*lane, word(bytes));
            }
        }
        let turned = lanes.iter().zip([1, 7, 12, 18]).map(|(lane, by)| lane.rotate_left(by));
        let all = turned.fold(0u64, u64::wrapping_add);
        lanes.iter().fold(all, |hash, lane| (hash ^ round(0, *lane)).wrapping_mul(P[0]).wrapping_add(P[3]))
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    while let Some((first, others)) = rest.split_first_chunk::<8>() {
        hash = (hash ^ round(0, word(first))).rotate_left(27).wrapping_mul(P[0]).wrapping_add(P[3]);
        rest = others;
    }
    if let Some((first, others)) = rest.split_first_chunk::<4>() {
        hash = (hash ^ word(first).wrapping_mul(P[0])).rotate_left(23).wrapping_mul(P[1]).wrapping_add(P[2]);
        rest = others;
    }
    for byte in rest {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P[4])).rotate_left(11).wrapping_mul(P[0]);
    }
    hash = (hash ^ hash >> 33).wrapping_mul(P[1]);
    hash = (hash ^ hash >> 29).wrapping_mul(P[2]);
    hash ^ hash >> 32
}

/// Returns MurmurHash2 in 64 bits, with Envoy's seed.
fn murmur_hash_2(bytes: &[u8]) -> u64 {
    const SEED: u64 = 0xc70f_6907;
    const MULTIPLIER: u64 = 0xc6a4_a793_5bd1_e995;
    let shift_mix = |word: u64| word ^ word >> 47;
    let words = bytes.chunks_exact(8);
    let rest = words.remainder();
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MULTIPLIER);
    for bytes in words {
        let mixed = shift_mix(word(bytes).wrapping_mul(MULTIPLIER)).wrapping_mul(MULTIPLIER);
        hash = (hash ^ mixed).wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        hash = (hash ^ word(rest)).wrapping_mul(MULTIPLIER);
    }
    shift_mix(shift_mix(hash).wrapping_mul(MULTIPLIER))
}

impl HashFunction {
    pub(super) fn of(self, bytes: &[u8]) -> u64 {
        match self {
            Self::XxHash => xxh64(bytes, 0),
            Self::MurmurHash2 => murmur_hash_2(bytes),
        }
    }
}

/// Returns the hash of a client's address, which Envoy takes from its text. Without an allocation: each connection needs it.
pub(super) fn of_client(client: IpAddr) -> u64 {
    // The longest address is 39 bytes, or 45 with an IPv4 one at its end.
    let mut text = [0; 64];
    let mut written = Cursor::new(&mut text[..]);
    let fits = write!(written, "{client}");
    debug_assert!(fits.is_ok(), "{client}");
    let length = usize::try_from(written.position()).unwrap_or_default();
    xxh64(&text[..length], 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first five of each are those of Envoy's own tests; the long ones, of XXH64's implementations.
    #[test]
    fn hashes_are_envoys() {
        for (text, expected) in [
            ("foo", 3_728_699_739_546_630_719),
            ("bar", 5_234_164_152_756_840_025),
            ("foo\nbar", 8_917_841_378_505_826_757),
            ("lyft", 4_400_747_396_090_729_504),
            ("", 17_241_709_254_077_376_921),
            ("Nobody inspects the spammish repetition", 0xfbce_a83c_8a37_8bf1),
            ("Call me Ishmael. Some years ago--never mind how long precisely-", 0x02a2_e854_70d6_fd96),
        ] {
            assert_eq!(xxh64(text.as_bytes(), 0), expected, "{text}");
        }
        for (text, expected) in [
            ("foo", 9_631_199_822_919_835_226),
            ("bar", 11_474_628_671_133_349_555),
            ("foo\nbar", 16_306_510_975_912_980_159),
            ("lyft", 12_847_078_931_730_529_320),
            ("", 6_142_509_188_972_423_790),
        ] {
            assert_eq!(murmur_hash_2(text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_client_is_hashed_by_the_text_of_its_address() {
        for text in ["10.77.0.2", "fd77::2", "2001:db8:1234:5678:9abc:def0:1234:5678"] {
            assert_eq!(of_client(text.parse().unwrap()), xxh64(text.as_bytes(), 0), "{text}");
        }
    }
}
