// SPDX-License-Identifier: Apache-2.0
//! Formats of times, as `%START_TIME(FORMAT)%` of Envoy's access logs has them: strftime's letters, in UTC.

/// The letters, for errors and pages.
pub const TIME_LETTERS: &str =
    "%Y %C %y %m %d %e %j %H %I %M %S %p %a %A %b %h %B %u %w %z %Z %F %D %T %R %s %f, and %1f to %9f";

/// A format of times, all of whose letters are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat(String);

// === impl TimeFormat ===

impl TimeFormat {
    /// Checks each letter of a text; `None` where one of them is not known.
    pub fn parse(text: &str) -> Option<Self> {
        let mut format = String::new();
        let mut rest = text.chars();
        while let Some(letter) = rest.next() {
            format.push(letter);
            if letter != '%' {
                continue;
            }
            match rest.next()? {
                // Envoy writes nanoseconds where no width is given.
                'f' => format.push_str("9f"),
                digit @ '1'..='9' => {
                    format.extend([digit, rest.next().filter(|letter| *letter == 'f')?]);
                }
                letter if "%YCymdejHIMSpaAbhBuwzZFDTRs".contains(letter) => format.push(letter),
                _ => return None,
            }
        }
        Some(Self(format))
    }

    /// Returns the format in strftime's letters; each `%f` has its width.
    pub fn strftime(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_that_is_not_known_is_refused() {
        assert_eq!(TimeFormat::parse("%T.%f %3f %%f").unwrap().strftime(), "%T.%9f %3f %%f");
        for format in ["%", "a%", "%Q", "%0f", "%3", "%3s", "%n", "%E3S", "%é"] {
            assert_eq!(TimeFormat::parse(format), None, "{format}");
        }
    }
}
