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
    /// Neither manifest nor image says what runs.
    #[error("container {0}: neither its manifest nor its image has a command: set `command`")]
    NoCommand(String),
    /// Variables with any names.
    #[error(
        "container {0}: the names that `envFrom` brings are not in the manifest, and LD_PRELOAD may be one of them: list \
         them in `env` with valueFrom"
    )]
    EnvFrom(String),
    /// A reference to a variable whose value is not known.
    #[error(
        "container {container}: {field} has $({variable}), whose value is not in the manifest: write the value, or have the \
         program read the variable"
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
    /// A directory that the image wants from the host.
    #[error(
        "container {container}: the image declares the volume {path}, which would be a directory of the host: mount an \
         emptyDir there"
    )]
    ImageVolume {
        /// The container.
        container: String,
        /// Where the image wants it.
        path: String,
    },
    /// A volume of a kind that does not reach a VM.
    #[error(
        "container {container}: volume {volume} cannot be mounted on {path}: only configMap, secret, projected, downwardAPI \
         and emptyDir volumes reach the VM"
    )]
    Volume {
        /// The container.
        container: String,
        /// The volume.
        volume: String,
        /// Where it is mounted.
        path: String,
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
    /// No configuration of an image.
    #[error(
        "no OCI image configuration: take the output of `skopeo inspect --config --raw` or `crane config`"
    )]
    ImageConfig(#[source] serde_json::Error),
    /// Too much to be one.
    #[error("the image's configuration has {0} bytes; at most {max} are read", max = crate::MAX_IMAGE_CONFIG)]
    ImageConfigSize(usize),
}
