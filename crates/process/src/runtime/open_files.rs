//! The limit of open files of a process, and the open files that its flags allow.

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tracing::warn;

/// The open files that a flag allows.
#[derive(Clone, Copy, Debug)]
pub struct OpenFiles {
    flag: &'static str,
    max: usize,
    others: usize,
}

/// The open files of a process that is idle.
const IDLE: usize = 100;

impl OpenFiles {
    /// Returns the open files of a `flag` whose value is `max`.
    #[must_use]
    pub fn of(flag: &'static str, max: usize) -> Self {
        Self {
            flag,
            max,
            others: 0,
        }
    }

    /// Adds related open files that the flag does not bound.
    #[must_use]
    pub(crate) fn with_others(self, others: usize) -> Self {
        Self { others, ..self }
    }

    fn count(&self) -> usize {
        self.max.saturating_add(self.others)
    }
}

/// Raises the soft limit of open files to the hard one. Warns when that is less than `wanted` and the
/// files of an idle process.
pub(crate) fn raise_limit(wanted: &[OpenFiles]) {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map(|()| hard));
    match raised {
        Ok(hard) => {
            if let Some(warning) = shortage(wanted, hard) {
                warn!("{warning}");
            }
        }
        Err(error) => warn!(%error, "cannot raise the limit of open files"),
    }
}

/// Returns the limit that the process gets when it raises its own.
///
/// # Errors
/// Fails with a warning when that is less than `wanted` and the files of an idle process.
pub(crate) fn check(wanted: &[OpenFiles]) -> Result<u64, String> {
    let limits = getrlimit(Resource::RLIMIT_NOFILE);
    let (_, hard) =
        limits.map_err(|error| format!("cannot read the limit of open files: {error}"))?;
    shortage(wanted, hard).map_or(Ok(hard), Err)
}

/// Returns a warning if a limit of `hard` open files is too low for `wanted`.
fn shortage(wanted: &[OpenFiles], hard: u64) -> Option<String> {
    let needed = wanted
        .iter()
        .fold(IDLE, |all, files| all.saturating_add(files.count()));
    if hard >= needed as u64 {
        return None;
    }
    let flags = wanted
        .iter()
        .map(|files| format!("{} {}", files.flag, files.max));
    let flags = flags.collect::<Vec<_>>().join(", ");
    Some(format!(
        "{flags} allow up to {needed} open files, but this process may have only {hard}: lower these flags, or raise the limit (ulimit -n, LimitNOFILE=)"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_the_flags_may_exceed_is_named_with_its_remedy() {
        let wanted = [
            OpenFiles::of("--max-connections", 10_000),
            OpenFiles::of("--max-upstream-connections", 4_000).with_others(640),
        ];
        assert_eq!(shortage(&wanted, 14_740), None);
        assert_eq!(
            shortage(&wanted, 14_739).unwrap(),
            "--max-connections 10000, --max-upstream-connections 4000 allow up to 14740 open files, \
             but this process may have only 14739: lower these flags, or raise the limit \
             (ulimit -n, LimitNOFILE=)"
        );
    }

    #[test]
    fn flags_without_a_bound_exceed_every_limit() {
        let wanted = [usize::MAX, 1].map(|max| OpenFiles::of("--max-connections", max));
        assert!(shortage(&wanted, u64::MAX - 1).is_some());
    }
}
