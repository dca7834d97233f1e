//! Manifests that no policy can be made of.

/// Why there is no policy.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// An image that may be another one tomorrow.
    #[error(
        "container {container}: image {image:?} has no digest, so it may be any: write name@sha256:..., as \
         `crictl inspecti` or the registry shows it"
    )]
    NoDigest {
        /// The container.
        container: String,
        /// Its image.
        image: String,
    },
    /// No reference of an image.
    #[error("container {container}: {image:?} is no reference of an image")]
    BadImage {
        /// The container.
        container: String,
        /// What should be one.
        image: String,
    },
    /// No information about a container's image.
    #[error(
        "container {0}: its image is not known, and with it what would run: give the image's source, as in \
         `coffer policy generate --help`"
    )]
    NoImage(String),
    /// An image without content.
    #[error("container {0}: its image has no layers; `coffer image verity` prints them")]
    NoLayers(String),
    /// Two images that the guest would mount at one place.
    #[error(
        "container {container}: the root hashes {first} and {second} of its layers and model volumes begin alike, and the guest \
         tells them by their first ten digits: build one of them anew with another content"
    )]
    Alike {
        /// The container.
        container: String,
        /// One root hash.
        first: String,
        /// The other.
        second: String,
    },
    /// Neither manifest nor image says what runs.
    #[error("container {0}: neither its manifest nor its image has a command: set `command`")]
    NoCommand(String),
    /// Variables with any names.
    #[error(
        "container {container}: the names that `envFrom` brings from {object} are not in the manifest, and LD_PRELOAD may \
         be one of them: put the object beside the pod, or list its keys in `env` with valueFrom"
    )]
    EnvFrom {
        /// The container.
        container: String,
        /// The ConfigMap or Secret.
        object: String,
    },
    /// A reference to a variable whose value is not known.
    #[error(
        "container {container}: {field} has $({variable}), whose value is not in the manifest: write the value, put its \
         ConfigMap beside the pod, or have the program read the variable"
    )]
    UnknownValue {
        /// The container.
        container: String,
        /// Where it is used.
        field: &'static str,
        /// The variable.
        variable: String,
    },
    /// A setting that takes a container's confinement away.
    #[error(
        "container {container}: {setting} takes the confinement away that the policy describes: remove it"
    )]
    Unconfined {
        /// The container.
        container: String,
        /// Which setting.
        setting: &'static str,
    },
    /// The pod runs as nobody's in the image's files.
    #[error(
        "container {container}: the image's user is {user:?}, who is not in its /etc/passwd and /etc/group: set \
         securityContext.runAsUser"
    )]
    UserName {
        /// The container.
        container: String,
        /// The name.
        user: String,
    },
    /// Root, where the manifest does not want it.
    #[error(
        "container {0}: its user would be root, which securityContext.runAsNonRoot forbids: set \
         securityContext.runAsUser"
    )]
    Root(String),
    /// A filter that is a file of the node.
    #[error(
        "container {container}: the seccompProfile {kind:?} is not known here: RuntimeDefault and Unconfined are, and \
         one of Localhost is a file of the node, which could hold anything"
    )]
    Seccomp {
        /// The container.
        container: String,
        /// Its kind.
        kind: String,
    },
    /// The signal to end it is none.
    #[error("container {container}: the signal {signal:?} that ends it is none of Linux")]
    Signal {
        /// The container.
        container: String,
        /// The signal's text.
        signal: String,
    },
    /// A namespace of the host.
    #[error("the pod has {0}, a namespace of the host, which no VM can have: remove it")]
    HostNamespace(&'static str),
    /// A directory that the image wants to write to, below a root file system that nothing is written to.
    #[error(
        "container {container}: the image declares the volume {path}, and the root file system is read-only: mount an \
         emptyDir there"
    )]
    ImageVolume {
        /// The container.
        container: String,
        /// Where the image wants it.
        path: String,
    },
    /// A volume of a kind that does not reach a VM.
    #[error("container {container}: volume {volume} on {path} {why}")]
    Volume {
        /// The container.
        container: String,
        /// The volume.
        volume: String,
        /// Where it is mounted.
        path: String,
        /// What it is, and what can be had instead.
        why: &'static str,
    },
    /// A user by name, where only a number can be checked.
    #[error(
        "container {container}: the image's user is the name {user:?}, and kubelet starts no container with runAsNonRoot \
         whose user is no number: set securityContext.runAsUser"
    )]
    NamedUser {
        /// The container.
        container: String,
        /// The name.
        user: String,
    },
    /// A capability that Linux has not.
    #[error(
        "container {container}: {name:?} is no capability: engines put CAP_ before the name themselves, so write \
         NET_ADMIN for CAP_NET_ADMIN"
    )]
    Capability {
        /// The container.
        container: String,
        /// The name.
        name: String,
    },
    /// A mount that the shim refuses.
    #[error("container {container}: the mount on {path} has {what}, which the VM cannot have: remove it")]
    Mount {
        /// The container.
        container: String,
        /// Where it is mounted.
        path: String,
        /// What is wrong.
        what: &'static str,
    },
    /// A name that is missing or there twice.
    #[error("container name {0:?}: each container has one of its own")]
    Name(String),
    /// An image's configuration for nobody.
    #[error("an image's configuration is given for container {0:?}, which the pod has not")]
    NoSuchContainer(String),
    /// Not even JSON.
    #[error(
        "it is no JSON, and no OCI image configuration: take the output of `skopeo inspect --config --raw`"
    )]
    NotJson,
    /// Something else of an image.
    #[error(
        "it is {0}, and no OCI image configuration: take the output of `skopeo inspect --config --raw` or `crane config`"
    )]
    NotImageConfig(&'static str),
    /// Too much to be one.
    #[error("the image's configuration has {0} bytes; at most {max} are read", max = crate::image::MAX_IMAGE_CONFIG)]
    ImageConfigSize(usize),
}

/// Everything that stands in the way of a policy.
#[derive(Debug)]
pub struct Faults(pub Vec<PolicyError>);

impl std::error::Error for Faults {}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (rank, fault) in self.0.iter().enumerate() {
            if rank > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl PolicyError {
    /// The container that it is about, and the field: of the container, or of the pod's `spec` without one.
    pub fn place(&self) -> (Option<&str>, &'static str) {
        match self {
            Self::NoDigest { container, .. } | Self::BadImage { container, .. } => (Some(container), "image"),
            Self::NoImage(container) | Self::NoLayers(container) | Self::Alike { container, .. } => {
                (Some(container), "image")
            }
            Self::NoCommand(container) => (Some(container), "command"),
            Self::EnvFrom { container, .. } => (Some(container), "envFrom"),
            Self::UnknownValue { container, field, .. } => (Some(container), field),
            Self::Unconfined { container, .. }
            | Self::UserName { container, .. }
            | Self::NamedUser { container, .. }
            | Self::Root(container) => (Some(container), "securityContext"),
            Self::Capability { container, .. } => (Some(container), "securityContext.capabilities"),
            Self::Seccomp { container, .. } => (Some(container), "securityContext.seccompProfile"),
            Self::Signal { container, .. } => (Some(container), "lifecycle.stopSignal"),
            Self::HostNamespace(field) => (None, field),
            Self::ImageVolume { container, .. }
            | Self::Volume { container, .. }
            | Self::Mount { container, .. } => (Some(container), "volumeMounts"),
            Self::Name(container) => (Some(container), "name"),
            Self::NoSuchContainer(_) | Self::NotJson | Self::NotImageConfig(_) | Self::ImageConfigSize(_) => {
                (None, "")
            }
        }
    }
}
