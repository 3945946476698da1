//! Log lines on their way to standard error. No request waits for it: each thread collects its lines
//! in a buffer of its own, and one thread for all of them writes what came in a short while.

use std::{
    cell::OnceCell,
    io::{self, Write},
    mem,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use common::lock::lock;
use tracing::warn;
use tracing_subscriber::fmt::MakeWriter;

use super::output::{Lost, Output};

/// How long lines are collected before they are written.
const TICK: Duration = Duration::from_millis(10);

/// What one thread's buffer may hold, in bytes: some 5000 lines. When whoever reads standard error
/// falls that far behind, further lines are left out, and counted.
const MAX_BUFFERED: usize = 1024 * 1024;

/// What an emptied buffer keeps of its memory.
const KEPT: usize = 64 * 1024;

/// How long a process that ends waits for its last lines to be read.
const LAST_LINES: Duration = Duration::from_secs(1);

/// The buffers of all threads; made by [`start`].
static SHARED: OnceLock<Shared> = OnceLock::new();

thread_local! {
    static OWN: OnceCell<Arc<Buffer>> = const { OnceCell::new() };
}

struct Shared {
    buffers: Mutex<Vec<Arc<Buffer>>>,
    /// The writing thread knows that there is something to write.
    awake: AtomicBool,
    requests: Sender<Request>,
}

/// What the writing thread is asked for.
enum Request {
    /// There are lines, for the end of the tick.
    Lines,
    /// All that there is, now; and word of it.
    Flush(Sender<()>),
}

#[derive(Default)]
struct Buffer(Mutex<Pending>);

#[derive(Default)]
struct Pending {
    bytes: Vec<u8>,
    left_out: u64,
}

/// Makes lines of what is logged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lines;

/// Starts the thread that writes.
pub(super) fn start() -> io::Result<Lines> {
    let (sender, requests) = channel();
    SHARED.get_or_init(|| Shared {
        buffers: Mutex::default(),
        awake: AtomicBool::new(false),
        requests: sender,
    });
    thread::Builder::new()
        .name("log".into())
        .spawn(move || write_all(&requests))?;
    Ok(Lines)
}

/// Waits until all lines so far are written, for a second at most.
pub(crate) fn flush() {
    let Some(shared) = SHARED.get() else { return };
    let (done, written) = channel();
    if shared.requests.send(Request::Flush(done)).is_ok() {
        // Without an answer nobody reads them.
        let _ = written.recv_timeout(LAST_LINES);
    }
}

impl Shared {
    fn take(&self, line: &[u8]) {
        let taken = OWN.try_with(|own| own.get_or_init(|| self.register()).take(line));
        if taken.is_err() {
            // This thread is about to end.
            let _ = io::stderr().write_all(line);
            return;
        }
        if !self.awake.load(Relaxed) && !self.awake.swap(true, Relaxed) {
            let _ = self.requests.send(Request::Lines);
        }
    }

    /// Writes what all threads have collected, by way of `bytes`; whether lines are missing, and the
    /// log says so now.
    fn write(&self, output: &mut Output<impl Write>, bytes: &mut Vec<u8>) -> bool {
        let (mut left_out, mut lost) = (0, None);
        // Not locked while somebody may be slow to read: a core's first line would wait for it.
        let buffers = lock(&self.buffers).clone();
        for buffer in &buffers {
            left_out += buffer.swap(bytes);
            lost = output.write(bytes).or(lost);
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

    fn register(&self) -> Arc<Buffer> {
        let buffer = Arc::<Buffer>::default();
        lock(&self.buffers).push(Arc::clone(&buffer));
        buffer
    }
}

impl Buffer {
    fn take(&self, line: &[u8]) {
        let mut pending = lock(&self.0);
        match pending.bytes.len() + line.len() <= MAX_BUFFERED {
            true => pending.bytes.extend_from_slice(line),
            false => pending.left_out += 1,
        }
    }

    /// Its thread still runs, or has left something behind.
    fn is_needed(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1 || !lock(&self.0).bytes.is_empty()
    }

    /// Swaps its bytes for `empty`; how many lines were left out.
    fn swap(&self, empty: &mut Vec<u8>) -> u64 {
        let mut pending = lock(&self.0);
        mem::swap(&mut pending.bytes, empty);
        mem::take(&mut pending.left_out)
    }
}

fn write_all(requests: &Receiver<Request>) {
    let mut output = Output::new(io::stderr());
    let mut bytes = Vec::new();
    while let (Ok(mut request), Some(shared)) = (requests.recv(), SHARED.get()) {
        if let Request::Lines = request {
            request = requests.recv_timeout(TICK).unwrap_or(request);
        }
        // Before the buffers are locked: a line that comes too late for this is a request of its own.
        shared.awake.store(false, Relaxed);
        if shared.write(&mut output, &mut bytes) {
            // What was said of it is written too, in case it is the end.
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
    /// Takes one whole line: that is how the formatter gives them.
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
    fn a_buffer_takes_whole_lines_up_to_its_bound_and_counts_the_rest() {
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
        assert_eq!(buffer.swap(&mut bytes), 0, "told once");
        assert_eq!(bytes, line);
    }
}
