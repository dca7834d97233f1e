//! Sealed secrets of the Confidential Containers project: kata-agent has them opened by the guest components, where the guest image
//! has those. In another guest a container would get the sealed text as if it were the secret; so it is refused.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;

use oci_spec::runtime::Spec;

use crate::api::{Error, Result};

/// How a sealed secret begins (guest-components, `confidential-data-hub/hub/src/secret`).
const PREFIX: &str = "sealed.";
/// The folders of kubelet's in which a pod's secrets may be. No name says of which volume a `subPath` is.
const SECRETS: [&str; 3] = ["kubernetes.io~secret", "kubernetes.io~projected", "volume-subpaths"];

/// Fails if the container is to have a sealed secret, in its environment or in a volume of kubelet's.
///
/// # Errors
/// [`Error::InvalidRequest`], which names it.
pub fn refuse(spec: &Spec) -> Result<()> {
    let environment =
        spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
    let variables = environment.iter().filter_map(|entry| entry.split_once('='));
    let mut variables = variables.filter(|(_, value)| value.starts_with(PREFIX));
    if let Some((name, _)) = variables.next() {
        return Err(refused(&format!("the environment variable {name}")));
    }
    for mount in spec.mounts().as_deref().unwrap_or_default() {
        let Some(source) = mount.source().as_deref() else { continue };
        if source.iter().any(|part| SECRETS.iter().any(|folder| part == *folder))
            && let Some(name) = sealed(source).map_err(|error| unreadable(source, &error))?
        {
            return Err(refused(&format!("{} in {}", name, mount.destination().display())));
        }
    }
    Ok(())
}

/// The first sealed file at a path: a secret's directory, or one key of it.
fn sealed(source: &Path) -> io::Result<Option<String>> {
    let mut files = vec![source.to_owned()];
    if source.is_dir() {
        files.clear();
        for entry in fs::read_dir(source)? {
            files.push(entry?.path());
        }
        files.sort();
    }
    for file in files.iter().filter(|file| file.is_file()) {
        let mut begin = Vec::new();
        File::open(file)?.take(PREFIX.len() as u64).read_to_end(&mut begin)?;
        if begin == PREFIX.as_bytes() {
            return Ok(file.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

fn refused(what: &str) -> Error {
    let reason = format!(
        "{what} is a sealed secret, and nobody in this pod's guest opens it: take a guest image that was built with GUEST_COMPONENTS, \
         or have the container ask the guest's attestation service (http://127.0.0.1:8006/cdh/resource/...) for the secret"
    );
    Error::InvalidRequest { field: "spec", reason }
}

fn unreadable(source: &Path, error: &io::Error) -> Error {
    Error::InvalidRequest { field: "spec", reason: format!("{} cannot be read: {error}", source.display()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(env: &[&str], source: &Path) -> Spec {
        let json = serde_json::json!({
            "ociVersion": "1.1.0",
            "process": { "cwd": "/", "user": { "uid": 0, "gid": 0 }, "args": ["x"], "env": env },
            "mounts": [{ "destination": "/etc/keys", "type": "bind", "source": source }],
        });
        serde_json::from_value(json).unwrap()
    }

    fn said(spec: &Spec) -> String {
        refuse(spec).unwrap_err().to_string()
    }

    #[test]
    fn a_sealed_secret_is_named_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("volumes/kubernetes.io~secret/keys");
        fs::create_dir_all(&secret).unwrap();
        fs::write(secret.join("one"), "plain").unwrap();
        assert!(refuse(&spec(&["A=b", "B=seal", "sealed.x=y"], &secret)).is_ok());
        let text = said(&spec(&["A=b", "KEY=sealed.a.b.c"], &secret));
        assert!(text.contains("the environment variable KEY") && text.contains("GUEST_COMPONENTS"), "{text}");
        fs::write(secret.join("two"), "sealed.a.b.c").unwrap();
        assert!(said(&spec(&[], &secret)).contains("two in /etc/keys"));
        assert!(said(&spec(&[], &secret.join("two"))).contains("two in /etc/keys"));
        // By `subPath`, and in a projected volume.
        let part = folder.path().join("volume-subpaths/keys/app/0");
        fs::create_dir_all(part.parent().unwrap()).unwrap();
        fs::write(&part, "sealed.a.b.c").unwrap();
        assert!(said(&spec(&[], &part)).contains("0 in /etc/keys"));
        let projected = folder.path().join("volumes/kubernetes.io~projected/all");
        fs::create_dir_all(&projected).unwrap();
        fs::write(projected.join("two"), "sealed.a.b.c").unwrap();
        assert!(said(&spec(&[], &projected)).contains("two in /etc/keys"));
        // What is no secret of kubelet's is a container's own file.
        let map = folder.path().join("volumes/kubernetes.io~configmap/keys");
        fs::create_dir_all(&map).unwrap();
        fs::write(map.join("two"), "sealed.a.b.c").unwrap();
        assert!(refuse(&spec(&[], &map)).is_ok());
    }
}
