//! The deadlines of a connection, which follow from its activity.
//!
//! hyper has a deadline for headers too. It also runs while a kept-alive connection is idle, so that it
//! cannot be shorter than the idle timeout. Here the two are separate.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Activity, NEVER};
use crate::limits::Limits;

/// The deadline that a connection has exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Overdue {
    #[error("idle")]
    Idle,
    #[error("request header not complete in time")]
    Header,
    #[error("response not read in time")]
    Reader,
}

/// The reason why a connection takes no more requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connection) enum Closing {
    /// It has exceeded a deadline.
    Overdue(Overdue),
    /// It has reached its age, an identity has ended, or the process stops. Its requests in flight may finish.
    Drain,
}

impl Activity {
    /// Waits until the connection exceeds a deadline, and returns that deadline.
    pub(in crate::connection) async fn overdue(&self, limits: &Limits) -> Overdue {
        loop {
            let (deadline, what) = self.deadline(limits);
            let now = Instant::now();
            if now >= deadline {
                return what;
            }
            // Checks again after the shorter timeouts, so that no deadline that starts meanwhile is missed.
            let shorter = limits.header_timeout.min(limits.body_timeout);
            sleep_until(deadline.min(now + shorter)).await;
        }
    }

    /// Waits until the connection exceeds a deadline or has reached its age.
    pub(in crate::connection) async fn overdue_or_old(&self, limits: &Limits) -> Closing {
        let overdue = async { Closing::Overdue(self.overdue(limits).await) };
        match self.old {
            Some(old) => timeout_at(old, overdue).await.unwrap_or(Closing::Drain),
            None => overdue.await,
        }
    }

    /// Waits until all answers have left and no request was in flight for `time`, counted from now.
    pub(in crate::connection) async fn without_request_for(&self, time: Duration) {
        let from = self.now();
        loop {
            let deadline = if self.has_request() || self.is_unread() {
                Instant::now() + time
            } else {
                self.at(self.idle_since.load(Relaxed).max(from)) + time
            };
            if Instant::now() >= deadline {
                return;
            }
            sleep_until(deadline).await;
        }
    }

    fn deadline(&self, limits: &Limits) -> (Instant, Overdue) {
        match self.unread_since.load(Relaxed) {
            NEVER => {}
            since => return (self.at(since) + limits.body_timeout, Overdue::Reader),
        }
        if self.has_request() {
            return (Instant::now() + limits.body_timeout, Overdue::Reader);
        }
        match self.header_since.load(Relaxed) {
            NEVER => {
                let idle = self.at(self.idle_since.load(Relaxed));
                (idle + limits.idle_timeout, Overdue::Idle)
            }
            since => (self.at(since) + limits.header_timeout, Overdue::Header),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::sleep;

    use super::*;
    use crate::in_flight::InFlightLimit;

    fn activity() -> Arc<Activity> {
        Activity::new(
            InFlightLimit::new(9).of("192.0.2.1".parse().unwrap()),
            None,
            Arc::default(),
        )
    }

    fn limits() -> Limits {
        Limits {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(30),
            ..Limits::new(1)
        }
    }

    async fn overdue_after(activity: &Activity) -> (Overdue, u64) {
        let start = Instant::now();
        let what = activity.overdue(&limits()).await;
        (what, start.elapsed().as_secs())
    }

    fn one_request(activity: &Activity) {
        activity.begins();
        activity.ends(Instant::now());
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_header_is_due_from_the_start() {
        assert_eq!(overdue_after(&activity()).await, (Overdue::Header, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_is_kept_for_the_idle_timeout() {
        let activity = activity();
        one_request(&activity);
        assert_eq!(overdue_after(&activity).await, (Overdue::Idle, 75));
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_begins_late_has_its_own_deadline() {
        let activity = activity();
        one_request(&activity);
        let watched = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { overdue_after(&activity).await }
        });
        sleep(Duration::from_secs(42)).await;
        activity.received();
        assert_eq!(watched.await.unwrap(), (Overdue::Header, 52));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_flight_has_no_deadline() {
        let activity = activity();
        activity.begins();
        let limits = limits();
        let overdue = activity.overdue(&limits);
        assert!(
            tokio::time::timeout(Duration::from_secs(3600), overdue)
                .await
                .is_err()
        );
        activity.ends(Instant::now());
        assert_eq!(overdue_after(&activity).await.0, Overdue::Idle);
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_old_within_a_tenth_before_its_age_t005() {
        for in_flight in [true, false] {
            let limit = InFlightLimit::new(9).of("192.0.2.1".parse().unwrap());
            let activity = Activity::new(limit, Some(Duration::from_secs(60)), Arc::default());
            one_request(&activity);
            if in_flight {
                activity.begins();
            }
            let start = Instant::now();
            assert_eq!(activity.overdue_or_old(&limits()).await, Closing::Drain);
            assert!((54..=60).contains(&start.elapsed().as_secs()));
        }
        let limit = InFlightLimit::new(9).of("192.0.2.1".parse().unwrap());
        let activity = Activity::new(limit, Some(Duration::from_secs(100)), Arc::default());
        one_request(&activity);
        let closing = activity.overdue_or_old(&limits()).await;
        assert_eq!(
            closing,
            Closing::Overdue(Overdue::Idle),
            "a deadline before the age holds"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_waits_for_a_request_and_its_reader_and_then_for_the_time() {
        let activity = activity();
        let start = Instant::now();
        activity.begins();
        let stopping = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move {
                activity.without_request_for(Duration::from_secs(1)).await;
                start.elapsed().as_millis()
            }
        });
        sleep(Duration::from_millis(5500)).await;
        activity.waits_for_reader();
        activity.ends(Instant::now());
        sleep(Duration::from_secs(7)).await;
        assert!(!stopping.is_finished(), "the answer has not left");
        activity.was_read();
        assert!((12_500..14_000).contains(&stopping.await.unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_after_a_long_request_has_its_own_deadline() {
        let activity = activity();
        activity.begins();
        let watched = tokio::spawn({
            let activity = Arc::clone(&activity);
            async move { overdue_after(&activity).await }
        });
        sleep(Duration::from_secs(42)).await;
        activity.ends(Instant::now());
        activity.received();
        assert_eq!(watched.await.unwrap(), (Overdue::Header, 52));
    }

    #[tokio::test(start_paused = true)]
    async fn output_waits_for_its_reader_until_the_deadline_p140() {
        for has_request in [true, false] {
            let activity = activity();
            one_request(&activity);
            if has_request {
                activity.begins();
            }
            activity.waits_for_reader();
            assert_eq!(overdue_after(&activity).await, (Overdue::Reader, 30));
            sleep(Duration::from_secs(1)).await;
            activity.was_read();
            activity.waits_for_reader();
            assert_eq!(overdue_after(&activity).await, (Overdue::Reader, 30));
        }
    }
}
