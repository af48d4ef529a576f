//! The way of log lines to standard error: whoever writes one neither fails nor waits for long,
//! whatever becomes of the reader at the other end.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Most bytes that wait for a slow reader.
const MAX_WAITING: usize = 1 << 20;

/// How long a line waits for a reader that was reading until now. One that only is slow loses
/// nothing by it, and one that hangs delays the program once.
const PATIENCE: Duration = Duration::from_secs(1);

/// Hands lines to a thread that writes them. Copies share it.
#[derive(Clone)]
pub(crate) struct Writer {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    /// There is something to write.
    more: Condvar,
    /// Something was written.
    written: Condvar,
}

#[derive(Default)]
struct State {
    waiting: Vec<u8>,
    /// Whether the thread is at a write.
    writing: bool,
    /// Whether a line waited in vain since the latest write.
    hangs: bool,
    /// Lines that found no room, and that no line has told of.
    left_out: u64,
}

impl Writer {
    /// Writes to standard error. Nothing where a thread for it cannot be had.
    pub(crate) fn stderr() -> io::Result<Self> {
        // A handle of its own: a write that hangs must not hold the lock of the standard library's.
        Self::to(File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            more: Condvar::new(),
            written: Condvar::new(),
        });
        let writer = Self { shared };
        let all = Arc::clone(&writer.shared);
        // It lives as long as the process does, and has nothing to fail at.
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || all.write_on(out))?;
        Ok(writer)
    }

    /// Hands over whole lines.
    pub(crate) fn push(&self, text: &[u8]) {
        let shared = &*self.shared;
        let full = |state: &mut State| {
            !state.hangs
                && !state.waiting.is_empty()
                && state.waiting.len() + text.len() > MAX_WAITING
        };
        let waited = shared
            .written
            .wait_timeout_while(shared.lock(), PATIENCE, full);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        state.hangs |= waited.timed_out();
        if state.hangs && state.waiting.len() + text.len() > MAX_WAITING {
            state.left_out += 1;
            return;
        }
        state.waiting.extend_from_slice(text);
        shared.more.notify_one();
    }

    /// Waits until all is written, but not for a reader that hangs.
    pub(crate) fn flush(&self) {
        let open = |state: &mut State| state.writing || !state.waiting.is_empty();
        let shared = &*self.shared;
        let _in_time = shared
            .written
            .wait_timeout_while(shared.lock(), PATIENCE, open);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_on(&self, mut out: impl Write) {
        loop {
            let nothing = |state: &mut State| state.waiting.is_empty();
            let state = self.more.wait_while(self.lock(), nothing);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            let text = std::mem::take(&mut state.waiting);
            state.writing = true;
            drop(state);
            // Nobody is left to tell that the log cannot be written.
            let _nobody_reads = out.write_all(&text);
            let mut state = self.lock();
            state.writing = false;
            state.hangs = false;
            // With room left for this line, whose writer is this very thread.
            let left_out = if state.waiting.len() < MAX_WAITING / 2 {
                std::mem::take(&mut state.left_out)
            } else {
                0
            };
            drop(state);
            self.written.notify_all();
            if left_out > 0 {
                tracing::warn!(
                    lines = left_out,
                    "lines of the log were left out, as nobody read it"
                );
            }
        }
    }
}

impl Write for &Writer {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Writer {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may panic")]

    use std::io::{BufRead, BufReader};

    use super::*;

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (reader, out) = io::pipe().unwrap();
        let writer = Writer::to(out).unwrap();
        drop(reader);
        for _ in 0..3 {
            assert_eq!((&writer).write(b"a line\n").unwrap(), 7);
            writer.flush();
        }
        assert_eq!(writer.shared.lock().left_out, 0);
    }

    #[test]
    fn a_reader_that_hangs_delays_once_and_loses_only_what_finds_no_room() {
        let (reader, out) = io::pipe().unwrap();
        let writer = Writer::to(out).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        // The pipe and the buffer hold less than this.
        let lines = 4 * MAX_WAITING / line.len();
        for _ in 0..lines {
            writer.push(&line);
        }
        let left_out = writer.shared.lock().left_out;
        assert!(left_out > 0, "nobody reads, so there is no room for all");
        let kept = lines - usize::try_from(left_out).unwrap();
        let mut read = BufReader::new(reader).lines();
        for _ in 0..kept {
            assert_eq!(read.next().unwrap().unwrap().len(), 1023);
        }
        writer.push(b"and on\n");
        assert_eq!(read.next().unwrap().unwrap(), "and on");
    }
}
