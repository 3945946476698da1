//! Cells of numbers, of which each thread has its own.

use std::{
    cell::Cell,
    fmt,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

/// The rows of cells. A process with more threads has rows that several threads share, which costs time and
/// loses nothing.
const ROWS: usize = 16;

/// The numbers in two cache lines, because processors fetch lines in pairs.
const NUMBERS: usize = 16;

/// The threads that have a row.
static THREADS: AtomicUsize = AtomicUsize::new(0);

/// The row of a thread that has none yet.
const NONE: usize = usize::MAX;

thread_local! {
    static ROW: Cell<usize> = const { Cell::new(NONE) };
}

#[derive(Default)]
#[repr(align(128))]
struct Line([AtomicU64; NUMBERS]);

/// Numbers, each the sum of its cells in all rows.
pub struct Cells {
    lines: Box<[Line]>,
    /// The number of lines in a row.
    width: usize,
}

impl Cells {
    /// Returns this many numbers, which are zero.
    #[must_use]
    pub fn new(numbers: usize) -> Self {
        let width = numbers.div_ceil(NUMBERS);
        let lines = std::iter::repeat_with(Line::default).take(width * ROWS);
        Self {
            lines: lines.collect(),
            width,
        }
    }

    /// Adds to the number at `index`, modulo 2^64.
    pub fn add(&self, index: usize, number: u64) {
        self.cell(row(), index).fetch_add(number, Relaxed);
    }

    /// Returns the number at `index`.
    #[must_use]
    pub fn read(&self, index: usize) -> u64 {
        let rows = (0..ROWS).map(|row| self.cell(row, index).load(Relaxed));
        rows.fold(0, u64::wrapping_add)
    }

    fn cell(&self, row: usize, index: usize) -> &AtomicU64 {
        let Line(numbers) = &self.lines[row * self.width + index / NUMBERS];
        &numbers[index % NUMBERS]
    }
}

impl fmt::Debug for Cells {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers = (0..self.width * NUMBERS).map(|index| self.read(index));
        f.debug_list().entries(numbers).finish()
    }
}

/// Returns the row of this thread.
fn row() -> usize {
    ROW.with(|row| match row.get() {
        NONE => {
            let own = THREADS.fetch_add(1, Relaxed) % ROWS;
            row.set(own);
            own
        }
        own => own,
    })
}
