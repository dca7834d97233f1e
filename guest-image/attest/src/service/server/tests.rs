use std::io::{Read as _, Write as _};

use super::*;
use crate::broker::Client;
use crate::config::Broker;
use crate::evidence::sample::Sample;
use crate::evidence::{Attester, Declared, Source};

fn whole(method: &str, target: &str, content: Range<usize>, body: usize) -> Head {
    Head::Whole { method: method.into(), target: target.into(), content, body }
}

#[test]
fn a_question_is_read_when_it_is_whole() {
    let text = b"POST /aa/aael HTTP/1.1\r\nHost: localhost\r\ncontent-length: 3\r\n\r\nabc";
    for cut in 0..text.len() - 3 {
        assert_eq!(head(&text[..cut]), Head::Partial, "{cut}");
    }
    let content = text.len() - 3..text.len();
    assert_eq!(head(&text[..text.len() - 1]), whole("POST", "/aa/aael", content.clone(), 1));
    assert_eq!(head(text), whole("POST", "/aa/aael", content.clone(), 0));
    assert_eq!(head(&[&text[..], b"more"].concat()), whole("POST", "/aa/aael", content, 0));
    assert_eq!(head(b"GET /info HTTP/1.0\r\n\r\n"), whole("GET", "/info", 22..22, 0));
}

#[test]
fn what_is_no_question_is_refused() {
    for text in [
        "\x16\x03\x01",
        "GET\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length: 99999999999999999999\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        "GET / HTTP/1.1\r\ncontent-length: 16385\r\n\r\n",
        "GET / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n",
    ] {
        assert!(matches!(head(text.as_bytes()), Head::Malformed(_)), "{text:?}");
    }
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS + 1));
    assert!(matches!(head(many.as_bytes()), Head::Malformed(_)));
}

#[test]
fn it_is_served_over_tcp() {
    let broker = Broker::parse(Some("[token_configs.kbs]\nurl = \"http://127.0.0.1:1\"\n"), None).unwrap();
    let attester = Attester::new(Box::new(Sample), Source::Sample, Declared::default());
    let service = Arc::new(Service::new(Client::new(&broker, attester, None), false));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || run(&listener, &service));
    let ask = |question: &str| {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(question.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let answer = ask("GET /info HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("\"tee\":\"sample\""), "{answer}");
    assert!(ask("nonsense\r\n\r\n").starts_with("HTTP/1.1 400 "));
    assert!(ask("GET /nothing HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
}
