//! What containers ask on the pod's loopback, as CoCo's api-server-rest has it (guest-components,
//! `api-server-rest/openapi`). An error says what the key broker said.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use shared_types::one_line;

use crate::aael::{self, Event, EventError, EventLog};
use crate::broker::{BrokerError, Client, HttpError};
use crate::evidence::EvidenceError;
use crate::protocol::ReportData;
use crate::resource::ResourcePath;

pub mod server;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question<'a> {
    /// GET or POST.
    pub method: &'a str,
    /// The path with its query.
    pub target: &'a str,
    /// What comes with it.
    pub content: &'a [u8],
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP's status.
    pub status: u16,
    /// JSON or bytes.
    pub json: bool,
    /// The content.
    pub body: Vec<u8>,
}

impl Answer {
    fn json(status: u16, value: &Value) -> Self {
        Self { status, json: true, body: value.to_string().into_bytes() }
    }

    /// An error, in a sentence.
    pub fn error(status: u16, text: &str) -> Self {
        Self::json(status, &json!({ "error": text }))
    }
}

/// What is served.
#[derive(Debug)]
pub struct Service {
    client: Client,
    /// Whether a container may have the token's private key.
    gives_key: bool,
    /// What containers extend, or why they cannot.
    events: Result<EventLog, &'static str>,
}

/// Whoever wants a log has to say so: with it a pod's evidence differs from time to time.
const NO_EVENTS: &str = "the initdata's aa.toml has no enable_eventlog = true below [eventlog_config], so this VM's measurement is not extended";

impl Service {
    /// Serves this client's keys.
    pub fn new(client: Client, gives_key: bool) -> Self {
        let events = Err(aael::refusal(client.attester().tee()).unwrap_or(NO_EVENTS));
        Self { client, gives_key, events }
    }

    /// The same with a log of runtime events.
    #[must_use]
    pub fn with_events(self, events: EventLog) -> Self {
        Self { events: Ok(events), ..self }
    }

    /// Who asks the broker.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// Answers.
    pub fn answer(&self, question: &Question<'_>) -> Answer {
        let (path, query) = question.target.split_once('?').unwrap_or((question.target, ""));
        let resource = path.strip_prefix("/cdh/resource/");
        match (question.method, path, resource) {
            ("GET", _, Some(name)) if query.is_empty() => self.resource(name),
            ("GET", _, Some(_)) => Answer::error(400, "a resource has no query"),
            ("GET", "/aa/token", _) => self.token(query),
            ("GET", "/aa/evidence", _) => self.evidence(query),
            ("GET", "/aa/additional-evidence", _) => self.additional(query),
            ("GET", "/info", _) => self.info(),
            ("POST", "/aa/aael", _) => self.extend(question.content),
            (_, "/aa/token" | "/aa/evidence" | "/aa/additional-evidence" | "/info" | "/aa/aael", _)
            | (_, _, Some(_)) => Answer::error(405, "another method is needed"),
            _ => Answer::error(
                404,
                "nothing is here; there are /cdh/resource/REPOSITORY/TYPE/TAG, /aa/token, /aa/evidence, /aa/additional-evidence and /info",
            ),
        }
    }

    fn resource(&self, name: &str) -> Answer {
        match name.parse::<ResourcePath>() {
            Err(error) => Answer::error(400, &error.to_string()),
            Ok(path) => match self.client.resource(&path) {
                Ok(body) => Answer { status: 200, json: false, body },
                Err(error) => failed(&error),
            },
        }
    }

    fn token(&self, query: &str) -> Answer {
        match parameter(query, "token_type").as_deref() {
            Some("kbs") => {}
            Some(_) => return Answer::error(400, "there are tokens of the type kbs only"),
            None => return Answer::error(400, "say which token: /aa/token?token_type=kbs"),
        }
        let token = match self.client.token() {
            Ok(token) => token,
            Err(error) => return failed(&error),
        };
        let mut answer = json!({ "token": token.text });
        if let Some(key) = self.gives_key.then(|| token.private_key()).flatten() {
            answer["tee_keypair"] = key.into();
        }
        Answer::json(200, &answer)
    }

    fn evidence(&self, query: &str) -> Answer {
        let data = match runtime_data(query) {
            Ok(data) => data,
            Err(why) => return Answer::error(400, why),
        };
        self.client
            .attester()
            .primary(&data)
            .map_or_else(|error| no_evidence(&error), |evidence| Answer::json(200, &evidence))
    }

    fn additional(&self, query: &str) -> Answer {
        let data = match runtime_data(query) {
            Ok(data) => data,
            Err(why) => return Answer::error(400, why),
        };
        let mut hash = [0; 48];
        hash.copy_from_slice(&data[..48]);
        let evidence = self.client.attester().additional(&ReportData::from(hash));
        let answer = |body: String| Answer { status: 200, json: true, body: body.into_bytes() };
        evidence.map_or_else(|error| no_evidence(&error), answer)
    }

    fn extend(&self, content: &[u8]) -> Answer {
        let events = match &self.events {
            Ok(events) => events,
            Err(why) => return Answer::error(501, why),
        };
        let added = Event::parse(content).and_then(|event| events.add(&event));
        match added {
            // As CoCo's own says it.
            Ok(()) => Answer::json(200, &json!({ "success": "true" })),
            Err(error) => {
                let status = match error {
                    EventError::Form(_) => 400,
                    EventError::Full => 507,
                    EventError::Firmware { .. } | EventError::Register { .. } => 503,
                };
                Answer::error(status, &one_line(&error))
            }
        }
    }

    fn info(&self) -> Answer {
        let attester = self.client.attester();
        Answer::json(
            200,
            &json!({
                "version": env!("CARGO_PKG_VERSION"),
                "tee": attester.tee().name(),
                "additional_tees": attester.additional_tees(),
                "feature": "all",
            }),
        )
    }
}

/// At most 64 bytes, then zeros.
fn runtime_data(query: &str) -> Result<[u8; 64], &'static str> {
    let text = parameter(query, "runtime_data").ok_or("say what to sign: /aa/evidence?runtime_data=DATA")?;
    let bytes = match parameter(query, "encoding").as_deref() {
        None => text.into_owned().into_bytes(),
        Some("base64") => [&URL_SAFE_NO_PAD, &URL_SAFE, &STANDARD]
            .iter()
            .find_map(|form| form.decode(text.as_bytes()).ok())
            .ok_or("runtime_data is not base64")?,
        Some(_) => return Err("there is the encoding base64 only"),
    };
    let mut data = [0; 64];
    data.get_mut(..bytes.len()).ok_or("runtime_data has more than 64 bytes")?.copy_from_slice(&bytes);
    Ok(data)
}

/// The value of a parameter, with `%XX` resolved.
fn parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    let value = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?.1;
    if !value.contains('%') {
        return Some(Cow::Borrowed(value));
    }
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..2).and_then(|two| str::from_utf8(two).ok());
        match (*first, digits.and_then(|two| u8::from_str_radix(two, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            (b'%', None) => return None,
            (byte, _) => {
                bytes.push(byte);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).ok().map(Cow::Owned)
}

fn no_evidence(error: &EvidenceError) -> Answer {
    Answer::error(503, &one_line(error))
}

fn failed(error: &BrokerError) -> Answer {
    let status = match error {
        BrokerError::Refused { .. } => 401,
        BrokerError::Evidence(_) | BrokerError::Ready(_) | BrokerError::Random(_) => 503,
        BrokerError::Http { source: HttpError::Transport(..), .. } => 504,
        BrokerError::Anybody { .. }
        | BrokerError::Http { .. }
        | BrokerError::Challenge { .. }
        | BrokerError::Token { .. }
        | BrokerError::Sealed { .. } => 502,
    };
    Answer::error(status, &one_line(error))
}

#[cfg(test)]
mod tests;
