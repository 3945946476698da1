//! Where log lines end up: what it does not take is lost, counted, and told once it takes lines again.

use std::{
    io::{self, ErrorKind, Write},
    mem, thread,
    time::Duration,
};

/// How long a pipe that is full and does not block is left alone.
const PAUSE: Duration = Duration::from_millis(10);

/// Writes lines, as far as that works.
#[derive(Debug)]
pub(super) struct Output<W> {
    to: W,
    lost: u64,
    /// Of the first line that was lost.
    error: Option<io::Error>,
    /// The last line that was written is not whole.
    cut: bool,
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

    /// Writes whole lines; if that works again, what was lost meanwhile.
    pub(super) fn write(&mut self, lines: &[u8]) -> Option<Lost> {
        if lines.is_empty() {
            return None;
        }
        // What follows a line that was cut must not be read as its rest.
        let mut end: &[u8] = if self.cut { b"\n" } else { b"" };
        let mut left = lines;
        let written = self.write_all(&mut end);
        match written.and_then(|()| self.write_all(&mut left)) {
            Ok(()) => self.error.take().map(|error| Lost {
                lines: mem::take(&mut self.lost),
                error,
            }),
            Err(error) => {
                self.lost += left.iter().filter(|&&byte| byte == b'\n').count() as u64;
                self.error.get_or_insert(error);
                None
            }
        }
    }

    /// Takes off what was written.
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

    /// Takes so many bytes of each write, none when it is full.
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
    fn what_does_not_fit_is_counted_and_told_when_there_is_room_again() {
        let mut disk = Disk {
            bytes: Vec::new(),
            free: 10,
        };
        let mut output = Output::new(&mut disk);
        assert!(output.write(b"one\n").is_none());
        assert!(output.write(b"two\nthree\n").is_none(), "only lost");
        assert!(output.write(b"four\nfive\n").is_none());
        output.to.free = 1;
        assert!(
            output.write(b"six\n").is_none(),
            "room for the line end alone"
        );
        output.to.free = 100;
        assert!(output.write(b"").is_none(), "nothing was tried");
        let lost = output.write(b"seven\n").unwrap();
        assert_eq!((lost.lines, lost.error.kind()), (4, ErrorKind::StorageFull));
        assert!(output.write(b"eight\n").is_none(), "told once");
        let text = String::from_utf8(disk.bytes).unwrap();
        assert_eq!(text, "one\ntwo\nth\nseven\neight\n");
    }

    #[test]
    fn a_line_that_was_cut_is_ended_before_the_next() {
        let mut disk = Disk {
            bytes: Vec::new(),
            free: 2,
        };
        let mut output = Output::new(&mut disk);
        assert!(output.write(b"one\n").is_none());
        output.to.free = 100;
        assert_eq!(output.write(b"two\n").unwrap().lines, 1);
        assert_eq!(disk.bytes, b"on\ntwo\n");
    }
}
