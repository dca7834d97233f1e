//! The container images of the tests, made from the rig's own static busybox.

use std::fs;
use std::iter;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::artefacts::workspace;
use crate::ctr::ctr;
use crate::oci_archive::{Layer, archive, archive_with_volumes};
use crate::or_fail::OrFail;

/// busybox in one layer.
pub const BUSYBOX: &str = "localhost/busybox:test";
/// busybox below 29 small layers, as many as an inference image has: `/layers/NN` is written by layer NN,
/// `/layers/top` by all of them, and the last one removes `/layers/removed`.
pub const LAYERED: &str = "localhost/layered:test";
/// busybox with a `VOLUME` at `/data`, where a file `seed` is; imported by [`import_with_volume`].
pub const WITH_VOLUME: &str = "localhost/volume:test";
/// busybox with a `VOLUME` at `/own`, where it has an empty directory of mode 1770, and at `/not/there`, as BuildKit writes
/// one; imported by [`import_with_empty_volumes`].
pub const WITH_EMPTY_VOLUMES: &str = "localhost/empty-volumes:test";
/// busybox as distributions arrange it: `/var/run` is a link to `/run`, `/etc/resolv.conf` one to nothing; and `/old`, whose
/// content a second layer replaces; imported by [`import_odd`].
pub const ODD: &str = "localhost/odd:test";
/// How many layers [`LAYERED`] has.
pub const LAYERS: usize = 30;
/// What CRI runs as the sandbox's own container.
pub const PAUSE: &str = "localhost/pause:test";

const PROGRAM: &str = "/usr/bin/busybox";

/// Imports [`BUSYBOX`] into containerd.
pub async fn import_busybox() {
    import_one(BUSYBOX, vec![busybox()], &["/bin/sh"]).await;
}

/// Imports [`PAUSE`] into containerd.
pub async fn import_pause() {
    import_one(PAUSE, vec![busybox()], &["/bin/sleep", "2147483647"]).await;
}

/// Imports every image into containerd.
pub async fn import() {
    import_busybox().await;
    import_pause().await;
    import_one(LAYERED, layered(), &["/bin/sh"]).await;
}

/// An unpacked busybox root file system in `directory`, for callers that bring their own.
pub fn unpack_busybox(directory: &Path) {
    for path in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(directory.join(path)).or_fail(path);
    }
    fs::copy(PROGRAM, directory.join("bin/busybox")).or_fail(PROGRAM);
    for applet in applets() {
        let link = directory.join("bin").join(&applet);
        symlink("busybox", link).or_fail(applet);
    }
}

/// Imports [`WITH_VOLUME`] into containerd.
pub async fn import_with_volume() {
    let layer = busybox().directory("data", 0o1770).file("data/seed", 0o640, b"of the image\n");
    import_archive(&archive_with_volumes(WITH_VOLUME, vec![layer], &["/bin/sh"], &["/data"])).await;
}

/// Imports [`WITH_EMPTY_VOLUMES`] into containerd.
pub async fn import_with_empty_volumes() {
    let layer = busybox().directory("own", 0o1770);
    let volumes = ["/own", "/not/there"];
    import_archive(&archive_with_volumes(WITH_EMPTY_VOLUMES, vec![layer], &["/bin/sh"], &volumes)).await;
}

/// Imports [`ODD`] into containerd.
pub async fn import_odd() {
    let layers = vec![
        busybox()
            .directory("run", 0o755)
            .directory("var", 0o755)
            .link("var/run", "/run")
            .link("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf")
            .directory("old", 0o755)
            .file("old/one", 0o644, b"of the first layer\n"),
        Layer::default()
            .directory("old", 0o755)
            .file("old/.wh..wh..opq", 0o644, b"")
            .file("old/two", 0o4755, b"of the second layer\n")
            .hard_link("old/same", "old/two"),
    ];
    import_one(ODD, layers, &["/bin/sh"]).await;
}

async fn import_one(name: &str, layers: Vec<Layer>, entrypoint: &[&str]) {
    import_archive(&archive(name, layers, entrypoint)).await;
}

async fn import_archive(archive: &[u8]) {
    let path = PathBuf::from("/run/e2e/image.tar");
    fs::write(&path, archive).or_fail("write an image");
    ctr(&["images", "import", "--local", "--snapshotter", "erofs", "/run/e2e/image.tar"]).await.succeeded();
    fs::remove_file(path).or_fail("remove an image");
}

/// [`BUSYBOX`] as an OCI archive.
pub fn busybox_archive() -> Vec<u8> {
    archive(BUSYBOX, vec![busybox()], &["/bin/sh"])
}

/// [`LAYERED`] as an OCI archive.
pub fn layered_archive() -> Vec<u8> {
    archive(LAYERED, layered(), &["/bin/sh"])
}

fn layered() -> Vec<Layer> {
    iter::once(busybox()).chain((1..LAYERS).map(small_layer)).collect()
}

/// busybox as a layer.
pub fn busybox() -> Layer {
    let program = fs::read(PROGRAM).or_fail("busybox-static, of tools/forky-root.packages");
    let mut layer = Layer::default()
        .directory("bin", 0o755)
        .directory("dev", 0o755)
        .directory("etc", 0o755)
        .directory("proc", 0o755)
        .directory("root", 0o700)
        .directory("sys", 0o755)
        .directory("tmp", 0o1777)
        .file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/:/bin/sh\n")
        .file("etc/group", 0o644, b"root:x:0:\nuser:x:1000:\n")
        .file("bin/busybox", 0o755, &program);
    for applet in applets() {
        layer = layer.link(&format!("bin/{applet}"), "busybox");
    }
    layer
}

fn small_layer(number: usize) -> Layer {
    let content = format!("{number}\n");
    let layer = Layer::default()
        .directory("layers", 0o755)
        .file(&format!("layers/{number:02}"), 0o644, content.as_bytes())
        .file("layers/top", 0o644, content.as_bytes());
    match number {
        1 => layer.file("layers/removed", 0o644, b"still here\n"),
        number if number == LAYERS - 1 => layer.without("layers/removed"),
        _ => layer,
    }
}

fn applets() -> Vec<String> {
    let output = Command::new(PROGRAM).arg("--list").output().or_fail("busybox --list");
    let names = String::from_utf8(output.stdout).or_fail("busybox --list");
    names.lines().filter(|name| *name != "busybox").map(str::to_owned).collect()
}

/// llama.cpp's server of Debian above busybox, with the libraries that it needs.
pub const LLAMA: &str = "localhost/llama:test";

/// [`LLAMA`] as an OCI archive.
pub fn llama_archive() -> Vec<u8> {
    archive(LLAMA, vec![busybox(), llama()], &["/usr/bin/llama-server"])
}

/// Imports [`LLAMA`] into containerd.
pub async fn import_llama() {
    import_archive(&llama_archive()).await;
}

/// The rig's own libraries that the server is linked with.
const LIBRARIES: [&str; 9] = [
    "libc.so.6",
    "libcrypto.so.3",
    "libgcc_s.so.1",
    "libgomp.so.1",
    "libm.so.6",
    "libssl.so.3",
    "libstdc++.so.6",
    "libz.so.1",
    "libzstd.so.1",
];
/// The server's own; of the processors that ggml knows the one with the fewest features, for an emulated one has no others
/// that are quick.
const OWN: [&str; 8] = [
    "ggml/backends0/libggml-cpu-x64.so",
    "libggml-base.so.0",
    "libggml.so.0",
    "libllama-common.so.0",
    "libllama.so.0",
    "libmtmd.so.0",
    "llama/libllama-server-impl.so",
    "../../bin/llama-server",
];

fn llama() -> Layer {
    const FOLDER: &str = "usr/lib/x86_64-linux-gnu";
    let fetched = workspace().join("build/model-server").join(FOLDER);
    let read =
        |path: &Path| fs::read(path).or_fail(format!("{}: run tools/model-server first", path.display()));
    let folders = ["lib64", "usr", "usr/bin", "usr/lib", FOLDER];
    let mut layer = folders.iter().fold(Layer::default(), |layer, folder| layer.directory(folder, 0o755));
    for folder in ["ggml", "ggml/backends0", "llama"] {
        layer = layer.directory(&format!("{FOLDER}/{folder}"), 0o755);
    }
    layer = layer.file("lib64/ld-linux-x86-64.so.2", 0o755, &read(Path::new("/lib64/ld-linux-x86-64.so.2")));
    for name in LIBRARIES {
        layer =
            layer.file(&format!("{FOLDER}/{name}"), 0o644, &read(&Path::new("/").join(FOLDER).join(name)));
    }
    for name in OWN {
        let place = name
            .strip_prefix("../../bin/")
            .map_or_else(|| format!("{FOLDER}/{name}"), |name| format!("usr/bin/{name}"));
        layer = layer.file(&place, 0o755, &read(&fetched.join(name)));
    }
    layer
}
