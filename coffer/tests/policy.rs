//! `coffer policy` and `coffer measure id-block` as a user meets them.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod image;

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use measurement::snp::LaunchDigest;
use measurement::snp::id_block::SignedIdBlock;
use p384::ecdsa::SigningKey;
use p384::pkcs8::{EncodePrivateKey as _, LineEnding};

use image::FakeImage;

const DIGEST: &str =
    "6d287813eb5222d770f75005c664e34c204f385ce832cc2ce7d0d6f354454362f390ef83a92046c042e706363b4b08fa";

fn coffer(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_coffer")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn stdout(args: &[&str]) -> String {
    let output = coffer(args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn failure(args: &[&str]) -> String {
    let output = coffer(args);
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    String::from_utf8(output.stderr).unwrap()
}

fn allows(policy: &str, request: &str, input: &str) -> bool {
    let mut engine = regorus::Engine::new();
    engine.add_policy("policy".to_owned(), policy.to_owned()).unwrap();
    engine.set_input_json(input).unwrap();
    let answer = engine.eval_rule(format!("data.agent_policy.{request}")).unwrap();
    answer == regorus::Value::from(true)
}

#[test]
fn the_example_pod_has_a_policy() {
    let fake = FakeImage::new(r#"{"Env": ["PATH=/bin"]}"#);
    let image = format!("server={}", fake.source());
    let generate = ["policy", "generate", "--pod", "../examples/pod.yaml", "--image", &image];
    let policy = fake.stdout(&generate);
    assert!(allows(&policy, "GetOOMEventRequest", "{}"));
    assert!(!allows(&policy, "ReadStreamRequest", "{}"));
    assert!(!allows(&policy, "SetPolicyRequest", "{}"));
    assert!(policy.lines().all(|line| line.len() < 64 << 10), "kata-agent's parser has a limit");
    let (exec, logs) = ("\"exec\": true", "\"logs\": true");
    assert!(!policy.contains(exec) && !policy.contains(logs));
    let policy = fake.stdout(&[&generate[..], &["--allow-exec", "--allow-logs"]].concat());
    assert!(policy.contains(exec) && policy.contains(logs));
}

#[test]
fn what_a_manifest_leaves_open_is_named() {
    let fake = FakeImage::new("{}");
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let manifest = |container: &str| {
        let spec =
            format!("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n    - {{name: a, {container}}}\n");
        fs::write(path("pod.yaml"), spec).unwrap();
    };
    let image = format!("image: r.example.com/a@sha256:{}", "0".repeat(64));
    let instead = format!("a={}", fake.source());
    let pod = path("pod.yaml");
    let generate = ["policy", "generate", "--pod", &pod, "--image", &instead];
    for (container, said) in [
        (image.clone(), "container a: neither its manifest nor its image has a command"),
        (format!("{image}, command: [x], envFrom: [{{secretRef: {{name: s}}}}]"), "LD_PRELOAD"),
        (
            format!("{image}, command: [x], securityContext: {{privileged: true}}"),
            "securityContext.privileged",
        ),
        (
            format!("{image}, command: [x], volumeMounts: [{{name: v, mountPath: /v}}]"),
            "volume v on /v is not among spec.volumes",
        ),
    ] {
        manifest(&container);
        let error = fake.failure(&generate);
        assert!(error.contains("pod.yaml") && error.contains(said), "{error}");
    }
    let error = fake.failure(&[&generate[..], &["--image", &instead]].concat());
    assert!(error.contains("--image is given twice for container \"a\""), "{error}");
    let error = fake.failure(&["policy", "generate", "--pod", &pod, "--image", "b=oci:x"]);
    assert!(error.contains("container \"b\", which the pod has not"), "{error}");
    let error = fake.failure(&["policy", "generate", "--pod", &pod, "--image", "a=oci:/there/is/none"]);
    assert!(error.contains("container a: cannot use the image oci:/there/is/none"), "{error}");
}

#[test]
fn what_runs_is_what_the_image_says() {
    let fake = FakeImage::new(r#"{"Entrypoint": ["/app"], "Cmd": ["-v"], "User": "web"}"#);
    let image = format!("server={}", fake.source());
    let dir = tempfile::tempdir().unwrap();
    let pod = dir.path().join("pod.yaml");
    let text = fs::read_to_string("../examples/pod.yaml").unwrap();
    let spec = "apiVersion: v1\nkind: Pod\nspec:\n  containers:\n    - name: server\n      image: ";
    let reference = text.lines().find_map(|line| line.trim().strip_prefix("image: ")).unwrap();
    fs::write(&pod, format!("{spec}{reference}\n")).unwrap();
    let policy = fake.stdout(&["policy", "generate", "--pod", pod.to_str().unwrap(), "--image", &image]);
    assert!(
        policy.contains("\"/app\"") && policy.contains("\"-v\"") && policy.contains("\"uid\": 77"),
        "{policy}"
    );
    // Of the image's own /etc/passwd, and its layer.
    assert!(policy.contains(&fake.root_hash()), "{policy}");
}

#[test]
fn an_id_block_is_what_the_shim_takes() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let text = |path: &Path| path.display().to_string();
    for (name, byte) in [("id.pem", 1), ("author.pem", 2)] {
        let key = SigningKey::from_slice(&[byte; 48]).unwrap();
        fs::write(path(name), key.to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap();
    }
    let (id, author, to) = (text(&path("id.pem")), text(&path("author.pem")), text(dir.path()));
    let arguments = ["measure", "id-block", "--launch-digest", DIGEST, "--id-key", &id, "--directory", &to];
    let printed = stdout(&[&arguments[..], &["--author-key", &author, "--image-id", "coffer"]].concat());

    let read = |kind: &str| fs::read(path(&format!("{DIGEST}.{kind}"))).unwrap();
    let digest = LaunchDigest::from_digest(DIGEST.parse().unwrap());
    let signed = SignedIdBlock::verify(&read("id-block"), &read("id-auth"), digest).unwrap();
    assert_eq!(&signed.block().image_id, b"coffer\0\0\0\0\0\0\0\0\0\0");
    assert_ne!(signed.id_key_digest(), signed.author_key_digest());
    assert!(printed.contains(&format!("id_key_digest     {}\n", signed.id_key_digest())), "{printed}");
    assert!(printed.contains(&signed.author_key_digest().to_string()));

    fs::write(path("id.pem"), "no key").unwrap();
    let error = failure(&arguments);
    assert!(error.contains("id.pem") && error.contains("PKCS#8"), "{error}");
    let error = coffer(&[&arguments[..], &["--policy", "0xb0000"]].concat());
    assert!(String::from_utf8_lossy(&error.stderr).contains("debugging"));
}
