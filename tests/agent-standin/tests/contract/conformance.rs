//! The same calls to the stand-in and, where `KATA_AGENT` names one, to a real kata-agent: what the one answers, the other
//! does. What is asserted here is what kata-agent 4.1.0 did.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use agent_client::proto::agent::{
    CopyFileRequest, CreateContainerRequest, GetDiagnosticDataRequest, VolumeStatsRequest,
};
use agent_client::proto::csi::volume_usage::Unit;
use agent_client::proto::oci;
use agent_client::proto::types::Interface;
use agent_client::{AgentError, Code, Courier, Mirror, ProcessRef};
use tokio::time::{sleep, timeout};

use crate::rig::{Rig, inside_both, mounts, process};

const SHARED: &str = "/run/kata-containers/shared/containers";
/// One more than Linux has.
const NO_SIGNAL: u32 = 65;

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(10);

/// The processes of this PID namespace, which is the agent's as well, that have such a command line.
fn pids(line: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let found = entries.filter(|entry| {
        let text = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        text.trim_end_matches('\0').replace('\0', " ") == line
    });
    found.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn processes(line: &str) -> usize {
    pids(line).len()
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let poll = async {
        while !holds() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(LIMIT, poll).await.unwrap_or_else(|_| panic!("not seen: {what}"));
}

async fn lives(rig: &Rig, process: ProcessRef<'_>) -> bool {
    match rig.agent.signal_process(process, NO_SIGNAL).await {
        Ok(()) => false,
        Err(AgentError::Refused { message, .. }) if message.contains("Invalid argument") => true,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn signals_of_any_number() {
    inside_both("conformance::signals_of_any_number", |rig| async move {
        rig.sandbox().await;
        rig.run("ctr1", &["sh", "-c", "trap 'exit 5' 37; echo ready; while :; do sleep 0.1; done"]).await;
        let init = ProcessRef::init("ctr1");
        assert_eq!(rig.agent.read_stdout(init, 100).await.unwrap(), b"ready\n");
        assert!(lives(&rig, init).await);
        // A real-time signal, as some programs want for their stop.
        rig.agent.signal_process(init, 37).await.unwrap();
        // It ended, and nobody has asked how.
        timeout(LIMIT, async {
            while lives(&rig, init).await {
                sleep(Duration::from_millis(50)).await;
            }
        })
        .await
        .unwrap();
        assert_eq!(rig.agent.wait_process(init).await.unwrap(), 5);
        rig.remove("ctr1").await;
    });
}

/// The end of a stream is told once: to the read that waits when the process ends. A later one waits for the child.
#[test]
fn a_stream_that_a_child_holds() {
    inside_both("conformance::a_stream_that_a_child_holds", |rig| async move {
        rig.sandbox().await;
        rig.run("ctr1", &["sleep", "1000"]).await;
        let script = "sleep 6 & echo out; sleep 1";
        rig.agent.exec_process("ctr1", "e1", process(&["sh", "-c", script])).await.unwrap();
        let exec = ProcessRef::exec("ctr1", "e1");
        let begun = Instant::now();
        assert_eq!(rig.agent.read_stdout(exec, 100).await.unwrap(), b"out\n");
        assert_eq!(rig.agent.read_stdout(exec, 100).await.unwrap(), b"");
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        let late = timeout(Duration::from_secs(1), rig.agent.read_stdout(exec, 100)).await;
        assert!(late.is_err(), "answered though the child holds the stream: {late:?}");
        assert_eq!(rig.agent.wait_process(exec).await.unwrap(), 0);
        rig.remove("ctr1").await;
    });
}

/// In the sandbox's PID namespace nobody is killed for the end of a container's first process.
#[test]
fn what_the_first_process_leaves() {
    inside_both("conformance::what_the_first_process_leaves", |rig| async move {
        rig.sandbox().await;
        rig.run("pause", &["sleep", "1000"]).await;
        let mut spec = rig.spec(&["sh", "-c", "sleep 4242 & exit 3"]);
        spec.Linux.as_mut().unwrap().CgroupsPath += "/ctr1";
        let request = CreateContainerRequest {
            container_id: "ctr1".into(),
            OCI: Some(spec).into(),
            sandbox_pidns: true,
            ..Default::default()
        };
        rig.agent.create_container(request).await.unwrap();
        rig.agent.start_container("ctr1").await.unwrap();
        assert_eq!(rig.agent.wait_process(ProcessRef::init("ctr1")).await.unwrap(), 3);
        until("the child", || processes("sleep 4242") == 1).await;
        rig.agent.signal_all("ctr1", 9).await.unwrap();
        until("the child's end", || processes("sleep 4242") == 0).await;
        rig.remove("ctr1").await;
        rig.remove("pause").await;
    });
}

/// A container gets one, an exec does not.
#[test]
fn a_working_directory_that_is_missing() {
    inside_both("conformance::a_working_directory_that_is_missing", |rig| async move {
        rig.sandbox().await;
        let mut spec = rig.spec(&["sh", "-c", "pwd; exec sleep 1000"]);
        spec.Process.as_mut().unwrap().Cwd = "/no/such/directory".into();
        rig.create("ctr1", spec).await.unwrap();
        rig.agent.start_container("ctr1").await.unwrap();
        let said = rig.agent.read_stdout(ProcessRef::init("ctr1"), 100).await.unwrap();
        assert_eq!(said, b"/no/such/directory\n");

        let mut exec = process(&["true"]);
        exec.Cwd = "/no/other/directory".into();
        rig.agent.exec_process("ctr1", "e1", exec).await.unwrap_err();
        rig.remove("ctr1").await;
    });
}

/// Images come with it: what it names is made by a service that runs in no container.
#[test]
fn a_file_over_a_link_to_nothing() {
    inside_both("conformance::a_file_over_a_link_to_nothing", |rig| async move {
        rig.sandbox().await;
        let _ = fs::remove_file(rig.root.join("etc/resolv.conf"));
        symlink("../run/systemd/resolve/stub-resolv.conf", rig.root.join("etc/resolv.conf")).unwrap();
        copy(&rig, "ctr1-resolv.conf", b"nameserver 192.0.2.1\n").await;
        let mut spec = rig.spec(&["cat", "/etc/resolv.conf"]);
        spec.Mounts.push(bind("ctr1-resolv.conf", "/etc/resolv.conf"));
        rig.create("ctr1", spec).await.unwrap();
        rig.agent.start_container("ctr1").await.unwrap();
        assert_eq!(rig.output(ProcessRef::init("ctr1")).await, "nameserver 192.0.2.1\n");
        rig.remove("ctr1").await;
    });
}

/// Made for every container, and so none of them may be asked for.
#[test]
fn the_usual_devices() {
    inside_both("conformance::the_usual_devices", |rig| async move {
        rig.sandbox().await;
        rig.run("ctr1", &["sh", "-c", "ls /dev; head -c 4 /dev/zero > /dev/full"]).await;
        let listed = rig.output(ProcessRef::init("ctr1")).await;
        for node in ["null", "zero", "full", "random", "urandom", "tty", "ptmx", "fd", "stdin"] {
            assert!(listed.lines().any(|line| line == node), "{node}: {listed}");
        }
        assert_ne!(rig.agent.wait_process(ProcessRef::init("ctr1")).await.unwrap(), 0, "no space is left");
        rig.remove("ctr1").await;

        let mut spec = rig.spec(&["true"]);
        let full = oci::LinuxDevice {
            Path: "/dev/full".into(),
            Type: "c".into(),
            Major: 1,
            Minor: 7,
            FileMode: 0o666,
            ..Default::default()
        };
        spec.Linux.as_mut().unwrap().Devices.push(full);
        let error = rig.create("ctr2", spec).await.unwrap_err();
        assert!(error.to_string().contains("exist"), "{error}");
    });
}

/// The pod's own program ends by SIGTERM though it has a handler for nothing, and SIGKILL ends what is left.
#[test]
fn the_end_of_a_process_without_handlers() {
    inside_both("conformance::the_end_of_a_process_without_handlers", |rig| async move {
        rig.sandbox().await;
        rig.run("pause", &["sleep", "1000"]).await;
        let pause = ProcessRef::init("pause");
        let waits = rig.agent.wait_process(pause);
        let ends = async {
            sleep(Duration::from_millis(200)).await;
            rig.agent.signal_process(pause, 15).await.unwrap();
        };
        assert_eq!(tokio::join!(waits, ends).0.unwrap(), 137);
        // Once told, it is known no longer; its container is.
        rig.agent.wait_process(pause).await.unwrap_err();
        rig.agent.signal_process(pause, 15).await.unwrap_err();
        rig.agent.signal_all("pause", 9).await.unwrap();
        rig.remove("pause").await;
    });
}

#[test]
fn two_interfaces_whose_names_are_swapped() {
    inside_both("conformance::two_interfaces_whose_names_are_swapped", |rig| async move {
        let ip = |args: &str| assert!(Command::new("ip").args(args.split(' ')).status().unwrap().success());
        ip("link add eth0 type veth peer name eth1");
        ip("link set eth0 address 02:00:00:00:00:01");
        ip("link set eth1 address 02:00:00:00:00:02");
        ip("link set eth0 up");
        for (name, address) in [("eth1", "02:00:00:00:00:01"), ("eth0", "02:00:00:00:00:02")] {
            let interface =
                Interface { name: name.into(), hwAddr: address.into(), mtu: 1400, ..Default::default() };
            rig.agent.update_interface(interface).await.unwrap();
        }
        let list = rig.agent.list_interfaces().await.unwrap();
        for (name, address) in [("eth1", "02:00:00:00:00:01"), ("eth0", "02:00:00:00:00:02")] {
            let found = list.iter().find(|interface| interface.name == name).unwrap();
            assert_eq!(found.hwAddr.to_lowercase(), address, "{name}");
        }
    });
}

#[test]
fn last_words() {
    inside_both("conformance::last_words", |rig| async move {
        rig.sandbox().await;
        copy(&rig, "ctr1-log", b"").await;
        let ask = |log_type: &str| GetDiagnosticDataRequest {
            log_type: log_type.into(),
            container_id: "ctr1".into(),
            ..Default::default()
        };
        let mut spec = rig.spec(&["sh", "-c", "seq 2000 > /dev/log/last"]);
        spec.Mounts.push(bind("ctr1-log", "/dev/log/last"));
        let key = "io.kubernetes.container.terminationMessagePath".to_owned();
        spec.Annotations.insert(key, "/dev/log/last".into());
        rig.create("ctr1", spec).await.unwrap();
        rig.agent.start_container("ctr1").await.unwrap();
        assert_eq!(rig.agent.wait_process(ProcessRef::init("ctr1")).await.unwrap(), 0);
        let words = rig.agent.get_diagnostic_data(ask("termination_log")).await.unwrap().data;
        assert!(words.len() == 4096 && words.starts_with("1\n2\n"), "{}", words.len());
        assert!(rig.agent.get_diagnostic_data(ask("core")).await.is_err());
        rig.remove("ctr1").await;
        assert!(rig.agent.get_diagnostic_data(ask("termination_log")).await.is_err());
    });
}

/// A volume that changes, with a key that goes; and all of it when its container has gone.
#[test]
fn volumes_change_and_go() {
    inside_both("conformance::volumes_change_and_go", |rig| async move {
        rig.sandbox().await;
        let volume = Path::new("/tmp/volume");
        let write = |generation: &str, keys: &[&str]| {
            fs::create_dir_all(volume.join(generation)).unwrap();
            for key in keys {
                fs::write(volume.join(generation).join(key), generation).unwrap();
                let _ = symlink(format!("..data/{key}"), volume.join(key));
            }
            let _ = fs::remove_file(volume.join("..data"));
            symlink(generation, volume.join("..data")).unwrap();
        };
        write("..1", &["a", "b", "c.conf", "c.json"]);
        let courier = Courier::new(rig.agent.clone());
        let guest = format!("{SHARED}/ctr1-volume");
        let mut mirror = Mirror::tree(volume.to_path_buf(), guest.clone());
        mirror.sync(&courier).await.unwrap();
        let shown = |name: &str| fs::read_to_string(Path::new(&guest).join(name));
        for key in ["a", "b", "c.conf", "c.json"] {
            assert_eq!(shown(key).unwrap(), "..1", "{key}");
        }
        write("..2", &["a"]);
        for gone in ["b", "c.conf", "c.json"] {
            fs::remove_file(volume.join(gone)).unwrap();
        }
        fs::remove_dir_all(volume.join("..1")).unwrap();
        mirror.sync(&courier).await.unwrap();
        assert_eq!(shown("a").unwrap(), "..2");
        let mut names: Vec<_> = fs::read_dir(&guest)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["..2", "..data", "a"]);
        mirror.remove(&courier).await.unwrap();
        assert!(!Path::new(&guest).exists());
        assert_eq!(fs::read_dir(SHARED).unwrap().count(), 0);
    });
}

/// The size in a specification is nobody's; what a resize says is. There is one output, whoever asks, and the end of the input
/// is the terminal's.
#[test]
fn a_terminal() {
    inside_both("conformance::a_terminal", |rig| async move {
        rig.sandbox().await;
        let mut spec =
            rig.spec(&["sh", "-c", "stty size 2>&1; read line; echo got $line; stty size; read line"]);
        let process = spec.Process.as_mut().unwrap();
        process.Terminal = true;
        process.ConsoleSize = Some(oci::Box { Height: 33, Width: 99, ..Default::default() }).into();
        rig.create("ctr1", spec).await.unwrap();
        rig.agent.start_container("ctr1").await.unwrap();
        let init = ProcessRef::init("ctr1");
        // busybox takes a terminal of 0 columns for none.
        let first = timeout(LIMIT, rig.agent.read_stdout(init, 100)).await.unwrap().unwrap();
        assert!(first.starts_with(b"stty: standard input"), "{first:?}");
        rig.agent.tty_win_resize(init, 50, 132).await.unwrap();
        rig.agent.write_stdin(init, b"x\n".to_vec()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"got x\r\n50 132\r\n") {
            let read = timeout(LIMIT, rig.agent.read_stderr(init, 100)).await;
            seen.extend(read.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&seen))).unwrap());
        }
        rig.agent.close_stdin(init).await.unwrap();
        assert!(rig.agent.read_stdout(init, 100).await.is_err());
        rig.agent.tty_win_resize(init, 1, 1).await.unwrap_err();
        // The first process of a PID namespace is sent no SIGHUP: `read` fails.
        assert_eq!(timeout(LIMIT, rig.agent.wait_process(init)).await.unwrap().unwrap(), 1);
        rig.remove("ctr1").await;
    });
}

/// What may not be executed is created and started all the same; what is not there is not.
#[test]
fn a_program_that_may_not_be_executed() {
    inside_both("conformance::a_program_that_may_not_be_executed", |rig| async move {
        rig.sandbox().await;
        fs::write(rig.root.join("bin/text"), "no program").unwrap();
        rig.run("ctr1", &["/bin/text"]).await;
        assert_eq!(rig.agent.wait_process(ProcessRef::init("ctr1")).await.unwrap(), 13);
        rig.remove("ctr1").await;
        rig.create("ctr2", rig.spec(&["/bin/none"])).await.unwrap_err();
    });
}

#[test]
fn input_and_its_end() {
    inside_both("conformance::input_and_its_end", |rig| async move {
        rig.sandbox().await;
        rig.run("ctr1", &["sh", "-c", "cat; echo end; exec sleep 1000"]).await;
        let init = ProcessRef::init("ctr1");
        for piece in [&b"one"[..], b"two"] {
            rig.agent.write_stdin(init, piece.to_vec()).await.unwrap();
            assert_eq!(rig.agent.read_stdout(init, 100).await.unwrap(), piece);
        }
        rig.agent.close_stdin(init).await.unwrap();
        rig.agent.close_stdin(init).await.unwrap();
        assert_eq!(rig.agent.read_stdout(init, 100).await.unwrap(), b"end\n");
        rig.agent.write_stdin(init, b"more".to_vec()).await.unwrap_err();
        rig.agent.tty_win_resize(init, 1, 1).await.unwrap_err();
        rig.remove("ctr1").await;
    });
}

#[test]
fn pause_stats_and_resume() {
    inside_both("conformance::pause_stats_and_resume", |rig| async move {
        rig.sandbox().await;
        rig.run("ctr1", &["sh", "-c", "while true; do :; done"]).await;
        let used = async || {
            let stats = rig.agent.stats_container("ctr1").await.unwrap();
            stats.cgroup_stats.cpu_stats.cpu_usage.total_usage
        };
        sleep(Duration::from_millis(300)).await;
        rig.agent.pause_container("ctr1").await.unwrap();
        sleep(Duration::from_millis(100)).await;
        let first = used().await;
        assert!(first > 0, "no processor time");
        sleep(Duration::from_millis(300)).await;
        // Some time is booked late, when a frozen process's tick is accounted for; a running one would use 300 ms.
        let more = used().await - first;
        assert!(more < 10_000_000, "a paused container runs: {more} ns");
        rig.agent.pause_container("ctr1").await.unwrap_err();
        rig.agent.resume_container("ctr1").await.unwrap();
        rig.agent.resume_container("ctr1").await.unwrap_err();
        rig.agent.stats_container("ctr2").await.unwrap_err();
        rig.remove("ctr1").await;
    });
}

/// New limits are a running container's from then on; an update without any is taken, too.
#[test]
fn limits_that_change() {
    inside_both("conformance::limits_that_change", |rig| async move {
        const LIMIT_OF_MEMORY: i64 = 64 << 20;
        rig.sandbox().await;
        rig.run("ctr1", &["sleep", "1000"]).await;
        rig.agent.update_container("ctr1", oci::LinuxResources::default()).await.unwrap();
        let memory = oci::LinuxMemory { Limit: LIMIT_OF_MEMORY, ..Default::default() };
        let limits = oci::LinuxResources { Memory: Some(memory).into(), ..Default::default() };
        let set = rig.agent.update_container("ctr1", limits.clone()).await;
        if rig.limits_memory("ctr1") {
            set.unwrap();
            let stats = rig.agent.stats_container("ctr1").await.unwrap();
            let limit = stats.cgroup_stats.memory_stats.usage.limit;
            assert_eq!(limit, LIMIT_OF_MEMORY.unsigned_abs());
        } else {
            set.unwrap_err();
        }
        let unknown = rig.agent.update_container("ctr2", limits).await.unwrap_err();
        assert_eq!(unknown.code(), Some(Code::INVALID_ARGUMENT));
        rig.remove("ctr1").await;
    });
}

/// They are those of the file system, for any path that is there; by the error the shim knows that one is not.
#[test]
fn numbers_of_a_volume() {
    inside_both("conformance::numbers_of_a_volume", |rig| async move {
        let of = |path: &str| VolumeStatsRequest { volume_guest_path: path.into(), ..Default::default() };
        fs::create_dir("/tmp/there").unwrap();
        let stats = rig.agent.get_volume_stats(of("/tmp/there")).await.unwrap();
        let units: Vec<_> = stats.usage.iter().map(|usage| usage.unit.enum_value().unwrap()).collect();
        assert_eq!(units, [Unit::BYTES, Unit::INODES]);
        for usage in &stats.usage {
            assert!(usage.total > 0 && usage.used + usage.available == usage.total, "{usage:?}");
        }
        assert!(!stats.volume_condition.abnormal && stats.volume_condition.message == "OK");
        let missing = rig.agent.get_volume_stats(of("/tmp/missing")).await.unwrap_err();
        assert_eq!(missing.code(), Some(Code::INTERNAL));
    });
}

/// Of a running container nothing is left: neither its processes nor its directory and mounts.
#[test]
fn a_running_container_is_removed() {
    inside_both("conformance::a_running_container_is_removed", |rig| async move {
        rig.sandbox().await;
        let before = mounts();
        rig.run("ctr1", &["sh", "-c", "sleep 4141 & sleep 4242"]).await;
        rig.agent.exec_process("ctr1", "e1", process(&["sleep", "4343"])).await.unwrap();
        for line in ["sleep 4141", "sleep 4242", "sleep 4343"] {
            until(line, || processes(line) == 1).await;
        }
        rig.remove("ctr1").await;
        for line in ["sleep 4141", "sleep 4242", "sleep 4343"] {
            until(line, || processes(line) == 0).await;
        }
        assert_eq!(mounts(), before);
        assert!(!Path::new("/run/kata-containers/ctr1").exists());
        rig.agent.signal_all("ctr1", 9).await.unwrap_err();
    });
}

/// SIGKILL to all of a container is for its own cgroup; by its name the first process is found, and its PID namespace with it.
#[test]
fn a_process_in_a_cgroup_below() {
    inside_both("conformance::a_process_in_a_cgroup_below", |rig| async move {
        rig.sandbox().await;
        rig.run("ctr1", &["sh", "-c", "sleep 4141 & exec sleep 4242"]).await;
        let init = ProcessRef::init("ctr1");
        until("the child", || processes("sleep 4141") == 1).await;
        for (number, pid) in pids("sleep 4141").into_iter().chain(pids("sleep 4242")).enumerate() {
            rig.put_below("ctr1", &format!("below{number}"), &pid);
        }
        rig.agent.signal_all("ctr1", 9).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        assert!(
            lives(&rig, init).await,
            "kata-agent looks below now: the shim's second signal is for nothing"
        );
        rig.agent.signal_process(init, 9).await.unwrap();
        assert_eq!(timeout(LIMIT, rig.agent.wait_process(init)).await.unwrap().unwrap(), 137);
        until("the child's end", || processes("sleep 4141") == 0).await;
        // By then nobody has that name.
        assert_eq!(rig.agent.signal_process(init, 9).await.unwrap_err().code(), Some(Code::NOT_FOUND));
        rig.agent.signal_all("ctr1", 9).await.unwrap();
        rig.remove("ctr1").await;
    });
}

/// A file is written beside its place, under a name that may be another's; and before there is a sandbox.
#[test]
fn a_files_place_while_it_is_copied() {
    inside_both("conformance::a_files_place_while_it_is_copied", |rig| async move {
        let file = |name: &str, uid: u32| CopyFileRequest {
            path: format!("{SHARED}/{name}"),
            file_size: 1,
            file_mode: 0o100_644,
            dir_mode: 0o040_755,
            uid: uid.cast_signed(),
            data: b"x".to_vec(),
            ..Default::default()
        };
        rig.agent.copy_file(file("early", 0)).await.unwrap();
        rig.sandbox().await;
        assert!(!Path::new(SHARED).join("early").exists(), "the sandbox begins with nothing");
        fs::create_dir_all(Path::new(SHARED).join("a.tmp")).unwrap();
        rig.agent.copy_file(file("a.conf", 0)).await.unwrap_err();
        assert!(Path::new(SHARED).join("a.tmp").is_dir());
        rig.agent.copy_file(file("b.conf", 3_000_000_000)).await.unwrap();
        assert_eq!(fs::metadata(Path::new(SHARED).join("b.conf")).unwrap().uid(), 3_000_000_000);
    });
}

async fn copy(rig: &Rig, name: &str, data: &[u8]) {
    let file = CopyFileRequest {
        path: format!("{SHARED}/{name}"),
        file_size: i64::try_from(data.len()).unwrap(),
        file_mode: 0o100_644,
        dir_mode: 0o040_755,
        data: data.to_vec(),
        ..Default::default()
    };
    rig.agent.copy_file(file).await.unwrap();
}

fn bind(name: &str, destination: &str) -> oci::Mount {
    oci::Mount {
        destination: destination.into(),
        source: format!("{SHARED}/{name}"),
        type_: "bind".into(),
        options: vec!["rbind".into()],
        ..Default::default()
    }
}
