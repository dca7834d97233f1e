//! Why a program did not get into its jail.

use std::io;
use std::path::PathBuf;

use crate::UserId;

/// A jail that could not be built. The program was not started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The arguments are not those that we write.
    #[error("a jail is described by an object, a program and its arguments")]
    Arguments,
    /// The description is none.
    #[error("the description of a jail cannot be written or read")]
    Description(#[source] serde_json::Error),
    /// A step of the kernel's failed.
    #[error("cannot {step}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Something that the program needs cannot be put into the jail.
    #[error("cannot give {} to a jailed program", path.display())]
    Give {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The program could not open it.
    #[error(
        "{} is not readable for everyone, and the program that needs it runs as user {user}: chmod o+r it",
        path.display()
    )]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Who cannot read it.
        user: UserId,
    },
    /// It is of another kind than it was said to be.
    #[error("{} is no {wanted}; a symbolic link to one will not do", path.display())]
    Kind {
        /// What.
        path: PathBuf,
        /// What it should be.
        wanted: &'static str,
    },
    /// The filter of system calls cannot be made or switched on.
    #[error("cannot take system calls from a jailed program")]
    Filter(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The program cannot be executed.
    #[error("cannot execute {}", program.display())]
    Execute {
        /// The program.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Error {
    /// For a step that has no object.
    pub(crate) fn step(step: &'static str) -> impl Fn(nix::errno::Errno) -> Self {
        move |errno| Self::Step { step, source: errno.into() }
    }
}
