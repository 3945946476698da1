//! The order in which keys come and go, the same for CAs and JWT keys.
//!
//! A new key is published before it is used, and an old one stays published
//! until nothing that it signed is valid any more (Trust Domain and Bundle §3).

use std::sync::Arc;
use std::time::SystemTime;

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
        std::iter::once(&*self.current)
            .chain(self.next.as_deref())
            .chain(self.retired.iter().map(|retired| &*retired.key))
    }

    /// Publishes a key that is not used yet, if none is waiting already: that one
    /// may be known to workloads by now.
    pub(crate) fn prepare<E>(&mut self, make: impl FnOnce() -> Result<K, E>) -> Result<(), E> {
        if self.next.is_none() {
            self.next = Some(Arc::new(make()?));
        }
        Ok(())
    }

    /// Signs with the prepared key from now on. The old one stays published
    /// until `until`, or until [`Self::drop_retired`]. Nothing prepared: no change.
    pub(crate) fn activate(&mut self, until: Option<SystemTime>) {
        if let Some(next) = self.next.take() {
            let key = std::mem::replace(&mut self.current, next);
            self.retired.push(Retired { key, until });
        }
    }

    /// Forgets every key that is not in use any more.
    pub(crate) fn drop_retired(&mut self) {
        self.retired.clear();
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
        ring.activate(None);
        assert_eq!(published(&ring), ["a"]);

        ring.prepare(|| Ok::<_, ()>("b")).unwrap();
        ring.prepare(|| Err("not called")).unwrap();
        assert_eq!((**ring.current(), published(&ring)), ("a", vec!["a", "b"]));
        ring.activate(Some(later));
        assert_eq!((**ring.current(), published(&ring)), ("b", vec!["b", "a"]));

        assert!(!ring.drop_expired(now));
        assert_eq!(published(&ring), ["b", "a"]);
        assert!(ring.drop_expired(later));
        assert_eq!(published(&ring), ["b"]);
    }

    #[test]
    fn a_key_retired_by_hand_waits_for_a_hand() {
        let mut ring = Keyring::new("a");
        ring.prepare(|| Ok::<_, ()>("b")).unwrap();
        ring.activate(None);
        assert!(!ring.drop_expired(SystemTime::now()));
        assert_eq!(published(&ring), ["b", "a"]);
        ring.drop_retired();
        assert_eq!(published(&ring), ["b"]);
    }
}
