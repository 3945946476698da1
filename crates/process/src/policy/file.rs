//! The parser of a policy file. It returns the rules, or the first mistake with its line and column.

use std::{collections::HashMap, fmt};

use common::bearer::{Access, AccessRule, RuleName, Rules};
use http::Method;
use serde::Deserialize;
use toml::Spanned;

use crate::cli;

/// A mistake in a policy file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The line, from 1 on.
    line: usize,
    /// The character of the line, from 1 on.
    column: usize,
    text: String,
}

/// A mistake at an offset in bytes.
struct Mistake {
    at: usize,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "rule")]
    rules: Vec<Spanned<Written>>,
}

/// A rule as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: Option<Text>,
    methods: Option<List>,
    paths: Option<List>,
    callers: Option<List>,
    audiences: Option<List>,
    public: Option<Spanned<bool>>,
}

type Text = Spanned<String>;
type List = Spanned<Vec<Text>>;

/// A rule that was read, and its positions in the file.
struct Read {
    rule: AccessRule,
    /// The line of the rule.
    line: usize,
    /// The offset of its name, or of the rule if it has none.
    name_at: usize,
    /// The offsets of its paths.
    paths_at: Vec<usize>,
}

/// The longest name of a rule, in bytes.
const MAX_NAME: usize = 64;

/// Reads the rules of a policy file.
///
/// # Errors
/// Fails with the first mistake. A file without a rule is one, because a file that is being written may be
/// empty for a moment.
pub(super) fn parse(bytes: &[u8]) -> Result<Rules, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        Mistake::new(valid.len(), "is not UTF-8").place(&valid)
    })?;
    read(text).map_err(|mistake| mistake.place(text))
}

fn read(text: &str) -> Result<Rules, Mistake> {
    let document: Document = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(text.len(), |span| span.start);
        let lines: Vec<_> = error.message().lines().map(str::trim).collect();
        // The message repeats keys of the file, which may have escapes of a terminal.
        let message = lines.join(", ").replace(char::is_control, "\u{fffd}");
        Mistake::new(at, message)
    })?;
    if document.rules.is_empty() {
        let why = "has no [[rule]], so that every request would be refused";
        return Err(Mistake::new(0, why));
    }
    let rules: Vec<_> = document
        .rules
        .into_iter()
        .map(|written| Read::new(written, text))
        .collect::<Result<_, _>>()?;
    check_names(&rules)?;
    check_order(&rules)?;
    Ok(rules.into_iter().map(|read| read.rule).collect())
}

impl Read {
    fn new(written: Spanned<Written>, text: &str) -> Result<Self, Mistake> {
        let at = written.span().start;
        let written = written.into_inner();
        let line = position(text, at).0;
        let paths = written.paths.as_ref();
        let missing = || {
            Mistake::new(
                at,
                "the rule has no paths; expected for example paths = [\"/orders/**\"]",
            )
        };
        let paths_at = texts(paths.ok_or_else(missing)?);
        let rule = AccessRule {
            name: Some(match &written.name {
                Some(name) => given_name(name)?,
                None => RuleName::in_line(line),
            }),
            methods: each(written.methods.as_ref(), "methods", method)?,
            paths: each(paths, "paths", |text| text.parse().map_err(shown))?,
            access: access(&written, at)?,
        };
        Ok(Self {
            rule,
            line,
            name_at: written.name.as_ref().map_or(at, |name| name.span().start),
            paths_at: paths_at.map(|path| path.span().start).collect(),
        })
    }

    fn name(&self) -> String {
        let name = self.rule.name.as_ref().map(ToString::to_string);
        let by_line = RuleName::in_line(self.line).to_string();
        match name {
            Some(name) if name != by_line => format!("{name} in line {}", self.line),
            _ => by_line,
        }
    }
}

/// Returns the requests that a rule lets through. The rule begins at the offset `at`.
fn access(written: &Written, at: usize) -> Result<Access, Mistake> {
    match (&written.callers, &written.public) {
        (None, Some(public)) if *public.get_ref() => match &written.audiences {
            Some(audiences) => Err(Mistake::new(
                audiences.span().start,
                "a public rule needs no token, and so it has no audiences",
            )),
            None => Ok(Access::Public),
        },
        (Some(_), Some(public)) if *public.get_ref() => Err(Mistake::new(
            public.span().start,
            "the rule has callers and is public; leave one of them out",
        )),
        (None, _) => Err(Mistake::new(
            at,
            "the rule allows nobody; expected for example callers = [\"spiffe://example.org/client\"], or public = true",
        )),
        (Some(callers), _) => Ok(Access::Callers {
            allow: each(Some(callers), "callers", |text| text.parse().map_err(shown))?
                .into_iter()
                .collect(),
            audiences: each(written.audiences.as_ref(), "audiences", cli::audience)?,
        }),
    }
}

/// Parses the texts of a list, which must not be empty if it is given.
fn each<T>(
    list: Option<&List>,
    what: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, Mistake> {
    let Some(list) = list else {
        return Ok(Vec::new());
    };
    if list.get_ref().is_empty() {
        let why =
            format!("an empty list of {what} matches nothing; leave the rule or the list out");
        return Err(Mistake::new(list.span().start, why));
    }
    texts(list)
        .map(|text| {
            let mistake =
                |why| Mistake::new(text.span().start, format!("{:?}: {why}", text.get_ref()));
            parse(text.get_ref()).map_err(mistake)
        })
        .collect()
}

fn texts(list: &List) -> impl Iterator<Item = &Text> {
    list.get_ref().iter()
}

fn shown(error: impl fmt::Display) -> String {
    error.to_string()
}

/// Parses a method. Methods are compared in their case (RFC 9110 §9.1), and all that are in use are in
/// upper case.
fn method(text: &str) -> Result<Method, String> {
    match text.parse() {
        Ok(Method::CONNECT) => {
            Err("CONNECT opens a WebSocket over HTTP/2, which rules match as GET".to_owned())
        }
        Ok(method) if !text.contains(|letter: char| letter.is_ascii_lowercase()) => Ok(method),
        _ => Err("expected a method in upper case, for example GET".to_owned()),
    }
}

fn given_name(name: &Text) -> Result<RuleName, Mistake> {
    let text = name.get_ref();
    match (1..=MAX_NAME).contains(&text.len()) && !text.contains(char::is_control) {
        true => Ok(RuleName::given(text)),
        false => Err(Mistake::new(
            name.span().start,
            format!(
                "a name has 1 to {MAX_NAME} bytes and no control characters; expected for example \"orders\""
            ),
        )),
    }
}

/// Refuses a name that two rules have, because a log line could mean either.
fn check_names(rules: &[Read]) -> Result<(), Mistake> {
    let mut lines = HashMap::new();
    for read in rules {
        let name = read.rule.name.as_ref().map(ToString::to_string);
        if let Some(line) = lines.insert(name, read.line) {
            let why = format!("the rule in line {line} has the same name");
            return Err(Mistake::new(read.name_at, why));
        }
    }
    Ok(())
}

/// Refuses a path that never comes to its rule, because a rule before it matches the same requests.
fn check_order(rules: &[Read]) -> Result<(), Mistake> {
    for (index, read) in rules.iter().enumerate() {
        for (path, at) in read.rule.paths.iter().zip(&read.paths_at) {
            let covers = |before: &&Read| before.rule.covers(path, &read.rule.methods);
            if let Some(before) = rules[..index].iter().find(covers) {
                return Err(Mistake::new(
                    *at,
                    format!(
                        "{path} never comes to this rule, because {} matches these requests first; move this rule before it",
                        before.name()
                    ),
                ));
            }
        }
    }
    Ok(())
}

impl Mistake {
    fn new(at: usize, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { at, text }
    }

    fn place(self, within: &str) -> Fault {
        let (line, column) = position(within, self.at);
        Fault {
            line,
            column,
            text: self.text,
        }
    }
}

/// Returns the line and the column of an offset in bytes.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, text } = self;
        write!(f, "line {line}, column {column}: {text}")
    }
}

#[cfg(test)]
mod tests;
