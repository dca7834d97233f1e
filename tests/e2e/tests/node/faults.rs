//! Programs that die at any moment, and what is left then: nothing.

use std::path::Path;
use std::time::Duration;

use e2e::{BUSYBOX, Events, Machine, OrFail, PHASES, Run, Victim, e2e, until};
use k8s_cri::v1::ContainerState;

const FOREVER: [&str; 2] = ["sleep", "100000"];

#[test]
fn qemu_killed_while_booting_is_an_error_of_the_start_and_leaves_nothing() {
    e2e(async |rig| {
        for phase in &PHASES[2..5] {
            let before = Machine::now();
            rig.forget_log();
            let id = format!("boot-{phase}");
            let run = Run::new(&id, BUSYBOX, &FOREVER);
            let kill = async {
                rig.phase(phase).await;
                assert_eq!(Victim::Qemu.kill(), 1, "{phase}");
            };
            let (output, ()) = tokio::join!(run.refused(), kill);
            output.failed_with(&["QEMU"]);
            Machine::back_to(&before).await;
        }
    });
}

#[test]
fn qemu_killed_under_a_running_container_is_its_exit() {
    e2e(async |rig| {
        let events = Events::subscribe().await;
        let container = Run::new("bereft", BUSYBOX, &FOREVER).start().await;
        assert_eq!(Victim::Qemu.kill(), 1);
        let exit = events.expect("bereft", "/tasks/exit").await;
        assert_ne!(exit.body["exit_status"], 0);
        rig.logged(&["QEMU", "signal: 9"]).await;
        container.wait_state("STOPPED").await;
        container.delete().await;
        events.close().await;
    });
}

#[test]
fn qemu_killed_under_a_pod_ends_all_its_containers() {
    e2e(async |rig| {
        let mut pod = rig.pod("struck").await.start().await;
        let one = pod.run("one", BUSYBOX, &FOREVER, vec![]).await;
        let two = pod.run("two", BUSYBOX, &FOREVER, vec![]).await;
        assert_eq!(Victim::Qemu.kill(), 1);
        assert_ne!(one.exited().await, 0);
        assert_ne!(two.exited().await, 0);
        pod.remove().await;
    });
}

#[test]
fn the_guests_last_words_are_in_the_log() {
    e2e(async |rig| {
        let crash = "echo 2 > /proc/sys/vm/panic_on_oom; dd if=/dev/zero of=/dev/shm/fill bs=1M count=48";
        let container = Run::new("words", BUSYBOX, &["sh", "-c", crash]);
        let container = container.flag("--privileged").flag("--memory-limit=33554432").start().await;
        container.wait_state("STOPPED").await;
        rig.logged(&["process ends with its VM", "panic_on_oom"]).await;
        container.delete().await;
    });
}

#[test]
fn the_vsock_program_killed_ends_the_pod() {
    e2e(async |_| {
        let container = Run::new("deaf", BUSYBOX, &FOREVER).start().await;
        if Victim::VsockDevice.kill() == 0 {
            container.remove().await;
            return; // This machine has vhost-vsock in its kernel.
        }
        container.wait_state("STOPPED").await;
        container.delete().await;
    });
}

#[test]
fn a_shim_killed_at_any_phase_leaves_nothing() {
    e2e(async |rig| {
        for phase in PHASES {
            let before = Machine::now();
            rig.forget_log();
            let id = format!("shim-{phase}");
            let run = Run::new(&id, BUSYBOX, &FOREVER);
            let kill = async {
                rig.phase(phase).await;
                assert_eq!(Victim::Shim.kill(), 1, "{phase}");
            };
            tokio::join!(run.try_start(), kill);
            run.clear().await;
            Machine::back_to(&before).await;
        }
    });
}

#[test]
fn a_shim_killed_under_a_pod_leaves_nothing_and_the_pod_can_be_removed() {
    e2e(async |rig| {
        let mut pod = rig.pod("orphaned").await.start().await;
        let container = pod.run("orphan", BUSYBOX, &FOREVER, vec![]).await;
        assert_eq!(Victim::Shim.kill(), 1);
        Victim::Qemu.gone().await;
        assert_ne!(container.exited().await, 0);
        pod.remove().await;
    });
}

#[test]
fn containerd_restarted_finds_its_containers_running() {
    e2e(async |rig| {
        let container = Run::new("steady", BUSYBOX, &FOREVER).start().await;
        let mut pods = Vec::new();
        for handler in ["coffer", "coffer-sandbox"] {
            let mut pod = rig.pod(&format!("steady-{handler}")).await.handler(handler).start().await;
            let inner = pod.run("inner", BUSYBOX, &FOREVER, vec![]).await;
            pods.push((pod, inner));
        }
        rig.containerd.crash();
        assert_eq!(Victim::Shim.processes().len(), 3);
        rig.containerd.restart().await;
        assert_eq!(container.state().await.as_deref(), Some("RUNNING"));
        container.exec(&["true"]).await.succeeded();
        for (mut pod, inner) in pods {
            pod.cri = rig.cri().await;
            assert_eq!(pod.cri.state(&inner.id).await, ContainerState::ContainerRunning);
            assert_eq!(pod.cri.exec(&inner.id, &["true"]).await.exit_code, 0);
            pod.remove().await;
        }
        container.remove().await;
    });
}

#[test]
fn an_exit_while_containerd_is_away_is_told_when_it_is_back() {
    e2e(async |rig| {
        let script = "while [ ! -e /tmp/go ]; do sleep 0.1; done; sleep 2; exit 9";
        let container = Run::new("away", BUSYBOX, &["sh", "-c", script]).start().await;
        container.exec(&["touch", "/tmp/go"]).await.succeeded();
        rig.containerd.crash();
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        rig.containerd.restart().await;
        container.wait_state("STOPPED").await;
        assert!(container.delete().await.stderr.contains("exit code 9"));
    });
}

#[test]
fn a_frozen_containerd_does_not_stop_the_shim() {
    e2e(async |rig| {
        let container =
            Run::new("frozen", BUSYBOX, &["sh", "-c", "while :; do sleep 0.1; done"]).start().await;
        rig.containerd.freeze(true);
        // QEMU's end makes the shim log and publish events, none of which containerd takes now.
        assert_eq!(Victim::Qemu.kill(), 1);
        Victim::VsockDevice.gone().await;
        rig.containerd.freeze(false);
        container.wait_state("STOPPED").await;
        container.delete().await;
    });
}

#[test]
fn the_same_id_can_be_used_again_after_a_crash() {
    e2e(async |_| {
        for _ in 0..2 {
            let run = Run::new("reborn", BUSYBOX, &FOREVER);
            let container = run.start().await;
            assert_eq!(Victim::Shim.kill(), 1);
            container.forgotten().await;
            run.clear().await;
        }
        Run::new("reborn", BUSYBOX, &["true"]).to_end().await.succeeded();
    });
}

#[test]
fn a_start_looks_after_what_dead_shims_of_other_namespaces_left() {
    e2e(async |_| {
        let sandbox = Path::new("/run/coffer/another/dead");
        std::fs::create_dir_all(sandbox).or_fail("a sandbox's directory");
        // As the first Coffer wrote it; process 1 did not start then.
        let record = r#"{"shim":{"pid":1,"start":1},"qemu":null,"vsock":null,"net":null,"cgroup":null}"#;
        std::fs::write(sandbox.join("state.json"), record).or_fail("its record");
        Run::new("sweeper", BUSYBOX, &["true"]).to_end().await.succeeded();
        let gone = async || (!sandbox.exists()).then_some(());
        until("what a dead shim left", Duration::from_secs(20), gone).await;
        let log = std::fs::read_to_string("/run/coffer/reaper.log").or_fail("the log of what was released");
        assert!(log.contains("sandbox=dead") && log.contains("namespace=another"), "{log}");
    });
}
