use harness::{
    SERVER_ID, Stack,
    https::get,
    process::Process,
    wait::until,
    x509::{Authority, Presenting, Svid, bundle_of, uri},
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose as Eku, IsCa,
    KeyUsagePurpose as Ku, date_time_ymd,
};

/// A trust domain whose CA is the test's own. The agent publishes its bundle.
const ODD: &str = "odd.test";
const ODD_ID: &str = "spiffe://odd.test/server";

/// Starts a proxy in front of an upstream that must be `upstream_id`. Its agent federates with
/// [`ODD`].
async fn proxy(root: &Authority, upstream: &Presenting, upstream_id: &str) -> (Stack, Process) {
    let stack = Stack::federated(root.bundle(ODD)).await;
    let proxy = stack
        .proxy(upstream.port, &["--upstream-id", upstream_id])
        .await;
    (stack, proxy)
}

fn unchanged(_: &mut CertificateParams) {}

/// Issues an SVID with these URIs instead of the right one.
fn uris(root: &Authority, uris: &[&str]) -> Svid {
    let names = uris.iter().map(|text| uri(text)).collect();
    root.issue(ODD_ID, |params| params.subject_alt_names = names)
}

fn leaf(root: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Svid {
    root.issue(ODD_ID, change)
}

fn below(intermediate: &Authority) -> Svid {
    intermediate.issue(ODD_ID, unchanged).below(intermediate)
}

/// Returns NameConstraints (RFC 5280 §4.2.1.10) that permit URIs of one host only.
fn permits_only(host: &str) -> CustomExtension {
    let wrap = |tag: u8, content: Vec<u8>| [vec![tag, content.len() as u8], content].concat();
    let base = wrap(0x86, host.into());
    let content = wrap(0x30, wrap(0xa0, wrap(0x30, base)));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    extension.set_criticality(true);
    extension
}

/// A certificate of an upstream: its fault, whether a proxy accepts it, and the certificate itself.
type Case = (&'static str, bool, Svid);

/// Asserts which certificates a proxy accepts from [`ODD_ID`]. It sends no request to an upstream with another one.
async fn check(root: &Authority, cases: impl IntoIterator<Item = Case>) {
    let upstream = Presenting::closing().await;
    let (stack, mut proxy) = proxy(root, &upstream, ODD_ID).await;
    let https = stack.https(proxy.listening().await);
    for (case, is_accepted, svid) in cases {
        upstream.present(&svid);
        let before = upstream.seen().requests();
        let answer = https.send(get(&[])).await;
        let requests = upstream.seen().requests() - before;
        let expected = if is_accepted { (200, 1) } else { (502, 0) };
        assert_eq!((answer.status.as_u16(), requests), expected, "{case}");
    }
    // A SPIFFE ID is logged as a whole, because its form is known. All other text is cut.
    for line in proxy.whole_log().await.lines() {
        assert!(line.len() < 2600, "{} bytes: {line:.600}", line.len());
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
    }
}

/// P175: its log lines are short and have no control characters.
#[tokio::test]
async fn only_the_spiffe_id_of_an_upstream_identifies_it_p182() {
    let root = Authority::root();
    let id = |id| root.issue(id, unchanged);
    let uris = |all: &[&str]| uris(&root, all);
    let named = |id, names: Vec<String>| {
        let names = names.into_iter();
        let names = names.map(|name| rcgen::SanType::DnsName(name.try_into().unwrap()));
        root.issue(id, |params| params.subject_alt_names.extend(names))
    };
    let (other, foreign) = ("spiffe://odd.test/other", "spiffe://other.test/server");
    let web = "https://odd.test/server";
    let words = "spiffe://odd.test/\n\u{1b}INFO";
    let of_another = named(ODD_ID, vec!["other.test".into()]);
    let many = (0..1000).map(|n| format!("name-{n}.test")).collect();
    let long = format!("{ODD_ID}{}", "a".repeat(2048));
    let cases = [
        ("P182 no DNS name", true, id(ODD_ID)),
        ("P182 a DNS name of another", true, of_another),
        ("P183 another path", false, id(other)),
        ("P183 a longer path", false, id("spiffe://odd.test/server2")),
        ("P183 a path below", false, id("spiffe://odd.test/server/2")),
        ("P183 another domain", false, id(foreign)),
        ("P183 our own domain", false, id(SERVER_ID)),
        ("P183 a name as long as can be", false, id(&long[..2048])),
        ("P183 a thousand names", false, named(other, many)),
        ("P185 no URI", false, uris(&[])),
        ("P185 two SPIFFE IDs", false, uris(&[ODD_ID, other])),
        ("P185 a second URI", false, uris(&[ODD_ID, web])),
        ("P185 another scheme", false, uris(&[web])),
        ("P185 words for the log", false, uris(&[words])),
        ("P186 D45 no path", false, id("spiffe://odd.test")),
        ("P194 D50 longer than 2048 bytes", false, id(&long)),
    ];
    check(&root, cases).await;
}

#[tokio::test]
async fn upstream_whose_certificate_may_not_identify_a_server_is_refused_p187() {
    let root = Authority::root();
    let usages = |all: &[Ku]| leaf(&root, |params| params.key_usages = all.to_vec());
    let extended = |all: &[Eku]| leaf(&root, |params| params.extended_key_usages = all.to_vec());
    let ca = |is_ca| leaf(&root, |params| params.is_ca = is_ca);
    let nameless = leaf(&root, |params| {
        params.distinguished_name = rcgen::DistinguishedName::new();
    });
    let (sign, agree) = (Ku::DigitalSignature, Ku::KeyAgreement);
    let unlimited = BasicConstraints::Unconstrained;
    let both = [Eku::ServerAuth, Eku::ClientAuth];
    let cases = [
        ("P187 a CA", false, ca(IsCa::Ca(unlimited))),
        ("P187 keyCertSign", false, usages(&[sign, Ku::KeyCertSign])),
        ("P187 cRLSign", false, usages(&[sign, Ku::CrlSign])),
        ("P188 D46 no BasicConstraints", false, ca(IsCa::NoCa)),
        ("P189 D47 no KeyUsage", false, usages(&[])),
        ("P189 D47 no digitalSignature", false, usages(&[agree])),
        ("P190 D48 clientAuth", false, extended(&[Eku::ClientAuth])),
        ("P190 D48 serverAuth", true, extended(&both)),
        ("T13 no subject, and a critical SAN", true, nameless),
    ];
    check(&root, cases).await;
}

#[tokio::test]
async fn chain_of_an_upstream_is_verified_up_to_its_root_p191() {
    let (root, unknown) = (Authority::root(), Authority::root());
    let good = root.intermediate(unchanged);
    let cannot_sign = root.intermediate(|params| params.key_usages = vec![Ku::DigitalSignature]);
    let constrained = |host| {
        below(&root.intermediate(|params| params.custom_extensions = vec![permits_only(host)]))
    };
    let expired = leaf(&root, |params| params.not_after = date_time_ymd(2020, 1, 1));
    let early = leaf(&root, |params| {
        params.not_before = date_time_ymd(4000, 1, 1)
    });
    let weak = below(&cannot_sign);
    let alone = good.issue(ODD_ID, unchanged);
    let [outside, within] = ["other.test", ODD].map(constrained);
    let cases = [
        ("P191 expired", false, expired),
        ("P191 not yet valid", false, early),
        ("P191 unknown root", false, unknown.issue(ODD_ID, unchanged)),
        ("P191 with its intermediate", true, below(&good)),
        ("P191 without its intermediate", false, alone),
        ("P191 below one that may not sign", false, weak),
        ("P192 outside name constraints", false, outside),
        ("P192 within name constraints", false, within),
    ];
    check(&root, cases).await;
}

#[tokio::test]
async fn text_that_is_not_a_spiffe_id_identifies_no_peer_t014() {
    let root = Authority::root();
    let upstream = Presenting::closing().await;
    let (stack, proxy) = proxy(&root, &upstream, ODD_ID).await;
    let https = stack.https(proxy.listening().await);
    for text in [
        "spiffe:///server",
        "spiffe://odd.test:8080/server",
        "spiffe://user@odd.test/server",
        "spiffe://odd.test/server?a=b",
        "spiffe://odd.test/server#a",
        "spiffe://odd.test/%73erver",
        "spiffe://odd.test//server",
        "spiffe://odd.test/./server",
        "spiffe://odd.test/a/../server",
        "spiffe://odd.test/server/",
        "spiffe://odd.test/server!",
        "spiffe://odd$.test/server",
        "spiffe:odd.test/server",
    ] {
        upstream.present(&uris(&root, &[text]));
        assert_eq!(https.send(get(&[])).await.status, 502, "{text}");
        assert_eq!(upstream.seen().requests(), 0, "{text}");
    }
    upstream.present(&uris(&root, &[ODD_ID]));
    assert_eq!(https.send(get(&[])).await.status, 200);
}

#[tokio::test]
async fn critical_extension_of_an_upstream_that_is_not_processed_is_named_t026() {
    let root = Authority::root();
    let upstream = Presenting::closing().await;
    let (stack, proxy) = proxy(&root, &upstream, ODD_ID).await;
    upstream.present(&leaf(&root, |params| {
        let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 32], vec![0x30, 0]);
        extension.set_criticality(true);
        params.custom_extensions = vec![extension];
    }));
    let answer = stack.https(proxy.listening().await).send(get(&[])).await;
    assert_eq!(answer.status, 502);
    proxy
        .logged("the critical extension certificatePolicies (2.5.29.32) of the leaf certificate")
        .await;
}

#[tokio::test]
async fn each_authority_of_a_bundle_verifies_t015() {
    let roots = [(); 3].map(|()| Authority::root());
    let upstream = Presenting::closing().await;
    let bundle = bundle_of(&roots.each_ref(), ODD);
    let stack = Stack::federated(bundle).await;
    let proxy = stack.proxy(upstream.port, &["--upstream-id", ODD_ID]).await;
    let https = stack.https(proxy.listening().await);
    for root in &roots {
        upstream.present(&leaf(root, unchanged));
        assert_eq!(https.send(get(&[])).await.status, 200);
    }
}

#[tokio::test]
async fn ca_of_another_trust_domain_does_not_verify_ours_p184() {
    let root = Authority::root();
    let upstream = Presenting::new("h2").await;
    let (stack, proxy) = proxy(&root, &upstream, SERVER_ID).await;
    upstream.present(&root.issue(SERVER_ID, unchanged));
    let answer = stack.https(proxy.listening().await).send(get(&[])).await;
    assert_eq!(answer.status, 502);
    assert_eq!(upstream.seen().requests(), 0);
}

/// Scheme and trust domain are case-insensitive in URIs (SPIFFE-ID §2.1, RFC 3986 §6.2.2.1), and
/// the path is not.
#[tokio::test]
async fn case_counts_only_in_the_path_p193_d049() {
    let root = Authority::root();
    for (number, id, status) in [
        ("P193 D49", "SPIFFE://odd.test/server", 200),
        ("P193 D49", "spiffe://ODD.test/server", 200),
        ("P193", "spiffe://odd.test/Server", 502),
    ] {
        let upstream = Presenting::new("h2").await;
        let (stack, proxy) = proxy(&root, &upstream, ODD_ID).await;
        upstream.present(&root.issue(id, unchanged));
        let answer = stack.https(proxy.listening().await).send(get(&[])).await;
        assert_eq!(answer.status, status, "{number} {id}");
    }
}

#[tokio::test]
async fn upstream_of_a_domain_without_a_bundle_is_refused_p197() {
    let root = Authority::root();
    let upstream = Presenting::new("h2").await;
    upstream.present(&root.issue(ODD_ID, unchanged));
    let (stack, proxy) = proxy(&root, &upstream, ODD_ID).await;
    let https = stack.https(proxy.listening().await);
    assert_eq!(https.send(get(&[])).await.status, 200);

    stack.agent.set_federated(vec![]).unwrap();
    until(async || https.send(get(&[])).await.status.is_server_error()).await;
    proxy
        .logged(
            "no X.509 bundle for trust domain odd.test; federate with it, and register this process with \
             -federatesWith spiffe://odd.test",
        )
        .await;
    let (connections, requests) = (upstream.seen().connections(), upstream.seen().requests());
    assert!(https.send(get(&[])).await.status.is_server_error());
    let seen = (upstream.seen().connections(), upstream.seen().requests());
    assert_eq!(seen, (connections, requests));

    stack.agent.set_federated(vec![root.bundle(ODD)]).unwrap();
    until(async || https.send(get(&[])).await.status == 200).await;
}
