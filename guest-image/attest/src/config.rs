//! Which key broker the pod's owner names: initdata's `aa.toml` and `cdh.toml`, as CoCo's components have them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::Deserialize;
use ureq::Proxy;
use ureq::http::Uri;
use ureq::tls::{Certificate, PemItem, parse_pem};

use crate::sealed::Rules;

/// The broker.
#[derive(Clone)]
pub struct Broker {
    /// Its address, without a slash at the end.
    pub url: String,
    /// The only certificates, or authorities, that it may show; none with `http`.
    pub certificates: Vec<Certificate<'static>>,
    /// Who passes questions on to it, where it is not reached directly.
    pub(crate) proxy: Option<Proxy>,
    /// How sealed secrets are opened.
    pub sealed: Rules,
    /// Whether containers may extend the VM's measurement.
    pub events: bool,
}

/// The only kind of session key that is made here, as `aa.toml` names it (guest-components,
/// `attestation-agent/attestation-agent/src/config/kbs.rs`).
const KEY_ALGORITHM: &str = "ECDH-ES+A256KW-P256";
/// The TPM's register that stands for RTMR3 (the same, `config/mod.rs`).
const EVENT_PCR: u64 = 17;

impl fmt::Debug for Broker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broker")
            .field("url", &self.url)
            .field("certificates", &self.certificates.len())
            .finish_non_exhaustive()
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "Display says it")]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A file is not as CoCo has it.
    #[error("{name} in the initdata is not usable: {what}")]
    File { name: &'static str, what: String },
    /// No broker is named.
    #[error(
        "the initdata names no key broker: set url below [token_configs.kbs] in aa.toml, or below [kbc] in cdh.toml"
    )]
    Nobody,
    /// Two are.
    #[error("the initdata names two key brokers: {aa} in aa.toml, and {cdh} in cdh.toml")]
    Two { aa: String, cdh: String },
    /// Two certificates.
    #[error("the initdata has one certificate of {url} in aa.toml, and another one in cdh.toml")]
    TwoCertificates { url: String },
    /// It is no address.
    #[error("{0:?} is no address of a key broker: it begins with https:// (or http://), and names a host")]
    Url(String),
    /// Whoever it is could be anybody.
    #[error(
        "the initdata pins no certificate of {0}: set cert below [token_configs.kbs] in aa.toml, or kbs_cert below [kbc] in \
         cdh.toml, to its certificate or its authority's, in PEM"
    )]
    Unpinned(String),
    /// It is no certificate.
    #[error("the certificate that the initdata pins for {0} is not usable: {1}")]
    Certificate(String, String),
    /// Another kind of session key.
    #[error(
        "aa.toml in the initdata has token_configs.kbs.tee_key_algorithm = {0:?}, and this guest makes keys for {KEY_ALGORITHM:?} \
         only: leave it out"
    )]
    KeyAlgorithm(String),
    /// Another register.
    #[error(
        "aa.toml in the initdata has eventlog_config.init_pcr = {0}, and this guest extends RTMR3 only, which is {EVENT_PCR}: leave it out"
    )]
    Register(u64),
    /// It is no proxy.
    #[error("{0:?} is no proxy: it is http://HOST:PORT, without a name and a password")]
    Proxy(String),
    /// Another kind.
    #[error(
        "cdh.toml in the initdata has kbc.name = {0:?}, and this guest speaks to a key broker (\"cc_kbc\") only"
    )]
    Kind(String),
}

/// What `aa.toml` has for us; CoCo's other keys are for its own programs.
#[derive(Debug, Default, Deserialize)]
struct Aa {
    #[serde(default)]
    token_configs: TokenConfigs,
    #[serde(default)]
    eventlog_config: Events,
}

#[derive(Debug, Default, Deserialize)]
struct Events {
    #[serde(default)]
    enable_eventlog: bool,
    init_pcr: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
struct TokenConfigs {
    kbs: Option<Kbs>,
}

#[derive(Debug, Deserialize)]
struct Kbs {
    url: String,
    cert: Option<String>,
    tee_key_algorithm: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Cdh {
    kbc: Option<Kbc>,
    #[serde(default)]
    skip_sealed_secret_verification: bool,
    #[serde(default)]
    credentials: Vec<Credential>,
}

#[derive(Debug, Deserialize)]
struct Credential {
    path: String,
    resource_uri: String,
}

#[derive(Debug, Deserialize)]
struct Kbc {
    name: Option<String>,
    #[serde(default)]
    url: String,
    kbs_cert: Option<String>,
}

impl Broker {
    /// The broker that the files in `directory` name.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn read(directory: &Path) -> Result<Self, ConfigError> {
        let text = |name: &str| {
            let path = directory.join(name);
            match fs::read_to_string(&path) {
                Ok(text) => Ok(Some(text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(source) => Err(ConfigError::Read { path, source }),
            }
        };
        Self::parse(text("aa.toml")?.as_deref(), text("cdh.toml")?.as_deref())
    }

    /// The broker that these texts name.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn parse(aa: Option<&str>, cdh: Option<&str>) -> Result<Self, ConfigError> {
        let aa: Aa = read("aa.toml", aa)?;
        let cdh: Cdh = read("cdh.toml", cdh)?;
        if let Some(other) = aa.eventlog_config.init_pcr.filter(|pcr| *pcr != EVENT_PCR) {
            return Err(ConfigError::Register(other));
        }
        let wanted = aa.token_configs.kbs.as_ref().and_then(|kbs| kbs.tee_key_algorithm.as_deref());
        if let Some(other) = wanted.filter(|wanted| *wanted != KEY_ALGORITHM) {
            return Err(ConfigError::KeyAlgorithm(other.to_owned()));
        }
        let kbc = cdh.kbc.map(|kbc| match kbc.name.as_deref() {
            None | Some("cc_kbc") => Ok(Kbs { url: kbc.url, cert: kbc.kbs_cert, tee_key_algorithm: None }),
            Some(other) => Err(ConfigError::Kind(other.to_owned())),
        });
        let named = match (aa.token_configs.kbs, kbc.transpose()?) {
            (None, None) => return Err(ConfigError::Nobody),
            (Some(one), None) | (None, Some(one)) => one,
            (Some(aa), Some(cdh)) if trimmed(&aa.url) != trimmed(&cdh.url) => {
                return Err(ConfigError::Two { aa: aa.url, cdh: cdh.url });
            }
            (Some(aa), Some(cdh)) => match (aa.cert, cdh.cert) {
                (Some(one), Some(other)) if one.trim() != other.trim() => {
                    return Err(ConfigError::TwoCertificates { url: aa.url });
                }
                (one, other) => Kbs { url: aa.url, cert: one.or(other), tee_key_algorithm: None },
            },
        };
        let url = trimmed(&named.url).to_owned();
        let address: Uri = url.parse().map_err(|_| ConfigError::Url(url.clone()))?;
        let pem = named.cert.filter(|pem| !pem.trim().is_empty());
        let certificates =
            match (address.scheme_str(), address.host().is_some_and(|host| !host.is_empty()), pem) {
                _ if address.query().is_some() => return Err(ConfigError::Url(url)),
                (Some("https"), true, Some(pem)) => certificates(&url, &pem)?,
                (Some("https"), true, None) => return Err(ConfigError::Unpinned(url)),
                (Some("http"), true, None) => Vec::new(),
                (Some("http"), true, Some(_)) => {
                    return Err(ConfigError::Certificate(url, "nobody shows one over http".to_owned()));
                }
                _ => return Err(ConfigError::Url(url)),
            };
        let authority = address.authority().map(ToString::to_string).unwrap_or_default();
        let mut sealed =
            Rules { unsigned: cdh.skip_sealed_secret_verification, authority, ..Rules::default() };
        for Credential { path, resource_uri } in &cdh.credentials {
            sealed.credential(path, resource_uri);
        }
        Ok(Self { url, certificates, proxy: None, sealed, events: aa.eventlog_config.enable_eventlog })
    }

    /// The same, reached through a proxy (`http://HOST:PORT`) that passes bytes on (CONNECT): the broker still shows the pinned
    /// certificate, and the proxy reads nothing.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Proxy`].
    pub fn through(self, proxy: &str) -> Result<Self, ConfigError> {
        let none = || ConfigError::Proxy(proxy.to_owned());
        let uri: Uri = proxy.parse().map_err(|_| none())?;
        let plain = uri.scheme_str() == Some("http")
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.port_u16().is_some()
            && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
            && uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        let proxy = plain.then(|| Proxy::new(proxy).ok()).flatten().ok_or_else(none)?;
        Ok(Self { proxy: Some(proxy), ..self })
    }

    /// Whether the broker shows who it is. Over http whoever is on the way can answer in its place: he learns no key, but the
    /// pod cannot tell his keys from the owner's.
    pub fn is_authentic(&self) -> bool {
        !self.certificates.is_empty()
    }
}

fn trimmed(url: &str) -> &str {
    url.trim().trim_end_matches('/')
}

fn read<T: Default + for<'a> Deserialize<'a>>(
    name: &'static str,
    text: Option<&str>,
) -> Result<T, ConfigError> {
    let unusable = |error: toml::de::Error| ConfigError::File { name, what: error.message().to_owned() };
    text.map_or_else(|| Ok(T::default()), |text| toml::from_str(text).map_err(unusable))
}

fn certificates(url: &str, pem: &str) -> Result<Vec<Certificate<'static>>, ConfigError> {
    let unusable = |what: String| ConfigError::Certificate(url.to_owned(), what);
    let mut certificates = Vec::new();
    for item in parse_pem(pem.as_bytes()) {
        match item.map_err(|error| unusable(error.to_string()))? {
            PemItem::Certificate(certificate) => certificates.push(certificate),
            _ => return Err(unusable("it has something else than certificates in it".to_owned())),
        }
    }
    let is_anchor = |certificate: &Certificate<'_>| {
        let der = rustls::pki_types::CertificateDer::from(certificate.der());
        rustls::RootCertStore::empty().add(der).is_ok()
    };
    if certificates.is_empty() {
        return Err(unusable("it is no PEM".to_owned()));
    }
    if !certificates.iter().all(is_anchor) {
        return Err(unusable("a block of it is no certificate (X.509)".to_owned()));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests;
