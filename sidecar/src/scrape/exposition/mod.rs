// SPDX-License-Identifier: Apache-2.0
//! Prometheus' text format 0.0.4: read line by line, given labels, and put together again by families.
//!
//! A scraper refuses a page as a whole for one line that it cannot read, such as one with a label twice. So a line of an
//! application that is not right makes the whole application's part wrong, and nothing of it is passed on. OpenMetrics is
//! read too, as far as its lines are Prometheus': some libraries answer it to every request.

use crate::observe::scrapes::ScrapeFailure;
use crate::plan::scrape::escaped;
use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

/// MetricFamilies of one page.
const MOST_FAMILIES: usize = 10_000;

/// Bytes of a family beside its texts: its place in the list and in the map.
const FAMILY: usize = 200;

/// Lines that are read before other tasks of this thread may run: the kubelet's probes are answered here.
const LINES_AT_ONCE: usize = 512;

/// Spaces of the format.
const SPACES: [char; 2] = [' ', '\t'];

/// SeriesLabels that every series of a page gets.
#[derive(Debug)]
pub(super) struct SeriesLabels {
    names: Vec<&'static str>,
    /// As they stand in braces.
    text: String,
}

impl SeriesLabels {
    pub(super) fn new(all: &[(&'static str, Arc<str>)], more: Option<(&'static str, &Arc<str>)>) -> Self {
        let all = all.iter().map(|(name, value)| (*name, value)).chain(more);
        let (mut names, mut text) = (Vec::new(), String::new());
        for (name, value) in all {
            let comma = if names.is_empty() { "" } else { "," };
            // Writing to a String does not fail.
            let _ = write!(text, "{comma}{name}=\"{}\"", escaped(value));
            names.push(name);
        }
        Self { names, text }
    }
}

/// Lines that are about one metric.
#[derive(Debug)]
pub(super) struct MetricFamily {
    pub(super) name: String,
    help: Option<String>,
    /// As in the text: counter, gauge, histogram, summary; `None` = untyped.
    pub(super) kind: Option<String>,
    /// Lines of samples, each with its end.
    pub(super) samples: String,
}

/// The families of a page, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct MetricFamilies {
    all: Vec<MetricFamily>,
    places: HashMap<String, usize>,
    /// Bytes that they took when they were read.
    memory: usize,
}

impl MetricFamilies {
    /// Returns the place of a family, which is made if there is none.
    fn place(&mut self, name: &str) -> usize {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.all.len();
        self.all.push(MetricFamily { name: name.to_owned(), help: None, kind: None, samples: String::new() });
        self.places.insert(name.to_owned(), place);
        place
    }

    /// Returns the bytes that the families of a page took when they were read.
    pub(super) fn memory(&self) -> usize {
        self.memory
    }

    /// Returns the bytes of all samples.
    fn bytes(&self) -> usize {
        self.all.iter().map(|family| family.samples.len()).sum()
    }

    /// Keeps the families and lines that `choose` leaves.
    pub(super) fn choose(&mut self, choose: impl Fn(&mut MetricFamily) -> bool) {
        self.all.retain_mut(choose);
        let places = self.all.iter().enumerate().map(|(place, family)| (family.name.clone(), place));
        self.places = places.collect();
    }

    /// Adds the families of another page. Of a family that is there already, its type and help stay.
    pub(super) fn append(&mut self, other: Self) {
        for MetricFamily { name, help, kind, samples } in other.all {
            let place = self.place(&name);
            let there = &mut self.all[place];
            if there.samples.is_empty() {
                (there.help, there.kind, there.samples) = (help, kind, samples);
            } else {
                there.samples.push_str(&samples);
            }
        }
    }

    /// Returns the page.
    pub(super) fn into_text(self) -> String {
        let mut text = String::with_capacity(self.bytes());
        for MetricFamily { name, help, kind, samples } in self.all {
            if samples.is_empty() {
                continue;
            }
            // Writing to a String does not fail.
            if let Some(help) = help {
                let _ = writeln!(text, "# HELP {name} {help}");
            }
            if let Some(kind) = kind {
                let _ = writeln!(text, "# TYPE {name} {kind}");
            }
            text.push_str(&samples);
        }
        text
    }
}

/// Reads a page, and gives each series the labels. What comes of it may take `most` bytes of memory.
pub(super) async fn read(
    text: &str,
    labels: &SeriesLabels,
    most: usize,
) -> Result<MetricFamilies, ScrapeFailure> {
    let mut reader =
        TextReader { families: MetricFamilies::default(), labels, current: None, memory: 0, most };
    for (number, line) in text.lines().enumerate() {
        if number % LINES_AT_ONCE == LINES_AT_ONCE - 1 {
            tokio::task::yield_now().await;
        }
        reader.line(line)?;
    }
    reader.families.memory = reader.memory;
    Ok(reader.families)
}

struct TextReader<'l> {
    families: MetricFamilies,
    labels: &'l SeriesLabels,
    /// The family that the last comment was about.
    current: Option<usize>,
    memory: usize,
    most: usize,
}

impl TextReader<'_> {
    fn line(&mut self, line: &str) -> Result<(), ScrapeFailure> {
        let line = line.trim_start_matches(SPACES);
        if let Some(comment) = line.strip_prefix('#') {
            self.comment(comment.trim_start_matches(SPACES));
        } else if !line.is_empty() {
            let sample = SampleLine::parse(line).ok_or(ScrapeFailure::Malformed)?;
            let place = self.family_of(sample.name);
            let samples = &mut self.families.all[place].samples;
            // What is allocated counts: that may be twice the text.
            let before = samples.capacity();
            sample.write(self.labels, samples);
            self.memory += samples.capacity() - before;
        }
        if self.memory > self.most || self.families.all.len() > MOST_FAMILIES {
            return Err(ScrapeFailure::TooLarge);
        }
        Ok(())
    }

    /// Takes a line of help or type; others say nothing.
    fn comment(&mut self, comment: &str) {
        let Some((word, rest)) = comment.split_once(SPACES) else { return };
        let rest = rest.trim_start_matches(SPACES);
        let (name, rest) = rest.split_once(SPACES).unwrap_or((rest, ""));
        if !matches!(word, "HELP" | "TYPE") || !is_name(name) {
            return;
        }
        let place = self.place(name);
        self.current = Some(place);
        let family = &mut self.families.all[place];
        if word == "HELP" {
            if family.help.is_none() {
                let help = rest.trim_start_matches(SPACES);
                self.memory += help.len();
                family.help = Some(help.to_owned());
            }
        } else if let kind @ ("counter" | "gauge" | "histogram" | "summary") = rest.trim() {
            family.kind.get_or_insert_with(|| kind.to_owned());
        }
    }

    /// Returns the place of a family, which is made if there is none.
    fn place(&mut self, name: &str) -> usize {
        let before = self.families.all.len();
        let place = self.families.place(name);
        if self.families.all.len() > before {
            self.memory += FAMILY + 2 * name.len();
        }
        place
    }

    /// Returns the place of the family that a sample of this name belongs to.
    fn family_of(&mut self, name: &str) -> usize {
        let Some(current) = self.current else { return self.place(name) };
        let family = &self.families.all[current];
        let Some(end) = name.strip_prefix(family.name.as_str()) else { return self.place(name) };
        match (family.kind.as_deref(), end) {
            (_, "")
            | (Some("histogram"), "_bucket" | "_sum" | "_count")
            | (Some("summary"), "_sum" | "_count") => current,
            // OpenMetrics names the family of a counter without its end.
            (Some("counter"), "_total") => self.total_of(current, name),
            _ => self.place(name),
        }
    }

    /// Returns the place of the samples of a counter, to which help and type go with the first of them. A help may be long, and
    /// a copy for each sample would take the time of all of them.
    fn total_of(&mut self, family: usize, name: &str) -> usize {
        let place = self.place(name);
        if self.families.all[place].samples.is_empty() {
            let MetricFamily { help, kind, .. } = &self.families.all[family];
            let (help, kind) = (help.clone(), kind.clone());
            self.memory += help.as_ref().map_or(0, String::len);
            let total = &mut self.families.all[place];
            (total.help, total.kind) = (help, kind);
        }
        place
    }
}

/// A line of a sample.
struct SampleLine<'t> {
    name: &'t str,
    /// Names, and values as they stand in quotes.
    labels: Vec<(&'t str, &'t str)>,
    value: &'t str,
    /// In milliseconds.
    timestamp: Option<i64>,
}

impl<'t> SampleLine<'t> {
    fn parse(line: &'t str) -> Option<Self> {
        let (name, rest) = take_while(line, is_of_name);
        if !is_name(name) {
            return None;
        }
        let mut labels = Vec::new();
        let trimmed = rest.trim_start_matches(SPACES);
        let rest = match trimmed.strip_prefix('{') {
            Some(inner) => read_labels(inner, &mut labels)?,
            // Something has to stand between name and value.
            None if trimmed.len() < rest.len() => trimmed,
            None => return None,
        };
        let mut parts = rest.split(SPACES).filter(|part| !part.is_empty());
        let value = parts.next().filter(|value| value.parse::<f64>().is_ok())?;
        let mut timestamp = None;
        // Behind a # comes an exemplar, which the format does not have.
        if let Some(part) = parts.next().filter(|part| !part.starts_with('#')) {
            timestamp = Some(milliseconds(part)?);
            if parts.next().is_some_and(|part| !part.starts_with('#')) {
                return None;
            }
        }
        Some(Self { name, labels, value, timestamp })
    }

    /// Writes the line with these labels. One of the sample's own that has the name of one of them goes, as in Kuma.
    fn write(&self, labels: &SeriesLabels, to: &mut String) {
        to.push_str(self.name);
        to.push('{');
        let own = self.labels.iter().filter(|(name, _)| !labels.names.contains(name));
        // Writing to a String does not fail.
        for (name, value) in own {
            let _ = write!(to, "{name}=\"{value}\",");
        }
        let _ = write!(to, "{}}} {}", labels.text, self.value);
        if let Some(timestamp) = self.timestamp {
            let _ = write!(to, " {timestamp}");
        }
        to.push('\n');
    }
}

/// Labels of one sample. Prometheus' own limit is 30 in most set-ups.
const MOST_LABELS: usize = 256;

/// Reads labels up to the brace that ends them, and returns what stands behind it.
fn read_labels<'t>(mut rest: &'t str, labels: &mut Vec<(&'t str, &'t str)>) -> Option<&'t str> {
    loop {
        rest = rest.trim_start_matches(SPACES);
        if let Some(behind) = rest.strip_prefix('}') {
            return Some(behind);
        }
        let (name, behind) = take_while(rest, |byte| is_of_name(byte) && byte != b':');
        // Names that begin so are Prometheus' own. Each is compared with all before it.
        if labels.len() == MOST_LABELS
            || !is_name(name)
            || name.starts_with("__")
            || labels.iter().any(|(there, _)| *there == name)
        {
            return None;
        }
        let behind = behind.trim_start_matches(SPACES).strip_prefix('=')?;
        let inner = behind.trim_start_matches(SPACES).strip_prefix('"')?;
        let end = end_of_value(inner)?;
        labels.push((name, &inner[..end]));
        rest = inner[end + 1..].trim_start_matches(SPACES);
        match rest.strip_prefix(',') {
            Some(behind) => rest = behind,
            None if rest.starts_with('}') => {}
            None => return None,
        }
    }
}

/// Returns the place of the quote that ends a value.
fn end_of_value(text: &str) -> Option<usize> {
    let mut bytes = text.bytes().enumerate();
    while let Some((place, byte)) = bytes.next() {
        match byte {
            b'"' => return Some(place),
            b'\\' if !matches!(bytes.next(), Some((_, b'\\' | b'"' | b'n'))) => return None,
            _ => {}
        }
    }
    None
}

/// Reads a time stamp: milliseconds, or OpenMetrics' seconds with decimals.
fn milliseconds(text: &str) -> Option<i64> {
    if let Ok(milliseconds) = text.parse() {
        return Some(milliseconds);
    }
    let seconds: f64 = text.parse().ok()?;
    let milliseconds = (seconds * 1000.0).round();
    (milliseconds.abs() < 1e15).then_some(milliseconds as i64)
}

fn take_while(text: &str, is_of: impl Fn(u8) -> bool) -> (&str, &str) {
    let end = text.bytes().position(|byte| !is_of(byte)).unwrap_or(text.len());
    text.split_at(end)
}

fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':'
}

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|first: char| first.is_ascii_digit())
        && text.bytes().all(is_of_name)
}

#[cfg(test)]
mod tests;
