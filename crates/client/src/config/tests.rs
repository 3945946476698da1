use super::*;

fn config(args: &[&str]) -> Result<Config, clap::Error> {
    Config::try_parse_from(["client"].iter().chain(args))
}

#[test]
fn the_default_audience_is_the_server() {
    for (args, audiences) in [
        (&[][..], &["spiffe://example.org/server"][..]),
        (&["--server-id", "spiffe://a.b/c"], &["spiffe://a.b/c"]),
        (&["a"], &["a"]),
        (&["b", "a", "b"], &["b", "a"]),
    ] {
        assert_eq!(config(args).unwrap().audiences(), audiences, "{args:?}");
    }
}

#[test]
fn requests_are_repeated_only_on_request() {
    let second = Duration::from_secs(1);
    for (args, pace) in [
        (&[] as &[&str], None),
        (&["--repeat", "3"], Some((Some(3), second))),
        (&["--every", "100ms"], Some((None, second / 10))),
        (
            &["--repeat", "3", "--every", "2s"],
            Some((Some(3), second * 2)),
        ),
    ] {
        let pace = pace.map(|(requests, every)| Pace { requests, every });
        assert_eq!(config(args).unwrap().pace(), pace, "{args:?}");
    }
}

#[test]
fn method_header_and_body_have_the_defaults_of_curl() {
    let request = config(&["-d", "a=b"]).unwrap().read_request().unwrap();
    assert_eq!(request.method(), Method::POST);
    assert_eq!(
        request.headers()["content-type"],
        "application/x-www-form-urlencoded"
    );
    let request = config(&[
        "-X",
        "PUT",
        "-H",
        "Content-Type: text/plain",
        "-H",
        "A: 1",
        "-H",
        "A: 2",
        "-d",
        "",
    ])
    .unwrap()
    .read_request()
    .unwrap();
    assert_eq!(request.method(), Method::PUT);
    assert_eq!(request.headers()["content-type"], "text/plain");
    assert_eq!(request.headers().get_all("a").iter().count(), 2);
}

#[test]
fn values_that_would_be_ignored_or_leak_are_refused() {
    for (args, text) in [
        (
            &["--url", "http://localhost:8443/"] as &[&str],
            "http would send the token in clear",
        ),
        (
            &["-H", "Authorization: Basic dTpw"],
            "authorization can't be set: it carries the JWT-SVID",
        ),
        (&["-X", "GE T"], "expected for example PUT"),
        (&["-H", "Host: a"], "host can't be set: it comes from --url"),
        (&["-H", "no colon"], "the colon is missing"),
        (&[""], "an audience must not be empty"),
        (
            &["--server-id", "spiffe://example.org"],
            "names a trust domain, not a workload",
        ),
        (&["--print-token", "-d", "x"], "cannot be used with"),
        (&["--print-token", "--print-bundle"], "cannot be used with"),
        (&["-m", "0s"], "must be more than zero"),
        (&["--repeat", "0"], "expected a whole number of at least 1"),
        (&["--repeat", "-1"], "unexpected argument '-1'"),
        (&["--every", "0s"], "must be more than zero"),
        (&["--every", "1"], "expected a number and a unit"),
        (&["--repeat", "2", "-i"], "cannot be used with"),
        (&["--every", "1s", "--print-token"], "cannot be used with"),
        (&["--every", "1s", "--print-bundle"], "cannot be used with"),
        (
            &["--token-command-timeout", "1s"],
            "--token-command <COMMAND>",
        ),
    ] {
        let error = config(args).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(text), "{args:?}: {error}");
    }
    // A route has all of these itself.
    let route = "a=https://b;server-id=spiffe://example.org/b";
    let routed = ["--listen", "127.0.0.1:1", "--route", route];
    for args in [
        &["spiffe://example.org/a"] as &[&str],
        &["--url", "https://a"],
        &["--server-id", "spiffe://example.org/a"],
        &["--server-name", "a"],
        &["--server-name", "a", "--ca", "b"],
    ] {
        let error = config(&[&routed, args].concat()).unwrap_err();
        assert!(error.to_string().contains("cannot be used with"), "{error}");
    }
    assert!(config(&routed).is_ok());
}
