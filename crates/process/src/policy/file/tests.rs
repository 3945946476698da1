use common::bearer::Verdict;
use spiffe::SpiffeId;

use super::*;

const EXAMPLE: &str = r#"
# Health checks need no token.
[[rule]]
name = "health"
methods = ["GET", "HEAD"]
paths = ["/healthz"]
public = true

[[rule]]
paths = ["/admin/**"]
callers = ["spiffe://example.org/admin"]
audiences = ["spiffe://example.org/admin-api"]

[[rule]]
name = "orders"
paths = ["/orders", "/orders/**"]
callers = ["spiffe://example.org/client", "spiffe://example.org/ns/shop/*"]
"#;

#[test]
fn rules_are_read_in_their_order_with_names_or_lines_u022() {
    let rules = parse(EXAMPLE.as_bytes()).unwrap();
    let names = rules
        .iter()
        .map(|rule| rule.name.as_ref().unwrap().to_string());
    let expected = [r#"rule "health""#, "the rule in line 9", r#"rule "orders""#];
    assert_eq!(names.collect::<Vec<_>>(), expected);
    let id = SpiffeId::new("spiffe://example.org/admin").unwrap();
    let verdict = |method, path| rules.verdict(&method, path, Some(&id));
    assert!(matches!(
        verdict(Method::HEAD, "/healthz"),
        Verdict::Public(_)
    ));
    assert!(matches!(
        verdict(Method::PUT, "/admin/x"),
        Verdict::Allowed(_)
    ));
    assert!(matches!(
        verdict(Method::PUT, "/orders"),
        Verdict::Refused(_)
    ));
    assert!(matches!(verdict(Method::PUT, "/healthz"), Verdict::NoRule));
    let audiences = rules.iter().map(|rule| rule.audiences(&[]).to_vec());
    let own = vec!["spiffe://example.org/admin-api".to_owned()];
    assert_eq!(audiences.collect::<Vec<_>>(), [vec![], own, vec![]]);
}

#[test]
fn a_mistake_is_found_with_its_line_and_column_u022() {
    let mut wrong = Vec::new();
    for (text, line, column, why) in [
        ("", 1, 1, "no [[rule]]"),
        ("\n# only a comment\n", 1, 1, "no [[rule]]"),
        ("[[rule]\n", 1, 8, "unclosed"),
        ("[[rule]]\npaths = [\"/a\"]\npublic = yes\n", 3, 10, ""),
        ("[[rule]]\npaths = [\"/a\"\n", 2, 14, "unclosed array"),
        ("x = 1\n[[rule]]\n", 1, 1, "unknown field `x`"),
        ("\"\\u001bx\" = 1\n", 1, 1, "unknown field `\\u{1b}x`"),
        ("[[rule]]\npath = [\"/a\"]\n", 2, 1, "unknown field `path`"),
        ("[[rule]]\npaths = \"/a\"\n", 2, 9, "expected a sequence"),
        ("[[rule]]\npaths = [1]\n", 2, 10, "expected a string"),
        (
            "[[rule]]\npaths = [\"/a\"]\npublic = 1\n",
            3,
            10,
            "expected a boolean",
        ),
        (
            "[[rule]]\npublic = true\npublic = true\n",
            3,
            1,
            "duplicate key",
        ),
        ("rule = 1\n", 1, 8, "expected a sequence"),
        ("\n[[rule]]\npublic = true\n", 2, 1, "has no paths"),
        (
            "[[rule]]\npaths = []\npublic = true\n",
            2,
            9,
            "an empty list of paths",
        ),
        ("[[rule]]\npaths = [\"/a\"]\n", 1, 1, "allows nobody"),
        (
            "[[rule]]\npaths = [\"/a\"]\npublic = false\n",
            1,
            1,
            "allows nobody",
        ),
        (
            "[[rule]]\npaths = [\"/a\"]\ncallers = []\n",
            3,
            11,
            "an empty list of callers",
        ),
        (
            "[[rule]]\npaths = [\"/a\"]\npublic = true\nmethods = []\n",
            4,
            11,
            "an empty list of methods",
        ),
        (
            "[[rule]]\npaths = [\"/a\", \"b\"]\npublic = true\n",
            2,
            16,
            "\"b\": expected a path from / on",
        ),
        (
            "[[rule]]\npaths = [\"/é\", \"/*\"]\npublic = true\n",
            2,
            10,
            "expected a path from / on",
        ),
        (
            "[[rule]]\nname = \"é\"\npaths = [\"/a\", \"/*\"]\npublic = true\n",
            3,
            16,
            "a star stands only",
        ),
        (
            "[[rule]]\nmethods = [\"get\"]\npaths = [\"/a\"]\npublic = true\n",
            2,
            12,
            "upper case",
        ),
        (
            "[[rule]]\nmethods = [\"CONNECT\"]\npaths = [\"/a\"]\npublic = true\n",
            2,
            12,
            "match as GET",
        ),
        (
            "[[rule]]\nmethods = [\"G T\"]\npaths = [\"/a\"]\npublic = true\n",
            2,
            12,
            "upper case",
        ),
        (
            "[[rule]]\npaths = [\"/a\"]\ncallers = [\"spiffe://a/b\", \"spiffe://a\"]\n",
            3,
            28,
            "spiffe://a/*",
        ),
        (
            "[[rule]]\npaths = [\"/a\"]\ncallers = [\"spiffe://a/*\"]\naudiences = [\"\"]\n",
            4,
            14,
            "an audience must not be empty",
        ),
        (
            "[[rule]]\npaths = [\"/a\"]\ncallers = [\"spiffe://a/*\"]\npublic = true\n",
            4,
            10,
            "leave one of them out",
        ),
        (
            "[[rule]]\npaths = [\"/a\"]\npublic = true\naudiences = [\"x\"]\n",
            4,
            13,
            "it has no audiences",
        ),
        (
            "[[rule]]\nname = \"\"\npaths = [\"/a\"]\npublic = true\n",
            2,
            8,
            "a name has 1 to 64 bytes",
        ),
    ] {
        let mistake = parse(text.as_bytes()).unwrap_err();
        let is_placed = (mistake.line, mistake.column) == (line, column);
        if !is_placed || !mistake.text.contains(why) || mistake.text.contains('\n') {
            wrong.push(format!("{text}{mistake}, expected {line} {column} {why}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let mistake = parse(b"# \xc3\xa9\n# \xff").unwrap_err();
    assert_eq!(mistake.to_string(), "line 2, column 3: is not UTF-8");
}

#[test]
fn a_rule_that_can_never_decide_is_a_mistake_u023() {
    let text = |first: &str, second: &str| {
        format!(
            "[[rule]]\nname = \"a\"\n{first}\npublic = true\n[[rule]]\n{second}\npublic = true\n"
        )
    };
    for (first, second, is_fine) in [
        ("paths = [\"/**\"]", "paths = [\"/a\"]", false),
        (
            "paths = [\"/a/**\"]",
            "paths = [\"/a\", \"/a/b/**\"]",
            false,
        ),
        ("paths = [\"/a\"]", "paths = [\"/**\"]", true),
        ("paths = [\"/**\"]", "paths = [\"/a/../b\"]", true),
        (
            "paths = [\"/**\"]\nmethods = [\"GET\"]",
            "paths = [\"/a\"]",
            true,
        ),
        (
            "paths = [\"/**\"]\nmethods = [\"GET\", \"PUT\"]",
            "paths = [\"/a\"]\nmethods = [\"PUT\"]",
            false,
        ),
        (
            "paths = [\"/**\"]\nmethods = [\"GET\"]",
            "paths = [\"/a\"]\nmethods = [\"PUT\"]",
            true,
        ),
    ] {
        let outcome = parse(text(first, second).as_bytes());
        assert_eq!(outcome.is_ok(), is_fine, "{first} {second}: {outcome:?}");
        if let Err(mistake) = outcome {
            let why = r#"is unreachable: rule "a" in line 1 already matches its requests"#;
            assert!(mistake.text.contains(why), "{mistake}");
        }
    }
    let unnamed = "[[rule]]\npaths = [\"/**\"]\npublic = true\n\
        [[rule]]\npaths = [\"/a\"]\npublic = true\n";
    let mistake = parse(unnamed.as_bytes()).unwrap_err();
    let why = "unreachable: the rule in line 1 already matches";
    assert!(mistake.text.contains(why), "{mistake}");
    let twice = "[[rule]]\nname = \"a\"\npaths = [\"/a\"]\npublic = true\n\
        [[rule]]\nname = \"a\"\npaths = [\"/b\"]\npublic = true\n";
    let mistake = parse(twice.as_bytes()).unwrap_err();
    assert!(
        mistake
            .text
            .contains("the rule in line 1 has the same name"),
        "{mistake}"
    );
    assert_eq!(mistake.line, 6);
}

const PARTS: [&str; 29] = [
    "[[rule]]",
    "[rule]",
    "\n",
    "\r\n",
    " ",
    "=",
    "[",
    "]",
    ",",
    "\"",
    "'''",
    "#",
    "\u{e9}",
    "\\u00",
    "\0",
    "name",
    "paths",
    "methods",
    "callers",
    "public",
    "true",
    "1",
    "\"/a\"",
    "\"/**\"",
    "\"GET\"",
    "paths = [\"/a\"]\n",
    "public = true\n",
    "callers = [\"spiffe://a/*\"]\n",
    "methods = [\"GET\"]\n",
];

proptest::proptest! {
    /// Checks that no text panics, and that a mistake has a place in the text or at its end.
    #[test]
    fn any_text_is_a_policy_or_a_mistake_in_a_place_u022(
        parts in proptest::collection::vec(proptest::sample::select(&PARTS[..]), 0..24),
    ) {
        let text = parts.concat();
        if let Err(mistake) = parse(text.as_bytes()) {
            let lines: Vec<_> = text.split('\n').collect();
            assert!((1..=lines.len()).contains(&mistake.line), "{text:?}: {mistake}");
            let length = lines[mistake.line - 1].chars().count();
            assert!((1..=length + 1).contains(&mistake.column), "{text:?}: {mistake}");
            assert!(!mistake.to_string().contains(disturbs_a_line), "{text:?}: {mistake:?}");
        }
    }

    /// Checks that no bytes panic.
    #[test]
    fn any_bytes_are_a_policy_or_a_mistake(
        bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
    ) {
        let _either = parse(&bytes);
    }
}
