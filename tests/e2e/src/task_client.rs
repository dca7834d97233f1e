//! A client of the shim's task service over ttrpc, under either of its names.

use std::path::Path;
use std::time::Duration;

use containerd_shim_protos::api::{
    CloseIORequest, CreateTaskRequest, CreateTaskResponse, DeleteRequest, DeleteResponse, Empty,
    ExecProcessRequest, KillRequest, Mount, ResizePtyRequest, ShutdownRequest, StartRequest, StartResponse,
    StateRequest, StateResponse, WaitRequest, WaitResponse,
};
use protobuf::well_known_types::any::Any;
use protobuf::{Message, MessageField};
use serde_json::json;
use ttrpc::r#async::Client;

use crate::bundle::Bundle;
use crate::or_fail::OrFail;

/// No call takes longer, a VM's boot included.
const LIMIT: Duration = Duration::from_secs(150);

/// The name under which the service is called. The messages are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// CRI-O and containerd 1.7.
    V2,
    /// containerd 2.
    V3,
}

impl Api {
    fn service(self) -> &'static str {
        match self {
            Self::V2 => "containerd.task.v2.Task",
            Self::V3 => "containerd.task.v3.Task",
        }
    }
}

/// A connection to a shim.
pub struct Task {
    client: Client,
    api: Api,
}

impl std::fmt::Debug for Task {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Task").field("api", &self.api).finish_non_exhaustive()
    }
}

/// The error of a call, as the engine shows it to a user.
pub type Refusal = String;

impl Task {
    /// Connects to the address that `start` printed.
    pub async fn connect(address: &str, api: Api) -> Self {
        Self { client: Client::connect(address).await.or_fail(address), api }
    }

    /// Create with the bundle's image bind-mounted, as CRI-O names it.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn create(&self, bundle: &Bundle) -> Result<CreateTaskResponse, Refusal> {
        let mount = Mount {
            type_: "bind".to_owned(),
            source: bundle.image().display().to_string(),
            options: vec!["rbind".to_owned(), "rw".to_owned()],
            ..Mount::default()
        };
        self.create_with(bundle, vec![mount], None).await
    }

    /// Create with output to a fifo or file.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn create_with(
        &self,
        bundle: &Bundle,
        rootfs: Vec<Mount>,
        stdout: Option<&Path>,
    ) -> Result<CreateTaskResponse, Refusal> {
        let request = CreateTaskRequest {
            id: bundle.id.clone(),
            bundle: bundle.path.display().to_string(),
            rootfs,
            stdout: stdout.map(|path| path.display().to_string()).unwrap_or_default(),
            ..CreateTaskRequest::default()
        };
        self.call("Create", &request).await
    }

    /// Start of a container, or of an exec process.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn start(&self, id: &str, exec_id: &str) -> Result<StartResponse, Refusal> {
        let request =
            StartRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..StartRequest::default() };
        self.call("Start", &request).await
    }

    /// Exec of a further process.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn exec(&self, id: &str, exec_id: &str, command: &[&str]) -> Result<Empty, Refusal> {
        self.exec_with(id, exec_id, command, None, None).await
    }

    /// Exec with fifos for input and output.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn exec_with(
        &self,
        id: &str,
        exec_id: &str,
        command: &[&str],
        stdin: Option<&Path>,
        stdout: Option<&Path>,
    ) -> Result<Empty, Refusal> {
        let text = |path: Option<&Path>| path.map(|path| path.display().to_string()).unwrap_or_default();
        let request = ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            spec: MessageField::some(process(command, false)),
            stdin: text(stdin),
            stdout: text(stdout),
            ..ExecProcessRequest::default()
        };
        self.call("Exec", &request).await
    }

    /// State.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn state(&self, id: &str) -> Result<StateResponse, Refusal> {
        self.call("State", &StateRequest { id: id.to_owned(), ..StateRequest::default() }).await
    }

    /// Exec on a terminal whose output goes to a file.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn exec_on_a_terminal(
        &self,
        id: &str,
        exec_id: &str,
        command: &[&str],
        stdout: &Path,
    ) -> Result<Empty, Refusal> {
        let request = ExecProcessRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            spec: MessageField::some(process(command, true)),
            terminal: true,
            stdout: format!("file://{}", stdout.display()),
            ..ExecProcessRequest::default()
        };
        self.call("Exec", &request).await
    }

    /// ResizePty.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn resize(&self, id: &str, exec_id: &str, width: u32, height: u32) -> Result<Empty, Refusal> {
        let request = ResizePtyRequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            width,
            height,
            ..ResizePtyRequest::default()
        };
        self.call("ResizePty", &request).await
    }

    /// Wait for the end of a container, or of an exec process.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn wait(&self, id: &str, exec_id: &str) -> Result<WaitResponse, Refusal> {
        let request =
            WaitRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..WaitRequest::default() };
        self.call("Wait", &request).await
    }

    /// CloseIO: the end of an exec's input.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn close_stdin(&self, id: &str, exec_id: &str) -> Result<Empty, Refusal> {
        let request = CloseIORequest {
            id: id.to_owned(),
            exec_id: exec_id.to_owned(),
            stdin: true,
            ..CloseIORequest::default()
        };
        self.call("CloseIO", &request).await
    }

    /// Kill of all processes of a container.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn kill(&self, id: &str, signal: u32) -> Result<Empty, Refusal> {
        self.call("Kill", &KillRequest { id: id.to_owned(), signal, all: true, ..KillRequest::default() })
            .await
    }

    /// Delete of a container, or of an exec process.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn delete(&self, id: &str, exec_id: &str) -> Result<DeleteResponse, Refusal> {
        let request =
            DeleteRequest { id: id.to_owned(), exec_id: exec_id.to_owned(), ..DeleteRequest::default() };
        self.call("Delete", &request).await
    }

    /// Shutdown, after which the shim ends if nothing of the pod is left.
    ///
    /// # Errors
    ///
    /// The shim's answer.
    pub async fn shutdown(&self, id: &str) -> Result<Empty, Refusal> {
        self.call("Shutdown", &ShutdownRequest { id: id.to_owned(), ..ShutdownRequest::default() }).await
    }

    /// Ends everything about one container: kill, wait, delete.
    pub async fn remove(&self, id: &str) {
        self.kill(id, 9).await.or_fail("Kill");
        self.wait(id, "").await.or_fail("Wait");
        self.delete(id, "").await.or_fail("Delete");
    }

    async fn call<Q: Message, A: Message>(&self, method: &str, question: &Q) -> Result<A, Refusal> {
        let mut request = ttrpc::Request::new();
        request.set_service(self.api.service().to_owned());
        request.set_method(method.to_owned());
        request.set_timeout_nano(i64::try_from(LIMIT.as_nanos()).or_fail("time limit"));
        request.set_payload(question.write_to_bytes().or_fail(method));
        match self.client.request(request).await {
            Ok(response) => Ok(A::parse_from_bytes(&response.payload).or_fail(method)),
            Err(ttrpc::Error::RpcStatus(status)) => Err(format!("{:?}: {}", status.code(), status.message)),
            Err(error) => Err(error.to_string()),
        }
    }
}

/// What is to run, as an engine sends it.
fn process(command: &[&str], terminal: bool) -> Any {
    let process = json!({
        "terminal": terminal,
        "user": { "uid": 0, "gid": 0 },
        "args": command,
        "env": ["PATH=/bin"],
        "cwd": "/",
    });
    Any {
        type_url: "types.containerd.io/opencontainers/runtime-spec/1/Process".to_owned(),
        value: process.to_string().into_bytes(),
        ..Any::default()
    }
}
