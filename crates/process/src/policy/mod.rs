//! The policy of a server: the rules of a file, or those of the flags `--allow` and `--public`.
//!
//! - `file` reads the text of a policy file, and finds its mistakes
//! - `load` reads the file itself, and finds out whether it has changed

mod file;
mod load;

use common::{
    bearer::{Access, AccessRule, Allow, Pattern, RuleName, Rules},
    path::PathPattern,
};
use spiffe::TrustDomain;

pub use self::load::{PolicyFile, Refused};

/// Returns the rules of `--allow` and `--public`, for a server of the trust domain `own`. If there is no
/// pattern, all workloads of `own` are allowed.
#[must_use]
pub fn of_flags(allow: &[Pattern], public: &[PathPattern], own: &TrustDomain) -> Rules {
    let allow = if allow.is_empty() {
        Allow::members_of(own.clone())
    } else {
        allow.iter().cloned().collect()
    };
    // A rule without paths would make every request public.
    let public = (!public.is_empty()).then(|| AccessRule {
        name: Some(RuleName::flag("--public")),
        paths: public.to_vec(),
        ..AccessRule::new(Access::Public)
    });
    let audiences = Vec::new();
    let callers = AccessRule::new(Access::Callers { allow, audiences });
    public.into_iter().chain([callers]).collect()
}
