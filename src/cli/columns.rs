//! Rows of text under headings, for people.

use std::fmt::Write as _;

/// A column's heading, and whether it holds numbers, which line up at their ends.
pub(super) type Column = (&'static str, bool);

/// The line of headings, and a line for each row; nothing where there are no rows.
pub(super) fn line_up<const N: usize>(columns: &[Column; N], rows: &[[String; N]]) -> Option<(String, Vec<String>)> {
    if rows.is_empty() {
        return None;
    }
    let mut widths = columns.map(|(heading, _)| heading.len());
    for row in rows {
        widths.iter_mut().zip(row).for_each(|(width, cell)| *width = cell.chars().count().max(*width));
    }
    let headings = columns.map(|(heading, _)| heading.to_owned());
    Some((line(columns, &headings, &widths), rows.iter().map(|row| line(columns, row, &widths)).collect()))
}

fn line<const N: usize>(columns: &[Column; N], cells: &[String; N], widths: &[usize; N]) -> String {
    let mut line = String::new();
    for ((cell, width), (_, is_number)) in cells.iter().zip(widths).zip(columns) {
        let padding = width.saturating_sub(cell.chars().count());
        let (before, behind) = if *is_number { (padding, 0) } else { (0, padding) };
        // Writing to a String cannot fail.
        let _ = write!(line, "{:before$}{cell}{:behind$}  ", "", "");
    }
    line.truncate(line.trim_end().len());
    line
}
