//! Has containerd's layers converted by a program of ours, `coffer image convert`: it speaks gRPC and unpacks, and takes
//! the memory for that with it when it ends.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jail::UserId;
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;
use verity::RootHash;

use super::cache::in_use;
use super::{Error, Layer, Rootfs, layer};
use crate::sys;

/// The largest answer: 127 layers with the longest paths are less.
const MAX_ANSWER: u64 = 1 << 20;
/// The longest line of progress that is passed on, in bytes.
const MAX_LINE: usize = 512;
/// How many lines of progress are passed on.
const MAX_LINES: usize = 2048;
/// How many of the last lines an error quotes.
const QUOTED: usize = 3;
/// More layers than a VM takes disks.
const MAX_LAYERS: usize = 256;

/// What to convert.
#[derive(Debug, Clone, Copy)]
pub struct Conversion<'a> {
    /// The program.
    pub program: &'a Path,
    /// containerd's socket.
    pub socket: &'a str,
    /// containerd's namespace.
    pub namespace: &'a str,
    /// The container.
    pub container: &'a str,
    /// Where converted layers are kept.
    pub cache: &'a Path,
    /// The root hashes that the pod's policy demands, the topmost layer's first: the program says what differs.
    pub wanted: Option<&'a [RootHash]>,
    /// As whom the program runs mkfs.erofs.
    pub user: UserId,
    /// How long all of it may take.
    pub patience: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Answer {
    Layers {
        layers: Vec<Described>,
    },
    NoImage {
        #[serde(rename = "no_image")]
        _no_image: bool,
    },
}

#[derive(Debug, Deserialize)]
struct Described {
    path: PathBuf,
    root_hash: RootHash,
}

impl Conversion<'_> {
    /// Converts what is not converted yet, and returns the container's layers; `None` where containerd knows no image of it.
    /// They stay where they are for as long as the result is held. `progress` gets what the program says meanwhile. The
    /// program ends with us, or when this is dropped.
    ///
    /// # Errors
    /// [`Error::Convert`]; [`Error::Locked`] for a layer that somebody keeps from us; [`Error::NoTree`] and
    /// [`Error::OtherRoot`] for a layer that is not what the program says.
    pub async fn run(&self, progress: impl FnMut(&str)) -> Result<Option<Rootfs>, Error> {
        let failed = |reason: String| Error::Convert { program: self.program.to_owned(), reason };
        let mut command = Command::new(self.program);
        command.args(["image", "convert", "--containerd", self.socket, "--namespace", self.namespace]);
        command.args(["--container", self.container, "--cache"]).arg(self.cache);
        if let Some(wanted) = self.wanted {
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            command.args(["--wanted", &wanted.join(",")]);
        }
        command.args(["--user", &self.user.to_string()]);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(true);
        sys::die_with_parent(command.as_std_mut());
        let mut child = command.spawn().map_err(Error::file("start", self.program))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let working = async {
            let (answer, said) = tokio::join!(whole(stdout), lines(stderr, progress));
            (answer, said, child.wait().await)
        };
        let (answer, said, status) = timeout(self.patience, working)
            .await
            .map_err(|_| failed(format!("it took longer than {} s", self.patience.as_secs())))?;
        let status = status.map_err(Error::file("wait for", self.program))?;
        let answer = answer.map_err(|error| failed(format!("its answer: {error}")))?;
        if !status.success() {
            let said = Vec::from(said).join(" | ");
            return Err(failed(format!(
                "{status}: {}",
                if said.is_empty() { "it said nothing" } else { &said }
            )));
        }
        let answer =
            serde_json::from_slice(&answer).map_err(|error| failed(format!("its answer: {error}")))?;
        let layers = match answer {
            Answer::Layers { layers } => layers,
            Answer::NoImage { .. } => return Ok(None),
        };
        if layers.is_empty() || layers.len() > MAX_LAYERS {
            return Err(failed(format!("its answer: {} layers", layers.len())));
        }
        let mut rootfs = Rootfs::of_layers(Vec::with_capacity(layers.len()));
        for Described { path, root_hash } in layers {
            // So that nobody takes it away from the cache (`layers::Node`).
            rootfs.held.push(in_use(&path, || layer::open(&path)).await?);
            rootfs.layers.push(Layer::described(&path, root_hash)?);
        }
        Ok(Some(rootfs))
    }
}

async fn whole(stream: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let Some(stream) = stream else { return Ok(answer) };
    // Beyond the limit the program finds a closed pipe.
    stream.take(MAX_ANSWER + 1).read_to_end(&mut answer).await?;
    if answer.len() as u64 > MAX_ANSWER {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("more than {MAX_ANSWER} bytes")));
    }
    Ok(answer)
}

/// Passes lines on, and returns the last ones.
async fn lines(stream: Option<impl AsyncRead + Unpin>, mut progress: impl FnMut(&str)) -> VecDeque<String> {
    let mut last = VecDeque::with_capacity(QUOTED);
    let Some(stream) = stream else { return last };
    let mut stream = BufReader::new(stream);
    let (mut line, mut passed) = (Vec::new(), 0);
    loop {
        line.clear();
        let limit = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
        match (&mut stream).take(limit).read_until(b'\n', &mut line).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return last,
        }
        let text = String::from_utf8_lossy(&line);
        let text: String = text.trim().chars().filter(|letter| !letter.is_control()).collect();
        if text.is_empty() {
            continue;
        }
        if passed < MAX_LINES {
            progress(&text);
            passed += 1;
        }
        if last.len() == QUOTED {
            last.pop_front();
        }
        last.push_back(text);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::PermissionsExt;
    use std::time::Instant;

    use jail::{Role, UserRange};

    use super::super::layer::make;
    use super::*;

    struct Rig(tempfile::TempDir);

    impl Rig {
        fn new(script: &str) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("coffer");
            std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            Self(dir)
        }

        async fn run(&self, patience: Duration, progress: impl FnMut(&str)) -> Result<Option<Rootfs>, Error> {
            let program = self.0.path().join("coffer");
            let conversion = Conversion {
                program: &program,
                socket: "/run/c.sock",
                namespace: "k8s.io",
                container: "web",
                cache: self.0.path(),
                wanted: Some(&[RootHash::from_bytes([0xab; 32])]),
                user: UserRange::default().of_process(7, Role::ImageBuilder),
                patience,
            };
            conversion.run(progress).await
        }
    }

    const LONG: Duration = Duration::from_secs(60);

    fn answer(image: &Path, root: RootHash) -> String {
        let image = image.display();
        format!(
            r#"{{"layers":[{{"path":"{image}","root_hash":"{root}","diff_id":"sha256:1","digest":"sha256:2"}}]}}"#
        )
    }

    #[tokio::test]
    async fn layers_and_progress_come_back() {
        let rig = Rig::new("echo \"$@\" >&2; cat $(dirname $0)/answer");
        let image = rig.0.path().join("a.erofs");
        let root = make(&image, 1);
        std::fs::write(rig.0.path().join("answer"), answer(&image, root)).unwrap();
        let mut said = Vec::new();
        let rootfs = rig.run(LONG, |line| said.push(line.to_owned())).await.unwrap().unwrap();
        assert_eq!(rootfs.layers(), [Layer { image: image.clone(), root }]);
        // In use for as long as it is held.
        let other = File::open(&image).unwrap();
        assert!(other.try_lock().is_err());
        rootfs.release().unwrap();
        other.try_lock().unwrap();
        let user = UserRange::default().of_process(7, Role::ImageBuilder);
        let wanted = format!("--wanted {} --user {user}", "ab".repeat(32));
        assert!(said[0].ends_with(&wanted), "{said:?}");
        assert!(
            said[0].starts_with(
                "image convert --containerd /run/c.sock --namespace k8s.io --container web --cache /"
            ),
            "{said:?}"
        );
    }

    /// On one thread, as the shim's: whoever stopped with a layer in its hands stops nobody else.
    #[tokio::test]
    async fn a_layer_that_somebody_has_for_himself_is_waited_for_a_moment_and_in_nobodys_way() {
        let rig = Rig::new("cat $(dirname $0)/answer");
        let image = rig.0.path().join("a.erofs");
        let root = make(&image, 1);
        std::fs::write(rig.0.path().join("answer"), answer(&image, root)).unwrap();
        let stranger = File::open(&image).unwrap();
        stranger.lock().unwrap();
        let others = std::cell::Cell::new(0);
        let go_on = async {
            loop {
                tokio::time::sleep(Duration::from_millis(50)).await;
                others.set(others.get() + 1);
            }
        };
        let run = async {
            tokio::select! {
                result = rig.run(LONG, |_| {}) => result,
                () = go_on => unreachable!(),
            }
        };
        let error = timeout(LONG, run).await.unwrap().unwrap_err();
        assert!(matches!(&error, Error::Locked { path, .. } if *path == image), "{error}");
        assert!(others.get() > 3, "the others were stopped: {}", others.get());
        // One who is done with it in time is waited for.
        let done = async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            drop(stranger);
        };
        let (rootfs, ()) = tokio::join!(rig.run(LONG, |_| {}), done);
        assert_eq!(rootfs.unwrap().unwrap().layers(), [Layer { image, root }]);
    }

    #[tokio::test]
    async fn a_layer_that_is_not_what_the_program_says_is_refused() {
        let rig = Rig::new("cat $(dirname $0)/answer");
        let image = rig.0.path().join("a.erofs");
        make(&image, 1);
        std::fs::write(rig.0.path().join("answer"), answer(&image, "0".repeat(64).parse().unwrap())).unwrap();
        assert!(matches!(rig.run(LONG, |_| {}).await, Err(Error::OtherRoot { .. })));
    }

    #[tokio::test]
    async fn a_container_without_an_image_and_a_failure_are_told_apart() {
        assert_eq!(Rig::new("echo '{\"no_image\":true}'").run(LONG, |_| {}).await.unwrap().map(drop), None);
        let error = Rig::new("echo one >&2; echo the blob is gone >&2; exit 1").run(LONG, |_| {}).await;
        let text = error.unwrap_err().to_string();
        assert!(text.contains("one | the blob is gone"), "{text}");
        for garbage in ["echo nonsense", "echo '{\"layers\":[]}'", ":"] {
            let error = Rig::new(garbage).run(LONG, |_| {}).await.unwrap_err().to_string();
            assert!(error.contains("its answer"), "{garbage}: {error}");
        }
    }

    #[tokio::test]
    async fn output_without_end_is_bounded_and_silence_too() {
        let flood = "head -c 3000000 /dev/zero | tr '\\0' 'x' >&2; head -c 3000000 /dev/zero";
        let (mut lines, mut longest) = (0, 0);
        let error =
            Rig::new(flood).run(LONG, |line| (lines, longest) = (lines + 1, longest.max(line.len()))).await;
        assert!(error.unwrap_err().to_string().contains("its answer"));
        assert!(lines <= MAX_LINES && longest <= MAX_LINE, "{lines} {longest}");
        let start = Instant::now();
        let error = Rig::new("exec sleep 600").run(Duration::from_millis(100), |_| {}).await.unwrap_err();
        assert!(error.to_string().contains("longer than") && start.elapsed() < LONG, "{error}");
    }
}
