//! CRI-O's sequence (`runtime_type = "vm"`): a shim per pod, called without containerd, task API v2.

use std::fs;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use containerd_shim_protos::api::Mount;
use e2e::{Api, Bundle, OrFail, Rig, ShimProcess, Task, Victim, e2e, until};
use serde_json::{Value, json};

const FOREVER: [&str; 2] = ["sleep", "100000"];
/// CRI-O works in containerd's default namespace.
const NAMESPACE: &str = "default";

/// Starts a pod's sandbox; the address of its shim, and the shim.
async fn started(rig: &Rig<'_>, sandbox: &Bundle) -> (String, Task) {
    let address = ShimProcess::new(&rig.artefacts, NAMESPACE, sandbox).start().await.bare_address();
    let task = Task::connect(&address, Api::V2).await;
    task.create(sandbox).await.or_fail("Create of the sandbox");
    task.start(&sandbox.id, "").await.or_fail("Start of the sandbox");
    (address, task)
}

#[test]
fn a_pod_of_two_containers_runs_from_start_to_shutdown() {
    e2e(async |rig| {
        let sandbox = Bundle::of_crio("crio-pod", "crio-pod", &FOREVER);
        let (address, task) = started(rig, &sandbox).await;

        // The files that CRI-O mounts into every container are there.
        let command = "[ -f /run/.containerenv ] && read -r name < /etc/hostname && [ $name = e2e ] && \
            read -r key server < /etc/resolv.conf && [ $server = 192.0.2.53 ] && [ -d /dev/shm ] && exit 8";
        let container = Bundle::of_crio("crio-web", "crio-pod", &["sh", "-c", command]);
        let second = ShimProcess::new(&rig.artefacts, NAMESPACE, &container).start().await.bare_address();
        assert_eq!(second, address, "a pod has one shim");
        task.create(&container).await.or_fail("Create of the container");
        let pid = task.start("crio-web", "").await.or_fail("Start of the container").pid;
        assert_ne!(pid, 0);
        assert_eq!(task.wait("crio-web", "").await.or_fail("Wait").exit_status, 8);
        assert_eq!(task.state("crio-web").await.or_fail("State").exit_status, 8);
        assert_eq!(task.delete("crio-web", "").await.or_fail("Delete").exit_status, 8);

        let side = Bundle::of_crio("crio-side", "crio-pod", &FOREVER);
        ShimProcess::new(&rig.artefacts, NAMESPACE, &side).start().await.bare_address();
        task.create(&side).await.or_fail("Create of another container");
        task.start("crio-side", "").await.or_fail("Start of another container");
        task.exec("crio-side", "probe", &["sh", "-c", "exit 3"]).await.or_fail("Exec");
        task.start("crio-side", "probe").await.or_fail("Start of an exec");
        assert_eq!(task.wait("crio-side", "probe").await.or_fail("Wait for an exec").exit_status, 3);
        task.delete("crio-side", "probe").await.or_fail("Delete of an exec");
        task.remove("crio-side").await;

        // The sandbox's own container is the guest image's, whatever the bundle has: there is no shell in it.
        task.exec("crio-pod", "probe", &["sh", "-c", "exit 3"]).await.or_fail("Exec in the sandbox");
        let refusal = task.start("crio-pod", "probe").await.err().or_fail("an error");
        assert!(refusal.contains("sh"), "{refusal}");

        task.remove("crio-pod").await;
        // The answer may be cut off by the shim's own end.
        let _ = task.shutdown("crio-pod").await;
        Victim::Shim.gone().await;
        assert_eq!(ShimProcess::new(&rig.artefacts, NAMESPACE, &sandbox).delete().await.code, 0);
    });
}

/// CRI-O tells the sums over the containers as JSON.
#[test]
fn the_vm_has_the_size_of_the_pods_limits() {
    e2e(async |rig| {
        let sums = r#"{"cpu_period":100000,"cpu_quota":200000,"cpu_shares":2048,"memory_limit_in_bytes":3221225472}"#;
        let sandbox = Bundle::of_crio("crio-sized", "crio-sized", &FOREVER);
        edit(&sandbox, |spec| spec["annotations"]["io.kubernetes.cri-o.PodLinuxResources"] = sums.into());
        let (_, task) = started(rig, &sandbox).await;

        let look =
            "exit $(awk -v cpus=$(nproc) '/MemTotal/ { print cpus * 10 + ($2 > 3000000) }' /proc/meminfo)";
        let container = Bundle::of_crio("crio-large", "crio-sized", &["sh", "-c", look]);
        edit(&container, |spec| {
            spec["linux"]["resources"] = json!({
                "cpu": { "quota": 200_000, "period": 100_000 },
                "memory": { "limit": 3_221_225_472_i64 },
            });
        });
        ShimProcess::new(&rig.artefacts, NAMESPACE, &container).start().await.bare_address();
        task.create(&container).await.or_fail("Create of a container with all of the pod's limits");
        task.start("crio-large", "").await.or_fail("Start of the container");
        assert_eq!(task.wait("crio-large", "").await.or_fail("Wait").exit_status, 21);
        task.delete("crio-large", "").await.or_fail("Delete");
        task.remove("crio-sized").await;
        let _ = task.shutdown("crio-sized").await;
        Victim::Shim.gone().await;
        assert_eq!(ShimProcess::new(&rig.artefacts, NAMESPACE, &sandbox).delete().await.code, 0);
    });
}

/// Changes a bundle's specification.
fn edit(bundle: &Bundle, change: impl FnOnce(&mut Value)) {
    let path = bundle.path.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&path).or_fail("a spec")).or_fail("a spec");
    change(&mut spec);
    fs::write(&path, spec.to_string()).or_fail("write a spec");
}

/// CRI-O copies a pod's annotations into the specification of its sandbox, over its own.
#[test]
fn a_pod_that_says_it_is_another_gets_nothing_of_it() {
    const FORGED: [(&str, &str); 5] = [
        ("io.kubernetes.cri-o.SandboxID", "crio-victim"),
        ("io.kubernetes.cri-o.ContainerType", "container"),
        ("io.kubernetes.cri.sandbox-id", "crio-victim"),
        ("io.kubernetes.cri.sandbox-uid", "uid-crio-victim"),
        ("io.kubernetes.pod.uid", "uid-crio-victim"),
    ];
    e2e(async |rig| {
        let victim = Bundle::of_crio("crio-victim", "crio-victim", &FOREVER);
        let (address, task) = started(rig, &victim).await;

        let thief = Bundle::of_crio_annotated("crio-thief", "crio-thief", &FOREVER, &FORGED);
        let shim = ShimProcess::new(&rig.artefacts, NAMESPACE, &thief);
        let own = shim.start().await.bare_address();
        assert_ne!(own, address, "another pod has another shim");
        // Who asks the other pod's shim all the same is refused.
        let container = Bundle::of_crio_annotated("crio-app", "crio-thief", &FOREVER, &FORGED);
        for stranger in [&thief, &container] {
            let refusal = task.create(stranger).await.err().or_fail("an error");
            for word in [stranger.id.as_str(), "is of sandbox crio-thief", "crio-victim"] {
                assert!(refusal.contains(word), "{refusal}");
            }
        }
        // Nor is it a container of nobody's.
        let type_of_containerd = [("io.kubernetes.cri.container-type", "x")];
        let unclear =
            Bundle::of_crio_annotated("crio-unclear", "crio-unclear", &FOREVER, &type_of_containerd);
        let reply = ShimProcess::new(&rig.artefacts, NAMESPACE, &unclear).start().await;
        assert_ne!(reply.code, 0, "a server was started");
        assert!(reply.stderr.contains(type_of_containerd[0].0), "{}", reply.stderr);

        let web = Bundle::of_crio("crio-own", "crio-victim", &["sh", "-c", "exit 8"]);
        assert_eq!(ShimProcess::new(&rig.artefacts, NAMESPACE, &web).start().await.bare_address(), address);
        task.create(&web).await.or_fail("Create of the pod's own container");
        task.start("crio-own", "").await.or_fail("Start");
        assert_eq!(task.wait("crio-own", "").await.or_fail("Wait").exit_status, 8);
        task.delete("crio-own", "").await.or_fail("Delete");

        let other = Task::connect(&own, Api::V2).await;
        let _ = other.shutdown("crio-thief").await;
        task.remove("crio-victim").await;
        let _ = task.shutdown("crio-victim").await;
        Victim::Shim.gone().await;
        for bundle in [&victim, &thief] {
            ShimProcess::new(&rig.artefacts, NAMESPACE, bundle).delete().await;
        }
    });
}

#[test]
fn an_image_to_be_pulled_in_the_guest_is_refused_in_clear_words() {
    e2e(async |rig| {
        let bundle = Bundle::of_crio("crio-pull", "crio-pull", &FOREVER);
        let shim = ShimProcess::new(&rig.artefacts, NAMESPACE, &bundle);
        let task = Task::connect(&shim.start().await.bare_address(), Api::V2).await;
        let volume =
            r#"{"volume_type":"image_guest_pull","source":"quay.io/a/b:1","image_pull":{"metadata":{}}}"#;
        let mount = Mount {
            type_: "fuse.nydus-overlayfs".to_owned(),
            source: "overlay".to_owned(),
            options: vec![format!("io.katacontainers.volume={}", STANDARD.encode(volume))],
            ..Mount::default()
        };
        let refusal = task.create_with(&bundle, vec![mount], None).await.err().or_fail("an error");
        for word in ["quay.io/a/b:1", "guest"] {
            assert!(refusal.contains(word), "{refusal}");
        }
        let _ = task.shutdown("crio-pull").await;
        Victim::Shim.gone().await;
        shim.delete().await;
    });
}

/// CRI-O waits for a creation as long as kubelet does, gives it up, and does not come back to it.
#[test]
fn a_pod_that_is_given_up_while_it_boots_leaves_nothing() {
    e2e(async |rig| {
        let bundle = Bundle::of_crio("crio-given-up", "crio-given-up", &FOREVER);
        let shim = ShimProcess::new(&rig.artefacts, NAMESPACE, &bundle);
        let task = Task::connect(&shim.start().await.bare_address(), Api::V2).await;
        let gives_up = async {
            until("QEMU to be there".to_owned(), Duration::from_secs(30), async || {
                (!Victim::Qemu.processes().is_empty()).then_some(())
            })
            .await;
            let refusal = task.delete("crio-given-up", "").await.err().or_fail("an error");
            assert!(refusal.contains("does not exist"), "{refusal}");
            let _ = task.shutdown("crio-given-up").await;
        };
        let (created, ()) = tokio::join!(task.create(&bundle), gives_up);
        created.err().or_fail("a pod that nobody waits for");
        Victim::Qemu.gone().await;
        Victim::Shim.gone().await;
        assert_eq!(shim.delete().await.code, 0);
    });
}

/// CRI-O takes no events: that memory ran out it knows by a file, and before it rotates a log it asks by signal 0 whether the
/// process lives.
#[test]
fn memory_that_ran_out_is_noted_and_a_process_is_asked_for_by_signal_0() {
    e2e(async |rig| {
        let sandbox = Bundle::of_crio("crio-oom", "crio-oom", &FOREVER);
        let (_, task) = started(rig, &sandbox).await;

        // Files on a tmpfs count as the container's memory.
        let fill = ["dd", "if=/dev/zero", "of=/dev/shm/fill", "bs=1M", "count=48"];
        let container = Bundle::of_crio("crio-full", "crio-oom", &fill);
        edit(&container, |spec| {
            spec["linux"]["resources"] = json!({ "memory": { "limit": 33_554_432 } });
            spec["process"]["oomScoreAdj"] = 998.into();
        });
        ShimProcess::new(&rig.artefacts, NAMESPACE, &container).start().await.bare_address();
        task.create(&container).await.or_fail("Create of a container");
        let qemu = Victim::Qemu.processes().into_iter().next().or_fail("QEMU");
        let score = fs::read_to_string(format!("/proc/{}/oom_score_adj", qemu.pid)).or_fail("its score");
        assert_eq!(score.trim(), "998", "whom does the node's kernel end first?");
        task.start("crio-full", "").await.or_fail("Start");
        assert_eq!(task.wait("crio-full", "").await.or_fail("Wait").exit_status, 137);
        assert!(container.path.join("oom").is_file(), "CRI-O shows Error");
        task.kill("crio-full", 0).await.err().or_fail("it has ended");
        task.kill("crio-oom", 0).await.or_fail("the sandbox lives");
        task.delete("crio-full", "").await.or_fail("Delete");
        task.remove("crio-oom").await;
        let _ = task.shutdown("crio-oom").await;
        Victim::Shim.gone().await;
        ShimProcess::new(&rig.artefacts, NAMESPACE, &sandbox).delete().await;
    });
}

#[test]
fn the_sandbox_must_come_first() {
    e2e(async |rig| {
        let bundle = Bundle::of_crio("crio-orphan", "no-such-pod", &FOREVER);
        let shim = ShimProcess::new(&rig.artefacts, NAMESPACE, &bundle);
        let reply = shim.start().await;
        assert_ne!(reply.code, 0, "a server was started");
        for word in ["no-such-pod", "crio-orphan"] {
            assert!(reply.stderr.contains(word), "{}", reply.stderr);
        }
        Victim::Shim.gone().await;
        shim.delete().await;
    });
}
