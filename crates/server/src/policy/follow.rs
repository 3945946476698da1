//! The policy while the server runs, and its file, which may change.

use std::time::Duration;

use anyhow::Context;
use common::{
    bearer::{Authenticator, Policy, Rules, RulesHandle},
    workload::JwtSource,
};
use process::{
    bundles,
    notify::{self, ServiceManager},
    policy::{PolicyFile, Refused},
    signal::Hangups,
};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use tracing::{error, info, warn};

/// The interval between two readings of the file. Reading it works on every file system, and also where a
/// link to it is replaced. It costs 0.3 ms of CPU in a debug build (`schedstat` over 60 s of a quiet
/// server: 46 ms with a reading every 0.5 s, and 5 ms without).
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A policy that becomes the one of an authenticator.
pub(crate) enum LivePolicy {
    /// The policy of the flags, which does not change. It has the SIGHUPs of a process that a service manager
    /// started.
    Flags(Option<Hangups>),
    /// The policy of a file, which may change.
    File(FollowedFile),
}

/// The parts of a server that get the rules of a file.
struct Reached {
    handle: RulesHandle,
    bundles: JwtSource,
    manager: ServiceManager,
}

/// A file with a policy, which is read again after a SIGHUP.
pub(crate) struct FollowedFile {
    file: PolicyFile,
    rules: Rules,
    hangups: Hangups,
}

impl LivePolicy {
    /// Handles SIGHUP from now on if the policy has a file, or if a service manager started the process. Without
    /// this, a reload of the service would end the process.
    ///
    /// # Errors
    /// Fails when the policy has a file and the handler can't be installed.
    pub(crate) fn begin(file: Option<(PolicyFile, Rules)>) -> anyhow::Result<Self> {
        let hangups = || Hangups::handle().context("cannot handle SIGHUP");
        Ok(match file {
            Some((file, rules)) => Self::File(FollowedFile {
                file,
                rules,
                hangups: hangups()?,
            }),
            None if notify::is_connected() => Self::Flags(
                hangups()
                    .inspect_err(|error| {
                        let error = error.root_cause();
                        warn!(%error, "cannot handle SIGHUP, which ends this process");
                    })
                    .ok(),
            ),
            None => Self::Flags(None),
        })
    }
}

/// Answers each SIGHUP to a policy of flags, which stays as it is.
pub(crate) fn follow_reloads(mut hangups: Hangups, manager: &ServiceManager) {
    let manager = manager.clone();
    tokio::spawn(async move {
        loop {
            hangups.next().await;
            manager.reloading();
            info!("nothing is read again: without --policy, the policy is that of the flags");
            manager.policy("policy of the flags in force");
        }
    });
}

impl FollowedFile {
    /// Follows the file. Returns the authenticator. `policy` has what the server accepts with its rules,
    /// and `manager` is told which rules are in force.
    pub(crate) fn follow(
        self,
        policy: impl FnOnce(Rules) -> Policy,
        bundles: JwtSource,
        manager: &ServiceManager,
    ) -> Authenticator {
        let Self {
            file,
            rules,
            hangups,
        } = self;
        announce(&file, &rules, &bundles, manager);
        let (authenticator, handle) = Authenticator::replaceable(bundles.clone(), policy(rules));
        let reached = Reached {
            handle,
            bundles,
            manager: manager.clone(),
        };
        tokio::spawn(follow(file, hangups, reached));
        authenticator
    }
}

/// Tells which rules are in force, and warns of callers that can't be verified.
fn announce(file: &PolicyFile, rules: &Rules, bundles: &JwtSource, manager: &ServiceManager) {
    bundles::warn_of_missing(bundles, "JWT", "--policy", rules.trust_domains());
    let file = file.path().display();
    info!(%file, rules = rules.len(), "policy in force");
    manager.policy(&format!("policy in force, rules: {}", rules.len()));
}

/// Replaces the rules after each SIGHUP and each change of the file, for as long as the process runs.
/// Contents with a mistake are logged once, and change nothing.
async fn follow(mut file: PolicyFile, mut hangups: Hangups, reached: Reached) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let is_asked_for = tokio::select! {
            () = hangups.next() => true,
            _ = looks.tick() => false,
        };
        if is_asked_for {
            reached.manager.reloading();
        }
        // A file system may hang, and this thread also keeps the identity.
        let looking = spawn_blocking(move || {
            if is_asked_for {
                file.read_again();
            }
            let is_new = is_asked_for || file.has_changed();
            let rules = is_new.then(|| file.rules());
            (file, rules)
        });
        let Ok((looked, rules)) = looking.await else {
            // The runtime has been shut down.
            return;
        };
        file = looked;
        if let Some(rules) = rules {
            reached.take(&file, rules);
        }
    }
}

impl Reached {
    fn take(&self, file: &PolicyFile, rules: Result<Rules, Refused>) {
        match rules {
            Ok(rules) => {
                self.handle.replace(rules.clone());
                announce(file, &rules, &self.bundles, &self.manager);
            }
            Err(refused) => {
                let refused = refused.text();
                error!("policy not taken, and the one before it stays in force: {refused}");
                self.manager
                    .policy(&format!("the policy before it stays in force: {refused}"));
            }
        }
    }
}
