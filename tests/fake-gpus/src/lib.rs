//! GPUs that sign, where there are none: reports of an H100's form by devices of an authority of the tests ([`hopper`]), and the
//! emulated GPUs of a guest, whose mode is read from their registers ([`Board`]).
//!
//! An image for tests has this in the place of NVIDIA's library. Everybody can know its keys: what it signs proves nothing.

pub mod hopper;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use gpu::Kind;
use gpu::look;
use gpu::sysfs::{Function, Sysfs};

pub use gpu::Mode;
use hopper::{Authority, Device};

/// The emulated GPUs of a guest.
#[derive(Debug)]
pub struct Board {
    gpus: Vec<Function>,
    authority: Authority,
}

impl Board {
    /// Those below `sys` (/sys).
    ///
    /// # Errors
    ///
    /// When there is no list of devices, or it cannot be read.
    pub fn of_guest(sys: &Path) -> Result<Self> {
        let inventory = Sysfs::new(sys).discover()?;
        if let Some(error) = inventory.unreadable.into_iter().next() {
            return Err(error.into());
        }
        let gpus = inventory.functions.into_iter().filter(|function| function.kind == Kind::Gpu);
        let gpus: Vec<_> = gpus.collect();
        for gpu in &gpus {
            // No driver switched its memory space on.
            let path = gpu.path.join("enable");
            fs::write(&path, "1").with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(Self { gpus, authority: Authority::known()? })
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.gpus.len()
    }

    fn gpu(&self, index: usize) -> Result<&Function> {
        self.gpus.get(index).with_context(|| format!("there is no GPU {index}"))
    }

    /// Its place on the bus.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn slot(&self, index: usize) -> Result<String> {
        Ok(self.gpu(index)?.address.to_string())
    }

    /// The mode that its register has now.
    ///
    /// # Errors
    ///
    /// When its registers cannot be read.
    pub fn mode(&self, index: usize) -> Result<Mode> {
        Ok(look::mode(self.gpu(index)?)?)
    }

    /// The device that signs. One without confidential computing has no key.
    ///
    /// # Errors
    ///
    /// When it is off.
    pub fn device(&self, index: usize) -> Result<Device> {
        if self.mode(index)? == Mode::Off {
            bail!("Not Supported");
        }
        self.authority.known_device(&self.slot(index)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A guest's sysfs with an H100 whose registers cannot be opened, and what is no GPU.
    #[test]
    fn a_guests_gpus_are_found_and_one_that_cannot_be_read_is_named() {
        let sys = tempfile::tempdir().unwrap();
        for (slot, vendor, class) in
            [("0000:01:00.0", "0x10de", "0x030200"), ("0000:02:00.0", "0x1af4", "0x020000")]
        {
            let folder = sys.path().join("bus/pci/devices").join(slot);
            fs::create_dir_all(&folder).unwrap();
            for (name, text) in [
                ("vendor", vendor),
                ("class", class),
                ("device", "0x2330"),
                ("subsystem_device", "0x16c1"),
                ("resource", "0x0 0x0 0x0"),
                ("reset_method", "flr"),
            ] {
                fs::write(folder.join(name), format!("{text}\n")).unwrap();
            }
        }
        let board = Board::of_guest(sys.path()).unwrap();
        assert_eq!((board.count(), board.slot(0).unwrap().as_str()), (1, "0000:01:00.0"));
        assert!(board.slot(1).is_err());
        let error = format!("{:#}", board.device(0).unwrap_err());
        assert!(error.contains("cannot be opened"), "{error}");
    }
}
