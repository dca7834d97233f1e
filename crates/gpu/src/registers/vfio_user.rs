//! Registers over a vfio-user socket: how the rigs reach a GPU that a program plays.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, io};

use tokio::time::timeout;
use vfio_bindings::bindings::vfio::{VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX};
use vfio_user::Client;

use super::{At, Registers, ResetKind, Word};
use crate::PciAddress;
use crate::thread::off_thread;

/// Where a rig has its emulated GPUs: `sys`, which shows them as the kernel shows GPUs, and their sockets.
pub const RIG: &str = "/run/coffer-emulated";

/// The socket of one that is played in `rig`.
#[must_use]
pub fn rig_socket(rig: &Path, gpu: PciAddress) -> PathBuf {
    rig.join(format!("{gpu}.sock"))
}

/// A connection to a vfio-user server. A server serves one client at a time, as VFIO does.
pub struct VfioUser {
    socket: PathBuf,
    client: Client,
}

impl VfioUser {
    /// Connects to the server at `socket`.
    ///
    /// # Errors
    /// No server, not a PCI device, or [`io::ErrorKind::TimedOut`]: the server is busy with another client.
    pub async fn connect(socket: &Path, limit: Duration) -> io::Result<Self> {
        let path = socket.to_owned();
        // The server answers when the client before us has gone, so this may block.
        let connecting = off_thread("vfio-user", move || Client::new(&path).map_err(io::Error::other));
        let client =
            timeout(limit, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))???;
        let registers = Self { socket: socket.to_owned(), client };
        for region in [VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX] {
            if registers.client.region(region).is_none_or(|region| region.size == 0) {
                return Err(io::Error::other(format!("the vfio-user server has no region {region}")));
            }
        }
        Ok(registers)
    }

    fn check(&self, at: At) -> io::Result<(u32, u64)> {
        let region = match at {
            At::Bar0(_) => VFIO_PCI_BAR0_REGION_INDEX,
            At::Config(_) => VFIO_PCI_CONFIG_REGION_INDEX,
        };
        let size = self.client.region(region).map_or(0, |region| region.size);
        let offset = at.offset();
        let inside = offset.is_multiple_of(4) && offset + 4 <= size;
        if inside { Ok((region, offset)) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }
}

impl Registers for VfioUser {
    fn read32(&mut self, at: At) -> io::Result<Word> {
        let (region, offset) = self.check(at)?;
        let mut word = [0; 4];
        self.client.region_read(region, offset, &mut word).map_err(io::Error::other)?;
        Ok(Word::of(u32::from_le_bytes(word)))
    }

    fn write32(&mut self, at: At, value: u32) -> io::Result<()> {
        let (region, offset) = self.check(at)?;
        self.client.region_write(region, offset, &value.to_le_bytes()).map_err(io::Error::other)
    }

    /// The protocol knows one kind.
    fn reset(&mut self, _: ResetKind) -> io::Result<()> {
        self.client.reset().map_err(io::Error::other)
    }
}

impl fmt::Debug for VfioUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VfioUser").field("socket", &self.socket).finish_non_exhaustive()
    }
}
