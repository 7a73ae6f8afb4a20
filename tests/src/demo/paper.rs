//! Printing for a person.

use std::fmt;
use std::io::{self, StdoutLock, Write};

use anyhow::Result;

const INDENT: &str = "  ";

/// The demo's output, in colour or not.
#[derive(Debug)]
pub struct Paper {
    out: StdoutLock<'static>,
    colour: bool,
}

/// The colour of a text by its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tone {
    Good,
    Bad,
    Title,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "\x1b[32m",
            Self::Bad => "\x1b[1;31m",
            Self::Title => "\x1b[1m",
        }
    }
}

struct Painted<'a> {
    text: &'a str,
    tone: Option<Tone>,
}

impl fmt::Display for Painted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tone {
            Some(tone) => write!(f, "{}{}\x1b[0m", tone.code(), self.text),
            None => f.write_str(self.text),
        }
    }
}

impl Paper {
    /// Prints to `out`, in colour if asked to.
    pub fn new(out: StdoutLock<'static>, colour: bool) -> Self {
        Self { out, colour }
    }

    fn painted<'a>(&self, text: &'a str, tone: Tone) -> Painted<'a> {
        Painted { text, tone: self.colour.then_some(tone) }
    }

    /// Something that takes time begins; not part of what is shown.
    pub(super) fn progress(&self, what: &str) -> Result<()> {
        writeln!(io::stderr(), "cargo demo: {what}")?;
        Ok(())
    }

    /// Prints the title of a part.
    pub(super) fn title(&mut self, title: &str) -> Result<()> {
        let title = self.painted(title, Tone::Title);
        writeln!(self.out, "\n{title}")?;
        Ok(self.out.flush()?)
    }

    /// One line of a part.
    pub(super) fn line(&mut self, line: &str) -> Result<()> {
        writeln!(self.out, "{INDENT}{line}")?;
        Ok(self.out.flush()?)
    }

    /// Rows whose columns stand below each other.
    pub(super) fn table(&mut self, rows: &[Vec<String>]) -> Result<()> {
        for row in aligned(rows) {
            self.line(&row)?;
        }
        Ok(())
    }

    /// Rows below headings, each with whether it is as it should be.
    pub(super) fn judged(
        &mut self,
        headings: &[&str],
        rows: &[(Vec<String>, Result<(), String>)],
    ) -> Result<()> {
        let mut all = vec![headings.iter().map(|h| (*h).to_owned()).collect::<Vec<_>>()];
        all.extend(rows.iter().map(|(row, _)| row.clone()));
        let mut lines = aligned(&all).into_iter();
        let head = lines.next().unwrap_or_default();
        let head = self.painted(&head, Tone::Title);
        writeln!(self.out, "{INDENT}{head}")?;
        for (line, (_, judgement)) in lines.zip(rows) {
            let wrong = judgement.as_ref().err().map(|e| format!("NOT AS IT SHOULD BE: {e}"));
            let word = match &wrong {
                None => self.painted("ok", Tone::Good),
                Some(wrong) => self.painted(wrong, Tone::Bad),
            };
            writeln!(self.out, "{INDENT}{line}  {word}")?;
        }
        Ok(self.out.flush()?)
    }

    /// Prints the verdict as the last line.
    pub(super) fn verdict(&mut self, good: bool) -> Result<()> {
        let word = if good {
            self.painted("Every connection took the way that it should.", Tone::Good)
        } else {
            self.painted("Something is not as it should be; see above.", Tone::Bad)
        };
        writeln!(self.out, "\n{word}")?;
        Ok(self.out.flush()?)
    }
}

/// Pads all columns but the last.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or_default()).collect();
    rows.iter()
        .map(|row| {
            let cells: Vec<String> =
                row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
            cells.join("  ").trim_end().to_owned()
        })
        .map(|line| line.to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_each_other_and_count_letters_not_bytes() {
        let rows = [vec!["ä".into(), "b".into()], vec!["ccc".to_owned(), "d".into()], vec!["e".into()]];
        assert_eq!(aligned(&rows), ["ä    b", "ccc  d", "e"]);
    }
}
