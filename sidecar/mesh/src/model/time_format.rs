// SPDX-License-Identifier: Apache-2.0
//! Formats of times, as `%START_TIME(FORMAT)%` of Envoy's access logs has them: strftime's letters, in UTC.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// The letters, for errors and pages.
pub const TIME_LETTERS: &str =
    "%Y %C %y %m %d %e %j %H %I %M %S %p %a %A %b %h %B %u %w %z %Z %F %D %T %R %s %f, and %1f to %9f";

const SECONDS_A_DAY: u64 = 24 * 60 * 60;

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// A format of times: texts and letters in their order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat(Vec<TimePart>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum TimePart {
    /// Text that is written as it stands.
    Text(String),
    /// One of the letters but `f`.
    Letter(char),
    /// So many digits of the second's fraction.
    Fraction(usize),
}

/// A day of the calendar, and the second in it.
#[derive(Clone, Copy, Debug)]
struct Moment {
    year: u64,
    /// From 1.
    month: usize,
    /// From 1.
    day: u64,
    /// From 1.
    day_of_year: u64,
    /// Sunday is 0.
    weekday: usize,
    second_of_day: u64,
}

// === impl TimeFormat ===

impl TimeFormat {
    /// Splits a text at its letters; `None` where one of them is not known.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text.chars();
        while let Some(letter) = rest.next() {
            if letter != '%' {
                plain.push(letter);
                continue;
            }
            let part = match rest.next()? {
                '%' => {
                    plain.push('%');
                    continue;
                }
                // Envoy writes nanoseconds where no width is given.
                'f' => TimePart::Fraction(9),
                digit @ '1'..='9' if rest.next() == Some('f') => {
                    TimePart::Fraction(digit.to_digit(10)? as usize)
                }
                letter if "YCymdejHIMSpaAbhBuwzZFDTRs".contains(letter) => TimePart::Letter(letter),
                _ => return None,
            };
            if !plain.is_empty() {
                parts.push(TimePart::Text(std::mem::take(&mut plain)));
            }
            parts.push(part);
        }
        if !plain.is_empty() {
            parts.push(TimePart::Text(plain));
        }
        Some(Self(parts))
    }

    /// Writes a time; one before 1970 counts as 1970.
    pub fn write(&self, time: SystemTime, out: &mut String) {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let moment = Moment::of(since.as_secs());
        for part in &self.0 {
            match part {
                TimePart::Text(text) => out.push_str(text),
                TimePart::Letter('s') => put(out, since.as_secs(), 1),
                TimePart::Letter(letter) => moment.write(*letter, out),
                TimePart::Fraction(digits) => {
                    out.push_str(&format!("{:09}", since.subsec_nanos())[..*digits]);
                }
            }
        }
    }
}

/// Writes a number with at least so many digits.
fn put(out: &mut String, number: u64, digits: usize) {
    // Writing to a String does not fail.
    let _ = write!(out, "{number:0digits$}");
}

// === impl Moment ===

impl Moment {
    /// Howard Hinnant's `civil_from_days`: eras of 400 years, which begin on the first of March.
    fn of(seconds: u64) -> Self {
        let days = seconds / SECONDS_A_DAY;
        let shifted = days + 719_468;
        let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * from_march + 2) / 153;
        let day = from_march - (153 * month + 2) / 5 + 1;
        let year = year_of_era + era * 400 + u64::from(month >= 10);
        let leaps = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        // January and February end the year of the era.
        let day_of_year =
            if month >= 10 { from_march - 306 + 1 } else { from_march + 59 + u64::from(leaps) + 1 };
        let month = if month >= 10 { month - 9 } else { month + 3 };
        Self {
            year,
            month: month as usize,
            day,
            day_of_year,
            // The first of January 1970 was a Thursday.
            weekday: ((days + 4) % 7) as usize,
            second_of_day: seconds % SECONDS_A_DAY,
        }
    }

    fn write(&self, letter: char, out: &mut String) {
        let hour = self.second_of_day / 3_600;
        let month = MONTHS[self.month - 1];
        let weekday = DAYS[self.weekday];
        match letter {
            'Y' => put(out, self.year, 4),
            'C' => put(out, self.year / 100, 2),
            'y' => put(out, self.year % 100, 2),
            'm' => put(out, self.month as u64, 2),
            'd' => put(out, self.day, 2),
            'e' => out.push_str(&format!("{:2}", self.day)),
            'j' => put(out, self.day_of_year, 3),
            'H' => put(out, hour, 2),
            'I' => put(out, (hour + 11) % 12 + 1, 2),
            'M' => put(out, self.second_of_day / 60 % 60, 2),
            'S' => put(out, self.second_of_day % 60, 2),
            'p' => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            'a' => out.push_str(&weekday[..3]),
            'A' => out.push_str(weekday),
            'b' | 'h' => out.push_str(&month[..3]),
            'B' => out.push_str(month),
            'u' => put(out, (self.weekday as u64 + 6) % 7 + 1, 1),
            'w' => put(out, self.weekday as u64, 1),
            'z' => out.push_str("+0000"),
            'Z' => out.push_str("UTC"),
            'F' => self.write_all("Y-m-d", out),
            'D' => self.write_all("m/d/y", out),
            'T' => self.write_all("H:M:S", out),
            'R' => self.write_all("H:M", out),
            _ => {}
        }
    }

    /// Writes each letter of a text, and every other character as it stands.
    fn write_all(&self, letters: &str, out: &mut String) {
        for letter in letters.chars() {
            if letter.is_ascii_alphabetic() {
                self.write(letter, out);
            } else {
                out.push(letter);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: &str, seconds: u64, nanos: u32) -> String {
        let mut text = String::new();
        let format = TimeFormat::parse(format).unwrap();
        format.write(SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos), &mut text);
        text
    }

    #[test]
    fn times_are_written_as_strftime_and_envoy_write_them() {
        for (format, seconds, expected) in [
            ("%s", 1_795_869_615, "1795869615"),
            ("%Y/%m/%dT%H:%M:%S%z %s", 1_795_869_615, "2026/11/28T12:40:15+0000 1795869615"),
            ("%F %T %R %D %Z", 1_795_869_615, "2026-11-28 12:40:15 12:40 11/28/26 UTC"),
            ("%s.%3f %6f %f %1f", 7, "7.123 123456 123456789 1"),
            ("%A %a %B %b %h %j %u %w", 1_795_869_615, "Saturday Sat November Nov Nov 332 6 6"),
            ("%y %C %I %p %e", 1_795_869_615, "26 20 12 PM 28"),
            ("%F %T %A %j %u %I %p", 951_782_709, "2000-02-29 00:05:09 Tuesday 060 2 12 AM"),
            ("%F %T %j", 1_735_689_599, "2024-12-31 23:59:59 366"),
            ("%F %j %e %w %u", 0, "1970-01-01 001  1 4 4"),
            ("100%% at %H", 3_600, "100% at 01"),
            ("plain", 0, "plain"),
        ] {
            assert_eq!(written(format, seconds, 123_456_789), expected, "{format}");
        }
    }

    #[test]
    fn each_day_of_many_years_follows_the_one_before() {
        let mut before = (1969, 365);
        for day in 0..200 * 365 {
            let Moment { year, day_of_year, .. } = Moment::of(day * SECONDS_A_DAY);
            let next = before.0 == year && before.1 + 1 == day_of_year;
            assert!(next || (before.0 + 1 == year && before.1 >= 365 && day_of_year == 1), "{day}");
            before = (year, day_of_year);
        }
    }

    #[test]
    fn a_letter_that_is_not_known_is_refused() {
        for format in ["%", "a%", "%Q", "%0f", "%3", "%3s", "%n", "%E3S", "%é"] {
            assert_eq!(TimeFormat::parse(format), None, "{format}");
        }
    }
}
