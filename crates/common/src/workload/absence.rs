//! The absence of this process's identity from a message that has others.
//!
//! An identity that is withdrawn is missing in the next message (Workload API §4.4). It may also be missing for
//! a moment. When an X.509 authority is tainted, SPIRE's agent removes the X.509-SVIDs, gets new ones, and
//! sends a message after each of them. The first of these messages has one X.509-SVID out of all.

use std::time::{Duration, SystemTime};

use workload_api::pb;
use zeroize::Zeroize;

/// The time for which an identity stays in use after the first message that lacks it. SPIRE's agent gets
/// missing X.509-SVIDs within 5 s.
const TOLERATED: Duration = Duration::from_secs(10);

/// A message whose private keys are wiped when it is dropped.
pub(super) struct Wiped(pub(super) pb::X509svidResponse);

/// The last message that lacks the identity. It is applied when [`TOLERATED`] has passed.
pub(super) struct Absence {
    pub(super) message: Wiped,
    since: SystemTime,
}

impl Absence {
    /// Returns the absence that `message` begins or continues at `now`, unless it has lasted too long.
    pub(super) fn after(
        before: Option<Self>,
        message: Wiped,
        now: SystemTime,
    ) -> Result<Self, Wiped> {
        let since = before.map_or(now, |before| before.since);
        let absence = Self { message, since };
        if now < absence.end() {
            Ok(absence)
        } else {
            Err(absence.message)
        }
    }

    /// Returns the time from which the message is applied.
    pub(super) fn end(&self) -> SystemTime {
        self.since + TOLERATED
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        for svid in &mut self.0.svids {
            svid.x509_svid_key.zeroize();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn absence_lasts_ten_seconds_from_its_first_message_on_w185() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let message = || Wiped(pb::X509svidResponse::default());
        let mut absence = None;
        for seconds in [100, 105, 109] {
            let next = Absence::after(absence, message(), at(seconds)).ok();
            assert_eq!(next.as_ref().map(Absence::end), Some(at(110)));
            absence = next;
        }
        assert!(Absence::after(absence, message(), at(110)).is_err());
        let later = Absence::after(None, message(), at(200)).ok();
        assert_eq!(later.as_ref().map(Absence::end), Some(at(210)));
    }
}
