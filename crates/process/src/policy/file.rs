//! The parser of a policy file. It returns the rules, or the first mistake with its line and column.

use std::{collections::HashMap, fmt};

use common::{
    bearer::{Access, AccessRule, RuleName, Rules},
    sanitize::{disturbs_a_line, on_a_line},
};
use http::Method;
use serde::Deserialize;
use toml::Spanned;

use crate::cli;

/// A mistake in a policy file, at a line and a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// The line, from 1 on.
    line: usize,
    /// The character of the line, from 1 on.
    column: usize,
    text: String,
}

/// A mistake that is found at an offset in bytes.
struct MistakeAt {
    offset: usize,
    text: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default, rename = "rule")]
    rules: Vec<Spanned<RawRule>>,
}

/// A rule whose texts are not parsed yet.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    name: Option<RawText>,
    methods: Option<RawList>,
    paths: Option<RawList>,
    callers: Option<RawList>,
    audiences: Option<RawList>,
    public: Option<Spanned<bool>>,
}

type RawText = Spanned<String>;
type RawList = Spanned<Vec<RawText>>;

/// A parsed rule, and its positions in the file.
struct LocatedRule {
    /// The rule, which has a name only if the file gives it one.
    rule: AccessRule,
    /// The line of the rule.
    line: usize,
    /// The offset of its name, if it has one.
    name_offset: Option<usize>,
    /// The offsets of its paths.
    path_offsets: Vec<usize>,
}

/// The longest name of a rule, in bytes.
const MAX_NAME: usize = 64;

/// Parses the rules of a policy file.
///
/// # Errors
/// Fails with the first mistake. A file without a rule is one, because a file that is being written may be
/// empty for a moment.
pub(super) fn parse(bytes: &[u8]) -> Result<Rules, Mistake> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        MistakeAt::new(valid.len(), "is not UTF-8").in_text(&valid)
    })?;
    parse_document(text).map_err(|mistake| mistake.in_text(text))
}

fn parse_document(text: &str) -> Result<Rules, MistakeAt> {
    let document: Document = toml::from_str(text).map_err(|error| {
        let offset = error.span().map_or(text.len(), |span| span.start);
        let lines: Vec<_> = error.message().lines().map(str::trim).collect();
        // The message repeats keys of the file, which may have escapes of a terminal.
        MistakeAt::new(offset, on_a_line(&lines.join(", ")))
    })?;
    if document.rules.is_empty() {
        let why = "has no [[rule]], so that every request would be refused";
        return Err(MistakeAt::new(0, why));
    }
    let raw = document.rules.into_iter();
    let rules: Vec<_> = raw
        .map(|rule| LocatedRule::parse(rule, text))
        .collect::<Result<_, _>>()?;
    check_names(&rules)?;
    check_order(&rules)?;
    Ok(rules.into_iter().map(LocatedRule::named).collect())
}

impl LocatedRule {
    fn parse(raw: Spanned<RawRule>, text: &str) -> Result<Self, MistakeAt> {
        let offset = raw.span().start;
        let raw = raw.into_inner();
        let Some(paths) = &raw.paths else {
            let why = "the rule has no paths; expected for example paths = [\"/orders/**\"]";
            return Err(MistakeAt::new(offset, why));
        };
        let rule = AccessRule {
            name: raw.name.as_ref().map(given_name).transpose()?,
            methods: parse_list(raw.methods.as_ref(), "methods", method)?,
            paths: parse_list(Some(paths), "paths", |text| text.parse().map_err(to_text))?,
            access: access(&raw, offset)?,
        };
        Ok(Self {
            rule,
            line: position(text, offset).0,
            name_offset: raw.name.as_ref().map(|name| name.span().start),
            path_offsets: texts(paths).map(|path| path.span().start).collect(),
        })
    }

    /// Returns the rule. A rule without a name has its line as one.
    fn named(self) -> AccessRule {
        let name = self.rule.name;
        AccessRule {
            name: name.or_else(|| Some(RuleName::in_line(self.line))),
            ..self.rule
        }
    }

    /// Returns the rule's name and line for an error.
    fn words(&self) -> String {
        match &self.rule.name {
            Some(name) => format!("{name} in line {}", self.line),
            None => RuleName::in_line(self.line).to_string(),
        }
    }
}

/// Returns the access that a rule gives: to everyone, or to its callers. The rule begins at `offset`.
fn access(raw: &RawRule, offset: usize) -> Result<Access, MistakeAt> {
    let public = raw.public.as_ref().filter(|public| *public.get_ref());
    match (&raw.callers, public, &raw.audiences) {
        (None, Some(_), None) => Ok(Access::Public),
        (Some(callers), None, audiences) => {
            let callers = parse_list(Some(callers), "callers", |text| {
                text.parse().map_err(to_text)
            });
            Ok(Access::Callers {
                allow: callers?.into_iter().collect(),
                audiences: parse_list(audiences.as_ref(), "audiences", cli::audience)?,
            })
        }
        (None, Some(_), Some(audiences)) => Err(MistakeAt::new(
            audiences.span().start,
            "a public rule needs no token, and so it has no audiences",
        )),
        (Some(_), Some(public), _) => Err(MistakeAt::new(
            public.span().start,
            "the rule has callers and is public; leave one of them out",
        )),
        (None, None, _) => Err(MistakeAt::new(
            offset,
            "the rule allows nobody; expected for example callers = [\"spiffe://example.org/client\"], or public = true",
        )),
    }
}

/// Parses the texts of a list, which must not be empty if it is given.
fn parse_list<T>(
    list: Option<&RawList>,
    what: &str,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, MistakeAt> {
    let Some(list) = list else {
        return Ok(Vec::new());
    };
    if list.get_ref().is_empty() {
        let why =
            format!("an empty list of {what} matches nothing; leave the rule or the list out");
        return Err(MistakeAt::new(list.span().start, why));
    }
    texts(list)
        .map(|text| {
            let mistake =
                |why| MistakeAt::new(text.span().start, format!("{:?}: {why}", text.get_ref()));
            parse(text.get_ref()).map_err(mistake)
        })
        .collect()
}

fn texts(list: &RawList) -> impl Iterator<Item = &RawText> {
    list.get_ref().iter()
}

fn to_text(error: impl fmt::Display) -> String {
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

fn given_name(name: &RawText) -> Result<RuleName, MistakeAt> {
    let text = name.get_ref();
    if (1..=MAX_NAME).contains(&text.len()) && !text.contains(disturbs_a_line) {
        Ok(RuleName::given(text))
    } else {
        Err(MistakeAt::new(
            name.span().start,
            format!(
                "a name has 1 to {MAX_NAME} bytes and no control characters; expected for example \"orders\""
            ),
        ))
    }
}

/// Refuses a name that two rules have, because a log line could mean either.
fn check_names(rules: &[LocatedRule]) -> Result<(), MistakeAt> {
    let mut lines = HashMap::new();
    for located in rules {
        let (Some(name), Some(offset)) = (&located.rule.name, located.name_offset) else {
            continue;
        };
        if let Some(line) = lines.insert(name.to_string(), located.line) {
            let why = format!("the rule in line {line} has the same name");
            return Err(MistakeAt::new(offset, why));
        }
    }
    Ok(())
}

/// Refuses an unreachable path, because a rule before its own matches the same requests.
fn check_order(rules: &[LocatedRule]) -> Result<(), MistakeAt> {
    for (index, located) in rules.iter().enumerate() {
        let rule = &located.rule;
        for (path, offset) in rule.paths.iter().zip(&located.path_offsets) {
            let covers = |before: &&LocatedRule| before.rule.covers(path, &rule.methods);
            if let Some(before) = rules[..index].iter().find(covers) {
                let why = format!(
                    "{path} is unreachable: {} already matches its requests; move this rule before it",
                    before.words()
                );
                return Err(MistakeAt::new(*offset, why));
            }
        }
    }
    Ok(())
}

impl MistakeAt {
    fn new(offset: usize, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { offset, text }
    }

    /// Returns the mistake with its position in the text of the file.
    fn in_text(self, text: &str) -> Mistake {
        let (line, column) = position(text, self.offset);
        Mistake {
            line,
            column,
            text: self.text,
        }
    }
}

/// Returns the line and the column of an offset in bytes.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.rsplit('\n').next().unwrap_or_default();
    (before.matches('\n').count() + 1, line.chars().count() + 1)
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, text } = self;
        write!(f, "line {line}, column {column}: {text}")
    }
}

#[cfg(test)]
mod tests;
