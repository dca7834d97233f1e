use super::*;
use crate::config::Broker;
use crate::evidence::sample::Sample;
use crate::evidence::{Attester, Declared, Source};

/// A service whose broker nobody is.
fn service() -> Service {
    let broker = Broker::parse(Some("[token_configs.kbs]\nurl = \"http://127.0.0.1:1\"\n"), None).unwrap();
    let attester = Attester::new(Box::new(Sample), Source::Sample, Declared { gpus: 1, switches: 0 });
    let client = Client::new(&broker, attester, None).with_limit(std::time::Duration::from_millis(100));
    Service::new(client, false)
}

fn ask(method: &str, target: &str) -> (u16, Value) {
    let answer = service().answer(&Question { method, target, content: b"" });
    (answer.status, serde_json::from_slice(&answer.body).unwrap())
}

#[test]
fn what_is_there_is_said() {
    assert_eq!(
        ask("GET", "/info"),
        (
            200,
            json!({ "version": env!("CARGO_PKG_VERSION"), "tee": "sample", "additional_tees": ["sampledevice"], "feature": "all" })
        )
    );
    for (method, target, status) in [
        ("GET", "/", 404),
        ("GET", "/cdh/other", 404),
        ("POST", "/cdh/resource/a/b/c", 405),
        ("DELETE", "/info", 405),
        ("POST", "/aa/token?token_type=kbs", 405),
        ("POST", "/aa/aael", 501),
        ("GET", "/cdh/resource/a/b", 400),
        ("GET", "/cdh/resource/a/b/../c", 400),
        ("GET", "/cdh/resource/../b/c", 400),
        ("GET", "/cdh/resource/a/b/c?x=1", 400),
        ("GET", "/aa/token", 400),
        ("GET", "/aa/token?token_type=coco_as", 400),
        ("GET", "/aa/evidence", 400),
        ("GET", "/aa/evidence?runtime_data=a&encoding=hex", 400),
    ] {
        let (found, body) = ask(method, target);
        assert_eq!(found, status, "{method} {target}");
        assert!(body["error"].as_str().is_some_and(|text| text.len() > 10), "{body}");
    }
}

#[test]
fn evidence_is_over_what_was_given() {
    let of = |text: &str| ask("GET", &format!("/aa/evidence?runtime_data={text}")).1["report_data"].clone();
    let padded = |bytes: &[u8]| {
        let mut field = [0; 48];
        field[..bytes.len()].copy_from_slice(bytes);
        Value::from(STANDARD.encode(field))
    };
    assert_eq!(of("hello"), padded(b"hello"));
    assert_eq!(of("a%20b%2F"), padded(b"a b/"));
    assert_eq!(of("aGVsbG8&encoding=base64"), padded(b"hello"));
    assert_eq!(of("aGVsbG8%3D&encoding=base64"), padded(b"hello"));
    let long = "x".repeat(65);
    for bad in [&*long, "!&encoding=base64", "%zz", "%ff"] {
        assert_eq!(ask("GET", &format!("/aa/evidence?runtime_data={bad}")).0, 400, "{bad}");
    }
    let (status, body) = ask("GET", "/aa/additional-evidence?runtime_data=hello");
    assert_eq!((status, body["sampledevice"]["report_data"].clone()), (200, padded(b"hello")));
}

#[test]
fn a_broker_that_is_not_there_is_named() {
    for target in ["/cdh/resource/a/b/c", "/aa/token?token_type=kbs"] {
        let (status, body) = ask("GET", target);
        let text = body["error"].as_str().unwrap();
        assert_eq!(status, 504);
        assert!(text.contains("http://127.0.0.1:1") && text.contains("did not answer"), "{text}");
    }
}

#[test]
fn events_are_logged_where_there_is_a_register_and_the_owner_wants_it() {
    let post = |service: &Service, content: &str| {
        let question = Question { method: "POST", target: "/aa/aael", content: content.as_bytes() };
        let answer = service.answer(&question);
        (answer.status, String::from_utf8(answer.body).unwrap())
    };
    let event = r#"{"domain":"d","operation":"o","content":"c"}"#;
    let (status, body) = post(&service(), event);
    assert!(status == 501 && body.contains("no register that a running VM extends"), "{status} {body}");
    let directory = tempfile::tempdir().unwrap();
    let ccel = directory.path().join("CCEL");
    let with_log = service().with_events(EventLog::new(directory.path(), &ccel));
    let (status, body) = post(&with_log, event);
    assert!(status == 503 && body.contains("CCEL"), "{status} {body}");
    // A head of TCG's and no events.
    std::fs::write(&ccel, [0; 32]).unwrap();
    assert_eq!(post(&with_log, event), (200, r#"{"success":"true"}"#.to_owned()));
    assert_eq!(std::fs::read(directory.path().join("rtmr3:sha384")).unwrap().len(), 48);
    for bad in ["", "{}", "[]", r#"{"domain":"d","operation":"o","content":"c\n"}"#] {
        assert_eq!(post(&with_log, bad).0, 400, "{bad}");
    }
    while post(&with_log, event).0 == 200 {}
    let (status, body) = post(&with_log, event);
    assert!(status == 507 && body.contains("256 events"), "{status} {body}");
}
