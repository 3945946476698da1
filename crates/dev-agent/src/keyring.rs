//! The order in which keys are published, used and dropped. It is the same for CAs and JWT keys.
//!
//! A new key is published before it is used. An old key stays published until nothing that it
//! signed is valid any more (Trust Domain and Bundle §3).

use std::{sync::Arc, time::SystemTime};

use crate::status::KeyUse;

/// The keys of one kind: one in use, at most one prepared, and any number of retired ones.
pub(crate) struct Keyring<K> {
    current: Arc<K>,
    next: Option<Arc<K>>,
    retired: Vec<Retired<K>>,
}

struct Retired<K> {
    key: Arc<K>,
    /// The time when everything that it signed has expired. `None`: the key is kept until
    /// [`Keyring::drop_retired`].
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

    /// Returns the key that signs.
    pub(crate) fn current(&self) -> &Arc<K> {
        &self.current
    }

    /// Returns every key that belongs in the bundle, the one that signs first.
    pub(crate) fn published(&self) -> impl Iterator<Item = &K> {
        self.uses().map(|(key, _)| key)
    }

    /// Returns every published key and its use.
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

    /// Publishes a key that is not used yet, and returns it. A key that is prepared already is
    /// kept, because workloads may know it by now.
    pub(crate) fn prepare<E>(&mut self, make: impl FnOnce() -> Result<K, E>) -> Result<Arc<K>, E> {
        let next = match self.next.take() {
            Some(next) => next,
            None => Arc::new(make()?),
        };
        Ok(Arc::clone(self.next.insert(next)))
    }

    /// Signs with `prepared` from now on. Returns whether it is the key in use.
    ///
    /// The old key stays published until `until`, or until [`Self::drop_retired`]. A prepared key
    /// that is not `prepared` stays unused, because it may not have been published for long enough.
    pub(crate) fn activate(&mut self, prepared: &Arc<K>, until: Option<SystemTime>) -> bool {
        if let Some(next) = self.next.take_if(|next| Arc::ptr_eq(next, prepared)) {
            let key = std::mem::replace(&mut self.current, next);
            self.retired.push(Retired { key, until });
        }
        Arc::ptr_eq(&self.current, prepared)
    }

    /// Drops every key that is not in use any more. Returns how many there were.
    pub(crate) fn drop_retired(&mut self) -> usize {
        self.retired.drain(..).count()
    }

    /// Drops the retired keys that are due at `now`. Returns whether there were any.
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
    fn a_key_is_published_before_it_signs_and_after_w142() {
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
    fn a_key_that_is_retired_without_a_time_stays_until_it_is_dropped() {
        let mut ring = Keyring::new("a");
        let b = ring.prepare(|| Ok::<_, ()>("b")).unwrap();
        assert!(ring.activate(&b, None));
        assert!(!ring.drop_expired(SystemTime::now()));
        assert_eq!(published(&ring), ["b", "a"]);
        assert_eq!(ring.drop_retired(), 1);
        assert_eq!(published(&ring), ["b"]);
    }

    #[test]
    fn concurrent_rotations_use_no_key_that_was_just_published() {
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
