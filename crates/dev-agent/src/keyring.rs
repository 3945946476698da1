//! The order in which keys come and go, the same for CAs and JWT keys.
//!
//! A new key is published before it is used, and an old one stays published
//! until nothing that it signed is valid any more (Trust Domain and Bundle §3).

use std::sync::Arc;
use std::time::SystemTime;

use crate::state::status::KeyUse;

/// The keys of one kind: at most one prepared, one in use, any number retired.
pub(crate) struct Keyring<K> {
    current: Arc<K>,
    next: Option<Arc<K>>,
    retired: Vec<Retired<K>>,
}

struct Retired<K> {
    key: Arc<K>,
    /// When the last thing that it signed expires; `None`: kept until asked.
    until: Option<SystemTime>,
}

impl<K> Keyring<K> {
    pub(crate) fn new(key: K) -> Self {
        Self {
            current: Arc::new(key),
            next: None,
            retired: Vec::new(),
        }
    }

    /// The key that signs.
    pub(crate) fn current(&self) -> &Arc<K> {
        &self.current
    }

    /// Every key that belongs in the bundle, the one that signs first.
    pub(crate) fn published(&self) -> impl Iterator<Item = &K> {
        self.uses().map(|(key, _)| key)
    }

    /// The same, and what each is for.
    pub(crate) fn uses(&self) -> impl Iterator<Item = (&K, KeyUse)> {
        let next = self.next.as_deref().map(|key| (key, KeyUse::Next));
        let retired = self
            .retired
            .iter()
            .map(|retired| (&*retired.key, KeyUse::Old));
        std::iter::once((&*self.current, KeyUse::Current))
            .chain(next)
            .chain(retired)
    }

    /// Publishes a key that is not used yet, if none is waiting already: that one
    /// may be known to workloads by now.
    pub(crate) fn prepare<E>(&mut self, make: impl FnOnce() -> Result<K, E>) -> Result<Arc<K>, E> {
        let next = match self.next.take() {
            Some(next) => next,
            None => Arc::new(make()?),
        };
        Ok(self.next.insert(next).clone())
    }

    /// Signs with `prepared` from now on, and says whether that is so. The old key
    /// stays published until `until`, or until [`Self::drop_retired`]. Another key than
    /// the one that is waiting is not used: whoever asks has not seen how long that one
    /// has been published.
    pub(crate) fn activate(&mut self, prepared: &Arc<K>, until: Option<SystemTime>) -> bool {
        if let Some(next) = self.next.take_if(|next| Arc::ptr_eq(next, prepared)) {
            let key = std::mem::replace(&mut self.current, next);
            self.retired.push(Retired { key, until });
        }
        Arc::ptr_eq(&self.current, prepared)
    }

    /// Forgets every key that is not in use any more; says how many.
    pub(crate) fn drop_retired(&mut self) -> usize {
        self.retired.drain(..).count()
    }

    /// Forgets the retired keys whose time has come; says whether there were any.
    pub(crate) fn drop_expired(&mut self, now: SystemTime) -> bool {
        let before = self.retired.len();
        self.retired
            .retain(|retired| retired.until.is_none_or(|until| now < until));
        self.retired.len() != before
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn published(ring: &Keyring<&'static str>) -> Vec<&'static str> {
        ring.published().copied().collect()
    }

    #[test]
    fn w142_a_key_is_published_before_it_signs_and_after() {
        let now = SystemTime::UNIX_EPOCH;
        let later = now + Duration::from_secs(60);
        let mut ring = Keyring::new("a");

        let b = ring.prepare(|| Ok::<_, ()>("b")).unwrap();
        ring.prepare(|| Err("not called")).unwrap();
        assert_eq!((**ring.current(), published(&ring)), ("a", vec!["a", "b"]));
        assert!(ring.activate(&b, Some(later)));
        assert_eq!((**ring.current(), published(&ring)), ("b", vec!["b", "a"]));

        assert!(!ring.drop_expired(now));
        assert_eq!(published(&ring), ["b", "a"]);
        assert!(ring.drop_expired(later));
        assert_eq!(published(&ring), ["b"]);
    }

    #[test]
    fn a_key_retired_by_hand_waits_for_a_hand() {
        let mut ring = Keyring::new("a");
        let b = ring.prepare(|| Ok::<_, ()>("b")).unwrap();
        assert!(ring.activate(&b, None));
        assert!(!ring.drop_expired(SystemTime::now()));
        assert_eq!(published(&ring), ["b", "a"]);
        assert_eq!(ring.drop_retired(), 1);
        assert_eq!(published(&ring), ["b"]);
    }

    #[test]
    fn two_rotations_at_once_use_no_key_before_its_time() {
        let mut ring = Keyring::new("a");
        let (one, two) = [(), ()]
            .map(|()| ring.prepare(|| Ok::<_, ()>("b")).unwrap())
            .into();
        assert!(ring.activate(&one, None));
        let c = ring.prepare(|| Ok::<_, ()>("c")).unwrap();
        assert!(ring.activate(&two, None), "its key is in use");
        assert_eq!(
            (**ring.current(), published(&ring)),
            ("b", vec!["b", "c", "a"])
        );
        assert!(ring.activate(&c, None));
        assert!(!ring.activate(&one, None), "that one is old now");
        assert_eq!(**ring.current(), "c");
    }
}
