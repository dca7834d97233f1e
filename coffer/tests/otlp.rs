//! `coffer timeline --otlp` against a collector that is played: what arrives is what `--json` says.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};
use std::thread::{self, JoinHandle};

use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use prost::Message;
use serde_json::Value;

/// A start with two GPUs as the rig logged it, and where it begins.
const LOG: &str = include_str!("../src/observe/gpus.log");
/// `date --date=2026-11-28T12:14:55.648Z +%s%3N`
const BEGIN_MS: u64 = 1_795_868_095_648;

/// What a collector got: path, type of the content, body.
type Got = (String, String, Vec<u8>);

/// A collector that takes one request.
fn collector(status: u16, answer: Vec<u8>) -> (String, JoinHandle<Got>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let thread = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let (mut head, mut line) = (Vec::new(), String::new());
        while reader.read_line(&mut line).unwrap() > 2 {
            head.push(std::mem::take(&mut line).trim_end().to_owned());
        }
        let header = |name: &str| {
            let lines = head.iter().filter_map(|line| line.split_once(": "));
            lines.clone().find(|(key, _)| key.eq_ignore_ascii_case(name)).unwrap().1.to_owned()
        };
        let mut body = vec![0; header("content-length").parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        write!(
            stream,
            "HTTP/1.1 {status} -\r\nContent-Type: application/x-protobuf\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        )
        .unwrap();
        stream.write_all(&answer).unwrap();
        (head[0].clone(), header("content-type"), body)
    });
    (url, thread)
}

fn timeline(log: &str, arguments: &[&str]) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("log");
    std::fs::write(&file, log).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
    command.args(["timeline", "two", "--log"]).arg(file).args(arguments).output().unwrap()
}

fn sent(log: &str) -> (Vec<Span>, Vec<Value>, String) {
    let (url, got) = collector(200, ExportTraceServiceResponse::default().encode_to_vec());
    let output = timeline(log, &["--otlp", &url]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (request, kind, body) = got.join().unwrap();
    assert_eq!((request.as_str(), kind.as_str()), ("POST /v1/traces HTTP/1.1", "application/x-protobuf"));
    let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
    let resource = request.resource_spans[0].resource.as_ref().unwrap();
    assert_eq!(resource.attributes[0].key, "service.name");
    let spans = request.resource_spans[0].scope_spans[0].spans.clone();
    let steps = serde_json::from_slice(&timeline(log, &["--json"]).stdout).unwrap();
    (spans, steps, String::from_utf8(output.stdout).unwrap())
}

/// Name, and begin and end in milliseconds since the start's begin.
fn placed(span: &Span) -> (String, u64, u64) {
    let ms = |time: u64| time / 1_000_000 - BEGIN_MS;
    (span.name.clone(), ms(span.start_time_unix_nano), ms(span.end_time_unix_nano))
}

#[test]
fn a_collector_gets_the_timelines_phases_and_gpus() {
    let (spans, steps, told) = sent(LOG);
    let at = |step: &Value| step["at_ms"].as_u64().unwrap();
    let end = at(steps.last().unwrap());
    let mut wanted = vec![("pod start".to_owned(), 0, end)];
    let phases: Vec<&Value> = steps.iter().filter(|step| step["phase"] == true).collect();
    for (index, phase) in phases.iter().enumerate() {
        let until = phases.get(index + 1).map_or(end, |next| at(next));
        wanted.push((phase["name"].as_str().unwrap().to_owned(), at(phase), until));
    }
    // Both GPUs are ready when they are verified.
    let verified = steps.iter().find(|step| step["name"].as_str().unwrap().starts_with("GPUs are verified"));
    let gpus: BTreeSet<&str> = steps.iter().filter_map(|step| step["gpu"].as_str()).collect();
    assert_eq!((phases.len(), gpus.len()), (6, 2));
    for gpu in gpus {
        let first = steps.iter().find(|step| step["gpu"] == gpu).unwrap();
        wanted.push((format!("GPU {gpu}"), at(first), at(verified.unwrap())));
    }
    assert_eq!(spans.iter().map(placed).collect::<Vec<_>>(), wanted);

    let (root, children) = spans.split_first().unwrap();
    assert!(root.parent_span_id.is_empty() && root.trace_id.len() == 16 && root.span_id.len() == 8);
    assert!(
        children.iter().all(|span| span.parent_span_id == root.span_id && span.trace_id == root.trace_id)
    );
    let ids: BTreeSet<_> = spans.iter().map(|span| span.span_id.clone()).collect();
    assert_eq!(ids.len(), spans.len(), "each has an id of its own");
    assert_eq!(root.status.as_ref().unwrap().code(), StatusCode::Ok);

    // What is no phase is an event of the phase in which it happened.
    let events: Vec<_> = children.iter().flat_map(|span| &span.events).map(|event| &event.name[..]).collect();
    let others: Vec<_> = steps
        .iter()
        .filter(|step| step["phase"] == false)
        .map(|step| step["name"].as_str().unwrap())
        .collect();
    assert_eq!(events, others);

    let id: String = root.trace_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(told, format!("trace {id}, {} spans\n", spans.len()));
    assert_eq!(sent(LOG).0, spans, "sent again it is the same trace");
}

#[test]
fn a_start_that_failed_is_an_error() {
    let log: String =
        LOG.lines().take_while(|line| !line.contains("phase=qmp")).flat_map(|l| [l, "\n"]).collect();
    let (spans, ..) = sent(&log);
    let status = spans[0].status.as_ref().unwrap();
    assert_eq!(status.code(), StatusCode::Error);
    assert_eq!(status.message, "the start has not come further than phase spawned");
}

#[test]
fn a_collector_that_does_not_take_it_is_told() {
    #[track_caller]
    fn refused(output: &Output, words: &[&str]) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.lines().count() == 1 && words.iter().all(|word| said.contains(word)),
            "{words:?}: {said}"
        );
    }
    let (url, got) = collector(503, Vec::new());
    refused(&timeline(LOG, &["--otlp", &url]), &[&url, "the status 503"]);
    got.join().unwrap();
    let partial = ExportTracePartialSuccess { rejected_spans: 2, error_message: "too old".to_owned() };
    let (url, got) =
        collector(200, ExportTraceServiceResponse { partial_success: Some(partial) }.encode_to_vec());
    refused(&timeline(LOG, &["--otlp", &url]), &["refuses 2 of 9 spans: too old"]);
    got.join().unwrap();
    // Nobody has this port any more.
    let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    refused(&timeline(LOG, &["--otlp", &format!("http://{gone}")]), &[&gone.to_string(), "refused"]);
    refused(&timeline(LOG, &["--otlp", "collector:4317"]), &["is no address of a collector"]);
    refused(&timeline(LOG, &["--otlp", "https://192.0.2.1"]), &["--otlp-cert is needed"]);
}
