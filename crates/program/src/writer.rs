//! Log writer that neither fails nor blocks for long if the reader of standard error is slow, stuck or
//! gone.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Most bytes that wait for the reader.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// Time for which a line waits for the reader. A reader that is only slow loses no lines; one that is
/// stuck delays the program once.
const READER_TIMEOUT: Duration = Duration::from_secs(1);

/// Log writer, which passes lines to a thread. Clones share it.
#[derive(Clone)]
pub(crate) struct LogWriter {
    buffer: Arc<LogBuffer>,
}

struct LogBuffer {
    state: Mutex<BufferState>,
    /// Notified when there is something to write.
    filled: Condvar,
    /// Notified when something was written.
    drained: Condvar,
}

#[derive(Default)]
struct BufferState {
    pending: Vec<u8>,
    /// Whether the thread is writing.
    writing: bool,
    /// Whether a line has timed out since the last write.
    stuck: bool,
    /// Lines that were dropped and not reported yet.
    dropped: u64,
}

impl LogWriter {
    /// Creates a writer to standard error. Fails if its thread cannot start.
    pub(crate) fn stderr() -> io::Result<Self> {
        // A handle of its own: a blocked write must not hold the lock of the standard library.
        Self::to(File::from(io::stderr().as_fd().try_clone_to_owned()?))
    }

    fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let buffer = Arc::new(LogBuffer {
            state: Mutex::default(),
            filled: Condvar::new(),
            drained: Condvar::new(),
        });
        let writer = Self { buffer };
        let all = Arc::clone(&writer.buffer);
        // It runs for as long as the process, and cannot fail.
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || all.write_loop(out))?;
        Ok(writer)
    }

    /// Adds whole lines.
    pub(crate) fn push(&self, text: &[u8]) {
        let buffer = &*self.buffer;
        let full = |state: &mut BufferState| {
            !state.stuck
                && !state.pending.is_empty()
                && state.pending.len() + text.len() > MAX_PENDING_BYTES
        };
        let waited = buffer
            .drained
            .wait_timeout_while(buffer.lock(), READER_TIMEOUT, full);
        let (mut state, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        state.stuck |= waited.timed_out();
        if state.stuck && state.pending.len() + text.len() > MAX_PENDING_BYTES {
            state.dropped += 1;
            return;
        }
        state.pending.extend_from_slice(text);
        buffer.filled.notify_one();
    }

    /// Waits until everything is written, unless the reader is stuck.
    pub(crate) fn flush(&self) {
        let open = |state: &mut BufferState| state.writing || !state.pending.is_empty();
        let buffer = &*self.buffer;
        let _in_time = buffer
            .drained
            .wait_timeout_while(buffer.lock(), READER_TIMEOUT, open);
    }
}

impl LogBuffer {
    fn lock(&self) -> MutexGuard<'_, BufferState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_loop(&self, mut out: impl Write) {
        loop {
            let nothing = |state: &mut BufferState| state.pending.is_empty();
            let state = self.filled.wait_while(self.lock(), nothing);
            let mut state = state.unwrap_or_else(PoisonError::into_inner);
            let text = std::mem::take(&mut state.pending);
            state.writing = true;
            drop(state);
            // There is nowhere to report that the log cannot be written.
            let _closed_pipe = out.write_all(&text);
            let mut state = self.lock();
            state.writing = false;
            state.stuck = false;
            // Leaves space for the line below, which this thread itself writes.
            let dropped = if state.pending.len() < MAX_PENDING_BYTES / 2 {
                std::mem::take(&mut state.dropped)
            } else {
                0
            };
            drop(state);
            self.drained.notify_all();
            if dropped > 0 {
                tracing::warn!(
                    lines = dropped,
                    "log lines were dropped because the reader did not keep up"
                );
            }
        }
    }
}

impl Write for &LogWriter {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.push(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
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
    fn closed_pipe_is_no_error() {
        let (reader, out) = io::pipe().unwrap();
        let writer = LogWriter::to(out).unwrap();
        drop(reader);
        for _ in 0..3 {
            assert_eq!((&writer).write(b"a line\n").unwrap(), 7);
            writer.flush();
        }
        assert_eq!(writer.buffer.lock().dropped, 0);
    }

    #[test]
    fn stuck_reader_delays_once_and_loses_only_the_overflow() {
        let (reader, out) = io::pipe().unwrap();
        let writer = LogWriter::to(out).unwrap();
        let line = [&[b'x'; 1023][..], b"\n"].concat();
        // The pipe and the buffer hold less than this.
        let lines = 4 * MAX_PENDING_BYTES / line.len();
        for _ in 0..lines {
            writer.push(&line);
        }
        let dropped = writer.buffer.lock().dropped;
        assert!(dropped > 0, "nobody reads, so the buffer overflows");
        let kept = lines - usize::try_from(dropped).unwrap();
        let mut read = BufReader::new(reader).lines();
        for _ in 0..kept {
            assert_eq!(read.next().unwrap().unwrap().len(), 1023);
        }
        writer.push(b"and on\n");
        assert_eq!(read.next().unwrap().unwrap(), "and on");
    }
}
