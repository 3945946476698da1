//! The wait for the next token, for a task that passes each one on.

use std::{sync::Arc, time::Duration};

use spiffe::JwtSvid;
use tokio::time::sleep;

use super::{
    TokenSource,
    state::{Shared, State},
};
use crate::workload::Error;

/// The longest time between two readings of the wall clock, which may be set, or continue while the
/// machine sleeps.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The change that [`TokenSource::next`] waits for.
#[derive(Clone, Debug)]
pub enum Next {
    /// Another token is the current one.
    Issued(Arc<JwtSvid>),
    /// The token may no longer be used, and there is no other. The error is that of the last fetch,
    /// unless the next one is under way.
    Lost(Option<Arc<Error>>),
}

impl TokenSource {
    /// Waits until a token other than `held` is the current one, or until `held` may no longer be used.
    /// If `held` is `None`, it waits for a token for as long as it takes.
    ///
    /// If the future is dropped, the next call does not miss a change.
    pub async fn next(&self, held: Option<&JwtSvid>) -> Next {
        let mut state = self.shared.state.subscribe();
        loop {
            let (next, left) = {
                let state = state.borrow_and_update();
                (state.next(held, &self.shared), state.left(&self.shared))
            };
            if let Some(next) = next {
                return next;
            }
            if state.borrow().result(&self.shared).is_none() {
                self.shared.wanted.notify_one();
            }
            tokio::select! {
                // There is no error, because `self` holds the sender.
                _ = state.changed() => {}
                () = sleep(left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY))) => {}
            }
        }
    }
}

impl State {
    /// Returns the change since `held` was the current token, or `None` if there is none.
    fn next(&self, held: Option<&JwtSvid>, shared: &Shared) -> Option<Next> {
        let usable = self
            .current
            .as_ref()
            .filter(|current| shared.is_usable(&current.lifetime));
        match (usable, held) {
            (Some(current), Some(held)) if current.svid.token() == held.token() => None,
            (Some(current), _) => Some(Next::Issued(Arc::clone(&current.svid))),
            (None, Some(_)) => Some(Next::Lost(self.failure.clone())),
            (None, None) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, timeout};

    use super::{
        super::tests::{Agent, Does, SECOND, TTL, pass},
        *,
    };

    #[tokio::test(start_paused = true)]
    async fn each_new_token_is_waited_for_and_no_expired_one_is_held() {
        let agent = Agent::new(TTL);
        let source = agent.source();
        let mut held: Option<Arc<JwtSvid>> = None;
        let began = Instant::now();
        for _ in 0..20 {
            let Next::Issued(token) = source.next(held.as_deref()).await else {
                panic!("there is always a token");
            };
            assert_ne!(
                held.map(|held| held.token().to_owned()).as_deref(),
                Some(token.token())
            );
            held = Some(token);
        }
        assert_eq!(agent.fetches(), 20, "there is no other fetch");
        assert!(began.elapsed() > SECOND * 149 * 19);

        // A clock that is set forward ends the token, and the next one comes at once.
        agent.set_clock(3600);
        let set = Instant::now();
        let mut changes = Vec::new();
        while changes.len() < 2 {
            let next = source.next(held.as_deref()).await;
            held = match &next {
                Next::Issued(token) => Some(Arc::clone(token)),
                Next::Lost(_) => None,
            };
            changes.push(next);
        }
        assert!(
            matches!(changes[..], [Next::Lost(None), Next::Issued(_)]),
            "{changes:?}"
        );
        assert!(set.elapsed() < SECOND * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_loss_of_a_token_is_told_once_with_its_reason() {
        for (does, after, reason) in [
            (Does::Fail, 294, "nobody listens"),
            (Does::Withdraw, 149, "no identity issued"),
        ] {
            let agent = Agent::new(TTL);
            let source = agent.source();
            let Next::Issued(token) = source.next(None).await else {
                panic!("without a token none is lost");
            };
            agent.will(does);
            let began = Instant::now();
            let Next::Lost(Some(error)) = source.next(Some(&token)).await else {
                panic!("no other is issued");
            };
            assert!(error.to_string().contains(reason), "{error}");
            assert!(began.elapsed() > SECOND * after);
            let without = timeout(SECOND * 60, source.next(None)).await;
            assert!(without.is_err(), "there is nothing new");
            let fetches = agent.fetches();
            assert!(fetches < 160, "{fetches}");
            agent.will(Does::Issue);
            let next = timeout(SECOND * 4, source.next(None)).await;
            assert!(matches!(next, Ok(Next::Issued(_))));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_token_is_replaced_for_a_task_that_waits_for_the_next() {
        let agent = Agent::new(TTL);
        let source = agent.source();
        let token = source.token().await.unwrap();
        pass(SECOND).await;
        source.invalidate(&token);
        let next = timeout(SECOND, source.next(Some(&token))).await;
        assert!(matches!(next, Ok(Next::Issued(_))), "{next:?}");
        // While the agent fails, the token that was refused is the current one.
        let token = source.token().await.unwrap();
        agent.will(Does::Fail);
        source.invalidate(&token);
        let next = timeout(SECOND * 60, source.next(Some(&token))).await;
        assert!(next.is_err(), "{next:?}");
    }
}
