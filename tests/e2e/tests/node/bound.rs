//! A Deployment's pod that `coffer bind` bound, run by the real containerd's CRI as kubelet asks for it, with a release
//! image and the bound policy in force; and a kubelet that asks for something else.

#[allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]
#[path = "../../../../coffer/tests/corpus/engine.rs"]
mod engine;

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use agent_client::proto::agent::CreateSandboxRequest;
use e2e::{
    Artefacts, BUSYBOX, BoundPod, Cri, Hypervisor, INITDATA, LAYERED, OrFail, Pod, PodContainer, PodRequest,
    Rig, Tenant, e2e,
};
use engine::Agent;
use guest_spec::{FileKind, GuestRootfs, HostFile, SandboxFacts, VolumeJudge, shm_storage, translate};
use k8s_cri::v1::{ContainerConfig, Int64Value, KeyValue};
use measurement::initdata::annotation;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

/// As people write one: paths with and without slashes, fields of the pod in arguments, an image's name by tag.
const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: default
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels: {app: web}
    spec:
      runtimeClassName: coffer-snp
      automountServiceAccountToken: false
      enableServiceLinks: false
      securityContext: {fsGroup: 2000, supplementalGroups: [3000]}
      volumes:
      - {name: cache, emptyDir: {}}
      - {name: settings, configMap: {name: settings}}
      initContainers:
      - name: prepare
        image: nginx:1
        command: [sh, -c, "true"]
      containers:
      - name: app
        image: docker.io/nginx:1
        command: [sh, -c]
        args: ["echo $0 $1; exec sleep 100000", $(POD_NAME), "http://$(POD_IP):80"]
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
        - {name: MODE, value: fast}
        securityContext: {runAsUser: 1000, runAsGroup: 1000, capabilities: {drop: [ALL]}}
        volumeMounts:
        - {name: cache, mountPath: /var/cache/}
        - {name: settings, mountPath: //etc/./app}
        - {name: settings, mountPath: srv/app}
"#;
const NAME: &str = "web-5d9c7b6f4-x2x9k";
const HOST_INITDATA: &str = "coffer-initdata";

/// What is changed, the fault that the guest names, and how.
type Change = (&'static str, &'static str, fn(&mut ContainerConfig));

struct Bound {
    tenant: Tenant,
    pod: BoundPod,
}

fn bind(name: &str) -> Bound {
    let (tenant, text) = Tenant::bind_manifest(name, DEPLOYMENT, &["prepare", "app"]);
    Bound { tenant, pod: BoundPod::of(&text, NAME) }
}

/// Starts the pod on a host whose hardware reports what the tenant bound, and that hands `disk` over as its initdata.
async fn started(
    rig: &Rig<'_>,
    name: &str,
    bound: &Bound,
    disk: &Path,
    hypervisor: &str,
) -> Result<Pod, String> {
    started_by("coffer", rig, name, bound, disk, hypervisor).await
}

/// The same by another handler of the node's.
async fn started_by(
    handler: &str,
    rig: &Rig<'_>,
    name: &str,
    bound: &Bound,
    disk: &Path,
    hypervisor: &str,
) -> Result<Pod, String> {
    let hypervisor =
        Hypervisor::new(hypervisor).reports(&bound.tenant.host_data()).disk("host", disk, HOST_INITDATA);
    rig.config().path("image", &Artefacts::release_image()).path("qemu", &hypervisor.program()).install();
    let started = PodRequest::new(Cri::connect().await, name).handler(handler).try_start().await;
    rig.config().install();
    started.map_err(|status| status.message().to_owned())
}

impl Bound {
    fn config(&self, pod: &Pod, name: &str, address: &str) -> ContainerConfig {
        self.pod.container(pod, name, BUSYBOX, address)
    }
}

async fn runs(pod: &mut Pod, config: &ContainerConfig) -> PodContainer {
    pod.try_run_config(config).await.map_err(|status| status.message().to_owned()).or_fail("a container")
}

/// The engine starts no pause container; the policy takes the one that the shim asks for.
#[test]
fn a_bound_pod_of_the_sandbox_api_runs() {
    e2e(async |rig| {
        let bound = bind("bound-own");
        let disk = bound.tenant.disk();
        let started = started_by("coffer-sandbox", rig, NAME, &bound, &disk, "bound-own").await;
        let mut pod = started.or_fail("start");
        let address = pod.addresses().await.first().or_fail("an address").clone();
        let prepare = bound.config(&pod, "prepare", &address);
        let done = runs(&mut pod, &prepare).await;
        assert_eq!(done.exited().await, 0);
        pod.cri.remove(&done.id).await;
        let mut app = bound.config(&pod, "app", &address);
        let good = std::mem::replace(&mut app.envs[2].value, "slow".to_owned());
        let error = pod.try_run_config(&app).await.err().or_fail("an error").message().to_owned();
        assert!(error.contains("OCI.Process.Env"), "{error}");
        app.envs[2].value = good;
        runs(&mut pod, &app).await;
        pod.remove().await;
    });
}

#[test]
fn a_deployments_pod_runs_as_it_was_bound_and_no_other_container_does() {
    e2e(async |rig| {
        let bound = bind("bound-pod");
        let mut pod = started(rig, NAME, &bound, &bound.tenant.disk(), "bound-pod").await.or_fail("start");
        let address = pod.addresses().await.first().or_fail("an address").clone();
        let app = bound.config(&pod, "app", &address);
        let prepare = bound.config(&pod, "prepare", &address);

        let refused = async |pod: &mut Pod, what: &str, config: &ContainerConfig, fault: &str| {
            let error = pod.try_run_config(config).await.err().or_fail(what).message().to_owned();
            assert!(error.contains("policy") && error.contains(fault), "{what}: {error}");
        };
        refused(&mut pod, "an init container that is left out", &app, "(the time)").await;
        let done = runs(&mut pod, &prepare).await;
        assert_eq!(done.exited().await, 0);
        pod.cri.remove(&done.id).await;

        let changes: [Change; 10] = [
            ("another image", "storages", |c| c.image.get_or_insert_default().image = LAYERED.to_owned()),
            ("another image's name", "Annotations", |c| {
                c.image.get_or_insert_default().user_specified_image = "docker.io/nginx:2".to_owned();
            }),
            ("another value", "OCI.Process.Env", |c| c.envs[2].value = "slow".to_owned()),
            ("one more variable", "OCI.Process.Env", |c| {
                c.envs.push(KeyValue { key: "LD_PRELOAD".to_owned(), value: "/var/cache/x.so".to_owned() });
            }),
            ("another argument", "OCI.Process.Args", |c| c.args[0] = "id".to_owned()),
            ("an address that is none", "OCI.Process.Args", |c| {
                c.args[2] = "http://evil.example.com:80".to_owned()
            }),
            ("another mount", "path", |c| c.mounts[1].container_path = "/bin".to_owned()),
            ("another group", "AdditionalGids", |c| {
                if let Some(context) = c.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
                    context.supplemental_groups.push(0);
                }
            }),
            ("another user", "User.UID", |c| {
                if let Some(context) = c.linux.as_mut().and_then(|linux| linux.security_context.as_mut()) {
                    context.run_as_user = Some(Int64Value { value: 0 });
                }
            }),
            ("a container more", "(the name in its annotations)", |c| {
                c.metadata.get_or_insert_default().name = "more".to_owned();
            }),
        ];
        for (what, fault, change) in changes {
            let mut config = app.clone();
            change(&mut config);
            refused(&mut pod, what, &config, fault).await;
        }
        let container = runs(&mut pod, &app).await;
        assert_eq!(
            container
                .exec(&["sh", "-c", "id -u; id -g; echo $MODE; ls -d /var/cache /etc/app/key /srv/app/key"])
                .await,
            "1000\n1000\nfast\n/etc/app/key\n/srv/app/key\n/var/cache\n"
        );
        pod.remove().await;
    });
}

#[test]
fn a_pod_with_another_name_or_other_initdata_does_not_start() {
    e2e(async |rig| {
        let bound = bind("bound-name");
        let error = started(rig, "other-5d9c7b6f4-x2x9k", &bound, &bound.tenant.disk(), "bound-name").await;
        let error = error.err().or_fail("the refusal of another name");
        assert!(error.contains("hostname"), "{error}");
        rig.forget_log();
        let other =
            bound.tenant.other_disk(include_str!("../../../../guest-image/root/kata-opa/allow-all.rego"));
        let error =
            started(rig, NAME, &bound, &other, "bound-name").await.err().or_fail("the refusal of initdata");
        assert!(error.contains("initdata") && error.contains(&bound.tenant.host_data()), "{error}");
        assert_eq!(INITDATA, "io.katacontainers.config.hypervisor.cc_init_data");
    });
}

/// Of `coffer/tests/corpus`, and what a controller would call a pod of each.
const MANIFESTS: [(&str, &str); 12] = [
    ("pod", "nginx"),
    ("deployment", "nginx-deployment-5d9c7b6f4-x2x9k"),
    ("replicaset", "frontend-x2x9k"),
    ("job", "pi-x2x9k"),
    ("indexed job", "indexed-0-x2x9k"),
    ("cronjob", "hello-29381234-x2x9k"),
    ("downward in values", "etcd-0"),
    ("security context", "security"),
    ("restricted", "restricted"),
    ("projected", "all"),
    ("trustee kbs", "kbs-5d9c7b6f4-x2x9k"),
    ("ollama", "ollama-5d9c7b6f4-x2x9k"),
];

fn manifest(title: &str) -> String {
    let files = [
        include_str!("../../../../coffer/tests/corpus/workloads.yaml"),
        include_str!("../../../../coffer/tests/corpus/accelerated.yaml"),
    ];
    let mut cases = files.iter().flat_map(|file| file.split("### ").skip(1));
    let case = cases.find(|case| case.starts_with(&format!("{title}: "))).or_fail(title);
    let body = case.lines().skip(1).skip_while(|line| line.starts_with("# ")).collect::<Vec<_>>().join("\n");
    // The rig has no GPU for them.
    body.replace("nvidia.com/gpu: 1", "memory: 1Gi")
}

/// Through the real containerd, without a VM for each: what it makes of kubelet's wishes, by the shim's own code to the
/// guest's requests, which the bound policy then allows.
#[test]
fn what_the_real_containerd_makes_of_manifests_is_allowed() {
    e2e(async |rig| {
        let mut pod = rig.pod("corpus").await.start().await;
        for (title, name) in MANIFESTS {
            let text = manifest(title);
            let names = BoundPod::of(&text, name).containers();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let (tenant, text) =
                Tenant::bind_manifest(&format!("corpus-{}", title.replace(' ', "-")), &text, &names);
            let bound = BoundPod::of(&text, name);
            let initdata = annotation::decode(&bound.annotation()).or_fail("initdata");
            let mut agent = Agent::new(&initdata.data()["policy.rego"]);
            let sandbox = CreateSandboxRequest {
                hostname: name.to_owned(),
                storages: vec![shm_storage(64 << 20)],
                sandbox_id: format!("sandbox-{:0>64}", "f00d"),
                ..Default::default()
            };
            agent.accept(title, "CreateSandboxRequest", &serde_json::to_value(sandbox).or_fail("a request"));
            for (index, container) in names.iter().enumerate() {
                let config = bound.container(&pod, container, BUSYBOX, "10.4.0.5");
                let mut spec = pod.specification(&config).await;
                renamed(&mut spec, name, bound.spec().metadata.namespace.as_deref().unwrap_or("default"));
                // No two begin alike.
                let request = request(&format!("{index:010x}{}", "0".repeat(54)), spec, &tenant);
                agent.accept(&format!("{title}, {container}"), "CreateContainerRequest", &request);
                let id = json!({ "container_id": request["container_id"], "exec_id": "" });
                agent.accept(title, "StartContainerRequest", &id);
                if bound.is_init(container) {
                    let id = json!({ "container_id": request["container_id"], "timeout": 30 });
                    agent.accept(title, "RemoveContainerRequest", &id);
                }
            }
        }
        pod.remove().await;
    });
}

/// All containers were made in one pod: here each is in its own.
fn renamed(spec: &mut Value, name: &str, namespace: &str) {
    let annotations = &mut spec["annotations"];
    annotations["io.kubernetes.cri.sandbox-name"] = name.into();
    annotations["io.kubernetes.cri.sandbox-namespace"] = namespace.into();
    let env = spec["process"]["env"].as_array_mut().or_fail("an environment");
    for entry in
        env.iter_mut().filter(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("HOSTNAME=")))
    {
        *entry = format!("HOSTNAME={name}").into();
    }
}

fn request(id: &str, spec: Value, tenant: &Tenant) -> Value {
    let spec: Spec = serde_json::from_value(spec).or_fail("a specification");
    let facts =
        SandboxFacts { namespace: "k8s.io", seccomp: true, scratch: false, volumes: VolumeJudge::Engine };
    let rootfs = GuestRootfs::Layers(tenant.layers());
    let stat = |path: &Path| {
        let kind = if path.is_dir() { FileKind::Directory } else { FileKind::File };
        let metadata = path.metadata().ok()?;
        Some(HostFile { kind, gid: metadata.gid(), mode: metadata.mode(), medium: None, empty: None })
    };
    let guest = translate(id, &spec, &facts, &rootfs, &stat).or_fail("the guest's request");
    serde_json::to_value(guest.into_request(id)).or_fail("a request")
}
