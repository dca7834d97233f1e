//! `coffer install`, `coffer uninstall`, `coffer status`: Coffer on this node.

mod classes;
mod cri;
mod daemon;
mod install;
mod status;
mod uninstall;

use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use node_install::{Instance, Kind, Root};

pub(crate) use install::{Args as InstallArgs, run as install};
pub(crate) use status::{Args as StatusArgs, run as status};
pub(crate) use uninstall::{Args as UninstallArgs, run as uninstall};

/// Which installation, and where.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Place {
    /// Name of the installation: several can stand beside each other, each with its own handlers
    #[arg(long, value_name = "NAME", default_value_t = Instance::usual())]
    instance: Instance,
    /// The node's root directory
    #[arg(long, value_name = "DIRECTORY", default_value = "/")]
    root: PathBuf,
}

impl Place {
    fn root(&self) -> Root {
        Root::new(&self.root)
    }
}

/// Waits a moment before somebody is asked again.
#[expect(clippy::disallowed_methods, reason = "a command has nothing else to do meanwhile")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}

/// The program that runs the node's containers.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Engine {
    /// containerd 1.7 to 2.3
    Containerd,
    /// k3s
    K3s,
    /// rke2
    Rke2,
    /// k0s
    K0s,
    /// CRI-O
    Crio,
}

impl From<Engine> for Kind {
    fn from(engine: Engine) -> Self {
        match engine {
            Engine::Containerd => Self::Containerd,
            Engine::K3s => Self::K3s,
            Engine::Rke2 => Self::Rke2,
            Engine::K0s => Self::K0s,
            Engine::Crio => Self::Crio,
        }
    }
}
