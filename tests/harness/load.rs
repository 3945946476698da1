//! Keeps callers busy while a test changes the processes that serve them.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicUsize,
        Ordering::{Relaxed, SeqCst},
    },
};

use tokio::task::JoinSet;

use crate::{
    https::Https,
    raw::{self, Client},
    wait::until,
};

/// The number of callers. Each keeps one connection.
const CALLERS: usize = 8;
/// [`Callers::continues`] waits for this many more answers.
const ENOUGH: usize = 200;

/// Sends requests over kept connections. Each caller sends one GET after the other.
pub struct Callers {
    callers: JoinSet<usize>,
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicUsize>,
}

impl Callers {
    /// Starts the callers.
    pub fn on(https: &Https, token: &str) -> Self {
        let (stop, answers) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (https, stop, answers) = (https.clone(), Arc::clone(&stop), Arc::clone(&answers));
            let request = raw::get(&format!("Bearer {token}"));
            callers.spawn(async move {
                let (mut client, mut failed) = (Client::new(&https).await, 0);
                while !stop.load(Relaxed) {
                    client.send(&request).await;
                    let answer = client.answer().await.expect("is kept");
                    failed += usize::from(answer.status() != 200);
                    answers.fetch_add(1, SeqCst);
                }
                failed
            });
        }
        Self {
            callers,
            stop,
            answers,
        }
    }

    /// Waits until `ENOUGH` more answers have come.
    pub async fn continues(&self) {
        let enough = self.answers.load(SeqCst) + ENOUGH;
        until(async || self.answers.load(SeqCst) >= enough).await;
    }

    /// Stops the callers and returns how many requests were not answered 200.
    pub async fn failed(self) -> usize {
        self.stop.store(true, Relaxed);
        self.callers.join_all().await.iter().sum()
    }
}
