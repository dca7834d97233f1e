//! Pods through CRI, as kubelet runs them.

use e2e::{
    BUSYBOX, Forwarded, LAYERED, OrFail, Victim, WITH_EMPTY_VOLUMES, WITH_VOLUME, e2e,
    import_with_empty_volumes, import_with_volume,
};
use k8s_cri::v1::{ContainerState, LinuxContainerResources};

const FOREVER: [&str; 2] = ["sleep", "100000"];

#[test]
fn two_containers_share_a_pod() {
    e2e(async |rig| {
        let mut pod = rig.pod("pair").await.start().await;
        let talk = "echo out-line; echo err-line >&2; exec sleep 100000";
        let web = pod.run("web", BUSYBOX, &["sh", "-c", talk], vec![]).await;
        let side = pod.run("side", LAYERED, &FOREVER, vec![]).await;
        assert_eq!(Victim::Qemu.processes().len(), 1, "a pod is one VM");
        assert_eq!(Victim::Shim.processes().len(), 1, "a pod is one shim");

        web.logged("stdout", "out-line").await;
        web.logged("stderr", "err-line").await;
        assert_eq!(web.exec(&["hostname"]).await, "pair\n");
        assert_eq!(side.exec(&["cat", "/layers/top"]).await, "29\n");
        assert_eq!(side.exec_code(&["sh", "-c", "exit 6"]).await, 6);

        let stats = pod.cri.stats(&web.id).await;
        assert!(stats.memory.or_fail("memory").working_set_bytes.or_fail("working set").value > 0);
        assert!(stats.cpu.or_fail("cpu").usage_core_nano_seconds.or_fail("usage").value > 0);
        let all: Vec<String> =
            pod.cri.all_stats().await.into_iter().filter_map(|one| Some(one.attributes?.id)).collect();
        assert!(all.contains(&web.id) && all.contains(&side.id), "{all:?}");

        pod.cri.stop(&web.id, 1).await;
        let status = pod.cri.status(&web.id).await;
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert!(status.finished_at > status.started_at, "{status:?}");
        pod.cri.remove(&web.id).await;
        side.exec(&["true"]).await;
        pod.remove().await;
    });
}

/// containerd copies what the image has there into a directory of the host; the guest has it from the image itself.
#[test]
fn an_images_volume_is_writable_and_has_the_images_content() {
    e2e(async |rig| {
        import_with_volume().await;
        let mut pod = rig.pod("volume").await.start().await;
        let first = pod.run("first", WITH_VOLUME, &FOREVER, vec![]).await;
        let look = "stat -c %a /data /data/seed; cat /data/seed; echo mine > /data/new; cat /data/new";
        assert_eq!(first.exec(&["sh", "-c", look]).await, "1770\n640\nof the image\nmine\n");
        let second = pod.run("second", WITH_VOLUME, &FOREVER, vec![]).await;
        assert_eq!(second.exec(&["ls", "/data"]).await, "seed\n", "it is the container's own");
        pod.remove().await;
    });
}

#[test]
fn an_images_volume_that_has_nothing_is_an_empty_directory_of_the_containers_own() {
    e2e(async |rig| {
        import_with_empty_volumes().await;
        let mut pod = rig.pod("empty-volume").await.start().await;
        for read_only in [false, true] {
            let name = format!("read-only-{read_only}");
            let mut config = pod.container_config(&name, WITH_EMPTY_VOLUMES, &FOREVER, vec![]);
            let linux = config.linux.get_or_insert_default();
            linux.security_context.get_or_insert_default().readonly_rootfs = read_only;
            let container = pod.try_run_config(&config).await.or_fail("a container");
            let look = "stat -c '%a %u' /own /not/there; ls /own /not/there; echo mine > /not/there/new; \
                        echo mine > /own/new; cat /not/there/new; touch /x && echo open";
            let said = "1770 0\n755 0\n/not/there:\n\n/own:\nmine\n";
            let opened = if read_only { "" } else { "open\n" };
            let look = format!("{look}; true");
            assert_eq!(container.exec(&["sh", "-c", &look]).await, format!("{said}{opened}"));
        }
        pod.remove().await;
    });
}

/// The node has a placeholder of it only.
#[test]
fn a_sub_path_of_an_empty_dir_is_the_guests_directory() {
    e2e(async |rig| {
        let mut pod = rig.pod("parts").await.start().await;
        let all = pod.directory.empty_dir("data", "/all");
        let make = "mkdir -p /all/a /all/own; echo inside > /all/a/file; chown 999 /all/own; chmod 700 /all/own; \
                    echo setting > /all/conf; chmod 640 /all/conf";
        let init = pod.run("init", BUSYBOX, &["sh", "-c", make], vec![all]).await;
        assert_eq!(init.exited().await, 0);
        let part = pod.directory.sub_path("data", "a", "app", "/part");
        let new = pod.directory.sub_path("data", "b/c", "other", "/new");
        let own = pod.directory.sub_path("data", "own", "own", "/own");
        let conf = pod.directory.sub_path("data", "conf", "conf", "/etc/app.conf");
        let app = pod.run("app", BUSYBOX, &FOREVER, vec![part, new, own, conf]).await;
        let look = "cat /part/file; echo more > /new/file; stat -c %a /new";
        assert_eq!(app.exec(&["sh", "-c", look]).await, "inside\n777\n");
        // What was there is as it was, and may be a file: kubelet has made a directory in its place.
        let look = "stat -c '%a %u' /own /etc/app.conf; cat /etc/app.conf; echo more >> /etc/app.conf";
        assert_eq!(app.exec(&["sh", "-c", look]).await, "700 999\n640 0\nsetting\n");
        let all = pod.directory.empty_dir("data", "/all");
        let whole = pod.run("whole", BUSYBOX, &FOREVER, vec![all]).await;
        assert_eq!(whole.exec(&["cat", "/all/b/c/file"]).await, "more\n");
        pod.remove().await;
    });
}

#[test]
fn a_container_can_be_replaced_while_its_pod_runs() {
    e2e(async |rig| {
        let mut pod = rig.pod("again").await.start().await;
        for round in 0..3 {
            let name = format!("round-{round}");
            let container = pod.run(&name, LAYERED, &["sh", "-c", "exit 4"], vec![]).await;
            assert_eq!(container.exited().await, 4);
            pod.cri.remove(&container.id).await;
        }
        pod.remove().await;
    });
}

/// The engine connects to the loopback of the pod's namespace on the host; what listens in the guest answers.
#[test]
fn port_forward_reaches_what_listens_on_the_pods_address_and_not_the_guests_loopback() {
    e2e(async |rig| {
        let mut pod = rig.pod("forward").await.start().await;
        let serve = "mkdir /pod /own; echo of-the-pod > /pod/who; echo its-own > /own/who; \
                     httpd -p 8080 -h /pod; exec httpd -f -p 127.0.0.1:8081 -h /own";
        let server = pod.run("server", BUSYBOX, &["sh", "-c", serve], vec![]).await;
        let inside = "until wget -qO- http://127.0.0.1:8081/who; do sleep 0.3; done";
        assert_eq!(server.exec(&["sh", "-c", inside]).await, "its-own\n");
        let question = b"GET /who HTTP/1.0\r\n\r\n";
        let is_pods = |answer: &[u8]| answer.ends_with(b"\r\n\r\nof-the-pod\n");
        // A second time as well: what carried the first is free again.
        for _ in 0..2 {
            let url = pod.cri.port_forward(&pod.id, 8080).await;
            let answer = Forwarded::open(&url, 8080).await.ask(question, is_pods).await;
            assert!(is_pods(&answer), "{}", String::from_utf8_lossy(&answer));
        }
        // Port 8081 is open in the guest, and only there.
        for nobody in [8081, 8082] {
            let url = pod.cri.port_forward(&pod.id, nobody).await;
            let answer = Forwarded::open(&url, nobody).await.ask(question, |_| false).await;
            assert_eq!(answer, b"", "port {nobody}");
        }
        pod.remove().await;
    });
}

#[test]
fn localhost_is_the_pods() {
    e2e(async |rig| {
        let mut pod = rig.pod("local").await.start().await;
        let serve = "while :; do echo hello | nc -l -p 8080; done";
        let _server = pod.run("server", BUSYBOX, &["sh", "-c", serve], vec![]).await;
        let client = pod.run("client", BUSYBOX, &FOREVER, vec![]).await;
        // The end of its input makes nc leave, so that comes late; the server may not listen yet.
        let ask = "for i in $(seq 9); do sleep 1 | nc 127.0.0.1 8080 | grep . && exit; sleep 0.3; done";
        assert_eq!(client.exec(&["sh", "-c", ask]).await, "hello\n");
        pod.remove().await;
    });
}

#[test]
fn pod_and_bridge_reach_each_other_over_both_protocols() {
    e2e(async |rig| {
        let mut pod = rig.pod("network").await.start().await;
        let container = pod.run("net", BUSYBOX, &FOREVER, vec![]).await;
        let addresses = pod.addresses().await;
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        let shown = container.exec(&["ip", "-o", "addr", "show", "dev", "eth0"]).await;
        for address in &addresses {
            assert!(shown.contains(address.as_str()), "{address} is not in {shown}");
        }
        assert!(container.exec(&["cat", "/sys/class/net/eth0/mtu"]).await.starts_with("1400"));
        container.exec(&["ping", "-c", "2", "-W", "5", "10.99.0.1"]).await;
        container.exec(&["ping", "-c", "2", "-W", "5", "-s", "1300", "fd99::1"]).await;
        for address in &addresses {
            let status = std::process::Command::new("busybox")
                .args(["ping", "-c", "2", "-W", "5", address])
                .stdout(std::process::Stdio::null())
                .status()
                .or_fail("ping");
            assert!(status.success(), "the bridge does not reach {address}");
        }
        pod.remove().await;
    });
}

#[test]
fn names_and_hosts_are_the_pods() {
    e2e(async |rig| {
        let mut pod = rig.pod("names").await.start().await;
        let hosts = pod.directory.etc_hosts("127.0.0.1 localhost\n192.0.2.7 database\n");
        let container = pod.run("names", BUSYBOX, &FOREVER, vec![hosts]).await;
        let resolv = container.exec(&["cat", "/etc/resolv.conf"]).await;
        for line in ["nameserver 10.99.0.53", "search e2e.test", "options ndots:5"] {
            assert!(resolv.contains(line), "{resolv}");
        }
        assert!(container.exec(&["cat", "/etc/hosts"]).await.contains("192.0.2.7 database"));
        assert_eq!(container.exec(&["cat", "/etc/hostname"]).await, "names\n");
        pod.remove().await;
    });
}

#[test]
fn a_configmaps_change_reaches_the_container() {
    e2e(async |rig| {
        let mut pod = rig.pod("config").await.start().await;
        let map = pod.directory.configmap("app", &[("mode", "one"), ("other", "same")], "/etc/app");
        let secret = pod.directory.secret("key", &[("token", "hush")], "/etc/key");
        let container = pod.run("app", BUSYBOX, &FOREVER, vec![map, secret]).await;
        assert_eq!(container.exec(&["cat", "/etc/app/mode", "/etc/key/token"]).await, "onehush");

        pod.directory.update_configmap("app", &[("mode", "two"), ("other", "same"), ("added", "new")]);
        let wait = "for i in $(seq 150); do grep -q two /etc/app/mode && cat /etc/app/added && exit; sleep 0.2; done; exit 1";
        assert_eq!(container.exec(&["sh", "-c", wait]).await, "new");
        assert_eq!(container.exec(&["cat", "/etc/app/other"]).await, "same");
        pod.remove().await;
    });
}

#[test]
fn an_empty_dir_is_shared_and_stays_in_the_guest() {
    e2e(async |rig| {
        let mut pod = rig.pod("scratch").await.start().await;
        let volume = pod.directory.empty_dir("scratch", "/scratch");
        let writer = pod.run("writer", BUSYBOX, &FOREVER, vec![volume.clone()]).await;
        let reader = pod.run("reader", BUSYBOX, &FOREVER, vec![volume.clone()]).await;
        writer.exec(&["sh", "-c", "echo shared > /scratch/file"]).await;
        assert_eq!(reader.exec(&["cat", "/scratch/file"]).await, "shared\n");
        let on_host = std::fs::read_dir(&volume.host_path).or_fail("the volume").count();
        assert_eq!(on_host, 0, "the guest's data is on the host");
        pod.remove().await;
    });
}

#[test]
fn shared_memory_and_masked_paths_are_as_kubernetes_has_them() {
    e2e(async |rig| {
        let mut pod = rig.pod("masks").await.start().await;
        let container = pod.run("masks", BUSYBOX, &FOREVER, vec![]).await;
        assert!(container.exec(&["df", "-k", "/dev/shm"]).await.contains("65536"));
        assert_ne!(container.exec_code(&["sh", "-c", "echo 1 > /proc/sys/kernel/panic"]).await, 0);
        assert_eq!(container.exec(&["sh", "-c", "cat /proc/timer_list | wc -c"]).await, "0\n");
        pod.remove().await;
    });
}

#[test]
fn the_vm_has_the_size_of_the_pods_limits() {
    e2e(async |rig| {
        let mut pod = rig.pod("sized").await.resources(512 << 20, 2).start().await;
        let container = pod.run("sized", BUSYBOX, &FOREVER, vec![]).await;
        assert_eq!(container.exec(&["nproc"]).await, "2\n");
        let script = "awk '/MemTotal/ { print $2 }' /proc/meminfo";
        let kib: u64 = container.exec(&["sh", "-c", script]).await.trim().parse().or_fail("MemTotal");
        assert!((450_000..800_000).contains(&kib), "{kib} KiB");
        pod.remove().await;
    });
}

#[test]
fn a_containers_limits_can_be_changed() {
    e2e(async |rig| {
        let mut pod = rig.pod("update").await.start().await;
        let container = pod.run("update", BUSYBOX, &FOREVER, vec![]).await;
        let resources =
            LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..LinuxContainerResources::default() };
        pod.cri.update(&container.id, resources).await;
        assert_eq!(container.exec(&["cat", "/sys/fs/cgroup/memory.max"]).await, "67108864\n");
        // No limit is what the VM has.
        let cpu = |cpu_quota| LinuxContainerResources {
            cpu_quota,
            cpu_period: 100_000,
            ..LinuxContainerResources::default()
        };
        pod.cri.update(&container.id, cpu(50_000)).await;
        assert_eq!(container.exec(&["cat", "/sys/fs/cgroup/cpu.max"]).await, "50000 100000\n");
        pod.cri.update(&container.id, cpu(-1)).await;
        let vcpus = container.exec(&["nproc"]).await;
        let all = format!("{}00000 100000\n", vcpus.trim());
        assert_eq!(container.exec(&["cat", "/sys/fs/cgroup/cpu.max"]).await, all);
        pod.remove().await;
    });
}

#[test]
fn a_container_with_the_least_memory_starts() {
    e2e(async |rig| {
        let mut pod = rig.pod("least").await.start().await;
        let mut config = pod.container_config("least", BUSYBOX, &FOREVER, vec![]);
        let linux = config.linux.get_or_insert_default();
        linux.resources.get_or_insert_default().memory_limit_in_bytes = 1 << 20;
        let container = pod.try_run_config(&config).await.or_fail("a container");
        assert_eq!(pod.cri.state(&container.id).await, ContainerState::ContainerRunning);
        pod.remove().await;
    });
}

/// Both numbers are told, and CRI shows no limit that is none.
#[test]
fn limits_beyond_the_vm_are_refused_at_creation_and_later() {
    e2e(async |rig| {
        let much = || LinuxContainerResources {
            memory_limit_in_bytes: 64 << 30,
            ..LinuxContainerResources::default()
        };
        let mut pod = rig.pod("beyond").await.resources(512 << 20, 1).start().await;
        let mut config = pod.container_config("large", BUSYBOX, &FOREVER, vec![]);
        config.linux.get_or_insert_default().resources = Some(much());
        let at_creation = pod.try_run_config(&config).await.err().or_fail("an error").message().to_owned();

        config.metadata.get_or_insert_default().name = "small".to_owned();
        let least = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..much() };
        config.linux.get_or_insert_default().resources = Some(least);
        let container = pod.try_run_config(&config).await.or_fail("a container");
        let later =
            pod.cri.try_update(&container.id, much()).await.err().or_fail("an error").message().to_owned();
        let vms = (512_u64 << 20) + (192 << 20);
        for (when, error) in [("creation", at_creation), ("update", later)] {
            for number in [64_u64 << 30, vms] {
                assert!(error.contains(&format!("{number} bytes")), "{when}: {error}");
            }
        }
        let status = pod.cri.status(&container.id).await;
        let limits = status.resources.and_then(|of| of.linux).or_fail("limits in the status");
        assert_eq!(limits.memory_limit_in_bytes, 64 << 20);
        assert_eq!(container.exec(&["cat", "/sys/fs/cgroup/memory.max"]).await, "67108864\n");
        pod.remove().await;
    });
}

#[test]
fn stopping_the_sandbox_stops_the_vm() {
    e2e(async |rig| {
        let mut pod = rig.pod("stopped").await.start().await;
        let container = pod.run("left", BUSYBOX, &FOREVER, vec![]).await;
        let id = pod.id.clone();
        pod.cri.stop_pod(&id).await;
        Victim::Qemu.gone().await;
        assert_eq!(pod.cri.state(&container.id).await, ContainerState::ContainerExited);
        // Nobody looks for a fault where a pod was stopped.
        rig.logged(&["all that the VM had on the host is given back"]).await;
        assert!(!rig.log().contains("ends with its VM"), "{}", rig.log());
        // kubelet calls it more than once.
        pod.cri.stop_pod(&id).await;
        pod.remove().await;
    });
}

#[test]
fn the_sandbox_service_runs_pods_without_a_pause_container() {
    e2e(async |rig| {
        // `coffer initdata build --file aa.toml --form annotation`, of a file with an empty table.
        let initdata = "H4sIAAAAAAAC/xXJQQqAIBAAwPu+QvYBYtShSy+RiKVMJXVBl96vXmd+V1vkog6FRi/aIFDyXKOEPK0FWvcNAexDQicgkRbOCWcighX+XLluLm/0bfywDmFjv8RTAAAA";
        let request = rig.pod("direct").await.handler("coffer-sandbox");
        let request = request.annotation("io.katacontainers.config.hypervisor.cc_init_data", initdata);
        let request = request.sysctl("net.core.somaxconn", "777");
        let mut pod = request.start().await;
        let one = pod.run("one", BUSYBOX, &FOREVER, vec![]).await;
        let two = pod.run("two", LAYERED, &FOREVER, vec![]).await;
        assert_eq!(Victim::Shim.processes().len(), 1);
        assert_eq!(one.exec(&["hostname"]).await, "direct\n");
        // What containerd makes of a pod's configuration where it is the controller.
        let names = one.exec(&["cat", "/etc/hostname", "/etc/resolv.conf"]).await;
        assert_eq!(names, "direct\nsearch e2e.test\nnameserver 10.99.0.53\noptions ndots:5\n");
        assert_eq!(two.exec(&["cat", "/proc/sys/net/core/somaxconn"]).await, "777\n");
        let its_defaults =
            ["/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv4/ping_group_range"];
        assert_eq!(two.exec(&[&["cat"], &its_defaults[..]].concat()).await, "0\n0\t2147483647\n");
        assert_eq!(one.exec(&["cat", "/sys/block/vdb/serial"]).await.trim(), "coffer-initdata");
        assert_eq!(two.exec(&["cat", "/layers/top"]).await, "29\n");
        one.exec(&["ping", "-c", "2", "-W", "5", "10.99.0.1"]).await;
        pod.cri.stop(&one.id, 1).await;
        pod.remove().await;
    });
}
