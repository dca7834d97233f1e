//! Scratch disks: what a pod writes needs no memory of its VM, the node cannot read it, and it is gone with the pod.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use e2e::{BUSYBOX, OrFail, Pod, PodContainer, Rig, SCRATCH, Victim, e2e, e2e_that_takes, until};
use shared_types::ScratchSize;

const FOREVER: [&str; 2] = ["sleep", "100000"];
/// More than half of the VM's memory, which is 256 MiB.
const PIECE: u64 = 150 << 20;
/// In so many writes.
const PIECES: u64 = 5;
/// Bytes of so many lines.
const MARKERS: u64 = 60_000 * 18;
const MIB: u64 = 1 << 20;

async fn pod(rig: &Rig<'_>, name: &str) -> (Pod, PodContainer) {
    let asked = rig.pod(name).await.resources(64 << 20, 1).annotation(ScratchSize::ANNOTATION, "1Gi");
    let mut pod = asked.start().await;
    let cache = pod.directory.empty_dir("cache", "/cache");
    let container = pod.run("app", BUSYBOX, &FOREVER, vec![cache]).await;
    (pod, container)
}

/// The files behind scratch disks that any process has open. They have no names, but /proc has.
fn open_files() -> Vec<PathBuf> {
    let processes = fs::read_dir("/proc").or_fail("/proc").flatten();
    let files = processes.filter_map(|process| fs::read_dir(process.path().join("fd")).ok());
    let is_scratch = |file: &PathBuf| fs::read_link(file).is_ok_and(|to| to.starts_with(SCRATCH));
    files.flat_map(|files| files.flatten().map(|file| file.path())).filter(is_scratch).collect()
}

/// Bytes that a file takes on the node's disk.
fn taken(file: &PathBuf) -> u64 {
    fs::metadata(file).or_fail("a scratch disk's file").blocks() * 512
}

async fn kib(container: &PodContainer, field: &str) -> u64 {
    let text = container.exec(&["grep", field, "/proc/meminfo"]).await;
    text.split_whitespace().nth(1).or_fail(field).parse().or_fail(field)
}

#[test]
fn a_pod_writes_more_than_its_memory_holds_and_the_node_reads_none_of_it() {
    e2e_that_takes(Duration::from_secs(300), async |rig| {
        let (pod, container) = pod(rig, "scratch").await;
        let files = open_files();
        let file = files.first().or_fail("the file of a scratch disk");
        let empty = taken(file);
        assert!(empty < 16 * MIB, "{empty} bytes for nothing");
        assert_eq!(fs::read_dir(SCRATCH).or_fail(SCRATCH).count(), 0, "the file has a name");

        let before = kib(&container, "MemAvailable").await;
        container
            .exec(&["sh", "-c", "seq 60000 | sed s/.*/MARKER-OF-THE-POD/ > /marker && cp /marker /cache"])
            .await;
        for place in ["/cache/file", "/file"] {
            // In pieces, each of which the emulated processor encrypts within an exec's time limit.
            for piece in 0..PIECES {
                let at = piece * PIECE / PIECES / MIB;
                let write =
                    format!("dd if=/dev/zero of={place} bs=1M count={} seek={at}", PIECE / PIECES / MIB);
                container.exec(&["sh", "-c", &write]).await;
            }
        }
        container.exec(&["sync"]).await;
        let (after, total) = (kib(&container, "MemAvailable").await, kib(&container, "MemTotal").await);
        assert!(total * 1024 < 2 * PIECE, "the memory would have held it");
        assert!(before.saturating_sub(after) < 48 << 10, "{before} KiB were available, and {after} are");
        for (place, size) in
            [("/cache/file", PIECE), ("/file", PIECE), ("/cache/marker", MARKERS), ("/marker", MARKERS)]
        {
            let found = container.exec(&["stat", "-c", "%s", place]).await;
            assert_eq!(found.trim(), size.to_string(), "{place}");
        }
        assert_eq!(container.exec(&["head", "-n", "1", "/cache/marker"]).await, "MARKER-OF-THE-POD\n");

        assert!(taken(file) > 2 * PIECE, "{} bytes on the node", taken(file));
        let mut disk = File::open(file).or_fail("open the file");
        let (mut piece, marker) = (vec![0; 4 << 20], b"MARKER-OF-THE-POD");
        loop {
            let read = disk.read(&mut piece).or_fail("read the file");
            if read == 0 {
                break;
            }
            assert!(
                !piece[..read].windows(marker.len()).any(|window| window == marker),
                "in plain on the node"
            );
        }

        drop(disk);

        // What the pod removes is the node's again.
        container.exec(&["sh", "-c", "rm /cache/file /file && sync"]).await;
        until("the blocks", Duration::from_secs(30), async || (taken(file) < PIECE).then_some(())).await;
        pod.remove().await;
        assert_eq!(open_files(), Vec::<PathBuf>::new());
    });
}

#[test]
fn a_scratch_disk_ends_with_its_vm_whatever_ends_it() {
    e2e(async |rig| {
        for (name, victim) in [("scratch-shim", Victim::Shim), ("scratch-qemu", Victim::Qemu)] {
            let (pod, container) = pod(rig, name).await;
            container.exec(&["sh", "-c", "dd if=/dev/zero of=/cache/file bs=1M count=8 && sync"]).await;
            let holders = open_files();
            assert!(!holders.is_empty() && taken(&holders[0]) > 8 * MIB);
            assert_eq!(victim.kill(), 1);
            Victim::Qemu.gone().await;
            // Without a name and without a process that has it open, a file is gone.
            until("the end of the file", Duration::from_secs(10), async || {
                open_files().is_empty().then_some(())
            })
            .await;
            assert_eq!(fs::read_dir(SCRATCH).or_fail(SCRATCH).count(), 0);
            assert_ne!(container.exited().await, 0);
            pod.remove().await;
        }
    });
}

#[test]
fn a_scratch_disk_that_the_node_does_not_give_is_refused_and_no_vm_starts() {
    e2e(async |rig| {
        let ask = async |size: &str| {
            let asked = rig.pod("scratch-much").await.annotation(ScratchSize::ANNOTATION, size);
            asked.try_start().await.err().or_fail("a refusal").message().to_owned()
        };
        let said = ask("2Gi").await;
        assert!(
            said.contains("2048 MiB")
                && said.contains("at most 1024 MiB")
                && said.contains("max_scratch_mib"),
            "{said}"
        );
        let said = ask("2 Gi").await;
        assert!(said.contains(ScratchSize::ANNOTATION) && said.contains("such as 100Gi"), "{said}");
        assert_eq!(Victim::Qemu.processes().len(), 0);
    });
}
