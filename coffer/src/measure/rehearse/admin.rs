//! What a key broker says of itself to who administers it (Trustee, `kbs/src/api_server.rs`): its resource policy, and its
//! reference values one by one. Nothing is changed there.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use ureq::Agent;
use ureq::http::StatusCode;

use super::super::pod::{Class, Demand};
use super::super::trustee::{Resource, forms};
use crate::files::Kind;
use crate::http;

/// Longest answer.
const ANSWER: u64 = 8 << 20;
/// Values that no pod has and without which Trustee's own policies call no part of a token affirming
/// (`ear_default_policy_cpu.rego`).
const SNP: [&str; 4] = ["snp_bootloader", "snp_microcode", "snp_snp_svn", "snp_tee_svn"];
const TDX: [&str; 1] = ["xfam"];

/// Which broker, and who asks.
#[derive(Debug, clap::Args)]
pub(super) struct Door {
    /// Ask this key broker for its policy and its reference values, in place of --policy
    #[arg(long, value_name = "URL")]
    pub(super) kbs: Option<String>,
    /// The broker's certificate or its authority's (PEM); needed for https
    #[arg(long, value_name = "FILE", requires = "kbs")]
    kbs_cert: Option<PathBuf>,
    /// The administrator's token, which the broker wants for these questions
    #[arg(long, value_name = "FILE", requires = "kbs")]
    kbs_token: Option<PathBuf>,
}

/// A broker.
pub(super) struct Admin {
    agent: Agent,
    url: String,
    token: Option<String>,
}

impl Admin {
    /// The one of the command line, if it names one.
    ///
    /// # Errors
    /// A file that is not usable, an address that is none.
    pub(super) fn of(args: &Door) -> Result<Option<Self>> {
        let Some(url) = &args.kbs else { return Ok(None) };
        let token = args.kbs_token.as_deref().map(text).transpose()?;
        Self::new(url, args.kbs_cert.as_deref(), token).map(Some)
    }

    fn new(url: &str, certificate: Option<&Path>, token: Option<String>) -> Result<Self> {
        let url = url.trim().trim_end_matches('/').to_owned();
        let agent = http::agent(&url, "a key broker", certificate, "--kbs-cert")?;
        let token = token.map(|token| token.trim().to_owned());
        Ok(Self { agent, url, token })
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut request = self.agent.get(format!("{}/kbs/v0/{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let asked = || format!("the key broker {}, asked for its {path}", self.url);
        let mut answer = request.call().with_context(asked)?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => bail!(
                "{}: it does not let {} read that; give --kbs-token, or its policy by --policy",
                asked(),
                if self.token.is_some() { "this administrator" } else { "a stranger" }
            ),
            status => bail!("{}: it answers with the status {status}", asked()),
        }
        answer.body_mut().with_config().limit(ANSWER).read_to_string().with_context(asked)
    }

    /// Its resource policy.
    ///
    /// # Errors
    /// A broker that cannot be reached, or that does not show it.
    pub(super) fn policy(&self) -> Result<String> {
        self.get("resource-policy")
    }

    /// A reference value.
    fn reference(&self, name: &str) -> Result<Value> {
        let text = self.get(&format!("reference-value/{name}"))?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| {
            format!("the key broker {} has a reference value {name} that is no JSON", self.url)
        })
    }

    /// Whether it has this pod's reference values.
    ///
    /// # Errors
    /// As for the policy.
    pub(super) fn references(&self, demand: &Demand, resource: &Resource) -> Result<Vec<Finding>> {
        references(demand, resource, |name| self.reference(name))
    }
}

/// What was found out of one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// It is as it must be.
    Right(String),
    /// It is not, and so the pod gets nothing.
    Wrong(String),
}

impl Finding {
    pub(super) fn right(&self) -> Option<&str> {
        match self {
            Self::Right(what) => Some(what),
            Self::Wrong(_) => None,
        }
    }

    pub(super) fn wrong(&self) -> Option<&str> {
        match self {
            Self::Wrong(what) => Some(what),
            Self::Right(_) => None,
        }
    }
}

/// Compares what the broker has with what the pod needs.
fn references(
    demand: &Demand,
    resource: &Resource,
    ask: impl Fn(&str) -> Result<Value>,
) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (name, value) in demand.for_trustee([resource.clone()]).measurements {
        let wanted = forms(&value);
        let found = ask(&name)?;
        let has = |value: &Value| value.as_str().is_some_and(|text| wanted.iter().any(|form| form == text));
        findings.push(match &found {
            Value::Null => Finding::Wrong(format!("the broker has no reference value {name}; this pod's is {value}")),
            Value::Array(all) if all.iter().any(has) => Finding::Right(format!("reference value {name}")),
            one if has(one) => Finding::Right(format!("reference value {name}")),
            other => {
                let number = other.as_array().map_or(1, Vec::len);
                Finding::Wrong(format!(
                    "the broker's reference value {name} ({number} of them) is not this pod's, which is {value}"
                ))
            }
        });
    }
    let of_machines: &[&str] = match demand.class {
        Class::CofferSnp => &SNP,
        Class::CofferTdx => &TDX,
    };
    for name in of_machines {
        findings.push(match ask(name)? {
            Value::Null => Finding::Wrong(format!(
                "the broker has no reference value {name}, without which its verifier calls no processor affirming"
            )),
            _ => Finding::Right(format!("reference value {name} is there, though not whether the node's is among them")),
        });
    }
    Ok(findings)
}

/// What is known of the GPUs' driver before any GPU is taken.
pub(super) fn driver(demand: &Demand, version: Option<&str>) -> Vec<Finding> {
    match version {
        _ if demand.gpus == 0 => Vec::new(),
        None => vec![Finding::Wrong(
            "the pod wants GPUs, and its guest image has no driver for them (image.json has no gpu_driver)"
                .to_owned(),
        )],
        Some("fake") => vec![Finding::Wrong(
            "the guest image's driver of GPUs is the tests', which no verifier believes".to_owned(),
        )],
        Some(_) => Vec::new(),
    }
}

fn text(path: &Path) -> Result<String> {
    String::from_utf8(Kind::KEY.read(path)?)
        .map_err(|error| error.utf8_error())
        .with_context(|| Kind::KEY.unusable(path))
}

#[cfg(test)]
mod tests;
