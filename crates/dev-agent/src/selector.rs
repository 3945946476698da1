//! Selectors: the properties of a caller that the agent can verify and that an entry demands.
//!
//! The kinds and their spelling are those of SPIRE's unix workload attestor, so an entry that works
//! here works there.

use std::{ffi::OsString, fmt, str::FromStr};

/// The suffix that the kernel appends to `/proc/PID/exe` when the binary is gone.
pub(crate) const DELETED: &str = " (deleted)";

/// One property of a caller. Values are compared exactly.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Selector {
    /// `unix:uid:N`: the effective user ID.
    Uid(u32),
    /// `unix:gid:N`: the effective primary group ID; supplementary groups do not count.
    Gid(u32),
    /// `unix:user:NAME`: the name of that user in the system's user database.
    User(String),
    /// `unix:group:NAME`: the name of that group in the system's group database.
    Group(String),
    /// `unix:path:PATH`: the caller's binary, as the kernel spells it. A script's binary is its
    /// interpreter, so such an entry covers all scripts of that interpreter.
    ///
    /// An `OsString` compares byte by byte, but a `PathBuf` takes `/a/` for `/a`.
    Path(OsString),
}

impl FromStr for Selector {
    type Err = String;

    /// Parses `unix:KIND:VALUE`. Everything after the second colon is the value.
    fn from_str(text: &str) -> Result<Self, String> {
        let (kind, value) = text
            .strip_prefix("unix:")
            .and_then(|rest| rest.split_once(':'))
            .ok_or_else(|| {
                format!("'{text}' is not a selector; one looks like 'unix:uid:1000', with user, gid, group or path in uid's place")
            })?;
        if value.is_empty() {
            return Err(format!("selector '{text}' has no value"));
        }
        match kind {
            "uid" => Ok(Self::Uid(number(text, value)?)),
            "gid" => Ok(Self::Gid(number(text, value)?)),
            "user" => Ok(Self::User(value.to_owned())),
            "group" => Ok(Self::Group(value.to_owned())),
            "path" => Ok(Self::Path(path(text, value)?)),
            _ => Err(format!(
                "'{text}' is of an unknown kind; unix:uid, unix:user, unix:gid, unix:group and unix:path are known"
            )),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uid(uid) => write!(f, "unix:uid:{uid}"),
            Self::Gid(gid) => write!(f, "unix:gid:{gid}"),
            Self::User(name) => write!(f, "unix:user:{name}"),
            Self::Group(name) => write!(f, "unix:group:{name}"),
            Self::Path(path) => write!(f, "unix:path:{}", path.display()),
        }
    }
}

/// Parses a number in its canonical spelling. SPIRE compares text, so another spelling would never
/// match there.
fn number(selector: &str, value: &str) -> Result<u32, String> {
    value
        .parse()
        .ok()
        .filter(|number: &u32| number.to_string() == value)
        .ok_or_else(|| {
            format!(
                "'{value}' in '{selector}' is not a decimal number from 0 to 4294967295 without leading zeros"
            )
        })
}

/// Checks that a path can be one that the kernel reports.
fn path(selector: &str, value: &str) -> Result<OsString, String> {
    if !value.starts_with('/') {
        return Err(format!("the path in '{selector}' is not absolute"));
    }
    if value.ends_with(DELETED) {
        return Err(format!(
            "the path in '{selector}' can never match: the kernel writes '{DELETED}' for a binary that is gone"
        ));
    }
    Ok(value.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_selector_is_parsed_and_printed_w046() {
        for text in [
            "unix:uid:0",
            "unix:uid:4294967295",
            "unix:gid:5",
            "unix:user:server-workload",
            "unix:group:adm",
            "unix:path:/usr/bin/a:b",
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.to_string(), text);
        }
        assert_eq!(
            "unix:path:/usr/bin/a:b".parse::<Selector>(),
            Ok(Selector::Path("/usr/bin/a:b".into()))
        );
    }

    #[test]
    fn selectors_that_could_never_match_are_refused_w058() {
        for (text, reason) in [
            ("", "is not a selector"),
            ("unix", "is not a selector"),
            ("unix:", "is not a selector"),
            ("unix:uid", "is not a selector"),
            ("uid:1", "is not a selector"),
            ("k8s:ns:x", "is not a selector"),
            (" unix:uid:1", "is not a selector"),
            ("UNIX:uid:1", "is not a selector"),
            ("unix:uid:", "has no value"),
            ("unix:path:", "has no value"),
            // "W57": another spelling is a mistake, because values are compared exactly.
            ("unix:uid:01000", "without leading zeros"),
            ("unix:uid:+1", "without leading zeros"),
            ("unix:uid:-1", "without leading zeros"),
            ("unix:uid:1 ", "without leading zeros"),
            ("unix:gid:4294967296", "without leading zeros"),
            ("unix:gid:staff", "without leading zeros"),
            ("unix:path:bin/x", "is not absolute"),
            ("unix:path:/bin/x (deleted)", "can never match"),
            ("unix:UID:1", "unknown kind"),
            // "W45"
            ("unix:supplementary_gid:27", "unknown kind"),
            ("unix:sha256:00", "unknown kind"),
        ] {
            let error = text.parse::<Selector>().unwrap_err();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }
}
