//! The host that does not play fair, with a release image: what it changes costs the pod its start, and gains it nothing.
//!
//! The shim here is the host's tool. It is told nothing of the pod's initdata, which the host hands to the guest by its own
//! hand, so that no check of the shim's is in the way of what a host tries. A disk plays the security processor, which
//! reports what a launch with the pod's own initdata would have it report.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use agent_client::proto::agent::{CreateContainerRequest, Storage};
use agent_client::{AGENT_PORT, Agent, Endpoint, connect};
use e2e::{
    Artefacts, BUSYBOX, Binding, Flipped, Hypervisor, LAYERED, NAMESPACE, OrFail, Pod, PodContainer, Rig,
    Tenant, Victim, converted_layer, e2e, workspace,
};
use guest_spec::{FileKind, GuestRootfs, HostFile, SandboxFacts, VolumeJudge, translate};
use oci_spec::runtime::Spec;
use shared_types::ScratchSize;
use verity::RootHash;

const FOREVER: [&str; 2] = ["sleep", "100000"];
/// The serial number by which PID 1 knows the disk with initdata.
const INITDATA: &str = "coffer-initdata";
/// The policy of somebody who wants to do everything.
const ALLOW_ALL: &str = include_str!("../../../../guest-image/root/kata-opa/allow-all.rego");

fn bind(name: &str) -> Tenant {
    Tenant::bind(name, BUSYBOX)
}

/// A hypervisor that reports the tenant's initdata and hands `disk` over as such.
fn hypervisor(name: &str, tenant: &Tenant, disk: &Path) -> Hypervisor {
    Hypervisor::new(name).reports(&tenant.host_data()).disk("host-initdata", disk, INITDATA)
}

/// The node's configuration, for as long as a test needs another one than the rig's.
struct Installed<'a>(&'a Rig<'a>);

impl<'a> Installed<'a> {
    fn new(rig: &'a Rig<'a>, image: &Path, hypervisor: &Hypervisor) -> Self {
        rig.config().path("image", image).path("qemu", &hypervisor.program()).install();
        Self(rig)
    }
}

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        self.0.config().install();
    }
}

/// Starts the pod on this host.
async fn started(rig: &Rig<'_>, name: &str, hypervisor: &Hypervisor) -> Result<Pod, String> {
    started_with(rig, name, hypervisor, "").await
}

/// The same with a scratch disk, if `scratch` is a size.
async fn started_with(
    rig: &Rig<'_>,
    name: &str,
    hypervisor: &Hypervisor,
    scratch: &str,
) -> Result<Pod, String> {
    let _installed = Installed::new(rig, &Artefacts::release_image(), hypervisor);
    let mut pod = rig.pod(name).await;
    if !scratch.is_empty() {
        pod = pod.annotation(ScratchSize::ANNOTATION, scratch);
    }
    pod.try_start().await.map_err(|status| status.message().to_owned())
}

/// The pod must not start, for the reason that the guest gives, and the VM must have ended before its agent ran.
async fn refused(rig: &Rig<'_>, name: &str, hypervisor: &Hypervisor, words: &[&str]) {
    refused_with(rig, name, hypervisor, "", words).await;
}

/// The same with a scratch disk, if `scratch` is a size.
async fn refused_with(rig: &Rig<'_>, name: &str, hypervisor: &Hypervisor, scratch: &str, words: &[&str]) {
    let error = started_with(rig, name, hypervisor, scratch).await.err().or_fail("the refusal of a pod");
    for word in words {
        assert!(error.contains(word), "{word:?} is not in: {error}");
    }
    // A failed boot names the phase that it did not reach, too.
    let reached = |line: &str| line.contains("boot phase") && line.contains("phase=agent");
    assert!(!rig.log().lines().any(reached), "the agent was started");
    Victim::Qemu.gone().await;
}

/// The container that the manifest names, of the node's image `image`, with the mounts that kubelet makes for every one.
async fn app(pod: &mut Pod, tenant: &Tenant, image: &str) -> Result<PodContainer, String> {
    let mounts = vec![pod.directory.etc_hosts("127.0.0.1 localhost\n")];
    let container = pod.try_run_written("app", image, tenant.image(), &FOREVER, mounts).await;
    container.map_err(|status| status.message().to_owned())
}

/// The guest's agent, asked by the host without its shim.
async fn agent_of(pod: &Pod) -> Agent {
    let socket = Path::new("/run/coffer").join(NAMESPACE).join(&pod.id).join("vsock/vsock.sock");
    connect(&Endpoint::Hybrid { socket, port: AGENT_PORT }).await.or_fail("connect to the guest's agent")
}

#[test]
fn the_pod_runs_on_an_honest_host() {
    e2e(async |rig| {
        let tenant = bind("honest");
        let mut pod =
            started(rig, "honest", &hypervisor("honest", &tenant, &tenant.disk())).await.or_fail("start");
        let container = app(&mut pod, &tenant, BUSYBOX).await.or_fail("the container");
        assert_eq!(container.exec(&["echo", "here"]).await, "here\n");
        pod.remove().await;
    });
}

#[test]
fn initdata_that_the_report_does_not_show_ends_the_boot() {
    e2e(async |rig| {
        let tenant = bind("swapped");
        let hypervisor = hypervisor("swapped", &tenant, &tenant.other_disk(ALLOW_ALL));
        refused(rig, "swapped", &hypervisor, &["initdata", &tenant.host_data()]).await;
    });
}

#[test]
fn a_second_initdata_disk_ends_the_boot_and_so_does_none() {
    e2e(async |rig| {
        let tenant = bind("two");
        let other = tenant.other_disk(ALLOW_ALL);
        let two = hypervisor("two", &tenant, &tenant.disk()).disk("second", &other, INITDATA);
        refused(rig, "two", &two, &["have the same serial number"]).await;
        rig.forget_log();
        refused(rig, "two", &Hypervisor::new("none").reports(&tenant.host_data()), &["initdata"]).await;
    });
}

#[test]
fn initdata_without_a_policy_ends_the_boot() {
    e2e(async |rig| {
        let tenant = Tenant::with_documents("lawless", &[("aa.toml", "")]);
        let hypervisor = hypervisor("lawless", &tenant, &tenant.disk());
        refused(rig, "lawless", &hypervisor, &["this image runs no pod without a policy in its initdata"])
            .await;
    });
}

#[test]
fn a_word_more_on_the_command_line_ends_the_boot() {
    e2e(async |rig| {
        let tenant = bind("words");
        for word in ["agent.debug_console", "agent.log_vport=1025", "quiet"] {
            rig.forget_log();
            let hypervisor = hypervisor("words", &tenant, &tenant.disk());
            let changed = hypervisor.replace("console=null", &format!("console=null {word}"));
            let key = word.split('=').next().unwrap_or_default();
            refused(rig, "words", &changed, &["command line", key]).await;
        }
    });
}

#[test]
fn a_device_that_the_pod_has_no_use_for_ends_the_boot() {
    e2e(async |rig| {
        let tenant = bind("devices");
        for device in ["virtio-rng-pci", "virtio-serial-pci", "edu", "e1000"] {
            rig.forget_log();
            let more = hypervisor("devices", &tenant, &tenant.disk()).words(&["-device", device]);
            refused(rig, "devices", &more, &["PCI device"]).await;
        }
        rig.forget_log();
        let hypervisor = hypervisor("devices", &tenant, &tenant.disk());
        let disk = hypervisor.file("surplus.img", &[0; 4096]);
        let words = ["block device", "surplus"];
        refused(rig, "devices", &hypervisor.disk("surplus", &disk, "surplus"), &words).await;
    });
}

/// Bound to a scratch disk of 128 MiB.
fn bind_scratch(name: &str) -> Tenant {
    Tenant::bind_as(&Binding { name, image: BUSYBOX, scratch: "128Mi", ..Binding::default() })
}

#[test]
fn a_scratch_disk_that_is_not_the_declared_one_ends_the_boot() {
    e2e(async |rig| {
        let tenant = bind_scratch("scratch-other");
        let honest = || hypervisor("scratch-other", &tenant, &tenant.disk());
        for (given, words) in [
            ("", &["declares a scratch disk of 128 MiB", "the VM has none"][..]),
            ("64Mi", &["declares a scratch disk of 128 MiB", "67108864 bytes"]),
            ("256Mi", &["declares a scratch disk of 128 MiB", "268435456 bytes"]),
        ] {
            rig.forget_log();
            refused_with(rig, "scratch-other", &honest(), given, words).await;
        }
        rig.forget_log();
        let second = honest();
        let file = second.file("second.img", &[0; 4096]);
        let second = second.disk("second", &file, ScratchSize::SERIAL);
        refused_with(rig, "scratch-other", &second, "128Mi", &["one disk too many"]).await;
        rig.forget_log();
        let undeclared = bind("scratch-none");
        let hypervisor = hypervisor("scratch-none", &undeclared, &undeclared.disk());
        refused_with(
            rig,
            "scratch-none",
            &hypervisor,
            "128Mi",
            &["the VM has a scratch disk", "declares none"],
        )
        .await;
    });
}

#[test]
fn what_the_host_puts_on_a_scratch_disk_is_nothing_to_the_guest() {
    e2e(async |rig| {
        let tenant = bind_scratch("scratch-full");
        let planted = hypervisor("scratch-full", &tenant, &tenant.disk());
        // QEMU can write to what is in its working directory.
        let file = planted.file("planted.img", &b"PLANTED!".repeat(1 << 20));
        let planted = planted
            .before(format!("cp {} planted.img && truncate -s 128M planted.img", file.display()))
            .replace("/dev/fdset/16384", "planted.img");
        let mut pod = started_with(rig, "scratch-full", &planted, "128Mi").await.or_fail("start");
        let mounts = vec![
            pod.directory.etc_hosts("127.0.0.1 localhost\n"),
            pod.directory.empty_dir("cache", "/cache"),
            pod.directory.memory_dir("quick", "/quick"),
        ];
        let container = pod.try_run_written("app", BUSYBOX, tenant.image(), &FOREVER, mounts).await;
        let container = container.or_fail("the container");
        // Under the policy, the one is on the disk and the other is not.
        let mounted = container.exec(&["cat", "/proc/mounts"]).await;
        let kind = |place: &str| {
            let line = mounted.lines().find(|line| line.split(' ').nth(1) == Some(place));
            line.and_then(|line| line.split(' ').nth(2)).map(str::to_owned)
        };
        assert_eq!(
            (kind("/cache").as_deref(), kind("/quick").as_deref()),
            (Some("ext4"), Some("tmpfs")),
            "{mounted}"
        );
        assert_eq!(container.exec(&["sh", "-c", "ls -A /cache"]).await, "");
        container
            .exec(&["sh", "-c", "seq 60000 | sed s/.*/SECRET/ > /cache/x && cp /cache/x /x && sync"])
            .await;
        let qemu = Victim::Qemu.processes().first().map(|process| process.pid).or_fail("QEMU");
        let written = fs::read(format!("/proc/{qemu}/cwd/planted.img")).or_fail("the disk");
        let holds = |text: &[u8]| written.windows(text.len()).any(|window| window == text);
        assert!(!holds(b"SECRET\nSECRET"), "the disk has what the pod wrote");
        assert_ne!(written[1024..2048], b"PLANTED!".repeat(128)[..], "nothing was written");
        pod.remove().await;
    });
}

#[test]
fn another_image_under_the_same_name_starts_no_container() {
    e2e(async |rig| {
        // Bound to busybox's one layer; the host has thirty under that name.
        let tenant = Tenant::bind("image", LAYERED);
        let mut pod =
            started(rig, "image", &hypervisor("image", &tenant, &tenant.disk())).await.or_fail("start");
        let error = app(&mut pod, &tenant, LAYERED).await.err().or_fail("the refusal of a container");
        assert!(error.contains("policy") && error.contains("storages"), "{error}");
        pod.remove().await;
    });
}

#[test]
fn a_disk_of_the_hosts_cannot_be_mounted_even_where_everything_is_allowed() {
    e2e(async |rig| {
        // A dev image, without a policy.
        let mut pod = rig.pod("raw").await.start().await;
        pod.run("app", BUSYBOX, &FOREVER, vec![]).await;
        let agent = agent_of(&pod).await;
        for (driver, source) in [("blk", "/dev/sda"), ("blk", "/dev/vda"), ("mmioblk", "/dev/sda")] {
            let storage = Storage {
                driver: driver.to_owned(),
                source: source.to_owned(),
                fstype: "erofs".to_owned(),
                mount_point: "/run/raw".to_owned(),
                options: vec!["ro".to_owned()],
                ..Storage::default()
            };
            let mut request = hosts_own(&pod, &["raw"], vec![]);
            request.storages.insert(0, storage);
            let error =
                agent.create_container(request).await.err().or_fail("the refusal of a raw disk").to_string();
            assert!(error.contains(source) || error.contains("driver"), "{error}");
        }
        pod.remove().await;
    });
}

/// A container that the host makes of the sandbox's bundle in its own way: with `layers`, containerd's user and
/// capabilities, under an id that ends in `last`.
fn hosts_own(pod: &Pod, last: &[&str], layers: Vec<RootHash>) -> CreateContainerRequest {
    const TYPE: &str = "io.kubernetes.cri.container-type";
    let bundle = Path::new("/run/containerd/io.containerd.runtime.v2.task").join(NAMESPACE).join(&pod.id);
    let mut spec = Spec::load(bundle.join("config.json")).or_fail("the sandbox's spec");
    let annotation = |spec: &mut Spec, value: &str| {
        let mut all: HashMap<String, String> = spec.annotations().clone().unwrap_or_default();
        all.insert(TYPE.to_owned(), value.to_owned());
        spec.set_annotations(Some(all));
    };
    // As what it is, the shim would ask for the measured one.
    annotation(&mut spec, "container");
    let id = format!("{:0>64x}", last.concat().len());
    let layers = if layers.is_empty() { vec!["0".repeat(64).parse().or_fail("a root hash")] } else { layers };
    let facts =
        SandboxFacts { namespace: NAMESPACE, seccomp: false, scratch: false, volumes: VolumeJudge::Engine };
    let stat =
        |_: &Path| Some(HostFile { kind: FileKind::File, gid: 0, mode: 0o644, medium: None, empty: None });
    let guest =
        translate(&id, &spec, &facts, &GuestRootfs::Layers(layers), &stat).or_fail("translate the spec");
    let mut request = guest.into_request(&id);
    if let Some(oci) = request.OCI.as_mut() {
        oci.Annotations.insert(TYPE.to_owned(), "sandbox".to_owned());
    }
    request
}

#[test]
fn the_hosts_own_pause_container_is_refused() {
    e2e(async |rig| {
        let tenant = bind("pause");
        let mut pod =
            started(rig, "pause", &hypervisor("pause", &tenant, &tenant.disk())).await.or_fail("start");
        app(&mut pod, &tenant, BUSYBOX).await.or_fail("the container");
        // The layers are the pod's own; all else is what containerd gives a pause container.
        let request = hosts_own(&pod, &["p"], tenant.layers());
        let error =
            agent_of(&pod).await.create_container(request).await.err().or_fail("the refusal").to_string();
        for fault in ["storages", "OCI.Root.Path", "OCI.Process.User", "OCI.Process.Capabilities"] {
            assert!(error.contains(fault), "{fault:?} is not in: {error}");
        }
        pod.remove().await;
    });
}

#[test]
fn one_byte_of_a_layer_costs_its_reader_an_error_and_is_told_outside() {
    e2e(async |rig| {
        let tenant = bind("flipped");
        let mut pod =
            started(rig, "flipped", &hypervisor("flipped", &tenant, &tenant.disk())).await.or_fail("start");
        let container = app(&mut pod, &tenant, BUSYBOX).await.or_fail("the container");
        let root = tenant.layers()[0];
        let (file, at) = converted_layer(root, b"user:x:1000:\n");
        let flipped = Flipped::new(&file, at);
        let code = container.exec_code(&["cat", "/etc/group"]).await;
        rig.logged(&["level=error", &root.to_string(), "block", &pod.id]).await;
        drop(flipped);
        assert_ne!(code, 0, "a changed file was read");
        assert_eq!(container.exec_code(&["cat", "/etc/passwd"]).await, 0, "another file of the layer");
        pod.remove().await;
    });
}

#[test]
fn no_node_that_a_container_makes_leads_to_a_device() {
    e2e(async |rig| {
        let tenant = bind("nodes");
        let mut pod =
            started(rig, "nodes", &hypervisor("nodes", &tenant, &tenant.disk())).await.or_fail("start");
        let container = app(&mut pod, &tenant, BUSYBOX).await.or_fail("the container");
        // The right to make nodes is among those that containerd gives everybody, and in /dev they would work.
        assert_eq!(container.exec_code(&["mknod", "/dev/other-null", "c", "1", "3"]).await, 0);
        assert_eq!(container.exec(&["sh", "-c", "echo x > /dev/other-null; cat /dev/other-null"]).await, "");
        let misc = container.exec(&["sh", "-c", "ls /sys/class/misc"]).await;
        assert!(misc.contains("vsock"), "{misc}");
        for (kind, major, minor) in
            [("b", "254", "0"), ("b", "8", "0"), ("b", "252", "0"), ("c", "10", "124"), ("c", "1", "1")]
        {
            let script = format!(
                "mknod /dev/node {kind} {major} {minor} && dd if=/dev/node of=/dev/null bs=1 count=1"
            );
            assert_ne!(container.exec_code(&["sh", "-c", &script]).await, 0, "{kind} {major}:{minor}");
        }
        pod.remove().await;
    });
}

#[test]
fn byte_code_in_acpi_tables_reaches_nothing_of_the_guest() {
    e2e(async |rig| {
        let tenant = bind("acpi");
        let hypervisor = hypervisor("acpi", &tenant, &tenant.disk());
        // The tables of guest-image/kernel/acpi-attack: what they read they send out by an I/O port of the host's.
        let secret = hypervisor.file("secret", b"a secret of the guest: 32 bytes.");
        let loader = format!("loader,file={},addr=0x18000000,force-raw=on", secret.display());
        let mut attacking = hypervisor.words(&[
            "-device",
            &loader,
            "-chardev",
            "file,id=sent,path=sent",
            "-device",
            "isa-debugcon,iobase=0xe9,chardev=sent",
        ]);
        for name in ["read", "write"] {
            let source = workspace().join("guest-image/kernel/acpi-attack").join(name).with_extension("asl");
            let compiled = attacking.file(name, b"");
            let output = Command::new("iasl").arg("-p").arg(&compiled).arg(source).output().or_fail("iasl");
            assert!(output.status.success(), "iasl: {}", String::from_utf8_lossy(&output.stderr));
            attacking = attacking.words(&["-acpitable", &format!("file={}.aml", compiled.display())]);
        }
        let mut pod = started(rig, "acpi", &attacking).await.or_fail("start");
        app(&mut pod, &tenant, BUSYBOX).await.or_fail("the container");
        // Each attack sends a letter when it begins, and what it has got after that. QEMU writes into its own directory.
        let sent = format!("/run/coffer/{NAMESPACE}/{}/vm/sent", pod.id);
        assert_eq!(fs::read_to_string(&sent).or_fail("what was sent"), "rwk");
        pod.remove().await;
    });
}
