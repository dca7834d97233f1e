//! Multi-queue tap devices, and vhost-net where the host has it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use futures_util::TryStreamExt;
use nix::errno::Errno;
use nix::libc;
use rtnetlink::LinkUnspec;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};

use super::Error;
use super::netlink::{Link, is_errno};
use crate::sys::{self, Queue};

/// Makes the tap. It is not persistent: it lives as long as one of the descriptors.
pub(super) fn make(link: &Link, name: &str, queues: u16) -> Result<Vec<OwnedFd>, Error> {
    link.netns().enter(&format!("make tap {name:?} from /dev/net/tun"), || {
        let mut fds = Vec::with_capacity(usize::from(queues));
        for at in 0..queues {
            let tun = open("/dev/net/tun")?;
            sys::attach_tap(&tun, name, if at == 0 { Queue::First } else { Queue::Further })?;
            fds.push(tun.into());
        }
        Ok(fds)
    })
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Sets the tap up for its link, and returns its index. The namespace's own stack must stay silent on it:
/// what it sends would reach the guest.
pub(super) async fn configure(link: &Link, name: &str, mtu: u32) -> Result<u32, Error> {
    let action = || format!("configure tap {name:?}");
    let index = match find(link, name).await.map_err(link.failed(action()))? {
        Some(index) => index,
        None => return Err(link.unsupported(name, "vanished while it was set up")),
    };
    let silent = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
        In6AddrGenMode::None,
    )])]);
    let quiet = LinkUnspec::new_with_index(index).append_extra_attribute(silent).build();
    match link.handle.link().set(quiet).execute().await {
        Ok(()) => {}
        // A kernel without IPv6 has nothing to silence.
        Err(e) if is_errno(&e, Errno::EAFNOSUPPORT) || is_errno(&e, Errno::EOPNOTSUPP) => {}
        Err(e) => return Err(link.failed(action())(e)),
    }
    let up = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
    link.handle.link().set(up).execute().await.map_err(link.failed(action()))?;
    Ok(index)
}

/// One `/dev/vhost-net` per queue; none where the host has no such device.
pub(super) fn vhost(link: &Link, queues: usize) -> Result<Vec<OwnedFd>, Error> {
    const PATH: &str = "/dev/vhost-net";
    let mut fds = Vec::with_capacity(queues);
    for _ in 0..queues {
        match open(PATH) {
            Ok(file) => fds.push(file.into()),
            Err(e) if absent(&e) => return Ok(Vec::new()),
            Err(source) => {
                let netns = link.netns().path().to_owned();
                return Err(Error::Device { action: format!("open {PATH}"), netns, source });
            }
        }
    }
    Ok(fds)
}

/// No node, or a node without a driver behind it.
fn absent(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || [Errno::ENODEV, Errno::ENXIO].iter().any(|&errno| error.raw_os_error() == Some(errno as i32))
}

/// Removes the tap if it is there: another process may have kept it alive.
pub(super) async fn remove(link: &Link, name: &str) -> Result<(), Error> {
    let action = || format!("remove tap {name:?}");
    let Some(index) = find(link, name).await.map_err(link.failed(action()))? else { return Ok(()) };
    match link.handle.link().del(index).execute().await {
        Err(e) if !is_errno(&e, Errno::ENODEV) => Err(link.failed(action())(e)),
        _ => Ok(()),
    }
}

async fn find(link: &Link, name: &str) -> Result<Option<u32>, rtnetlink::Error> {
    let mut found = std::pin::pin!(link.handle.link().get().match_name(name).execute());
    match found.try_next().await {
        Ok(message) => Ok(message.map(|message| message.header.index)),
        Err(e) if is_errno(&e, Errno::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}
