//! Waits for effects in other processes, for example of a message on a socket.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

/// A test that waits this long has failed, because everything here takes less.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `is_so` returns true.
pub async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    until_some(async || is_so().await.then_some(())).await;
}

/// Waits until `wanted` returns a value, and returns that value.
pub async fn until_some<T>(mut wanted: impl AsyncFnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(value) = wanted().await {
                return value;
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, asking)
        .await
        .expect("takes effect in time")
}

/// Waits until the watched value is true, or until nobody can change it.
pub async fn until_true(watched: &mut watch::Receiver<bool>) {
    let _ = watched.wait_for(|is_true| *is_true).await;
}

/// Waits until `is` accepts the watched value, and returns the value.
pub async fn becomes<T: Clone>(watched: &mut watch::Receiver<T>, is: impl FnMut(&T) -> bool) -> T {
    let found = timeout(PATIENCE, watched.wait_for(is)).await;
    found.expect("takes effect in time").unwrap().clone()
}
