//! From wire messages to the sandbox's types and back; every field that comes in is checked here.

use std::path::PathBuf;

use containerd_shim::protos::protobuf::MessageField;
use containerd_shim::protos::{api, types::mount};
use protobuf::well_known_types::any::Any;

use crate::api::{
    ContainerId, CreateRequest, Error, ExecId, ExecRequest, Exit, KillRequest, Mount, ProcessId,
    ProcessState, Rootfs, RuntimeOptions, Status, StdioPaths, TerminalSize, UpdateRequest, VirtualVolume,
    one_line,
};

use crate::wire::timestamp;
use crate::{api as plain, bootstrap};

/// Most mounts of one root file system; images have tens of layers.
const MAX_MOUNTS: usize = 512;
/// Most bytes of a path or a mount option; overlay's lists of layers are the longest.
const MAX_TEXT: usize = 64 << 10;
/// Highest signal number of Linux.
const MAX_SIGNAL: u32 = 64;

/// The error as a status on the wire: its code, and one line with the causes.
pub fn status(error: Error) -> ttrpc::Error {
    ttrpc::Error::RpcStatus(ttrpc::get_status(error.code(), one_line(&error)))
}

fn invalid(field: &'static str, reason: impl Into<String>) -> Error {
    Error::InvalidRequest { field, reason: reason.into() }
}

/// The process that `id` and `exec_id` name.
pub fn process(id: String, exec_id: String) -> plain::Result<ProcessId> {
    let exec = if exec_id.is_empty() { None } else { Some(ExecId::new(exec_id)?) };
    Ok(ProcessId { container: ContainerId::new(id)?, exec })
}

/// An absolute path without NUL and `..`.
pub fn path(field: &'static str, text: String) -> plain::Result<PathBuf> {
    if text.len() > MAX_TEXT
        || text.contains('\0')
        || !text.starts_with('/')
        || text.split('/').any(|p| p == "..")
    {
        return Err(invalid(field, format!("{:?} is not an absolute path", shorten(&text))));
    }
    Ok(PathBuf::from(text))
}

fn shorten(text: &str) -> String {
    text.chars().take(120).collect()
}

fn stdio(stdin: String, stdout: String, stderr: String, terminal: bool) -> plain::Result<StdioPaths> {
    for (field, text) in [("stdin", &stdin), ("stdout", &stdout), ("stderr", &stderr)] {
        if text.len() > MAX_TEXT || text.contains('\0') {
            return Err(invalid(field, format!("{:?} is not a path or a URI", shorten(text))));
        }
    }
    Ok(StdioPaths { stdin, stdout, stderr, terminal })
}

fn mounts(from: Vec<mount::Mount>) -> plain::Result<Rootfs> {
    if from.len() > MAX_MOUNTS {
        return Err(invalid("rootfs", format!("{} mounts, at most {MAX_MOUNTS} are taken", from.len())));
    }
    let texts = |m: &mount::Mount| {
        m.options.iter().chain([&m.type_, &m.source, &m.target]).all(|t| t.len() <= MAX_TEXT)
    };
    if !from.iter().all(texts) {
        return Err(invalid("rootfs", format!("a mount has a text of more than {MAX_TEXT} bytes")));
    }
    let mounts: Vec<Mount> = from
        .into_iter()
        .map(|m| Mount {
            kind: m.type_,
            source: m.source.into(),
            target: m.target.into(),
            options: m.options,
        })
        .collect();
    match VirtualVolume::find(&mounts)? {
        Some(volume) => Ok(Rootfs::GuestPull(volume)),
        None => Ok(Rootfs::Mounts(mounts)),
    }
}

fn options(from: MessageField<Any>) -> plain::Result<RuntimeOptions> {
    let read = from.as_ref().map(bootstrap::runtime_options).transpose();
    Ok(read.map_err(|error| invalid("options", error.to_string()))?.unwrap_or_default())
}

/// Create.
pub fn create(from: api::CreateTaskRequest) -> plain::Result<CreateRequest> {
    if !from.checkpoint.is_empty() || !from.parent_checkpoint.is_empty() {
        return Err(Error::Unsupported("restoring a container from a checkpoint is".to_owned()));
    }
    Ok(CreateRequest {
        id: ContainerId::new(from.id)?,
        bundle: path("bundle", from.bundle)?,
        rootfs: mounts(from.rootfs)?,
        stdio: stdio(from.stdin, from.stdout, from.stderr, from.terminal)?,
        options: options(from.options)?,
    })
}

/// The JSON in an `Any` whose type must end in `name`.
fn json(field: &'static str, from: MessageField<Any>, name: &str) -> plain::Result<Vec<u8>> {
    let any = from.into_option().ok_or_else(|| invalid(field, "it is missing"))?;
    if bootstrap::type_name(&any) != name {
        return Err(invalid(field, format!("type {:?}, not an OCI {name}", shorten(&any.type_url))));
    }
    Ok(any.value)
}

/// Exec.
pub fn exec(from: api::ExecProcessRequest) -> plain::Result<ExecRequest> {
    Ok(ExecRequest {
        container: ContainerId::new(from.id)?,
        exec: ExecId::new(from.exec_id)?,
        stdio: stdio(from.stdin, from.stdout, from.stderr, from.terminal)?,
        process: json("spec", from.spec, "Process")?,
    })
}

/// Kill.
pub fn kill(from: api::KillRequest) -> plain::Result<KillRequest> {
    // With 0 nothing is sent: it asks whether the process is there (kill(2)).
    if from.signal > MAX_SIGNAL {
        return Err(invalid("signal", format!("{} is not a signal of Linux", from.signal)));
    }
    Ok(KillRequest { process: process(from.id, from.exec_id)?, signal: from.signal, all: from.all })
}

/// Update.
pub fn update(from: api::UpdateTaskRequest) -> plain::Result<UpdateRequest> {
    Ok(UpdateRequest {
        id: ContainerId::new(from.id)?,
        resources: json("resources", from.resources, "LinuxResources")?,
        annotations: from.annotations.into_iter().collect(),
    })
}

/// A terminal's size; the kernel holds 16 bits of each.
pub fn size(from: &api::ResizePtyRequest) -> plain::Result<TerminalSize> {
    if from.width.max(from.height) > u16::MAX.into() {
        return Err(invalid("size", format!("{}x{} is no terminal", from.width, from.height)));
    }
    Ok(TerminalSize { width: from.width, height: from.height })
}

/// State.
pub fn state(from: ProcessState) -> api::StateResponse {
    let exit = match from.status {
        Status::Stopped(exit) => Some(exit),
        Status::Created | Status::Running | Status::Paused => None,
    };
    let status = match from.status {
        Status::Created => api::Status::CREATED,
        Status::Running => api::Status::RUNNING,
        Status::Paused => api::Status::PAUSED,
        Status::Stopped(_) => api::Status::STOPPED,
    };
    api::StateResponse {
        exec_id: from.process.exec_str().to_owned(),
        id: from.process.container.as_str().to_owned(),
        bundle: from.bundle.display().to_string(),
        pid: from.pid,
        status: status.into(),
        stdin: from.stdio.stdin,
        stdout: from.stdio.stdout,
        stderr: from.stdio.stderr,
        terminal: from.stdio.terminal,
        exit_status: exit.map_or(0, |exit| exit.status),
        exited_at: exit.map_or_else(MessageField::none, |exit: Exit| timestamp(exit.at)),
        ..api::StateResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use ttrpc::Code;

    fn any(url: &str) -> MessageField<Any> {
        MessageField::some(Any { type_url: url.into(), value: b"{}".to_vec(), ..Any::default() })
    }

    fn request() -> api::CreateTaskRequest {
        api::CreateTaskRequest { id: "web".into(), bundle: "/run/b".into(), ..Default::default() }
    }

    #[test]
    fn a_create_is_taken_over() {
        let create =
            create(api::CreateTaskRequest { stdout: "/f".into(), terminal: true, ..request() }).unwrap();
        assert_eq!(create.id.as_str(), "web");
        assert_eq!(create.rootfs, Rootfs::Mounts(Vec::new()));
        assert!(create.stdio.terminal && create.stdio.stdout == "/f");
    }

    #[test]
    fn hostile_creates_are_refused_by_field() {
        let cases = [
            (api::CreateTaskRequest { id: "../x".into(), ..request() }, "id"),
            (api::CreateTaskRequest { bundle: "b".into(), ..request() }, "bundle"),
            (api::CreateTaskRequest { bundle: "/run/../etc".into(), ..request() }, "bundle"),
            (api::CreateTaskRequest { stdin: "a\0b".into(), ..request() }, "stdin"),
            (api::CreateTaskRequest { rootfs: vec![mount::Mount::default(); 513], ..request() }, "rootfs"),
            (
                api::CreateTaskRequest {
                    rootfs: vec![mount::Mount { source: "x".repeat(MAX_TEXT + 1), ..Default::default() }],
                    ..request()
                },
                "rootfs",
            ),
        ];
        for (request, field) in cases {
            let error = create(request).unwrap_err();
            assert_eq!(error.code(), Code::INVALID_ARGUMENT);
            assert!(error.to_string().starts_with(&format!("invalid {field}")), "{error}");
        }
    }

    #[test]
    fn a_checkpoint_is_not_restored() {
        let error = create(api::CreateTaskRequest { checkpoint: "/c".into(), ..request() }).unwrap_err();
        assert_eq!(error.code(), Code::UNIMPLEMENTED);
    }

    #[test]
    fn signals_outside_of_linuxs_are_refused() {
        let request = |signal| api::KillRequest { id: "web".into(), signal, ..Default::default() };
        assert!(kill(request(65)).is_err() && kill(request(u32::MAX)).is_err());
        assert_eq!([0, 9].map(|signal| kill(request(signal)).unwrap().signal), [0, 9]);
    }

    #[test]
    fn specs_are_known_by_their_type_with_or_without_a_host() {
        let request = |url| api::ExecProcessRequest {
            id: "web".into(),
            exec_id: "sh".into(),
            spec: any(url),
            ..Default::default()
        };
        assert!(exec(request("types.containerd.io/opencontainers/runtime-spec/1/Process")).is_ok());
        let error = exec(request("types.containerd.io/opencontainers/runtime-spec/1/Spec")).unwrap_err();
        assert!(error.to_string().contains("not an OCI Process"), "{error}");
        assert!(exec(api::ExecProcessRequest { exec_id: String::new(), ..request("Process") }).is_err());
    }

    #[test]
    fn a_stopped_process_shows_its_exit() {
        let at = UNIX_EPOCH + Duration::from_millis(1500);
        let state = state(ProcessState {
            process: process("web".into(), "sh".into()).unwrap(),
            bundle: "/b".into(),
            pid: 7,
            status: Status::Stopped(Exit { status: 137, at }),
            stdio: StdioPaths::default(),
        });
        assert_eq!(
            (state.exit_status, state.exited_at.seconds, state.exited_at.nanos),
            (137, 1, 500_000_000)
        );
        assert_eq!((state.status.enum_value(), state.exec_id.as_str()), (Ok(api::Status::STOPPED), "sh"));
    }

    #[test]
    fn a_terminal_has_16_bits() {
        let request = |width| api::ResizePtyRequest { width, height: 24, ..Default::default() };
        assert!(size(&request(80)).is_ok() && size(&request(70_000)).is_err());
    }

    #[test]
    fn an_error_becomes_its_code_and_one_line() {
        let ttrpc::Error::RpcStatus(status) = status(Error::failed("boot", "a\nb")) else { panic!() };
        assert_eq!((status.code(), status.message()), (Code::INTERNAL, "cannot boot: a b"));
    }
}
