// SPDX-License-Identifier: Apache-2.0
//! Numbers with bounds that only this kind has.

use crate::read::{At, Read};
use serde_json::{Value, json};

/// A number from `LEAST` to `MOST`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between<const LEAST: u32, const MOST: u32>(pub u32);

fn number(value: &Value) -> Option<u32> {
    value.as_u64().and_then(|number| u32::try_from(number).ok())
}

impl<const LEAST: u32, const MOST: u32> Read for Between<LEAST, MOST> {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let fits = number(value).filter(|number| (LEAST..=MOST).contains(number));
        fits.map(Self).or_else(|| at.wrong(value, format!("a number from {LEAST} to {MOST}")))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": LEAST, "maximum": MOST})
    }
}

/// The size of a table of Maglev: a prime number, as Envoy requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSize(pub u32);

/// The largest table that Envoy takes.
const LARGEST: u32 = 5_000_011;

fn is_prime(number: u32) -> bool {
    let divides = |divisor: &u32| number.is_multiple_of(*divisor);
    number > 1 && !(2..).take_while(|divisor| divisor * divisor <= number).any(|divisor| divides(&divisor))
}

impl Read for TableSize {
    fn read(value: &Value, at: &mut At<'_>) -> Option<Self> {
        let fits = number(value).filter(|number| *number <= LARGEST && is_prime(*number));
        fits.map(Self)
            .or_else(|| at.wrong(value, format!("a prime number from 2 to {LARGEST}, as 65537 or 131071")))
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": 2, "maximum": LARGEST})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_from_other_numbers() {
        for prime in [2, 3, 5, 17, 65_537, 131_071, LARGEST] {
            assert!(is_prime(prime), "{prime}");
        }
        for other in [0, 1, 4, 9, 65_536, 65_539 * 3, 5_000_009] {
            assert!(!is_prime(other), "{other}");
        }
    }
}
