//! The emulated GPU itself: as a program, over its sockets.

use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use emulated_gpu::control::{Client, Request, Value};
use emulated_gpu::{Faults, Product, State, Violation};
use gpu::lock::GpuLock;
use gpu::registers::{ResetKind, VfioUser};
use gpu::{Cause, Gpu, Mode, Progress, set};
use tempfile::TempDir;
use vfio_bindings::bindings::vfio::{
    VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_IRQ_SET_DATA_EVENTFD, VFIO_PCI_BAR0_REGION_INDEX,
    VFIO_PCI_BAR2_REGION_INDEX, VFIO_PCI_CONFIG_REGION_INDEX, VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
};

use crate::rig::{Rig, address, id};

/// The program.
struct Program {
    child: Child,
    folder: TempDir,
}

impl Program {
    async fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_emulated-gpu"))
            .args(arguments)
            .arg("--socket")
            .arg(folder.path().join("gpu.sock"))
            .arg("--control")
            .arg(folder.path().join("gpu.control"))
            .spawn()
            .unwrap();
        let program = Self { child, folder };
        for _ in 0..500 {
            if program.folder.path().join("gpu.control").exists() {
                return program;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no control socket");
    }

    fn control(&self) -> Client {
        Client::connect(&self.folder.path().join("gpu.control")).unwrap()
    }

    async fn open(&self, product: Product) -> Result<Gpu<gpu::Unverified>, gpu::Failure> {
        let socket = self.folder.path().join("gpu.sock");
        let registers = VfioUser::connect(&socket, Duration::from_secs(5)).await.unwrap();
        let lock = GpuLock::take(&self.folder.path().join("locks"), address(0), "test").await.unwrap();
        let (lock, registers) = (Arc::new(lock), Box::new(registers));
        Gpu::open(&lock, id(product), ResetKind::Function, registers, &Progress::silent()).await
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn state(control: &mut Client) -> State {
    let Value::State(state) = control.ask(&Request::State).unwrap() else { panic!() };
    *state
}

#[tokio::test]
async fn a_program_with_faults_switched_while_it_runs() {
    let program =
        Program::start(&["--product", "rtx-pro6000", "--boot", "5", "--firewall", "1", "--reply", "0"]).await;
    let mut control = program.control();
    let gpu = program.open(Product::RtxPro6000).await.unwrap();
    set::switch(vec![gpu], Mode::On).await.unwrap();
    let now = state(&mut control);
    assert_eq!((now.mode_word, now.resets, &now.violations[..]), (1, 1, &[][..]));
    assert_eq!(now.knobs.get(&8), Some(&1));

    let faults = Faults { every_error: Some(0x202), ..Faults::default() };
    control.ask(&Request::SetFaults { faults }).unwrap();
    let gpu = program.open(Product::RtxPro6000).await.unwrap();
    let failure = gpu.verify(Mode::On).await.unwrap_err();
    assert!(matches!(failure.cause, Cause::Fsp(_)), "{failure:?}");

    assert!(control.ask(&Request::SetKnob { knob: 999, value: 1 }).is_err());
    control.ask(&Request::ClearLog).unwrap();
    assert!(state(&mut control).requests.is_empty());
}

#[tokio::test]
async fn a_program_that_resets_like_vfio() {
    let program = Program::start(&["--product", "h100", "--boot", "5", "--resets-like-vfio"]).await;
    let mut control = program.control();
    let mut gpu = program.open(Product::H100).await.unwrap();
    assert_eq!(state(&mut control).resets, 1);
    let plan = gpu.plan(Mode::On).await.unwrap();
    gpu.write(&plan).await.unwrap();
    assert_eq!(gpu.query().await.unwrap().mode, Mode::Off);
    // Closing makes the settings active, and opening does so again.
    drop(gpu);
    let gpu = program.open(Product::H100).await.unwrap();
    assert_eq!(state(&mut control).resets, 3);
    gpu.verify(Mode::On).await.unwrap();
}

#[tokio::test]
async fn one_client_at_a_time() {
    let rig = Rig::one(Product::H100);
    let first = rig.registers(0).await.unwrap();
    let socket = rig.only().socket();
    let error = VfioUser::connect(socket, Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    drop(first);
}

#[test]
fn a_control_line_that_is_nonsense_is_answered() {
    use std::io::{BufRead, BufReader, Write};
    let rig = Rig::one(Product::H100);
    let mut stream = UnixStream::connect(rig.control(0)).unwrap();
    stream.write_all(b"{\"op\":\"explode\"}\n").unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert!(line.starts_with("{\"error\":"), "{line}");
}

/// What QEMU does: maps the VM's memory, asks for interrupts, passes accesses on.
#[test]
fn memory_interrupts_and_bars_as_a_vmm_uses_them() {
    let rig = Rig::one(Product::H100);
    let mut control = Client::connect(&rig.control(0)).unwrap();
    let mut client = vfio_user::Client::new(rig.only().socket()).unwrap();
    assert_eq!(client.region(VFIO_PCI_BAR2_REGION_INDEX).unwrap().size, 128 << 30);
    let mut identity = [0; 4];
    client.region_read(VFIO_PCI_CONFIG_REGION_INDEX, 0, &mut identity).unwrap();
    assert_eq!(u32::from_le_bytes(identity), 0x2330_10de);
    client.region_write(VFIO_PCI_CONFIG_REGION_INDEX, 4, &[6, 0]).unwrap();

    let memory = tempfile::tempfile().unwrap();
    memory.set_len(1 << 20).unwrap();
    client.dma_map(0x1000, 0x8000_0000, 0x10_0000 - 0x1000, memory.as_raw_fd()).unwrap();
    control.ask(&Request::DmaWrite { address: 0x8000_0040, data: b"coffer".to_vec() }).unwrap();
    let mut found = [0; 6];
    memory.read_exact_at(&mut found, 0x1040).unwrap();
    assert_eq!(&found, b"coffer");
    let read = control.ask(&Request::DmaRead { address: 0x8000_0040, length: 6 }).unwrap();
    assert_eq!(read, Value::Data(b"coffer".to_vec()));
    // The same by registers, as a program in the guest would.
    for (register, value) in [(0xff_f000, 0x8000_0080_u32), (0xff_f004, 0), (0xff_f008, 0xc0ff_ee00)] {
        client.region_write(VFIO_PCI_BAR0_REGION_INDEX, register, &value.to_le_bytes()).unwrap();
    }
    let mut word = [0; 4];
    memory.read_exact_at(&mut word, 0x1080).unwrap();
    assert_eq!(u32::from_le_bytes(word), 0xc0ff_ee00);

    let flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER;
    for (index, number, request) in [
        (VFIO_PCI_MSIX_IRQ_INDEX, 3, Request::Interrupt { vector: 3 }),
        (VFIO_PCI_ERR_IRQ_INDEX, 0, Request::BusError),
    ] {
        assert!(control.ask(&request).is_err(), "nobody listens yet");
        let (mut listen, raise) = std::io::pipe().unwrap();
        client.set_irqs(index, flags, number, 1, &[raise.as_raw_fd()]).unwrap();
        control.ask(&request).unwrap();
        let mut count = [0; 8];
        listen.read_exact(&mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
    }

    client.region_write(VFIO_PCI_BAR2_REGION_INDEX, 100 << 30, b"vram").unwrap();
    let mut vram = [0; 4];
    client.region_read(VFIO_PCI_BAR2_REGION_INDEX, 100 << 30, &mut vram).unwrap();
    assert_eq!(&vram, b"vram");
    // Function-level reset by configuration space, as a guest kernel does it.
    client.region_write(VFIO_PCI_CONFIG_REGION_INDEX, 0x69, &[0xa8]).unwrap();
    client.region_read(VFIO_PCI_BAR2_REGION_INDEX, 100 << 30, &mut vram).unwrap();
    assert_eq!(vram, [0; 4]);
    assert_eq!(state(&mut control).resets, 1);
    assert_eq!(state(&mut control).dma_pieces, 1);

    assert_eq!(state(&mut control).violations, []);
    client.region_write(VFIO_PCI_BAR0_REGION_INDEX, 2, &[0; 2]).unwrap();
    client.region_read(VFIO_PCI_CONFIG_REGION_INDEX, 4094, &mut vram).unwrap();
    assert_eq!(
        state(&mut control).violations,
        [
            Violation::Width { region: VFIO_PCI_BAR0_REGION_INDEX, offset: 2, size: 2 },
            Violation::Outside { region: VFIO_PCI_CONFIG_REGION_INDEX, offset: 4094 },
        ]
    );
}
