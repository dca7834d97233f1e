//! Namespaces that all containers of the sandbox share.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process;
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::sethostname;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Spec};

use crate::error::{Error, Result};

/// IPC and UTS namespaces of the sandbox, held open.
#[derive(Debug)]
pub struct Shared {
    ipc: File,
    uts: File,
}

impl Shared {
    /// Makes them; the UTS namespace gets the sandbox's host name.
    pub fn new(hostname: &str) -> Result<Self> {
        let hostname = hostname.to_owned();
        // Namespaces belong to threads: a short-lived one makes them, the open files keep them.
        let made = thread::spawn(move || -> io::Result<Self> {
            unshare(CloneFlags::CLONE_NEWIPC | CloneFlags::CLONE_NEWUTS)?;
            if !hostname.is_empty() {
                sethostname(&hostname)?;
            }
            Ok(Self {
                ipc: File::open("/proc/thread-self/ns/ipc")?,
                uts: File::open("/proc/thread-self/ns/uts")?,
            })
        });
        let made = made.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()));
        made.map_err(Error::system("make the sandbox's namespaces"))
    }

    /// Points the container's IPC and UTS namespaces at the sandbox's and adds a PID namespace: that of `pid`'s
    /// process, or a new one.
    pub fn apply(&self, spec: &mut Spec, pid: Option<i32>) -> Result<()> {
        let linux = spec.linux_mut().as_mut().ok_or_else(|| Error::refused("no linux part"))?;
        let mut list = linux.namespaces().clone().unwrap_or_default();
        for namespace in &mut list {
            match namespace.typ() {
                LinuxNamespaceType::Ipc => namespace.set_path(Some(held(&self.ipc))),
                LinuxNamespaceType::Uts => namespace.set_path(Some(held(&self.uts))),
                _ => namespace.set_path(None),
            };
        }
        let shares_uts = list.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Uts);
        list.push(pid_namespace(pid)?);
        linux.set_namespaces(Some(list));
        if shares_uts {
            // The sandbox's name is already set, and a container must not change it.
            spec.set_hostname(None);
        }
        Ok(())
    }
}

fn held(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", process::id(), file.as_raw_fd()))
}

fn pid_namespace(pid: Option<i32>) -> Result<LinuxNamespace> {
    let builder = LinuxNamespaceBuilder::default().typ(LinuxNamespaceType::Pid);
    let builder = match pid {
        Some(pid) => builder.path(format!("/proc/{pid}/ns/pid")),
        None => builder,
    };
    builder.build().map_err(|error| Error::refused(error.to_string()))
}
