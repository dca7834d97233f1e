//! The tenant's side: what a pod's owner makes with `coffer` before the pod meets a host.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use shared_types::ScratchSize;
use tar::Archive;
use verity::RootHash;

use crate::artefacts::Artefacts;
use crate::bound_pod::{BoundPod, INITDATA};
use crate::hypervisor::Hypervisor;
use crate::images;
use crate::model_disk::ModelDisk;
use crate::or_fail::OrFail;
use crate::pod::Pod;
use crate::rig::Rig;

/// A pod that its owner bound: manifest, policy and initdata, in a directory that goes when this is dropped.
#[derive(Debug)]
pub struct Tenant {
    directory: PathBuf,
    image: String,
    gpus: u32,
}

impl Tenant {
    /// Binds a pod called `name` with one container, `app`, of an image called `image`, whose layers are busybox's, read
    /// from an OCI layout. `name` is unique in the test binary.
    pub fn bind(name: &str, image: &str) -> Self {
        Self::bind_with(name, image, &[])
    }

    /// The same, with further documents in the initdata.
    pub fn bind_with(name: &str, image: &str, documents: &[(&str, &str)]) -> Self {
        Self::bind_as(&Binding { name, image, documents, ..Binding::default() })
    }

    /// The same for any pod with one container.
    pub fn bind_as(binding: &Binding<'_>) -> Self {
        let Binding { name, image, archive, .. } = binding;
        let directory = Path::new("/run/e2e/tenants").join(name);
        let layout = directory.join("image");
        fs::create_dir_all(&layout).or_fail("make a tenant's directory");
        let busybox = archive.is_none().then(images::busybox_archive);
        let archive = archive.or(busybox.as_deref()).unwrap_or_default();
        Archive::new(archive).unpack(&layout).or_fail("unpack an OCI layout");
        let index = fs::read(layout.join("index.json")).or_fail("index.json");
        let index: Value = serde_json::from_slice(&index).or_fail("index.json");
        let digest = index["manifests"][0]["digest"].as_str().or_fail("the image's digest");
        let tenant = Self { image: format!("{image}@{digest}"), directory, gpus: binding.gpus };
        tenant.write("pod.yaml", binding.manifest(&tenant.image).as_bytes());
        let generate = ["policy", "generate", "--pod", "pod.yaml", "--allow-exec", "--cache", "cache"];
        let mut generate = tenant.command(&generate);
        generate.args(["--image", "app=oci:image"]);
        if binding.pulled {
            generate.arg("--guest-pull");
        }
        let mut build = tenant.command(&["initdata", "build", "--algorithm", "sha256", "--pod", "pod.yaml"]);
        build.args(["--file", "policy.rego"]);
        for (document, content) in binding.documents {
            tenant.write(document, content.as_bytes());
            build.args(["--file", document]);
        }
        if !binding.volumes.is_empty() {
            let tables: String = binding.volumes.iter().map(|volume| volume.table.as_str()).collect();
            tenant.write("volumes.toml", tables.as_bytes());
            build.args(["--file", "volumes.toml"]);
            generate.args(["--volumes", "volumes.toml"]);
        }
        tenant.write("policy.rego", &output(generate));
        tenant.write("initdata.toml", &output(build));
        tenant
    }

    /// Binds the manifest's pods by one command, each container's image being busybox's from an OCI layout; gives the
    /// bound text.
    pub fn bind_manifest(name: &str, manifest: &str, containers: &[&str]) -> (Self, String) {
        let directory = Path::new("/run/e2e/tenants").join(name);
        let layout = directory.join("image");
        fs::create_dir_all(&layout).or_fail("make a tenant's directory");
        Archive::new(images::busybox_archive().as_slice()).unpack(&layout).or_fail("unpack an OCI layout");
        let tenant = Self { image: String::new(), directory, gpus: 0 };
        tenant.write("manifest.yaml", manifest.as_bytes());
        let options = ["--allow-exec", "--class", "coffer-snp", "--cache", "cache"];
        let mut bind = tenant.command(&[&["bind", "manifest.yaml"], &options[..]].concat());
        for container in containers {
            bind.args(["--image", &format!("{container}=oci:image")]);
        }
        let bound = output(bind);
        let text = String::from_utf8(bound).or_fail("a manifest");
        let annotation = BoundPod::of(&text, name).annotation();
        let annotation = tenant.write("annotation", annotation.as_bytes());
        let build = ["initdata", "build", "--document", &annotation.display().to_string()];
        tenant.write("initdata.toml", &output(tenant.command(&build)));
        (tenant, text)
    }

    /// Starts its pod from the release image, with the initdata in the annotation, on a host whose processor reports that.
    pub async fn start(&self, rig: &Rig<'_>, name: &str) -> Pod {
        let hypervisor = Hypervisor::new(name).reports(&self.host_data());
        let config = rig.config().path("image", &Artefacts::release_image());
        config.path("qemu", &hypervisor.program()).install();
        let pod = rig.pod(name).await.annotation(INITDATA, &self.annotation()).try_start().await;
        rig.config().install();
        pod.or_fail("the pod")
    }

    /// The OCI layout with the image.
    pub fn layout(&self) -> PathBuf {
        self.directory.join("image")
    }

    /// The image, as the manifest names it.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// How many GPUs the pod has by its manifest.
    pub const fn gpus(&self) -> u32 {
        self.gpus
    }

    /// Initdata of other files only.
    pub fn with_documents(name: &str, files: &[(&str, &str)]) -> Self {
        let directory = Path::new("/run/e2e/tenants").join(name);
        let tenant = Self { directory, image: String::new(), gpus: 0 };
        fs::create_dir_all(&tenant.directory).or_fail("make a tenant's directory");
        let mut build = tenant.command(&["initdata", "build", "--algorithm", "sha256"]);
        for (file, content) in files {
            tenant.write(file, content.as_bytes());
            build.args(["--file", file]);
        }
        tenant.write("initdata.toml", &output(build));
        tenant
    }

    /// Root hashes of busybox's layers, the topmost first.
    pub fn layers(&self) -> Vec<RootHash> {
        let verity = ["image", "verity", "oci:image", "-o", "json", "--cache", "cache"];
        let image: Value =
            serde_json::from_slice(&output(self.command(&verity))).or_fail("an image's hashes");
        let layers = image["layers"].as_array().or_fail("layers");
        layers
            .iter()
            .map(|layer| layer["root_hash"].as_str().or_fail("root_hash").parse().or_fail("a hash"))
            .collect()
    }

    /// Another document than the one that was bound: what a host would rather have. Gives it as a disk.
    pub fn other_disk(&self, policy: &str) -> PathBuf {
        self.write("other.rego", policy.as_bytes());
        let build = [
            "initdata",
            "build",
            "--algorithm",
            "sha256",
            "--file",
            "policy.rego=other.rego",
            "--form",
            "disk",
        ];
        self.write("other.img", &output(self.command(&build)))
    }

    /// The initdata as a disk.
    pub fn disk(&self) -> PathBuf {
        let build = ["initdata", "build", "--document", "initdata.toml", "--form", "disk"];
        self.write("initdata.img", &output(self.command(&build)))
    }

    /// The initdata as the pod's annotation.
    pub fn annotation(&self) -> String {
        let build = ["initdata", "build", "--document", "initdata.toml", "--form", "annotation"];
        String::from_utf8(output(self.command(&build))).or_fail("an annotation").trim().to_owned()
    }

    /// What an SNP report shows of it: 64 hex digits.
    pub fn host_data(&self) -> String {
        let measure = ["measure", "initdata", "initdata.toml", "--field", "host-data"];
        String::from_utf8(output(self.command(&measure))).or_fail("a digest").trim().to_owned()
    }

    /// The document itself.
    pub fn document(&self) -> String {
        fs::read_to_string(self.directory.join("initdata.toml")).or_fail("initdata.toml")
    }

    /// The policy's text.
    pub fn policy(&self) -> String {
        fs::read_to_string(self.directory.join("policy.rego")).or_fail("policy.rego")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(Artefacts::coffer());
        command.args(words).current_dir(&self.directory).env("HOME", &self.directory);
        command
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, content).or_fail(name);
        path
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// What a pod is bound to.
#[derive(Debug, Clone, Default)]
pub struct Binding<'a> {
    /// The pod's name, unique in the test binary.
    pub name: &'a str,
    /// The image's name.
    pub image: &'a str,
    /// The image as an OCI archive; busybox's where there is none.
    pub archive: Option<&'a [u8]>,
    /// Whether the guest pulls it.
    pub pulled: bool,
    /// What its container runs; it sleeps where nothing is said.
    pub command: &'a [&'a str],
    /// Documents of the initdata besides.
    pub documents: &'a [(&'a str, &'a str)],
    /// Model volumes.
    pub volumes: &'a [&'a ModelDisk],
    /// Variables of its container.
    pub variables: &'a [(&'a str, &'a str)],
    /// Secrets of Kubernetes that its container has, with their places.
    pub secrets: &'a [(&'a str, &'a str)],
    /// GPUs.
    pub gpus: u32,
    /// Size of its scratch disk; none where it is empty. With one the pod has two emptyDirs: `/cache`, and `/quick` in memory.
    pub scratch: &'a str,
}

impl Binding<'_> {
    /// The pod, as its owner wrote it.
    fn manifest(&self, image: &str) -> String {
        let Self { name, gpus, scratch, .. } = self;
        let command = if self.command.is_empty() { &["sleep", "100000"][..] } else { self.command };
        let command: Vec<String> = command.iter().map(|word| format!("{word:?}")).collect();
        let (mut volumes, mut mounts) = (String::new(), String::new());
        for volume in self.volumes {
            let (name, file, path) = (&volume.name, volume.file(), &volume.path);
            volumes += &format!("{{name: {name}, hostPath: {{path: {}, type: File}}}}, ", file.display());
            mounts += &format!("{{name: {name}, mountPath: {path}, readOnly: true}}, ");
        }
        for (name, path) in self.secrets {
            volumes += &format!("{{name: {name}, secret: {{secretName: {name}}}}}, ");
            mounts += &format!("{{name: {name}, mountPath: {path}, readOnly: true}}, ");
        }
        let env: Vec<_> = self
            .variables
            .iter()
            .map(|(name, value)| format!("{{name: {name}, value: {value:?}}}"))
            .collect();
        let mut annotations = String::new();
        if !scratch.is_empty() {
            annotations = format!(", annotations: {{{}: {scratch:?}}}", ScratchSize::ANNOTATION);
            volumes += "{name: cache, emptyDir: {}}, {name: quick, emptyDir: {medium: Memory}}, ";
            mounts += "{name: cache, mountPath: /cache}, {name: quick, mountPath: /quick}, ";
        }
        let limits = if *gpus == 0 {
            String::new()
        } else {
            format!(", resources: {{limits: {{nvidia.com/pgpu: {gpus}}}}}")
        };
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: default{annotations}}}\nspec:\n  \
             runtimeClassName: coffer-snp\n  automountServiceAccountToken: false\n  enableServiceLinks: false\n  \
             volumes: [{volumes}]\n  containers:\n  - {{name: app, image: {image:?}, command: [{}], \
             env: [{}], volumeMounts: [{mounts}]{limits}}}\n",
            command.join(", "),
            env.join(", ")
        )
    }
}

fn output(mut command: Command) -> Vec<u8> {
    let output = command.output().or_fail("run coffer");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// One byte of a file that is another for as long as this lives: the file may be the next test's, too.
#[derive(Debug)]
pub struct Flipped {
    file: File,
    at: u64,
    byte: u8,
}

impl Flipped {
    /// Changes the byte at an offset of a file that somebody has open.
    pub fn new(path: &Path, at: u64) -> Self {
        let file = File::options().read(true).write(true).open(path).or_fail(path.display());
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).or_fail(path.display());
        file.write_all_at(&[byte[0] ^ 1], at).or_fail(path.display());
        Self { file, at, byte: byte[0] }
    }
}

impl Drop for Flipped {
    fn drop(&mut self) {
        let _ = self.file.write_all_at(&[self.byte], self.at);
    }
}

/// The file of this node's converted layer with that root hash, and where in it these bytes are. Other layers may hold the
/// same bytes.
pub fn converted_layer(root: RootHash, bytes: &[u8]) -> (PathBuf, u64) {
    let notes = fs::read_dir("/var/lib/coffer/layers").or_fail("the node's layers").flatten();
    let note = notes.map(|entry| entry.path()).find(|path| {
        path.extension().is_some_and(|extension| extension == "json")
            && fs::read_to_string(path).is_ok_and(|note| note.contains(&root.to_string()))
    });
    let path = note.or_fail("the layer's note").with_extension("erofs");
    let content = fs::read(&path).or_fail(path.display());
    let at = content.windows(bytes.len()).position(|window| window == bytes).or_fail("the bytes");
    (path, u64::try_from(at).or_fail("an offset"))
}
