//! The log writer. Requests do not wait for standard error. Each thread collects its lines in its
//! own bounded buffer, and one thread writes the lines of all buffers every 10 ms.
//!
//! # Alternatives
//!
//! tracing-subscriber alone writes each line from the thread that serves the request. A slow reader then
//! stops all requests. The non-blocking writer of tracing-appender (0.2) copies each line into a channel,
//! and wakes its thread for it. Its bound is on lines and not on bytes, and it does not log that lines were
//! lost.
//!
//! # Measurement
//!
//! `h2load --h1 -n 60000 -c 32` sent requests to a server with two cores, whose log went through a pipe. The
//! kernel counted the CPU time of the server (`/proc/PID/task/TID/schedstat`). The writers took turns for 9
//! rounds, next to other work on the machine. These are the medians for each request, which is one line:
//!
//! | writer | CPU time | more than without lines |
//! |---|---|---|
//! | no lines (`RUST_LOG=warn`) | 6.5 µs | |
//! | this one | 7.0 µs | 0.5 µs |
//! | tracing-appender | 7.4 µs | 0.9 µs |
//! | tracing-subscriber alone | 8.7 µs | 2.2 µs |

use std::{
    cell::OnceCell,
    io::{self, Write},
    mem,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use common::lock::lock;
use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

use super::output::{Lost, Output};

/// The time that lines are collected before they are written.
const TICK: Duration = Duration::from_millis(10);

/// The most bytes in the buffer of a thread, about 5000 lines. When the reader of standard error is
/// that far behind, further lines are left out and counted.
const MAX_BUFFERED: usize = 1024 * 1024;

/// The capacity that an emptied buffer keeps.
const KEPT: usize = 64 * 1024;

/// The longest wait of a process that ends for its last lines to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The buffers of all threads, made by [`start`].
static SHARED: OnceLock<Shared> = OnceLock::new();

thread_local! {
    static OWN: OnceCell<Arc<Buffer>> = const { OnceCell::new() };
}

struct Shared {
    buffers: Mutex<Vec<Arc<Buffer>>>,
    /// True if the writing thread knows that there are lines.
    awake: AtomicBool,
    requests: Sender<Request>,
    /// The lines that were left out or lost since the start.
    missing: AtomicU64,
}

/// A request to the writing thread.
enum Request {
    /// Write the lines at the end of the tick.
    Lines,
    /// Write all lines now, and answer.
    Flush(Sender<()>),
}

/// The lines of one thread that are not written yet.
#[derive(Default)]
struct Buffer(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    left_out: u64,
}

/// The writer that tracing-subscriber passes its lines to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines;

/// Starts the thread that writes.
pub(super) fn start() -> io::Result<Lines> {
    let (sender, requests) = channel();
    SHARED.get_or_init(|| Shared {
        buffers: Mutex::default(),
        awake: AtomicBool::new(false),
        requests: sender,
        missing: AtomicU64::new(0),
    });
    thread::Builder::new()
        .name("log".into())
        .spawn(move || write_all(&requests))?;
    Ok(Lines)
}

/// Waits until all lines so far are written, at most a second.
pub(crate) fn flush() {
    let Some(shared) = SHARED.get() else { return };
    let (done, written) = channel();
    if shared.requests.send(Request::Flush(done)).is_ok() {
        // Standard error is not read if there is no answer in time.
        let _ = written.recv_timeout(LAST_LINES);
    }
}

/// Returns the number of lines that were left out or lost since the start.
pub(crate) fn missing() -> u64 {
    let shared = SHARED.get();
    shared.map_or(0, |shared| shared.missing.load(Relaxed))
}

impl Shared {
    /// Adds a line to the buffer of this thread, and wakes the writing thread if necessary.
    fn take(&self, line: &[u8]) {
        match OWN.try_with(|own| own.get_or_init(|| self.register()).take(line)) {
            Ok(true) => {}
            // The loss must be seen while the writing thread waits for a reader.
            Ok(false) => drop(self.missing.fetch_add(1, Relaxed)),
            Err(_) => {
                // The buffer of a thread that ends is gone already.
                let _ = io::stderr().write_all(line);
                return;
            }
        }
        if !self.awake.load(Relaxed) && !self.awake.swap(true, Relaxed) {
            let _ = self.requests.send(Request::Lines);
        }
    }

    /// Writes the lines of all threads, with `bytes` as a scratch buffer. Returns whether lines are
    /// missing. Then a line that says so waits to be written.
    fn write(&self, output: &mut Output<impl Write>, bytes: &mut Vec<u8>) -> bool {
        let (mut left_out, mut lost) = (0, None);
        // The list is not locked during slow writes, because a core's first line needs the lock.
        let buffers = lock(&self.buffers).clone();
        for buffer in &buffers {
            left_out += buffer.swap(bytes);
            let written = output.write(bytes);
            self.missing.fetch_add(written.lost, Relaxed);
            lost = written.ended.or(lost);
            bytes.clear();
            bytes.shrink_to(KEPT);
        }
        drop(buffers);
        lock(&self.buffers).retain(Buffer::is_needed);
        if left_out > 0 {
            warn!(
                left_out,
                "standard error is not read as fast as lines come: some were left out"
            );
        }
        if let Some(Lost { lines, error }) = &lost {
            warn!(lines, %error, "lines could not be written to standard error: they are lost");
        }
        left_out > 0 || lost.is_some()
    }

    /// Makes the buffer of this thread.
    fn register(&self) -> Arc<Buffer> {
        let buffer = Arc::<Buffer>::default();
        lock(&self.buffers).push(Arc::clone(&buffer));
        buffer
    }
}

impl Buffer {
    /// Adds a line. If the buffer is full, counts the line and returns false.
    fn take(&self, line: &[u8]) -> bool {
        let mut pending = lock(&self.0);
        let fits = pending.bytes.len() + line.len() <= MAX_BUFFERED;
        if fits {
            pending.bytes.extend_from_slice(line)
        } else {
            pending.left_out += 1
        }
        fits
    }

    /// Returns whether its thread still runs, or has lines that are not written.
    fn is_needed(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || !lock(&self.0).bytes.is_empty()
    }

    /// Swaps its bytes with `empty`. Returns how many lines were left out.
    fn swap(&self, empty: &mut Vec<u8>) -> u64 {
        let mut pending = lock(&self.0);
        mem::swap(&mut pending.bytes, empty);
        mem::take(&mut pending.left_out)
    }
}

/// Serves the requests of all threads until the process ends.
fn write_all(requests: &Receiver<Request>) {
    let mut output = Output::new(io::stderr());
    let mut bytes = Vec::new();
    while let (Ok(mut request), Some(shared)) = (requests.recv(), SHARED.get()) {
        if let Request::Lines = request {
            request = requests.recv_timeout(TICK).unwrap_or(request);
        }
        // The flag is cleared before the buffers are read, so that a later line sends its own request.
        shared.awake.store(false, Relaxed);
        if shared.write(&mut output, &mut bytes) {
            // The line about the loss is written too, because the process may end now.
            shared.write(&mut output, &mut bytes);
        }
        if let Request::Flush(done) = request {
            let _ = done.send(());
        }
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

impl Write for Lines {
    /// Takes one whole line, because the formatter writes whole lines.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(shared) = SHARED.get() {
            shared.take(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_buffer_leaves_whole_lines_out_and_counts_them() {
        let buffer = Buffer::default();
        let line = [b'a'; 1000];
        for _ in 0..2000 {
            buffer.take(&line);
        }
        let mut bytes = Vec::new();
        assert_eq!(buffer.swap(&mut bytes), 2000 - 1048);
        assert_eq!(bytes.len(), 1048 * line.len());

        bytes.clear();
        buffer.take(&line);
        assert_eq!(buffer.swap(&mut bytes), 0, "counted once");
        assert_eq!(bytes, line);
    }
}
