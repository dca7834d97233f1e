//! Pods with an emulated H100: set, reset, verified, in the guest, and given back, whatever happens.

use std::time::{Duration, Instant};

use e2e::{BUSYBOX, Events, Gpus, PHASES, Rig, Run, Victim, e2e_with_gpus, until};
use tokio::time::sleep;

const FOREVER: [&str; 2] = ["sleep", "100000"];
/// Bytes of a page.
const PAGE: u64 = 4096;
/// The guest's memory, all of it below the hole at 2.75 GiB.
const MEMORY_MIB: u64 = 512;

/// A container with the first `count` GPUs, on a node that wants them in mode on.
fn run(rig: &Rig<'_>, id: &str, count: usize, cc_mode: &str, gpu_mode: &str) -> Run {
    run_with(rig, id, &(0..count).collect::<Vec<_>>(), cc_mode, gpu_mode)
}

/// A container with these GPUs.
fn run_with(rig: &Rig<'_>, id: &str, gpus: &[usize], cc_mode: &str, gpu_mode: &str) -> Run {
    let config = rig
        .config()
        .set("cc_mode", &format!("{cc_mode:?}"))
        .set("gpu_mode", &format!("{gpu_mode:?}"))
        .set("default_memory_mib", &MEMORY_MIB.to_string())
        .write(id);
    Run::new(id, BUSYBOX, &FOREVER).config(&config).flag("--annotation").flag(&Gpus::annotation_of(gpus))
}

/// The page of the guest's memory that begins with these bytes, found by the GPU itself.
fn find_page(gpus: &Gpus, start: &[u8]) -> Option<u64> {
    gpus.with(0, |gpu| {
        let mut bytes = vec![0; start.len()];
        let pages = (0..MEMORY_MIB << 20).step_by(usize::try_from(PAGE).unwrap_or(1));
        pages.into_iter().find(|page| gpu.dma_read(*page, &mut bytes).is_ok() && bytes == start)
    })
}

#[test]
fn a_pod_gets_its_gpu_in_the_right_mode_and_gives_it_back_clean() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        assert_eq!(gpus.state(0).mode_word & 1, 0);
        let start = Instant::now();
        let container = run(rig, "one-gpu", 1, "manage", "on").flag("--privileged").start().await;
        println!("pod with one GPU runs after {} ms", start.elapsed().as_millis());
        for words in [
            ["GPU assigned", "0000:40:00.0"],
            ["GPUs are set to another mode", "mode=on"],
            ["GPUs are verified", "mode=on"],
        ] {
            rig.logged(&words).await;
        }
        assert_eq!((gpus.state(0).mode_word & 1, gpus.holder(0).as_deref()), (1, Some("one-gpu")));
        let before = gpus.state(0).resets;

        let ids = "cd /sys/bus/pci/devices; for d in *; do echo $(cat $d/vendor $d/device $d/class); done";
        let seen = container.exec(&["sh", "-c", ids]).await.succeeded();
        assert!(seen.contains("0x10de 0x2330 0x030200"), "{seen}");

        // No driver is there to allow DMA: bits 1 and 2 of the command register.
        let allow = "for d in /sys/bus/pci/devices/*; do grep -q 0x10de $d/vendor && printf '\\006' | \
                     dd of=$d/config bs=1 seek=4 conv=notrunc; done";
        container.exec(&["sh", "-c", allow]).await.succeeded();
        // What the container writes, the GPU reads in its page; what the GPU writes there, the container reads.
        let write = "printf 'from the guest, page for DMA 7d1f' > /dev/shm/page; sync; cat /dev/shm/page";
        let text = container.exec(&["sh", "-c", write]).await.succeeded();
        let page = find_page(&gpus, text.as_bytes()).unwrap_or_else(|| panic!("{text:?} is in no page"));
        gpus.with(0, |gpu| gpu.dma_write(page, b"from the GPU")).unwrap_or_else(|error| panic!("{error}"));
        let read = container.exec(&["cat", "/dev/shm/page"]).await.succeeded();
        assert!(read.starts_with("from the GPU"), "{read:?}");

        container.remove().await;
        gpus.free(0).await;
        assert_eq!(gpus.quarantined(0), None);
        let state = gpus.state(0);
        assert!(state.resets > before, "{} resets before, {} after", before, state.resets);
        assert_eq!((state.mode_word & 1, state.booted, state.dma_pieces), (1, true, 0));
        rig.logged(&["GPU is free", "0000:40:00.0"]).await;
    });
}

#[test]
fn two_gpus_are_told_apart_in_the_guest() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(2);
        let container = run(rig, "two-gpus", 2, "verify", "off").start().await;
        let count =
            container.exec(&["sh", "-c", "grep -l 0x10de /sys/bus/pci/devices/*/vendor | wc -l"]).await;
        assert_eq!(count.succeeded().trim(), "2");
        container.remove().await;
        for index in 0..2 {
            gpus.free(index).await;
            assert_eq!(gpus.quarantined(index), None);
        }
    });
}

#[test]
fn a_gpu_in_the_wrong_mode_stops_the_start_where_somebody_else_sets_it() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        let refused = run(rig, "wrong-mode", 1, "verify", "on").refused().await;
        refused.failed_with(&["0000:40:00.0", "active mode is off", "wanted is on", "cc_mode = \"verify\""]);
        assert_eq!((gpus.holder(0), gpus.quarantined(0), gpus.state(0).resets), (None, None, 0));
    });
}

#[test]
fn a_gpu_of_another_sandbox_is_not_shared() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        let lock = gpus.take(0, "other-pod").await;
        let run = run(rig, "second", 1, "verify", "off");
        run.refused().await.failed_with(&["0000:40:00.0", "in use by other-pod"]);
        assert_eq!(gpus.state(0).resets, 0);
        drop(lock);
        run.start().await.remove().await;
        gpus.free(0).await;
    });
}

#[test]
fn a_gpu_that_is_not_there_stops_the_start() {
    e2e_with_gpus(async |rig| {
        let _gpus = Gpus::h100(1);
        let refused = run(rig, "two-of-one", 2, "verify", "off").refused().await;
        refused.failed_with(&["nvidia.com/pgpu=1"]);
    });
}

#[test]
fn a_gpu_that_falls_off_its_bus_ends_its_vm_with_that_reason() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        let events = Events::subscribe().await;
        let container = run(rig, "bereaved", 1, "verify", "off").start().await;
        gpus.fall_off_the_bus(0);
        let exit = events.expect("bereaved", "/tasks/exit").await;
        assert_ne!(exit.body["exit_status"], 0);
        rig.logged(&["VM failed", "GPU 0000:40:00.0 reported a fatal bus error"]).await;
        container.wait_state("STOPPED").await;
        container.delete().await;
        gpus.free(0).await;
        // This one answers again after a reset.
        assert_eq!(gpus.quarantined(0), None);
        events.close().await;
    });
}

#[test]
fn a_gpu_that_vanishes_while_qemu_starts_or_the_guest_boots_ends_the_start_soon() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(2);
        // QEMU does not answer in the first case: it reads the GPU's capabilities, all-ones, without end.
        for (gpu, moment, missed) in [(0, "GPUs are verified", "qmp"), (1, "phase=qmp", "agent")] {
            let run = run_with(rig, &format!("no-{missed}"), &[gpu], "verify", "off");
            let vanish = async {
                rig.logged(&[moment, &format!("no-{missed}")]).await;
                gpus.vanish(gpu);
                Instant::now()
            };
            let (refused, vanished) = tokio::join!(run.refused(), vanish);
            println!("no-{missed}: the start ends {} ms later", vanished.elapsed().as_millis());
            let address = Gpus::address(gpu).to_string();
            let phase = format!("did not reach phase \"{missed}\"");
            refused.failed_with(&[&phase, &address, "does not answer on its bus any more"]);
            assert!(vanished.elapsed() < Duration::from_secs(15), "{:?}", vanished.elapsed());
            gpus.free(gpu).await;
            let reason = gpus.quarantined(gpu).map(|entry| entry.reason).unwrap_or_default();
            assert!(reason.contains("off its bus"), "{reason:?}");
        }
    });
}

#[test]
fn a_killed_shims_gpu_is_reset_by_delete() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        let run = run(rig, "killed", 1, "verify", "off");
        let container = run.start().await;
        let before = gpus.state(0).resets;
        assert_eq!(Victim::Shim.kill(), 1);
        container.forgotten().await;
        run.clear().await;
        gpus.free(0).await;
        let state = gpus.state(0);
        assert!(state.resets > before && state.booted, "{state:?}");
        assert_eq!(gpus.quarantined(0), None);
    });
}

#[test]
fn a_shim_killed_at_any_phase_leaves_its_gpu_free_and_well() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100(1);
        for phase in PHASES {
            rig.forget_log();
            let run = run(rig, &format!("gpu-{phase}"), 1, "manage", "on");
            let kill = async {
                rig.phase(phase).await;
                assert_eq!(Victim::Shim.kill(), 1, "{phase}");
            };
            tokio::join!(run.try_start(), kill);
            run.clear().await;
            gpus.free(0).await;
            assert_eq!(gpus.quarantined(0), None, "{phase}");
        }
        // And the next pod gets it.
        run(rig, "after-all", 1, "manage", "on").start().await.remove().await;
        gpus.free(0).await;
        let state = gpus.state(0);
        assert_eq!((state.mode_word & 1, state.booted), (1, true));
    });
}

#[test]
fn a_shim_killed_between_two_settings_in_a_reset_and_at_the_end_leaves_its_gpu_free_and_well() {
    e2e_with_gpus(async |rig| {
        let gpus = Gpus::h100_like_vfio_in_real_time(1);
        // Confidential computing first, then its debugging.
        let (computing, debugging) = (8, 6);
        let soon = Duration::from_millis(1);

        let run = run(rig, "between-settings", 1, "manage", "devtools");
        let kill = async {
            // Looked at before the kill: the kernel resets a device that is let go, and so does this one.
            let state = loop {
                let state = gpus.state(0);
                if state.knobs[&computing] == 1 {
                    break state;
                }
                sleep(soon).await;
            };
            assert_eq!(Victim::Shim.kill(), 1);
            state.mode_word & 3
        };
        let (_, mode) = tokio::join!(run.try_start(), kill);
        assert_eq!(mode, 0);
        run.clear().await;
        well(&gpus).await;

        let run = self::run(rig, "in-a-reset", 1, "manage", "off");
        let kill = async {
            rig.logged(&["GPU: reset", "in-a-reset"]).await;
            // The line announces it.
            until("the reset", Duration::from_secs(10), async || (!gpus.state(0).booted).then_some(())).await;
            assert_eq!(Victim::Shim.kill(), 1);
        };
        tokio::join!(run.try_start(), kill);
        run.clear().await;
        well(&gpus).await;

        let run = self::run(rig, "at-the-end", 1, "manage", "on");
        run.start().await;
        let kill = async {
            rig.logged(&["VM stopped", "at-the-end"]).await;
            assert_eq!(Victim::Shim.kill(), 1);
        };
        tokio::join!(run.clear(), kill);
        well(&gpus).await;
        let state = gpus.state(0);
        assert_eq!((state.knobs[&computing], state.knobs[&debugging], state.mode_word & 3), (1, 0, 1));
    });
}

/// Waits until the only GPU is free, booted and in the mode of its settings.
async fn well(gpus: &Gpus) {
    gpus.free(0).await;
    assert_eq!(gpus.quarantined(0), None);
    until("a GPU that is well", Duration::from_secs(5), async || {
        let state = gpus.state(0);
        let settings = u32::from(state.knobs[&8]) | u32::from(state.knobs[&6]) << 1;
        (state.booted && settings != 2 && state.mode_word & 3 == settings).then_some(())
    })
    .await;
}
