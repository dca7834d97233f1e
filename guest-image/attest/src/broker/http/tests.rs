use super::*;

#[test]
fn only_the_sessions_cookie_is_taken_and_only_its_value() {
    let taken = |line| cookie_value(line);
    assert_eq!(taken("kbs-session-id=0af3; Expires=Sat, 28 Nov 2026 08:00:00 GMT"), Some("0af3".to_owned()));
    assert_eq!(taken(" kbs-session-id=a-b_c.d+e/f="), Some("a-b_c.d+e/f=".to_owned()));
    let long = format!("kbs-session-id={}", "a".repeat(1025));
    for line in [
        "",
        "kbs-session-id",
        "kbs-session-id=",
        "other=1",
        "kbs-session-id=a\"b",
        "kbs-session-id=a b",
        &long,
    ] {
        assert_eq!(taken(line), None, "{line}");
    }
}

#[test]
fn a_refusal_is_told_by_its_kind_in_bounded_words() {
    let body = r#"{"type":"https://github.com/confidential-containers/kbs/errors/PolicyDeny","detail":"Access denied\nby policy"}"#;
    let said = refusal(StatusCode::UNAUTHORIZED, body.as_bytes());
    assert_eq!((said.kind.as_str(), said.detail.as_str()), ("PolicyDeny", "Access denied by policy"));
    assert!(said.to_string().contains("its policy wants another"), "{said}");
    assert!(!said.is_of_session());
    for kind in ["TokenNotFound", "TokenVerifierError"] {
        let body = format!(r#"{{"type":"x/{kind}","detail":""}}"#);
        assert!(refusal(StatusCode::UNAUTHORIZED, body.as_bytes()).is_of_session(), "{kind}");
    }
    let long = refusal(StatusCode::FORBIDDEN, "x".repeat(100_000).as_bytes());
    assert_eq!((long.kind.as_str(), long.detail.len()), ("no kind", WORDS));
}

#[test]
fn only_what_can_get_better_is_tried_again() {
    let refused = refusal(StatusCode::UNAUTHORIZED, b"");
    for (error, again) in [
        (HttpError::Status(StatusCode::BAD_GATEWAY), true),
        (HttpError::Status(StatusCode::TOO_MANY_REQUESTS), true),
        (HttpError::Status(StatusCode::FOUND), false),
        (transport(Error::ConnectionFailed), true),
        (transport(Error::Io(std::io::ErrorKind::ConnectionRefused.into())), true),
        (transport(Error::Timeout(Timeout::Connect)), true),
        (transport(Error::Timeout(Timeout::Global)), false),
        (transport(Error::Tls("x")), false),
        (transport(Error::ConnectProxyFailed("proxy server responded 502/502".into())), true),
        (transport(Error::ConnectProxyFailed("proxy server responded 403/403".into())), false),
        (
            transport(Error::Rustls(rustls::Error::InvalidCertificate(
                rustls::CertificateError::UnknownIssuer,
            ))),
            false,
        ),
        (HttpError::Long(1), false),
        (HttpError::Form(String::new()), false),
        (HttpError::Refused(refused), false),
    ] {
        assert_eq!(error.can_get_better(), again, "{error}");
    }
}
