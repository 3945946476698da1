use std::sync::Arc;

use common::bearer::{self, Credential, Refusal, RefusedBy, TokenFault};
use spiffe::SpiffeId;

use super::{
    super::pb::{Address, RawField, RawFields, Request, SocketAddress, Source},
    *,
};

/// Returns a check of a request with these fields.
fn check(method: &str, path: &str, fields: &[(&str, &str)], raw: &[(&str, &[u8])]) -> CheckRequest {
    let field = |(key, value): &(&str, &str)| Field {
        key: (*key).to_owned(),
        value: (*value).to_owned(),
    };
    let raw_field = |(key, value): &(&str, &[u8])| RawField {
        key: (*key).to_owned(),
        value: String::new(),
        raw_value: value.to_vec(),
    };
    let http = HttpRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: fields.iter().map(field).collect(),
        header_map: (!raw.is_empty()).then(|| RawFields {
            headers: raw.iter().map(raw_field).collect(),
        }),
        host: "orders".to_owned(),
    };
    CheckRequest {
        attributes: Some(Attributes {
            source: None,
            request: Some(Request { http: Some(http) }),
        }),
    }
}

/// Returns the status, the code of gRPC, the fields and the body of an answer that denies.
fn parts(response: CheckResponse) -> (i32, i32, Vec<(String, String)>, String) {
    let code = response.status.unwrap().code;
    let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else {
        panic!("it allows");
    };
    let fields = denied.headers.into_iter().map(|change| {
        assert_eq!(change.append_action, Action::OverwriteIfExistsOrAdd as i32);
        let field = change.header.unwrap();
        (field.key, field.value)
    });
    let mut fields: Vec<_> = fields.collect();
    fields.sort();
    (denied.status.unwrap().code, code, fields, denied.body)
}

#[test]
fn authorization_is_found_in_both_forms_and_however_often_it_is_there_u017() {
    let token = ("authorization", "Bearer a");
    for (fields, raw, expected) in [
        (
            &[token] as &[_],
            &[] as &[(&str, &[u8])],
            &["Bearer a"] as &[&str],
        ),
        (
            &[("Authorization", "Bearer a"), ("x-a", "b")],
            &[],
            &["Bearer a"],
        ),
        (&[], &[("authorization", b"Bearer a")], &["Bearer a"]),
        (
            &[token],
            &[("authorization", b"Bearer b")],
            &["Bearer a", "Bearer b"],
        ),
        (&[("authorization-x", "Bearer a")], &[], &[]),
        (&[], &[], &[]),
    ] {
        let head = head(&check("GET", "/a?b=c", fields, raw)).unwrap();
        let values: Vec<_> = head.headers.get_all(AUTHORIZATION).iter().collect();
        assert_eq!(values, expected, "{fields:?} {raw:?}");
        assert_eq!(head.headers.len(), expected.len());
        assert_eq!((head.method, head.uri.path()), (Method::GET, "/a"));
    }
}

#[test]
fn a_check_that_no_request_can_be_read_from_is_rejected_u018() {
    let nothing = CheckRequest { attributes: None };
    for check in [
        nothing,
        check("GE T", "/", &[], &[]),
        check("", "/", &[], &[]),
        check("GET", "", &[], &[]),
        check("GET", "/a b", &[], &[]),
        // The parser would leave a part of these out of the path that the policy decides about.
        check("GET", "/a#b", &[], &[]),
        check("GET", "/public#/../admin", &[], &[]),
        check("GET", "/a?b#c", &[], &[]),
        check("GET", "http://h/a", &[], &[]),
        check("GET", "h:80", &[], &[]),
        check("GET", "h", &[], &[]),
        check("GET", "/", &[("authorization", "Bearer\na")], &[]),
        check("GET", "/", &[], &[("authorization", b"Bearer \0")]),
    ] {
        assert_eq!(head(&check).unwrap_err(), Malformed, "{check:?}");
    }
    let asterisk = head(&check("OPTIONS", "*", &[], &[])).unwrap();
    assert_eq!(asterisk.uri.path(), "*");
    let (status, code, fields, body) = parts(rejected());
    assert_eq!((status, code, fields.len()), (400, 13, 0));
    assert_eq!(body, "400 Bad Request\n");
}

#[test]
fn the_source_of_a_request_is_the_address_that_the_gateway_tells_u017() {
    let attributes = |address: &str, port_value| Attributes {
        source: Some(Source {
            address: Some(Address {
                socket_address: Some(SocketAddress {
                    address: address.to_owned(),
                    port_value,
                }),
            }),
        }),
        request: None,
    };
    for (address, port, expected) in [
        ("192.0.2.7", 4711, Some("192.0.2.7:4711")),
        ("2001:db8::7", 443, Some("[2001:db8::7]:443")),
        ("192.0.2.7", 65536, Some("192.0.2.7:0")),
        ("@/run/app.sock", 0, None),
    ] {
        let found = source(Some(&attributes(address, port))).map(|one| one.to_string());
        assert_eq!(found.as_deref(), expected);
    }
    assert_eq!(source(None), None);
}

#[test]
fn an_allowed_request_gets_the_id_in_place_of_copies_and_loses_its_token_u017() {
    let id = SpiffeId::new("spiffe://example.org/client").unwrap();
    let caller = Caller::new(Arc::new(id), Credential::Certificate);
    let (name, token) = ("x-caller", "authorization");
    for (caller, forwards_authorization, set, removed) in [
        (Some(&caller), false, true, &[token] as &[&str]),
        (Some(&caller), true, true, &[]),
        // A public request has no caller, and must not bring one.
        (None, false, false, &[name, token]),
        (None, true, false, &[name]),
    ] {
        let fields = Fields {
            caller_header: HeaderName::from_static(name),
            forwards_authorization,
        };
        let response = fields.allowed(caller, None);
        assert_eq!(response.status.unwrap().code, 0);
        let Some(HttpResponse::OkResponse(allowed)) = response.http_response else {
            panic!("it denies");
        };
        assert_eq!(allowed.headers_to_remove, removed);
        assert_eq!(allowed.headers.len(), usize::from(set));
        for change in &allowed.headers {
            let field = change.header.as_ref().unwrap();
            assert_eq!(field.key, name);
            assert_eq!(field.value, "spiffe://example.org/client");
            assert_eq!(change.append_action, Action::OverwriteIfExistsOrAdd as i32);
        }
    }
}

#[test]
fn fields_that_servers_read_as_the_caller_s_id_are_removed_u017() {
    let fields = ["x_caller", "X-Caller", "x_mine", "x-mine"].map(|name| (name, "admin"));
    let asked = check("GET", "/", &fields, &[("X_CALLER", b"admin")]);
    let head = head(&asked).unwrap();
    let fields = Fields {
        caller_header: HeaderName::from_static("x-caller"),
        forwards_authorization: true,
    };
    let response = fields.allowed(None, head.extensions.get());
    let Some(HttpResponse::OkResponse(allowed)) = response.http_response else {
        panic!("it denies");
    };
    assert_eq!(
        allowed.headers_to_remove,
        ["x-caller", "x_caller", "X_CALLER"]
    );
}

/// Returns the parts of the answer to a refused request.
fn refused(refusal: &Refusal) -> (i32, i32, Vec<(String, String)>, String) {
    let (head, _) = refusal.response().into_parts();
    parts(denied(head.status, &head.headers))
}

#[test]
fn a_refused_request_gets_the_status_and_the_fields_of_a_server_u017() {
    let id = SpiffeId::new("spiffe://example.org/client").unwrap();
    let caller = Caller::new(Arc::new(id), Credential::Certificate);
    let not_allowed = Refusal::NotAllowed {
        caller,
        by: RefusedBy::Patterns,
    };
    let challenge = |error: &str| {
        Some((
            "www-authenticate",
            format!(r#"Bearer realm="spiffe"{error}"#),
        ))
    };
    for (refusal, status, code, field) in [
        (Refusal::NoCredentials, 401, 16, challenge("")),
        (
            TokenFault::Expired.into(),
            401,
            16,
            challenge(r#", error="invalid_token""#),
        ),
        (
            bearer::Malformed::Token.into(),
            400,
            13,
            challenge(r#", error="invalid_request""#),
        ),
        (
            not_allowed,
            403,
            7,
            challenge(r#", error="insufficient_scope""#),
        ),
        (Refusal::TooLong, 431, 2, None),
        (
            Refusal::NoTrust("x".into()),
            503,
            14,
            Some(("retry-after", "5".to_owned())),
        ),
        (
            Refusal::Busy(9),
            503,
            14,
            Some(("retry-after", "1".to_owned())),
        ),
    ] {
        let (found, found_code, fields, body) = refused(&refusal);
        assert_eq!((found, found_code), (status, code), "{refusal}");
        let no_store = ("cache-control", "no-store".to_owned());
        let expected = [Some(no_store), field].into_iter().flatten();
        let expected: Vec<_> = expected
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        assert_eq!(fields, expected, "{refusal}");
        assert!(body.starts_with(&status.to_string()), "{body}");
    }
}
