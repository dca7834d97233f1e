use proptest::prelude::*;

use super::*;

/// A pod with these containers, each given by its limits in flow style.
fn pod(init: &[&str], main: &[&str]) -> Result<Pod, ManifestError> {
    let list = |limits: &[&str]| -> String {
        limits.iter().map(|l| format!("  - {{name: c, image: i, {l}}}\n")).collect()
    };
    Pod::parse(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec:\n  initContainers:\n{}  containers:\n{}",
        list(init),
        list(main)
    ))
}

fn limits(text: &str) -> String {
    format!("resources: {{limits: {{{text}}}}}")
}

/// CPUs in thousandths, bytes, GPUs.
fn sizes(pod: &Pod) -> (u128, u128, u128) {
    (pod.limits.cpu.milli(), pod.limits.memory.whole(), pod.limits.gpus.whole())
}

#[test]
fn a_manifest_as_people_write_it() {
    let pod = Pod::parse(
        "# comment\n---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: llm\n  labels: {a: b}\n  annotations:\n\
         \x20   io.katacontainers.config.hypervisor.cc_init_data: H4sI\n    example.com/x: \"1\"\nspec:\n\
         \x20 runtimeClassName: coffer-snp\n  nodeSelector:\n  containers:\n    - name: a\n      image: x\n\
         \x20     resources:\n        requests: {cpu: 1}\n        limits: {cpu: 1.5, memory: 2Gi, nvidia.com/gpu: 1}\n\
         \x20   - name: b\n      image: x\n      resources: {limits: {cpu: \"500m\"}}\n",
    )
    .unwrap();
    assert_eq!((pod.name.as_str(), pod.runtime_class.as_deref()), ("llm", Some("coffer-snp")));
    assert_eq!(sizes(&pod), (2_000, 2 << 30, 1));
    let annotations = pod.cri_annotations();
    let of = |name: &str| annotations.get(name).map(String::as_str);
    assert_eq!(of("io.kubernetes.cri.sandbox-cpu-quota"), Some("200000"));
    assert_eq!(of("io.kubernetes.cri.sandbox-cpu-period"), Some("100000"));
    assert_eq!(of("io.kubernetes.cri.sandbox-memory"), Some("2147483648"));
    assert_eq!(of("io.kubernetes.cri.container-type"), Some("sandbox"));
    assert_eq!(of("io.katacontainers.config.hypervisor.cc_init_data"), Some("H4sI"));
    assert_eq!(of("example.com/x"), None);
}

#[test]
fn an_annotation_of_the_pods_cannot_pose_as_containerds() {
    let pod = Pod::parse(
        "apiVersion: v1\nkind: Pod\nmetadata: {annotations: {io.kubernetes.cri.sandbox-memory: \"1\"}}\n\
         spec: {containers: [{name: a}]}",
    )
    .unwrap();
    assert_eq!(pod.cri_annotations()["io.kubernetes.cri.sandbox-memory"], "0");
}

#[test]
fn the_sum_of_containers_or_the_largest_init_container() {
    let cpu = |n: u32| limits(&format!("cpu: {n}"));
    let sidecar = |n: u32| format!("restartPolicy: Always, {}", cpu(n));
    let cpus = |init: &[String], main: &[String]| {
        let refs: [Vec<&str>; 2] = [init, main].map(|list| list.iter().map(String::as_str).collect());
        sizes(&pod(&refs[0], &refs[1]).unwrap()).0 / 1_000
    };
    let none = String::from("tty: false");
    assert_eq!(cpus(&[cpu(1)], &[cpu(1), cpu(2)]), 3);
    assert_eq!(cpus(&[cpu(4), cpu(5)], &[cpu(1), cpu(2)]), 5);
    assert_eq!(
        cpus(&[cpu(4), sidecar(2), cpu(5)], &[cpu(1)]),
        7,
        "a sidecar runs beside later init containers"
    );
    assert_eq!(cpus(&[sidecar(2)], &[cpu(1)]), 3, "and beside the pod's own");
    assert_eq!(cpus(&[cpu(4), sidecar(2)], &[cpu(1)]), 4, "but not beside earlier ones");
    assert_eq!(cpus(&[], &[cpu(1), none.clone()]), 1, "what has no limit adds none");
    assert_eq!(cpus(&[], &[none]), 0);
}

#[test]
fn limits_of_the_pod_itself_count_more() {
    let pod = Pod::parse(
        "apiVersion: v1\nkind: Pod\nspec:\n  resources: {limits: {cpu: 8}}\n  containers:\n\
         \x20 - {name: a, resources: {limits: {cpu: 1, memory: 1Gi}}}",
    )
    .unwrap();
    assert_eq!(sizes(&pod), (8_000, 1 << 30, 0));
}

#[test]
fn gpus_by_whatever_name() {
    let gpus = |text: &str| sizes(&pod(&[], &[&limits(text)]).unwrap()).2;
    assert_eq!(gpus("nvidia.com/gpu: 2"), 2);
    assert_eq!(gpus("nvidia.com/pgpu: \"8\""), 8);
    assert_eq!(gpus("nvidia.com/GH100_H100_SXM5_80GB: 4, nvidia.com/GH100_H100_NVSWITCH: 4"), 4);
    assert_eq!(gpus("nvidia.com.evil.org/gpu: 4, amd.com/gpu: 0"), 0);
    let two = limits("nvidia.com/pgpu: 1");
    assert_eq!(sizes(&pod(&[&two], &[&two, &two]).unwrap()).2, 2);
}

#[test]
fn small_limits_are_rounded_up() {
    let quota = |text: &str| {
        pod(&[], &[&limits(text)]).unwrap().cri_annotations()["io.kubernetes.cri.sandbox-cpu-quota"].clone()
    };
    assert_eq!(quota("cpu: 1m"), "1000", "the kernel's least");
    assert_eq!(quota("cpu: 0.0101"), "1100", "kubelet counts in thousandths, rounded up");
    assert_eq!(quota("cpu: 1e3"), "100000000");
}

#[test]
fn errors_name_the_field() {
    for (text, expected) in [
        ("cpu: two", "line 7, spec.containers[0].resources.limits.cpu: \"two\": a quantity is a number"),
        ("memory: 1gb", "spec.containers[0].resources.limits.memory: \"1gb\""),
        ("memory: -1", "limits.memory: \"-1\": a limit cannot be negative"),
        ("nvidia.com/gpu: 500m", "limits[\"nvidia.com/gpu\"]: \"500m\" must be a whole number"),
        ("nvidia.com/mig-1g.10gb: 1", "limits[\"nvidia.com/mig-1g.10gb\"]: a part of a GPU"),
        ("nvidia.com/hostdev: 1", "a network device of the host"),
        ("amd.com/gpu: 1", "only NVIDIA's"),
        ("cpu: [1]", "line 7, spec.containers[0].resources.limits.cpu: "),
        ("cpu: 1, cpu: 2", "line 7: the field \"cpu\" is there twice"),
    ] {
        let error = pod(&[], &[&limits(text)]).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let huge = limits("cpu: 9E");
    let error = pod(&[], &[&huge, &huge]).unwrap_err();
    assert!(matches!(
        error,
        ManifestError::Fault(Fault { problem: Problem::Overflow(ResourceKind::Cpu), .. })
    ));
}

#[test]
fn what_is_no_pod() {
    for (text, expected) in [
        ("", "there is no document"),
        ("---\n# nothing\n---\nnull\n---\n", "there is no document"),
        ("a: 1\n", "its kinds are (none), and a pod is found in a Pod, a Deployment"),
        ("apiVersion: v1\nkind: Pod\n---\napiVersion: v1\nkind: Pod\n", "there are 2 pods"),
        ("apiVersion: v1\nkind: Service\n", "its kinds are Service, and"),
        ("apiVersion: v2\nkind: Pod\n", "line 1, apiVersion: \"v2\""),
        ("apiVersion: v1\nkind: Pod\nspec: {containers: []}\n", "line 3, spec.containers: it is empty"),
        ("apiVersion: v1\nkind: Pod\nspec: {containers: 3}\n", "line 3, spec.containers: it has a number"),
        (
            "apiVersion: v1\nkind: Pod\nspec:\n  hostPID: true\n",
            "line 4, spec.hostPID: it is a namespace of the host",
        ),
        ("apiVersion: v1\nkind: Pod\nmetadata: {annotations: {a: 1}}\n", "write it in quotes"),
        ("{a: [", "line 1: it is no YAML"),
        (
            "apiVersion: v1\nkind: Pod\nspec: {resourceClaims: [{name: gpu}], containers: [{name: a, resources: {claims: [{name: gpu}]}}]}\n",
            "resourceClaims",
        ),
    ] {
        let error = Pod::parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
    assert!(matches!(Pod::parse(&" ".repeat(MAX_MANIFEST + 1)), Err(ManifestError::TooLarge { .. })));
}

#[test]
fn a_bomb_of_aliases_is_refused() {
    let mut text = String::from("apiVersion: v1\nkind: Pod\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        let last = vec![format!("*a{}", i - 1); 10].join(", ");
        text.push_str(&format!("a{i}: &a{i} [{last}]\n"));
    }
    assert!(matches!(Pod::parse(&text), Err(ManifestError::Syntax(_))));
    let deep = format!("apiVersion: v1\nkind: Pod\nspec: {}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(matches!(Pod::parse(&deep), Err(ManifestError::Syntax(_))));
}

proptest! {
    #[test]
    fn any_text_is_a_pod_or_an_error(text in "\\PC{0,200}") {
        let _ = Pod::parse(&text);
    }

    #[test]
    fn any_fields_are_a_pod_or_an_error(fields in "([ a-z:{}\\[\\],\"'&*!|>-]|cpu|limits|resources|\n){0,60}") {
        let _ = Pod::parse(&format!("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - {fields}"));
    }
}

#[test]
fn a_container_is_promised_what_its_requests_say() {
    use spec::Service::{BestEffort, Burstable, Guaranteed};
    let of = |resources: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nspec: {{containers: [{{name: a, image: i, resources: {resources}}}]}}\n"
        );
        spec::PodSpec::parse(&text).unwrap().spec.containers[0].resources.service
    };
    for (resources, service) in [
        ("{}", BestEffort),
        ("{limits: {nvidia.com/pgpu: 1}}", BestEffort),
        ("{requests: {cpu: 0}}", BestEffort),
        ("{limits: {cpu: 1, memory: 1Gi}}", Guaranteed),
        ("{limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 1000m, memory: 1024Mi}}", Guaranteed),
        ("{limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 500m}}", Burstable),
        ("{limits: {cpu: 1}}", Burstable),
        ("{requests: {memory: 1Gi}}", Burstable),
    ] {
        assert_eq!(of(resources), service, "{resources}");
    }
}

#[test]
fn the_pods_own_resources_decide_what_it_is_promised() {
    use spec::Service::{BestEffort, Burstable, Guaranteed};
    let of = |own: &str, init: &str, main: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nspec:\n  resources: {own}\n  initContainers: [{init}]\n  containers: [{main}]\n"
        );
        spec::PodSpec::parse(&text).unwrap().spec.service()
    };
    let both = "{limits: {cpu: 2, memory: 2Gi}}";
    let equal = "{limits: {cpu: 2, memory: 2Gi}, requests: {cpu: 2000m, memory: 2048Mi}}";
    let c = |resources: &str| format!("{{name: c, resources: {resources}}}");
    let some = "{requests: {cpu: 500m, memory: 1Gi}}";
    for (own, init, main, service) in [
        // None of its own.
        ("", vec![], vec!["{}", "{}"], BestEffort),
        ("", vec![], vec![both, both], Guaranteed),
        ("", vec!["{}"], vec![both], Burstable),
        // Over containers without any.
        (both, vec![], vec!["{}"], Guaranteed),
        (equal, vec!["{}"], vec!["{}", "{}"], Guaranteed),
        ("{limits: {cpu: 2}}", vec![], vec!["{}"], Burstable),
        ("{requests: {memory: 1Gi}}", vec![], vec!["{}"], Burstable),
        ("{limits: {cpu: 2, memory: 2Gi}, requests: {cpu: 1}}", vec![], vec!["{}"], Burstable),
        ("{}", vec![], vec!["{}"], BestEffort),
        ("{limits: {hugepages-2Mi: 2Mi}}", vec![], vec!["{}"], BestEffort),
        // Over containers with some, which are the pod's requests where it has limits and does not say.
        (both, vec![], vec![some], Burstable),
        (equal, vec![], vec![some], Guaranteed),
        (both, vec![], vec!["{requests: {cpu: 2, memory: 1Gi}}", "{requests: {memory: 1Gi}}"], Guaranteed),
        (both, vec!["{requests: {cpu: 2, memory: 2Gi}}"], vec![some, "{}"], Guaranteed),
        (both, vec![], vec!["{limits: {cpu: 2, memory: 2Gi}}"], Guaranteed),
        (both, vec![], vec!["{limits: {cpu: 1}}"], Burstable),
        ("{limits: {cpu: 2, memory: 2Gi}, requests: {cpu: 2}}", vec![], vec![some], Burstable),
        ("{requests: {cpu: 1}}", vec![], vec![both], Burstable),
        ("{limits: {hugepages-2Mi: 2Mi}}", vec![], vec![some], Burstable),
        ("{}", vec![], vec![both], BestEffort),
    ] {
        let join = |all: &[&str]| all.iter().map(|of| c(of)).collect::<Vec<_>>().join(", ");
        assert_eq!(of(own, &join(&init), &join(&main)), service, "{own} over {init:?} and {main:?}");
    }
}

#[test]
fn a_pods_containers_are_read() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: ns}\nspec:\n  hostname:\n  volumes:\n\
                \x20   - {name: tmp, emptyDir: {}}\n    - {name: facts, downwardAPI: {items: []}}\n    - name: disk\n\
                \x20     persistentVolumeClaim: {claimName: x}\n  containers:\n    - name: a\n      image: i\n      command: [sh, -c]\n\
                \x20     env: [{name: NUM, value: \"1\"}, {name: M, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]\n\
                \x20     envFrom: [{secretRef: {name: s}}]\n      livenessProbe: {exec: {command: [ok]}, periodSeconds: 3}\n\
                \x20     resources: {limits: {cpu: 1, nvidia.com/pgpu: 2, nvidia.com/NVSWITCH_H100: \"4\"}}\n";
    let spec::PodSpec { metadata, spec, names } = spec::PodSpec::parse(text).unwrap();
    assert_eq!((names, metadata.namespace.as_deref()), (Names::Exact("p".into()), Some("ns")));
    assert_eq!(spec.hostname, None);
    assert!(spec.volumes[0].empty_dir.is_some() && spec.volumes[1].downward_api.is_some());
    assert!(spec.volumes[2].persistent_volume_claim.is_some());
    let [container] = &spec.containers[..] else { panic!() };
    assert_eq!(container.command, ["sh", "-c"]);
    assert_eq!(
        (
            container.env[0].value.as_deref(),
            container.env[1].value_from.as_ref().and_then(|from| from.field_ref.clone())
        ),
        (Some("1"), Some(spec::FieldRef { field_path: "metadata.name".into() }))
    );
    let devices = spec::Devices {
        gpus: 2,
        switches: 4,
        service: spec::Service::Burstable,
        requests: spec::Compute { cpu: Some("1".parse().unwrap()), memory: None },
        others: vec!["cpu".into()],
        claims: vec![],
    };
    assert_eq!((container.env_from.len(), &container.resources), (1, &devices));
    assert_eq!(container.liveness_probe.as_ref().unwrap().exec.as_ref().unwrap().command, ["ok"]);
}

#[test]
fn a_field_of_another_type_is_named() {
    let text = "apiVersion: v1\nkind: Pod\nspec: {containers: [{name: a, command: sh}]}";
    let error = spec::PodSpec::parse(text).unwrap_err().to_string();
    let expected = "line 3, spec.containers[0].command: it has a text, and must have a list";
    assert_eq!(error, expected);
    let text =
        "apiVersion: v1\nkind: Pod\nspec:\n  securityContext: {runAsUser: -1}\n  containers: [{name: a}]";
    let error = spec::PodSpec::parse(text).unwrap_err().to_string();
    assert!(error.starts_with("line 4, spec.securityContext.runAsUser: -1 is not a whole number"), "{error}");
}

#[test]
fn a_pod_is_found_in_what_makes_it() {
    let template = "{metadata: {labels: {a: b}}, spec: {runtimeClassName: coffer, containers: [{name: c, image: i, \
                    resources: {limits: {cpu: 010}}}]}}";
    for (object, path) in [
        (
            format!("{{kind: Deployment, metadata: {{name: web}}, spec: {{template: {template}}}}}"),
            "spec.template",
        ),
        (
            format!(
                "{{kind: CronJob, metadata: {{name: web}}, spec: {{jobTemplate: {{spec: {{template: {template}}}}}}}}}"
            ),
            "spec.jobTemplate.spec.template",
        ),
        (
            format!(
                "{{kind: LeaderWorkerSet, spec: {{leaderWorkerTemplate: {{workerTemplate: {template}}}}}}}"
            ),
            "spec.leaderWorkerTemplate.workerTemplate",
        ),
        (
            format!("{{kind: RayCluster, spec: {{workerGroupSpecs: [{{template: {template}}}]}}}}"),
            "spec.workerGroupSpecs[0].template",
        ),
        (
            format!(
                "{{kind: List, items: [{{kind: Service}}, {{kind: Job, spec: {{template: {template}}}}}]}}"
            ),
            "items[1].spec.template",
        ),
    ] {
        let document = documents(&object).next().unwrap().unwrap();
        let [found] = &document.templates()[..] else { panic!("{object}") };
        assert_eq!(found.path.to_string(), path);
        let pod = found.pod(&document).unwrap();
        assert_eq!((pod.runtime_class.as_deref(), pod.limits.cpu.whole()), (Some("coffer"), 8));
        assert_eq!(found.spec(&document).unwrap().spec.containers[0].image, "i");
    }
}

#[test]
fn a_dump_of_a_running_pod_is_its_owners() {
    let of = |metadata: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {metadata}\nspec: {{containers: [{{name: a}}]}}\nstatus: {{phase: Running}}\n"
        );
        spec::PodSpec::parse(&text).unwrap().names
    };
    let replica = "{name: web-5d9c7b-x2x9k, generateName: web-5d9c7b-, labels: {pod-template-hash: 5d9c7b}, \
                   ownerReferences: [{kind: ReplicaSet, name: web-5d9c7b}]}";
    assert_eq!(of(replica), Names::of("Deployment", "web"));
    let stateful = "{name: db-3, generateName: db-, ownerReferences: [{kind: StatefulSet, name: db}]}";
    assert_eq!(of(stateful), Names::of("StatefulSet", "db"));
    let job = "{name: job-x2x9k, generateName: job-, ownerReferences: [{kind: Job, name: job}]}";
    assert_eq!(of(job), Names::generated("job-"));
    assert_eq!(of("{name: p}"), Names::Exact("p".into()));
    assert_eq!(of("{generateName: p-}"), Names::generated("p-"));
    assert_eq!(of("{}"), Names::any());
}

#[test]
fn each_document_has_its_own_fault_and_place() {
    let text = "# first\n---\na: [\n---\nkind: Pod\n---\n\n---\nx: {y: z, y: z}\n";
    let found: Vec<_> =
        documents(text).map(|found| found.map(|d| (d.kind, d.root.line)).map_err(|e| e.line)).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(matches!(found[0], Err(3 | 4)), "{found:?}");
    assert_eq!(found[1], Ok(("Pod".to_owned(), 5)));
    assert_eq!(found[2], Err(9));
}

#[test]
fn many_documents_and_aliases_that_repeat_each_other() {
    let text = "---\nkind: ConfigMap\n".repeat(10_000);
    assert_eq!(documents(&text).filter(|found| found.is_ok()).count(), 10_000);
    let shared = "a: &a {x: 1}\nb: *a\nc:\n  <<: *a\n  y: 2\n";
    let node = documents(shared).next().unwrap().unwrap().root;
    assert_eq!(
        (node.get("b").unwrap().style, node.get("c").unwrap().fields().len()),
        (yaml::Style::Alias, 2)
    );
}
