//! What a guest says on the agent's connection.

use std::time::Duration;

use agent_client::{Endpoint, ProcessRef, connect, parse_answer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::runtime::Builder;
use tokio::time::timeout;

/// Longer than any conversation takes; a client that waits on a closed connection is a bug.
const PATIENCE: Duration = Duration::from_secs(60);

/// A whole conversation: the vsock device's answer, then ttrpc frames, then the guest hangs up. The client is the
/// real one, over a real socket.
pub(super) fn answers(input: &[u8]) {
    let _ = parse_answer(input);
    let Ok(dir) = tempfile::tempdir() else { return };
    let socket = dir.path().join("vsock");
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        let Ok(listener) = UnixListener::bind(&socket) else { return };
        let said = input.to_vec();
        tokio::spawn(async move {
            let Ok((mut guest, _)) = listener.accept().await else { return };
            let _ = guest.write_all(&said).await;
            let _ = guest.shutdown().await;
            let _ = guest.read_to_end(&mut Vec::new()).await;
        });
        let talk = async {
            let agent = connect(&Endpoint::Hybrid { socket: socket.clone(), port: 1024 }).await?;
            agent.version().await?;
            agent.read_stdout(ProcessRef { container: "c1", exec: "c1" }, 4096).await?;
            agent.wait_process(ProcessRef { container: "c1", exec: "c1" }).await
        };
        assert!(timeout(PATIENCE, talk).await.is_ok(), "the client waits for a guest that has hung up");
    });
}
