//! Model volumes: disks that the host has and cannot read or change.
//!
//! One VM for most of it: until its container is asked for, the guest's policy has counted nothing, so the host may try one
//! disk after the other.

use std::fs;
use std::os::unix::fs::FileExt;
use std::process::Command;

use k8s_cri::v1::Mount;
use sha2::{Digest, Sha256};
use tar::Archive;

use e2e::{
    Artefacts, BUSYBOX, Binding, Flipped, INITDATA, KeyBroker, ModelDisk, OrFail, Pod, PodContainer,
    PodDirectory, Tenant, busybox_archive, e2e, workspace,
};

/// What the model's owner wrote.
const WEIGHTS: &[u8] = b"weights that nobody else may see\n";
const WORDS: &[u8] = b"words that nobody may change\n";
/// Where the content of an encrypted volume begins.
const DATA: u64 = 1 << 20;

struct Volumes {
    weights: ModelDisk,
    words: ModelDisk,
}

impl Volumes {
    fn new(name: &str) -> Self {
        let late = vec![b'x'; 4096 * 64];
        let files = [("weights", WEIGHTS), ("late", &late)];
        Self {
            weights: ModelDisk::new(&format!("{name}-weights"), "/weights", &files, Some(KeyBroker::KEY)),
            words: ModelDisk::new(&format!("{name}-words"), "/words", &[("words", WORDS)], None),
        }
    }

    fn mounts(&self, pod: &Pod) -> Vec<Mount> {
        let file = |disk: &ModelDisk| PodDirectory::file(&disk.file().display().to_string(), &disk.path);
        vec![pod.directory.etc_hosts("127.0.0.1 localhost\n"), file(&self.weights), file(&self.words)]
    }
}

async fn run(pod: &mut Pod, tenant: &Tenant, volumes: &Volumes) -> Result<PodContainer, String> {
    let mounts = volumes.mounts(pod);
    let started = pod.try_run_written("app", BUSYBOX, tenant.image(), &["sleep", "100000"], mounts).await;
    started.map_err(|status| status.message().to_owned())
}

#[track_caller]
fn assert_says(refusal: Result<PodContainer, String>, words: &[&str]) {
    let said = refusal.err().or_fail("a refusal");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn a_model_is_read_with_its_key_and_no_other_disk_or_byte_is() {
    e2e(async |rig| {
        let volumes = Volumes::new("model");
        let place = KeyBroker::at(8445);
        let documents = [("aa.toml", place.document())];
        let tenant = |name: &str, image: &str| {
            Tenant::bind_as(&Binding {
                name,
                image,
                documents: &documents.each_ref().map(|(name, text)| (*name, text.as_str())),
                volumes: &[&volumes.weights, &volumes.words],
                ..Binding::default()
            })
        };
        let (bound, other) = (tenant("model", BUSYBOX), tenant("model-other", "localhost/other:test"));
        let mut pod = bound.start(rig, "model").await;

        let kbs = place.open(&other);
        assert_says(
            run(&mut pod, &bound, &volumes).await,
            &["volume model-weights cannot be opened", "PolicyDeny"],
        );
        assert_eq!((kbs.handshakes(), kbs.attestations()), (1, 1));
        drop(kbs);

        let kbs = place.open_with_key(&bound, "another key of some model");
        assert_says(
            run(&mut pod, &bound, &volumes).await,
            &["volume model-weights cannot be opened", "the key does not open it"],
        );
        drop(kbs);

        let kbs = place.open(&bound);
        let honest = fs::read(volumes.weights.file()).or_fail("the volume");
        let stranger =
            ModelDisk::new("stranger-weights", "/weights", &[("weights", b"lies\n")], Some(KeyBroker::KEY));
        fs::copy(stranger.file(), volumes.weights.file()).or_fail("swap the disk");
        assert_says(
            run(&mut pod, &bound, &volumes).await,
            &["LUKS2 volume", "none of the volumes", "/weights"],
        );
        // With the right disk's UUID, and even its key.
        let file = fs::File::options().write(true).open(volumes.weights.file()).or_fail("the volume");
        forge_uuid(&file, &honest);
        assert_says(run(&mut pod, &bound, &volumes).await, &["volume model-weights holds", "declares"]);
        fs::write(volumes.weights.file(), &honest).or_fail("the volume");

        let container = run(&mut pod, &bound, &volumes).await.or_fail("the container");
        assert_eq!(container.exec(&["cat", "/weights/weights"]).await.as_bytes(), WEIGHTS);
        assert_eq!(container.exec(&["cat", "/words/words"]).await.as_bytes(), WORDS);
        assert_ne!(container.exec_code(&["touch", "/weights/x"]).await, 0);
        assert!(kbs.questions() >= 1);

        let at = DATA + position_of_late();
        let flipped = Flipped::new(&volumes.weights.file(), at);
        assert_ne!(container.exec_code(&["cat", "/weights/late"]).await, 0, "a changed block was read");
        drop(flipped);
        rig.logged(&["level=error", "is damaged", "data"]).await;
        drop(kbs);
        pod.remove().await;
    });
}

/// Gives a disk another's UUID in both headers, with the checksums that belong to that.
fn forge_uuid(disk: &fs::File, of: &[u8]) {
    for area in [0u64, 16 << 10] {
        let mut bytes = vec![0; 16 << 10];
        let read = fs::File::open("/run/e2e/models/model-weights/volume.img").or_fail("the volume");
        read.read_exact_at(&mut bytes, area).or_fail("a header");
        bytes[168..204].copy_from_slice(&of[168..204]);
        bytes[448..512].fill(0);
        let sum = Sha256::digest(&bytes);
        bytes[448..480].copy_from_slice(&sum);
        disk.write_all_at(&bytes, area).or_fail("a header");
    }
}

/// Where the file that nobody has read yet is in the image: mkfs.erofs makes the same one again.
fn position_of_late() -> u64 {
    let plain = ModelDisk::new(
        "plain-weights",
        "/weights",
        &[("weights", WEIGHTS), ("late", &[b'x'; 4096 * 64])],
        None,
    );
    let image = fs::read(plain.file()).or_fail("the image");
    let at =
        image.windows(8192).position(|window| window.iter().all(|byte| *byte == b'x')).or_fail("the file");
    u64::try_from(at).or_fail("an offset")
}

/// Two programs that know nothing of each other: what one makes, the other opens.
#[test]
fn cryptsetup_and_coffer_open_each_others_disks() {
    let directory = tempfile::tempdir().or_fail("a directory");
    let key = directory.path().join("key");
    fs::write(&key, KeyBroker::KEY).or_fail("a key");
    let ours = ModelDisk::new("ours", "/weights", &[("weights", WEIGHTS)], Some(KeyBroker::KEY));
    let cryptsetup = |words: &[&str]| {
        let output =
            Command::new("cryptsetup").args(words).arg("--key-file").arg(&key).output().or_fail("cryptsetup");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let file = ours.file().display().to_string();
    let (opened, said) = cryptsetup(&["open", "--test-passphrase", "--type", "luks2", &file]);
    assert!(opened, "cryptsetup does not open what coffer made: {said}");

    for (name, words) in [
        (
            "argon2id",
            &["--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-force-iterations", "4"][..],
        ),
        ("pbkdf2", &["--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--hash", "sha512"]),
    ] {
        let theirs = directory.path().join(name);
        fs::File::create(&theirs).or_fail("a file").set_len(24 << 20).or_fail("a file");
        let path = theirs.display().to_string();
        let made = cryptsetup(&[&["luksFormat", "--type", "luks2", "--batch-mode", &path], words].concat());
        assert!(made.0, "{name}: {}", made.1);
        let disk = fs::File::open(&theirs).or_fail("a disk");
        let mapping = model_volumes::luks::open(&disk, 24 << 20, KeyBroker::KEY.as_bytes()).or_fail(name);
        assert_eq!((mapping.offset, mapping.size), (16 << 20, 8 << 20), "{name}");
    }
}

/// With another image in the place of the server's, which no test fetches.
#[test]
fn the_example_is_prepared_up_to_what_needs_hardware() {
    let directory = tempfile::tempdir().or_fail("a directory");
    let at = |name: &str| directory.path().join(name);
    for name in ["image", "model"] {
        fs::create_dir(at(name)).or_fail(name);
    }
    Archive::new(busybox_archive().as_slice()).unpack(at("image")).or_fail("an image");
    fs::write(at("model/weights"), WEIGHTS).or_fail("a model");
    fs::write(at("kbs.pem"), KeyBroker::at(8448).certificate()).or_fail("a certificate");
    let coffer = Artefacts::coffer();
    let path = format!("{}:/usr/sbin:/usr/bin", coffer.parent().or_fail("a folder").display());
    let mut prepare = Command::new(workspace().join("examples/inference/prepare"));
    prepare.arg(at("model")).arg("https://10.99.0.1:8448").arg(at("kbs.pem")).arg(at("out"));
    prepare.env("PATH", path).env("HOME", directory.path()).env("IMAGE", "registry.example.com/server:v1");
    prepare.env("IMAGE_SOURCE", format!("oci:{}", at("image").display()));
    let output = prepare.output().or_fail("the example's script");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let bound = fs::read_to_string(at("out/bound.yaml")).or_fail("the bound pod");
    assert!(bound.contains("registry.example.com/server:v1@sha256:") && bound.contains(INITDATA), "{bound}");
    assert!(fs::metadata(at("out/weights.img")).or_fail("the volume").len() > DATA);
}
