// SPDX-License-Identifier: Apache-2.0
//! Shares of requests in the shape that Envoy's configuration has.

use std::fmt;

/// A share of requests: a numerator over the smallest denominator that holds it.
///
/// 50 is 50 of a hundred, 0.5 is 50 of ten thousand, and 0.125 is 1,250 of a million.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentage {
    /// At most the denominator.
    pub numerator: u32,
    /// Number of requests that the numerator counts among.
    pub denominator: Denominator,
}

/// Denominators of Envoy's FractionalPercent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denominator {
    /// Whole percents.
    Hundred,
    /// Two decimals.
    TenThousand,
    /// Four decimals; more are rounded.
    Million,
}

impl Denominator {
    /// Returns Envoy's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hundred => "HUNDRED",
            Self::TenThousand => "TEN_THOUSAND",
            Self::Million => "MILLION",
        }
    }

    /// Returns the number that it stands for.
    pub fn number(self) -> u32 {
        match self {
            Self::Hundred => 100,
            Self::TenThousand => 10_000,
            Self::Million => 1_000_000,
        }
    }
}

impl Percentage {
    /// Returns the share of a number of percents; `None` outside of 0 to 100.
    pub fn of(percent: f64) -> Option<Self> {
        if !(0.0..=100.0).contains(&percent) {
            return None;
        }
        // Kuma multiplies floats as well, so that 33.3 is 333,000 of a million there: 33.3 * 100 is no whole number.
        let (number, denominator) = if percent.fract() == 0.0 {
            (percent, Denominator::Hundred)
        } else if (percent * 100.0).fract() == 0.0 {
            (percent * 100.0, Denominator::TenThousand)
        } else {
            ((percent * 10_000.0).round(), Denominator::Million)
        };
        Some(Self { numerator: number as u32, denominator })
    }

    /// Returns the share of a text as `50` or `0.5`.
    pub fn parse(text: &str) -> Option<Self> {
        let (whole, decimals) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(whole) || !digits(decimals) {
            return None;
        }
        Self::of(text.parse().ok()?)
    }

    /// Returns the share of a million: a random number from 0 to 999,999 below it is a hit.
    pub fn of_million(self) -> u32 {
        let Self { numerator, denominator } = self;
        numerator * (Denominator::Million.number() / denominator.number())
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percents = f64::from(self.numerator) / f64::from(self.denominator.number() / 100);
        write!(out, "{percents} %")
    }
}

#[cfg(test)]
mod tests {
    use super::Denominator::{Hundred, Million, TenThousand};
    use super::*;

    #[test]
    fn a_share_has_envoys_smallest_denominator() {
        for (text, numerator, denominator, of_million, shown) in [
            ("0", 0, Hundred, 0, "0 %"),
            ("12", 12, Hundred, 120_000, "12 %"),
            ("100", 100, Hundred, 1_000_000, "100 %"),
            ("50.0", 50, Hundred, 500_000, "50 %"),
            ("0.5", 50, TenThousand, 5_000, "0.5 %"),
            ("50.5", 5_050, TenThousand, 505_000, "50.5 %"),
            ("62.9", 6_290, TenThousand, 629_000, "62.9 %"),
            ("99.99", 9_999, TenThousand, 999_900, "99.99 %"),
            ("33.3", 333_000, Million, 333_000, "33.3 %"),
            ("0.125", 1_250, Million, 1_250, "0.125 %"),
            ("0.0001", 1, Million, 1, "0.0001 %"),
            ("0.00001", 0, Million, 0, "0 %"),
        ] {
            let share = Percentage::parse(text).unwrap();
            assert_eq!(share, Percentage { numerator, denominator }, "{text}");
            assert_eq!((share.of_million(), share.to_string().as_str()), (of_million, shown), "{text}");
        }
        for wrong in
            ["", "101", "100.1", "-1", "+1", "1e1", ".5", "5.", "1.2.3", "50%", " 5", "inf", "NaN", "\u{663}"]
        {
            assert_eq!(Percentage::parse(wrong), None, "{wrong}");
        }
        for wrong in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Percentage::of(wrong), None, "{wrong}");
        }
    }
}
