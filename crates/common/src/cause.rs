//! Chains of errors: what a library's error is about is often three sources down.

use std::{error::Error, iter::successors};

/// The first error of type `E` in the chain of causes.
pub fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    successors(Some(error), |error| source(*error)).find_map(|error| error.downcast_ref())
}

/// All causes in one line, without those that only repeat the one before.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut texts: Vec<String> = successors(Some(error), |error| source(*error))
        .map(ToString::to_string)
        .collect();
    texts.dedup_by(|later, earlier| earlier.contains(later.as_str()));
    texts.join(": ")
}

/// As [`Error::source`], but looks into the two wrappers that hide theirs.
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

    fn wrapped() -> io::Error {
        let inner = rustls::Error::Other(rustls::OtherError(Arc::new(
            spiffe_rustls::Error::MissingSpiffeId,
        )));
        io::Error::other(inner)
    }

    #[test]
    fn finds_what_io_and_rustls_hide() {
        assert!(matches!(
            find(&wrapped()),
            Some(spiffe_rustls::Error::MissingSpiffeId)
        ));
        assert!(find::<io::Error>(&spiffe_rustls::Error::MissingSpiffeId).is_none());
    }

    #[test]
    fn a_cause_is_not_said_twice() {
        assert_eq!(
            chain(&wrapped()),
            "other error: peer is missing SPIFFE ID URI SAN"
        );
    }
}
