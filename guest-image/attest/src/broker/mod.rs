//! The key broker: one handshake for a session, whose token is kept as long as it is good, and resources by it.
//!
//! A refusal is told from a failure. What the broker refuses it would refuse again, so that is said at once; what can get
//! better is tried again, within a limit. A resource is asked for with the session's cookie, not with the token in a header:
//! a token of eight GPUs is longer than the headers that brokers take.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use p256::SecretKey;
use p256::elliptic_curve::Generate as _;
use p256::pkcs8::{EncodePrivateKey as _, LineEnding};

use crate::config;
use crate::evidence::{Attester, EvidenceError};
use crate::jwe::{self, JweError};
use crate::protocol::{
    AttestAnswer, AttestRequest, AuthAnswer, AuthRequest, Evidence, Initdata, NoNonce, Nonce, RuntimeData,
};
use crate::resource::ResourcePath;

mod http;
mod token;

use http::Http;
pub use http::{HttpError, Refusal};

/// How long a question may take in all, with what is tried again.
const LIMIT: Duration = Duration::from_secs(60);
/// The first pause before something is tried again; each is twice the one before, up to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// Most bytes of an answer: a challenge or a refusal, a token, a resource.
const CHALLENGE: u64 = 64 << 10;
const TOKEN: u64 = 2 << 20;
const RESOURCE: u64 = 16 << 20;

/// Why there is no key or token.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "Display says it")]
pub enum BrokerError {
    /// No evidence.
    #[error("this guest has no evidence to show")]
    Evidence(#[from] EvidenceError),
    /// Whoever answers could be anybody, and GPUs wait for his word.
    #[error(
        "the key broker {url} shows nobody's certificate, and GPUs take work when a broker believed their evidence, which whoever is \
         on the way could say in its place: name it by https:// in the initdata, with its certificate"
    )]
    Anybody { url: String },
    /// The GPUs stay idle.
    #[error("the key broker believed the evidence, and the GPUs cannot be told to take work")]
    Ready(#[source] EvidenceError),
    /// No random numbers.
    #[error("no key can be made for a session with the key broker: {0}")]
    Random(String),
    /// The broker did not answer, or not as a broker.
    #[error("the key broker {url}, asked {what}")]
    Http {
        url: String,
        what: What,
        #[source]
        source: HttpError,
    },
    /// It refused.
    #[error("the key broker {url} said no when asked {what}: {refusal}")]
    Refused { url: String, what: What, refusal: Refusal },
    /// Its challenge is none.
    #[error("the key broker {url} is none, or another version's")]
    Challenge {
        url: String,
        #[source]
        source: NoNonce,
    },
    /// Its challenge or its token is of no use.
    #[error("the key broker {url} gave what is not usable: {what}")]
    Token { url: String, what: &'static str },
    /// Its answer is not for us.
    #[error("the key broker {url} gave {path} in a form that cannot be opened")]
    Sealed {
        url: String,
        path: ResourcePath,
        #[source]
        source: JweError,
    },
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A challenge.
    Challenge,
    /// A token for the evidence.
    Attestation,
    /// A resource.
    Resource(ResourcePath),
}

impl std::fmt::Display for What {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Challenge => f.write_str("for a challenge"),
            Self::Attestation => f.write_str("to look at the evidence"),
            Self::Resource(path) => write!(f, "for {path}"),
        }
    }
}

/// A token, and the key that its owner has.
pub struct Token {
    /// The text, a JWT.
    pub text: String,
    key: SecretKey,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

impl Token {
    /// The private key in PEM (PKCS#8): whoever has it opens every resource that the token gets.
    pub fn private_key(&self) -> Option<String> {
        self.key.to_pkcs8_pem(LineEnding::LF).ok().map(|pem| pem.as_str().to_owned())
    }
}

/// A handshake that succeeded.
#[derive(Clone)]
struct Session {
    key: SecretKey,
    cookie: String,
    token: String,
    until: Instant,
}

/// The broker, as this guest knows it.
pub struct Client {
    http: Http,
    url: String,
    /// Whether it shows who it is.
    authentic: bool,
    attester: Attester,
    /// The document whose digest the report has, where the pod has one.
    initdata: Option<String>,
    limit: Duration,
    /// How often it waited before it asked again.
    pauses: AtomicUsize,
    /// One question at a time makes the session; the others use it.
    session: Mutex<Option<Session>>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("url", &self.url)
            .field("attester", &self.attester)
            .finish_non_exhaustive()
    }
}

impl Client {
    /// A client of this broker. `initdata` is the pod's document, byte for byte.
    pub fn new(broker: &config::Broker, attester: Attester, initdata: Option<String>) -> Self {
        let http = Http::new(broker);
        let (url, pauses) = (broker.url.clone(), AtomicUsize::default());
        let (authentic, limit, session) = (broker.is_authentic(), LIMIT, Mutex::new(None));
        Self { http, url, authentic, attester, initdata, limit, pauses, session }
    }

    /// The same with another limit for each question.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The VM.
    pub fn attester(&self) -> &Attester {
        &self.attester
    }

    /// How often it waited before it asked again: never, where all is well. These are its only waits for time.
    pub fn pauses(&self) -> usize {
        self.pauses.load(Ordering::Relaxed)
    }

    /// A resource.
    ///
    /// # Errors
    ///
    /// [`BrokerError`].
    pub fn resource(&self, path: &ResourcePath) -> Result<Vec<u8>, BrokerError> {
        self.resource_until(path, Instant::now() + self.limit)
    }

    /// A resource, for somebody who waits no longer than this, but for a session that somebody else is making.
    ///
    /// # Errors
    ///
    /// [`BrokerError`].
    pub fn resource_until(&self, path: &ResourcePath, deadline: Instant) -> Result<Vec<u8>, BrokerError> {
        let (session, kept) = self.session(deadline)?;
        let (session, answer) = match self.ask(&session, path, deadline) {
            // The broker forgot the session, or its token expired: a new one is worth one try, if this one was not new.
            Err(BrokerError::Refused { refusal, .. }) if kept && refusal.is_of_session() => {
                self.forget(&session);
                let (session, _) = self.session(deadline)?;
                let answer = self.ask(&session, path, deadline)?;
                (session, answer)
            }
            answer => (session, answer?),
        };
        let sealed = |source| BrokerError::Sealed { url: self.url.clone(), path: path.clone(), source };
        jwe::open(&answer, &session.key).map_err(sealed)
    }

    /// A token for whoever believes this broker.
    ///
    /// # Errors
    ///
    /// [`BrokerError`].
    pub fn token(&self) -> Result<Token, BrokerError> {
        let (session, _) = self.session(Instant::now() + self.limit)?;
        Ok(Token { text: session.token, key: session.key })
    }

    fn kept(&self) -> MutexGuard<'_, Option<Session>> {
        // Whoever panicked while holding it left nothing half-done.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn forget(&self, session: &Session) {
        let mut kept = self.kept();
        if kept.as_ref().is_some_and(|kept| kept.cookie == session.cookie) {
            *kept = None;
        }
    }

    /// The session, and whether it was there before.
    fn session(&self, deadline: Instant) -> Result<(Session, bool), BrokerError> {
        let mut kept = self.kept();
        if let Some(session) = kept.as_ref().filter(|session| Instant::now() < session.until) {
            return Ok((session.clone(), true));
        }
        *kept = None;
        let session = self.handshake(deadline)?;
        *kept = Some(session.clone());
        Ok((session, false))
    }

    fn handshake(&self, deadline: Instant) -> Result<Session, BrokerError> {
        // Before anything is shown: the GPUs' work hangs on the answer.
        if self.attester.has_driver() && !self.authentic {
            return Err(BrokerError::Anybody { url: self.url.clone() });
        }
        let key = SecretKey::try_generate().map_err(|error| BrokerError::Random(error.to_string()))?;
        let asked = AuthRequest::new(self.attester.tee());
        let (challenge, cookie) = self.again(deadline, What::Challenge, || {
            self.http.post(&format!("{}/kbs/v0/auth", self.url), None, &asked, CHALLENGE, left(deadline))
        })?;
        let challenge: AuthAnswer = self.read(What::Challenge, &challenge)?;
        let not_one = |source| BrokerError::Challenge { url: self.url.clone(), source };
        let nonce = Nonce::try_from(challenge.nonce).map_err(not_one)?;
        let no_token = |what| BrokerError::Token { url: self.url.clone(), what };
        let cookie = cookie.ok_or_else(|| no_token("its challenge came without a session (cookie)"))?;
        let begun = Instant::now();
        let runtime = RuntimeData::new(nonce, &key.public_key());
        let composite = self.attester.composite(&runtime)?;
        let shown = AttestRequest {
            initdata: self.initdata.as_deref().map(|body| Initdata { format: "toml", body }),
            runtime: &runtime,
            evidence: Evidence {
                primary_evidence: composite.primary,
                additional_evidence: &composite.additional,
            },
        };
        let (answer, _) = self.again(deadline, What::Attestation, || {
            self.http.post(
                &format!("{}/kbs/v0/attest", self.url),
                Some(&cookie),
                &shown,
                TOKEN,
                left(deadline),
            )
        })?;
        let answer: AttestAnswer = self.read(What::Attestation, &answer)?;
        let lifetime = token::lifetime(&answer.token).map_err(no_token)?;
        self.attester.believed().map_err(BrokerError::Ready)?;
        Ok(Session { key, cookie, token: answer.token, until: begun + lifetime })
    }

    fn ask(&self, session: &Session, path: &ResourcePath, deadline: Instant) -> Result<Vec<u8>, BrokerError> {
        let url = format!("{}/kbs/v0/resource/{path}", self.url);
        self.again(deadline, What::Resource(path.clone()), || {
            self.http.get(&url, &session.cookie, RESOURCE, left(deadline))
        })
    }

    /// Asks, and asks again what can get better.
    fn again<T>(
        &self,
        deadline: Instant,
        what: What,
        ask: impl Fn() -> Result<T, HttpError>,
    ) -> Result<T, BrokerError> {
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match ask() {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            if !error.can_get_better() || Instant::now() + pause >= deadline {
                let url = self.url.clone();
                return Err(match error {
                    HttpError::Refused(refusal) => BrokerError::Refused { url, what, refusal },
                    source => BrokerError::Http { url, what, source },
                });
            }
            self.pauses.fetch_add(1, Ordering::Relaxed);
            #[expect(
                clippy::disallowed_methods,
                reason = "a thread of its own asks; there is no runtime to block"
            )]
            std::thread::sleep(pause);
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn read<T: for<'a> serde::Deserialize<'a>>(&self, what: What, bytes: &[u8]) -> Result<T, BrokerError> {
        let source = |error: serde_json::Error| HttpError::Form(error.to_string());
        serde_json::from_slice(bytes).map_err(|error| BrokerError::Http {
            url: self.url.clone(),
            what,
            source: source(error),
        })
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
