//! Tables, no wider than the terminal.

use std::io::IsTerminal;

use super::CliError;
use super::output::say;

/// Gap between two columns.
const GAP: &str = "  ";

/// Minimum width of the last column.
const MIN_WIDTH: usize = 12;

/// Prints a table.
pub(super) fn print<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Result<(), CliError> {
    for line in lines(head, rows, terminal_width()) {
        say!("{line}")?;
    }
    Ok(())
}

/// Returns the beginning of a text in one line.
pub(super) fn beginning(text: &str, most: usize) -> String {
    let shown = |c: char| if c.is_control() { ' ' } else { c };
    text.chars().map(shown).take(most).collect()
}

/// Returns the width of the terminal, if standard output is one.
fn terminal_width() -> Option<usize> {
    let out = std::io::stdout();
    let size = out
        .is_terminal()
        .then(|| terminal_size::terminal_size_of(out));
    size.flatten().map(|(width, _)| usize::from(width.0))
}

/// Formats the lines of a table; shortens the last column to fit `width`.
fn lines<const N: usize>(
    head: [&str; N],
    rows: &[[String; N]],
    width: Option<usize>,
) -> Vec<String> {
    let head = head.map(str::to_owned);
    let rows = || std::iter::once(&head).chain(rows);
    let widest = |column: usize| {
        let cells = rows().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let mut widths: Vec<usize> = (0..N).map(widest).collect();
    if let (Some(most), Some((last, others))) = (width, widths.split_last_mut()) {
        let taken: usize = others.iter().map(|width| width + GAP.len()).sum();
        *last = (*last).min(most.saturating_sub(taken).max(MIN_WIDTH));
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{:width$}", shortened(cell, *width)))
            .collect();
        cells.join(GAP).trim_end().to_owned()
    };
    rows().map(line).collect()
}

/// Shortens a text to `most` characters, with an ellipsis.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_column_is_shortened_to_the_terminal() {
        let rows = [
            ["1".to_owned(), "no answer within 10 seconds".to_owned()],
            ["22".to_owned(), "short".to_owned()],
        ];
        let head = ["ID", "ERROR"];
        let wide = ["ID  ERROR", "1   no answer within 10 seconds", "22  short"];
        assert_eq!(lines(head, &rows, None), wide);
        assert_eq!(lines(head, &rows, Some(31)), wide);
        assert_eq!(
            lines(head, &rows, Some(20)),
            ["ID  ERROR", "1   no answer withi…", "22  short"]
        );
        // Lines never get narrower than the minimum width.
        assert_eq!(lines(head, &rows, Some(1))[1], "1   no answer w…");
    }
}
