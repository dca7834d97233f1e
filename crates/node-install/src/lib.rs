//! What an installation changes on a node, and how all of it is taken back.
//!
//! What is to be is decided from a reading of the node ([`Engine`], [`Bundle`], the node's files below a [`Root`]). [`install`]
//! carries it out and [`uninstall`] takes it back; both work from the installation's [`Record`], in which each change is
//! written down before it is made. So whatever the moment at which one of them was killed, running it again gets to the
//! same end. The node's daemon (containerd or CRI-O) is behind the trait [`Daemon`].

mod bundle;
mod daemon;
mod disk;
mod dropin;
mod engine;
mod error;
mod heir;
mod import;
mod install;
mod instance;
mod kubelet;
mod lock;
mod record;
mod root;
mod switch;
#[cfg(test)]
mod tests;
mod uninstall;
mod versions;

pub use bundle::{Bundle, BundleFile};
pub use daemon::{Daemon, Runtimes};
pub use dropin::{Erofs, Handler};
pub use engine::{Engine, Kind, runtimes};
pub use error::{Error, Result};
pub use install::{Installed, Request, Staged, install, stage};
pub use instance::{BadInstance, Instance};
pub use kubelet::Kubelet;
pub use lock::Lock;
pub use record::Record;
pub use root::Root;
pub use uninstall::{Removed, uninstall};
pub use versions::{Running, running};
