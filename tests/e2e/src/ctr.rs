//! containerd's own client program, `ctr`, as a user types it.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::containerd::NAMESPACE;
use crate::or_fail::OrFail;
use crate::pty::Pty;
use crate::wait::within;

/// No single `ctr` call takes longer, a VM's boot and the stall limit of one that hangs (84 s under TCG) included.
const LIMIT: Duration = Duration::from_secs(150);
const RUNTIME: &str = "io.containerd.coffer.v2";

/// What a finished command left: exit code and text.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for failure messages.
    pub command: String,
    /// Exit code; 128 + n when a signal ended the command itself.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Fails the test unless the exit code is 0; returns standard output.
    #[track_caller]
    pub fn succeeded(self) -> String {
        assert!(
            self.code == 0,
            "`{}` ended with {}: {}{}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Fails the test unless the command failed and its error text contains every one of `words`, as a user would read it.
    #[track_caller]
    pub fn failed_with(self, words: &[&str]) -> Self {
        assert!(self.code != 0, "`{}` should have failed: {}{}", self.command, self.stdout, self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "`{}`: {word:?} is not in: {}", self.command, self.stderr);
        }
        self
    }
}

/// Runs `ctr` in the tests' namespace to its end.
pub async fn ctr(arguments: &[&str]) -> Output {
    ctr_with_stdin(arguments, b"").await
}

/// Runs `ctr` with something piped into it.
pub async fn ctr_with_stdin(arguments: &[&str], stdin: &[u8]) -> Output {
    let what = format!("ctr {}", arguments.join(" "));
    let mut child = Command::new("ctr")
        .args(["-n", NAMESPACE])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .or_fail("start ctr");
    let mut pipe = child.stdin.take().or_fail("ctr's stdin");
    let feed = async {
        // A command that ends without reading all of it closes the pipe early: its own business.
        let _ = pipe.write_all(stdin).await;
        drop(pipe);
    };
    let (output, ()) = within(&what, LIMIT, async { tokio::join!(child.wait_with_output(), feed) }).await;
    let output = output.or_fail(&what);
    Output {
        command: what,
        code: exit_code(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// One `ctr run` to be: what to run, and how.
#[derive(Debug, Clone)]
pub struct Run {
    id: String,
    image: String,
    command: Vec<String>,
    runtime: String,
    flags: Vec<String>,
    snapshotter: Option<String>,
}

impl Run {
    /// Container `id` from `image` on the EROFS snapshotter, running `command`.
    pub fn new(id: &str, image: &str, command: &[&str]) -> Self {
        Self {
            id: id.to_owned(),
            image: image.to_owned(),
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            runtime: RUNTIME.to_owned(),
            flags: Vec::new(),
            snapshotter: Some("erofs".to_owned()),
        }
    }

    /// Takes the root file system from `directory` instead of an image.
    pub fn from_directory(id: &str, directory: &Path, command: &[&str]) -> Self {
        let run = Self::new(id, &directory.display().to_string(), command);
        Self { snapshotter: None, ..run }.flag("--rootfs")
    }

    /// Another shim than the one in containerd's `PATH`.
    #[must_use]
    pub fn shim(mut self, path: &Path) -> Self {
        self.runtime = path.display().to_string();
        self
    }

    /// Another snapshotter.
    #[must_use]
    pub fn snapshotter(mut self, name: &str) -> Self {
        self.snapshotter = Some(name.to_owned());
        self
    }

    /// A node configuration of this run's own.
    #[must_use]
    pub fn config(self, path: &Path) -> Self {
        self.flag("--runtime-config-path").flag(&path.display().to_string())
    }

    /// One more word before the image's name on the command line.
    #[must_use]
    pub fn flag(mut self, word: &str) -> Self {
        self.flags.push(word.to_owned());
        self
    }

    /// Runs it to its end, in the foreground.
    pub async fn to_end(&self) -> Output {
        self.with_stdin(b"").await
    }

    /// Runs it to its end with something piped into it.
    pub async fn with_stdin(&self, stdin: &[u8]) -> Output {
        let line = self.line(&["--rm"]);
        ctr_with_stdin(&line.iter().map(String::as_str).collect::<Vec<_>>(), stdin).await
    }

    /// Runs it on a terminal of its own.
    pub fn on_a_terminal(&self) -> Pty {
        let mut words = vec!["ctr".to_owned(), "-n".to_owned(), NAMESPACE.to_owned()];
        words.extend(self.line(&["--rm", "--tty"]));
        Pty::spawn(&words)
    }

    /// Starts it in the background.
    pub async fn start(&self) -> Container {
        self.try_start().await.succeeded();
        Container { id: self.id.clone() }
    }

    /// Tries to start it in the background; for those that must fail.
    pub async fn try_start(&self) -> Output {
        let line = self.line(&["--detach"]);
        ctr(&line.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Tries to start it, expects that to fail, and takes away the container record that `ctr` leaves.
    pub async fn refused(&self) -> Output {
        let output = self.try_start().await;
        assert!(output.code != 0, "`{}` should have failed", output.command);
        self.clear().await;
        output
    }

    /// Takes away whatever containerd still knows of it.
    pub async fn clear(&self) {
        ctr(&["tasks", "rm", "--force", &self.id]).await;
        ctr(&["containers", "rm", &self.id]).await;
        self.remove_fifos();
    }

    /// `ctr` removes the fifos of a detached task with the task, so not where containerd has forgotten that.
    fn remove_fifos(&self) {
        let mine = format!("{}-std", self.id);
        for directory in fs::read_dir("/run/containerd/fifo").into_iter().flatten().flatten() {
            let mut fifos = fs::read_dir(directory.path()).into_iter().flatten().flatten();
            if fifos.any(|fifo| fifo.file_name().to_string_lossy().starts_with(&mine)) {
                let _ = fs::remove_dir_all(directory.path());
            }
        }
    }

    fn line(&self, mode: &[&str]) -> Vec<String> {
        let mut line: Vec<String> =
            ["run", "--runtime", &self.runtime].iter().map(|word| (*word).to_owned()).collect();
        line.extend(mode.iter().map(|word| (*word).to_owned()));
        if let Some(name) = &self.snapshotter {
            line.extend(["--snapshotter".to_owned(), name.clone()]);
        }
        line.extend(self.flags.iter().cloned());
        line.extend([self.image.clone(), self.id.clone()]);
        line.extend(self.command.iter().cloned());
        line
    }
}

/// A container that `ctr` started in the background.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
}

impl Container {
    /// Runs a further process in it.
    pub async fn exec(&self, command: &[&str]) -> Output {
        self.exec_as("more", command).await
    }

    /// Runs a further process in it under an id of its own.
    pub async fn exec_as(&self, exec_id: &str, command: &[&str]) -> Output {
        let line = [&["tasks", "exec", "--exec-id", exec_id, &self.id], command].concat();
        ctr(&line).await
    }

    /// Runs a further process in it with something piped in.
    pub async fn exec_with_stdin(&self, command: &[&str], stdin: &[u8]) -> Output {
        let line = [&["tasks", "exec", "--exec-id", "piped", &self.id], command].concat();
        ctr_with_stdin(&line, stdin).await
    }

    /// Runs one of `ctr tasks`' commands on it, for example `pause`.
    pub async fn task(&self, command: &[&str]) -> Output {
        let line = [&["tasks"], command, &[self.id.as_str()]].concat();
        ctr(&line).await
    }

    /// Its state as `ctr tasks ls` shows it, for example `RUNNING`; `None` when there is no such task.
    pub async fn state(&self) -> Option<String> {
        let list = ctr(&["tasks", "ls"]).await.succeeded();
        list.lines().find_map(|line| {
            let mut fields = line.split_whitespace();
            (fields.next()? == self.id).then(|| fields.nth(1).map(str::to_owned))?
        })
    }

    /// Kills it, waits until it is stopped, and removes task and container.
    pub async fn remove(self) {
        self.task(&["kill", "--signal", "SIGKILL", "--all"]).await;
        self.wait_state("STOPPED").await;
        self.delete().await;
    }

    /// Waits until `ctr tasks ls` shows `state`.
    pub async fn wait_state(&self, state: &str) {
        let what = format!("{} to be {state}", self.id);
        crate::wait::until(what, Duration::from_secs(20), async || {
            self.state().await.filter(|now| now == state)
        })
        .await;
    }

    /// Waits until containerd has no task of it any more: how it tells of a shim that died. The bundle goes last.
    pub async fn forgotten(&self) {
        let bundle =
            Path::new("/run/containerd/io.containerd.runtime.v2.task").join(NAMESPACE).join(&self.id);
        let what = format!("the task of {} to go", self.id);
        crate::wait::until(what, Duration::from_secs(20), async || {
            (!bundle.exists() && self.state().await.is_none()).then_some(())
        })
        .await;
    }

    /// Removes the stopped task and the container. `ctr` tells on standard error with which exit code the task had
    /// ended, unless that was 0.
    pub async fn delete(self) -> Output {
        let task = self.task(&["rm"]).await;
        ctr(&["containers", "rm", &self.id]).await.succeeded();
        task
    }
}
