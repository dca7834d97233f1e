//! The host, the machine and the guest outside of tests: `vmm` and `agent-client`.

use std::sync::Arc;
use std::time::SystemTime;

use agent_client::proto::oci::{LinuxResources, Process as OciProcess};
use agent_client::{Agent, AgentError, Endpoint, ProcessRef};
use guest_spec::TerminationLog;
use slog::error;
use tokio::sync::oneshot;
use vmm::ended::Cause;

use super::create::{self, Holdings};
use super::last_words;
use super::launch::{Launch, launch};
use super::pod_vm::{Context, PodVm};
use crate::api::{ContainerId, Error, NewContainer, Result, TerminalSize, one_line};
use crate::core::{End, For, Made, Up};
use crate::machine::{Guest, Host, Life, Machine, Output, PIPE};
use crate::metrics::ContainerStats;

/// A signal that does not exist: one more than Linux has.
const NO_SIGNAL: u32 = 65;

/// What is asked for at once over vhost-device-vsock: version 0.3.0 loses what the guest sends in one piece of more than about
/// 32,400 bytes, and the connection with it.
const HYBRID_READ: usize = 16 << 10;

/// This host.
#[derive(Debug, Clone)]
pub struct ThisHost(pub Arc<Context>);

impl Host for ThisHost {
    type Machine = PodVm;

    async fn boot(&self, whom: For, cancelled: oneshot::Receiver<()>) -> Result<PodVm> {
        let context = &self.0;
        let plan = match &whom {
            For::Container(new) => Launch {
                pulled: create::pulled(new),
                ..Launch::of_container(&new.spec, new.request.options.clone())
            },
            For::Sandbox(request) => {
                Launch::of_sandbox(request, context.namespace.as_str(), context.options.clone())?
            }
        };
        tokio::select! {
            launched = launch(plan, context) => launched,
            // Dropping the boot kills QEMU; what it recorded is released like a dead shim's.
            _ = cancelled => {
                for failure in vmm::state::release(&context.state_dir(), &context.log).await {
                    error!(context.log, "could not release a claim on the host"; "error" => one_line(&failure));
                }
                Err(Error::VmGone("its boot was given up: the sandbox is to end".to_owned()))
            }
        }
    }
}

impl Machine for PodVm {
    type Guest = Agent;
    type Holdings = Holdings;

    fn up(&self) -> Up {
        Up { pid: self.vm.pid(), since: self.since }
    }

    fn guest(&self) -> Agent {
        self.vm.agent().clone()
    }

    fn fit(&self, id: &ContainerId, limits: &mut LinuxResources) -> Result<()> {
        guest_spec::lift(limits, self.size);
        guest_spec::check_size(id.as_str(), limits, self.size)
            .map_err(|error| Error::InvalidRequest { field: "resources", reason: one_line(&error) })
    }

    async fn make(&self, new: Arc<NewContainer>) -> Result<(Made, Holdings)> {
        create::create(self, &new).await
    }

    async fn last_words(&self, id: &ContainerId, to: &TerminationLog) {
        last_words::fetch(self, id, to).await;
    }

    async fn remove(&self, id: ContainerId, holdings: Holdings) {
        create::remove(self, &id, holdings).await;
    }

    async fn stop(&self) {
        self.vm.stop().await;
    }

    async fn ended(&self) -> End {
        let ended = self.vm.ended().await;
        let asked = ended.cause == Cause::Stopped;
        End { why: ended.to_string().into(), asked, at: SystemTime::now() }
    }

    async fn released(&self) -> Vec<String> {
        self.vm.released().await.to_vec()
    }
}

fn read_size(endpoint: &Endpoint) -> usize {
    match endpoint {
        Endpoint::Hybrid { .. } => HYBRID_READ,
        Endpoint::Vsock { .. } | Endpoint::Unix(_) => PIPE,
    }
}

/// What the answer to a signal that does not exist says.
fn life(answer: Answer<()>) -> Life {
    match answer {
        Ok(()) => Life::Gone,
        Err(AgentError::Refused { message, .. }) if message.contains("Invalid argument") => Life::Lives,
        Err(AgentError::Timeout { .. }) => Life::Late,
        Err(_) => Life::Untold,
    }
}

type Answer<T> = std::result::Result<T, AgentError>;

impl Guest for Agent {
    async fn start(&self, container: &str) -> Answer<()> {
        self.start_container(container).await.map(drop)
    }

    async fn exec(&self, process: ProcessRef<'_>, spec: OciProcess) -> Answer<()> {
        self.exec_process(process.container, process.exec, spec).await
    }

    async fn signal(&self, process: ProcessRef<'_>, signal: u32) -> Answer<()> {
        self.signal_process(process, signal).await
    }

    async fn signal_all(&self, container: &str, signal: u32) -> Answer<()> {
        Self::signal_all(self, container, signal).await
    }

    /// See [`super::follow`].
    async fn lives(&self, process: ProcessRef<'_>) -> Life {
        life(self.signal_process(process, NO_SIGNAL).await)
    }

    async fn wait(&self, process: ProcessRef<'_>) -> Answer<i32> {
        self.wait_process(process).await
    }

    async fn resize(&self, process: ProcessRef<'_>, size: TerminalSize) -> Answer<()> {
        self.tty_win_resize(process, size.height, size.width).await
    }

    async fn freeze(&self, container: &str, frozen: bool) -> Answer<()> {
        match frozen {
            true => self.pause_container(container).await.map(drop),
            false => self.resume_container(container).await.map(drop),
        }
    }

    async fn update(&self, container: &str, limits: LinuxResources) -> Answer<()> {
        self.update_container(container, limits).await
    }

    async fn stats(&self, container: &str) -> Answer<ContainerStats> {
        self.stats_container(container).await
    }

    async fn check(&self) -> Answer<()> {
        Self::check(self).await
    }

    async fn out_of_memory(&self) -> Answer<String> {
        self.get_oom_event().await
    }

    fn read_size(&self) -> usize {
        read_size(self.endpoint())
    }

    async fn read(&self, process: ProcessRef<'_>, output: Output, length: usize) -> Answer<Vec<u8>> {
        match output {
            Output::Stdout => self.read_stdout(process, length).await,
            Output::Stderr => self.read_stderr(process, length).await,
        }
    }

    async fn write(&self, process: ProcessRef<'_>, data: Vec<u8>) -> Answer<()> {
        self.write_stdin(process, data).await
    }

    async fn close_stdin(&self, process: ProcessRef<'_>) -> Answer<()> {
        Self::close_stdin(self, process).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use agent_client::{Call, Code};

    use super::*;

    #[test]
    fn one_late_answer_is_no_refusal() {
        let call = || Call { rpc: "SignalProcess", container: None };
        let refused =
            |code, message: &str| AgentError::Refused { call: call(), code, message: message.into() };
        let cases = [
            (Ok(()), Life::Gone),
            (Err(refused(Code::INTERNAL, "EINVAL: Invalid argument")), Life::Lives),
            (Err(AgentError::Timeout { call: call(), timeout: Duration::from_secs(15) }), Life::Late),
            (Err(refused(Code::NOT_FOUND, "invalid exec id")), Life::Untold),
            (Err(AgentError::Denied { call: call(), message: String::new() }), Life::Untold),
            (Err(AgentError::Disconnected { call: call(), reason: String::new() }), Life::Untold),
        ];
        for (answer, expected) in cases {
            let shown = format!("{answer:?}");
            assert_eq!(life(answer), expected, "{shown}");
        }
    }

    #[test]
    fn only_the_stand_in_for_the_kernels_vsock_is_asked_for_less_than_a_pipe_holds() {
        let socket = "/run/vsock.sock".into();
        assert_eq!(read_size(&Endpoint::Hybrid { socket, port: 1024 }), 16 << 10);
        assert_eq!(read_size(&Endpoint::Vsock { cid: 7, port: 1024 }), 64 << 10);
    }
}
