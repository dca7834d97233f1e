//! Sessions: a challenge, evidence for it, a token, and resources for that.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use kbs_types::{Attestation, Request, Tee, TeePubKey};
use p256::SecretKey;
use p256::elliptic_curve::Generate as _;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use crate::server::{Answer, Question};
use crate::token::{Signer, issue};
use crate::{Counts, Setup, Trouble, jwe, policy, verifier};

const COOKIE: &str = "kbs-session-id";
const VERSION: &str = "0.4.0";

enum State {
    Challenged { tee: Tee, nonce: String },
    Attested { token: String },
}

struct Session {
    state: State,
    until: Instant,
}

/// The broker.
pub(crate) struct Rcar {
    setup: Setup,
    counts: Arc<Counts>,
    signer: Signer,
    sessions: Mutex<HashMap<String, Session>>,
}

/// A refusal: the last part of its type, and Trustee's words for it.
struct Refused(u16, &'static str, String);

/// Trustee says no more than this of most errors; the cause is in its log.
fn refused(kind: &'static str, words: &str) -> impl Fn(anyhow::Error) -> Refused {
    let words = words.to_owned();
    move |error| {
        eprintln!("kbs: {kind}: {error:#}");
        Refused(401, kind, words.clone())
    }
}

impl Rcar {
    pub(crate) fn new(setup: Setup, counts: Arc<Counts>) -> Self {
        Self { setup, counts, signer: Signer::new(), sessions: Mutex::default() }
    }

    pub(crate) fn answer(&self, question: &Question) -> Answer {
        let (path, query) = question.target.split_once('?').unwrap_or((&question.target, ""));
        let parts: Vec<&str> = path.strip_prefix("/kbs/v0/").unwrap_or_default().split('/').collect();
        let answer = match (question.method.as_str(), parts.as_slice()) {
            ("POST", ["auth"]) => self.auth(&question.body),
            ("POST", ["attest"]) => self.attest(question),
            ("GET", ["resource-policy"]) => self.admin(question, |setup| setup.policy.clone()),
            ("GET", ["reference-value", name]) => self.admin(question, |setup| {
                // Trustee's own answer for a name that it does not have.
                setup.references.get(*name).map_or_else(|| "null".to_owned(), Value::to_string)
            }),
            ("GET", ["resource", path @ ..]) => self.resource(question, path, query),
            (_, [plugin, ..]) => Err(Refused(404, "PluginNotFound", format!("Plugin {plugin} not found"))),
            (_, []) => Err(Refused(404, "InvalidRequestPath", "Request path is invalid".to_owned())),
        };
        answer.unwrap_or_else(|Refused(status, kind, detail)| {
            let kind = format!("https://github.com/confidential-containers/kbs/errors/{kind}");
            let body = json!({ "type": kind, "detail": detail }).to_string().into_bytes();
            Answer { status, headers: vec![], body }
        })
    }

    fn admin(&self, question: &Question, answer: impl Fn(&Setup) -> String) -> Result<Answer, Refused> {
        let shown = question.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        if self.setup.admin.is_none() || shown != self.setup.admin.as_deref() {
            return Err(Refused(401, "AdminAuth", "Admin auth error".to_owned()));
        }
        Ok(Answer { status: 200, headers: vec![], body: answer(&self.setup).into_bytes() })
    }

    fn auth(&self, body: &[u8]) -> Result<Answer, Refused> {
        self.counts.auth.fetch_add(1, Ordering::AcqRel);
        self.counts.begun.get_or_init(Instant::now);
        let words = "Attestation error: RCAR handshake Auth failed";
        let request: Request = read(body).map_err(refused("AttestationError", words))?;
        if request.version != VERSION {
            let found = request.version;
            let why = format!(
                "KBS Client Protocol Version Mismatch: expect ={VERSION} while the request is {found}"
            );
            return Err(Refused(401, "AttestationError", format!("{words}: {why}")));
        }
        let nonce = STANDARD.encode(random::<32>());
        let id = random::<16>().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        let shown =
            if self.setup.trouble == Trouble::ShortNonce { STANDARD.encode([7; 16]) } else { nonce.clone() };
        let session = Session {
            state: State::Challenged { tee: request.tee, nonce },
            until: Instant::now() + self.setup.lifetime,
        };
        self.sessions().insert(id.clone(), session);
        let answer = json_answer(&json!({ "nonce": shown, "extra-params": "" }));
        Ok(if self.setup.trouble == Trouble::NoCookie { answer } else { with_cookie(answer, &id) })
    }

    fn attest(&self, question: &Question) -> Result<Answer, Refused> {
        self.counts.attest.fetch_add(1, Ordering::AcqRel);
        let attested = self.attested(question);
        let (id, token) = attested
            .map_err(refused("AttestationError", "Attestation error: RCAR handshake Attest failed"))?;
        Ok(with_cookie(json_answer(&json!({ "token": token })), &id))
    }

    fn attested(&self, question: &Question) -> Result<(String, String)> {
        let id = cookie(question).context("cookie not found")?;
        let attestation: Attestation = read(&question.body)?;
        let (tee, nonce) = match self.sessions().get(&id).filter(|session| Instant::now() < session.until) {
            None => bail!("session not found"),
            // The old token, and nobody looks at the evidence.
            Some(Session { state: State::Attested { token }, .. }) => return Ok((id, token.clone())),
            Some(Session { state: State::Challenged { tee, nonce }, .. }) => (*tee, nonce.clone()),
        };
        ensure!(nonce == attestation.runtime_data.nonce, "the nonce is another session's");
        let key = attestation.runtime_data.tee_pubkey;
        let devices = json!({ "tee-pubkey": key, "nonce": nonce });
        let additional = attestation.tee_evidence.additional_evidence;
        let whole = json!({ "tee-pubkey": key, "nonce": nonce, "additional-evidence": additional });
        let verifier = verifier::Verifier {
            gpu_root: self.setup.gpu_root.as_deref(),
            chips: self.setup.chips.as_ref(),
            platform_root: self.setup.platform_root.as_deref(),
            references: &self.setup.references,
        };
        let mut parts = verifier.verify(
            tee,
            attestation.tee_evidence.primary_evidence,
            &whole,
            attestation.init_data.as_ref(),
        )?;
        if !additional.is_empty() {
            let additional: HashMap<Tee, Value> = serde_json::from_str(&additional)?;
            for (tee, evidence) in additional {
                parts.extend(verifier.verify(tee, evidence, &devices, None)?);
            }
        }
        if self.setup.trouble == Trouble::OthersToken {
            let point = SecretKey::generate().public_key().to_sec1_bytes();
            for part in &mut parts {
                part.runtime["tee-pubkey"]["x"] = URL_SAFE_NO_PAD.encode(&point[1..33]).into();
                part.runtime["tee-pubkey"]["y"] = URL_SAFE_NO_PAD.encode(&point[33..65]).into();
            }
        }
        let lifetime =
            if self.setup.trouble == Trouble::EndedToken { Duration::ZERO } else { self.setup.lifetime };
        let token = issue(&self.signer, parts, lifetime);
        if let Some(session) = self.sessions().get_mut(&id) {
            session.state = State::Attested { token: token.clone() };
        }
        Ok((id, token))
    }

    fn resource(&self, question: &Question, path: &[&str], query: &str) -> Result<Answer, Refused> {
        let before = self.counts.resource.fetch_add(1, Ordering::AcqRel);
        match self.setup.trouble {
            Trouble::Refuses(kind) => return Err(Refused(401, kind, format!("{kind} on purpose"))),
            Trouble::Expires if before == 1 => {
                return Err(Refused(401, "TokenVerifierError", "Token Verifier error".to_owned()));
            }
            _ => {}
        }
        let token =
            self.token_of(question).map_err(refused("TokenNotFound", "Attestation Token not found"))?;
        let claims =
            self.signer.verify(&token).map_err(refused("TokenVerifierError", "Token Verifier error"))?;
        let query: HashMap<&str, &str> = query.split('&').filter_map(|pair| pair.split_once('=')).collect();
        let data = json!({ "plugin": "resource", "resource-path": path, "query": query });
        let allowed = policy::allows(&self.setup.policy, &data, &claims)
            .map_err(refused("PolicyEngineError", "Policy engine error"))?;
        if !allowed {
            return Err(Refused(401, "PolicyDeny", "Access denied by policy".to_owned()));
        }
        let named = || self.setup.resources.get(&path.join("/")).context("no such resource");
        let content = named().map_err(refused("PluginInternalError", "Plugin internal error"))?;
        let key = || -> Result<TeePubKey> {
            let runtime =
                &claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["runtime_data_claims"];
            Ok(serde_json::from_value(runtime["tee-pubkey"].clone())?)
        };
        let sealed = key().and_then(|key| jwe::seal(content, &key, self.setup.trouble));
        let sealed = sealed.map_err(refused("JweError", "JWE failed"))?;
        if self.setup.trouble == Trouble::Forgets && before == 0 {
            self.sessions().clear();
        }
        self.counts.given.get_or_init(Instant::now);
        Ok(json_answer(&sealed))
    }

    /// The session's, else one that was brought along.
    fn token_of(&self, question: &Question) -> Result<String> {
        if let Some(id) = cookie(question) {
            match self.sessions().get(&id) {
                Some(Session { state: State::Attested { token }, until }) if Instant::now() < *until => {
                    return Ok(token.clone());
                }
                _ => {}
            }
        }
        let bearer = question.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
        bearer.map(str::to_owned).context("neither session nor bearer")
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<String, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read<T: for<'a> serde::Deserialize<'a>>(body: &[u8]) -> Result<T> {
    Ok(serde_json::from_slice(body)?)
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    if SystemRandom::new().fill(&mut bytes).is_err() {
        panic!("there are no random numbers");
    }
    bytes
}

fn cookie(question: &Question) -> Option<String> {
    let pairs = question.header("cookie")?.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(name, _)| *name == COOKIE).map(|(_, value)| value.to_owned())
}

fn json_answer(value: &Value) -> Answer {
    let headers = vec![("content-type", "application/json".to_owned())];
    Answer { status: 200, headers, body: value.to_string().into_bytes() }
}

fn with_cookie(mut answer: Answer, id: &str) -> Answer {
    answer.headers.push(("set-cookie", format!("{COOKIE}={id}; Expires=Fri, 31 Dec 2099 23:59:59 GMT")));
    answer
}
