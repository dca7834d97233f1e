//! Logins, from where podman, skopeo and docker keep them.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use oci_client::Reference;
use oci_client::secrets::RegistryAuth;

use crate::registry::RegistryError;

/// A file of logins has a few kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// Where the files may be, as the environment says it.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// `REGISTRY_AUTH_FILE`: this one and no other.
    pub auth_file: Option<PathBuf>,
    /// The others, the first that is there.
    pub others: Vec<PathBuf>,
}

impl Places {
    /// As containers-auth.json(5) and docker-login(1) have it.
    #[must_use]
    pub fn from_env(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = path("XDG_CONFIG_HOME").or_else(|| Some(path("HOME")?.join(".config")));
        let docker = path("DOCKER_CONFIG").or_else(|| Some(path("HOME")?.join(".docker")));
        let others = [
            path("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
            config.map(|dir| dir.join("containers/auth.json")),
            docker.map(|dir| dir.join("config.json")),
        ];
        Self { auth_file: path("REGISTRY_AUTH_FILE"), others: others.into_iter().flatten().collect() }
    }

    /// The login for an image.
    pub(crate) fn find(&self, image: &Reference) -> Result<RegistryAuth, RegistryError> {
        match &self.auth_file {
            Some(file) => {
                let content =
                    read(file).map_err(|source| RegistryError::AuthFile { path: file.clone(), source })?;
                login(file, &content, image).map(|found| found.unwrap_or(RegistryAuth::Anonymous))
            }
            None => {
                for file in &self.others {
                    let content = match read(file) {
                        Ok(content) => content,
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(source) => return Err(RegistryError::AuthFile { path: file.clone(), source }),
                    };
                    if let Some(found) = login(file, &content, image)? {
                        return Ok(found);
                    }
                }
                Ok(RegistryAuth::Anonymous)
            }
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(file)?.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}

/// The names that a login may have, the narrowest first: podman's have the repository, docker's for its own registry are an
/// address of its first version.
fn keys(image: &Reference) -> Vec<String> {
    let registry = image.registry();
    let mut keys = Vec::new();
    let mut path = format!("{registry}/{}", image.repository());
    while let Some((shorter, _)) = path.clone().rsplit_once('/') {
        keys.push(path);
        path = shorter.to_owned();
    }
    keys.push(registry.to_owned());
    if registry == "docker.io" {
        keys.extend(["index.docker.io", "https://index.docker.io/v1/"].map(str::to_owned));
    }
    keys.extend([format!("https://{registry}"), format!("http://{registry}")]);
    keys
}

fn login(file: &Path, content: &[u8], image: &Reference) -> Result<Option<RegistryAuth>, RegistryError> {
    for key in keys(image) {
        match get_credential_from_reader(content, &key) {
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                return Ok(Some(RegistryAuth::Basic(user, password)));
            }
            Ok(DockerCredential::IdentityToken(_)) => {
                return Err(RegistryError::IdentityToken { path: file.to_owned(), key });
            }
            Err(CredentialRetrievalError::NoCredentialConfigured) => {}
            // A helper that is asked for a registry that it does not know fails.
            Err(CredentialRetrievalError::HelperFailure { .. }) => {}
            Err(source) => return Err(RegistryError::Login { path: file.to_owned(), source }),
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use serde_json::json;

    fn auth(user: &str) -> serde_json::Value {
        json!({"auth": BASE64_STANDARD.encode(format!("{user}:secret"))})
    }

    fn user(places: &Places, image: &str) -> Option<String> {
        match places.find(&image.parse().unwrap()).unwrap() {
            RegistryAuth::Basic(user, password) => {
                assert_eq!(password, "secret");
                Some(user)
            }
            _ => None,
        }
    }

    #[test]
    fn the_narrowest_login_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        let content = json!({"auths": {
            "r.example.com": auth("all"), "r.example.com/team": auth("team"),
            "https://index.docker.io/v1/": auth("hub"), "localhost:5000": auth("local"),
        }});
        std::fs::write(&file, content.to_string()).unwrap();
        let places = Places { auth_file: Some(file), others: Vec::new() };
        assert_eq!(user(&places, "r.example.com/team/app").as_deref(), Some("team"));
        assert_eq!(user(&places, "r.example.com/teams/app").as_deref(), Some("all"));
        assert_eq!(user(&places, "busybox").as_deref(), Some("hub"));
        assert_eq!(user(&places, "localhost:5000/a").as_deref(), Some("local"));
        assert_eq!(user(&places, "localhost:5001/a"), None);
    }

    #[test]
    fn the_first_file_with_a_login_counts_and_a_named_one_has_to_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
        std::fs::write(&first, json!({"auths": {"a.example.com": auth("first")}}).to_string()).unwrap();
        let both = json!({"auths": {"a.example.com": auth("second"), "b.example.com": auth("second")}});
        std::fs::write(&second, both.to_string()).unwrap();
        let missing = dir.path().join("missing");
        let others = vec![missing.clone(), first.clone(), second];
        let places = Places { auth_file: None, others };
        assert_eq!(user(&places, "a.example.com/x").as_deref(), Some("first"));
        assert_eq!(user(&places, "b.example.com/x").as_deref(), Some("second"));
        let image = "a.example.com/x".parse().unwrap();
        let named = Places { auth_file: Some(missing), others: vec![first.clone()] };
        assert!(matches!(named.find(&image), Err(RegistryError::AuthFile { .. })));
        std::fs::write(&first, "{").unwrap();
        assert!(matches!(places.find(&image), Err(RegistryError::Login { .. })));
    }

    #[test]
    fn the_environment_says_where_files_are() {
        let env = |name: &str| {
            let value = match name {
                "HOME" => "/home/u",
                "XDG_RUNTIME_DIR" => "/run/user/1",
                "DOCKER_CONFIG" => "",
                _ => return None,
            };
            Some(value.into())
        };
        let places = Places::from_env(env);
        assert_eq!(places.auth_file, None);
        let expected = [
            "/run/user/1/containers/auth.json",
            "/home/u/.config/containers/auth.json",
            "/home/u/.docker/config.json",
        ];
        assert_eq!(places.others, expected.map(PathBuf::from));
    }
}
