//! The events of a task's life, and their form on the wire.

use std::time::SystemTime;

use containerd_shim::protos::events::task as wire;
use containerd_shim::protos::shim::event::Envelope;
use containerd_shim::protos::topics;
use containerd_shim::protos::types::mount;
use protobuf::well_known_types::any::Any;
use protobuf::well_known_types::timestamp::Timestamp;
use protobuf::{MessageField, MessageFull};

use crate::api::{CreateRequest, Deleted, Exit, ProcessId, Rootfs};
use crate::core;
use crate::wire::timestamp;

/// Something that happened to a container or to one of its processes.
#[derive(Debug, Clone)]
pub enum Event {
    /// A container was created.
    Create(Box<wire::TaskCreate>),
    /// A container's first process was started.
    Start(wire::TaskStart),
    /// An exec was added.
    ExecAdded(wire::TaskExecAdded),
    /// An exec was started.
    ExecStarted(wire::TaskExecStarted),
    /// A process ended.
    Exit(wire::TaskExit),
    /// A container or an exec was deleted.
    Delete(wire::TaskDelete),
    /// A container ran out of memory.
    Oom(wire::TaskOOM),
    /// A container was paused.
    Paused(wire::TaskPaused),
    /// A container was resumed.
    Resumed(wire::TaskResumed),
}

impl From<core::Event> for Event {
    fn from(event: core::Event) -> Self {
        match event {
            core::Event::Created(new, pid) => Self::create(&new.request, pid),
            core::Event::Started(process, pid) => Self::started(&process, pid),
            core::Event::ExecAdded(process) => Self::exec_added(&process),
            core::Event::Exited(process, pid, exit) => Self::exit(&process, pid, exit),
            core::Event::Deleted(id, deleted) => Self::delete(id.as_str(), deleted),
            core::Event::Oom(id) => Self::oom(id.as_str()),
            core::Event::Paused(id) => Self::paused(id.as_str()),
            core::Event::Resumed(id) => Self::resumed(id.as_str()),
        }
    }
}

impl Event {
    /// The container of `request` was created, with `pid`.
    fn create(request: &CreateRequest, pid: u32) -> Self {
        let mounts: &[_] = match &request.rootfs {
            Rootfs::Mounts(mounts) => mounts,
            Rootfs::GuestPull(_) => &[],
        };
        let rootfs = mounts.iter().map(|from| mount::Mount {
            type_: from.kind.clone(),
            source: from.source.display().to_string(),
            target: from.target.display().to_string(),
            options: from.options.clone(),
            ..Default::default()
        });
        Self::Create(Box::new(wire::TaskCreate {
            container_id: request.id.to_string(),
            bundle: request.bundle.display().to_string(),
            rootfs: rootfs.collect(),
            io: MessageField::some(wire::TaskIO {
                stdin: request.stdio.stdin.clone(),
                stdout: request.stdio.stdout.clone(),
                stderr: request.stdio.stderr.clone(),
                terminal: request.stdio.terminal,
                ..Default::default()
            }),
            pid,
            ..Default::default()
        }))
    }

    /// `process` was started, with `pid`.
    fn started(process: &ProcessId, pid: u32) -> Self {
        let container_id = process.container.to_string();
        match &process.exec {
            None => Self::Start(wire::TaskStart { container_id, pid, ..Default::default() }),
            Some(exec) => Self::ExecStarted(wire::TaskExecStarted {
                container_id,
                exec_id: exec.to_string(),
                pid,
                ..Default::default()
            }),
        }
    }

    /// The exec `process` was added.
    fn exec_added(process: &ProcessId) -> Self {
        Self::ExecAdded(wire::TaskExecAdded {
            container_id: process.container.to_string(),
            exec_id: process.exec_str().to_owned(),
            ..Default::default()
        })
    }

    /// `process`, which had `pid`, ended. A container's first process has the container's name.
    fn exit(process: &ProcessId, pid: u32, exit: Exit) -> Self {
        let name = process.exec.as_ref().map_or_else(|| process.container.to_string(), ToString::to_string);
        Self::Exit(wire::TaskExit {
            container_id: process.container.to_string(),
            id: name,
            pid,
            exit_status: exit.status,
            exited_at: timestamp(exit.at),
            ..Default::default()
        })
    }

    /// The container with name `id` was deleted.
    fn delete(id: &str, deleted: Deleted) -> Self {
        Self::Delete(wire::TaskDelete {
            container_id: id.to_owned(),
            pid: deleted.pid,
            exit_status: deleted.exit.status,
            exited_at: timestamp(deleted.exit.at),
            ..Default::default()
        })
    }

    /// The container with name `id` ran out of memory.
    fn oom(id: &str) -> Self {
        Self::Oom(wire::TaskOOM { container_id: id.to_owned(), ..Default::default() })
    }

    /// The container with name `id` was paused.
    fn paused(id: &str) -> Self {
        Self::Paused(wire::TaskPaused { container_id: id.to_owned(), ..Default::default() })
    }

    /// The container with name `id` was resumed.
    fn resumed(id: &str) -> Self {
        Self::Resumed(wire::TaskResumed { container_id: id.to_owned(), ..Default::default() })
    }

    /// The topic it is published under.
    pub fn topic(&self) -> &'static str {
        match self {
            Self::Create(_) => topics::TASK_CREATE_EVENT_TOPIC,
            Self::Start(_) => topics::TASK_START_EVENT_TOPIC,
            Self::ExecAdded(_) => topics::TASK_EXEC_ADDED_EVENT_TOPIC,
            Self::ExecStarted(_) => topics::TASK_EXEC_STARTED_EVENT_TOPIC,
            Self::Exit(_) => topics::TASK_EXIT_EVENT_TOPIC,
            Self::Delete(_) => topics::TASK_DELETE_EVENT_TOPIC,
            Self::Oom(_) => topics::TASK_OOM_EVENT_TOPIC,
            Self::Paused(_) => topics::TASK_PAUSED_EVENT_TOPIC,
            Self::Resumed(_) => topics::TASK_RESUMED_EVENT_TOPIC,
        }
    }

    /// The event as containerd takes it.
    pub(super) fn envelope(&self, namespace: &str, at: SystemTime) -> Envelope {
        let at: MessageField<Timestamp> = timestamp(at);
        let event = match self {
            Self::Create(message) => pack(message.as_ref()),
            Self::Start(message) => pack(message),
            Self::ExecAdded(message) => pack(message),
            Self::ExecStarted(message) => pack(message),
            Self::Exit(message) => pack(message),
            Self::Delete(message) => pack(message),
            Self::Oom(message) => pack(message),
            Self::Paused(message) => pack(message),
            Self::Resumed(message) => pack(message),
        };
        Envelope {
            timestamp: at,
            namespace: namespace.to_owned(),
            topic: self.topic().to_owned(),
            event: MessageField::some(event),
            ..Default::default()
        }
    }
}

/// The message with its bare name, as containerd's typeurl writes it.
fn pack<M: MessageFull>(message: &M) -> Any {
    Any {
        type_url: M::descriptor().full_name().to_owned(),
        // Encoding fails only for required fields, which these messages have none of.
        value: message.write_to_bytes().unwrap_or_default(),
        ..Any::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{ContainerId, ExecId};
    use protobuf::Message;

    fn processes() -> (ProcessId, ProcessId) {
        let init = ProcessId::init(ContainerId::new("web").unwrap());
        let exec = ProcessId { exec: Some(ExecId::new("sh").unwrap()), ..init.clone() };
        (init, exec)
    }

    #[test]
    fn the_envelope_has_what_containerd_routes_by() {
        let envelope = Event::started(&processes().0, 7).envelope("k8s.io", SystemTime::now());
        assert_eq!((envelope.namespace.as_str(), envelope.topic.as_str()), ("k8s.io", "/tasks/start"));
        assert_eq!(envelope.event.type_url, "containerd.events.TaskStart");
        assert_eq!(wire::TaskStart::parse_from_bytes(&envelope.event.value).unwrap().pid, 7);
        assert!(envelope.timestamp.seconds > 0);
    }

    #[test]
    fn first_processes_and_execs_are_told_apart() {
        let (init, exec) = processes();
        let exit = Exit { status: 0, at: SystemTime::now() };
        assert_eq!(Event::started(&exec, 1).topic(), "/tasks/exec-started");
        let id = |event| match event {
            Event::Exit(exit) => exit.id,
            Event::Delete(delete) => delete.id,
            other => panic!("{other:?}"),
        };
        assert_eq!(id(Event::exit(&init, 1, exit)), "web");
        assert_eq!(id(Event::exit(&exec, 1, exit)), "sh");
        assert_eq!(id(Event::delete("web", Deleted { pid: 1, exit })), "");
    }
}
