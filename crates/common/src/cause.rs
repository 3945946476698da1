//! Chains of causes, which often tell more than the error at their top.

use std::{error::Error, iter::successors};

/// Returns the first error of type `E` in the chain of causes, which starts with `error` itself.
pub fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    successors(Some(error), |error| source(*error)).find_map(|error| error.downcast_ref())
}

/// Returns the texts of all causes in one line, without those that the text before them contains.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = successors(Some(error), |error| source(*error))
        .map(ToString::to_string)
        .collect();
    texts.dedup_by(|later, earlier| earlier.contains(later.as_str()));
    texts.join(": ")
}

/// Returns the source of an error as [`Error::source`] does, and also that of the two wrappers that do
/// not report theirs.
fn source<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    if let Some(error) = error.downcast_ref::<std::io::Error>() {
        return error.get_ref().map(|inner| inner as _);
    }
    match error.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::Other(other)) => Some(other.0.as_ref()),
        _ => error.source(),
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use super::*;
    use crate::tls::PeerError;

    fn wrapped() -> io::Error {
        let inner = rustls::Error::Other(rustls::OtherError(Arc::new(PeerError::MissingSpiffeId)));
        io::Error::other(inner)
    }

    #[test]
    fn a_cause_below_io_and_rustls_errors_is_found() {
        assert!(matches!(find(&wrapped()), Some(PeerError::MissingSpiffeId)));
        assert!(find::<io::Error>(&PeerError::MissingSpiffeId).is_none());
    }

    #[test]
    fn a_repeated_cause_is_printed_once() {
        assert_eq!(
            chain(&wrapped()),
            "other error: its certificate has no SPIFFE ID"
        );
    }
}
