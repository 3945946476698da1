use std::{fs, path::Path};

use dev_agent::{Config, DevAgent};
use harness::{
    CLIENT_ID, SERVER_ID, Stack,
    admin::Admin,
    chromium::Chromium,
    https::get,
    process::{Process, free_ports},
    wait::until_some,
};
use serde_json::json;
use spiffe::SpiffeId;
use tempfile::TempDir;

/// A server whose status page has an entry in each part.
struct Shown {
    stack: Stack,
    _partner: (DevAgent, TempDir),
    server: Process,
    admin: Admin,
}

/// Starts a server in front of an application that is down. It has a federated trust domain, has refused
/// requests, and its X.509-SVID was rotated.
async fn shown() -> Shown {
    let directory = tempfile::tempdir().unwrap();
    let entry = "spiffe://partner.example/caller=unix:uid:0"
        .parse()
        .unwrap();
    let socket = directory.path().join("partner.sock");
    let partner = DevAgent::start(Config::new(socket, vec![entry]))
        .await
        .unwrap();
    let stack = Stack::federated(partner.federation()).await;
    let [dead] = free_ports();
    let url = format!("http://127.0.0.1:{dead}");
    let (server, admin) = stack.server_with_admin(&["--upstream", &url]).await;
    let https = stack.https(server.listening().await);
    let stranger = partner.jwt_claims("spiffe://partner.example/caller", &[SERVER_ID]);
    for (token, status) in [
        (
            stack.token(|claims| claims.payload["aud"] = json!(["spiffe://example.org/other"])),
            401,
        ),
        (stack.token(|claims| claims.payload["exp"] = json!(1)), 401),
        (partner.mint_jwt(&stranger), 403),
        ("<script>alert(1)</script>".to_owned(), 400),
        (stack.token(|_| ()), 502),
    ] {
        let bearer = format!("Bearer {token}");
        let answer = https.send(get(&[("authorization", &bearer)])).await;
        assert_eq!(answer.status, status);
    }
    assert_eq!(https.send(get(&[])).await.status, 401);
    stack.agent.rotate_x509();
    server.logged("identity updated").await;
    Shown {
        admin,
        server,
        stack,
        _partner: (partner, directory),
    }
}

#[tokio::test]
async fn page_has_identity_trust_refusals_and_changes_without_a_script() {
    let Shown {
        stack,
        admin,
        server,
        ..
    } = &shown().await;
    let https = stack.https(server.listening().await);
    // The application may be tried again between a request and the query of the page.
    let page = until_some(async || {
        assert_eq!(https.status(&stack.token(|_| ())).await, 502);
        let page = admin.page().await;
        page.body.contains("ejected, tried again").then_some(page)
    })
    .await;
    assert_eq!(page.status, 200);
    assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
    let policy = page.headers["content-security-policy"].to_str().unwrap();
    assert!(
        policy.contains("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    for text in [
        SERVER_ID,
        CLIENT_ID,
        "jwt_bundles/example.org",
        "spiffe://partner.example/caller",
        r#"<span class="reason">not_allowed</span> 403"#,
        "ejected, tried again in ",
        r#"<span class="reason">audience</span> 401"#,
        r#"<span class="reason">expired</span> 401"#,
        r#"<span class="reason">no_token</span> 401"#,
        "here for ",
        " left</p>",
        "identity issued: X.509-SVID",
        "identity updated: X.509-SVID",
        "listening on 127.0.0.1:",
    ] {
        assert!(page.body.contains(text), "{text} in {}", page.body);
    }
    assert!(!page.body.contains("<script"), "{}", page.body);
    let token = stack.token(|_| ());
    assert!(!page.body.contains(&token[..20]), "{}", page.body);
    assert_eq!(
        admin.get("/style.css").await.headers["content-type"],
        "text/css; charset=utf-8"
    );
    let text = admin.get("/").await;
    assert_eq!(text.headers["content-type"], "text/plain; charset=utf-8");
}

#[tokio::test]
async fn request_that_exceeds_a_bound_is_among_those_that_are_not_served() {
    let stack = Stack::new().await;
    let (server, admin) = stack.server_with_admin(&[]).await;
    let mut request = get(&[]);
    *request.uri_mut() = format!("/{}", "a".repeat(9000)).parse().unwrap();
    let https = stack.https(server.listening().await);
    assert_eq!(https.send(request).await.status, 414);
    let page = admin.page().await.body;
    let refused = r#"<span class="reason">target_too_long</span> 414"#;
    assert!(
        page.contains(refused) && page.contains("GET /aaa"),
        "{page}"
    );
}

#[tokio::test]
async fn page_is_readable_in_a_browser_on_a_phone_and_on_a_desk_in_light_and_dark() {
    let Some(mut browser) = Chromium::start().await else {
        return;
    };
    let Shown { stack, admin, .. } = &shown().await;
    let url = format!("http://{}/?refresh=off", admin.address());
    for (width, scheme) in [
        (360, "light"),
        (360, "dark"),
        (1280, "light"),
        (1280, "dark"),
    ] {
        browser.show(width, scheme).await;
        browser.open(&url).await;
        assert_eq!(browser.complaints(), [] as [&str; 0], "{width} {scheme}");
        let title = browser.evaluate("document.title").await;
        assert!(title.as_str().unwrap().starts_with("server is "), "{title}");
        let text = browser.evaluate("document.body.innerText").await;
        assert!(text.as_str().unwrap().contains(SERVER_ID), "{text}");
        let wide = "document.documentElement.scrollWidth > innerWidth";
        let wide = browser.evaluate(wide).await;
        assert_eq!(wide, false, "it does not scroll sideways");
        let small = "[...document.querySelectorAll('td, dd, li, p, a')]
            .filter(one => parseFloat(getComputedStyle(one).fontSize) < 13).length";
        assert_eq!(browser.evaluate(small).await, 0, "no text is small");
        let background = "getComputedStyle(document.body).backgroundColor";
        let background = browser.evaluate(background).await;
        let expected = match scheme {
            "dark" => "rgb(20, 23, 26)",
            _ => "rgb(244, 245, 247)",
        };
        assert_eq!(background, expected, "{width} {scheme}");
        let picture = browser.picture().await;
        let file = format!("admin-page-{width}-{scheme}.png");
        fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join(file), &picture).unwrap();
        assert!(picture.starts_with(b"\x89PNG"), "a picture");
    }
    let id = SpiffeId::new(SERVER_ID).unwrap();
    stack.agent.withdraw(&id);
    admin.becomes("not ready", "identity", "lost").await;
    browser.open(&url).await;
    let title = browser.evaluate("document.title").await;
    assert_eq!(title, "server is not ready");
}
