//! What QEMU says of itself over its monitor, without a machine.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// How long QEMU may take; a tenth of a second is usual, and a cold start on an emulated CPU took more than five.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Most that QEMU may say, in bytes; the list of types has about 60 KiB.
const MAX_OUTPUT: u64 = 4 << 20;

/// What is asked, by the id of the answer.
const COMMANDS: [(&str, u64); 4] =
    [("qmp_capabilities", 1), ("qom-list-types", TYPES), ("query-sev-capabilities", SEV), ("quit", 4)];
const TYPES: u64 = 2;
const SEV: u64 = 3;

/// A version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Version {
    /// First number.
    pub major: u32,
    /// Second number.
    pub minor: u32,
    /// Third number.
    pub micro: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// What QEMU said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// Its version.
    pub version: Version,
    /// Every type of object and device that it has.
    pub types: BTreeSet<String>,
    /// What KVM and `/dev/sev` say through it; QEMU's error otherwise.
    pub sev: Result<SevCapabilities, String>,
}

/// The answer to `query-sev-capabilities`, as far as it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct SevCapabilities {
    /// Position of the bit that marks a page as encrypted.
    pub cbitpos: u32,
    /// Bits of a physical address that are lost to encryption.
    #[serde(rename = "reduced-phys-bits")]
    pub reduced_phys_bits: u32,
}

/// QEMU cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// It does not start.
    #[error("{program:?} cannot be started: {source}")]
    Start {
        /// The program.
        program: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not answer.
    #[error("{program:?} did not answer within {TIMEOUT:?}")]
    Silent {
        /// The program.
        program: PathBuf,
    },
    /// It ended, or answered otherwise than QEMU does.
    #[error("{program:?} does not answer as QEMU does: {said}")]
    Strange {
        /// The program.
        program: PathBuf,
        /// The last of what it said.
        said: String,
    },
}

/// Starts `program` without a machine and asks. KVM is opened only for `sev`: it is not every host's friend.
pub(crate) fn ask(program: &Path, sev: bool) -> Result<Qemu, QemuError> {
    let start = |source| QemuError::Start { program: program.to_owned(), source };
    let mut child = Command::new(program)
        .args(["-machine", "none", "-accel", if sev { "kvm" } else { "tcg" }])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(start)?;
    let answer = converse(&mut child);
    // It has quit by now, or is to: a zombie or a hanging process is left behind in no case.
    let _ = child.kill();
    let _ = child.wait();
    let said = answer.ok_or_else(|| QemuError::Silent { program: program.to_owned() })?;
    parse(&said).ok_or_else(|| QemuError::Strange { program: program.to_owned(), said: tail(&said) })
}

/// All that it says until it ends; `None` if it does not.
fn converse(child: &mut Child) -> Option<String> {
    let (send, receive) = mpsc::channel();
    for stream in [child.stdout.take().map(boxed), child.stderr.take().map(boxed)].into_iter().flatten() {
        let send = send.clone();
        let read = move || {
            let mut said = Vec::new();
            let _ = stream.take(MAX_OUTPUT).read_to_end(&mut said);
            let _ = send.send(String::from_utf8_lossy(&said).into_owned());
        };
        std::thread::Builder::new().name("qemu-output".into()).spawn(read).ok()?;
    }
    drop(send);
    // Kept open: QEMU takes the end of its monitor's input for a hang-up.
    let mut input = child.stdin.take()?;
    for (command, id) in COMMANDS {
        // A QEMU that has ended says why on its stderr.
        let _ = writeln!(input, "{}", serde_json::json!({ "execute": command, "id": id }));
    }
    let first = receive.recv_timeout(TIMEOUT).ok()?;
    let second = receive.recv_timeout(TIMEOUT).ok()?;
    Some(if first.starts_with("{\"QMP\"") { first } else { format!("{second}{first}") })
}

fn boxed(stream: impl Read + Send + 'static) -> Box<dyn Read + Send> {
    Box::new(stream)
}

fn parse(said: &str) -> Option<Qemu> {
    let mut lines = said.lines().map(serde_json::from_str::<Value>);
    let greeting = lines.next()?.ok()?;
    let version = Version::deserialize(greeting.pointer("/QMP/version/qemu")?).ok()?;
    let (mut types, mut sev) = (BTreeSet::new(), Err("no answer".to_owned()));
    for line in lines.map_while(Result::ok) {
        match line.get("id").and_then(Value::as_u64) {
            Some(TYPES) => types = names(line.get("return")?),
            Some(SEV) => sev = capabilities(&line),
            _ => {}
        }
    }
    (!types.is_empty()).then_some(Qemu { version, types, sev })
}

fn names(list: &Value) -> BTreeSet<String> {
    let items = list.as_array().into_iter().flatten();
    items.filter_map(|item| item.get("name")?.as_str().map(str::to_owned)).collect()
}

fn capabilities(line: &Value) -> Result<SevCapabilities, String> {
    let refused = line.pointer("/error/desc").and_then(Value::as_str).unwrap_or("no answer");
    let answer = line.get("return").ok_or_else(|| refused.to_owned())?;
    SevCapabilities::deserialize(answer).map_err(|e| e.to_string())
}

fn tail(said: &str) -> String {
    let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
    last.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// The beginning of what QEMU 11.1.2 says, its list of types shortened.
    const SAID: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 1, "major": 11}, "package": "Debian 1:11.1.2+ds-3"}, "capabilities": ["oob"]}}
{"return": {}, "id": 1}
{"return": [{"name": "tdx-guest", "parent": "x86-confidential-guest"}, {"name": "iommufd", "parent": "object"}], "id": 2}
{"id": 3, "error": {"class": "GenericError", "desc": "KVM not enabled"}}
{"return": {}, "id": 4}
"#;

    fn script(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        (dir, path)
    }

    #[test]
    fn answers_are_read() {
        let qemu = parse(SAID).unwrap();
        assert_eq!(qemu.version.to_string(), "11.1.2");
        assert!(qemu.types.contains("tdx-guest") && qemu.types.contains("iommufd"));
        assert_eq!(qemu.sev, Err("KVM not enabled".to_owned()));
    }

    #[test]
    fn capabilities_of_a_host_with_sev_are_read() {
        let answer = r#"{"return": {"pdh": "AA==", "cert-chain": "AA==", "cpu0-id": "AA==", "cbitpos": 51,
            "reduced-phys-bits": 1}, "id": 3}"#;
        let answer = capabilities(&serde_json::from_str(answer).unwrap());
        assert_eq!(answer, Ok(SevCapabilities { cbitpos: 51, reduced_phys_bits: 1 }));
    }

    #[test]
    fn a_program_that_is_no_qemu_is_quoted() {
        let (_dir, path) = script("#!/bin/sh\necho 'qemu: -accel: invalid accelerator' >&2; exit 1\n");
        let error = ask(&path, false).unwrap_err();
        assert!(
            matches!(&error, QemuError::Strange { said, .. } if said.ends_with("invalid accelerator")),
            "{error}"
        );
        let error = ask(Path::new("/nonexistent/qemu"), false).unwrap_err();
        assert!(
            error.to_string().ends_with("cannot be started: No such file or directory (os error 2)"),
            "{error}"
        );
    }

    #[test]
    fn a_program_that_speaks_as_qemu_is_understood_and_ended() {
        let (_dir, path) = script(&format!("#!/bin/sh\ncat <<'END'\n{SAID}END\n"));
        assert_eq!(ask(&path, false).unwrap().version.major, 11);
    }

    #[test]
    fn any_text_is_survived() {
        for said in ["", "{", "{}", "[]\n[]", r#"{"QMP": {"version": {"qemu": {"major": -1}}}}"#] {
            assert_eq!(parse(said), None, "{said}");
        }
    }
}
