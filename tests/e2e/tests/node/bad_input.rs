//! What is wrong with a node, an image, a pod or an agent, and the words in which a user is told.

use std::fs;
use std::path::Path;

use e2e::{
    Api, Artefacts, BUSYBOX, Bundle, FullDirectory, ImageVariant, MemoryCgroup, OrFail, Output, PodDirectory,
    Rig, Run, ShimProcess, Task, Victim, e2e, fixture,
};

const FOREVER: [&str; 2] = ["sleep", "100000"];
const NAMESPACE: &str = "default";

/// Runs a container with a node configuration that must not work.
async fn refused_with_config(id: &str, config: &Path) -> Output {
    Run::new(id, BUSYBOX, &["true"]).config(config).refused().await
}

/// Runs a container on an image that must not work.
async fn refused_with_image(rig: &Rig<'_>, image: &ImageVariant, id: &str) -> Output {
    refused_with_config(id, &rig.config().path("image", image.path()).write(id)).await
}

#[test]
fn an_unknown_config_key_is_named_with_its_line_and_the_one_that_was_meant() {
    e2e(async |rig| {
        let config = rig.config().set("default_vcpu", "1").write("unknown-key");
        let output = refused_with_config("unknown-key", &config).await;
        // The last line.
        let place =
            format!("unknown-key.toml:{}", fs::read_to_string(config).or_fail("its text").lines().count());
        output.failed_with(&[&place, "unknown key `default_vcpu`", "default_vcpus"]);
    });
}

#[test]
fn a_config_file_that_is_named_and_missing_is_no_default() {
    e2e(async |_| {
        let output = refused_with_config("no-config", Path::new("/run/e2e/none.toml")).await;
        output.failed_with(&["/run/e2e/none.toml"]);
    });
}

#[test]
fn a_missing_image_kernel_or_root_is_named() {
    e2e(async |rig| {
        let config = rig.config().path("image", Path::new("/no/such/image")).write("no-image");
        refused_with_config("no-image", &config).await.failed_with(&["/no/such/image"]);
        for file in ["vmlinuz", "root.img"] {
            let image = ImageVariant::of(&rig.artefacts.image, "incomplete").without(file);
            let missing = image.path().join(file).display().to_string();
            refused_with_image(rig, &image, "incomplete").await.failed_with(&[&missing]);
        }
    });
}

#[test]
fn missing_firmware_is_named() {
    e2e(async |rig| {
        let config = rig.config().path("firmware", Path::new("/no/such/OVMF.fd")).write("no-firmware");
        refused_with_config("no-firmware", &config).await.failed_with(&["/no/such/OVMF.fd"]);
    });
}

#[test]
fn a_host_without_confidential_computing_refuses_and_names_what_is_missing() {
    e2e(async |rig| {
        for (tee, words) in [("tdx", "Intel TDX"), ("snp", "SEV-SNP"), ("auto", "tee = \"auto\"")] {
            let config = rig.config().set("tee", &format!("{tee:?}")).write(tee);
            refused_with_config(&format!("tee-{tee}"), &config).await.failed_with(&[words]);
            assert!(!rig.log().contains("phase=spawned"), "QEMU was started");
        }
    });
}

#[test]
fn initdata_is_handed_over_and_what_is_none_is_refused() {
    /// `coffer initdata build --file aa.toml --form annotation`, of a file with an empty table.
    const GOOD: &str = "H4sIAAAAAAAC/xXJQQqAIBAAwPu+QvYBYtShSy+RiKVMJXVBl96vXmd+V1vkog6FRi/aIFDyXKOEPK0FWvcNAexDQicgkRbOCWcighX+XLluLm/0bfywDmFjv8RTAAAA";
    e2e(async |_| {
        let run = |id, value: &str| {
            let annotation = format!("--annotation=io.katacontainers.config.hypervisor.cc_init_data={value}");
            Run::new(id, BUSYBOX, &["cat", "/sys/block/vdb/serial"]).flag(&annotation)
        };
        let output = run("initdata", GOOD).to_end().await.succeeded();
        assert_eq!(output.trim(), "coffer-initdata");
        for (id, value) in [("no-base64", "H4sI*"), ("no-gzip", "AAAA")] {
            run(id, value).refused().await.failed_with(&["cc_init_data"]);
        }
    });
}

#[test]
fn a_root_that_was_changed_is_refused_by_the_guest_and_the_shim_says_so() {
    e2e(async |rig| {
        // The superblock of EROFS is at 1024: the first block that the guest reads.
        let image = ImageVariant::of(&rig.artefacts.image, "changed").with_flipped_bit("root.img", 1024);
        refused_with_image(rig, &image, "changed").await.failed_with(&["verity"]);
    });
}

#[test]
fn a_manifest_that_names_another_root_hash_is_refused_before_boot() {
    e2e(async |rig| {
        let image = ImageVariant::of(&rig.artefacts.image, "otherhash").with_another_root_hash();
        refused_with_image(rig, &image, "otherhash").await.failed_with(&["image.json", "root hash", "0000"]);
        assert!(!rig.log().contains("phase=spawned"), "QEMU was started");
    });
}

#[test]
fn a_missing_qemu_is_named() {
    e2e(async |rig| {
        let config = rig.config().path("qemu", Path::new("/no/such/qemu")).write("no-qemu");
        refused_with_config("no-qemu", &config).await.failed_with(&["/no/such/qemu"]);
    });
}

#[test]
fn a_qemu_that_is_too_old_is_named_with_its_version() {
    e2e(async |rig| {
        let qemu = fixture("fake-qemu-too-old");
        let config = rig.config().path("qemu", &qemu).set("accel", "\"tcg\"").write("old-qemu");
        refused_with_config("old-qemu", &config).await.failed_with(&["fake-qemu-too-old", "7.2.13"]);
    });
}

#[test]
fn what_qemu_says_when_it_gives_up_reaches_the_user() {
    e2e(async |rig| {
        let qemu = fixture("fake-qemu-exits-at-once");
        let config = rig.config().path("qemu", &qemu).set("accel", "\"tcg\"").write("quits");
        refused_with_config("quits", &config).await.failed_with(&["'flux-capacitor' is not a valid device"]);
    });
}

#[test]
fn a_missing_vsock_program_is_named() {
    e2e(async |rig| {
        if Path::new("/dev/vhost-vsock").exists() {
            return; // This machine needs none.
        }
        let program = Path::new("/no/such/vsock");
        let config = rig.config().path("vhost_device_vsock", program).write("no-vsock");
        refused_with_config("no-vsock", &config).await.failed_with(&[
            "\"vsock\"",
            "/no/such",
            "/dev/vhost-vsock",
        ]);
    });
}

#[test]
fn a_vm_larger_than_its_pods_cgroup_is_refused_with_both_sizes() {
    e2e(async |rig| {
        let cgroup = MemoryCgroup::with_limit("tight", 64 << 20);
        let pod = rig.pod("tight").await.cgroup_parent(cgroup.parent()).resources(512 << 20, 1);
        let status = pod.try_start().await.err().or_fail("an error");
        for word in ["cgroup", "64 MiB", "overhead.podFixed"] {
            assert!(status.message().contains(word), "{}", status.message());
        }
    });
}

#[test]
fn a_malformed_spec_is_an_error_with_its_file() {
    e2e(async |rig| {
        for (id, text) in
            [("cut-off", r#"{"ociVersion": "1.2.0", "process": {"#), ("wrong-type", r#"{"ociVersion": 7}"#)]
        {
            let bundle = Bundle::with_spec(id, text);
            let shim = ShimProcess::new(&rig.artefacts, NAMESPACE, &bundle);
            let reply = shim.start().await;
            let error = if reply.code == 0 {
                let task = Task::connect(&reply.bare_address(), Api::V2).await;
                let error = task.create(&bundle).await.err().or_fail("an error");
                let _ = task.shutdown(id).await;
                error
            } else {
                reply.stderr
            };
            assert!(error.contains("config.json"), "{id}: {error}");
            Victim::Shim.gone().await;
            shim.delete().await;
        }
    });
}

#[test]
fn a_mount_of_a_host_directory_is_refused_by_its_path() {
    e2e(async |rig| {
        let mut pod = rig.pod("hostpath").await.start().await;
        let mount = pod.directory.host_path("/data");
        let status = pod.try_run("hostpath", BUSYBOX, &FOREVER, vec![mount]).await.err().or_fail("an error");
        for word in ["/data", "/srv/e2e-host-path"] {
            assert!(status.message().contains(word), "{}", status.message());
        }
        pod.run("fine", BUSYBOX, &FOREVER, vec![]).await.exec(&["true"]).await;
        pod.remove().await;
    });
}

/// Whatever a pod calls the place: files of the host are not the engine's, and another pod's are not its own.
#[test]
fn files_of_the_host_and_of_other_pods_do_not_reach_the_guest() {
    e2e(async |rig| {
        let mut pod = rig.pod("curious").await.start().await;
        let other = PodDirectory::new("uid-other");
        for (number, mount) in [
            PodDirectory::file("/etc/shadow", "/etc/hosts"),
            PodDirectory::file("/etc/passwd", "/dev/termination-log"),
            other.configmap("cfg", &[("key", "value")], "/cfg"),
        ]
        .into_iter()
        .enumerate()
        {
            let place = mount.container_path.clone();
            let name = format!("curious-{number}");
            let status = pod.try_run(&name, BUSYBOX, &FOREVER, vec![mount]).await.err().or_fail("an error");
            assert!(status.message().contains(&place), "{}", status.message());
        }
        pod.run("fine", BUSYBOX, &FOREVER, vec![]).await.exec(&["true"]).await;
        pod.remove().await;
    });
}

#[test]
fn an_annotation_that_is_not_allowed_changes_nothing_and_is_logged() {
    e2e(async |rig| {
        let key = "io.katacontainers.config.hypervisor.default_vcpus";
        let mut pod = rig.pod("annotated").await.annotation(key, "2").start().await;
        let container = pod.run("annotated", BUSYBOX, &FOREVER, vec![]).await;
        assert_eq!(container.exec(&["nproc"]).await, "1\n");
        rig.logged(&[key, "allowed_annotations"]).await;
        pod.remove().await;
    });
}

#[test]
fn an_annotation_that_the_node_allows_counts() {
    e2e(async |rig| {
        let key = "io.katacontainers.config.hypervisor.default_vcpus";
        let config = rig.config().set("allowed_annotations", &format!("[{key:?}]")).write("allowed");
        let run = Run::new("allowed", BUSYBOX, &["nproc"])
            .config(&config)
            .flag("--annotation")
            .flag(&format!("{key}=2"));
        assert_eq!(run.to_end().await.succeeded(), "2\n");
    });
}

/// An image whose agent misbehaves as `fault` says: only the stand-in does.
fn with_agent(fault: &str) -> ImageVariant {
    ImageVariant::of(&Artefacts::stand_ins_image(), "misbehaving")
        .kernel_words(&format!("coffer.standin={fault}"))
}

#[test]
fn silence_of_qmp_or_agent_ends_the_boot_and_names_the_phase() {
    e2e(async |rig| {
        // Both wait for the same limit; together they take as long as one.
        let qemu = fixture("fake-qemu-silent");
        let config = rig.config().path("qemu", &qemu).set("accel", "\"tcg\"").write("mute-qmp");
        let image = with_agent("never-answer");
        let (qmp, agent) = tokio::join!(
            refused_with_config("mute-qmp", &config),
            refused_with_image(rig, &image, "mute-agent")
        );
        qmp.failed_with(&["phase \"qmp\"", "nothing moved"]);
        agent.failed_with(&["phase \"agent\"", "nothing moved"]);
    });
}

#[test]
fn an_agent_that_answers_garbage_is_given_up() {
    e2e(async |rig| {
        refused_with_image(rig, &with_agent("garbage"), "garbage").await.failed_with(&["agent"]);
    });
}

#[test]
fn an_agent_that_answers_too_much_is_given_up_in_bounded_memory() {
    e2e(async |rig| {
        let image = with_agent("oversized-reply-at=CreateSandbox");
        refused_with_image(rig, &image, "oversized").await.failed_with(&["agent"]);
    });
}

#[test]
fn an_agent_that_hangs_up_in_mid_boot_is_told() {
    e2e(async |rig| {
        let image = with_agent("hang-up-at=CreateSandbox");
        refused_with_image(rig, &image, "hangup").await.failed_with(&["agent"]);
    });
}

#[test]
fn an_agent_that_dies_at_the_first_container_takes_the_vm_with_it() {
    e2e(async |rig| {
        let image = with_agent("die-at=CreateContainer");
        refused_with_image(rig, &image, "dying").await.failed_with(&["agent"]);
        Victim::Qemu.gone().await;
    });
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    e2e(async |rig| {
        let mut bundle = Bundle::new("unread", &FOREVER);
        let shim = ShimProcess::new(&rig.artefacts, NAMESPACE, &bundle).debug();
        let task = Task::connect(&shim.start().await.bare_address(), Api::V2).await;
        task.create(&bundle).await.or_fail("Create");
        task.start("unread", "").await.or_fail("Start");
        for number in 0..40 {
            let exec = format!("exec-{number}");
            task.exec("unread", &exec, &["true"]).await.or_fail("Exec");
            task.start("unread", &exec).await.or_fail("Start of an exec");
            task.wait("unread", &exec).await.or_fail("Wait for an exec");
            task.delete("unread", &exec).await.or_fail("Delete of an exec");
        }
        task.remove("unread").await;
        let _ = task.shutdown("unread").await;
        Victim::Shim.gone().await;
        assert!(bundle.read_log().contains("phase=running"), "the fifo has no log in it");
        shim.delete().await;
    });
}

#[test]
fn the_same_id_twice_is_refused_and_the_first_lives_on() {
    e2e(async |rig| {
        let bundle = Bundle::new("twice", &FOREVER);
        let shim = ShimProcess::new(&rig.artefacts, NAMESPACE, &bundle);
        let task = Task::connect(&shim.start().await.bare_address(), Api::V2).await;
        task.create(&bundle).await.or_fail("Create");
        task.start("twice", "").await.or_fail("Start");
        let error = task.create(&bundle).await.err().or_fail("an error");
        assert!(error.contains("already exists") && error.contains("twice"), "{error}");
        let error = task.start("twice", "").await.err().or_fail("an error");
        assert!(error.contains("twice"), "{error}");
        task.exec("twice", "same", &FOREVER).await.or_fail("Exec");
        let error = task.exec("twice", "same", &FOREVER).await.err().or_fail("an error");
        assert!(error.contains("already exists") && error.contains("same"), "{error}");
        task.delete("twice", "same").await.or_fail("Delete of an exec that never ran");

        task.remove("twice").await;
        let error = task.delete("twice", "").await.err().or_fail("an error");
        assert!(error.contains("NOT_FOUND") && error.contains("twice"), "{error}");
        let _ = task.shutdown("twice").await;
        Victim::Shim.gone().await;
        for _ in 0..2 {
            assert_eq!(shim.delete().await.code, 0, "delete can be repeated");
        }
    });
}

#[test]
fn a_full_run_directory_is_told_and_leaves_nothing() {
    e2e(async |_| {
        let full = FullDirectory::at(Path::new("/run/coffer"));
        let output = Run::new("full", BUSYBOX, &["true"]).refused().await;
        drop(full);
        output.failed_with(&["No space left on device", "/run/coffer"]);
        Run::new("again", BUSYBOX, &["true"]).to_end().await.succeeded();
    });
}
