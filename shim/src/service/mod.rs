//! The ttrpc services: requests in, calls on the sandbox, answers out; no decisions.

mod convert;
mod pod_config;
mod sandbox;
mod task;
mod volume;

use std::collections::HashMap;
use std::sync::Arc;

use containerd_shim::protos::sandbox_async::create_sandbox;
use containerd_shim::protos::shim_async::create_task;
use ttrpc::r#async::Service;

use crate::sandbox::{Error, Handle};

pub use convert::timestamp;
pub use pod_config::pod_facts;
pub use volume::VirtualVolume;

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

/// Runs `call` to its end even when the caller hangs up or its deadline passes: a half-made container is
/// worse than one that nobody waits for, which the engine deletes.
async fn to_its_end<T: Send + 'static>(
    call: impl Future<Output = Result<T, Error>> + Send + 'static,
) -> ttrpc::Result<T> {
    match tokio::spawn(call).await {
        Ok(result) => result.map_err(convert::status),
        Err(error) => Err(convert::status(Error::failed("finish the call", error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::{oneshot, watch};

    use crate::publisher::Events;
    use crate::sandbox::Context;
    use crate::sandbox::api::{ContainerId, Namespace, RuntimeOptions};

    pub(super) fn handle() -> Handle {
        Handle::new(Context {
            namespace: Namespace::new("default").unwrap(),
            id: ContainerId::new("web").unwrap(),
            options: RuntimeOptions::default(),
            engine: String::new(),
            events: Events::none(),
            log: slog::Logger::root(slog::Discard, slog::o!()),
            end: watch::channel(false).0,
        })
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

    #[tokio::test]
    async fn a_call_outlives_its_caller() {
        let (done, check) = oneshot::channel();
        let (go, wait) = oneshot::channel::<()>();
        let call = to_its_end(async move {
            let _ = wait.await;
            let _ = done.send(());
            Ok(())
        });
        let caller = tokio::spawn(call);
        tokio::task::yield_now().await;
        caller.abort();
        let _ = caller.await;
        go.send(()).unwrap();
        check.await.expect("the call was cut short");
    }
}
