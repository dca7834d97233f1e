//! What several crates have to call by one name, host and guest alike. It depends on none of them, and opens nothing.

mod accel;
mod budget;
mod causes;
mod cpu;
pub mod cri;
mod directory;
mod gpu;
pub mod kernel_keys;
mod mac;
mod pci;
mod scratch;
pub mod sealed;
mod vsock;

pub use accel::{Accelerator, KvmTrial};
pub use budget::Budget;
pub use causes::one_line;
pub use cpu::Cpu;
pub use directory::{BadEmptyDirectory, EmptyDirectory};
pub use gpu::{GpuMode, ModePolicy, NvidiaKind};
pub use mac::{BadMac, Mac, NicMac};
pub use pci::{BadPciAddress, PciAddress};
pub use scratch::{BadScratchSize, ScratchSize};
pub use vsock::Cid;
