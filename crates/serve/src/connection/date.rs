//! The `Date` of answers (RFC 9110 §6.6.1).
//!
//! hyper's own date stands still after the clock was set back, until the clock has caught up.

use std::{
    cell::RefCell,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, header::DATE};

/// The time for which a written date is used. It is then right within a second, even if the clock is
/// set.
const USED_FOR: Duration = Duration::from_millis(500);

thread_local! {
    static DATE_OF_CORE: RefCell<Date> = const { RefCell::new(Date { written: None }) };
}

/// The date as it was last written, and when.
#[derive(Debug, Default)]
struct Date {
    written: Option<(Instant, HeaderValue)>,
}

/// Sets the date of an answer at the moment `now`, if it has none.
pub(super) fn set(headers: &mut HeaderMap, now: Instant) {
    if let http::header::Entry::Vacant(entry) = headers.entry(DATE) {
        let date = DATE_OF_CORE.with_borrow_mut(|date| date.at(now, SystemTime::now));
        entry.insert(date);
    }
}

impl Date {
    /// Returns the date at the moment `now`. Reads the `clock` only if the date has to be written.
    fn at(&mut self, now: Instant, clock: impl FnOnce() -> SystemTime) -> HeaderValue {
        match &self.written {
            Some((at, date)) if now - *at < USED_FOR => date.clone(),
            _ => {
                let text = httpdate::fmt_http_date(clock());
                let date = HeaderValue::try_from(text).expect("a date is visible ASCII");
                self.written = Some((now, date.clone()));
                date
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    /// A clock that a test sets, next to the time that passes.
    struct Clock {
        date: Date,
        start: Instant,
        passed: Duration,
        shown: SystemTime,
    }

    impl Clock {
        fn new(shown: SystemTime) -> Self {
            Self {
                date: Date::default(),
                start: Instant::now(),
                passed: Duration::ZERO,
                shown,
            }
        }

        fn advance(&mut self, time: Duration) {
            self.passed += time;
            self.shown += time;
        }

        /// Returns how far the date of an answer is from the clock.
        fn error(&mut self) -> Duration {
            let shown = self.shown;
            let date = self.date.at(self.start + self.passed, || shown);
            let date = httpdate::parse_http_date(date.to_str().unwrap()).unwrap();
            let ahead = date.duration_since(shown);
            ahead.unwrap_or_else(|behind| behind.duration())
        }

        /// Asserts that each answer's date is right within a second from `settled` on, for an hour.
        /// The date has whole seconds only, so a right one is up to a second behind the clock.
        fn is_right_after(&mut self, settled: Duration, what: &str) {
            self.advance(settled);
            let mut passed = settled;
            while passed < HOUR {
                let error = self.error();
                assert!(
                    error < SECOND + USED_FOR,
                    "{what}: {error:?} after {passed:?}"
                );
                // Answers come at any time within a second.
                let step = Duration::from_millis(170);
                self.advance(step);
                passed += step;
            }
        }
    }

    #[test]
    fn date_is_right_within_a_second_after_the_clock_went_2_h_forward_and_back() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_784_894_400);
        for (shift, what) in [
            (2 * HOUR, "2 h"),
            (SECOND * 3, "3 s"),
            (48 * HOUR, "2 days"),
        ] {
            let mut clock = Clock::new(start);
            clock.is_right_after(Duration::ZERO, "from the start");
            clock.shown += shift;
            clock.is_right_after(USED_FOR, &format!("{what} forward"));
            clock.shown -= shift;
            clock.is_right_after(USED_FOR, &format!("{what} back again"));
            clock.shown -= shift;
            clock.is_right_after(USED_FOR, &format!("{what} back"));
        }
    }

    #[test]
    fn date_that_an_answer_has_is_kept_and_a_missing_one_is_set() {
        let mut headers = HeaderMap::new();
        set(&mut headers, Instant::now());
        let date = httpdate::parse_http_date(headers[DATE].to_str().unwrap()).unwrap();
        let age = SystemTime::now().duration_since(date).unwrap();
        assert!(age < 2 * SECOND, "{age:?}");
        let other = HeaderValue::from_static("Sun, 06 Nov 1994 08:49:37 GMT");
        headers.insert(DATE, other.clone());
        set(&mut headers, Instant::now());
        assert_eq!(headers[DATE], other);
    }
}
