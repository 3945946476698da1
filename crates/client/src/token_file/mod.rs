//! Keeps a JWT-SVID in a file, for an application that reads it there.
//!
//! - [`config`]: the flags
//! - `file`: the file, which always has a whole token
//! - `after`: the notice of a new token
//! - `condition`: the file among the conditions of the process
//!
//! The file has a token only while the token may be used. Its absence therefore says that there is none,
//! and a health check can look for the file.
//!
//! This process does not learn that a server refused the token. It follows the JWT bundles instead, and
//! fetches another token when they change: the key of the token may be gone, or the identity withdrawn.

mod after;
mod condition;
pub(crate) mod config;
mod file;

use std::{io, path::Path, process::ExitCode, sync::Arc, time::SystemTime};

use anyhow::Context;
use common::workload::{
    WorkloadApi,
    tokens::{Next, TokenSource},
};
use process::{
    admin::metrics::Metrics, cli, notify::ServiceManager, runtime::Cores, sandbox, signal,
};
use serve::shutdown::Shutdown;
use spiffe::JwtSvid;
use tokio::{
    task::spawn_blocking,
    time::{Duration, Instant, sleep, sleep_until},
};
use tracing::{error, info, warn};

use self::{
    after::{After, Notices},
    condition::FileCondition,
    config::TokenFileArgs,
    file::TokenFile,
};
use crate::{
    config::{Config, ROLE},
    identity::no_token,
};

/// The pause before the file is written or removed again, after that has failed.
const RETRY: Duration = Duration::from_secs(1);

/// The file and the token that belongs there.
struct Kept {
    file: TokenFile,
    notices: Option<Notices>,
    manager: ServiceManager,
    wanted: Wanted,
    /// The token that is in the file.
    written: Option<Arc<JwtSvid>>,
    /// Set while the file can't be written or removed, which is logged once.
    is_failing: bool,
    condition: FileCondition,
    metrics: Metrics,
}

/// The token that belongs in the file.
enum Wanted {
    /// No token has been issued yet. One of an earlier process may stay until it expires.
    NotYet,
    Token(Arc<JwtSvid>),
    /// There is no token, because the last one was lost.
    Lost,
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
    let (serve, cores) = (&config.listening.serve, Cores::default());
    let admin = serve.claim_admin()?.listen(&cores, &shutdown)?;
    let startup_timeout = serve.startup_timeout;
    let deadline = Instant::now() + startup_timeout;
    let workload_api = config.identity.workload_api(startup_timeout);
    let workload_api = workload_api.monitored(admin.follow_identity());
    config.warn();
    sandbox::announce();
    let manager = ServiceManager::from_environment();
    manager.starting("waiting for the first JWT-SVID", startup_timeout * 2);
    manager.follow_stop(shutdown.clone(), Duration::ZERO);
    manager.follow_cores(cores);
    let metrics = admin.metrics().clone();
    metrics.role(ROLE);
    let mut kept = Kept::new(file, after, left, manager, metrics);
    kept.condition.add_to(admin.conditions());
    admin.serves(format!("keeping a token in {}", kept.file.display()));
    kept.until_stop(shutdown, config, &workload_api, deadline)
        .await?;
    info!("stopped; {} stays as it is", kept.file.display());
    Ok(ExitCode::SUCCESS)
}

/// Checks that a token can be kept in the file, and that its notice can be given. Writes nothing.
///
/// # Errors
/// Fails when [`run`] would.
pub(crate) fn check(args: &TokenFileArgs, path: &Path) -> anyhow::Result<()> {
    if let Some(after) = args.after() {
        after.check()?;
    }
    TokenFile::check(path).with_context(|| format!("--token-file {}", path.display()))
}

impl Kept {
    fn new(
        file: TokenFile,
        after: Option<After>,
        left: Option<Arc<JwtSvid>>,
        manager: ServiceManager,
        metrics: Metrics,
    ) -> Self {
        Self {
            file,
            notices: after.map(Notices::new),
            manager,
            wanted: Wanted::NotYet,
            written: left,
            is_failing: false,
            condition: FileCondition::default(),
            metrics,
        }
    }

    /// Keeps the file until `shutdown`, which interrupts everything. A write that it cuts off leaves the file
    /// whole.
    async fn until_stop(
        &mut self,
        shutdown: Shutdown,
        config: &Config,
        workload_api: &WorkloadApi,
        deadline: Instant,
    ) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            () = shutdown.requested() => Ok(()),
            failed = self.keep(config, workload_api, deadline) => Err(failed),
        }
    }

    /// Keeps the file. Returns the reason when the first token does not come before `deadline`.
    async fn keep(
        &mut self,
        config: &Config,
        workload_api: &WorkloadApi,
        deadline: Instant,
    ) -> anyhow::Error {
        self.settle().await;
        let mut bundles = match workload_api.jwt_bundles().await {
            Ok(bundles) => bundles,
            Err(error) => return cli::with_remedy(error),
        };
        let audiences = config.audiences();
        let tokens = TokenSource::new(workload_api.clone(), audiences.clone(), None);
        self.metrics.token(&audiences, tokens.monitor());
        loop {
            let (current, is_first) = match &self.wanted {
                Wanted::NotYet => (None, true),
                Wanted::Token(token) => (Some(Arc::clone(token)), false),
                Wanted::Lost => (None, false),
            };
            tokio::select! {
                biased;
                true = bundles.changed() => {
                    if let Some(current) = &current {
                        tokens.invalidate(current);
                    }
                }
                next = tokens.next(current.as_deref()) => self.take(next),
                () = sleep(RETRY), if !self.is_settled() => {}
                () = sleep_until(deadline), if is_first => {
                    return no_token(&tokens, &audiences).await;
                }
            }
            self.settle().await;
        }
    }

    /// Records another token, or the loss of the current one.
    fn take(&mut self, next: Next) {
        match next {
            Next::Issued(token) => self.wanted = Wanted::Token(token),
            Next::Lost(reason) => {
                let file = self.file.display();
                match reason {
                    Some(reason) => {
                        warn!("removing {file}, because no other JWT-SVID is issued: {reason}");
                    }
                    None => warn!("removing {file}, because its JWT-SVID may no longer be used"),
                }
                self.wanted = Wanted::Lost;
            }
        }
    }

    /// Returns whether the file has the token that belongs there.
    fn is_settled(&self) -> bool {
        match (&self.wanted, &self.written) {
            (Wanted::Token(wanted), Some(written)) => Arc::ptr_eq(wanted, written),
            (Wanted::Token(_), None) => false,
            (Wanted::NotYet | Wanted::Lost, written) => written.is_none(),
        }
    }

    /// Writes or removes the file, unless it has the token that belongs there.
    async fn settle(&mut self) {
        self.write_or_remove().await;
        let expiry = |token: &Arc<JwtSvid>| SystemTime::from(token.expiry());
        let written = self.written.as_ref().map(expiry);
        self.condition.update(self.is_settled(), written);
    }

    async fn write_or_remove(&mut self) {
        let settled = match &self.wanted {
            _ if self.is_settled() => return,
            Wanted::Token(token) => self.write(Arc::clone(token)).await,
            Wanted::NotYet | Wanted::Lost => Ok(()),
        };
        let removed = self.remove_unusable().await;
        match settled.and(removed) {
            Ok(()) => self.is_failing = false,
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                let (file, error) = (self.file.display(), sandbox::explained(&error));
                error!("cannot keep {file} current: {error}; trying again every {RETRY:?}");
            }
            Err(_) => {}
        }
    }

    async fn write(&mut self, token: Arc<JwtSvid>) -> io::Result<()> {
        let (file, text) = (self.file.clone(), token.token().to_owned());
        // A disk may hang, and this thread also handles signals.
        spawn_blocking(move || file.write(&text)).await??;
        let left = SystemTime::from(token.expiry())
            .duration_since(SystemTime::now())
            .unwrap_or_default();
        let expires_in = humantime::format_duration(Duration::from_secs(left.as_secs()));
        let file = self.file.display();
        info!(spiffe_id = %token.spiffe_id(), %expires_in, "wrote a new JWT-SVID to {file}");
        let until = humantime::format_rfc3339_seconds(SystemTime::from(token.expiry()));
        self.manager
            .ready(&format!("{file} has a JWT-SVID until {until}"));
        self.written = Some(token);
        if let Some(notices) = &self.notices {
            notices.give();
        }
        Ok(())
    }

    /// Removes the file if its token has expired or was lost.
    async fn remove_unusable(&mut self) -> io::Result<()> {
        let is_unusable = self.written.as_ref().is_some_and(|token| {
            let is_expired = SystemTime::from(token.expiry()) <= SystemTime::now();
            is_expired || matches!(self.wanted, Wanted::Lost)
        });
        if !is_unusable {
            return Ok(());
        }
        let file = self.file.clone();
        spawn_blocking(move || file.remove()).await??;
        self.written = None;
        let file = self.file.display();
        self.manager
            .waiting(&format!("{file} is removed, because it has no JWT-SVID"));
        info!("removed {file}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::mpsc};

    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    use clap::Parser;
    use serve::shutdown;
    use tokio::{runtime::Builder, time::timeout};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Returns a token that has expired.
    fn expired() -> String {
        let parts = [
            r#"{"alg":"ES256","kid":"a"}"#,
            r#"{"sub":"spiffe://example.org/a","aud":["b"],"exp":1}"#,
            "no signature",
        ];
        parts
            .map(|part| BASE64_URL_SAFE_NO_PAD.encode(part))
            .join(".")
    }

    #[test]
    fn a_stop_is_heard_while_the_disk_hangs_u015() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        fs::write(&path, expired()).unwrap();
        let config = Config::try_parse_from(["client"]).unwrap();
        let (_hangs, disk) = mpsc::channel::<()>();
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        runtime.block_on(async {
            // No other thread is there for the file.
            drop(spawn_blocking(move || disk.recv()));
            let (file, left) = TokenFile::claim(&path).unwrap();
            let (manager, metrics) = (ServiceManager::default(), Metrics::default());
            let mut kept = Kept::new(file, None, left, manager, metrics);
            let (trigger, shutdown) = shutdown::channel();
            let workload_api = config.identity.workload_api(LONG);
            let keeping = kept.until_stop(shutdown, &config, &workload_api, Instant::now() + LONG);
            // The stop comes when the removal of the file has begun.
            let stopping = async { trigger.stop() };
            let stopped = timeout(LONG, async { tokio::join!(biased; keeping, stopping) }).await;
            stopped.expect("the stop is heard").0.unwrap();
        });
        runtime.shutdown_background();
        assert!(path.exists());
    }
}
