//! The `Date` of answers (RFC 9110 §6.6.1).
//!
//! hyper's own stands still while the clock is behind where it has been.

use std::{
    cell::RefCell,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, header::DATE};

/// The time that a written date is used: it is right within a second, whatever the clock does.
const USED_FOR: Duration = Duration::from_millis(500);

thread_local! {
    static WRITTEN: RefCell<Option<(Instant, HeaderValue)>> = const { RefCell::new(None) };
}

/// Sets the date of an answer that has none.
pub(super) fn set(headers: &mut HeaderMap) {
    if let http::header::Entry::Vacant(entry) = headers.entry(DATE) {
        entry.insert(now());
    }
}

fn now() -> HeaderValue {
    WRITTEN.with_borrow_mut(|written| {
        let now = Instant::now();
        match written {
            Some((at, date)) if now - *at < USED_FOR => date.clone(),
            _ => {
                let text = httpdate::fmt_http_date(SystemTime::now());
                let date = HeaderValue::try_from(text).expect("a date is visible ASCII");
                *written = Some((now, date.clone()));
                date
            }
        }
    })
}
