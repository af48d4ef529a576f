//! Where a demonstration is shown: on a terminal the latest figures stay in place below what was
//! said; elsewhere everything is a line of its own.

use std::io::{IsTerminal, Write};

/// A display on standard output or in a file. That nobody reads any more is no error.
pub(crate) struct Screen {
    out: Box<dyn Write + Send>,
    terminal: bool,
    /// Lines on the terminal that the next drawing replaces.
    drawn: usize,
}

impl std::fmt::Debug for Screen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let terminal = self.terminal;
        write!(f, "Screen {{ terminal: {terminal} }}")
    }
}

impl Screen {
    /// Standard output.
    #[must_use]
    pub(crate) fn stdout() -> Self {
        let out = std::io::stdout();
        let terminal = out.is_terminal();
        Self::new(Box::new(out), terminal)
    }

    /// A display that obeys a terminal's control sequences, or does not.
    #[must_use]
    pub(crate) fn new(out: Box<dyn Write + Send>, terminal: bool) -> Self {
        Self {
            out,
            terminal,
            drawn: 0,
        }
    }

    /// Whether drawings stay in place.
    #[must_use]
    pub(crate) const fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Says something that stays, in place of what was drawn last.
    pub(crate) fn say(&mut self, text: &str) {
        let text = format!("{}{text}\n", self.erase());
        self.drawn = 0;
        self.write(&text);
    }

    /// Draws in place of what was drawn last. Only for terminals.
    pub(crate) fn draw(&mut self, lines: &[String]) {
        let text = format!("{}{}\n", self.erase(), lines.join("\n"));
        self.drawn = lines.len();
        self.write(&text);
    }

    fn erase(&self) -> String {
        match self.drawn {
            0 => String::new(),
            // Up to the first of the lines, and clear from there to the end.
            lines => format!("\x1b[{lines}A\x1b[J"),
        }
    }

    fn write(&mut self, text: &str) {
        let _nobody_reads = self
            .out
            .write_all(text.as_bytes())
            .and_then(|()| self.out.flush());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Paper(Arc<Mutex<Vec<u8>>>);

    impl Write for Paper {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn shown(terminal: bool, show: impl FnOnce(&mut Screen)) -> String {
        let paper = Paper::default();
        show(&mut Screen::new(Box::new(paper.clone()), terminal));
        String::from_utf8(paper.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn what_is_drawn_is_replaced_and_what_is_said_stays() {
        let text = shown(true, |screen| {
            screen.draw(&["a".to_owned(), "b".to_owned()]);
            screen.say("hello");
            screen.draw(&["c".to_owned()]);
            screen.draw(&["d".to_owned()]);
        });
        assert_eq!(text, "a\nb\n\x1b[2A\x1b[Jhello\nc\n\x1b[1A\x1b[Jd\n");
    }

    #[test]
    fn text_alone_has_no_control_sequences() {
        let text = shown(false, |screen| {
            screen.say("one");
            screen.say("two");
        });
        assert_eq!(text, "one\ntwo\n");
    }
}
