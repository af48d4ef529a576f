//! The terminal that a command talks to: its own streams, or those of the `kubectl` plugin that has it run in a
//! pod.

use std::fmt;
use std::io::{BufRead, IsTerminal};
use std::str::FromStr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use program::logs;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use super::output::counted;

/// Width of a terminal that does not tell its own.
const DEFAULT_WIDTH: usize = 80;

/// Environment variable with the width of the terminal.
const WIDTH_VARIABLE: &str = "COLUMNS";

/// Lines of standard input that are read ahead.
const LINES_AHEAD: usize = 16;

/// Which streams are a terminal, and what it can show.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Terminal {
    /// Somebody can answer a question.
    pub(super) input: bool,
    /// Width of the terminal that standard output is, if it is one.
    pub(super) width: Option<usize>,
    /// Standard error is one.
    pub(super) errors: bool,
    /// It shows colour.
    pub(super) colour: bool,
}

static TERMINAL: OnceLock<Terminal> = OnceLock::new();

static INPUT: OnceLock<Input> = OnceLock::new();

/// Standard input, which a thread reads until it ends.
struct Input {
    lines: Mutex<mpsc::Receiver<String>>,
    ended: CancellationToken,
}

/// Returns the terminal of this process, or the one that was given.
pub(super) fn terminal() -> &'static Terminal {
    TERMINAL.get_or_init(Terminal::own)
}

/// Talks to this terminal from now on.
pub(super) fn talk_to(other: Terminal) {
    TERMINAL.get_or_init(|| other);
}

impl Terminal {
    /// Returns the terminal that the streams of this process are. It shows colour unless `NO_COLOR` is set or it
    /// is a dumb one; its width is that of `COLUMNS`, or else its own.
    pub(super) fn own() -> Self {
        let out = std::io::stdout();
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|set| !set.is_empty());
        let is_dumb = std::env::var_os("TERM").is_some_and(|kind| kind == "dumb");
        let asked = std::env::var(WIDTH_VARIABLE).ok();
        let asked = asked.and_then(|text| text.trim().parse().ok());
        let known = asked.filter(|width| *width > 0).or_else(|| {
            let (width, _) = terminal_size::terminal_size_of(std::io::stdout())?;
            Some(usize::from(width.0)).filter(|width| *width > 0)
        });
        let is_terminal = out.is_terminal();
        Self {
            input: std::io::stdin().is_terminal(),
            width: is_terminal.then(|| known.unwrap_or(DEFAULT_WIDTH)),
            errors: std::io::stderr().is_terminal(),
            colour: is_terminal && !is_set("NO_COLOR") && !is_dumb,
        }
    }
}

impl fmt::Display for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.width.unwrap_or(0);
        let flag = |is_set: bool, text: &'static str| if is_set { text } else { "" };
        write!(
            f,
            "{width}{}{}{}",
            flag(self.input, ",input"),
            flag(self.errors, ",errors"),
            flag(self.colour, ",colour")
        )
    }
}

impl FromStr for Terminal {
    type Err = String;

    /// Parses what [`Display`](fmt::Display) writes: the width, or 0, and what else there is.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no terminal: use WIDTH[,input][,errors][,colour]");
        let mut parts = text.split(',');
        let width: usize = parts
            .next()
            .and_then(|width| width.parse().ok())
            .ok_or_else(wrong)?;
        let mut terminal = Self {
            width: (width > 0).then_some(width),
            ..Self::default()
        };
        for part in parts {
            match part {
                "input" => terminal.input = true,
                "errors" => terminal.errors = true,
                "colour" => terminal.colour = true,
                _ => return Err(wrong()),
            }
        }
        Ok(terminal)
    }
}

/// Returns standard input. The thread ends with the process: nothing can end a read of a terminal.
fn input() -> &'static Input {
    INPUT.get_or_init(|| {
        let (lines, read) = mpsc::channel(LINES_AHEAD);
        let ended = CancellationToken::new();
        let at_end = ended.clone().drop_guard();
        std::thread::spawn(move || {
            let _at_end = at_end;
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { return };
                // Nobody waits for more lines than this, and the end must be seen.
                let _unwanted = lines.try_send(line);
            }
        });
        Input {
            lines: Mutex::new(read),
            ended,
        }
    })
}

/// Reads a line; nothing at the end of standard input.
pub(super) async fn read_line() -> Option<String> {
    input().lines.lock().await.recv().await
}

/// Waits until standard input ends.
pub(super) async fn input_ended() {
    input().ended.cancelled().await;
}

/// Shows how far long work is in one line, where standard error is a terminal. Dropped, it ends the line.
#[derive(Debug)]
pub(super) struct Progress {
    noun: (&'static str, &'static str),
    all: Option<u64>,
    is_shown: bool,
    /// Whether there is a line to end.
    has_line: AtomicBool,
}

impl Progress {
    /// Starts to show progress towards a number of things, if that is known.
    pub(super) fn new(noun: (&'static str, &'static str), all: Option<u64>) -> Self {
        Self {
            noun,
            all: all.filter(|all| *all > 0),
            is_shown: terminal().errors,
            has_line: AtomicBool::new(false),
        }
    }

    /// Shows how many are done; `about` says more.
    pub(super) fn show(&self, done: u64, about: &str) {
        if self.is_shown {
            self.has_line.store(true, Ordering::Relaxed);
            logs::say(&format!("\r{}{about}\x1b[K", self.text(done)));
        }
    }

    fn text(&self, done: u64) -> String {
        let Some(all) = self.all else {
            return counted(done, self.noun.0, self.noun.1);
        };
        let percent = (done.saturating_mul(100) / all).min(100);
        let filled = usize::try_from(percent / 5).unwrap_or(0);
        let bar = "=".repeat(filled);
        let all = counted(all, self.noun.0, self.noun.1);
        format!("[{bar:20}] {percent:3}%  {done} of {all}")
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.has_line.load(Ordering::Relaxed) {
            logs::say("\n");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use super::*;

    #[test]
    fn a_terminal_is_what_was_written_of_it() {
        for width in [None, Some(1), Some(200)] {
            for (input, errors, colour) in [
                (false, false, true),
                (true, false, false),
                (true, true, true),
            ] {
                let terminal = Terminal {
                    input,
                    width,
                    errors,
                    colour,
                };
                assert_eq!(terminal.to_string().parse(), Ok(terminal));
            }
        }
        for wrong in ["", "x", "-1", "80,loud", "80,", ",input"] {
            assert!(wrong.parse::<Terminal>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn progress_has_a_bar_where_the_end_is_known() {
        let of = |all| Progress {
            noun: ("event", "events"),
            all,
            is_shown: false,
            has_line: AtomicBool::new(false),
        };
        assert_eq!(
            of(Some(200)).text(50),
            "[=====               ]  25%  50 of 200 events"
        );
        // More may be found than were counted.
        assert_eq!(
            of(Some(1)).text(2),
            "[====================] 100%  2 of 1 event"
        );
        assert_eq!(of(None).text(1), "1 event");
    }
}
