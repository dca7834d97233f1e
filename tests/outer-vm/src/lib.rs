//! The outer VM from inside: which devices it has, and the way to the emulators behind them.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::{fs, io};

use emulated_gpu::control::{Client, Request, Value};
pub use emulated_gpu::{Product, State};

/// What is in the VM's slots, the first in slot 1: one of everything that there is to test. 8 H100 and 4 switches are
/// the board that protected PCIe takes.
pub const DEVICES: [Product; 16] = {
    use Product::{B200, H100, H200, Nvswitch, RtxPro6000};
    [
        H100, H100, H100, H100, H100, H100, H100, H100, Nvswitch, Nvswitch, Nvswitch, Nvswitch, B200, B200,
        H200, RtxPro6000,
    ]
};

/// A slot of the VM with its device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(usize);

impl Slot {
    /// The slots that have a product, in their order.
    pub fn of(product: Product) -> Vec<Self> {
        (1..).zip(DEVICES).filter(|(_, device)| *device == product).map(|(number, _)| Self(number)).collect()
    }

    /// The device's address. Each slot is a root port's, and the firmware numbers buses in their order.
    #[must_use]
    pub fn address(self) -> String {
        format!("0000:{:02x}:00.0", self.0)
    }

    fn path(self) -> PathBuf {
        PathBuf::from("/sys/bus/pci/devices").join(self.address())
    }

    /// Binds vfio-pci.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind(self) -> io::Result<()> {
        fs::write(self.path().join("driver_override"), "vfio-pci")?;
        fs::write("/sys/bus/pci/drivers_probe", self.address())?;
        if self.path().join("driver").exists() { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
    }

    /// Unbinds it again.
    ///
    /// # Errors
    /// The kernel's.
    pub fn unbind(self) -> io::Result<()> {
        fs::write(self.path().join("driver/unbind"), self.address())?;
        fs::write(self.path().join("driver_override"), "\n")
    }

    /// The emulator behind the device.
    ///
    /// # Errors
    /// `ENOENT`: this is not the outer VM. `EBUSY`: another one is open.
    pub fn emulator(self) -> io::Result<Control> {
        let port = format!("/dev/virtio-ports/gpu{}", self.0);
        let file = OpenOptions::new().read(true).write(true).open(port)?;
        Ok(Control(Client::over(file)))
    }
}

/// An emulator's control socket.
#[derive(Debug)]
pub struct Control(Client<File>);

impl Control {
    /// Asks for what has no answer.
    ///
    /// # Errors
    /// The emulator refused.
    pub fn ask(&mut self, request: &Request) -> io::Result<Value> {
        self.0.ask(request)
    }

    /// What the device is like now.
    ///
    /// # Errors
    /// The emulator is gone.
    pub fn state(&mut self) -> io::Result<State> {
        match self.0.ask(&Request::State)? {
            Value::State(state) => Ok(*state),
            other => Err(io::Error::other(format!("no state but {other:?}"))),
        }
    }
}
