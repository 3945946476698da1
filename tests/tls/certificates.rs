use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use harness::{
    CLIENT_ID, SERVER_ID, Stack,
    https::Https,
    process::Process,
    raw::{Client, End},
    wait::until,
    x509::{Authority, Presenting, Svid, expires_in, uri},
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose as Eku, IsCa,
    KeyUsagePurpose as Ku, date_time_ymd,
};
use rustls::{HandshakeKind, version};

const ODD_ID: &str = "spiffe://odd.test/caller";
const GET: &str = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
const ACCEPT: [&str; 2] = ["--client-certificates", "accept"];
const ALLOW_ODD: [&str; 2] = ["--allow", "spiffe://odd.test/*"];

fn unchanged(_: &mut CertificateParams) {}

/// Starts a server whose agent federates with `odd.test`, of which `root` is the CA.
async fn server(root: &Authority, args: &[&str]) -> (Stack, Process, Https) {
    let stack = Stack::federated(root.bundle("odd.test")).await;
    let server = stack.server(args).await;
    let https = stack.https(server.listening().await);
    (stack, server, https)
}

/// Connects with this certificate, if there is one.
async fn connect(https: &Https, svid: Option<&Svid>) -> std::io::Result<Client> {
    let mut config = https.config(&[b"http/1.1"]);
    if let Some(svid) = svid {
        config.client_auth_cert_resolver = svid.presented();
    }
    let connected = https.connect_with(config, "localhost").await?;
    Ok(Client::over(connected))
}

/// Returns the status of the answer to a request on a connection of its own, or `None` if the handshake is
/// refused.
async fn status(https: &Https, svid: Option<&Svid>, request: &str) -> Option<u16> {
    let mut client = connect(https, svid).await.ok()?;
    client.send(request).await;
    Some(client.answer().await?.status())
}

#[tokio::test]
async fn only_certificates_that_are_x509_svids_stand_for_callers_t021() {
    let (root, unknown) = (Authority::root(), Authority::root());
    let good = root.intermediate(unchanged);
    let cannot_sign = root.intermediate(|params| params.key_usages = vec![Ku::DigitalSignature]);
    let leaf = |change: &dyn Fn(&mut CertificateParams)| root.issue(ODD_ID, change);
    let named = |texts: &[&str]| {
        let names: Vec<_> = texts.iter().map(|text| uri(text)).collect();
        leaf(&|params| params.subject_alt_names = names.clone())
    };
    let usages = |usages: &[Ku]| leaf(&|params| params.key_usages = usages.to_vec());
    let extended = |usages: &[Eku]| leaf(&|params| params.extended_key_usages = usages.to_vec());
    let with_dns = leaf(&|params| {
        let name = rcgen::SanType::DnsName("caller.test".try_into().unwrap());
        params.subject_alt_names.push(name);
    });
    let cases = [
        ("a caller", true, leaf(&unchanged)),
        ("a DNS name", true, with_dns),
        (
            "no subject",
            true,
            leaf(&|params| params.distinguished_name = rcgen::DistinguishedName::new()),
        ),
        (
            "an intermediate",
            true,
            good.issue(ODD_ID, unchanged).below(&good),
        ),
        (
            "clientAuth",
            true,
            extended(&[Eku::ServerAuth, Eku::ClientAuth]),
        ),
        ("serverAuth alone", false, extended(&[Eku::ServerAuth])),
        ("an unknown CA", false, unknown.issue(ODD_ID, unchanged)),
        (
            "an intermediate that may not sign",
            false,
            cannot_sign.issue(ODD_ID, unchanged).below(&cannot_sign),
        ),
        (
            "expired",
            false,
            leaf(&|params| params.not_after = date_time_ymd(2020, 1, 1)),
        ),
        (
            "not yet valid",
            false,
            leaf(&|params| params.not_before = date_time_ymd(4000, 1, 1)),
        ),
        (
            "a CA",
            false,
            leaf(&|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        (
            "no basic constraints",
            false,
            leaf(&|params| params.is_ca = IsCa::NoCa),
        ),
        (
            "keyCertSign",
            false,
            usages(&[Ku::DigitalSignature, Ku::KeyCertSign]),
        ),
        (
            "cRLSign",
            false,
            usages(&[Ku::DigitalSignature, Ku::CrlSign]),
        ),
        ("no digitalSignature", false, usages(&[Ku::KeyAgreement])),
        ("no key usage", false, usages(&[])),
        ("no URI", false, named(&[])),
        ("two URIs", false, named(&[ODD_ID, "https://odd.test/"])),
        ("another scheme", false, named(&["https://odd.test/caller"])),
        ("no path", false, named(&["spiffe://odd.test"])),
        ("a port", false, named(&["spiffe://odd.test:1/caller"])),
        ("dots", false, named(&["spiffe://odd.test/a/../caller"])),
        (
            "a domain without a bundle",
            false,
            named(&["spiffe://nowhere.test/caller"]),
        ),
        ("our own domain", false, named(&[CLIENT_ID])),
    ];
    let args = [ACCEPT, ALLOW_ODD, ["--allow", "spiffe://example.org/*"]];
    let (_stack, server, https) = server(&root, args.as_flattened()).await;
    for (case, is_accepted, svid) in cases {
        let expected = is_accepted.then_some(200);
        assert_eq!(status(&https, Some(&svid), GET).await, expected, "{case}");
    }
    server
        .logged("TLS handshake refused: no X.509 bundle for trust domain nowhere.test")
        .await;
    server
        .logged(r#"caller=spiffe://odd.test/caller credential="certificate""#)
        .await;
}

#[tokio::test]
async fn part_of_a_chain_that_is_not_processed_is_named_t026() {
    let root = Authority::root();
    let critical = |oid: &[u64]| {
        let mut extension = CustomExtension::from_oid_content(oid, vec![0x30, 0]);
        extension.set_criticality(true);
        vec![extension]
    };
    let with = |oid: &[u64]| root.issue(ODD_ID, |params| params.custom_extensions = critical(oid));
    let ca = root.intermediate(|params| params.custom_extensions = critical(&[2, 5, 29, 54]));
    let constrained = root.intermediate(|params| {
        let name = rcgen::DistinguishedName::new();
        params.name_constraints = Some(rcgen::NameConstraints {
            permitted_subtrees: vec![rcgen::GeneralSubtree::DirectoryName(name)],
            excluded_subtrees: vec![],
        });
    });
    let args = [ACCEPT, ALLOW_ODD];
    let (_stack, server, https) = server(&root, args.as_flattened()).await;
    for (svid, text) in [
        (
            with(&[2, 5, 29, 32]),
            "the critical extension certificatePolicies (2.5.29.32) of the leaf certificate",
        ),
        (
            with(&[1, 2, 3]),
            "the critical extension 1.2.3 of the leaf certificate",
        ),
        (
            ca.issue(ODD_ID, unchanged).below(&ca),
            "the critical extension inhibitAnyPolicy (2.5.29.54) of certificate 2 of the chain (CN=intermediate)",
        ),
        (
            constrained.issue(ODD_ID, unchanged).below(&constrained),
            "the name constraint (2.5.29.30) over directory names of certificate 2 of the chain (CN=intermediate)",
        ),
    ] {
        assert_eq!(status(&https, Some(&svid), GET).await, None, "{text}");
        server.logged(text).await;
    }
}

#[tokio::test]
async fn token_decides_where_there_is_one_and_otherwise_the_certificate_t022() {
    let root = Authority::root();
    let args = [ACCEPT, ALLOW_ODD, ["--allow", CLIENT_ID]];
    let (stack, server, https) = server(&root, args.as_flattened()).await;
    let svid = root.issue(ODD_ID, unchanged);
    let request = |fields: &str| format!("GET / HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    let token = |token: &str| request(&format!("Authorization: Bearer {token}\r\n"));
    let good = stack.token(|_| ());
    let stranger = stack.token(|claims| claims.payload["sub"] = "spiffe://example.org/x".into());
    for (case, fields, expected) in [
        ("no token", request(""), 200),
        ("a token", token(&good), 200),
        ("a bad token", token("bad"), 401),
        (
            "no token after Bearer",
            request("Authorization: Bearer\r\n"),
            400,
        ),
        (
            "a token of a caller that is not allowed",
            token(&stranger),
            403,
        ),
        ("through a proxy", request("Via: 1.1 proxy\r\n"), 401),
        ("through a proxy", request("Forwarded: for=x\r\n"), 401),
        ("through a proxy", request("X-Forwarded-For: ::1\r\n"), 401),
    ] {
        let found = status(&https, Some(&svid), &fields).await;
        assert_eq!(found, Some(expected), "{case}");
    }
    server
        .logged("caller=spiffe://example.org/client method")
        .await;
    assert_eq!(status(&https, None, GET).await, Some(401));
    assert_eq!(status(&https, None, &token(&good)).await, Some(200));
    // The certificate of another caller, where patterns allow it and where they do not.
    let other = root.issue("spiffe://odd.test/other", unchanged);
    assert_eq!(status(&https, Some(&other), GET).await, Some(200));
    let args = [ACCEPT, ["--allow", ODD_ID]];
    let (_one, _server, https) = self::server(&root, args.as_flattened()).await;
    assert_eq!(status(&https, Some(&svid), GET).await, Some(200));
    assert_eq!(status(&https, Some(&other), GET).await, Some(403));
    let default = Stack::federated(root.bundle("odd.test")).await;
    let server = default.server(&ACCEPT).await;
    let https = default.https(server.listening().await);
    assert_eq!(status(&https, Some(&svid), GET).await, Some(403));
}

#[tokio::test]
async fn server_with_peers_takes_connections_of_its_proxies_only_t023() {
    let root = Authority::root();
    let peers = [
        "--peers",
        SERVER_ID,
        "--peers",
        "spiffe://odd.test/proxies/*",
    ];
    let (stack, server, https) = server(&root, &peers).await;
    let port = server.listening().await;
    let proxy = stack.proxy(port, &["--client-certificate"]).await;
    let output = stack.client(proxy.listening().await, &[]).await;
    assert_eq!(output.stdout, b"Success!!!");
    let without = stack.proxy(port, &[]).await;
    // The server's alert is lost at times, because the connection breaks while the request is sent.
    until(async || {
        let output = stack.client(without.listening().await, &[]).await;
        assert_eq!(output.stderr, b"502 Bad Gateway\n");
        let log = without.log();
        log.iter()
            .any(|line| line.contains("it requires a certificate"))
    })
    .await;
    // A certificate opens the connection, and is not a caller's.
    let own = root.issue("spiffe://odd.test/proxies/a", unchanged);
    assert_eq!(status(&https, Some(&own), GET).await, Some(401));
    let other = root.issue(ODD_ID, unchanged);
    assert_eq!(status(&https, Some(&other), GET).await, None);
    server
        .logged("TLS handshake refused: spiffe://odd.test/caller may not connect")
        .await;
    assert_eq!(status(&https, None, GET).await, None);
    server
        .logged("TLS handshake refused: peer sent no certificates")
        .await;
}

#[tokio::test]
async fn proxy_presents_its_svid_only_on_request_t023() {
    let root = Authority::root();
    let stack = Stack::federated(root.bundle("odd.test")).await;
    for (args, is_presented) in [(&["--client-certificate"][..], true), (&[], false)] {
        let upstream = Presenting::requesting(&stack.agent.x509_bundle_pem()).await;
        upstream.present(&root.issue("spiffe://odd.test/server", unchanged));
        let args = [&["--upstream-id", "spiffe://odd.test/server"], args].concat();
        let proxy = stack.proxy(upstream.port, &args).await;
        let https = stack.https(proxy.listening().await);
        assert_eq!(status(&https, None, GET).await, Some(200));
        let presented = upstream.seen().certificates.load(SeqCst);
        assert_eq!(presented > 0, is_presented);
    }
}

#[tokio::test]
async fn certificate_stands_for_its_caller_while_it_can_be_verified_t024() {
    for is_expiry in [true, false] {
        let root = Authority::root();
        let args = [ACCEPT, ALLOW_ODD];
        let (stack, _server, https) = server(&root, args.as_flattened()).await;
        let svid = root.issue(ODD_ID, |params| {
            let life = if is_expiry { 8 } else { 3600 };
            expires_in(params, Duration::from_secs(life));
        });
        let mut client = connect(&https, Some(&svid)).await.unwrap();
        client.send(GET).await;
        assert_eq!(client.answer().await.unwrap().status(), 200);
        if !is_expiry {
            stack.agent.set_federated(vec![]).unwrap();
        }
        assert_eq!(client.end().await, (Vec::new(), End::Clean));
        until(async || status(&https, Some(&svid), GET).await.is_none()).await;
    }
}

#[tokio::test]
async fn connection_lives_through_updates_that_change_no_bundle_t024() {
    let root = Authority::root();
    let args = [ACCEPT, ALLOW_ODD];
    let (stack, server, https) = server(&root, args.as_flattened()).await;
    let svid = root.issue(ODD_ID, unchanged);
    let mut client = connect(&https, Some(&svid)).await.unwrap();
    stack.agent.rotate_x509();
    server.logged("identity updated").await;
    for _ in 0..20 {
        client.send(GET).await;
        assert_eq!(client.answer().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn session_of_a_caller_with_a_certificate_is_not_resumed_t025() {
    let root = Authority::root();
    let args = [ACCEPT, ALLOW_ODD];
    let (_stack, _server, https) = server(&root, args.as_flattened()).await;
    let svid = root.issue(ODD_ID, unchanged);
    for versions in [&[&version::TLS13], &[&version::TLS12]] {
        let mut config = https.config_of(versions, &[b"http/1.1"]);
        config.client_auth_cert_resolver = svid.presented();
        for _ in 0..3 {
            let tls = https.connect_with(config.clone(), "localhost").await;
            let tls = tls.unwrap();
            let kind = tls.get_ref().1.handshake_kind();
            assert_ne!(kind, Some(HandshakeKind::Resumed));
            let mut client = Client::over(tls);
            client.send(GET).await;
            assert_eq!(client.answer().await.unwrap().status(), 200);
        }
    }
}

#[tokio::test]
async fn the_rules_of_a_policy_decide_about_callers_with_certificates_u020() {
    let root = Authority::root();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.toml");
    let rule = "[[rule]]\nname = \"odd\"\nmethods = [\"GET\"]\npaths = [\"/\"]\n\
        callers = [\"spiffe://odd.test/caller\"]\naudiences = [\"other\"]\n";
    std::fs::write(&path, rule).unwrap();
    let args = [&ACCEPT[..], &["--policy", path.to_str().unwrap()]].concat();
    let (_stack, server, https) = server(&root, &args).await;
    let caller = root.issue(ODD_ID, unchanged);
    let other = root.issue("spiffe://odd.test/other", unchanged);
    let post = GET
        .replace("GET", "POST")
        .replace("\r\n\r\n", "\r\nContent-Length: 0\r\n\r\n");
    for (svid, request, expected) in [
        (Some(&caller), GET, 200),
        (Some(&caller), post.as_str(), 403),
        (Some(&other), GET, 403),
        (None, GET, 401),
    ] {
        assert_eq!(
            status(&https, svid, request).await,
            Some(expected),
            "{request}"
        );
    }
    server
        .logged("spiffe://odd.test/other is not a caller of rule \"odd\"")
        .await;
    server
        .logged("spiffe://odd.test/caller sent a request that no rule matches")
        .await;
}
