//! `coffer bind` as a user meets it.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod image;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use image::FakeImage;
use measurement::initdata::annotation;
use pod_manifest::{Document, documents};

const CONFIG: &str = r#"{"Entrypoint": ["/app"], "Env": ["PATH=/bin", "MODE=image"]}"#;
const KEY: &str = "io.katacontainers.config.hypervisor.cc_init_data";

/// A Deployment as people write it: comments, odd spaces, two containers of one image, a service beside it.
const DEPLOYMENT: &str = r#"# The web shop.
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}   # untouched
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: shop
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata:
      labels:
        app: web   # for the service
    spec:
      runtimeClassName: coffer-snp
      automountServiceAccountToken: false
      containers:
      - name:  web
        image: "registry.example.com/web:v1" # by tag
        env:
        - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
        - {name: MODE, valueFrom: {configMapKeyRef: {name: settings, key: mode}}}
        args: [--name, $(POD_NAME), --mode=$(MODE)]
        resources:
          limits: {cpu: "1", memory: 1Gi}
      - image: registry.example.com/web:v1
        name: side
        resources: {limits: {cpu: 1, memory: 1Gi}}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: shop}
data:
  mode: fast
"#;

struct Desk {
    fake: FakeImage,
    image: String,
}

impl Desk {
    fn new() -> Self {
        let fake = FakeImage::new(CONFIG);
        let image = format!("registry.example.com/web:v1={}", fake.source());
        fs::create_dir(fake.path("in")).unwrap();
        Self { fake, image }
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.fake.path("in").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn read(path: &str) -> String {
        fs::read_to_string(path).unwrap()
    }

    /// Exit code, standard output, standard error.
    fn bind(&self, args: &[&str]) -> (i32, String, String) {
        let all = [&["bind"], args, &["--image", &self.image]].concat();
        let output = self.fake.coffer(&all);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn bound(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.bind(args);
        assert_eq!(code, 0, "{stderr}");
        stdout
    }

    fn fails(&self, args: &[&str], words: &[&str]) {
        let (code, _, stderr) = self.bind(args);
        assert_eq!(code, 1, "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "{word:?} is not in:\n{stderr}");
        }
        assert!(stderr.lines().all(|line| !line.contains("panicked")), "{stderr}");
    }
}

fn all(text: &str) -> Vec<Document> {
    documents(text).map(|found| found.unwrap()).collect()
}

/// The policy in the only pod's annotation.
fn policy(text: &str) -> String {
    let document = all(text).into_iter().find(|document| !document.templates().is_empty()).unwrap();
    let template = document.templates().remove(0);
    let pod = template.pod(&document).unwrap();
    annotation::decode(&pod.annotations[KEY]).unwrap().data()["policy.rego"].clone()
}

#[test]
fn a_deployment_keeps_its_text_but_for_digests_and_the_annotation() {
    let desk = Desk::new();
    let file = desk.write("web.yaml", DEPLOYMENT);
    let text = desk.bound(&[&file]);
    let mut old = DEPLOYMENT.lines();
    let mut added = Vec::new();
    for line in text.lines() {
        let mut rest = old.clone();
        match rest.next() {
            Some(before) if before == line => old = rest,
            // The image's digest behind its tag.
            Some(before) if line.contains("web:v1@sha256:") && before.contains("web:v1") => {
                let at = line.find('@').unwrap();
                let without = format!("{}{}", &line[..at], &line[at + 72..]);
                assert_eq!(without, before);
                old = rest;
            }
            _ => added.push(line.to_owned()),
        }
    }
    assert_eq!(old.next(), None, "a line is gone");
    assert_eq!(added[0], "      annotations:");
    assert!(added[1].starts_with(&format!("        {KEY}: H4sI")) && added.len() == 2, "{added:?}");

    let policy = policy(&text);
    assert!(policy.contains(&desk.fake.root_hash()), "{policy}");
    assert!(policy.contains("\"name_pattern\": \"^web-[bcdf") && policy.contains("\"namespace\": \"shop\""));
    assert!(policy.contains("\"--mode=fast\"") && policy.contains("\"MODE=fast\""), "the ConfigMap's value");
    assert_eq!(desk.bound(&[&desk.write("bound.yaml", &text)]), text, "bound again it is the same");
}

#[test]
fn in_place_check_and_output() {
    let desk = Desk::new();
    let file = desk.write("a/web.yaml", DEPLOYMENT);
    let other = desk.write("a/b/other.yml", "kind: ConfigMap\nmetadata: {name: x}\n");
    let directory = desk.fake.path("in/a").display().to_string();
    fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
    desk.fails(&[&directory, "--check"], &["out of date"]);
    assert_eq!(Desk::read(&file), DEPLOYMENT);

    let to = desk.fake.path("to").display().to_string();
    let table = desk.bound(&[&directory, "--output", &to]);
    assert!(
        table.contains("Deployment/web") && table.contains("bound") && table.contains("1 pods: 1 bound"),
        "{table}"
    );
    let bound = Desk::read(&format!("{to}/web.yaml"));
    assert_eq!(Desk::read(&format!("{to}/b/other.yml")), Desk::read(&other));

    desk.bound(&[&directory, "--in-place"]);
    assert_eq!(Desk::read(&file), bound);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o640);
    let table = desk.bound(&[&directory, "--check"]);
    assert!(table.contains("1 up to date"), "{table}");
    // Another argument than the policy's.
    fs::write(&file, bound.replace("--name,", "--names,")).unwrap();
    desk.fails(&[&directory, "--check"], &["out of date"]);
    let left: Vec<_> =
        fs::read_dir(desk.fake.path("in/a")).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 2, "no file of work is left: {left:?}");
}

#[test]
fn standard_input_and_a_class_for_those_that_name_none() {
    let desk = Desk::new();
    let text = "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"p\"}, \"spec\": {\"containers\": \
                [{\"name\": \"web\", \"image\": \"registry.example.com/web:v1\"}]}}\n";
    let file = desk.write("pod.json", text);
    let (code, stdout, stderr) = desk.bind(&[&file]);
    assert_eq!((code, stdout.as_str()), (0, text), "left as it is");
    assert!(stderr.contains("left as it is: no runtimeClassName, and no --class"), "{stderr}");
    let bound = desk.bound(&[&file, "--class", "coffer-tdx"]);
    let value: serde_json::Value = serde_json::from_str(&bound).unwrap();
    assert_eq!(value["spec"]["runtimeClassName"], "coffer-tdx");
    assert!(value["metadata"]["annotations"][KEY].as_str().unwrap().starts_with("H4sI"));
    assert!(value["spec"]["containers"][0]["image"].as_str().unwrap().contains("web:v1@sha256:"));
}

#[test]
fn metadata_in_every_way_that_it_is_written() {
    let desk = Desk::new();
    let spec = "spec:\n  runtimeClassName: coffer-snp\n  containers:\n  - name: web\n    image: registry.example.com/web:v1\n";
    for metadata in [
        "",
        "metadata:\n",
        "metadata: # nothing\n",
        "metadata: {}\n",
        "metadata: ~\n",
        "metadata: {name: p}\n",
        "metadata:\n  name: p\n",
        "metadata:\n  name: p\n  annotations:\n",
        "metadata:\n  name: p\n  annotations: {}\n",
        "metadata:\n  name: p\n  annotations: {a: b}\n",
        "metadata:\n  annotations:\n    # kept\n    a: b\n  name: p\n",
        "metadata: {annotations: {\"a\": 'b'}, name: p}\n",
    ] {
        for (before, after) in [(metadata, ""), ("", metadata)] {
            let text = format!("apiVersion: v1\nkind: Pod\n{before}{spec}{after}");
            let file = desk.write("pod.yaml", &text);
            let bound = desk.bound(&[&file]);
            assert!(policy(&bound).contains("agent_policy"), "{bound}");
            let document = all(&bound).remove(0);
            let pod = document.templates().remove(0).pod(&document).unwrap();
            assert_eq!(
                pod.annotations.contains_key("a"),
                metadata.contains("a: b") || metadata.contains("\"a\"")
            );
            assert_eq!(bound.contains("# kept"), metadata.contains("# kept"));
            assert_eq!(desk.bound(&[&desk.write("again.yaml", &bound)]), bound, "{text}");
        }
    }
}

#[test]
fn every_fault_of_every_document_is_told_with_its_place_and_nothing_is_written() {
    let desk = Desk::new();
    let bad = DEPLOYMENT
        .replace("registry.example.com/web:v1\n", "oci:/there/is/none\n")
        .replace("args: [", "envFrom: [{secretRef: {name: none}}]\n        args: [$(SECRET), ")
        .replace(
            "- {name: POD",
            "- {name: SECRET, valueFrom: {secretKeyRef: {name: s, key: k}}}\n        - {name: POD",
        )
        + "---\napiVersion: v1\nkind: Pod\nmetadata: {name: two}\nspec:\n  runtimeClassName: coffer\n  hostNetwork: true\n  \
           containers:\n  - {name: web, image: 'registry.example.com/web:v1', securityContext: {privileged: true}, \
           volumeMounts: [{name: pvc, mountPath: /x}]}\n  volumes: [{name: pvc, persistentVolumeClaim: {claimName: c}}]\n---\n\
           a: [\n---\nkind: Pod\nspec: {runtimeClassName: coffer, containers: 3}\n";
    let file = desk.write("bad.yaml", &bad);
    desk.fails(
        &[&file, "--in-place"],
        &[
            "bad.yaml:33: spec.template.spec.containers[1].image: ",
            "bad.yaml:29: spec.template.spec.containers[0].envFrom: container web: the names that `envFrom` brings from none",
            "bad.yaml:48: spec.hostNetwork: it is a namespace of the host",
            "spec.containers[0].securityContext: container web: securityContext.privileged",
            "spec.containers[0].volumeMounts: container web: volume pvc on /x is a persistentVolumeClaim",
            "bad.yaml:53: it is no YAML",
            "apiVersion: \"\" is no version",
            "nothing is written",
        ],
    );
    assert_eq!(Desk::read(&file), bad);
}

#[test]
fn what_is_left_open_is_a_line() {
    let desk = Desk::new();
    let text = DEPLOYMENT
        .replace("      automountServiceAccountToken: false\n", "")
        .replace("coffer-snp", "coffer-tdx")
        .replace(
            "        resources: {limits: {cpu: 1, memory: 1Gi}}\n",
            "        args: [$(NONE)]\n        resources: {limits: {cpu: 1, hugepages-2Mi: 4Mi}}\n        \
         env: [{name: KEY, valueFrom: {secretKeyRef: {name: s, key: k}}}]\n",
        );
    let (code, _, stderr) = desk.bind(&[&desk.write("web.yaml", &text)]);
    assert_eq!(code, 0, "{stderr}");
    for word in [
        "a token of the service account comes from the host",
        "nothing in the manifest defines $(NONE)",
        "hugepages-2Mi: the guest has no huge pages",
        "the secret in KEY comes from the host",
        "RTMR0 is not covered",
    ] {
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
    let stateless = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {runtimeClassName: coffer, containers: [{name: web, \
                     image: 'registry.example.com/web:v1', resources: {limits: {nvidia.com/pgpu: 8}}}]}\n";
    let (_, _, stderr) = desk.bind(&[&desk.write("gpu.yaml", stateless)]);
    for word in ["no memory limit for 8 GPUs", "in a plain VM nothing vouches"] {
        assert!(stderr.contains(word), "{word}: {stderr}");
    }
}

#[test]
fn an_explanation_is_a_table_of_each_container() {
    let desk = Desk::new();
    let table = desk.bound(&[&desk.write("web.yaml", DEPLOYMENT), "--explain"]);
    for word in [
        "Deployment web, class coffer-snp",
        "container side",
        "layers by their root hashes",
        "the host's",
        "refused in the guest",
    ] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn a_guest_that_pulls_gets_a_policy_for_that_and_none_for_layers() {
    let desk = Desk::new();
    let manifest = desk.write("web.yaml", DEPLOYMENT);
    for (more, pulled) in [(&[][..], false), (&["--guest-pull"], true)] {
        let policy = policy(&desk.bound(&[&[manifest.as_str()], more].concat()));
        assert_eq!(policy.contains("# layer web "), !pulled, "{policy}");
        let table = desk.bound(&[&[manifest.as_str(), "--explain"], more].concat());
        assert_eq!(table.contains("pulled by the guest, by its digest"), pulled, "{table}");
        assert_eq!(table.contains("layers by their root hashes"), !pulled, "{table}");
    }
}

#[test]
fn bad_inputs_are_named() {
    let desk = Desk::new();
    let file = |text: &str| desk.write("x.yaml", text);
    desk.fails(&[&file("")], &["there is no pod in any of the inputs"]);
    desk.fails(&[&file("kind: Service\n")], &["there is no pod in any of the inputs", "Deployment"]);
    desk.fails(&[&file("spec: {{ .Values.x }}\n")], &["x.yaml:1: ", "helm template"]);
    desk.fails(&["/there/is/none.yaml"], &["/there/is/none.yaml: No such file"]);
    desk.fails(&["-", "--in-place"], &["standard input cannot be written in place"]);
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for i in 1..12 {
        bomb.push_str(&format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(", ")));
    }
    desk.fails(&[&file(&bomb)], &["more than 200000 values"]);
    let large = format!("a: {}\n", "x".repeat(17 << 20));
    desk.fails(&[&file(&large)], &["has more than 16777216 bytes"]);
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {runtimeClassName: coffer, containers: [{name: web, image: \
               'registry.example.com/web:v1'}]}\n";
    desk.fails(&[&file(&format!("{pod}---\n{pod}"))], &["there is already a Pod called \"p\""]);
    let other = pod.replace("web:v1", "web:v1@sha256:12");
    desk.fails(&[&file(&other)], &["spec.containers[0].image"]);
    let many = format!("{pod}{}", "---\nkind: ConfigMap\n".repeat(10_000));
    let bound = desk.bound(&[&file(&many)]);
    assert_eq!(all(&bound).len(), 10_001);
    let closed = desk.fake.path("in/closed");
    fs::create_dir(&closed).unwrap();
    let inside = desk.write("closed/pod.yaml", pod);
    fs::set_permissions(&inside, Permissions::from_mode(0o444)).unwrap();
    desk.fails(&[&inside, "--in-place"], &["cannot write", "closed/pod.yaml", "ermission denied"]);
    assert_eq!(Desk::read(&inside), pod);
}

#[test]
fn initdata_that_is_there_keeps_its_other_entries() {
    let desk = Desk::new();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {runtimeClassName: coffer, containers: [{name: web, image: \
               'registry.example.com/web:v1'}]}\n";
    let aa = desk.write("aa.toml", "[token_configs]\n");
    let bound = desk.bound(&[&desk.write("pod.yaml", pod), "--file", &aa]);
    let again = desk.bound(&[&desk.write("pod.yaml", &bound)]);
    assert_eq!(again, bound);
    let document = all(&again).remove(0);
    let pod = document.templates().remove(0).pod(&document).unwrap();
    let initdata = annotation::decode(&pod.annotations[KEY]).unwrap();
    assert_eq!(initdata.data().keys().collect::<Vec<_>>(), ["aa.toml", "coffer.toml", "policy.rego"]);
    let broken = again.replace("H4sI", "AAAA");
    desk.fails(
        &[&desk.write("pod.yaml", &broken)],
        &["the pod's initdata cannot be read, and would be lost"],
    );
    assert!(Path::new(&aa).exists());
}

/// Whoever is on the way to it could say that it believed a GPU's evidence.
#[test]
fn a_broker_that_could_be_anybody_is_refused_where_there_are_gpus() {
    let desk = Desk::new();
    let broker = "[token_configs.kbs]\nurl = \"http://192.0.2.1:8080\"\n";
    let aa = desk.write("aa.toml", broker);
    let pod = |limits: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{runtimeClassName: coffer, containers: [{{name: web, image: \
             'registry.example.com/web:v1', resources: {{limits: {{{limits}}}}}}}]}}\n"
        );
        desk.write("pod.yaml", &text)
    };
    desk.bound(&[&pod("cpu: 1"), "--file", &aa]);
    let said = ["aa.toml names it by http://192.0.2.1:8080", "https://"];
    let pod = pod("nvidia.com/pgpu: 1");
    desk.fails(&[&pod, "--file", &aa], &said);
    let document = desk.write(
        "initdata.toml",
        &format!(
            "algorithm = \"sha256\"\nversion = \"0.1.0\"\n[data]\n\"coffer.toml\" = \"gpus = 1\"\n\"aa.toml\" = '''\n{broker}'''\n"
        ),
    );
    let build = |args: &[&str]| desk.fake.coffer(&[&["initdata"], args].concat());
    for output in [
        build(&["build", "--file", &aa, "--pod", &pod]),
        build(&["build", "--document", &document]),
        build(&["inspect", &document]),
    ] {
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        assert!(said.iter().all(|words| text.contains(words)), "{text}");
    }
}
