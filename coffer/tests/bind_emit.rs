//! What `coffer bind` gives a verifier, and files that are written while somebody kills the program.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

#[path = "../../crates/measurement/tests/image/mod.rs"]
mod firmware;
mod image;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::sleep;

use firmware::Image;
use image::FakeImage;
use serde_json::{Value, json};

const IMAGE: &str = "registry.example.com/web:v1";

fn pod(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  runtimeClassName: coffer-snp\n  \
         automountServiceAccountToken: false\n  containers:\n  - {{name: web, image: '{IMAGE}', \
         resources: {{limits: {{cpu: 2, memory: 1Gi}}}}}}\n"
    )
}

struct Desk(FakeImage);

impl Desk {
    fn new() -> Self {
        let desk = Self(FakeImage::new(r#"{"Entrypoint": ["/app"]}"#));
        fs::create_dir(desk.0.path("guest")).unwrap();
        fs::write(desk.0.path("guest/vmlinuz"), b"a kernel").unwrap();
        let (hash, salt) = ("ab".repeat(32), "cd".repeat(32));
        let manifest = json!({
            "format": 1, "name": "test", "profile": "release", "agent": "kata", "agent_sha256": "00".repeat(32),
            "kernel": { "file": "vmlinuz", "sha256": measurement::Sha256Digest::of(b"a kernel").to_string(), "release": "7" },
            "root": { "file": "root.img", "sha256": "00".repeat(32), "verity": {
                "algorithm": "sha256", "block_size": 4096, "data_blocks": 100, "hash_start_block": 100,
                "salt": salt, "root_hash": hash } },
            "cmdline": format!("console=null quiet panic=-1 root=/dev/dm-0 rootfstype=erofs ro \
                dm-mod.create=\"coffer-root,,,ro,0 800 verity 1 /dev/vda /dev/vda 4096 4096 100 100 sha256 {hash} {salt} 1 \
                panic_on_corruption\""),
            "packages": {},
        });
        fs::write(desk.0.path("guest/image.json"), manifest.to_string()).unwrap();
        fs::write(desk.0.path("OVMF.fd"), Image::amdsev().build()).unwrap();
        fs::write(desk.0.path("node.toml"), "").unwrap();
        desk
    }

    fn path(&self, name: &str) -> String {
        self.0.path(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.0.path(name), text).unwrap();
        self.path(name)
    }

    /// `bind --emit trustee` with more arguments.
    fn emit(&self, more: &[&str]) -> Vec<String> {
        let image = format!("{IMAGE}={}", self.0.source());
        let (guest, firmware, config) = (self.path("guest"), self.path("OVMF.fd"), self.path("node.toml"));
        let args = [
            "bind",
            "--image",
            &image,
            "--emit",
            "trustee",
            "--guest-image",
            &guest,
            "--firmware",
            &firmware,
        ];
        let args = [&args[..], &["--config", &config], more].concat();
        args.into_iter().map(str::to_owned).collect()
    }

    fn emitted(&self, more: &[&str]) -> Value {
        let args = self.emit(more);
        serde_json::from_str(&self.0.stdout(&args.iter().map(String::as_str).collect::<Vec<_>>())).unwrap()
    }

    fn refused(&self, more: &[&str]) -> String {
        let args = self.emit(more);
        self.0.failure(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }
}

#[test]
fn a_verifier_learns_of_all_pods_at_once_each_with_its_resources() {
    let desk = Desk::new();
    let both = desk.write("both.yaml", &format!("{}---\n{}", pod("one"), pod("two")));
    let all =
        desk.emitted(&[&both, "--resource", "one=default/key/one", "--resource", "two=default/key/two"]);
    let policy = all["resource_policy"].as_str().unwrap();
    for word in ["default", "\"one\"", "\"two\"", "plugin"] {
        assert!(policy.contains(word), "{word}: {policy}");
    }

    // What one pod demands is what `coffer measure -o trustee` demands of the same pod, once it is bound.
    let one = desk.write("one.yaml", &pod("one"));
    let alone = desk.emitted(&[&one, "--resource", "default/key/one"]);
    let image = format!("{IMAGE}={}", desk.0.source());
    desk.0.stdout(&["bind", "--in-place", &one, "--image", &image]);
    let (guest, firmware, config) = (desk.path("guest"), desk.path("OVMF.fd"), desk.path("node.toml"));
    let measured = desk.0.stdout(&[
        "measure",
        "--pod",
        &one,
        "--class",
        "coffer-snp",
        "--config",
        &config,
        "--image",
        &guest,
        "--firmware",
        &firmware,
        "-o",
        "trustee",
        "--resource",
        "default/key/one",
    ]);
    assert_eq!(alone, serde_json::from_str::<Value>(&measured).unwrap());
    assert_ne!(alone, all);
}

#[test]
fn a_pod_without_a_resource_and_a_resource_without_a_pod_are_named() {
    let desk = Desk::new();
    let both = desk.write("both.yaml", &format!("{}---\n{}", pod("one"), pod("two")));
    let error = desk.refused(&[&both, "--resource", "one=default/key/one"]);
    assert!(error.contains("Pod two") && error.contains("--resource two=REPOSITORY/TYPE/TAG"), "{error}");
    let error = desk.refused(&[&both, "--resource", "default/key/all", "--resource", "three=default/key/x"]);
    assert!(error.contains("\"three\"") && error.contains("one, two"), "{error}");
    let plain = desk.write("plain.yaml", &pod("one").replace("coffer-snp", "coffer"));
    let error = desk.refused(&[&plain, "--resource", "default/key/one"]);
    assert!(error.contains("coffer-snp and coffer-tdx"), "{error}");
}

#[test]
#[allow(clippy::disallowed_methods, reason = "there is no runtime here, and the child is to get that far")]
fn a_file_is_the_old_or_the_new_one_whenever_the_program_is_killed() {
    const FILES: usize = 40;
    let desk = Desk::new();
    let image = format!("{IMAGE}={}", desk.0.source());
    let directory = desk.0.path("in");
    let name = |index: usize| -> PathBuf { directory.join(format!("{index}.yaml")) };
    let old = |index: usize| pod(&format!("p{index}"));
    let fill = || {
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        (0..FILES).for_each(|index| fs::write(name(index), old(index)).unwrap());
    };
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coffer"));
        command.args(["bind", "--in-place", "--image", &image]).arg(&directory);
        command
            .env("PATH", format!("{}:/usr/bin:/bin", desk.path("bin")))
            .env("XDG_CACHE_HOME", desk.path("cache"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().unwrap()
    };
    fill();
    let start = std::time::Instant::now();
    assert!(run().wait().unwrap().success());
    let whole = start.elapsed();
    let new: Vec<String> = (0..FILES).map(|index| fs::read_to_string(name(index)).unwrap()).collect();
    assert!(new.iter().enumerate().all(|(index, text)| *text != old(index)));
    let mut struck = 0;
    // The writing is the last part of it.
    for part in 0..40 {
        fill();
        let mut child = run();
        sleep(whole.mul_f64(0.6 + 0.4 * f64::from(part) / 40.0));
        child.kill().unwrap();
        child.wait().unwrap();
        let texts: Vec<String> = (0..FILES).map(|index| fs::read_to_string(name(index)).unwrap()).collect();
        for (index, text) in texts.iter().enumerate() {
            assert!(*text == new[index] || *text == old(index), "{index}: {text}");
        }
        struck += usize::from(texts != new && (0..FILES).any(|index| texts[index] == new[index]));
    }
    println!("{struck} of 40 were struck while they wrote");
}
