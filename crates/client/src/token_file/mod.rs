//! Keeps a JWT-SVID in a file, for an application that reads it there.
//!
//! - [`config`]: the flags
//! - `file`: the file, which always has a whole token
//! - `after`: the notice of a new token
//!
//! The file has a token only while the token may be used. Its absence therefore says that there is none,
//! and a health check can look for the file.
//!
//! This process does not learn that a server refused the token. It follows the JWT bundles instead, and
//! fetches another token when they change: the key of the token may be gone, or the identity withdrawn.

mod after;
pub mod config;
mod file;

use std::{io, path::Path, process::ExitCode, sync::Arc, time::SystemTime};

use anyhow::{Context, anyhow};
use common::workload::{
    JwtSource, WorkloadApi,
    tokens::{Next, TokenSource},
};
use process::{cli, signal};
use serve::shutdown::Shutdown;
use spiffe::JwtSvid;
use tokio::{
    task::spawn_blocking,
    time::{Duration, Instant, sleep, sleep_until},
};
use tracing::{error, info, warn};

use self::{after::Notices, file::TokenFile};
use crate::config::Config;

/// The pause before the file is written or removed again, after that has failed.
const RETRY: Duration = Duration::from_secs(1);

/// The file and the token that belongs there.
struct Kept {
    file: TokenFile,
    notices: Option<Notices>,
    /// The token that belongs in the file.
    current: Option<Arc<JwtSvid>>,
    /// The token that is in the file.
    written: Option<Arc<JwtSvid>>,
    /// Set while the token in the file must be removed.
    is_lost: bool,
    /// Set while the file can't be written or removed, which is logged once.
    is_failing: bool,
}

/// Keeps a token in the file at `path` until a signal arrives.
///
/// # Errors
/// Fails when the file can't be kept there, or when no token is issued within the start-up timeout.
pub(crate) async fn run(config: &Config, path: &Path) -> anyhow::Result<ExitCode> {
    let args = &config.token_file;
    let after = args.after();
    if let Some(after) = &after {
        after.check()?;
    }
    let (file, left) = TokenFile::claim(path)?;
    let shutdown = signal::shutdown().context("cannot handle signals")?;
    let startup_timeout = config.listening.serve.startup_timeout;
    let deadline = Instant::now() + startup_timeout;
    let workload_api = config.identity.workload_api(startup_timeout);
    config.warn();
    let mut kept = Kept {
        file,
        notices: after.map(Notices::new),
        current: None,
        written: left,
        is_lost: false,
        is_failing: false,
    };
    kept.settle().await;
    kept.keep(config, &workload_api, deadline, shutdown).await?;
    info!("stopped; {} stays as it is", kept.file.display());
    Ok(ExitCode::SUCCESS)
}

impl Kept {
    /// Keeps the file until `shutdown`. The first token must come before `deadline`.
    async fn keep(
        &mut self,
        config: &Config,
        workload_api: &WorkloadApi,
        deadline: Instant,
        shutdown: Shutdown,
    ) -> anyhow::Result<()> {
        let mut stop = std::pin::pin!(shutdown.requested());
        let mut bundles: JwtSource = tokio::select! {
            bundles = workload_api.jwt_bundles() => bundles.map_err(cli::with_remedy)?,
            () = &mut stop => return Ok(()),
        };
        let audiences = config.audiences();
        let tokens = TokenSource::new(workload_api.clone(), audiences.clone(), None);
        let mut is_first = true;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return Ok(()),
                true = bundles.changed() => {
                    if let Some(current) = &self.current {
                        tokens.invalidate(current);
                    }
                }
                next = tokens.next(self.current.as_deref()) => {
                    is_first = false;
                    self.take(next);
                }
                () = sleep(RETRY), if !self.is_settled() => {}
                () = sleep_until(deadline), if is_first => {
                    return Err(no_token(&tokens, &audiences).await);
                }
            }
            self.settle().await;
        }
    }

    /// Takes note of another token, or of the loss of the current one.
    fn take(&mut self, next: Next) {
        match next {
            Next::Issued(token) => {
                self.current = Some(token);
                self.is_lost = false;
            }
            Next::Lost(reason) => {
                let file = self.file.display();
                match reason {
                    Some(reason) => {
                        warn!("removing {file}, because no other JWT-SVID is issued: {reason}");
                    }
                    None => warn!("removing {file}, because its JWT-SVID may no longer be used"),
                }
                self.current = None;
                self.is_lost = true;
            }
        }
    }

    /// Returns whether the file has the token that belongs there.
    fn is_settled(&self) -> bool {
        match (&self.current, &self.written) {
            (Some(current), Some(written)) => Arc::ptr_eq(current, written),
            (Some(_), None) => false,
            (None, written) => written.is_none(),
        }
    }

    /// Writes or removes the file, unless it has the token that belongs there.
    async fn settle(&mut self) {
        let settled = match &self.current {
            _ if self.is_settled() => return,
            Some(current) => self.write(Arc::clone(current)).await,
            None => Ok(()),
        };
        let removed = self.remove_unusable().await;
        match settled.and(removed) {
            Ok(()) => self.is_failing = false,
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                let file = self.file.display();
                error!("cannot keep {file} current: {error}; trying again every {RETRY:?}");
            }
            Err(_) => {}
        }
    }

    async fn write(&mut self, token: Arc<JwtSvid>) -> io::Result<()> {
        let (file, text) = (self.file.clone(), token.token().to_owned());
        // A disk that hangs must not delay a stop.
        spawn_blocking(move || file.write(&text)).await??;
        let left = SystemTime::from(token.expiry())
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let expires_in = humantime::format_duration(Duration::from_secs(left.as_secs()));
        let file = self.file.display();
        info!(spiffe_id = %token.spiffe_id(), %expires_in, "wrote a new JWT-SVID to {file}");
        self.written = Some(token);
        if let Some(notices) = &self.notices {
            notices.give();
        }
        Ok(())
    }

    /// Removes the file if its token has expired or was lost.
    async fn remove_unusable(&mut self) -> io::Result<()> {
        let is_unusable = self.written.as_ref().is_some_and(|token| {
            self.is_lost || SystemTime::from(token.expiry()) <= SystemTime::now()
        });
        if !is_unusable {
            return Ok(());
        }
        let file = self.file.clone();
        spawn_blocking(move || file.remove()).await??;
        self.written = None;
        info!("removed {}", self.file.display());
        Ok(())
    }
}

/// Returns the reason why there is no first token.
async fn no_token(tokens: &TokenSource, audiences: &[String]) -> anyhow::Error {
    let audiences = audiences.join(", ");
    match tokens.token().await {
        Ok(_) => anyhow!("no JWT-SVID for {audiences} in time"),
        Err(error) => anyhow!("no JWT-SVID for {audiences}: {error}"),
    }
}
