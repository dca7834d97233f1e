//! Sealed secrets of the Confidential Containers project. kata-agent has them opened by whom it finds in the guest: the project's
//! guest components, or Coffer's own attestation service. Where it finds nobody, or nobody opens one, it runs the container with the
//! sealed text as if that were the secret. So a container with one is refused here where there is nobody, and its creation waits for
//! our service's word on each. The components say none: a secret that they do not open stays sealed.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use agent_client::MAX_FILE;
use agent_client::proto::oci;
use guest_spec::{Copy, CopyKind};
use oci_spec::runtime::Spec;
use shared_types::sealed::{PREFIX, SealedId};
use vmm::{AwaitedSecrets, Expected, Vm};

use super::node_files::{Looking, is_of_pod};
use crate::api::{Error, Result};

/// The folders of kubelet's in which a pod's secrets may be. No name says of which volume a `subPath` is.
const SECRETS: [&str; 3] = ["kubernetes.io~secret", "kubernetes.io~projected", "volume-subpaths"];
/// Ends of paths in the guest at which the agent opens nothing (kata-agent 4.1.0, `src/agent/src/rpc.rs`).
const LEFT_ALONE: [&str; 5] = ["resolv.conf", "termination-log", "hostname", "hosts", "serviceaccount"];
/// How long the guest's word may take once the container is made: it was said before.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fails if the container, whose pod has this UID, is to have a sealed secret, in its environment or in a volume of kubelet's.
/// Other files of the node are not looked at: they are refused by their paths.
///
/// # Errors
/// [`Error::InvalidRequest`], which names it.
pub fn refuse(spec: &Spec, uid: Option<&str>, looking: &Looking) -> Result<()> {
    let environment =
        spec.process().as_ref().and_then(|process| process.env().as_deref()).unwrap_or_default();
    let variables = environment.iter().filter_map(|entry| entry.split_once('='));
    let mut variables = variables.filter(|(_, value)| value.starts_with(PREFIX));
    if let Some((name, _)) = variables.next() {
        return Err(refused(&format!("the environment variable {name}")));
    }
    for mount in spec.mounts().as_deref().unwrap_or_default() {
        let Some(source) = mount.source().as_deref() else { continue };
        if !is_secret(source) || !is_of_pod(source, uid) {
            continue;
        }
        looking.at(source);
        if let Some(name) = sealed(source).map_err(|error| unreadable(source, &error))? {
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
        if is_sealed(file)? {
            return Ok(file.file_name().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    Ok(None)
}

/// A container's sealed secrets, each with its place for people.
#[derive(Debug, PartialEq, Eq)]
pub struct Found(Vec<(String, Expected)>);

impl Found {
    /// Has the guest's word on each of them heard from now on.
    pub fn expected_by(self, vm: &Vm) -> Secrets {
        let (places, expected): (Vec<_>, Vec<_>) = self.0.into_iter().unzip();
        Secrets { places, awaited: vm.expect_secrets(&expected) }
    }
}

/// Sealed secrets that the guest will open, each with its place for people.
#[derive(Debug)]
pub struct Secrets {
    places: Vec<String>,
    awaited: AwaitedSecrets,
}

impl Secrets {
    /// Waits until the guest has opened all of them.
    ///
    /// # Errors
    /// One stays sealed; with its place and the guest's reason.
    pub async fn opened(&self) -> Result<()> {
        let opened = self.awaited.opened(PATIENCE).await;
        opened.map_err(|(index, why)| {
            let place = self.places.get(index).map_or("a sealed secret", String::as_str);
            Error::failed(format!("open {place}, a sealed secret"), why)
        })
    }
}

/// The sealed secrets that the guest's agent will have opened for a container. A volume that has one is copied once and not
/// followed: the agent puts the opened file in the place of the sealed one, and looks at no later one.
///
/// # Errors
/// One is where the agent opens none, or cannot be read.
pub fn find(container: &oci::Spec, copies: &mut [Copy], looking: &Looking) -> Result<Found> {
    let environment = container.Process.iter().flat_map(|process| &process.Env);
    let variables = environment.filter_map(|entry| entry.split_once('='));
    let variables = variables.filter(|(_, value)| value.starts_with(PREFIX));
    let mut found: Vec<_> = variables
        .map(|(name, value)| {
            let secret = Expected { id: SealedId::of(value.as_bytes()), is_text: true };
            (format!("the environment variable {name}"), secret)
        })
        .collect();
    for copy in copies {
        looking.at(&copy.host);
        let mount = container.Mounts.iter().find(|mount| mount.source == copy.guest);
        let place = mount.map_or(copy.guest.as_str(), |mount| mount.destination.as_str());
        let host = copy.host.clone();
        let unread = |error: io::Error| unreadable(&host, &error);
        match copy.kind {
            CopyKind::File if is_secret(&copy.host) && is_sealed(&copy.host).map_err(unread)? => {
                return Err(unopened(place));
            }
            CopyKind::File => {}
            CopyKind::Tree => {
                for (name, id) in in_volume(&copy.host).map_err(unread)? {
                    let id = id.filter(|_| !LEFT_ALONE.iter().any(|end| copy.guest.ends_with(end)));
                    let id = id.ok_or_else(|| unopened(&format!("{place}/{name}")))?;
                    copy.watch = false;
                    found.push((format!("{name} in {place}"), Expected { id, is_text: false }));
                }
            }
        }
    }
    Ok(Found(found))
}

/// The sealed files right in a volume; without an id where the agent cannot put another file in its place: it links to a file
/// beside the one that kubelet's link names, which it looks for one directory below (kata-agent 4.1.0, `unseal_file`).
fn in_volume(volume: &Path) -> io::Result<Vec<(String, Option<SealedId>)>> {
    let volume = fs::canonicalize(volume)?;
    let mut sealed = Vec::new();
    for entry in fs::read_dir(&volume)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if !kind.is_symlink() && !kind.is_file() {
            continue;
        }
        let Ok(target) = fs::canonicalize(entry.path()) else { continue };
        if !target.is_file() {
            continue;
        }
        match is_sealed(&target) {
            Ok(true) => {}
            Ok(false) => continue,
            // kubelet has changed the volume meanwhile; what is gone is not copied either.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        let is_kubelets = kind.is_symlink() && target.parent().and_then(Path::parent) == Some(&volume);
        let mut text = Vec::new();
        File::open(&target)?.take(MAX_FILE).read_to_end(&mut text)?;
        let id = is_kubelets.then(|| SealedId::of(&text));
        sealed.push((entry.file_name().to_string_lossy().into_owned(), id));
    }
    sealed.sort_by(|one, other| one.0.cmp(&other.0));
    Ok(sealed)
}

fn is_secret(path: &Path) -> bool {
    path.iter().any(|part| SECRETS.iter().any(|folder| part == *folder))
}

fn is_sealed(file: &Path) -> io::Result<bool> {
    let mut begin = Vec::new();
    File::open(file)?.take(PREFIX.len() as u64).read_to_end(&mut begin)?;
    Ok(begin == PREFIX.as_bytes())
}

fn unopened(place: &str) -> Error {
    let reason = format!(
        "{place} is a sealed secret where the guest's agent opens none: mount the whole volume (of type Secret, ConfigMap or \
         projected), without subPath and not as {}; or take the secret into an environment variable",
        LEFT_ALONE.join(", ")
    );
    Error::InvalidRequest { field: "spec", reason }
}

fn refused(what: &str) -> Error {
    let reason = format!(
        "{what} is a sealed secret, and nobody in this pod's guest opens it: name a key broker in the pod's initdata (aa.toml), or take a \
         guest image that was built with GUEST_COMPONENTS; an image of an earlier version of Coffer opens none"
    );
    Error::InvalidRequest { field: "spec", reason }
}

fn unreadable(source: &Path, error: &io::Error) -> Error {
    Error::InvalidRequest { field: "spec", reason: format!("{} cannot be read: {error}", source.display()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

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
        refuse(spec, None, &Looking::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_sealed_secret_is_named_wherever_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("volumes/kubernetes.io~secret/keys");
        fs::create_dir_all(&secret).unwrap();
        fs::write(secret.join("one"), "plain").unwrap();
        assert!(refuse(&spec(&["A=b", "B=seal", "sealed.x=y"], &secret), None, &Looking::default()).is_ok());
        let text = said(&spec(&["A=b", "KEY=sealed.a.b.c"], &secret));
        assert!(
            text.contains("the environment variable KEY") && text.contains("name a key broker"),
            "{text}"
        );
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
        assert!(refuse(&spec(&[], &map), None, &Looking::default()).is_ok());
        // A pod's manifest names a folder of another one's, or of nobody's: it is not looked into.
        assert!(refuse(&spec(&[], &projected), Some("8c5d"), &Looking::default()).is_ok());
    }

    /// A volume as kubelet writes it.
    fn volume(folder: &Path, files: &[(&str, &str)]) -> PathBuf {
        let volume = folder.join("volumes/kubernetes.io~secret/keys");
        let generation = volume.join("..2026_01_01_00_00_00.1");
        fs::create_dir_all(&generation).unwrap();
        symlink("..2026_01_01_00_00_00.1", volume.join("..data")).unwrap();
        for (name, text) in files {
            fs::write(generation.join(name), text).unwrap();
            symlink(format!("..data/{name}"), volume.join(name)).unwrap();
        }
        volume
    }

    fn copy(host: &Path, kind: CopyKind) -> Copy {
        Copy { host: host.to_owned(), below: None, guest: "/shared/keys".into(), kind, watch: true }
    }

    fn container(env: &[&str]) -> oci::Spec {
        let mount = oci::Mount {
            source: "/shared/keys".into(),
            destination: "/etc/keys".into(),
            ..Default::default()
        };
        let env = env.iter().map(|entry| (*entry).to_owned()).collect();
        let process = oci::Process { Env: env, ..Default::default() };
        oci::Spec { Process: Some(process).into(), Mounts: vec![mount], ..Default::default() }
    }

    fn found(container: &oci::Spec, copies: &mut [Copy]) -> Result<Vec<(String, Expected)>> {
        find(container, copies, &Looking::default()).map(|Found(found)| found)
    }

    #[test]
    fn what_the_agent_opens_is_found_and_its_volume_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let host = volume(folder.path(), &[("b", "sealed.1.2.3"), ("a", "sealed.x\n"), ("plain", "x")]);
        let mut copies = [copy(&host, CopyKind::Tree)];
        let env = ["A=sealed.a.b.c", "B=plain", "sealed.x=y"];
        let secret = |text: &str, is_text| Expected { id: SealedId::of(text.as_bytes()), is_text };
        let expected = [
            ("the environment variable A".to_owned(), secret("sealed.a.b.c", true)),
            ("a in /etc/keys".to_owned(), secret("sealed.x\n", false)),
            ("b in /etc/keys".to_owned(), secret("sealed.1.2.3", false)),
        ];
        assert_eq!(found(&container(&env), &mut copies).unwrap(), expected);
        assert!(!copies[0].watch);
        // Another volume is followed.
        fs::write(host.join("..data/a"), "plain").unwrap();
        fs::write(host.join("..data/b"), "plain").unwrap();
        let mut copies = [copy(&host, CopyKind::Tree)];
        assert!(found(&container(&[]), &mut copies).unwrap().is_empty() && copies[0].watch);
    }

    #[test]
    fn one_that_the_agent_would_not_open_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let host = volume(folder.path(), &[("a", "sealed.a.b.c")]);
        let said =
            |mut copy: Copy| found(&container(&[]), std::slice::from_mut(&mut copy)).unwrap_err().to_string();
        // By `subPath`: one file, or one with no link of kubelet's.
        let text = said(copy(&host.join("..data/a"), CopyKind::File));
        assert!(text.contains("/etc/keys is a sealed secret") && text.contains("without subPath"), "{text}");
        // Under a name at which the agent looks into nothing.
        let hosts = Copy { guest: "/shared/hosts".into(), ..copy(&host, CopyKind::Tree) };
        let text = said(hosts);
        assert!(
            text.contains("/shared/hosts/a is a sealed secret") && text.contains("serviceaccount"),
            "{text}"
        );
        fs::remove_file(host.join("a")).unwrap();
        fs::write(host.join("a"), "sealed.a.b.c").unwrap();
        assert!(said(copy(&host, CopyKind::Tree)).contains("/etc/keys/a is a sealed secret"));
        // A file of the container's own is no secret.
        let other = folder.path().join("hosts");
        fs::write(&other, "sealed.a.b.c").unwrap();
        assert!(found(&container(&[]), &mut [copy(&other, CopyKind::File)]).unwrap().is_empty());
    }
}
