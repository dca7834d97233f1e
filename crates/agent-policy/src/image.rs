//! Images: references with a digest, and what an image's configuration says of a process.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::IgnoredAny;
use shared_types::EmptyDirectory;
use verity::RootHash;

use crate::PolicyError;

/// Largest configuration that is read, in bytes.
pub(crate) const MAX_IMAGE_CONFIG: usize = 4 << 20;

/// A container's image, as far as a policy depends on it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Its configuration.
    pub config: ImageConfig,
    /// The root hashes of its layers, the topmost first.
    pub layers: Vec<RootHash>,
    /// What its `/etc/passwd` says; none where it has no such file.
    pub passwd: Option<String>,
    /// What its `/etc/group` says; none where it has no such file.
    pub group: Option<String>,
    /// The volumes of its configuration in which it has nothing, by their paths there: a directory of the host's making
    /// hides nothing there. Of the others the root file system's own directory is used.
    pub empty_volumes: BTreeMap<String, EmptyDirectory>,
}

impl Image {
    /// The volumes of its configuration, each with what a directory of the host's making has to be like; `None` where the root
    /// file system's own is used. Of an image that the guest pulls the engine has no directory to copy: it makes new ones, which
    /// are root's.
    pub(crate) fn volumes(&self, pulled: bool) -> Vec<(&str, Option<EmptyDirectory>)> {
        let volume = |path: &String| {
            // A note of the policy is a line. And `..` may be above another directory than it looks: behind a link.
            let is_plain = !path.contains(char::is_control) && path.split('/').all(|part| part != "..");
            let is_known = |empty: &EmptyDirectory| is_plain && (!pulled || *empty == EmptyDirectory::NEW);
            self.empty_volumes.get(path).copied().filter(is_known)
        };
        self.config.volumes.iter().map(|path| (path.as_str(), volume(path))).collect()
    }
}

/// The part of an image's configuration that decides a process (OCI image specification, `config.md`). That it is the
/// image's is for the caller to know: the manifest's digest covers it by way of the image's own manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub(crate) entrypoint: Vec<String>,
    pub(crate) cmd: Vec<String>,
    pub(crate) env: Vec<String>,
    pub(crate) directory: String,
    pub(crate) user: String,
    pub(crate) volumes: Vec<String>,
    pub(crate) stop_signal: String,
}

#[derive(Deserialize)]
struct Written {
    architecture: Option<String>,
    os: Option<String>,
    rootfs: Option<IgnoredAny>,
    config: Option<Config>,
}

/// What JSON is that is no image's configuration, by a field that only it has.
const OTHERS: [(&str, &str); 5] = [
    ("layers", "an image's manifest"),
    ("manifests", "an index of several images"),
    ("RepoTags", "what `docker inspect` prints"),
    ("imageSpec", "what `crictl inspecti` prints"),
    ("status", "what `crictl inspecti` prints"),
];

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Config {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    stop_signal: Option<String>,
}

impl ImageConfig {
    /// Reads an image's configuration.
    ///
    /// # Errors
    /// [`PolicyError::NotJson`], [`PolicyError::NotImageConfig`], [`PolicyError::ImageConfigSize`].
    pub fn parse(json: &[u8]) -> Result<Self, PolicyError> {
        if json.len() > MAX_IMAGE_CONFIG {
            return Err(PolicyError::ImageConfigSize(json.len()));
        }
        let value: serde_json::Value = serde_json::from_slice(json).map_err(|_| PolicyError::NotJson)?;
        let one = value.as_array().filter(|list| list.len() == 1).map_or(&value, |list| &list[0]);
        if let Some((_, what)) = OTHERS.iter().find(|(field, _)| one.get(field).is_some()) {
            return Err(PolicyError::NotImageConfig(what));
        }
        let written: Written =
            serde_json::from_value(value).map_err(|_| PolicyError::NotImageConfig("of another form"))?;
        if written.architecture.is_none() || written.os.is_none() || written.rootfs.is_none() {
            return Err(PolicyError::NotImageConfig("an object without architecture, os and rootfs"));
        }
        let config = written.config.unwrap_or_default();
        Ok(Self {
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            directory: config.working_dir.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: config.stop_signal.unwrap_or_default(),
        })
    }
}

/// The image's names: as the manifest has it, which containerd hands on from 2.0 on, and the reference under which
/// containerd keeps it: with the registry's name, without a tag beside the digest.
pub(crate) fn references(container: &str, image: &str) -> Result<BTreeSet<String>, PolicyError> {
    Ok([image.to_owned(), reference(container, image)?].into())
}

fn reference(container: &str, image: &str) -> Result<String, PolicyError> {
    let bad = || PolicyError::BadImage { container: container.to_owned(), image: image.to_owned() };
    let Some((name, digest)) = image.split_once('@') else {
        return Err(PolicyError::NoDigest { container: container.to_owned(), image: image.to_owned() });
    };
    let hex = digest.strip_prefix("sha256:").ok_or_else(bad)?;
    if hex.len() != 64 || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return Err(bad());
    }
    // A colon before the last slash is a port's.
    let start = name.rfind('/').map_or(0, |slash| slash + 1);
    let name = name[start..].find(':').map_or(name, |colon| &name[..start + colon]);
    let letter = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'/' | b':');
    if name.is_empty() || !name.bytes().all(letter) {
        return Err(bad());
    }
    let name = match name.split_once('/') {
        // The same registry by its other name, and its images without a folder.
        Some(("docker.io" | "index.docker.io", rest)) if rest.contains('/') => format!("docker.io/{rest}"),
        Some(("docker.io" | "index.docker.io", rest)) => format!("docker.io/library/{rest}"),
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    Ok(format!("{name}@{digest}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_containerds() {
        let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
        for (written, kept) in [
            ("busybox", "docker.io/library/busybox"),
            ("busybox:1.36", "docker.io/library/busybox"),
            ("docker.io/busybox", "docker.io/library/busybox"),
            ("index.docker.io/busybox:1", "docker.io/library/busybox"),
            ("docker.io/org/app", "docker.io/org/app"),
            ("org/app", "docker.io/org/app"),
            ("localhost/app:v1", "localhost/app"),
            ("registry.example.com:5000/a/b:v1", "registry.example.com:5000/a/b"),
        ] {
            assert_eq!(
                reference("c", &format!("{written}@{digest}")).unwrap(),
                format!("{kept}@{digest}"),
                "{written}"
            );
        }
        for tag in ["busybox", "busybox:latest", "r.example.com/a:v1", ""] {
            assert!(matches!(reference("c", tag), Err(PolicyError::NoDigest { .. })), "{tag}");
        }
        for bad in [
            "a@sha256:12".to_owned(),
            "a@sha512:ab".to_owned(),
            format!("@{digest}"),
            format!("a b@{digest}"),
        ] {
            assert!(matches!(reference("c", &bad), Err(PolicyError::BadImage { .. })), "{bad}");
        }
    }

    #[test]
    fn a_configuration_may_leave_its_own_part_out() {
        let with =
            |config: &str| format!(r#"{{"architecture": "amd64", "os": "linux", "rootfs": {{}}{config}}}"#);
        assert_eq!(ImageConfig::parse(with("").as_bytes()).unwrap(), ImageConfig::default());
        let json = with(
            r#", "config": {"Entrypoint": null, "Cmd": ["sh"], "Env": ["A=b"], "User": "7:8", "Volumes": {"/v": {}}}"#,
        );
        let config = ImageConfig::parse(json.as_bytes()).unwrap();
        assert_eq!(
            (config.cmd, config.user.as_str(), config.volumes),
            (vec!["sh".to_owned()], "7:8", vec!["/v".to_owned()])
        );
        assert!(matches!(
            ImageConfig::parse(&vec![b' '; MAX_IMAGE_CONFIG + 1]),
            Err(PolicyError::ImageConfigSize(_))
        ));
    }

    #[test]
    fn what_is_no_configuration_is_called_by_its_name() {
        for (json, said) in [
            ("{}", "an object without architecture"),
            ("[]", "of another form"),
            ("no", "no JSON"),
            (r#"{"schemaVersion": 2, "config": {}, "layers": []}"#, "an image's manifest"),
            (r#"{"schemaVersion": 2, "manifests": []}"#, "an index"),
            (r#"[{"Id": "x", "RepoTags": [], "Architecture": "amd64"}]"#, "docker inspect"),
            (r#"{"status": {}, "info": {"imageSpec": {}}}"#, "crictl inspecti"),
        ] {
            let error = ImageConfig::parse(json.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("skopeo"), "{json}: {error}");
        }
    }
}
