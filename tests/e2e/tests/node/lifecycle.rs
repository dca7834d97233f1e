//! Containers by `ctr`, the way a user types it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use e2e::{BUSYBOX, LAYERED, LAYERS, Netns, OrFail, Run, Victim, ctr, e2e, shim, unpack_busybox, until};

const FOREVER: [&str; 2] = ["sleep", "100000"];

#[test]
fn a_run_returns_the_commands_output_and_exit_code() {
    e2e(async |_| {
        let run = Run::new("answer", BUSYBOX, &["sh", "-c", "echo out; echo err >&2; exit 7"]).to_end().await;
        assert_eq!(run.code, 7, "{}", run.stderr);
        assert_eq!(run.stdout, "out\n");
        assert!(run.stderr.contains("err\n"), "{}", run.stderr);
    });
}

#[test]
fn the_command_runs_on_a_kernel_of_its_own() {
    e2e(async |_| {
        let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").or_fail("the host's kernel");
        let guest = Run::new("kernel", BUSYBOX, &["uname", "-r"]).to_end().await.succeeded();
        assert_ne!(guest.trim(), host.trim());
        assert!(guest.contains("coffer"), "{guest}");
    });
}

#[test]
fn what_is_piped_in_comes_out() {
    e2e(async |_| {
        let text: String = (0..100_000).map(|number| format!("{number}\n")).collect();
        let run = Run::new("piped", BUSYBOX, &["cat"]).with_stdin(text.as_bytes()).await;
        let stdout = run.succeeded();
        assert_eq!(stdout.len(), text.len());
        assert!(stdout == text, "the bytes came out changed");
    });
}

/// A program of the node takes both streams; by the second scheme it says first that it is ready.
#[test]
fn a_logging_program_gets_all_output() {
    e2e(async |_| {
        let directory = Path::new("/run/e2e/logger");
        fs::create_dir_all(directory).or_fail("a directory");
        let program = directory.join("program");
        let script = "#!/bin/sh\n[ $1 = v2 ] && printf x >&5\nexec 5>&-\ncat <&3 > $2.out &\ncat <&4 > $2.err\nwait\n\
            echo $CONTAINER_ID $CONTAINER_NAMESPACE > $2.end\n";
        fs::write(&program, script).or_fail("a program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).or_fail("a program");
        for (scheme, version) in [("binary", "v1"), ("binary-v2", "v2")] {
            let place = directory.join(version);
            let uri = format!("{scheme}://{}?{version}={}", program.display(), place.display());
            let command = ["sh", "-c", "echo to-stdout; echo to-stderr >&2"];
            let id = format!("logged-{version}");
            let run = Run::new(&id, BUSYBOX, &command).flag("--log-uri").flag(&uri);
            let container = run.start().await;
            container.wait_state("STOPPED").await;
            let text = |kind| fs::read_to_string(place.with_extension(kind)).unwrap_or_default();
            let ended = until("the program's end", Duration::from_secs(20), async || {
                Some(text("end")).filter(|text| !text.is_empty())
            })
            .await;
            assert_eq!(
                (text("out").as_str(), text("err").as_str()),
                ("to-stdout\n", "to-stderr\n"),
                "{scheme}"
            );
            assert!(ended.starts_with(&id), "{ended}");
            container.delete().await;
        }
        let mute = format!("binary-v2://{}?v1={}", program.display(), directory.join("mute").display());
        let refused = Run::new("mute", BUSYBOX, &["true"]).flag("--log-uri").flag(&mute).refused().await;
        assert!(refused.stderr.contains("did not say that it is ready"), "{}", refused.stderr);
        fs::remove_dir_all(directory).or_fail("take the directory away");
    });
}

#[test]
fn large_output_is_complete() {
    e2e(async |_| {
        let command = "dd if=/dev/zero bs=1M count=16 2>/dev/null | tr '\\000' x; echo end";
        let stdout = Run::new("large", BUSYBOX, &["sh", "-c", command]).to_end().await.succeeded();
        assert_eq!(stdout.len(), 16 * 1024 * 1024 + 4);
        assert!(stdout.ends_with("xend\n"));
    });
}

#[test]
fn a_terminal_shows_echoes_resizes_and_exits() {
    e2e(async |_| {
        let mut terminal = Run::new("terminal", BUSYBOX, &["sh"]).on_a_terminal();
        terminal.expect("# ").await;
        // kata-agent's terminals are of its own devpts: they have no name in the container.
        terminal.send("test -t 0 && echo typed-$((40 + 2))\n");
        terminal.expect("typed-42").await;
        terminal.resize(33, 111);
        terminal.send("sleep 1; stty size\n");
        terminal.expect("33 111").await;
        terminal.send("exit 3\n");
        assert_eq!(terminal.code().await, 3);
    });
}

#[test]
fn an_exec_has_its_own_output_input_and_exit_code() {
    e2e(async |_| {
        let container = Run::new("execs", BUSYBOX, &FOREVER).start().await;
        let run = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 9"]).await;
        assert_eq!((run.code, run.stdout.as_str()), (9, "out\n"), "{}", run.stderr);
        assert!(run.stderr.contains("err\n"), "{}", run.stderr);
        assert_eq!(container.exec_with_stdin(&["cat"], b"in and out").await.succeeded(), "in and out");
        assert!(container.exec(&["ps"]).await.succeeded().contains("sleep 100000"));
        container.remove().await;
    });
}

#[test]
fn an_exec_is_over_when_it_ends_though_a_child_of_it_holds_its_output() {
    e2e(async |_| {
        let container = Run::new("parents", BUSYBOX, &FOREVER).start().await;
        for child in ["sleep 600", "while :; do echo noise; sleep 0.1; done"] {
            let started = Instant::now();
            let run = container.exec(&["sh", "-c", &format!("{{ {child}; }} & echo out; exit 4")]).await;
            assert_eq!(run.code, 4, "{child}: {}", run.stderr);
            assert!(run.stdout.contains("out\n"), "{child}: {}", run.stdout);
            assert!(started.elapsed() < Duration::from_secs(30), "{child}: {:?}", started.elapsed());
        }
        container.remove().await;
    });
}

#[test]
fn an_exec_of_a_missing_program_says_so_and_harms_nothing() {
    e2e(async |_| {
        let container = Run::new("missing", BUSYBOX, &FOREVER).start().await;
        container.exec(&["/no/such/program"]).await.failed_with(&["/no/such/program"]);
        container.exec(&["true"]).await.succeeded();
        container.remove().await;
    });
}

#[test]
fn a_missing_command_is_an_error_of_start_that_names_it() {
    e2e(async |_| {
        Run::new("nothing", BUSYBOX, &["/no/such/program"])
            .refused()
            .await
            .failed_with(&["/no/such/program"]);
    });
}

#[test]
fn exit_status_survives_until_delete() {
    e2e(async |_| {
        let container = Run::new("status", BUSYBOX, &["sh", "-c", "exit 42"]).start().await;
        container.wait_state("STOPPED").await;
        assert!(container.delete().await.stderr.contains("exit code 42"));
    });
}

#[test]
fn kill_reaches_the_process_with_the_signal_that_was_sent() {
    e2e(async |_| {
        let script = "trap 'exit 5' TERM; while :; do sleep 0.1; done";
        let container = Run::new("polite", BUSYBOX, &["sh", "-c", script]).start().await;
        container.exec(&["true"]).await.succeeded();
        container.task(&["kill", "--signal", "SIGTERM"]).await.succeeded();
        container.wait_state("STOPPED").await;
        assert!(container.delete().await.stderr.contains("exit code 5"));

        let container = Run::new("rude", BUSYBOX, &FOREVER).start().await;
        container.task(&["kill", "--signal", "SIGKILL"]).await.succeeded();
        container.wait_state("STOPPED").await;
        assert!(container.delete().await.stderr.contains("exit code 137"));
    });
}

#[test]
fn a_paused_container_stands_still() {
    e2e(async |_| {
        let script = "i=0; while :; do i=$((i+1)); echo $i > /tmp/count; sleep 0.05; done";
        let container = Run::new("paused", BUSYBOX, &["sh", "-c", script]).start().await;
        container.task(&["pause"]).await.succeeded();
        assert_eq!(container.state().await.as_deref(), Some("PAUSED"));
        container.task(&["resume"]).await.succeeded();
        assert_eq!(container.state().await.as_deref(), Some("RUNNING"));
        let first = container.exec(&["cat", "/tmp/count"]).await.succeeded();
        let second = container.exec(&["sh", "-c", "sleep 0.5; cat /tmp/count"]).await.succeeded();
        assert_ne!(first, second, "it does not run again");
        container.remove().await;
    });
}

#[test]
fn metrics_and_processes_are_listed() {
    e2e(async |_| {
        let container = Run::new("metrics", BUSYBOX, &FOREVER).start().await;
        let metrics = container.task(&["metrics"]).await.succeeded();
        for metric in ["memory.usage", "cpu.usage_usec", "pids.current"] {
            let line = metrics.lines().find(|line| line.starts_with(metric)).or_fail(&metrics);
            assert_ne!(line.split_whitespace().last(), Some("0"), "{metrics}");
        }
        assert!(container.task(&["ps"]).await.succeeded().lines().count() >= 2);
        container.remove().await;
    });
}

#[test]
fn thirty_layers_are_one_root() {
    e2e(async |_| {
        let script = "ls /layers | wc -l; cat /layers/top /layers/01; ls /layers/removed";
        let run = Run::new("layers", LAYERED, &["sh", "-c", script]).to_end().await;
        let last = LAYERS - 1;
        // Every layer's own file, and the one that all of them wrote.
        assert_eq!(run.stdout, format!("{}\n{last}\n1\n", last + 1), "{}", run.stderr);
        assert!(run.stderr.contains("No such file"), "a lower layer's file is not removed: {}", run.stderr);
    });
}

#[test]
fn the_root_is_writable_unless_it_was_asked_for_read_only() {
    e2e(async |_| {
        let script = "echo new > /bin/new && rm /etc/passwd && cat /bin/new";
        let run = Run::new("writable", BUSYBOX, &["sh", "-c", script]).to_end().await;
        assert_eq!(run.succeeded(), "new\n");
        let run = Run::new("readonly", BUSYBOX, &["touch", "/new"]).flag("--read-only").to_end().await;
        run.failed_with(&["Read-only file system"]);
    });
}

#[test]
fn overlayfs_and_native_snapshots_are_given_to_the_guest_as_images() {
    e2e(async |_| {
        for snapshotter in ["overlayfs", "native"] {
            let run = Run::new(snapshotter, LAYERED, &["sh", "-c", "cat /layers/top; ls /layers/removed"]);
            let run = run.snapshotter(snapshotter).to_end().await;
            assert_eq!(run.stdout, format!("{}\n", LAYERS - 1), "{snapshotter}: {}", run.stderr);
            assert!(run.stderr.contains("No such file"), "{snapshotter}: {}", run.stderr);
        }
    });
}

#[test]
fn a_plain_directory_is_a_root_too_and_stays_as_it_was() {
    e2e(async |_| {
        let directory = tempfile::tempdir().or_fail("a directory");
        unpack_busybox(directory.path());
        let script = ["/bin/sh", "-c", "echo here > /tmp/here; /bin/cat /tmp/here"];
        let run = Run::from_directory("plain", directory.path(), &script).to_end().await;
        assert_eq!(run.succeeded(), "here\n");
        assert!(!directory.path().join("tmp/here").exists(), "the guest wrote into a directory of the host");
    });
}

#[test]
fn user_environment_directory_and_host_name_are_as_asked() {
    e2e(async |_| {
        let script = "id -u; pwd; echo $COLOUR; hostname";
        let run = Run::new("asked", BUSYBOX, &["sh", "-c", script])
            .flag("--user=1000")
            .flag("--cwd=/tmp")
            .flag("--env=COLOUR=blue")
            .flag("--hostname=guest1")
            .to_end()
            .await;
        assert_eq!(run.succeeded(), "1000\n/tmp\nblue\nguest1\n");
    });
}

#[test]
fn without_a_network_namespace_there_is_only_loopback() {
    e2e(async |_| {
        let run = Run::new("alone", BUSYBOX, &["ls", "/sys/class/net"]).to_end().await;
        assert_eq!(run.succeeded(), "lo\n");
    });
}

#[test]
fn an_empty_network_namespace_gives_only_loopback() {
    e2e(async |_| {
        let namespace = Netns::new("e2e-empty");
        let run = Run::new("empty-ns", BUSYBOX, &["ls", "/sys/class/net"]);
        let run =
            run.flag("--with-ns").flag(&format!("network:{}", namespace.path().display())).to_end().await;
        assert_eq!(run.succeeded(), "lo\n");
    });
}

#[test]
fn two_containers_of_ctr_are_two_vms() {
    e2e(async |_| {
        let (one, two) = (Run::new("one-vm", BUSYBOX, &FOREVER), Run::new("two-vm", BUSYBOX, &FOREVER));
        let (one, two) = tokio::join!(one.start(), two.start());
        assert_eq!(Victim::Qemu.processes().len(), 2);
        one.remove().await;
        two.exec(&["true"]).await.succeeded();
        two.remove().await;
    });
}

#[test]
fn checkpoint_is_said_not_to_exist() {
    e2e(async |_| {
        let container = Run::new("checkpoint", BUSYBOX, &FOREVER).start().await;
        container.task(&["checkpoint"]).await.failed_with(&["checkpoint", "not supported"]);
        container.remove().await;
        let images = ctr(&["images", "ls", "-q"]).await.succeeded();
        assert!(!images.contains("checkpoint"), "{images}");
    });
}

#[test]
fn the_shim_names_itself_without_a_configuration() {
    e2e(async |rig| {
        let version = shim(&rig.artefacts, Path::new("/"), &["-v"]).await.succeeded();
        assert!(version.contains("containerd-shim-coffer-v2") && version.contains("0.1.0"), "{version}");
        let info = shim(&rig.artefacts, Path::new("/"), &["-info"]).await.succeeded();
        assert!(info.contains("io.containerd.coffer.v2"), "{info}");
    });
}
