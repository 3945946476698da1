use super::*;

const GRACE: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Reads a bundle that is its own text.
fn read(_: &TrustDomain, bytes: &[u8]) -> Result<String, &'static str> {
    match std::str::from_utf8(bytes) {
        Ok("") => Err("it is empty"),
        Ok("bad") | Err(_) => Err("it is bad"),
        Ok(text) => Ok(text.to_owned()),
    }
}

fn apply(domains: &mut Domains<String>, response: &[(&str, &str)], now: u64) -> Applied<String> {
    let response = response.iter().map(|(name, text)| (*name, text.as_bytes()));
    domains.apply(response, read, at(now))
}

fn trusted(domains: &Domains<String>) -> Vec<String> {
    let bundles = domains.bundles();
    let bundles = bundles.iter();
    bundles
        .map(|(name, text)| format!("{name} {text}"))
        .collect()
}

#[test]
fn fault_of_a_trust_domain_stays_in_that_trust_domain_w174() {
    let mut domains = Domains::default();
    apply(
        &mut domains,
        &[("spiffe://a", "1"), ("spiffe://b", "1")],
        100,
    );
    for bad in ["bad", ""] {
        let applied = apply(
            &mut domains,
            &[("spiffe://a", "2"), ("spiffe://b", bad)],
            200,
        );
        assert_eq!(trusted(&domains), ["a 2", "b 1"]);
        assert_eq!(applied.faults.len(), 1, "{:?}", applied.faults);
    }
    let again = apply(
        &mut domains,
        &[("spiffe://a", "2"), ("spiffe://b", "")],
        300,
    );
    assert!(again.faults.is_empty(), "the same fault is reported once");
    assert!(again.has_fault, "it is one of this response, too");
    assert!(again.changes.is_empty());
    let b = TrustDomain::new("b").unwrap();
    assert_eq!(domains.fault(&b), Some(("it is empty", at(200))));

    let mended = apply(
        &mut domains,
        &[("spiffe://a", "2"), ("spiffe://b", "1")],
        400,
    );
    assert_eq!(mended.mended, [b]);
    assert!(!mended.has_fault);
    assert!(
        mended.changes.is_empty(),
        "it is the bundle before the fault"
    );
}

#[test]
fn trust_domain_that_a_response_leaves_out_is_not_trusted_j168() {
    let mut domains = Domains::default();
    apply(
        &mut domains,
        &[("spiffe://a", "1"), ("spiffe://b", "1")],
        100,
    );
    let applied = apply(&mut domains, &[("spiffe://a", "1"), ("not one/", "1")], 200);
    assert_eq!(trusted(&domains), ["a 1"]);
    assert_eq!(applied.changes.len(), 1);
    assert!(applied.changes[0].after.is_none());
    assert_eq!(applied.faults[0].name, "not one/");
}

#[test]
fn bundle_stays_the_same_until_another_one_comes() {
    let mut domains = Domains::default();
    apply(
        &mut domains,
        &[("spiffe://a", "1"), ("spiffe://b", "1")],
        100,
    );
    let before = domains.bundles();
    apply(
        &mut domains,
        &[("spiffe://a", "2"), ("spiffe://b", "1")],
        200,
    );
    let after = domains.bundles();
    let is_same = |name| {
        let name = TrustDomain::new(name).unwrap();
        Arc::ptr_eq(&before[&name], &after[&name])
    };
    assert!(!is_same("a") && is_same("b"));
}

#[test]
fn other_bytes_of_the_same_bundle_are_not_a_change() {
    let sorted = |_: &TrustDomain, bytes: &[u8]| {
        let mut keys = bytes.to_vec();
        keys.sort_unstable();
        Ok::<_, &str>(keys)
    };
    let mut domains = Domains::default();
    let mut changes = |keys: &[u8]| {
        let applied = domains.apply([("spiffe://a", keys)].into_iter(), sorted, at(100));
        applied.changes.len()
    };
    let counts = [b"12", b"21", b"21", b"13", b"12"].map(|keys| changes(keys));
    assert_eq!(counts, [1, 0, 0, 1, 1]);
}

#[test]
fn last_good_bundle_is_trusted_for_the_grace_only() {
    let mut domains = Domains::default();
    apply(
        &mut domains,
        &[("spiffe://a", "1"), ("spiffe://b", "1")],
        100,
    );
    assert_eq!(domains.next_expiry(GRACE), None);
    apply(
        &mut domains,
        &[("spiffe://a", "1"), ("spiffe://b", "bad")],
        200,
    );
    apply(
        &mut domains,
        &[("spiffe://a", "1"), ("spiffe://b", "")],
        300,
    );
    assert_eq!(domains.next_expiry(GRACE), Some(at(3800)));
    assert!(domains.expire(GRACE, at(3799)).is_empty());
    assert_eq!(domains.expire(GRACE, at(3800)).len(), 1);
    assert_eq!(trusted(&domains), ["a 1"]);
    assert_eq!(domains.next_expiry(GRACE), None);
    apply(&mut domains, &[("spiffe://b", "1")], 4000);
    assert_eq!(trusted(&domains), ["b 1"]);
}
