//! Registration entries: the identity of each kind of caller.

use std::{collections::HashSet, fmt, str::FromStr, time::Duration};

use spiffe::SpiffeId;

use crate::{error::Error, selector::Selector};

/// The longest hint a workload has to accept (Workload API §8).
const MAX_HINT: usize = 1024;
/// The longest SPIFFE ID an issuer may make (SPIFFE-ID §2.3).
const MAX_ID: usize = 2048;

/// A registration entry: callers that have all of its selectors get its SPIFFE ID.
///
/// The text form uses SPIRE's names of selectors, and options follow semicolons:
///
/// ```
/// use dev_agent::Entry;
///
/// let entry: Entry = "spiffe://example.org/server=unix:uid:1000,unix:path:/usr/bin/server;hint=main;dns=localhost"
///     .parse()?;
/// assert_eq!(entry.id().path(), "/server");
/// # Ok::<(), dev_agent::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    id: SpiffeId,
    selectors: Vec<Selector>,
    hint: String,
    dns_names: Vec<String>,
    x509_ttl: Option<Duration>,
    jwt_ttl: Option<Duration>,
}

impl Entry {
    /// Returns the SPIFFE ID that matching callers get.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Returns the selectors that a caller must have, all of them.
    #[must_use]
    pub fn selectors(&self) -> &[Selector] {
        &self.selectors
    }

    /// Returns the hint, by which a workload with several identities knows this one (`hint=`).
    #[must_use]
    pub fn hint(&self) -> &str {
        &self.hint
    }

    /// Returns the DNS names in the X.509-SVID (`dns=`, repeatable).
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// Returns the life of its X.509-SVIDs, if it differs from the agent's (`x509-ttl=`).
    #[must_use]
    pub fn x509_ttl(&self) -> Option<Duration> {
        self.x509_ttl
    }

    /// Returns the life of its JWT-SVIDs, if it differs from the agent's (`jwt-ttl=`).
    #[must_use]
    pub fn jwt_ttl(&self) -> Option<Duration> {
        self.jwt_ttl
    }

    /// Returns whether a caller with these selectors gets this identity.
    pub(crate) fn matches(&self, caller: &HashSet<Selector>) -> bool {
        self.selectors
            .iter()
            .all(|selector| caller.contains(selector))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = text.split(';');
        let (id, selectors) = parts
            .next()
            .and_then(|main| main.split_once('='))
            .ok_or("there is no '=' between a SPIFFE ID and its selectors")?;
        let id = parse_id(id)?;
        if id.path() == "/spire" || id.path().starts_with("/spire/") {
            return Err("paths below /spire are kept for SPIRE itself".to_owned());
        }
        let mut entry = Self {
            id,
            selectors: parse_selectors(selectors)?,
            hint: String::new(),
            dns_names: Vec::new(),
            x509_ttl: None,
            jwt_ttl: None,
        };
        for option in parts {
            entry.set(option)?;
        }
        Ok(entry)
    }

    fn set(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "hint" if value.len() > MAX_HINT => {
                return Err(format!("the hint is longer than {MAX_HINT} bytes"));
            }
            "hint" => self.hint = value.to_owned(),
            "dns" => self.dns_names.push(dns_name(value)?),
            "x509-ttl" => self.x509_ttl = Some(duration(name, value)?),
            "jwt-ttl" => self.jwt_ttl = Some(duration(name, value)?),
            _ => {
                return Err(format!(
                    "'{option}' is not an option; hint=, dns=, x509-ttl= and jwt-ttl= are"
                ));
            }
        }
        Ok(())
    }
}

impl FromStr for Entry {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text).map_err(|reason| Error::entry(text, reason))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let selectors: Vec<_> = self.selectors.iter().map(Selector::to_string).collect();
        write!(f, "{}={}", self.id, selectors.join(","))
    }
}

/// Parses the SPIFFE ID of a workload in its canonical spelling.
pub(crate) fn parse_id(text: &str) -> Result<SpiffeId, String> {
    let id =
        SpiffeId::new(text).map_err(|error| format!("'{text}' is not a SPIFFE ID: {error}"))?;
    if id.to_string() != text {
        return Err(format!(
            "'{text}' is not spelled as a SPIFFE ID: use '{id}'"
        ));
    }
    if text.len() > MAX_ID {
        return Err(format!("the SPIFFE ID is longer than {MAX_ID} bytes"));
    }
    if id.path().is_empty() {
        return Err(format!(
            "the SPIFFE ID of a workload has a path, as in '{id}/server'"
        ));
    }
    Ok(id)
}

fn parse_selectors(text: &str) -> Result<Vec<Selector>, String> {
    if text.is_empty() {
        return Err(
            "there is no selector after '='; an entry without selectors would match no caller"
                .to_owned(),
        );
    }
    text.split(',').map(str::parse).collect()
}

fn dns_name(value: &str) -> Result<String, String> {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if value.len() > 253 || !value.split('.').all(label) {
        return Err(format!(
            "'{value}' in 'dns={value}' is not a DNS name in lower case"
        ));
    }
    Ok(value.to_owned())
}

fn duration(name: &str, value: &str) -> Result<Duration, String> {
    humantime::parse_duration(value)
        .map_err(|error| format!("'{name}={value}' is not a duration such as 90s or 5m: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(selectors: &[&str]) -> HashSet<Selector> {
        selectors.iter().map(|s| s.parse().unwrap()).collect()
    }

    #[test]
    fn an_entry_matches_only_a_caller_with_all_of_its_selectors_w053() {
        let full = ["unix:uid:1000", "unix:gid:5", "unix:path:/x"];
        for (selectors, has, expected) in [
            ("unix:uid:1000", &full[..], true),
            ("unix:uid:1000,unix:gid:5", &full[..], true),
            ("unix:uid:1000,unix:path:/x", &full[..2], false),
            ("unix:uid:1000", &[][..], false),
            ("unix:uid:100", &full[..], false),
            ("unix:gid:1000", &full[..], false),
            ("unix:path:/X", &full[..], false),
            ("unix:path:/x/", &full[..], false),
        ] {
            let entry: Entry = format!("spiffe://example.org/a={selectors}")
                .parse()
                .unwrap();
            assert_eq!(entry.matches(&caller(has)), expected, "{selectors}");
        }
    }

    #[test]
    fn options_after_semicolons_are_parsed() {
        let entry: Entry = "spiffe://example.org/a=unix:uid:1;hint=main;dns=localhost;dns=a.test;x509-ttl=10s;jwt-ttl=1m"
            .parse()
            .unwrap();
        assert_eq!(entry.hint(), "main");
        assert_eq!(entry.dns_names(), ["localhost", "a.test"]);
        assert_eq!(entry.x509_ttl(), Some(Duration::from_secs(10)));
        assert_eq!(entry.jwt_ttl(), Some(Duration::from_secs(60)));
    }

    #[test]
    fn a_bad_entry_is_refused_with_entry_fault_and_example_w059() {
        let long = format!("spiffe://example.org/{}=unix:uid:1", "a".repeat(2048));
        let hint = format!(
            "spiffe://example.org/a=unix:uid:1;hint={}",
            "h".repeat(1025)
        );
        for (text, reason) in [
            ("", "no '='"),
            ("spiffe://example.org/a", "no '='"),
            // "W56"
            ("spiffe://example.org/a=", "no selector"),
            ("spiffe://example.org/a=unix:uid:1,", "is not a selector"),
            ("spiffe://example.org/a=unix:uid:01", "leading zeros"),
            ("example.org/a=unix:uid:1", "is not a SPIFFE ID"),
            ("spiffe://example.org=unix:uid:1", "has a path"),
            ("spiffe://example.org/=unix:uid:1", "is not a SPIFFE ID"),
            (
                "spiffe://EXAMPLE.org/a=unix:uid:1",
                "use 'spiffe://example.org/a'",
            ),
            (
                "SPIFFE://example.org/a=unix:uid:1",
                "use 'spiffe://example.org/a'",
            ),
            (
                "spiffe://example.org/spire/agent=unix:uid:1",
                "kept for SPIRE",
            ),
            (&long, "longer than 2048"),
            // "W87"
            (&hint, "longer than 1024"),
            (
                "spiffe://example.org/a=unix:uid:1;colour=red",
                "'colour=red' is not an option",
            ),
            ("spiffe://example.org/a=unix:uid:1;dns=Ä", "not a DNS name"),
            (
                "spiffe://example.org/a=unix:uid:1;dns=a..b",
                "not a DNS name",
            ),
            (
                "spiffe://example.org/a=unix:uid:1;x509-ttl=soon",
                "not a duration",
            ),
        ] {
            let message = text.parse::<Entry>().unwrap_err().to_string();
            assert!(message.contains(reason), "{text:?}: {message}");
            assert!(message.contains(text), "{text:?}: {message}");
            assert!(message.contains("unix:user:server-workload"), "{message}");
        }
    }
}
