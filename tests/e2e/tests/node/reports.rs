//! Situations in which other runtimes had a fault. Where somebody reported it in public, the test names the report.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::{Api, BUSYBOX, Bundle, ODD, OrFail, Run, ShimProcess, Task, Victim, e2e, import_odd, until};
use futures_util::future::join_all;
use k8s_cri::v1::LinuxContainerResources;

const FOREVER: [&str; 2] = ["sleep", "100000"];

/// kata-containers/kata-containers#11747: a program that reads an input that nobody gives waits for ever.
/// kata-containers/kata-containers#9532, containerd/containerd#2659: nor does one end whose input has ended.
#[test]
fn an_input_that_nobody_gives_is_at_its_end() {
    e2e(async |rig| {
        let mut pod = rig.pod("no-input").await.start().await;
        let reader = pod.run("reader", BUSYBOX, &["sh", "-c", "cat; exit 3"], vec![]).await;
        assert_eq!(reader.exited().await, 3);
        let container = pod.run("app", BUSYBOX, &FOREVER, vec![]).await;
        let begun = Instant::now();
        assert_eq!(container.exec(&["cat"]).await, "");
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        pod.remove().await;

        let container = Run::new("input", BUSYBOX, &FOREVER).start().await;
        assert_eq!(container.exec_with_stdin(&["cat"], b"123").await.succeeded(), "123");
        container.remove().await;
    });
}

/// kata-containers/kata-containers#6248: a size that comes before the process is refused.
/// moby/moby#35561: one that comes after it is an error of the daemon's.
#[test]
fn a_terminals_size_may_come_early_late_and_be_none() {
    e2e(async |rig| {
        let bundle = Bundle::new("sizes", &FOREVER);
        let shim = ShimProcess::new(&rig.artefacts, "default", &bundle);
        let task = Task::connect(&shim.start().await.bare_address(), Api::V2).await;
        task.create(&bundle).await.or_fail("Create");
        task.start("sizes", "").await.or_fail("Start");
        let output = bundle.path.join("output");
        fs::write(&output, "").or_fail("make a file");
        let command = ["sh", "-c", "sleep 2; stty size"];
        task.exec_on_a_terminal("sizes", "tty", &command, &output).await.or_fail("Exec");
        task.resize("sizes", "tty", 0, 0).await.or_fail("a size of nothing");
        task.resize("sizes", "tty", 111, 33).await.or_fail("a size before the start");
        task.start("sizes", "tty").await.or_fail("Start of an exec");
        assert_eq!(task.wait("sizes", "tty").await.or_fail("Wait").exit_status, 0);
        assert_eq!(fs::read_to_string(&output).or_fail("its output").trim(), "33 111");
        let late = task.resize("sizes", "tty", 80, 24).await.err().or_fail("a refusal");
        assert!(late.contains("stopped"), "{late}");
        task.delete("sizes", "tty").await.or_fail("Delete of an exec");
        task.remove("sizes").await;
        let _ = task.shutdown("sizes").await;
        Victim::Shim.gone().await;
        shim.delete().await;
    });
}

/// kata-containers/kata-containers#1713 and #9186: the end of what a short process writes is lost.
/// containerd/containerd#2438: one exec that hangs stops all; and what goes on meanwhile: limits that change.
#[test]
fn execs_at_a_high_rate_are_complete() {
    e2e(async |rig| {
        let mut pod = rig.pod("probes").await.start().await;
        let container = pod.run("app", BUSYBOX, &FOREVER, vec![]).await;
        let probes = (0..20).map(|number| {
            let container = &container;
            async move {
                let script = format!("seq 3000; echo end-{number} >&2; exit {number}");
                let answer = container.exec_answer(&["sh", "-c", &script]).await;
                assert_eq!(answer.exit_code, number);
                assert!(answer.stdout.ends_with(b"\n3000\n"), "{number}: {} bytes", answer.stdout.len());
                assert_eq!(answer.stderr, format!("end-{number}\n").as_bytes());
            }
        });
        let update = async {
            let mut cri = pod.cri.clone();
            for shares in [512, 1024, 2048] {
                let limits =
                    LinuxContainerResources { cpu_shares: shares, ..LinuxContainerResources::default() };
                cri.update(&container.id, limits).await;
            }
        };
        tokio::join!(join_all(probes), update);

        // Arguments and environment as large as Linux takes them, and larger.
        let word = "x".repeat(100_000);
        let many = [&["sh", "-c", "echo $# ${#1}", "sh"][..], &[word.as_str(); 10]].concat();
        assert_eq!(container.exec(&many).await, "10 100000\n");
        // Refused by the engine or the guest's kernel, and harmless.
        let answer = pod.cri.try_exec(&container.id, &["echo", &"x".repeat(200_000)]).await;
        assert!(answer.map_or(true, |answer| answer.exit_code != 0), "larger than Linux takes");
        assert_eq!(container.exec(&["env", "EMPTY=", "sh", "-c", "echo ${EMPTY-unset}."]).await, ".\n");
        pod.remove().await;
    });
}

/// kata-containers/kata-containers#1323: what is mounted below a link of the image. Every pod's token is: at
/// /var/run/secrets. Then layers that replace a directory, a set-id bit and a second name; and names that are missing in an
/// image that may not be written.
#[test]
fn an_images_links_and_gaps() {
    e2e(async |rig| {
        import_odd().await;
        let mut pod = rig.pod("odd").await.start().await;
        let token = |pod: &e2e::Pod| {
            let place = "/var/run/secrets/kubernetes.io/serviceaccount";
            pod.directory.configmap("token", &[("token", "hush")], place)
        };
        let mount = token(&pod);
        let container = pod.run("linked", ODD, &FOREVER, vec![mount]).await;
        let place = "/run/secrets/kubernetes.io/serviceaccount/token";
        assert_eq!(container.exec(&["cat", place, &format!("/var{place}")]).await, "hushhush");
        assert!(container.exec(&["cat", "/etc/resolv.conf"]).await.contains("nameserver 10.99.0.53"));
        assert_eq!(container.exec(&["ls", "/old"]).await, "same\ntwo\n");
        assert_eq!(container.exec(&["stat", "-c", "%a %h", "/old/two"]).await, "4755 2\n");

        let (log, file) = pod.directory.termination_log("tight", "/var/log/deep/last");
        let mounts = vec![token(&pod), log];
        let script = "pwd; echo said > /var/log/deep/last; touch /x 2>/dev/null || echo tight";
        let mut config = pod.container_config("tight", ODD, &["sh", "-c", script], mounts);
        config.working_dir = "/no/such/place".to_owned();
        let linux = config.linux.get_or_insert_default();
        linux.security_context.get_or_insert_default().readonly_rootfs = true;
        let container = pod.try_run_config(&config).await.or_fail("a container with gaps");
        assert_eq!(container.exited().await, 0);
        assert!(container.log().contains("/no/such/place\n") && container.log().contains("tight\n"));
        assert_eq!(fs::read_to_string(file).or_fail("read it"), "said\n");
        pod.remove().await;
    });
}

/// kata-containers/agent#261, kata-containers/runtime#2788: containers do not see each other's processes.
#[test]
fn containers_that_share_processes() {
    e2e(async |rig| {
        let mut pod = rig.pod("shared").await.shared_processes().start().await;
        let one = pod.run("one", BUSYBOX, &["sh", "-c", "sleep 4242 & sleep 100000"], vec![]).await;
        let two = pod.run("two", BUSYBOX, &["sh", "-c", "sleep 4343 & sleep 100000"], vec![]).await;
        let seen = two.exec(&["ps", "-o", "args"]).await;
        for line in ["sleep 4242", "sleep 4343", "/pause"] {
            assert!(seen.contains(line), "{line}: {seen}");
        }
        // The end of one's first process ends what it left, and nothing of the other's.
        pod.cri.stop(&one.id, 0).await;
        until("the end of what it left", Duration::from_secs(20), async || {
            let seen = two.exec(&["ps", "-o", "args"]).await;
            (!seen.contains("sleep 4242")).then_some(())
        })
        .await;
        assert!(two.exec(&["ps", "-o", "args"]).await.contains("sleep 4343"));
        pod.remove().await;
    });
}

/// kata-containers/kata-containers#3703, #1728: a volume with fsGroup cannot be written. And a container that does not
/// listen to SIGTERM (containerd/containerd#2438).
#[test]
fn a_volume_of_a_group_and_a_container_that_does_not_listen() {
    e2e(async |rig| {
        let mut pod = rig.pod("group").await.start().await;
        // As kubelet leaves them for fsGroup 2000.
        let volume = pod.directory.empty_dir("data", "/data");
        own(&volume.host_path, 0o2777);
        let secret = pod.directory.secret("key", &[("token", "hush")], "/key");
        for entry in fs::read_dir(Path::new(&secret.host_path).join("..data")).or_fail("a secret").flatten() {
            own(&entry.path().display().to_string(), 0o440);
        }
        let script = "trap 'echo heard' TERM; while :; do sleep 0.2; done";
        let mut config = pod.container_config("app", BUSYBOX, &["sh", "-c", script], vec![volume, secret]);
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.run_as_user = Some(k8s_cri::v1::Int64Value { value: 1000 });
        context.supplemental_groups = vec![2000];
        let container = pod.try_run_config(&config).await.or_fail("a container of another user");
        let look =
            "id -u; echo mine > /data/file; stat -c '%g %A' /data; stat -c %g /data/file; cat /key/token";
        let seen = container.exec(&["sh", "-c", look]).await;
        // A tmpfs of the guest, which has the sticky bit.
        assert_eq!(seen, "1000\n2000 drwxrwsrwt\n2000\nhush");

        let begun = Instant::now();
        pod.cri.stop(&container.id, 3).await;
        let took = begun.elapsed();
        assert!(took >= Duration::from_secs(3) && took < Duration::from_secs(30), "{took:?}");
        assert_eq!(container.exited().await, 137);
        assert!(container.log().contains("heard"));
        pod.remove().await;
    });
}

fn own(path: &str, mode: u32) {
    chown(path, None, Some(2000)).or_fail(path);
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).or_fail(path);
}

/// The guest's devices, and none of them twice (with kata-agent, `/dev/full: File exists`).
#[test]
fn a_privileged_container_has_the_guests_devices() {
    e2e(async |rig| {
        let mut pod = rig.pod("rights").await.privileged().start().await;
        let mut config = pod.container_config("all", BUSYBOX, &FOREVER, vec![]);
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.privileged = true;
        (context.masked_paths, context.readonly_paths) = (vec![], vec![]);
        let container = pod.try_run_config(&config).await.or_fail("a privileged container");
        let look = "head -c 3 /dev/zero > /dev/null && echo x > /dev/full";
        assert_ne!(container.exec_code(&["sh", "-c", look]).await, 0, "no space is left");
        container
            .exec(&["sh", "-c", "mount -t tmpfs none /tmp && echo 1 > /proc/sys/net/ipv4/ip_forward"])
            .await;
        pod.remove().await;
    });
}

/// A container whose first process puts itself into a cgroup of its own, as Docker's and kind's entry points and systemd do:
/// kata-agent's SIGKILL to all of a container looks into the container's cgroup only.
#[test]
fn sigkill_finds_a_process_that_changed_its_cgroup() {
    e2e(async |rig| {
        let mut pod = rig.pod("moved").await.privileged().start().await;
        let script = "trap '' TERM; mkdir /sys/fs/cgroup/init; echo 1 > /sys/fs/cgroup/init/cgroup.procs; \
                      cat /proc/self/cgroup; while :; do sleep 1; done";
        let mut config = pod.container_config("app", BUSYBOX, &["sh", "-c", script], vec![]);
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.privileged = true;
        (context.masked_paths, context.readonly_paths) = (vec![], vec![]);
        let container = pod.try_run_config(&config).await.or_fail("a privileged container");
        container.logged("stdout", "/init").await;
        let begun = Instant::now();
        pod.cri.stop(&container.id, 0).await;
        assert_eq!(container.exited().await, 137);
        assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
        pod.remove().await;
    });
}

/// kubelet gives an emptyDir of medium Memory the node's memory where nothing limits it.
#[test]
fn a_volume_in_memory_has_its_size_or_the_guests_usual_one() {
    e2e(async |rig| {
        let mut pod = rig.pod("in-memory").await.start().await;
        let volume = |name: &str, size: &str| {
            let mount = pod.directory.memory_dir(name, &format!("/{name}"));
            let options = format!("remount,size={size}");
            let status = Command::new("mount").args(["-o", &options, &mount.host_path]).status();
            assert!(status.or_fail("mount").success(), "a tmpfs of {size}");
            mount
        };
        let mounts = vec![volume("small", "8m"), volume("boundless", "500g")];
        let container = pod.run("app", BUSYBOX, &FOREVER, mounts).await;
        let df = container.exec(&["df", "-k", "/small", "/boundless"]).await;
        let kib = |place: &str| -> u64 {
            let line = df.lines().find(|line| line.ends_with(place)).or_fail(place);
            line.split_whitespace().nth(1).and_then(|size| size.parse().ok()).or_fail(line)
        };
        let free = container.exec(&["grep", "MemTotal", "/proc/meminfo"]).await;
        let memory: u64 = free.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).or_fail("meminfo");
        assert_eq!(kib("/small"), 8 << 10, "{df}");
        assert!(kib("/boundless") <= memory / 2 + 4, "{df}{free}");
        pod.remove().await;
    });
}

/// Two containers whose ids and dashes come to the same when they are put together, and an engine that rotates a log.
#[test]
fn names_alike_and_a_log_that_is_rotated() {
    e2e(async |rig| {
        let mut pod = rig.pod("alike").await.start().await;
        let talk = ["sh", "-c", "while :; do echo line; sleep 0.2; done"];
        let first = pod.run("app", BUSYBOX, &talk, vec![]).await;
        let second = pod.run("app-app", BUSYBOX, &FOREVER, vec![]).await;
        first.logged("stdout", "line").await;
        first.rotate_log();
        pod.cri.reopen_log(&first.id).await;
        first.logged("stdout", "line").await;
        pod.cri.stop(&second.id, 0).await;
        pod.cri.remove(&second.id).await;
        first.exec(&["true"]).await;
        pod.remove().await;
    });
}
