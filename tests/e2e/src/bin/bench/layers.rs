//! Image layers: whether their size costs a start anything, what converting one costs, and what naming them costs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use containerd_shim_protos::types::mount::Mount;
use e2e::{Artefacts, LAYERED, Layer, OrFail, busybox_layer, layered_archive, oci_archive, workspace};
use tar::Archive;
use tempfile::TempDir;

use crate::lone::{Lone, with_tree};
use crate::report::{Report, median};

/// How many layers an inference image has.
const LAYERS: usize = 30;
const MIB: u64 = 1 << 20;
/// How often each pod is started.
const ROUNDS: usize = 5;
/// How often the same layer is converted.
const CONVERSIONS: usize = 3;
/// How many pods are bound at once.
const DOCUMENTS: usize = 60;
/// How often a policy is generated.
const POLICIES: usize = 11;

/// Measures, and reports.
pub async fn measure(artefacts: &Artefacts, report: &mut Report) {
    starts(artefacts, report).await;
    conversion(report);
    policy(report);
}

/// The same number of layers, small and large, in turn.
async fn starts(artefacts: &Artefacts, report: &mut Report) {
    // Where it is no memory that is written to.
    let directory = tempfile::tempdir_in(workspace().join("build")).or_fail("a directory");
    let kinds = [(1, 10), (LAYERS, 10), (LAYERS, 500)];
    let mounts = kinds.map(|(number, mib)| mounts(directory.path(), number, mib));
    let mut times = [(); 3].map(|()| Vec::new());
    for round in 0..ROUNDS {
        for (kind, times) in times.iter_mut().enumerate() {
            let id = format!("layers-{kind}-{round}");
            let lone = Lone::with_root(artefacts, &id, mounts[kind].clone()).await;
            let begin = Instant::now();
            lone.create().await;
            lone.start().await;
            times.push(begin.elapsed().as_secs_f64());
            lone.remove().await;
        }
    }
    let [one, small, large] = times.map(median);
    report.add("a pod with 1 layer of 10 MiB, Create to running", one, "s");
    report.add("a pod with 30 layers of 10 MiB", small, "s");
    report.bounded("30 layers of 500 MiB each against 30 of 10 MiB", large / small, "", 1.05);
}

/// containerd's mounts for layers of `mib` MiB each, with trees: busybox, and files of zeros above it.
fn mounts(directory: &Path, number: usize, mib: u64) -> Vec<Mount> {
    let image = |index: usize| {
        let path = directory.join(format!("{number}-{mib}-{index}.erofs"));
        let layer = if index == 0 { busybox_layer() } else { Layer::default() };
        make(&path, layer, mib * MIB, index);
        Mount { type_: "erofs".to_owned(), source: path.display().to_string(), ..Mount::default() }
    };
    let mut mounts: Vec<Mount> = (0..number).map(image).collect();
    if number > 1 {
        // The lower directories are named from the top down.
        let lower = format!("lowerdir={{{{ overlay {} 0 }}}}", number - 1);
        let type_ = "format/mkdir/overlay".to_owned();
        mounts.push(Mount { type_, source: "overlay".to_owned(), options: vec![lower], ..Mount::default() });
    }
    mounts
}

/// An image with its tree and containerd's file beside it. It holds `size` bytes of zeros, which take no room on the disk.
fn make(path: &Path, layer: Layer, size: u64, index: usize) {
    let content = vec![0; usize::try_from(size).or_fail("a size")];
    let layer = layer.file(&format!("zeros-{index}"), 0o644, &content);
    let mut child = mkfs(path).stdin(Stdio::piped()).spawn().or_fail("mkfs.erofs");
    child.stdin.take().or_fail("its input").write_all(&layer.finish()).or_fail("mkfs.erofs");
    succeeded(child.wait(), "mkfs.erofs");
    with_tree(path);
    succeeded(Command::new("fallocate").arg("--dig-holes").arg(path).status(), "fallocate");
}

/// One layer of programs, by `coffer image verity` and by hand, in turn.
fn conversion(report: &mut Report) {
    let directory = tempfile::tempdir_in(workspace().join("build")).or_fail("a directory");
    let blob = directory.path().join("layer.tar");
    let bytes = programs().finish();
    fs::write(&blob, bytes).or_fail("a layer");
    let layout = directory.path().join("layout");
    unpack(&oci_archive("localhost/programs:bench", vec![programs()], &["/bin/sh"]), &layout);
    let (mut ours, mut by_hand) = (Vec::new(), Vec::new());
    for round in 0..CONVERSIONS {
        let cache = directory.path().join(format!("cache-{round}"));
        let image = format!("oci:{}", layout.display());
        let mut verity = Command::new(Artefacts::coffer());
        verity.args(["image", "verity", &image, "--cache"]).arg(&cache);
        ours.push(timed(|| succeeded(verity.stdout(Stdio::null()).status(), "coffer image verity")));
        let image = directory.path().join("by-hand.erofs");
        by_hand.push(timed(|| convert_by_hand(&blob, &image)));
        fs::remove_file(image).or_fail("an image");
    }
    report.bounded(
        "converting a layer, against doing it by hand",
        median(ours) / median(by_hand),
        "",
        1.0 / 0.7,
    );
}

/// What `/usr/bin` holds.
fn programs() -> Layer {
    let entries = fs::read_dir("/usr/bin").or_fail("/usr/bin").flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| !path.is_symlink()).collect();
    files.sort_unstable();
    files.iter().fold(Layer::default().directory("bin", 0o755), |layer, path| {
        let name = path.file_name().or_fail("a name").to_string_lossy();
        layer.file(&format!("bin/{name}"), 0o755, &fs::read(path).or_fail(path.display()))
    })
}

fn convert_by_hand(blob: &Path, image: &Path) {
    let input = File::open(blob).or_fail("a layer");
    succeeded(mkfs(image).stdin(input).status(), "mkfs.erofs");
    let offset = fs::metadata(image).or_fail("an image").len().to_string();
    let zeros = "0".repeat(64);
    let mut format = Command::new("veritysetup");
    format.args(["format", "--salt", &zeros, "--hash-offset", &offset]).args([image, image]);
    succeeded(format.stdout(Stdio::null()).status(), "veritysetup");
}

/// mkfs.erofs with the options that `coffer` gives it (crate `layers`).
fn mkfs(image: &Path) -> Command {
    let mut mkfs = Command::new("mkfs.erofs");
    mkfs.args([
        "--tar=f",
        "--aufs",
        "--quiet",
        "-Enoinline_data",
        "-b4096",
        "-T0",
        "--mkfs-time",
        "--sort=none",
    ]);
    mkfs.arg(image).stdout(Stdio::null());
    mkfs
}

/// A policy for an image of thirty layers whose hashes are known.
fn policy(report: &mut Report) {
    let directory = TempDir::new().or_fail("a directory");
    unpack(&layered_archive(), &directory.path().join("layout"));
    let index = fs::read(directory.path().join("layout/index.json")).or_fail("index.json");
    let index: serde_json::Value = serde_json::from_slice(&index).or_fail("index.json");
    let digest = index["manifests"][0]["digest"].as_str().or_fail("the image's digest");
    let pod = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: bench}}\nspec:\n  automountServiceAccountToken: false\n  \
         enableServiceLinks: false\n  containers: [{{name: app, image: \"{LAYERED}@{digest}\"}}]\n"
    );
    fs::write(directory.path().join("pod.yaml"), &pod).or_fail("pod.yaml");
    let generate = || {
        let mut generate = Command::new(Artefacts::coffer());
        generate.args([
            "policy",
            "generate",
            "--pod",
            "pod.yaml",
            "--image",
            "app=oci:layout",
            "--cache",
            "cache",
        ]);
        generate.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
        timed(|| succeeded(generate.status(), "coffer policy generate"))
    };
    generate();
    let times = (0..POLICIES).map(|_| generate() * 1e3).collect();
    report.bounded("coffer policy generate, 30 layers with known hashes", median(times), "ms", 200.0);

    let document = |index: usize| {
        let class = "spec:\n  runtimeClassName: coffer-snp\n";
        pod.replace("spec:\n", class).replace("name: bench", &format!("name: bench-{index}"))
    };
    let documents: Vec<String> = (0..DOCUMENTS).map(document).collect();
    fs::write(directory.path().join("all.yaml"), documents.join("---\n")).or_fail("all.yaml");
    let bind = || {
        let mut bind = Command::new(Artefacts::coffer());
        let image = format!("{LAYERED}=oci:layout");
        bind.args(["bind", "all.yaml", "--cache", "cache", "--image", &image]).current_dir(directory.path());
        bind.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        timed(|| succeeded(bind.status(), "coffer bind"))
    };
    let times = (0..CONVERSIONS).map(|_| bind()).collect();
    report.bounded("coffer bind, 60 pods of that image", median(times), "s", 2.0);
}

fn unpack(archive: &[u8], layout: &Path) {
    fs::create_dir_all(layout).or_fail("a directory");
    Archive::new(archive).unpack(layout).or_fail("unpack an OCI layout");
}

fn succeeded(status: std::io::Result<std::process::ExitStatus>, what: &str) {
    let status = status.or_fail(what);
    assert!(status.success(), "{what}: {status}");
}

fn timed(work: impl FnOnce()) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().max(Duration::from_nanos(1)).as_secs_f64()
}
