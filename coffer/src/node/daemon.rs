//! The node's container engine: its program, its unit, its socket.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use node_install::{Daemon, Kind, Root, Runtimes, runtimes};

use super::classes::PATH;
use super::{cri, pause};

/// How long an engine may take to serve after its start; k3s starts a whole cluster.
const START: Duration = Duration::from_secs(120);
/// How often it is asked meanwhile.
const PAUSE: Duration = Duration::from_millis(200);

/// The engine of a node whose files are below a root.
#[derive(Debug)]
pub(super) struct Engine {
    root: Root,
}

impl Engine {
    pub(super) fn new(root: &Root) -> Self {
        Self { root: root.clone() }
    }

    fn directory(&self) -> &Path {
        self.root.directory()
    }

    /// A program of the node, which sees the node's files.
    fn command(&self, program: &str) -> Command {
        let mut command = if self.directory() == Path::new("/") {
            Command::new(program)
        } else {
            let mut command = Command::new("chroot");
            command.arg(self.directory()).arg(program);
            command
        };
        command.env("LC_ALL", "C");
        command
    }

    fn program(&self, kind: Kind) -> Result<&'static str, String> {
        let is_there = |program: &str| {
            if program.starts_with('/') {
                self.root.exists(program)
            } else {
                // Programs in PATH are looked for by whoever starts them; here it is only whether one is there.
                let path = std::env::var("PATH").unwrap_or_default();
                format!("{path}:{PATH}").split(':').any(|dir| self.root.exists(&format!("{dir}/{program}")))
            }
        };
        let found = kind.programs().iter().copied().find(|program| is_there(program));
        found.ok_or_else(|| format!("there is no program {}", kind.programs().join(", ")))
    }

    fn output(&self, kind: Kind, arguments: &[&str]) -> Result<String, String> {
        let program = self.program(kind)?;
        succeeded(self.command(program).args(arguments).output(), program)
    }

    fn unit(&self, kind: Kind) -> Result<&'static str, String> {
        let says = |question: &str, unit: &str| {
            let answer = self.command("systemctl").args([question, "--quiet", unit]).status();
            answer.is_ok_and(|status| status.success())
        };
        // One that has failed is enabled still.
        let units = kind.units().iter().copied();
        let found = ["is-active", "is-enabled"]
            .into_iter()
            .find_map(|question| units.clone().find(|unit| says(question, unit)));
        found.ok_or_else(|| {
            format!(
                "systemd runs none of the units {}: is it started in another way?",
                kind.units().join(", ")
            )
        })
    }
}

/// What a program printed, or one line of why it failed.
fn succeeded(output: std::io::Result<Output>, program: &str) -> Result<String, String> {
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it says nothing");
    Err(format!("{program} failed ({}): {last}", output.status))
}

impl Daemon for Engine {
    fn default_schema(&self, kind: Kind) -> Option<u64> {
        let text = self.output(kind, &["config", "default"]).ok()?;
        text.lines().find_map(|line| line.strip_prefix("version = ")?.trim().parse().ok())
    }

    fn version(&self, kind: Kind) -> Option<(u32, u32)> {
        version(&self.output(kind, &["--version"]).ok()?)
    }

    fn configured(&self, kind: Kind) -> Result<Runtimes, String> {
        if kind == Kind::Crio {
            return crio(&self.root);
        }
        let (file, ask) = (kind.main_file(), |arguments: &[&str]| self.output(kind, arguments));
        runtimes(&configuration(file, self.root.exists(file), ask)?)
    }

    fn restart(&self, kind: Kind) -> Result<(), String> {
        let unit = self.unit(kind)?;
        succeeded(self.command("systemctl").args(["restart", unit]).output(), "systemctl").map(|_| ())
    }

    fn serving(&self, kind: Kind) -> Result<Runtimes, String> {
        let socket = self.directory().join(kind.socket().trim_start_matches('/'));
        let end = Instant::now() + START;
        loop {
            match cri::handlers(&socket) {
                // containerd 1.7 does not say; but it serves, and this is what it has read.
                Ok(names) if names.is_empty() => return self.configured(kind),
                Ok(names) => return Ok(names.into_iter().map(|name| (name, String::new())).collect()),
                Err(error) if Instant::now() > end => {
                    return Err(format!(
                        "it does not serve {} s after its start: {error:#}",
                        START.as_secs()
                    ));
                }
                Err(_) => pause(PAUSE),
            }
        }
    }
}

/// The configuration that containerd has with its main file. containerd 1 serves with its defaults where there is none, and does not
/// dump them.
fn configuration(
    file: &str,
    is_there: bool,
    ask: impl Fn(&[&str]) -> Result<String, String>,
) -> Result<String, String> {
    match ask(&["--config", file, "config", "dump"]) {
        Err(_) if !is_there => ask(&["config", "default"]),
        dump => dump,
    }
}

/// `containerd github.com/containerd/containerd/v2 2.1.9+unknown ...`, `crio version 1.33.0`.
fn version(text: &str) -> Option<(u32, u32)> {
    let number = |word: &str| {
        let mut numbers = word.trim_start_matches('v').split('.');
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    };
    text.split_whitespace().find_map(number)
}

/// CRI-O reads its directory file by file (`crio.conf.d(5)`).
fn crio(root: &Root) -> Result<Runtimes, String> {
    let dir = "/etc/crio/crio.conf.d";
    let files = root
        .names(dir)
        .into_iter()
        .filter(|name| name.ends_with(".conf"))
        .map(|name| format!("{dir}/{name}"));
    let mut found = Runtimes::new();
    for path in ["/etc/crio/crio.conf".to_owned()].into_iter().chain(files) {
        let text = root.text(&path).map_err(|error| error.to_string())?.unwrap_or_default();
        found.extend(runtimes(&text).map_err(|error| format!("{path}: {error}"))?);
    }
    Ok(found)
}

/// Where a program of the node is, looked up as root would.
pub(super) fn program_in_path(root: &Root, name: &str) -> Option<PathBuf> {
    PATH.split(':').map(|dir| format!("{dir}/{name}")).find(|path| root.exists(path)).map(PathBuf::from)
}

/// The bundle that this program is part of.
pub(super) fn own_bundle() -> Option<PathBuf> {
    let program = fs::canonicalize("/proc/self/exe").ok()?;
    let directory = program.parent()?.parent()?;
    directory.join("SHA256SUMS").exists().then(|| directory.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_they_are_printed() {
        let cases = [
            ("containerd github.com/containerd/containerd/v2 2.1.9+unknown ", Some((2, 1))),
            ("containerd github.com/containerd/containerd v1.7.28 b98a3aa", Some((1, 7))),
            ("containerd github.com/containerd/containerd 1.7.24~ds1 1.7.24~ds1-6+deb13u1", Some((1, 7))),
            ("crio version 1.33.0", Some((1, 33))),
            ("nothing", None),
        ];
        for (text, wanted) in cases {
            assert_eq!(version(text), wanted, "{text}");
        }
    }

    #[test]
    fn without_a_file_the_defaults_are_what_containerd_has() {
        // As 2.1.9 does, and 1.7.24.
        let new = |arguments: &[&str]| Ok(arguments.join(" "));
        let old = |arguments: &[&str]| match arguments {
            ["config", "default"] => Ok("defaults".to_owned()),
            _ => Err("failed to load TOML".to_owned()),
        };
        let dump = "--config /c config dump";
        assert_eq!(configuration("/c", true, new).as_deref(), Ok(dump));
        assert_eq!(configuration("/c", false, new).as_deref(), Ok(dump), "its drop-ins are in it");
        assert_eq!(configuration("/c", false, old).as_deref(), Ok("defaults"));
        assert!(configuration("/c", true, old).is_err(), "a file that it cannot read");
    }
}
