// SPDX-License-Identifier: Apache-2.0
//! A table for people: columns as wide as their widest cell. Pure.

/// Renders `rows` under `header`, a line each.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = header.map(width);
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = width(cell).max(*widest);
        }
    }
    let line = |cells: [&str; N]| {
        let padded: Vec<_> =
            cells.iter().zip(widths).map(|(cell, widest)| format!("{cell:widest$}")).collect();
        format!("{}\n", padded.join("  ").trim_end())
    };
    let mut out = line(header);
    for row in rows {
        out.push_str(&line(row.each_ref().map(String::as_str)));
    }
    out
}

fn width(cell: &str) -> usize {
    cell.chars().count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let rows = [["a…".to_owned(), String::new()], ["long".to_owned(), "b".to_owned()]];
        assert_eq!(table(["X", "Y"], &rows), "X     Y\na…\nlong  b\n");
    }
}
