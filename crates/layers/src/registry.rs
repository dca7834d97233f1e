//! Images in registries (OCI distribution specification), by crate `oci-client`.
//!
//! The crate logs in and streams blobs. It would read a manifest of any size, so those are asked for here, with the token
//! that it got.

use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use docker_credential::CredentialRetrievalError;
use futures_util::StreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::StatusCode;
use reqwest::header::ACCEPT;
use rustls::crypto::ring;

use crate::background::{Background, Sender};
use crate::credentials::Places;
use crate::error::Error;
use crate::manifest::MAX_MANIFEST;
use crate::source::Store;
use crate::{Descriptor, Digest};

/// How long a registry may be silent.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);
/// How long a login, and a manifest, may take in all.
const ANSWER: Duration = Duration::from_secs(60);
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";

/// What can go wrong with a registry.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// There is no such image.
    #[error("{image} does not exist in its registry (or only with another login)")]
    NotFound {
        /// The reference.
        image: String,
    },
    /// The registry wants to know who asks.
    #[error(
        "{image} needs a login: `podman login`, `docker login` or `skopeo login` make one, and REGISTRY_AUTH_FILE names a file of logins"
    )]
    NeedsLogin {
        /// The reference.
        image: String,
    },
    /// It knows who asks.
    #[error("the registry refuses {image} to the login that was found for it")]
    Refused {
        /// The reference.
        image: String,
    },
    /// Nothing comes.
    #[error("the registry of {image} did not answer for {} s when asked for {what}", limit.as_secs())]
    Silent {
        /// The reference.
        image: String,
        /// What was asked for.
        what: String,
        /// How long it was waited for.
        limit: Duration,
    },
    /// Another answer than those that mean something.
    #[error("the registry of {image} answered {status} when asked for {what}")]
    Status {
        /// The reference.
        image: String,
        /// What was asked for.
        what: String,
        /// HTTP status.
        status: u16,
    },
    /// The connection.
    #[error("the registry of {image} cannot be asked for {what}")]
    Client {
        /// The reference.
        image: String,
        /// What was asked for.
        what: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A file of logins cannot be read.
    #[error("cannot read the logins in {}", path.display())]
    AuthFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A login of a kind that takes another protocol.
    #[error("the login for {key} in {} is an identity token, which is not supported: log in with a name and a password or access token", path.display())]
    IdentityToken {
        /// The file.
        path: PathBuf,
        /// Which login.
        key: String,
    },
    /// A file of logins cannot be used.
    #[error("cannot use the logins in {}", path.display())]
    Login {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: CredentialRetrievalError,
    },
}

/// How registries are talked to.
#[derive(Debug, Clone, Default)]
pub struct Registries {
    /// Where logins are.
    pub logins: Places,
    /// No TLS: for registries in a lab. Those of this machine are asked without it in any case.
    pub plain_http: bool,
    /// How long a registry may be silent, where that is not half a minute.
    pub silence: Option<Duration>,
}

/// An image in a registry.
pub(crate) struct Registry {
    background: Background,
    image: Reference,
    client: Client,
    http: reqwest::Client,
    scheme: &'static str,
    authorization: Authorization,
    silence: Duration,
}

enum Authorization {
    None,
    Basic(String, String),
    Bearer(String),
}

impl Registry {
    /// Logs in.
    pub(crate) fn open(image: &Reference, registries: &Registries) -> Result<Self, Error> {
        provide_tls();
        let silence = registries.silence.unwrap_or(SILENCE);
        let plain = registries.plain_http || is_local(image.registry());
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(silence),
            user_agent: concat!("coffer/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| RegistryError::Client {
            image: image.whole(),
            what: "anything".into(),
            source,
        };
        let client = Client::try_from(config).map_err(|error| failed(error.into()))?;
        let http = reqwest::Client::builder().connect_timeout(silence).read_timeout(silence);
        let http = http.user_agent(concat!("coffer/", env!("CARGO_PKG_VERSION"))).build();
        let http = http.map_err(|error| failed(error.into()))?;
        let login = registries.logins.find(image)?;
        let mut this = Self {
            background: Background::new()?,
            image: image.clone(),
            client,
            http,
            scheme: if plain { "http" } else { "https" },
            authorization: Authorization::None,
            silence,
        };
        let token = this
            .background
            .wait(ANSWER.min(silence * 2), this.client.auth(image, &login, RegistryOperation::Pull));
        let token = token
            .ok_or_else(|| this.silent("a login"))?
            .map_err(|error| this.error(error, "a login", &login))?;
        this.authorization = match (token, login) {
            (Some(token), _) => Authorization::Bearer(token),
            (None, RegistryAuth::Basic(user, password)) => Authorization::Basic(user, password),
            _ => Authorization::None,
        };
        Ok(this)
    }

    fn silent(&self, what: &str) -> RegistryError {
        RegistryError::Silent { image: self.image.whole(), what: what.into(), limit: self.silence }
    }

    fn refused(&self) -> RegistryError {
        let image = self.image.whole();
        match self.authorization {
            Authorization::Basic(..) => RegistryError::Refused { image },
            _ => RegistryError::NeedsLogin { image },
        }
    }

    fn error(&self, error: OciDistributionError, what: &str, login: &RegistryAuth) -> RegistryError {
        let image = self.image.whole();
        match error {
            OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::UnauthorizedError { .. } => match login {
                RegistryAuth::Anonymous => RegistryError::NeedsLogin { image },
                _ => RegistryError::Refused { image },
            },
            other => translate(other, &self.image, what, self.silence),
        }
    }

    async fn get(&self, reference: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let what = format!("manifest {reference}");
        let (registry, repository) = (self.image.resolve_registry(), self.image.repository());
        let url = format!("{}://{registry}/v2/{repository}/manifests/{reference}", self.scheme);
        let request = self.http.get(url).header(ACCEPT, MANIFESTS);
        let request = match &self.authorization {
            Authorization::None => request,
            Authorization::Basic(user, password) => request.basic_auth(user, Some(password)),
            Authorization::Bearer(token) => request.bearer_auth(token),
        };
        let broken = |error: reqwest::Error| http_error(error, &self.image, &what, self.silence);
        let mut response = request.send().await.map_err(broken)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Err(self.refused()),
            StatusCode::NOT_FOUND => return Err(RegistryError::NotFound { image: self.image.whole() }),
            status => {
                let (image, status) = (self.image.whole(), status.as_u16());
                return Err(RegistryError::Status { image, what, status });
            }
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(broken)? {
            bytes.extend_from_slice(&chunk);
            // The caller says what is wrong with it.
            if bytes.len() as u64 > limit {
                break;
            }
        }
        Ok(bytes)
    }

    fn wait(&self, reference: &str, limit: u64) -> Result<Vec<u8>, Error> {
        let answer = self.background.wait(ANSWER, self.get(reference, limit));
        Ok(answer.ok_or_else(|| self.silent(&format!("manifest {reference}")))??)
    }
}

impl Store for Registry {
    fn top(&self) -> Result<Descriptor, Error> {
        let reference = self.image.digest().or_else(|| self.image.tag()).unwrap_or("latest");
        let bytes = self.wait(reference, MAX_MANIFEST)?;
        if bytes.len() as u64 > MAX_MANIFEST {
            let size = bytes.len() as u64;
            return Err(Error::TooLarge { what: "manifest", digest: reference.to_owned(), size });
        }
        let found = Digest::of(&bytes);
        // A text that is a digest is one that was read when the reference was.
        if let Some(expected) = self.image.digest().and_then(|digest| digest.parse().ok())
            && found != expected
        {
            return Err(Error::Digest { what: "manifest", expected, found });
        }
        let size = bytes.len() as u64;
        Ok(Descriptor { media_type: String::new(), digest: found, size, platform: None, annotations: None })
    }

    fn manifest(&self, manifest: &Descriptor, limit: u64) -> Result<Vec<u8>, Error> {
        self.wait(&manifest.digest.to_string(), limit)
    }

    fn blob<'a>(
        &'a self,
        what: &'static str,
        blob: &Descriptor,
    ) -> Result<Box<dyn std::io::Read + Send + 'a>, Error> {
        let what = format!("{what} {}", blob.digest.short());
        let (client, image, silence) = (self.client.clone(), self.image.clone(), self.silence);
        let digest = blob.digest.to_string();
        Ok(self.background.reader(move |sender| async move {
            if let Err(error) = download(client, &image, &digest, &what, silence, &sender).await {
                sender.send(Err(error.into())).await;
            }
        }))
    }
}

async fn download(
    client: Client,
    image: &Reference,
    digest: &str,
    what: &str,
    silence: Duration,
    sender: &Sender,
) -> Result<(), RegistryError> {
    let silent = |_| RegistryError::Silent { image: image.whole(), what: what.into(), limit: silence };
    let answer = tokio::time::timeout(silence, client.pull_blob_stream(image, digest)).await;
    let mut stream = answer.map_err(silent)?.map_err(|error| translate(error, image, what, silence))?;
    loop {
        let chunk = match tokio::time::timeout(silence, stream.next()).await.map_err(silent)? {
            None => return Ok(()),
            Some(Ok(chunk)) => Ok::<Bytes, Error>(chunk),
            // The crate checks digests as well; our own check says more.
            Some(Err(error))
                if error.get_ref().is_some_and(|e| e.is::<oci_client::errors::DigestError>()) =>
            {
                return Ok(());
            }
            Some(Err(error)) => {
                return Err(RegistryError::Client {
                    image: image.whole(),
                    what: what.into(),
                    source: error.into(),
                });
            }
        };
        if !sender.send(chunk).await {
            return Ok(());
        }
    }
}

fn translate(error: OciDistributionError, image: &Reference, what: &str, silence: Duration) -> RegistryError {
    let (name, what) = (image.whole(), what.to_owned());
    let unknown = |code: &OciErrorCode| {
        matches!(code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::BlobUnknown)
    };
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => RegistryError::NotFound { image: name },
        OciDistributionError::UnauthorizedError { .. } => RegistryError::NeedsLogin { image: name },
        OciDistributionError::RegistryError { envelope, .. }
            if envelope.errors.iter().any(|error| unknown(&error.code)) =>
        {
            RegistryError::NotFound { image: name }
        }
        OciDistributionError::ServerError { code, .. } => {
            RegistryError::Status { image: name, what, status: code }
        }
        OciDistributionError::RequestError(error) => http_error(error, image, &what, silence),
        source => RegistryError::Client { image: name, what, source: source.into() },
    }
}

fn http_error(error: reqwest::Error, image: &Reference, what: &str, silence: Duration) -> RegistryError {
    let (image, what) = (image.whole(), what.to_owned());
    if error.is_timeout() {
        return RegistryError::Silent { image, what, limit: silence };
    }
    // Its own text repeats the address, with whatever a redirect put into it.
    RegistryError::Client { image, what, source: error.without_url().into() }
}

/// As containerd has it (`core/remotes/docker`, `MatchLocalhost`): TLS is not expected of this machine's own registry.
fn is_local(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, port)| match port.parse::<u16>() {
        Ok(_) => host,
        Err(_) => registry,
    });
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// `ring` is what does the TLS: the other provider needs a C++ compiler's tools to be built.
fn provide_tls() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // It fails where there is one already, which is as good.
        let _ = ring::default_provider().install_default();
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_local() {
        for local in ["localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:80", "[::1]:5000"] {
            assert!(is_local(local), "{local}");
        }
        for other in ["docker.io", "localhost.example.com", "10.0.0.1:5000", "128.0.0.1", "[::2]:5000"] {
            assert!(!is_local(other), "{other}");
        }
    }
}
