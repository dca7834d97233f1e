//! Listens, with or without a fault in between, until the sandbox is destroyed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent_client::proto::{agent_ttrpc, health_ttrpc};
use futures_util::StreamExt;
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::sync::mpsc::channel;
use tokio::time::sleep;
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::{Listener, Socket};

use crate::cdh::{Hub, SOCKET};
use crate::error::{Error, Result};
use crate::fault::Fault;
use crate::kernel_line::KernelLine;
use crate::log;
use crate::network::Network;
use crate::policy::Policy;
use crate::reaper::Reaper;
use crate::sandbox::Sandbox;
use crate::service::{HealthService, Service};

/// Time for the last answer to leave before the process ends.
const GOODBYE: Duration = Duration::from_millis(100);

/// Serves on `address` until DestroySandbox, or until a fault ends the agent.
pub async fn run(address: &str) -> Result<()> {
    let line = KernelLine::read();
    let fault = line.fault.as_deref().map(Fault::parse).transpose();
    let fault = fault.map_err(|unknown| Error::refused(unknown.to_string()))?;
    let reaper = Reaper::start()?;
    let hub = if line.no_components { Hub::find(Path::new(SOCKET)).await? } else { None };
    let done = Arc::new(Notify::new());
    let died = Arc::new(Notify::new());
    let service = Arc::new(Service {
        sandbox: Sandbox::new(reaper, line.hotplug_timeout, hub),
        network: Network::start().await?,
        policy: Policy::of_environment()?,
        done: Arc::clone(&done),
    });
    let listener = Listener::bind(address).map_err(Error::path("listen on", address))?;
    let listener = match fault {
        Some(fault) => with_fault(listener, fault, Arc::clone(&died)),
        None => listener,
    };
    let mut server = Server::new()
        .add_listener(listener)
        .register_service(agent_ttrpc::create_agent_service(service))
        .register_service(health_ttrpc::create_health(Arc::new(HealthService)));
    server.start().await.map_err(|error| Error::refused(error.to_string()))?;
    log::line("ready");
    tokio::select! {
        () = done.notified() => {
            sleep(GOODBYE).await;
            log::line("sandbox destroyed");
            Ok(())
        }
        () = died.notified() => Err(Error::refused("told to die")),
    }
}

/// Puts the fault between every client and the service.
fn with_fault(mut clients: Listener, fault: Fault, died: Arc<Notify>) -> Listener {
    let (sender, receiver) = channel(8);
    tokio::spawn(async move {
        while let Some(client) = clients.next().await {
            let (Ok(client), Ok((ours, theirs))) = (client, UnixStream::pair()) else { continue };
            if sender.send(Ok::<_, std::io::Error>(theirs)).await.is_err() {
                return;
            }
            let (fault, died) = (fault.clone(), Arc::clone(&died));
            tokio::spawn(async move {
                if fault.pass::<Socket>(client, ours).await.unwrap_or(false) {
                    died.notify_one();
                }
            });
        }
    });
    let services = futures_util::stream::unfold(receiver, |mut receiver| async move {
        let next = receiver.recv().await?;
        Some((next, receiver))
    });
    Listener::new(services)
}
