//! The attestation service as a child of PID 1, where the pod's checked initdata names a key broker.
//!
//! It is told what PID 1 found out, so that it asks nobody again: the kind of the VM, and what the initdata declares. Its
//! standard input is a socket at which the agent looks for a confidential data hub, once, when it starts: so the socket is there
//! before.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use measurement::initdata::InitData;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::unistd::Pid;

use crate::components;
use crate::initdata::Declaration;
use crate::tee::Tee;

/// The program, below the root.
const PROGRAM: &str = "usr/bin/coffer-attest";
/// Where the agent has sealed secrets opened, below the root (kata-agent 4.1.0, `src/agent/src/main.rs`).
const HUB: &str = "run/confidential-containers/cdh.sock";
/// Where the C library looks for name servers, and what is put there, below the root.
const RESOLVER: &str = "etc/resolv.conf";
const OWN_RESOLVER: &str = "run/coffer/resolv.conf";

/// Why the service could not be started.
#[derive(Debug, thiserror::Error)]
pub enum AttestationError {
    /// The program did not start.
    #[error("cannot start the attestation service {}", path.display())]
    Spawn {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The image's components take no such word.
    #[error(
        "coffer.toml in the initdata has proxy, which is for Coffer's own attestation service, and this image has other guest \
         components"
    )]
    Proxy,
    /// The image's components get no key with what they are told.
    #[error(
        "{0} in the initdata names no key broker: of this image's guest components the attestation agent reads aa.toml \
         ([token_configs.kbs]) and the data hub cdh.toml ([kbc]), and keys need both"
    )]
    Half(&'static str),
    /// Its name servers could not be written.
    #[error("cannot write {}", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The agent would find nobody.
    #[error("cannot listen for the agent's questions on {}", path.display())]
    Listen {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// And not be put in place.
    #[error("cannot put {OWN_RESOLVER} in the place of {RESOLVER}")]
    Bind(#[source] Errno),
}

/// What the service is started with.
#[derive(Debug, PartialEq, Eq)]
pub struct Order {
    words: Vec<String>,
    /// The content of `resolv.conf`; empty where nobody is to be asked.
    resolver: String,
    /// The one of the two files that names no key broker.
    half: Option<&'static str>,
}

/// The order, if the document names a key broker.
pub fn order(document: &InitData, tee: Option<Tee>, declared: &Declaration) -> Option<Order> {
    let half = match document.key_brokers() {
        (false, false) => return None,
        (true, true) => None,
        (true, false) => Some("cdh.toml"),
        (false, true) => Some("aa.toml"),
    };
    let devices = declared.devices();
    let tee = match tee {
        Some(Tee::Snp) => "snp",
        Some(Tee::Tdx) => "tdx",
        None => "none",
    };
    let mut words = vec![tee.to_owned(), devices.gpus.to_string(), devices.switches.to_string()];
    words.extend(declared.token_key.then(|| "key".to_owned()));
    words.extend(declared.proxy.as_ref().map(|proxy| format!("proxy={proxy}")));
    let mut resolver = String::new();
    for server in &declared.nameservers {
        // A string takes everything.
        let _ = writeln!(resolver, "nameserver {server}");
    }
    Some(Order { words, resolver, half })
}

impl Order {
    /// Whether other components than Coffer's own service can do all that the initdata asks for.
    fn check_components(&self) -> Result<(), AttestationError> {
        if self.words.iter().any(|word| word.starts_with("proxy=")) {
            return Err(AttestationError::Proxy);
        }
        self.half.map_or(Ok(()), |file| Err(AttestationError::Half(file)))
    }
}

/// The service that runs, and what it says.
#[derive(Debug)]
pub struct Service {
    pid: Pid,
    /// Until it says nothing more.
    said: Option<File>,
    /// The beginning of a line.
    rest: Vec<u8>,
}

/// Longest line of the service that is passed on.
const LONGEST: usize = 1000;

impl Service {
    /// Its process.
    pub const fn pid(&self) -> Pid {
        self.pid
    }

    /// The lines that it has said since. What is no whole line yet waits, up to a limit.
    pub fn lines(&mut self) -> Vec<String> {
        let mut chunk = [0; 4096];
        while self.rest.len() <= 16 * LONGEST {
            let Some(said) = &mut self.said else { break };
            match said.read(&mut chunk) {
                Ok(0) => self.said = None,
                Ok(read) => self.rest.extend(&chunk[..read]),
                // Nothing more for now.
                Err(_) => break,
            }
        }
        let end = self.rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let whole: Vec<u8> = self.rest.drain(..end).collect();
        self.rest.truncate(LONGEST);
        let lines = whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| String::from_utf8_lossy(&line[..line.len().min(LONGEST)]).into_owned()).collect()
    }

    /// What to wait for, until it says nothing more.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.said.as_ref().map(File::as_fd)
    }
}

/// Starts the service, with nothing in its environment; none where the image has other components, which the agent starts.
///
/// # Errors
///
/// [`AttestationError`].
pub fn start(root: &Path, order: &Order) -> Result<Option<Service>, AttestationError> {
    let is_ours = !components::are_in(root);
    if !is_ours {
        order.check_components()?;
    }
    if !order.resolver.is_empty() {
        let path = root.join(OWN_RESOLVER);
        fs::write(&path, &order.resolver)
            .map_err(|source| AttestationError::Write { path: path.clone(), source })?;
        let none: Option<&str> = None;
        mount(Some(&path), &root.join(RESOLVER), none, MsFlags::MS_BIND, none)
            .map_err(AttestationError::Bind)?;
    }
    if !is_ours {
        return Ok(None);
    }
    let hub = listen(&root.join(HUB))?;
    spawn(&root.join(PROGRAM), &order.words, hub).map(Some)
}

/// A socket for root.
fn listen(path: &Path) -> Result<UnixListener, AttestationError> {
    let failed = |source| AttestationError::Listen { path: path.to_owned(), source };
    path.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
    let hub = UnixListener::bind(path).map_err(failed)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(hub)
}

fn spawn(path: &Path, words: &[String], hub: UnixListener) -> Result<Service, AttestationError> {
    let mut command = Command::new(path);
    // What it says goes by PID 1 to the host, which is how a release image is heard.
    command.args(words).env_clear().current_dir("/").stdin(OwnedFd::from(hub)).stderr(Stdio::piped());
    let failed = |source| AttestationError::Spawn { path: path.to_owned(), source };
    let mut child = command.spawn().map_err(failed)?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let said = child.stderr.take().ok_or_else(|| failed(io::ErrorKind::BrokenPipe.into()))?;
    let said = File::from(OwnedFd::from(said));
    fcntl(&said, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|errno| failed(errno.into()))?;
    Ok(Service { pid, said: Some(said), rest: Vec::new() })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use measurement::initdata::{Algorithm, build};
    use nix::sys::stat::Mode;
    use nix::sys::wait::waitpid;
    use nix::unistd::mkfifo;

    use super::*;

    const AA: &str = "[token_configs.kbs]\nurl = \"https://kbs.example\"\n";
    const CDH: &str = "[kbc]\nname = \"cc_kbc\"\nurl = \"https://kbs.example\"\n";

    fn of(texts: &[(&str, &str)], tee: Option<Tee>) -> Option<Vec<String>> {
        let texts: BTreeMap<_, _> =
            texts.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
        let document = build(Algorithm::Sha384, texts).unwrap();
        let declared = crate::initdata::declared(&document).unwrap();
        order(&document, tee, &declared).map(|order| order.words)
    }

    #[test]
    fn it_is_started_where_a_key_broker_is_named_and_nowhere_else() {
        for texts in [
            &[("aa.toml", AA)][..],
            &[("cdh.toml", CDH)],
            &[("aa.toml", "[log]\n"), ("cdh.toml", CDH)],
            &[("aa.toml", "[")],
        ] {
            assert_eq!(of(texts, None).unwrap(), ["none", "0", "0"], "{texts:?}");
        }
        let image = "[image]\nmax_concurrent_layer_downloads_per_image = 3\n";
        let other = "[token_configs.coco_as]\nurl = \"https://as.example\"\n";
        for texts in [
            &[][..],
            &[("policy.rego", "package agent_policy\n")],
            &[("aa.toml", other), ("cdh.toml", image)],
        ] {
            assert_eq!(of(texts, None), None, "{texts:?}");
        }
    }

    #[test]
    fn it_is_told_what_was_found_out_and_declared() {
        let declared =
            "gpus = 8\nswitches = 4\ntoken_key = true\nnameservers = [\"10.96.0.10\", \"fd00::a\"]\n";
        let texts = [("aa.toml", AA), ("coffer.toml", declared)];
        assert_eq!(of(&texts, Some(Tee::Snp)).unwrap(), ["snp", "8", "4", "key"]);
        assert_eq!(of(&[("aa.toml", AA)], Some(Tee::Tdx)).unwrap(), ["tdx", "0", "0"]);
        let texts = texts.map(|(key, text)| (key.to_owned(), text.to_owned()));
        let document = build(Algorithm::Sha256, texts.into_iter().collect()).unwrap();
        let order = order(&document, None, &crate::initdata::declared(&document).unwrap()).unwrap();
        assert_eq!(order.resolver, "nameserver 10.96.0.10\nnameserver fd00::a\n");
        let proxy = "proxy = \"http://192.0.2.7:3128\"\n";
        let words = of(&[("aa.toml", AA), ("coffer.toml", proxy)], None).unwrap();
        assert_eq!(words, ["none", "0", "0", "proxy=http://192.0.2.7:3128"]);
    }

    #[test]
    fn what_it_says_is_passed_on_in_whole_lines_of_bounded_length() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("service");
        let script = "#!/bin/sh\necho one >&2; printf 'two\\n\\nthr' >&2; read -r go <$0.go; printf 'ee\\n%05000d\\n' 7 >&2\n";
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let go = directory.path().join("service.go");
        mkfifo(&go, Mode::S_IRWXU).unwrap();
        let hub = listen(&directory.path().join("hub.sock")).unwrap();
        let mut service = spawn(&path, &[], hub).unwrap();
        let mut said = Vec::new();
        while said.len() < 2 {
            said.extend(service.lines());
        }
        assert_eq!(said, ["one", "two"]);
        fs::write(&go, "go\n").unwrap();
        waitpid(service.pid(), None).unwrap();
        let said = service.lines();
        assert_eq!(said[0], "three");
        assert_eq!(said[1].len(), LONGEST);
        assert!(service.as_fd().is_none(), "nobody may wait for what is at its end");
    }

    #[test]
    fn other_components_are_the_agents_to_start() {
        let root = tempfile::tempdir().unwrap();
        let order = |words: &[&str], half| Order {
            words: words.iter().map(|word| (*word).to_owned()).collect(),
            resolver: String::new(),
            half,
        };
        let snp = order(&["snp", "0", "0", "key"], None);
        let error = start(root.path(), &snp).unwrap_err().to_string();
        assert!(error.contains("coffer-attest"), "neither is there: {error}");
        let component = root.path().join("usr/local/bin/attestation-agent");
        fs::create_dir_all(component.parent().unwrap()).unwrap();
        fs::write(component, "").unwrap();
        assert!(start(root.path(), &snp).unwrap().is_none());
        let proxy = order(&["snp", "0", "0", "proxy=x"], None);
        let error = start(root.path(), &proxy).unwrap_err().to_string();
        assert!(error.contains("has proxy,"), "{error}");
        for file in ["aa.toml", "cdh.toml"] {
            let error = start(root.path(), &order(&["snp", "0", "0"], Some(file))).unwrap_err().to_string();
            assert!(error.starts_with(file), "{error}");
        }
    }

    #[test]
    fn which_file_names_no_broker_is_known() {
        for (texts, half) in [
            (&[("aa.toml", AA)][..], Some("cdh.toml")),
            (&[("cdh.toml", CDH)], Some("aa.toml")),
            (&[("aa.toml", AA), ("cdh.toml", CDH)], None),
        ] {
            let map = texts.iter().map(|(key, text)| ((*key).to_owned(), (*text).to_owned())).collect();
            let document = build(Algorithm::Sha384, map).unwrap();
            let declared = crate::initdata::declared(&document).unwrap();
            assert_eq!(order(&document, None, &declared).unwrap().half, half, "{texts:?}");
        }
    }

    #[test]
    fn the_agent_finds_the_service_at_its_socket() {
        use std::os::unix::net::UnixStream;
        let root = tempfile::tempdir().unwrap();
        let program = root.path().join(PROGRAM);
        fs::create_dir_all(program.parent().unwrap()).unwrap();
        // Says what its standard input is.
        let script = "#!/bin/sh\ncase $(readlink /proc/self/fd/0) in socket:*) echo socket >&2;; *) echo other >&2;; esac\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let order = Order { words: Vec::new(), resolver: String::new(), half: None };
        let mut service = start(root.path(), &order).unwrap().unwrap();
        let socket = root.path().join(HUB);
        assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        waitpid(service.pid(), None).unwrap();
        assert_eq!(service.lines(), ["socket"]);
        assert!(UnixStream::connect(&socket).is_err(), "PID 1 keeps the socket of a service that ended");
        // A second one has no place.
        let error = start(root.path(), &order).unwrap_err().to_string();
        assert!(error.contains("cdh.sock"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let hub = listen(&directory.path().join("hub.sock")).unwrap();
        let error = spawn(Path::new("/no/such/program"), &[], hub).unwrap_err();
        assert_eq!(error.to_string(), "cannot start the attestation service /no/such/program");
    }
}
