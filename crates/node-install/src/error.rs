//! What can go wrong. Each text has its entry in `docs/node.md`, by the name that [`Error::code`] gives.

use std::io;

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, Error>;

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A path cannot be followed.
    #[error("cannot look up {path}")]
    Lookup {
        /// The path, as the host calls it.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file or directory cannot be changed.
    #[error(
        "cannot {action} {path}; nothing is half done, so free space or make it writable and run the command again"
    )]
    Change {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another installer works.
    #[error(
        "another `coffer install` or `coffer uninstall` works on this node ({holder} has {path} locked): wait for it"
    )]
    Locked {
        /// As it calls itself.
        holder: String,
        /// What is locked.
        path: String,
    },
    /// The bundle is not one.
    #[error("the bundle {directory} cannot be installed: {reason}; get or build it again (tools/bundle)")]
    Bundle {
        /// Its directory.
        directory: String,
        /// What is wrong.
        reason: String,
    },
    /// A file of the bundle is not what the bundle's list says.
    #[error(
        "{file} of the bundle {directory} has SHA-256 {found}, and SHA256SUMS says {wanted}: get the bundle again"
    )]
    Checksum {
        /// The bundle's directory.
        directory: String,
        /// The file.
        file: String,
        /// The digest that it should have.
        wanted: String,
        /// The digest that it has.
        found: String,
    },
    /// A program of the bundle is another processor's.
    #[error(
        "{file} of the bundle {directory} is a program for {found}, and this node is {wanted}: get the bundle for {wanted}"
    )]
    Architecture {
        /// The bundle's directory.
        directory: String,
        /// The program.
        file: String,
        /// What it is for.
        found: String,
        /// What this is.
        wanted: &'static str,
    },
    /// No container engine.
    #[error(
        "there is no configuration of containerd, k3s, rke2, k0s or CRI-O on this node: install one of them first, or name it with --engine"
    )]
    NoEngine,
    /// More than one container engine.
    #[error("this node has {found}: say which one runs its pods with --engine")]
    ManyEngines {
        /// Their names.
        found: String,
    },
    /// The engine's configuration is not TOML.
    #[error("{path} does not parse: {reason}; correct it first, nothing was changed")]
    Syntax {
        /// The file.
        path: String,
        /// Where and why.
        reason: String,
    },
    /// The engine's configuration has a schema that is not known.
    #[error(
        "{path} has schema {found}, and known are 2, 3 and 4: for an older one run `containerd config migrate`, for a newer one install a newer Coffer"
    )]
    Schema {
        /// The file.
        path: String,
        /// What it says of its version.
        found: String,
    },
    /// A file is there that this installation did not write.
    #[error(
        "{path} is there and no installation {instance} has written it: remove it, or take another --instance"
    )]
    Foreign {
        /// The file.
        path: String,
        /// The instance's name.
        instance: String,
    },
    /// A directory of ours is a symbolic link.
    #[error("{path} is a symbolic link, and an installation's own directories are none: remove it")]
    Link {
        /// The directory.
        path: String,
    },
    /// A handler's name is taken.
    #[error(
        "{engine} has a handler {handler} of type {kind:?} already, which is not this installation's: remove it from its configuration, or take another --instance"
    )]
    Taken {
        /// The engine.
        engine: &'static str,
        /// The handler.
        handler: String,
        /// Its runtime's type.
        kind: String,
    },
    /// The daemon refuses what was written, or forgets something for it.
    #[error(
        "{engine} with the new configuration: {reason}; it has its old configuration back, and new pods get what they got before"
    )]
    RolledBack {
        /// The engine.
        engine: &'static str,
        /// What was seen.
        reason: String,
    },
    /// The same, and the way back fails too.
    #[error(
        "{engine} with the new configuration: {reason}; its old configuration is back, but it does not serve with that either: {then}"
    )]
    RollbackFailed {
        /// The engine.
        engine: &'static str,
        /// What was seen.
        reason: String,
        /// What was seen on the way back.
        then: String,
    },
    /// The daemon does not answer as it stands.
    #[error("{engine} cannot be asked for its configuration: {reason}; nothing was changed")]
    Daemon {
        /// The engine.
        engine: &'static str,
        /// What it says.
        reason: String,
    },
    /// The daemon does not come back without us.
    #[error(
        "{engine} does not serve after its handlers were removed: {reason}; the programs are left in place, correct its configuration and run `coffer uninstall` again"
    )]
    Uninstalled {
        /// The engine.
        engine: &'static str,
        /// What was seen.
        reason: String,
    },
    /// No class can work on this node.
    #[error("no runtime class can work on this node, so nothing is registered: {reasons}")]
    NothingToRegister {
        /// Each class with its reason.
        reasons: String,
    },
    /// Pods still run.
    #[error(
        "{count} pods of this installation run ({which}): delete them first, or use --wait, which takes the handlers away and waits for their end"
    )]
    PodsRun {
        /// How many.
        count: usize,
        /// Their shims' process ids.
        which: String,
    },
    /// The record cannot be used.
    #[error(
        "{path} is no record of an installation that this version knows: {reason}; use the `coffer` that made it to uninstall"
    )]
    Record {
        /// The file.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// A foreign file was changed in the place of our change.
    #[error(
        "{path} was edited around {inserted:?}, which an installation put there: remove these words by hand, and run the command again"
    )]
    Edited {
        /// The file.
        path: String,
        /// What was put in.
        inserted: String,
    },
    /// A foreign file has our handlers in other words.
    #[error(
        "{path} was written anew or edited, and has the handler {handler} in other words than an installation put there: remove the tables of its handlers by hand, and run the command again; its programs stay until then"
    )]
    Rewritten {
        /// The file.
        path: String,
        /// The handler.
        handler: String,
    },
    /// The daemon would lose a runtime of somebody else's with our words.
    #[error(
        "{engine} without what this installation has told it: {reason}; all of it is back, and nothing was started anew: uninstall the other instance first, or name that runtime in a file of its owner's, and run the command again"
    )]
    Needed {
        /// The engine.
        engine: &'static str,
        /// What was seen.
        reason: String,
    },
}

impl Error {
    /// A word for the kind of failure, as documentation and scripts use it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Lookup { .. } => "lookup",
            Self::Read { .. } => "read",
            Self::Change { .. } => "change",
            Self::Locked { .. } => "locked",
            Self::Bundle { .. } => "bundle",
            Self::Checksum { .. } => "checksum",
            Self::Architecture { .. } => "architecture",
            Self::NoEngine => "no-engine",
            Self::ManyEngines { .. } => "many-engines",
            Self::Syntax { .. } => "syntax",
            Self::Schema { .. } => "schema",
            Self::Foreign { .. } => "foreign",
            Self::Link { .. } => "link",
            Self::Taken { .. } => "taken",
            Self::RolledBack { .. } => "rolled-back",
            Self::RollbackFailed { .. } => "rollback-failed",
            Self::Daemon { .. } => "daemon",
            Self::Uninstalled { .. } => "uninstalled",
            Self::NothingToRegister { .. } => "nothing-to-register",
            Self::PodsRun { .. } => "pods-run",
            Self::Record { .. } => "record",
            Self::Edited { .. } | Self::Rewritten { .. } => "edited",
            Self::Needed { .. } => "needed",
        }
    }
}
