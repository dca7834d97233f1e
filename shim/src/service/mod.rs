//! The ttrpc services: requests in, calls on the sandbox, answers out; no decisions.

mod convert;
mod pod_config;
mod sandbox;
mod task;

use std::collections::HashMap;
use std::sync::Arc;

use containerd_shim::protos::sandbox_async::create_sandbox;
use containerd_shim::protos::shim_async::create_task;
use ttrpc::r#async::Service;

use crate::sandbox::Handle;

pub use pod_config::pod_facts;

/// Name under which CRI-O and containerd 1.7 call the task service. Its messages are those of version 3.
const TASK_V2: &str = "containerd.task.v2.Task";

/// Every service of the shim, by its name on the wire.
pub fn all(sandbox: &Handle) -> HashMap<String, Service> {
    let task = Arc::new(task::TaskService::new(sandbox.clone()));
    let mut services = create_task(task.clone());
    services.extend(create_task(task).into_values().map(|service| (TASK_V2.to_owned(), service)));
    services.extend(create_sandbox(Arc::new(sandbox::SandboxService::new(sandbox.clone()))));
    services
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::watch;

    use crate::api::{ContainerId, Namespace, RuntimeOptions};
    use crate::publisher::Events;
    use crate::sandbox::{Context, Outward};

    fn handle() -> Handle {
        let context = Context {
            namespace: Namespace::new("default").unwrap(),
            id: ContainerId::new("web").unwrap(),
            options: RuntimeOptions::default(),
            engine: String::new(),
            log: slog::Logger::root(slog::Discard, slog::o!()),
        };
        Handle::new(context, Outward { events: Events::none(), end: watch::channel(false).0 })
    }

    #[tokio::test]
    async fn both_versions_of_the_task_service_and_the_sandbox_service_are_there() {
        let services = all(&handle());
        let mut names: Vec<_> = services.keys().map(String::as_str).collect();
        names.sort_unstable();
        assert_eq!(
            names,
            ["containerd.runtime.sandbox.v1.Sandbox", "containerd.task.v2.Task", "containerd.task.v3.Task"]
        );
        let methods = |name: &str| {
            let mut methods: Vec<_> = services[name].methods.keys().cloned().collect();
            methods.sort_unstable();
            methods
        };
        assert_eq!(methods("containerd.task.v2.Task"), methods("containerd.task.v3.Task"));
        assert_eq!(methods("containerd.task.v3.Task").len(), 17);
    }
}
