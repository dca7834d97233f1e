//! A pod's start as an OpenTelemetry trace, sent to a collector by OTLP over HTTP: the OTLP specification 1.x, "OTLP/HTTP";
//! messages of `opentelemetry/proto/collector/trace/v1/trace_service.proto`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::span::{Event, SpanKind};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use opentelemetry_proto::tonic::trace::v1::{ResourceSpans, ScopeSpans, Span, Status};
use prost::Message;
use sha2::{Digest, Sha256};

use super::timeline::{Start, Step};
use crate::http;
use crate::initdata::hex;

/// Where collectors take traces, unless the address names another place.
const PATH: &str = "/v1/traces";
/// Longest answer that is read, in bytes.
const ANSWER: u64 = 64 << 10;
const NANOSECONDS_PER_MS: u64 = 1_000_000;

/// Sends the trace; gives one line that says under which id it is found.
///
/// # Errors
/// The collector's address is none, it cannot be reached, or it refuses the trace.
pub(super) fn send(start: &Start, url: &str, certificate: Option<&Path>) -> Result<String> {
    let url = url.trim().trim_end_matches('/');
    let agent = http::agent(url, "a collector", certificate, "--otlp-cert")?;
    let names_place = url.split_once("://").is_some_and(|(_, rest)| rest.contains('/'));
    let url = if names_place { url.to_owned() } else { format!("{url}{PATH}") };
    let trace = spans(start);
    let (id, count) = (hex(&trace[0].trace_id), trace.len());
    let sent = || format!("the collector {url}, sent a trace");
    let request = agent.post(&url).content_type("application/x-protobuf");
    let mut answer = request.send(&request_of(trace).encode_to_vec()[..]).with_context(sent)?;
    if !answer.status().is_success() {
        bail!("{}: it answers with the status {}", sent(), answer.status());
    }
    let body = answer.body_mut().with_config().limit(ANSWER).read_to_vec().with_context(sent)?;
    let said = ExportTraceServiceResponse::decode(&body[..]).with_context(sent)?.partial_success;
    if let Some(refused) = said.filter(|said| said.rejected_spans != 0) {
        bail!(
            "{}: it refuses {} of {count} spans: {}",
            sent(),
            refused.rejected_spans,
            refused.error_message
        );
    }
    Ok(format!("trace {id}, {count} spans"))
}

fn request_of(spans: Vec<Span>) -> ExportTraceServiceRequest {
    let version = env!("CARGO_PKG_VERSION");
    let resource = Resource {
        attributes: vec![text("service.name", "coffer"), text("service.version", version)],
        ..Resource::default()
    };
    let scope = InstrumentationScope {
        name: "coffer.timeline".to_owned(),
        version: version.to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }];
    let resource_spans = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
    ExportTraceServiceRequest { resource_spans: vec![resource_spans] }
}

/// The whole start first; then, with it as parent, a span for each phase and one for each GPU.
fn spans(start: &Start) -> Vec<Span> {
    let end = start.steps.last().map_or(0, |step| step.at_ms);
    let mut root = Builder { start, next: 0 };
    let mut whole = root.span("pod start", 0, end);
    whole.attributes = vec![text("coffer.sandbox", &start.sandbox)];
    whole.status = Some(status(&start.steps));
    let mut all = vec![whole];
    for (at, step) in start.steps.iter().enumerate().filter(|(_, step)| step.phase) {
        let rest = &start.steps[at + 1..];
        let length = rest.iter().position(|later| later.phase).unwrap_or(rest.len());
        let until = rest.get(length).map_or(end, |next| next.at_ms);
        let mut phase = root.span(&step.name, step.at_ms, until);
        phase.events = rest[..length].iter().map(|step| event(start, step)).collect();
        all.push(phase);
    }
    let mut gpus: Vec<&str> = start.steps.iter().filter_map(|step| step.gpu.as_deref()).collect();
    gpus.sort_unstable();
    gpus.dedup();
    for gpu in gpus {
        let (from, until) = of_gpu(&start.steps, gpu);
        let mut span = root.span(&format!("GPU {gpu}"), from, until);
        span.attributes = vec![text("coffer.gpu", gpu)];
        all.push(span);
    }
    all
}

/// From the first step with a GPU to the next step that is about no GPU: several are made ready at once.
fn of_gpu(steps: &[Step], gpu: &str) -> (u64, u64) {
    let mut of = steps.iter().enumerate().filter(|(_, step)| step.gpu.as_deref() == Some(gpu));
    let first = of.next();
    let last = of.next_back().or(first).map_or(0, |(at, _)| at);
    let after = steps[last..].iter().find(|step| step.gpu.is_none()).or_else(|| steps.last());
    (first.map_or(0, |(_, step)| step.at_ms), after.map_or(0, |step| step.at_ms))
}

fn status(steps: &[Step]) -> Status {
    match steps.iter().rev().find(|step| step.phase) {
        Some(step) if step.name == "running" => {
            Status { code: StatusCode::Ok.into(), message: String::new() }
        }
        last => {
            let phase = last.map_or("planned", |step| &step.name);
            let message = format!("the start has not come further than phase {phase}");
            Status { code: StatusCode::Error.into(), message }
        }
    }
}

fn event(start: &Start, step: &Step) -> Event {
    Event {
        time_unix_nano: (start.begin_ms + step.at_ms).saturating_mul(NANOSECONDS_PER_MS),
        name: step.name.clone(),
        ..Event::default()
    }
}

/// Spans with ids of one trace. The ids come from the start itself, so that sent again it is the same trace.
struct Builder<'a> {
    start: &'a Start,
    next: u32,
}

impl Builder<'_> {
    fn span(&mut self, name: &str, from_ms: u64, until_ms: u64) -> Span {
        let at = |ms: u64| (self.start.begin_ms + ms).saturating_mul(NANOSECONDS_PER_MS);
        let mut span = Span {
            trace_id: self.id("trace", 16),
            span_id: self.id(&self.next.to_string(), 8),
            name: name.to_owned(),
            kind: SpanKind::Internal.into(),
            start_time_unix_nano: at(from_ms),
            end_time_unix_nano: at(until_ms),
            ..Span::default()
        };
        if self.next != 0 {
            span.parent_span_id = self.id("0", 8);
        }
        self.next += 1;
        span
    }

    fn id(&self, what: &str, bytes: usize) -> Vec<u8> {
        let of = format!("{}\n{}\n{what}", self.start.sandbox, self.start.begin_ms);
        Sha256::digest(of.as_bytes())[..bytes].to_vec()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    let value = AnyValue { value: Some(Value::StringValue(value.to_owned())) };
    KeyValue { key: key.to_owned(), value: Some(value), ..KeyValue::default() }
}
