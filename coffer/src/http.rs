//! The HTTP client of the command: short answers, no redirects, no proxy, and no authority but the one that is named.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::crypto::ring;
use ureq::Agent;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::files::Kind;

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A client for `url`, which is `whose` address. With https it takes `certificate` only, or what that has signed.
///
/// # Errors
/// An address that is none, a certificate that is missing, not needed or not readable.
pub(crate) fn agent(url: &str, whose: &str, certificate: Option<&Path>, flag: &str) -> Result<Agent> {
    let certificates = match (url.split_once("://").map(|(scheme, _)| scheme), certificate) {
        (Some("http"), None) => Vec::new(),
        (Some("http"), Some(_)) => bail!("{url} shows no certificate: leave {flag} out"),
        (Some("https"), None) => bail!("{flag} is needed for {url}: no other authority is known here"),
        (Some("https"), Some(path)) => certificates(path)?,
        _ => bail!("{url:?} is no address of {whose}: give http://HOST:PORT or https://HOST:PORT"),
    };
    let tls = TlsConfig::builder()
        .unversioned_rustls_crypto_provider(Arc::new(ring::default_provider()))
        .root_certs(RootCerts::new_with_certs(&certificates))
        .build();
    let config = Agent::config_builder()
        .tls_config(tls)
        .proxy(None)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_global(Some(PATIENCE))
        .user_agent("coffer")
        .build();
    Ok(config.new_agent())
}

fn certificates(path: &Path) -> Result<Vec<Certificate<'static>>> {
    let pem = Kind::KEY.read(path)?;
    let mut certificates = Vec::new();
    for item in parse_pem(&pem) {
        match item.with_context(|| Kind::KEY.unusable(path))? {
            PemItem::Certificate(certificate) => certificates.push(certificate),
            _ => bail!("{} has something else than certificates in it", path.display()),
        }
    }
    ensure!(!certificates.is_empty(), "{} holds no certificate (PEM)", path.display());
    Ok(certificates)
}
