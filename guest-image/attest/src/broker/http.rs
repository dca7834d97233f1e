//! Questions over HTTP: bounded in time and size, without redirections, and with a certificate that is pinned.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use serde::Serialize;
use ureq::http::{Response, StatusCode, header};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Error, Timeout};

use crate::config::Broker;
use crate::protocol::ErrorAnswer;

/// The session's cookie.
const COOKIE: &str = "kbs-session-id";
/// How long a broker may take to be reached, and to answer one question: it may ask NVIDIA about each GPU.
const CONNECT: Duration = Duration::from_secs(10);
const ANSWER: Duration = Duration::from_secs(40);
/// Longest foreign text in an error, in characters.
const WORDS: usize = 300;
/// Most bytes of a refusal that are read.
const REFUSAL: u64 = 64 << 10;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The question did not get through.
    #[error("did not answer: {0}")]
    Transport(String, Better),
    /// It shows a certificate that is not the pinned one.
    #[error("showed a certificate that the pod's initdata does not pin: {0}")]
    Certificate(String),
    /// Another status than a broker gives.
    #[error("answered with the status {0}")]
    Status(StatusCode),
    /// More than it may say.
    #[error("answered with more than {0} bytes")]
    Long(u64),
    /// Another thing than was asked for.
    #[error("answered what is no answer: {0}")]
    Form(String),
    /// It refuses.
    #[error("refused: {0}")]
    Refused(Refusal),
}

/// Whether trying again has any sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// It has.
    Perhaps,
    /// It has not.
    Never,
}

/// What a broker says with a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    status: StatusCode,
    /// The last part of the address that names the kind of the error.
    pub kind: String,
    /// In the broker's words.
    pub detail: String,
}

impl Refusal {
    /// Whether it is about the session, and not about what was asked for (Trustee, `kbs/src/error.rs`).
    pub fn is_of_session(&self) -> bool {
        matches!(self.kind.as_str(), "TokenNotFound" | "TokenVerifierError")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, kind, detail } = self;
        let hint = match kind.as_str() {
            "PolicyDeny" => {
                "; its policy wants another image, initdata, processor or GPUs than this VM's, or another pod"
            }
            "PluginInternalError" => "; mostly the broker has no such resource",
            "AttestationError" => "; the broker's log says which evidence its verifier does not take",
            _ => "",
        };
        write!(f, "{kind} ({}): {detail}{hint}", status.as_u16())
    }
}

impl HttpError {
    /// Whether the same question may have another answer soon.
    pub fn can_get_better(&self) -> bool {
        match self {
            Self::Transport(_, better) => *better == Better::Perhaps,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            Self::Certificate(_) | Self::Long(_) | Self::Form(_) | Self::Refused(_) => false,
        }
    }
}

/// A client of one broker.
#[derive(Debug)]
pub(super) struct Http {
    agent: Agent,
    /// The proxy, for errors.
    proxy: Option<String>,
}

impl Http {
    pub(super) fn new(broker: &Broker) -> Self {
        let tls = TlsConfig::builder()
            .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
            .root_certs(RootCerts::new_with_certs(&broker.certificates))
            .build();
        let config = Agent::config_builder()
            .tls_config(tls)
            // What the environment says of proxies is not measured.
            .proxy(broker.proxy.clone())
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT))
            .user_agent("coffer-attest")
            .build();
        let proxy = broker.proxy.as_ref().map(|proxy| format!("{}:{}", proxy.host(), proxy.port()));
        Self { agent: config.new_agent(), proxy }
    }

    /// Why a question did not get through, and by whom.
    fn transport(&self, error: Error) -> HttpError {
        match (transport(error), &self.proxy) {
            (HttpError::Transport(text, better), Some(proxy)) => {
                HttpError::Transport(format!("{text} (through the proxy {proxy})"), better)
            }
            (error, _) => error,
        }
    }

    /// An answer, and the session's cookie.
    pub(super) fn post(
        &self,
        url: &str,
        cookie: Option<&str>,
        body: &impl Serialize,
        limit: u64,
        left: Duration,
    ) -> Result<(Vec<u8>, Option<String>), HttpError> {
        let body = serde_json::to_vec(body).map_err(|error| HttpError::Form(error.to_string()))?;
        let mut request = self.agent.post(url).header(header::CONTENT_TYPE, "application/json");
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, format!("{COOKIE}={cookie}"));
        }
        let request = request.config().timeout_global(Some(left.min(ANSWER))).build();
        let mut response = request.send(&body).map_err(|error| self.transport(error))?;
        let cookie = session_of(&response);
        Ok((content(&mut response, limit)?, cookie))
    }

    pub(super) fn get(
        &self,
        url: &str,
        cookie: &str,
        limit: u64,
        left: Duration,
    ) -> Result<Vec<u8>, HttpError> {
        let request = self.agent.get(url).header(header::COOKIE, format!("{COOKIE}={cookie}"));
        let request = request.config().timeout_global(Some(left.min(ANSWER))).build();
        content(&mut request.call().map_err(|error| self.transport(error))?, limit)
    }
}

/// The session that the answer opens.
fn session_of(response: &Response<Body>) -> Option<String> {
    let cookies = response.headers().get_all(header::SET_COOKIE).iter();
    let texts = cookies.filter_map(|value| value.to_str().ok());
    texts.filter_map(cookie_value).next_back()
}

/// The value of the session's cookie in a `Set-Cookie` line. Nothing goes back to the broker that could be more than a value.
fn cookie_value(line: &str) -> Option<String> {
    let (name, value) = line.split(';').next()?.split_once('=')?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+/=".contains(&byte);
    let whole = name.trim() == COOKIE && !value.is_empty() && value.len() <= 1024 && value.bytes().all(plain);
    whole.then(|| value.to_owned())
}

fn content(response: &mut Response<Body>, limit: u64) -> Result<Vec<u8>, HttpError> {
    let status = response.status();
    if status == StatusCode::OK {
        return body(response, limit);
    }
    // Nearly every refusal is a 401; which one, the body says. A redirection is no answer.
    if !status.is_client_error() || status == StatusCode::TOO_MANY_REQUESTS {
        return Err(HttpError::Status(status));
    }
    let text = body(response, REFUSAL)?;
    Err(HttpError::Refused(refusal(status, &text)))
}

fn refusal(status: StatusCode, body: &[u8]) -> Refusal {
    let Ok(said) = serde_json::from_slice::<ErrorAnswer>(body) else {
        let detail = words(&String::from_utf8_lossy(body));
        return Refusal { status, kind: "no kind".to_owned(), detail };
    };
    let kind = said.kind.rsplit('/').next().unwrap_or_default();
    Refusal { status, kind: words(kind), detail: words(&said.detail) }
}

/// Foreign text as one bounded line.
fn words(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS).collect()
}

fn body(response: &mut Response<Body>, limit: u64) -> Result<Vec<u8>, HttpError> {
    response.body_mut().with_config().limit(limit).read_to_vec().map_err(|error| match error {
        Error::BodyExceedsLimit(limit) => HttpError::Long(limit),
        other => transport(other),
    })
}

fn transport(error: Error) -> HttpError {
    let text = words(&error.to_string());
    match certificate(&error) {
        Some(true) => return HttpError::Certificate(text),
        // Spoken to in a way that is no TLS: it will be so again.
        Some(false) => return HttpError::Transport(text, Better::Never),
        None => {}
    }
    let better = match error {
        Error::Io(_) | Error::HostNotFound | Error::ConnectionFailed => Better::Perhaps,
        Error::Timeout(Timeout::Connect | Timeout::Resolve) => Better::Perhaps,
        // A proxy that does not reach the broker may do so soon (5xx); one that does not want to will not.
        Error::ConnectProxyFailed(ref why) if why.contains("responded 5") => Better::Perhaps,
        _ => Better::Never,
    };
    HttpError::Transport(text, better)
}

/// Whether the certificate is what is wrong, if TLS is.
fn certificate(error: &Error) -> Option<bool> {
    let tls = match error {
        Error::Rustls(tls) => Some(tls),
        Error::Io(error) => error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()),
        _ => None,
    };
    tls.map(|tls| matches!(tls, rustls::Error::InvalidCertificate(_)))
}

#[cfg(test)]
mod tests;
