//! The device behind a vfio-user socket.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant};

use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_INFO_EVENTFD, VFIO_IRQ_INFO_NORESIZE, VFIO_PCI_BAR0_REGION_INDEX, VFIO_PCI_BAR2_REGION_INDEX,
    VFIO_PCI_BAR4_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX, VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS, VFIO_PCI_REQ_IRQ_INDEX,
    VFIO_REGION_INFO_FLAG_READ, VFIO_REGION_INFO_FLAG_WRITE, vfio_region_info,
};
use vfio_user::{DmaMapFlags, DmaUnmapFlags, IrqInfo, Server, ServerBackend, ServerRegion};

use crate::config_space::{MSIX_VECTORS, SIZE};
use crate::{Device, Faults, Product, State, Timing, Violation, control};

/// What can go wrong with serving.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device's memory cannot be made.
    #[error("Cannot make the device's memory of {size} bytes")]
    Memory {
        /// Bytes.
        size: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The vfio-user socket cannot be made.
    #[error("Cannot serve vfio-user at {path:?}")]
    Socket {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: vfio_user::Error,
    },
    /// The control socket cannot be made, or the device's not be opened for others.
    #[error("Cannot serve the socket at {path:?}")]
    Control {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("Cannot start a thread")]
    Thread(#[source] io::Error),
}

/// What to play, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// What.
    pub product: Product,
    /// The vfio-user socket, to be made.
    pub socket: PathBuf,
    /// The control socket, to be made.
    pub control: PathBuf,
    /// How long things take.
    pub timing: Timing,
    /// Size of BAR 2 in bytes, a power of two, instead of the product's.
    pub memory: Option<u64>,
    /// Reset when a client comes and when it goes, as the kernel's VFIO does at first open and last close.
    pub resets_like_vfio: bool,
}

/// A device that is being served by threads of this process.
#[derive(Debug)]
pub struct Emulator {
    device: Shared,
    socket: PathBuf,
    control: PathBuf,
    served: Mutex<Receiver<()>>,
}

/// The device, shared by its sockets.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    device: Arc<Mutex<Device>>,
    ended: Arc<AtomicBool>,
}

impl Shared {
    fn new(device: Device) -> Self {
        Self { device: Arc::new(Mutex::new(device)), ended: Arc::default() }
    }

    /// A thread that panicked leaves a device like any other.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Device> {
        self.device.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether its threads are to end.
    pub(crate) fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

impl Emulator {
    /// Makes both sockets and serves them until the value is dropped and the last client has gone.
    ///
    /// # Errors
    /// [`Error`].
    pub fn start(options: &Options) -> Result<Self, Error> {
        let mut bars = options.product.bars();
        if let Some(size) = options.memory.filter(|_| bars[1] != 0) {
            bars[1] = size;
        }
        let device = Device::new(options.product, bars, options.timing, Instant::now())
            .map_err(|source| Error::Memory { size: bars[1], source })?;
        let device = Shared::new(device);
        let server = Server::new(&options.socket, true, interrupts(), regions(bars))
            .map_err(|source| Error::Socket { path: options.socket.clone(), source })?;
        // A jailed QEMU connects as another user.
        fs::set_permissions(&options.socket, Permissions::from_mode(0o666))
            .map_err(|source| Error::Control { path: options.socket.clone(), source })?;
        control::serve(&options.control, device.clone())
            .map_err(|source| Error::Control { path: options.control.clone(), source })?;
        let mut backend = Backend {
            device: device.clone(),
            bars,
            like_vfio: options.resets_like_vfio,
            client: Client::Absent,
        };
        let (done, served) = channel();
        let serve = move || {
            while !backend.device.ended() {
                if let Err(error) = server.run(&mut backend) {
                    eprintln!("emulated-gpu: {error}");
                }
                backend.client_gone();
            }
            drop(server);
            let _ = done.send(());
        };
        Builder::new().name("vfio-user".to_owned()).spawn(serve).map_err(Error::Thread)?;
        Ok(Self {
            device,
            socket: options.socket.clone(),
            control: options.control.clone(),
            served: Mutex::new(served),
        })
    }

    /// The vfio-user socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What can be seen from outside.
    #[must_use]
    pub fn state(&self) -> State {
        self.device.lock().state(Instant::now())
    }

    /// Changes the device itself.
    pub fn with<T>(&self, change: impl FnOnce(&mut Device) -> T) -> T {
        change(&mut self.device.lock())
    }

    /// Makes it faulty.
    pub fn set_faults(&self, faults: Faults) {
        self.device.lock().faults = faults;
    }
}

/// How long the end of a device waits for its last client.
const LAST_CLIENT: Duration = Duration::from_millis(200);

impl Drop for Emulator {
    fn drop(&mut self) {
        self.device.ended.store(true, Ordering::Relaxed);
        for path in [&self.socket, &self.control] {
            // One last client wakes the thread, which ends when all clients are gone.
            let _ = UnixStream::connect(path);
            let _ = std::fs::remove_file(path);
        }
        // The server takes its socket's name away as it ends, which another device may have by then.
        let served = self.served.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = served.recv_timeout(LAST_CLIENT);
    }
}

fn regions(bars: [u64; 3]) -> Vec<ServerRegion> {
    let region = |index| {
        let size = match index {
            VFIO_PCI_BAR0_REGION_INDEX => bars[0],
            VFIO_PCI_BAR2_REGION_INDEX => bars[1],
            VFIO_PCI_BAR4_REGION_INDEX => bars[2],
            VFIO_PCI_CONFIG_REGION_INDEX => 4096,
            _ => 0,
        };
        let flags = if size == 0 { 0 } else { VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE };
        let argsz = u32::try_from(size_of::<vfio_region_info>()).unwrap_or(0);
        let region_info = vfio_region_info { argsz, flags, index, size, ..Default::default() };
        ServerRegion { region_info, sparse_areas: Vec::new(), mmap_fd: None }
    };
    (0..VFIO_PCI_NUM_REGIONS).map(region).collect()
}

fn interrupts() -> Vec<IrqInfo> {
    let info = |index| {
        let count = match index {
            VFIO_PCI_MSIX_IRQ_INDEX => u32::from(MSIX_VECTORS),
            // Bus errors, and the request to let go of the device.
            VFIO_PCI_ERR_IRQ_INDEX | VFIO_PCI_REQ_IRQ_INDEX => 1,
            _ => 0,
        };
        let flags = if count == 0 { 0 } else { VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_NORESIZE };
        IrqInfo { index, flags, count }
    };
    (0..VFIO_PCI_NUM_IRQS).map(info).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Client {
    Absent,
    Present,
}

/// What vfio-user's messages do. A read is always answered with data: crate vfio_user's client does not take
/// errors for an answer.
struct Backend {
    device: Shared,
    bars: [u64; 3],
    like_vfio: bool,
    client: Client,
}

impl Backend {
    fn device(&mut self) -> MutexGuard<'_, Device> {
        let mut device = self.device.lock();
        if self.client == Client::Absent {
            self.client = Client::Present;
            if self.like_vfio {
                device.reset(Instant::now());
            }
        }
        device
    }

    fn client_gone(&mut self) {
        let mut device = self.device.lock();
        device.memory.clear();
        device.interrupts.clear();
        if self.like_vfio && self.client == Client::Present {
            device.reset(Instant::now());
        }
        self.client = Client::Absent;
    }

    fn size(&self, region: u32) -> u64 {
        match region {
            VFIO_PCI_BAR0_REGION_INDEX => self.bars[0],
            VFIO_PCI_BAR2_REGION_INDEX => self.bars[1],
            VFIO_PCI_BAR4_REGION_INDEX => self.bars[2],
            VFIO_PCI_CONFIG_REGION_INDEX => 4096,
            _ => 0,
        }
    }

    /// Whether an access is inside its region and, for registers, of the right width.
    fn allowed(&mut self, region: u32, offset: u64, size: usize) -> bool {
        let end = u64::try_from(size).ok().and_then(|size| offset.checked_add(size));
        let violation = if end.is_none_or(|end| end > self.size(region)) {
            Violation::Outside { region, offset }
        } else if region == VFIO_PCI_BAR0_REGION_INDEX && (size != 4 || !offset.is_multiple_of(4)) {
            Violation::Width { region, offset, size }
        } else {
            return true;
        };
        self.device().violate(violation);
        false
    }
}

fn register(offset: u64) -> u32 {
    u32::try_from(offset).unwrap_or(u32::MAX)
}

impl ServerBackend for Backend {
    fn region_read(&mut self, region: u32, offset: u64, data: &mut [u8]) -> io::Result<()> {
        data.fill(0xff);
        if !self.allowed(region, offset, data.len()) {
            return Ok(());
        }
        let now = Instant::now();
        let mut device = self.device();
        match region {
            VFIO_PCI_CONFIG_REGION_INDEX => {
                device.config_read(now, usize::try_from(offset).unwrap_or(SIZE), data);
            }
            VFIO_PCI_BAR0_REGION_INDEX => {
                data.copy_from_slice(&device.read(now, register(offset)).to_le_bytes());
            }
            VFIO_PCI_BAR2_REGION_INDEX => {
                if let Some(video) = &device.video {
                    video.read(offset, data)?;
                }
            }
            _ => data.fill(0),
        }
        Ok(())
    }

    fn region_write(&mut self, region: u32, offset: u64, data: &[u8]) -> io::Result<()> {
        if !self.allowed(region, offset, data.len()) {
            return Ok(());
        }
        let now = Instant::now();
        let mut device = self.device();
        match (region, <[u8; 4]>::try_from(data)) {
            (VFIO_PCI_CONFIG_REGION_INDEX, _) => {
                device.config_write(now, usize::try_from(offset).unwrap_or(SIZE), data);
            }
            (VFIO_PCI_BAR0_REGION_INDEX, Ok(word)) => {
                device.write(now, register(offset), u32::from_le_bytes(word));
            }
            (VFIO_PCI_BAR2_REGION_INDEX, _) => {
                if let Some(video) = &device.video {
                    video.write(offset, data)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn dma_map(
        &mut self,
        _: DmaMapFlags,
        offset: u64,
        address: u64,
        size: u64,
        fd: Option<File>,
    ) -> io::Result<()> {
        // Memory without a descriptor is to be reached by messages, which crate vfio_user does not have.
        fd.map_or(Ok(()), |fd| self.device().memory.map(address, size, offset, fd))
    }

    fn dma_unmap(&mut self, flags: DmaUnmapFlags, address: u64, size: u64) -> io::Result<()> {
        let mut device = self.device();
        if flags.contains(DmaUnmapFlags::UNMAP_ALL) {
            device.memory.clear();
        } else {
            device.memory.unmap(address, size);
        }
        Ok(())
    }

    fn reset(&mut self) -> io::Result<()> {
        self.device().reset(Instant::now());
        Ok(())
    }

    fn set_irqs(&mut self, index: u32, _: u32, start: u32, count: u32, fds: Vec<File>) -> io::Result<()> {
        self.device().interrupts.set(index, start, count, fds);
        Ok(())
    }
}
