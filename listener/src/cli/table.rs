//! Tables, no wider than the terminal. What is not printed on a terminal is never cut.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::CliError;
use super::output::say;
use super::terminal::terminal;

/// Gap between two columns.
const GAP: &str = "  ";

/// Minimum width of the last column.
const MIN_LAST_WIDTH: usize = 12;

/// Widths down to which the columns between the first and the last are cut: long ones before the last is,
/// then others that are wider than a time, then all but the second, which may hold times, then that one too.
const MIDDLE_WIDTHS: [usize; 3] = [40, 20, 8];

/// Prints a table.
pub(super) fn print<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Result<(), CliError> {
    for line in formatted(head, rows) {
        say!("{line}")?;
    }
    Ok(())
}

/// Returns the lines of a table, cut to fit the terminal if standard output is one.
pub(super) fn formatted<const N: usize>(head: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    lines(head, rows, terminal().width)
}

/// Returns a text in one line, without characters that would move the cursor or turn the direction of text.
pub(super) fn one_line(text: &str) -> String {
    let shown = |c: char| match c {
        '\u{200e}'
        | '\u{200f}'
        | '\u{2028}'..='\u{202e}'
        | '\u{2066}'..='\u{2069}'
        | '\u{feff}' => ' ',
        c if c.is_control() => ' ',
        c => c,
    };
    text.chars().map(shown).collect()
}

/// Cuts a line to fit the terminal, if standard output is one.
pub(super) fn fitted(line: String) -> String {
    match terminal().width {
        Some(width) => cut(&line, width),
        None => line,
    }
}

/// Formats the lines of a table. To fit `width`, long columns are cut first, then the last one, then those
/// between; the first one, which holds ids, never is.
fn lines<const N: usize>(
    head: [&str; N],
    rows: &[[String; N]],
    width: Option<usize>,
) -> Vec<String> {
    let head = head.map(str::to_owned);
    let rows = || std::iter::once(&head).chain(rows);
    let widest = |column: usize| rows().map(|row| row[column].width()).max().unwrap_or(0);
    let mut widths: Vec<usize> = (0..N).map(widest).collect();
    if let Some(width) = width {
        fit(&mut widths, width);
    }
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells.map(|(cell, width)| padded(cell, *width)).collect();
        cells.join(GAP).trim_end().to_owned()
    };
    rows().map(line).collect()
}

/// Makes columns narrower, so that they and their gaps are no wider than `width` in all, where that is
/// possible.
fn fit(widths: &mut [usize], width: usize) {
    let [long, time, least] = MIDDLE_WIDTHS;
    cut_middle(widths, 1, (width, long));
    let over = excess(widths, width);
    if let Some(last) = widths.last_mut() {
        *last = (*last).min(last.saturating_sub(over).max(MIN_LAST_WIDTH));
    }
    cut_middle(widths, 1, (width, time));
    cut_middle(widths, 2, (width, least));
    cut_middle(widths, 1, (width, least));
}

/// Returns by how much columns are wider than `width` in all.
fn excess(widths: &[usize], width: usize) -> usize {
    let gaps = widths.len().saturating_sub(1) * GAP.len();
    (widths.iter().sum::<usize>() + gaps).saturating_sub(width)
}

/// Makes the widest columns from this one on, before the last, narrower, as far as needed, down to `floor`.
fn cut_middle(widths: &mut [usize], from: usize, (width, floor): (usize, usize)) {
    for _ in 0..excess(widths, width) {
        let end = widths.len().saturating_sub(1);
        let middle = widths.get_mut(from..end).unwrap_or_default();
        match middle.iter_mut().max().filter(|widest| **widest > floor) {
            Some(widest) => *widest -= 1,
            None => return,
        }
    }
}

/// Cuts a cell to a width, or fills it up.
fn padded(cell: &str, width: usize) -> String {
    let mut text = cut(cell, width);
    let missing = width.saturating_sub(text.width());
    text.extend(std::iter::repeat_n(' ', missing));
    text
}

/// Cuts a text to a width, with an ellipsis.
fn cut(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let (mut kept, mut width) = (String::new(), 0);
    for c in text.chars() {
        width += c.width().unwrap_or(0);
        if width + 1 > most {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows<const N: usize>(rows: &[[&str; N]]) -> Vec<[String; N]> {
        rows.iter().map(|row| row.map(str::to_owned)).collect()
    }

    #[test]
    fn last_column_is_cut_to_the_terminal() {
        let rows = rows(&[["1", "no answer within 10 seconds"], ["22", "short"]]);
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

    #[test]
    fn long_keys_are_cut_before_times_and_ids_never() {
        let (id, at) = ("3c5bf38d-140-6615e1afaa36c", "2026-03-01T12:00:00Z");
        let key = "k".repeat(300);
        let rows = rows(&[[id, at, &key, "delivered, and delivered once more"]]);
        let head = ["ID", "TIME", "KEY", "OUTCOME"];
        let whole = &lines(head, &rows, None)[1];
        assert!(whole.contains(&key), "{whole}");
        let fits = &lines(head, &rows, Some(90))[1];
        assert_eq!(fits.width(), 90, "{fits}");
        assert!(fits.starts_with(&format!("{id}  {at}  kkk")), "{fits}");
        let narrow = &lines(head, &rows, Some(20))[1];
        assert!(narrow.starts_with(&format!("{id}  2026-03…  ")), "{narrow}");
        assert!(narrow.ends_with('…'), "{narrow}");
    }

    #[test]
    fn widths_are_those_on_the_screen() {
        // Two columns each, none, and one.
        assert_eq!(cut("注文注文", 8), "注文注文");
        assert_eq!(cut("注文注文", 7), "注文注…");
        assert_eq!(cut("注文注文", 6), "注文…");
        assert_eq!(
            cut("e\u{301}e\u{301}e\u{301}", 3),
            "e\u{301}e\u{301}e\u{301}"
        );
        assert_eq!(cut("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
        assert_eq!(cut("abc", 0), "…");
        assert_eq!(padded("注", 4), "注  ");
        let table = lines(["KEY", "X"], &rows(&[["注文", "1"], ["ab", "2"]]), None);
        assert_eq!(table, ["KEY   X", "注文  1", "ab    2"]);
    }

    #[test]
    fn nothing_in_a_cell_moves_the_cursor() {
        assert_eq!(
            one_line("a\nb\x1b[2Jc\u{202e}d\u{200d}é"),
            "a b [2Jc d\u{200d}é"
        );
    }
}
