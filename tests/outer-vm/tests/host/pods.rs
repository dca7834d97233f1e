//! Pods with GPUs over the kernel's VFIO: by iommufd and by the legacy group, in turn, two and eight at once.
//!
//! A VM in this VM takes half a minute to boot, so that each is in as many claims as it can be.

use std::fs;
use std::time::{Duration, Instant};

use e2e::{BUSYBOX, Container, OrFail, Rig, Run, Victim, e2e_in_outer_vm, processes, until};
use outer_vm::{Product, State};

use crate::gpus::{Bound, function, overwrite};
use crate::nudge;

const FOREVER: [&str; 2] = ["sleep", "100000"];
const IOMMUFD: &str = "/dev/iommu";

/// A container on a node that sets its GPUs to this mode.
fn run(rig: &Rig<'_>, id: &str, gpu_mode: &str) -> Run {
    let config = rig
        .config()
        .set("accel", "\"kvm\"")
        .set("cc_mode", "\"manage\"")
        .set("gpu_mode", &format!("{gpu_mode:?}"))
        .set("default_memory_mib", "256")
        .write(id);
    Run::new(id, BUSYBOX, &FOREVER).config(&config)
}

/// Starts it, and tells the time that it took.
async fn start(run: &Run, what: &str) -> Container {
    nudge::keep_awake();
    let start = Instant::now();
    let container = run.start().await;
    println!("{what}: runs after {} ms", start.elapsed().as_millis());
    container
}

/// Ends it, and tells the time until its GPUs are free.
async fn end(container: Container, gpus: &Bound, what: &str) {
    let start = Instant::now();
    container.remove().await;
    gpus.free().await;
    println!("{what}: its GPUs are free after {} ms", start.elapsed().as_millis());
}

/// The first GPU, once it is there again: VFIO resets one that is let go.
async fn booted(gpus: &Bound) -> State {
    until("the GPU to be booted", Duration::from_secs(10), async || {
        Some(gpus.state(0)).filter(|gpu| gpu.booted)
    })
    .await
}

/// Files that the VM's QEMU has open.
fn open_files() -> Vec<String> {
    let qemu = processes().into_iter().find(|process| process.name.starts_with("qemu-system")).unwrap();
    let files = fs::read_dir(format!("/proc/{}/fd", qemu.pid)).unwrap().flatten();
    files.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.display().to_string())).collect()
}

/// What the container sees of one GPU.
#[derive(Debug)]
struct Seen {
    /// Vendor, device and class.
    ids: String,
    /// First and last address of each BAR.
    bars: Vec<(u64, u64)>,
}

/// What the container sees of its GPUs.
async fn seen(container: &Container) -> Vec<Seen> {
    let script = "cd /sys/bus/pci/devices; for d in *; do grep -q 0x10de $d/vendor && \
                  echo $(cat $d/vendor $d/device $d/class) && head -n 6 $d/resource; done; true";
    let text = container.exec(&["sh", "-c", script]).await.succeeded();
    let lines: Vec<&str> = text.lines().collect();
    let number = |word: &str| u64::from_str_radix(word.trim_start_matches("0x"), 16).or_fail(word);
    let bar = |line: &&str| {
        let words: Vec<u64> = line.split(' ').map(number).collect();
        (words[0], words[1])
    };
    // The upper halves of 64-bit BARs and those that are not there have no address.
    let bars = |lines: &[&str]| lines.iter().map(bar).filter(|bar| *bar != (0, 0)).collect();
    lines.chunks(7).map(|lines| Seen { ids: lines[0].to_owned(), bars: bars(&lines[1..]) }).collect()
}

/// A host whose kernel has no iommufd.
struct WithoutIommufd;

impl WithoutIommufd {
    const ASIDE: &str = "/dev/iommu.aside";

    fn new() -> Self {
        fs::rename(IOMMUFD, Self::ASIDE).unwrap();
        Self
    }
}

impl Drop for WithoutIommufd {
    fn drop(&mut self) {
        let _ = fs::rename(Self::ASIDE, IOMMUFD);
    }
}

#[test]
fn a_gpu_goes_from_pod_to_pod_by_iommufd_and_by_its_group() {
    e2e_in_outer_vm(async |rig| {
        // Its BAR is small here (outer-vm's `device.rs` says why).
        let gpus = Bound::first(1, Product::H200);
        let resets = gpus.state(0).resets;
        let node = gpus.device_node(0).display().to_string();
        let run_first = run(rig, "first", "on").flag("--device").flag(&node).flag("--privileged");
        let container = start(&run_first, "by iommufd").await;
        rig.logged(&["GPUs are verified", "mode=on"]).await;
        let files = open_files();
        assert!(files.contains(&IOMMUFD.to_owned()) && files.contains(&node), "{files:?}");
        let state = gpus.state(0);
        assert!(state.resets > resets, "{resets} resets before, {} now", state.resets);
        assert_eq!((state.mode_word & 1, gpus.holders()), (1, vec![Some("first".to_owned())]));
        let seen_first = seen(&container).await;
        assert_eq!(seen_first[0].ids, "0x10de 0x2335 0x030200");

        // No driver is there to allow DMA: bits 1 and 2 of the command register.
        let allow = "for d in /sys/bus/pci/devices/*; do grep -q 0x10de $d/vendor && printf '\\006' | \
                     dd of=$d/config bs=1 seek=4 conv=notrunc; done; true";
        container.exec(&["sh", "-c", allow]).await.succeeded();
        // Over the host's IOMMU: what the container writes, the GPU reads; what the GPU writes, the container reads.
        let write = "printf 'from the guest, page for DMA 7d1f' > /dev/shm/page; sync; cat /dev/shm/page";
        let text = container.exec(&["sh", "-c", write]).await.succeeded();
        overwrite(&mut gpus.slots()[0].emulator().unwrap(), text.as_bytes(), b"from the GPU");
        let read = container.exec(&["cat", "/dev/shm/page"]).await.succeeded();
        assert!(read.starts_with("from the GPU"), "{read:?}");

        let resets = gpus.state(0).resets;
        end(container, &gpus, "by iommufd").await;
        let state = booted(&gpus).await;
        assert!(state.resets > resets, "{resets} resets before, {} after", state.resets);
        assert_eq!(state.mode_word & 1, 1);
        rig.logged(&["GPU is free", &gpus.slots()[0].address()]).await;

        let resets = state.resets;
        let group = gpus.group_node(0).display().to_string();
        let without = WithoutIommufd::new();
        let run_second = run(rig, "second", "off").flag("--device").flag(&group);
        let container = start(&run_second, "by its group").await;
        drop(without);
        let files = open_files();
        assert!(files.contains(&group) && files.contains(&"/dev/vfio/vfio".to_owned()), "{files:?}");
        assert!(!files.iter().any(|file| file.starts_with("/dev/vfio/devices")), "{files:?}");
        let state = gpus.state(0);
        assert!(state.resets > resets, "{resets} resets before, {} now", state.resets);
        assert_eq!((state.mode_word & 1, gpus.holders()), (0, vec![Some("second".to_owned())]));
        assert_eq!(seen(&container).await[0].ids, seen_first[0].ids);

        // This one does not end by itself: the shim is killed, and the kernel has its VFIO files closed.
        let resets = state.resets;
        assert_eq!(Victim::Shim.kill(), 1);
        container.forgotten().await;
        run_second.clear().await;
        gpus.free().await;
        let state = booted(&gpus).await;
        assert!(state.resets > resets, "{state:?}");
    });
}

#[test]
fn a_pod_gets_two_blackwell_gpus_each_in_mode_on() {
    e2e_in_outer_vm(async |rig| {
        let gpus = Bound::first(2, Product::B200);
        let resets = [gpus.state(0).resets, gpus.state(1).resets];
        let run = run(rig, "two", "on").flag("--annotation").flag(&gpus.cdi());
        let container = start(&run, "two B200").await;
        assert_eq!(gpus.holders(), [Some("two".to_owned()), Some("two".to_owned())]);
        let ids: Vec<_> = seen(&container).await.into_iter().map(|gpu| gpu.ids).collect();
        assert_eq!(ids, ["0x10de 0x2901 0x030200"; 2]);
        let before = [gpus.state(0), gpus.state(1)];
        for (state, resets) in before.iter().zip(resets) {
            assert!(state.mode_word & 3 == 1 && state.resets > resets, "{state:?}");
        }
        end(container, &gpus, "two B200").await;
        for (index, before) in before.iter().enumerate() {
            let state = gpus.state(index);
            assert!(state.mode_word & 3 == 1 && state.resets > before.resets, "{state:?}");
        }
    });
}

#[test]
fn eight_gpus_with_128_gib_each_have_their_place_in_the_guest() {
    e2e_in_outer_vm(async |rig| {
        let gpus = Bound::first(8, Product::H100);
        let run = run(rig, "eight", "off").flag("--annotation").flag(&gpus.cdi());
        let container = start(&run, "eight H100").await;
        let seen = seen(&container).await;
        let mut bars: Vec<_> = seen.iter().flat_map(|gpu| gpu.bars.clone()).collect();
        bars.sort_unstable();
        let large = bars.iter().filter(|(first, last)| last - first + 1 == 128 << 30 && *first >= 1 << 32);
        assert_eq!((seen.len(), bars.len(), large.count()), (8, 8 * 3, 8), "{seen:?}");
        assert!(bars.iter().all(|(first, _)| *first != 0), "not placed: {bars:x?}");
        assert!(bars.windows(2).all(|pair| pair[0].1 < pair[1].0), "one over the other: {bars:x?}");
        end(container, &gpus, "eight H100").await;
    });
}

#[test]
fn a_gpu_without_vfio_stops_the_start() {
    e2e_in_outer_vm(async |rig| {
        let gpus = Bound::first(1, Product::H200);
        let (slot, annotation) = (gpus.slots()[0], gpus.cdi());
        let node = gpus.device_node(0).display().to_string();
        slot.unbind().unwrap();
        let resets = gpus.state(0).resets;
        let refused = run(rig, "unbound", "off").flag("--annotation").flag(&annotation).refused().await;
        refused.failed_with(&["nvidia.com/pgpu=0", &node]);
        assert_eq!((gpus.holders(), gpus.state(0).resets), (vec![None], resets));
        assert_eq!(function(slot).driver, None);
    });
}
