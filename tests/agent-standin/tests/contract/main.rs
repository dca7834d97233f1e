//! The stand-in as a process of this machine: containers of busybox in a private root, over a unix socket.
//!
//! Each test runs itself again inside `tools/enter`, as root of its own mount, PID and network namespaces.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod conformance;
mod rig;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use agent_client::proto::agent::{
    CopyFileRequest, CreateContainerRequest, CreateSandboxRequest, GuestDetailsRequest, Storage,
};
use agent_client::proto::oci;
use agent_client::proto::types::{IPAddress, IPFamily, Interface, Route};
use agent_client::{AgentError, Code, ProcessRef};
use tokio::time::sleep;

use rig::{inside, mounts, process, start};

#[test]
fn a_container_runs_and_leaves_nothing() {
    inside("a_container_runs_and_leaves_nothing", |rig| async move {
        rig.sandbox().await;
        let before = mounts();
        rig.run("ctr1", &["sh", "-c", "hostname; echo oops >&2; exit 7"]).await;
        let init = ProcessRef::init("ctr1");
        assert_eq!(rig.output(init).await, "podhost\n");
        assert_eq!(rig.agent.read_stderr(init, 100).await.unwrap(), b"oops\n");
        assert_eq!(rig.agent.read_stderr(init, 100).await.unwrap(), b"");
        assert_eq!(rig.agent.wait_process(init).await.unwrap(), 7);
        let again = rig.agent.wait_process(init).await.unwrap_err();
        assert_eq!(again.code(), Some(Code::NOT_FOUND));
        rig.remove("ctr1").await;
        assert_eq!(mounts(), before);
        assert!(!Path::new("/run/kata-containers/ctr1").exists());
        assert_eq!(fs::read_dir("/run/agent-standin").unwrap().count(), 0);
        assert!(rig.root.join("bin/busybox").exists());
    });
}

#[test]
fn exec_stdin_and_signals() {
    inside("exec_stdin_and_signals", |rig| async move {
        rig.sandbox().await;
        rig.run("ctr1", &["sleep", "1000"]).await;
        let cat = ProcessRef::exec("ctr1", "e1");
        rig.agent.exec_process("ctr1", "e1", process(&["cat"])).await.unwrap();
        rig.agent.write_stdin(cat, b"through".to_vec()).await.unwrap();
        rig.agent.close_stdin(cat).await.unwrap();
        assert_eq!(rig.output(cat).await, "through");
        assert_eq!(rig.agent.wait_process(cat).await.unwrap(), 0);

        rig.agent.exec_process("ctr1", "e2", process(&["sleep", "1000"])).await.unwrap();
        let sleep = ProcessRef::exec("ctr1", "e2");
        assert!(rig.agent.exec_process("ctr1", "e2", process(&["true"])).await.is_err(), "exec id in use");
        rig.agent.signal_process(sleep, 15).await.unwrap();
        assert_eq!(rig.agent.wait_process(sleep).await.unwrap(), 128 + 15);

        // sleep as PID 1 has no handler for SIGTERM: it gets SIGKILL.
        rig.agent.signal_process(ProcessRef::init("ctr1"), 15).await.unwrap();
        assert_eq!(rig.agent.wait_process(ProcessRef::init("ctr1")).await.unwrap(), 128 + 9);
        rig.remove("ctr1").await;
    });
}

#[test]
fn killing_a_container_kills_all_of_it() {
    inside("killing_a_container_kills_all_of_it", |rig| async move {
        rig.sandbox().await;
        rig.run("ctr1", &["sh", "-c", "sleep 1000 & sleep 1000"]).await;
        rig.agent.exec_process("ctr1", "e1", process(&["sleep", "1000"])).await.unwrap();
        rig.agent.signal_all("ctr1", 9).await.unwrap();
        assert_eq!(rig.agent.wait_process(ProcessRef::init("ctr1")).await.unwrap(), 137);
        assert_eq!(rig.agent.wait_process(ProcessRef::exec("ctr1", "e1")).await.unwrap(), 137);
        rig.remove("ctr1").await;
    });
}

#[test]
fn much_output_arrives_whole() {
    inside("much_output_arrives_whole", |rig| async move {
        const MIB: usize = 16;
        rig.sandbox().await;
        rig.run("ctr1", &["dd", "if=/dev/zero", "bs=1M", &format!("count={MIB}")]).await;
        let mut total = 0;
        loop {
            let data = rig.agent.read_stdout(ProcessRef::init("ctr1"), 1 << 20).await.unwrap();
            if data.is_empty() {
                break;
            }
            total += data.len();
        }
        assert_eq!(total, MIB << 20);
        rig.remove("ctr1").await;
    });
}

#[test]
fn containers_share_the_sandboxs_namespaces() {
    inside("containers_share_the_sandboxs_namespaces", |rig| async move {
        rig.sandbox().await;
        rig.run("ctr1", &["sleep", "1000"]).await;
        let args = ["sh", "-c", "ls -l /proc/self/ns | grep -o '[a-z]*:.*'; ls /proc | grep -c '^[0-9]'"];
        for (id, share) in [("ctr2", false), ("ctr3", true)] {
            let mut spec = rig.spec(&args);
            spec.Linux.as_mut().unwrap().CgroupsPath += &format!("/{id}");
            let request = CreateContainerRequest {
                container_id: id.into(),
                OCI: Some(spec).into(),
                sandbox_pidns: share,
                ..Default::default()
            };
            rig.agent.create_container(request).await.unwrap();
            rig.agent.start_container(id).await.unwrap();
        }
        let two = rig.output(ProcessRef::init("ctr2")).await;
        let three = rig.output(ProcessRef::init("ctr3")).await;
        let find = |text: &str, name: &str| {
            let prefix = format!("{name}:[");
            text.lines().find_map(|line| line.find(&prefix).map(|at| line[at..].to_owned())).unwrap()
        };
        for name in ["ipc", "uts", "net"] {
            assert_eq!(find(&two, name), find(&three, name));
        }
        assert_ne!(find(&two, "pid"), find(&three, "pid"));
        rig.agent.destroy_sandbox().await.unwrap();
    });
}

#[test]
fn failures_leave_nothing() {
    inside("failures_leave_nothing", |rig| async move {
        rig.sandbox().await;
        let before = mounts();
        assert!(rig.create("ctr1", rig.spec(&["no-such-program"])).await.is_err());
        let mut spec = rig.spec(&["true"]);
        spec.Root.as_mut().unwrap().Path = "/nowhere".into();
        assert!(rig.create("ctr1", spec).await.is_err());
        let mut request = CreateContainerRequest {
            container_id: "ctr1".into(),
            OCI: Some(rig.spec(&["true"])).into(),
            ..Default::default()
        };
        request.storages = vec![Storage {
            driver: "blk".into(),
            source: format!("/dev/mapper/{}", "0".repeat(64)),
            fstype: "erofs".into(),
            options: vec!["ro".into(), "nodev".into()],
            mount_point: "/run/l/00000000000000000000".into(),
            ..Default::default()
        }];
        assert!(rig.agent.create_container(request).await.is_err());
        assert_eq!(mounts(), before);
        assert!(!Path::new("/run/kata-containers/ctr1").exists());
        assert!(rig.root.join("bin/busybox").exists());
        rig.run("ctr1", &["true"]).await;
        let missing = rig.agent.exec_process("ctr1", "e1", process(&["/no/such"])).await;
        assert!(missing.is_err());
        rig.remove("ctr1").await;
    });
}

#[test]
fn order_and_ids_are_checked() {
    inside("order_and_ids_are_checked", |rig| async move {
        let early = rig.create("ctr1", rig.spec(&["true"])).await.unwrap_err();
        assert_eq!(early.code(), Some(Code::FAILED_PRECONDITION));
        assert!(rig.agent.get_guest_details(GuestDetailsRequest::default()).await.is_ok());
        rig.sandbox().await;
        let twice = CreateSandboxRequest { sandbox_id: "pod2".into(), ..Default::default() };
        assert!(rig.agent.create_sandbox(twice).await.is_err());
        assert!(rig.create("x", rig.spec(&["true"])).await.is_err(), "one-letter id");
        rig.create("ctr1", rig.spec(&["true"])).await.unwrap();
        assert!(rig.create("ctr1", rig.spec(&["true"])).await.is_err(), "id in use");
        assert!(rig.agent.exec_process("ctr1", "e1", process(&["true"])).await.is_err(), "not started");
        rig.agent.start_container("ctr1").await.unwrap();
        assert!(rig.agent.start_container("ctr1").await.is_err(), "started twice");
        let unknown = rig.agent.stats_container("ctr2").await.unwrap_err();
        assert_eq!(unknown.code(), Some(Code::INVALID_ARGUMENT));
        assert_eq!(rig.agent.set_policy(String::new()).await.unwrap_err().code(), Some(Code::UNIMPLEMENTED));
        rig.remove("ctr1").await;
    });
}

/// A layer, seen through a loop device instead of a mapping.
#[test]
fn a_root_file_system_is_layers_below_an_overlay() {
    inside("a_root_file_system_is_layers_below_an_overlay", |rig| async move {
        rig.sandbox().await;
        let before = mounts();
        let run = |program: &str, args: &[&str]| {
            let output = Command::new(program).args(args).output().unwrap();
            assert!(output.status.success(), "{program} {args:?}: {output:?}");
            String::from_utf8(output.stdout).unwrap().trim().to_owned()
        };
        run("mkfs.erofs", &["--quiet", "/tmp/layer.erofs", rig.root.to_str().unwrap()]);
        let node = run("losetup", &["--find", "--show", "--read-only", "/tmp/layer.erofs"]);
        let layer = Storage {
            driver: "blk".into(),
            source: node.clone(),
            fstype: "erofs".into(),
            options: vec!["ro".into(), "nodev".into()],
            mount_point: "/run/l/0123456789abcdef0123".into(),
            ..Default::default()
        };
        for id in ["ctr1", "ctr2"] {
            let dir = format!("/run/kata-containers/{id}");
            let made = "io.katacontainers.volume.overlayfs.create_directory";
            let overlay = Storage {
                driver: "overlayfs".into(),
                driver_options: ["upper", "work"].map(|name| format!("{made}={dir}/{name}")).into(),
                source: "overlay".into(),
                fstype: "overlay".into(),
                options: vec![
                    "nodev".into(),
                    format!("lowerdir={}", layer.mount_point),
                    format!("upperdir={dir}/upper"),
                    format!("workdir={dir}/work"),
                ],
                mount_point: format!("{dir}/rootfs"),
                ..Default::default()
            };
            let mut spec = rig.spec(&["sh", "-c", "echo x > /etc/new && cat /etc/new"]);
            spec.Root.as_mut().unwrap().Path = format!("{dir}/rootfs");
            spec.Linux.as_mut().unwrap().CgroupsPath += &format!("/{id}");
            let request = CreateContainerRequest {
                container_id: id.into(),
                OCI: Some(spec).into(),
                storages: vec![layer.clone(), overlay],
                ..Default::default()
            };
            rig.agent.create_container(request).await.unwrap();
            rig.agent.start_container(id).await.unwrap();
            assert_eq!(rig.output(ProcessRef::init(id)).await, "x\n");
        }
        rig.remove("ctr1").await;
        assert!(Path::new(&layer.mount_point).join("bin/busybox").exists(), "the other one has it still");
        rig.remove("ctr2").await;
        assert_eq!(mounts(), before);
        run("losetup", &["--detach", &node]);
    });
}

#[test]
fn a_policy_decides_what_is_served() {
    inside("a_policy_decides_what_is_served", |mut rig| async move {
        let _ = rig.standin.kill();
        let _ = rig.standin.wait();
        let policy = "package agent_policy\nimport rego.v1\ndefault CreateSandboxRequest := false\n\
            default GuestDetailsRequest := true\nCreateSandboxRequest if input.hostname == \"podhost\"\n";
        fs::write("/tmp/policy.rego", policy).unwrap();
        (rig.agent, rig.standin) = start(&[("KATA_AGENT_POLICY_FILE", "/tmp/policy.rego")]).await;
        let other =
            CreateSandboxRequest { sandbox_id: "pod1".into(), hostname: "x".into(), ..Default::default() };
        let denied = rig.agent.create_sandbox(other).await.unwrap_err();
        assert!(matches!(denied, AgentError::Denied { .. }), "{denied}");
        assert!(denied.to_string().contains("CreateSandboxRequest is blocked by policy"), "{denied}");
        rig.sandbox().await;
        assert!(rig.agent.get_guest_details(GuestDetailsRequest::default()).await.is_ok());
        let unknown = rig.agent.stats_container("ctr1").await.unwrap_err();
        assert_eq!(unknown.code(), Some(Code::INTERNAL), "{unknown}");
    });
}

#[test]
fn files_are_copied_and_mounted() {
    inside("files_are_copied_and_mounted", |rig| async move {
        rig.sandbox().await;
        let path = "/run/kata-containers/shared/containers/ctr1-hosts";
        let file = CopyFileRequest {
            path: path.into(),
            file_size: 5,
            file_mode: 0o100_644,
            dir_mode: 0o755,
            data: b"hosts".to_vec(),
            ..Default::default()
        };
        rig.agent.copy_file(file).await.unwrap();
        let mut spec = rig.spec(&["cat", "/etc/hosts"]);
        spec.Mounts.push(oci::Mount {
            destination: "/etc/hosts".into(),
            source: path.into(),
            type_: "bind".into(),
            options: vec!["rbind".into(), "ro".into()],
            ..Default::default()
        });
        rig.create("ctr1", spec).await.unwrap();
        rig.agent.start_container("ctr1").await.unwrap();
        assert_eq!(rig.output(ProcessRef::init("ctr1")).await, "hosts");
        rig.remove("ctr1").await;
    });
}

#[test]
fn network() {
    inside("network", |rig| async move {
        let ip = |args: &str| Command::new("ip").args(args.split(' ')).status().unwrap().success();
        assert!(ip("link add dummy0 type veth peer name peer0"));
        assert!(ip("link set dummy0 address 02:00:00:00:00:01"));
        assert!(ip("link set peer0 up"));
        let address = |family: IPFamily, address: &str, mask: &str| IPAddress {
            family: family.into(),
            address: address.into(),
            mask: mask.into(),
            ..Default::default()
        };
        let interface = Interface {
            name: "eth0".into(),
            hwAddr: "02:00:00:00:00:01".into(),
            mtu: 1400,
            IPAddresses: vec![
                address(IPFamily::v4, "192.0.2.2", "24"),
                address(IPFamily::v6, "fd00::2", "64"),
            ],
            ..Default::default()
        };
        rig.agent.update_interface(interface).await.unwrap();
        let route = |family: IPFamily, dest: &str, gateway: &str| Route {
            family: family.into(),
            dest: dest.into(),
            gateway: gateway.into(),
            device: "eth0".into(),
            ..Default::default()
        };
        let routes = vec![route(IPFamily::v4, "", "192.0.2.1"), route(IPFamily::v6, "", "fd00::1")];
        let set = rig.agent.update_routes(routes).await.unwrap();
        for gateway in ["192.0.2.1", "fd00::1"] {
            assert!(set.iter().any(|route| route.gateway == gateway && route.device == "eth0"), "{set:?}");
        }
        let list = rig.agent.list_interfaces().await.unwrap();
        let eth0 = list.iter().find(|interface| interface.name == "eth0").unwrap();
        assert_eq!(eth0.mtu, 1400);
        for address in ["192.0.2.2", "fd00::2"] {
            assert!(eth0.IPAddresses.iter().any(|ip| ip.address == address), "{address} is missing");
        }
        let unknown =
            Interface { name: "eth1".into(), hwAddr: "02:00:00:00:00:09".into(), ..Default::default() };
        assert!(rig.agent.update_interface(unknown).await.is_err());
    });
}

#[test]
fn destroying_the_sandbox_ends_the_agent() {
    inside("destroying_the_sandbox_ends_the_agent", |mut rig| async move {
        rig.sandbox().await;
        rig.run("ctr1", &["sleep", "1000"]).await;
        rig.agent.destroy_sandbox().await.unwrap();
        let status = loop {
            if let Some(status) = rig.standin.try_wait().unwrap() {
                break status;
            }
            sleep(Duration::from_millis(20)).await;
        };
        assert!(status.success());
        assert!(!Path::new("/run/kata-containers/ctr1").exists());
    });
}

#[test]
fn faults_happen_at_the_named_call() {
    inside("faults_happen_at_the_named_call", |mut rig| async move {
        let request = || CreateSandboxRequest { sandbox_id: "pod1".into(), ..Default::default() };
        for fault in ["hang-up", "garbage", "oversized-reply", "die"] {
            let _ = rig.standin.kill();
            let _ = rig.standin.wait();
            (rig.agent, rig.standin) =
                start(&[("COFFER_STANDIN", &format!("{fault}-at=CreateSandbox"))]).await;
            rig.agent.check().await.unwrap();
            let error = rig.agent.create_sandbox(request()).await.unwrap_err();
            assert_eq!(error.code(), None, "{fault} answered: {error}");
        }
        assert_eq!(rig.standin.wait().unwrap().code(), Some(1), "die");
    });
}
