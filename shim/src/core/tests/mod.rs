//! The core as a table of states and inputs, and under inputs in any order.

mod play;
mod random;
mod table;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use agent_client::proto::oci::Process as OciProcess;
use guest_spec::{Role, TerminationLog};
use oci_spec::runtime::Spec;
use shared_types::cri::Engine;

use crate::api::{
    ContainerId, CreateRequest, CreateSandboxRequest, ExecId, KillRequest, NewContainer, PodFacts, ProcessId,
    Rootfs, RuntimeOptions, StdioPaths,
};

use super::{Call, Made};

const EPOCH: SystemTime = SystemTime::UNIX_EPOCH;

fn id(name: &str) -> ContainerId {
    ContainerId::new(name).unwrap()
}

fn init(name: &str) -> ProcessId {
    ProcessId::init(id(name))
}

fn exec(name: &str, exec: &str) -> ProcessId {
    ProcessId { container: id(name), exec: Some(ExecId::new(exec).unwrap()) }
}

fn create(name: &str) -> Call {
    create_of(name, Spec::default())
}

/// Creates a container of CRI-O, as kubelet has it made: the sandbox where its name is the sandbox's.
fn create_in(name: &str, sandbox: &str, uid: &str) -> Call {
    let (kind, label) = if name == sandbox { ("sandbox", "POD") } else { ("container", name) };
    let names = Engine::Crio.names();
    let annotations =
        [(names.kind, kind), (names.sandbox, sandbox), (names.container, label), (names.uid, uid)];
    let mut spec = Spec::default();
    spec.set_annotations(Some(annotations.map(|(name, text)| (name.to_owned(), text.to_owned())).into()));
    create_of(name, spec)
}

fn create_of(name: &str, spec: Spec) -> Call {
    let request = CreateRequest {
        id: id(name),
        bundle: PathBuf::from("/b"),
        rootfs: Rootfs::Mounts(Vec::new()),
        stdio: StdioPaths::default(),
        options: RuntimeOptions::default(),
    };
    Call::Create(Arc::new(NewContainer { request, spec }))
}

fn add(process: ProcessId) -> Call {
    Call::Exec(process, StdioPaths::default(), Arc::new(OciProcess::default()))
}

fn kill(process: ProcessId, signal: u32) -> Call {
    Call::Kill(KillRequest { process, signal, all: false })
}

fn sandbox(name: &str) -> Call {
    Call::CreateSandbox(Arc::new(CreateSandboxRequest {
        id: id(name),
        bundle: PathBuf::from("/b"),
        netns: None,
        annotations: std::collections::BTreeMap::new(),
        facts: PodFacts::default(),
    }))
}

/// A container whose name is the pod's is its sandbox container; `c` shares PIDs and has last words.
fn made(name: &ContainerId) -> Made {
    let role = if name.as_str() == "pod" { Role::Sandbox } else { Role::PodContainer };
    let log = TerminationLog { host: PathBuf::from("/log"), below: None, destination: "/dev/log".to_owned() };
    let has_all = name.as_str() == "c";
    Made { role, shares_pids: has_all, last_words: has_all.then(|| Arc::new(log)) }
}
