//! The output of log lines. Lines that it does not accept are lost and counted, and the loss is
//! reported when the output accepts lines again.
//!
//! tracing-appender (0.2) discards a line whose write fails without any report, and does not end a
//! line that was cut.

use std::{
    io::{self, ErrorKind, Write},
    mem, thread,
    time::Duration,
};

/// The wait before the next write to a full pipe that does not block.
const PAUSE: Duration = Duration::from_millis(10);

/// Writes lines, and counts those that can't be written.
#[derive(Debug)]
pub(super) struct Output<W> {
    to: W,
    lost: u64,
    /// The error of the first line that was lost.
    error: Option<io::Error>,
    /// True if the last line that was written is not whole.
    cut: bool,
}

/// The result of a write.
#[derive(Debug)]
pub(super) struct Written {
    /// The number of lines of this write that are lost.
    pub(super) lost: u64,
    /// The loss that ended with this write.
    pub(super) ended: Option<Lost>,
}

/// Lines that could not be written.
#[derive(Debug)]
pub(super) struct Lost {
    pub(super) lines: u64,
    pub(super) error: io::Error,
}

impl<W: Write> Output<W> {
    pub(super) fn new(to: W) -> Self {
        Self {
            to,
            lost: 0,
            error: None,
            cut: false,
        }
    }

    /// Writes whole lines. The result has the whole loss when a write succeeds again.
    pub(super) fn write(&mut self, lines: &[u8]) -> Written {
        if lines.is_empty() {
            return Written {
                lost: 0,
                ended: None,
            };
        }
        // A line that was cut is ended first, so that the next line is not read as its rest.
        let mut end: &[u8] = if self.cut { b"\n" } else { b"" };
        let mut left = lines;
        let written = self.write_all(&mut end);
        match written.and_then(|()| self.write_all(&mut left)) {
            Ok(()) => Written {
                lost: 0,
                ended: self.error.take().map(|error| Lost {
                    lines: mem::take(&mut self.lost),
                    error,
                }),
            },
            Err(error) => {
                let lost = left.iter().filter(|&&byte| byte == b'\n').count() as u64;
                self.lost += lost;
                self.error.get_or_insert(error);
                Written { lost, ended: None }
            }
        }
    }

    /// Writes the bytes, and removes from `left` what was written.
    fn write_all(&mut self, left: &mut &[u8]) -> io::Result<()> {
        while !left.is_empty() {
            match self.to.write(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => {
                    self.cut = left[n - 1] != b'\n';
                    *left = &left[n..];
                }
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => {}
                    ErrorKind::WouldBlock => thread::sleep(PAUSE),
                    _ => return Err(error),
                },
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk that accepts bytes until it is full.
    struct Disk {
        bytes: Vec<u8>,
        free: usize,
    }

    impl Write for &mut Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let n = bytes.len().min(self.free);
            if n == 0 {
                return Err(ErrorKind::StorageFull.into());
            }
            self.free -= n;
            self.bytes.extend(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn lines_that_do_not_fit_are_counted_at_once_and_reported_when_there_is_room() {
        let mut disk = Disk {
            bytes: Vec::new(),
            free: 10,
        };
        let mut output = Output::new(&mut disk);
        for (free, lines, lost) in [
            (10, "one\n", 0),
            (6, "two\nthree\n", 1),
            (0, "four\nfive\n", 2),
            // There is room for the line end only.
            (1, "six\n", 1),
            (100, "", 0),
        ] {
            output.to.free = free;
            let written = output.write(lines.as_bytes());
            assert_eq!(written.lost, lost, "{lines}");
            assert!(written.ended.is_none(), "{lines}");
        }
        let lost = output.write(b"seven\n").ended.unwrap();
        assert_eq!((lost.lines, lost.error.kind()), (4, ErrorKind::StorageFull));
        assert!(output.write(b"eight\n").ended.is_none(), "reported once");
        let text = String::from_utf8(disk.bytes).unwrap();
        assert_eq!(text, "one\ntwo\nth\nseven\neight\n");
    }

    #[test]
    fn a_cut_line_is_ended_before_the_next() {
        let mut disk = Disk {
            bytes: Vec::new(),
            free: 2,
        };
        let mut output = Output::new(&mut disk);
        assert_eq!(output.write(b"one\n").lost, 1);
        output.to.free = 100;
        assert_eq!(output.write(b"two\n").ended.unwrap().lines, 1);
        assert_eq!(disk.bytes, b"on\ntwo\n");
    }
}
