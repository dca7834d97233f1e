//! Frames as ttrpc's own client writes them are in `tests/kbs`; here are those that it does not write.

use super::*;

/// Turns a secret around, and has no resources.
struct Mirror;

impl Hub for Mirror {
    fn unseal(&self, secret: &[u8]) -> Result<Vec<u8>, String> {
        if secret == b"sealed.wait" {
            std::thread::park();
        }
        Ok(secret.iter().rev().copied().collect())
    }

    fn resource(&self, uri: &str) -> Result<Vec<u8>, String> {
        Err(format!("no {uri}"))
    }
}

fn asked(service: &str, method: &str, value: &[u8]) -> Vec<u8> {
    let payload = written(|to| to.write_bytes(1, value)).unwrap();
    written(|to| {
        to.write_string(1, service)?;
        to.write_string(2, method)?;
        to.write_bytes(3, &payload)?;
        // Patience, and metadata: passed over.
        to.write_int64(4, 50_000_000_000)?;
        to.write_bytes(5, b"\x0a\x01k\x12\x01v")
    })
    .unwrap()
}

fn framed(stream: u32, kind: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap();
    [&length.to_be_bytes()[..], &stream.to_be_bytes(), &[kind, 0], message].concat()
}

/// What a connection answers to these bytes, and how it ends.
fn said(bytes: &[u8]) -> (Vec<u8>, io::Result<()>) {
    let (mut here, there) = UnixStream::pair().unwrap();
    let hub: Arc<dyn Hub> = Arc::new(Mirror);
    let served = thread::spawn(move || serve(there, &hub));
    here.write_all(bytes).unwrap();
    here.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = Vec::new();
    // A connection that was given up with bytes unread is reset.
    let _ = here.read_to_end(&mut answers);
    (answers, served.join().unwrap())
}

#[test]
fn a_question_is_answered_on_its_stream() {
    let question = asked("api.SealedSecretService", "UnsealSecret", b"sealed.x");
    let (answers, end) = said(&framed(7, REQUEST, &question));
    end.unwrap();
    // By hand, from ttrpc.proto: Response.payload is field 2, in it field 1.
    assert_eq!(answers, [&[0, 0, 0, 12, 0, 0, 0, 7, 2, 0, 0x12, 10, 0x0a, 8][..], b"x.delaes"].concat());
}

#[test]
fn a_refusal_has_a_code_and_words() {
    let code = |service, method, value: &[u8]| {
        let refusal = answer(&asked(service, method, value), &Mirror).unwrap_err();
        (refusal.code, refusal.text)
    };
    assert_eq!(
        code("api.GetResourceService", "GetResource", b"kbs:///a/b/c"),
        (INTERNAL, "no kbs:///a/b/c".into())
    );
    assert_eq!(code("api.GetResourceService", "GetResource", b"\xff").0, INTERNAL);
    for (service, method, words) in [
        ("api.ImagePullService", "PullImage", "this guest pulls no images"),
        ("api.SecureMountService", "SecureMount", "has no api.SecureMountService/SecureMount"),
        ("api.SealedSecretService", "Other", "has no"),
    ] {
        let (code, text) = code(service, method, b"x");
        assert_eq!(code, UNIMPLEMENTED);
        assert!(text.contains(words), "{text}");
    }
    assert_eq!(answer(b"\xff\xff", &Mirror).unwrap_err().code, INVALID);
    let bad_payload = written(|to| {
        to.write_string(1, "api.SealedSecretService")?;
        to.write_string(2, "UnsealSecret")?;
        to.write_bytes(3, b"\x0a\x7f")
    });
    assert_eq!(answer(&bad_payload.unwrap(), &Mirror).unwrap_err().code, INVALID);
}

#[test]
fn what_is_too_long_is_refused_and_the_next_question_is_answered() {
    let long = vec![0; usize::try_from(LONGEST).unwrap() + 1];
    let question = asked("api.SealedSecretService", "UnsealSecret", b"sealed.x");
    let (answers, end) = said(&[framed(1, REQUEST, &long), framed(3, REQUEST, &question)].concat());
    end.unwrap();
    let text = String::from_utf8_lossy(&answers);
    assert!(text.contains("a question has at most 2097152 bytes") && text.ends_with("x.delaes"), "{text}");
}

#[test]
fn other_bytes_end_the_connection() {
    let question = asked("api.SealedSecretService", "UnsealSecret", b"sealed.x");
    for bytes in
        [framed(1, 2, &question), framed(1, 3, b""), framed(1, REQUEST, &question)[..20].to_vec(), vec![0; 5]]
    {
        assert!(said(&bytes).1.is_err(), "{bytes:?}");
    }
    assert!(said(b"").1.is_ok());
}

#[test]
fn a_question_that_takes_long_holds_up_no_other_one_and_there_are_so_many() {
    let (mut here, there) = UnixStream::pair().unwrap();
    let hub: Arc<dyn Hub> = Arc::new(Mirror);
    thread::spawn(move || serve(there, &hub));
    let mut answered = |stream: u32, secret: &[u8]| {
        let question = asked("api.SealedSecretService", "UnsealSecret", secret);
        here.write_all(&framed(stream, REQUEST, &question)).unwrap();
        if secret == b"sealed.wait" {
            return String::new();
        }
        let head = next(&mut here).unwrap().unwrap();
        assert_eq!(head.stream, stream);
        let mut message = vec![0; usize::try_from(head.length).unwrap()];
        here.read_exact(&mut message).unwrap();
        String::from_utf8_lossy(&message).into_owned()
    };
    for stream in 1..u32::try_from(AT_ONCE).unwrap() {
        answered(stream, b"sealed.wait");
    }
    assert!(answered(100, b"sealed.x").ends_with("x.delaes"));
    answered(101, b"sealed.wait");
    let busy = answered(102, b"sealed.x");
    assert!(busy.contains("too many questions at once"), "{busy}");
}
