// SPDX-License-Identifier: Apache-2.0
//! Text and numbers for people. Names come from the cluster: none reaches a page but through [`escaped`].

/// Text that says nothing to a browser. Control characters and those that turn the direction of text are replaced.
pub(super) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                safe.push('\u{fffd}')
            }
            letter if letter.is_control() => safe.push('\u{fffd}'),
            letter => safe.push(letter),
        }
    }
    safe
}

/// Returns true for what Kubernetes takes as a namespace's name, which needs no escapes anywhere.
pub(super) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Text of at most so many characters, with its middle left out where it is longer: names differ at their ends.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= most {
        return text.to_owned();
    }
    let end = (most - 1) / 2;
    let begin = most - 1 - end;
    letters[..begin].iter().chain(&['…']).chain(&letters[letters.len() - end..]).collect()
}

/// A number with its thousands apart.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 pod`, `2 pods`.
pub(super) fn several(number: usize, name: &str) -> String {
    format!("{} {name}{}", count(number as u64), if number == 1 { "" } else { "s" })
}

/// Connections a second.
pub(super) fn rate(number: f64) -> String {
    match number {
        _ if number == 0.0 => "0/s".to_owned(),
        _ if number < 0.01 => "<0.01/s".to_owned(),
        _ if number < 1.0 => format!("{number:.2}/s"),
        _ if number < 10.0 => format!("{number:.1}/s"),
        // Peers say the numbers, so it may be any; the conversion takes the nearest.
        _ => format!("{}/s", count(number.round() as u64)),
    }
}

/// Part of a whole in percent: neither 0% nor 100% for what is only nearly so.
pub(super) fn share(part: u64, whole: u64) -> String {
    match part {
        0 => "0%".to_owned(),
        _ if part >= whole => "100%".to_owned(),
        _ => {
            let percent = part as f64 * 100.0 / whole as f64;
            if percent < 1.0 { "<1%".to_owned() } else { format!("{:.0}%", percent.min(99.0)) }
        }
    }
}

/// Bytes, to three digits.
pub(super) fn bytes(number: u64) -> String {
    let (mut value, mut units) = (number as f64, ["B", "kB", "MB", "GB", "TB", "PB", "EB"].iter());
    let mut unit = units.next().copied().unwrap_or_default();
    while value >= 999.5 {
        let Some(next) = units.next() else { break };
        (value, unit) = (value / 1000.0, next);
    }
    if value < 10.0 && unit != "B" { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}

/// Time since an event.
pub(super) fn ago(seconds: u64) -> String {
    match seconds {
        0..=1 => "now".to_owned(),
        2..90 => format!("{seconds} s ago"),
        _ => format!("{} min ago", seconds / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_a_namespaces() {
        for (name, is) in [("shop", true), ("kube-system", true), ("", false), ("a\"b", false), ("A", false)]
        {
            assert_eq!(is_name(name), is, "{name}");
        }
        assert!(is_name(&"x".repeat(63)) && !is_name(&"x".repeat(64)));
    }

    #[test]
    fn texts_for_people() {
        let rows = [
            (
                escaped("<a href=\"x\" b='&'>\u{202e}\n"),
                "&lt;a href=&quot;x&quot; b=&#39;&amp;&#39;&gt;\u{fffd}\u{fffd}",
            ),
            (shortened("web", 3), "web"),
            (shortened("checkout-canary", 8), "chec…ary"),
            (count(0), "0"),
            (count(999), "999"),
            (count(1_234_567), "1,234,567"),
            (several(1, "pod"), "1 pod"),
            (several(1000, "pod"), "1,000 pods"),
            (rate(0.0), "0/s"),
            (rate(0.003), "<0.01/s"),
            (rate(0.034), "0.03/s"),
            (rate(3.26), "3.3/s"),
            (rate(1234.5), "1,235/s"),
            (share(0, 0), "0%"),
            (share(1, 1000), "<1%"),
            (share(999, 1000), "99%"),
            (share(3, 3), "100%"),
            (bytes(0), "0 B"),
            (bytes(999), "999 B"),
            (bytes(1_250), "1.2 kB"),
            (bytes(999_999), "1.0 MB"),
            (bytes(u64::MAX), "18 EB"),
            (ago(1), "now"),
            (ago(89), "89 s ago"),
            (ago(299), "4 min ago"),
        ];
        for (is, expected) in rows {
            assert_eq!(is, expected);
        }
    }
}
