//! The server: what stays while the pod lives.
//!
//! It is started by `start` with the listening socket as standard input and a pipe as standard output, on
//! which it says that it serves, or why not. One thread does everything.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Duration;

use containerd_shim::Flags;
use nix::unistd::{dup2_stdin, dup2_stdout, setsid};
use slog::{Logger, info, o, warn};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use ttrpc::r#async::Server;
use ttrpc::r#async::transport::Listener;

use crate::api::{self, one_line};
use crate::api::{ContainerId, Namespace};
use crate::bootstrap::{READY, inherited_options};
use crate::publisher::Events;
use crate::sandbox::{Context, Handle, Outward};
use crate::{files, logging, service};

/// How long the last events may take to reach containerd when the shim ends.
const LAST_EVENTS: Duration = Duration::from_secs(5);
/// How long the answer to the call that ended the sandbox takes at most to be written: one thread does everything, and does
/// what it has to do before it looks at the time.
const LAST_ANSWER: Duration = Duration::from_millis(10);
/// How long calls that are being answered may take when the shim ends.
const LAST_CALLS: Duration = Duration::from_secs(2);

/// A server that cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A malformed identifier.
    #[error(transparent)]
    Id(#[from] api::Error),
    /// Not started by `start`.
    #[error("standard input is no listening socket: engines call `start`")]
    Socket(#[source] io::Error),
    /// The kernel refused something that every process may do.
    #[error("cannot {action}")]
    System {
        /// What.
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// ttrpc.
    #[error("cannot serve")]
    Serve(#[source] ttrpc::Error),
}

fn system(action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::System { action, source }
}

/// Serves until the sandbox ends the shim.
///
/// # Errors
/// [`Error`] when it never served; `start` was told so as well.
pub fn serve(flags: &Flags) -> Result<(), Error> {
    let (listener, mut starter) = take_over()?;
    files::raise();
    let result = serve_on(flags, listener, &mut starter);
    if let Err(error) = &result {
        // `start` may be gone; this line is then all there is, and nobody reads it.
        let _ = starter.write_all(one_line(error).as_bytes());
    }
    result
}

/// Takes the socket and the pipe off the standard streams, and leaves the session of the engine.
fn take_over() -> Result<(UnixListener, File), Error> {
    let own = |fd: &dyn AsFd| fd.as_fd().try_clone_to_owned();
    let listener = UnixListener::from(own(&io::stdin()).map_err(Error::Socket)?);
    listener.local_addr().map_err(Error::Socket)?;
    let starter = File::from(own(&io::stdout()).map_err(system("duplicate standard output"))?);
    let null = File::options().read(true).write(true).open("/dev/null").map_err(system("open /dev/null"))?;
    dup2_stdin(&null)
        .and_then(|()| dup2_stdout(&null))
        .map_err(|e| system("close standard streams")(e.into()))?;
    setsid().map_err(|e| system("start a session")(e.into()))?;
    Ok((listener, starter))
}

fn serve_on(flags: &Flags, listener: UnixListener, starter: &mut File) -> Result<(), Error> {
    let namespace = Namespace::new(flags.namespace.as_str())?;
    let id = ContainerId::new(flags.id.as_str())?;
    let bundle = std::env::current_dir().map_err(system("find the bundle"))?;
    let log = logging::open(&bundle, flags.debug).new(o!(
        "runtime" => "coffer", "namespace" => namespace.to_string(), "sandbox" => id.to_string()
    ));
    logging::bridge(&log);
    logging::log_panics(&log);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the runtime"))?;
    runtime.block_on(run(namespace, id, &flags.address, listener, starter, log))
}

async fn run(
    namespace: Namespace,
    id: ContainerId,
    engine: &str,
    listener: UnixListener,
    starter: &mut File,
    log: Logger,
) -> Result<(), Error> {
    let address = listener.local_addr().ok().and_then(|address| address.as_pathname().map(PathBuf::from));
    let receiver = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let events = Events::forward_to(&receiver, &namespace, &log);
    let (end, mut ended) = watch::channel(false);
    let mut terminate = signal(SignalKind::terminate()).map_err(system("watch for SIGTERM"))?;
    let options = inherited_options();
    let engine = engine.to_owned();
    let context = Context { namespace, id, options, engine, log: log.clone() };
    let sandbox = Handle::new(context, Outward { events: events.clone(), end });

    listener.set_nonblocking(true).map_err(system("set up the socket"))?;
    let listener = Listener::try_from(listener).map_err(system("set up the socket"))?;
    let mut server = Server::new().add_listener(listener).register_service(service::all(&sandbox));
    server.start().await.map_err(Error::Serve)?;
    info!(log, "serving"; "pid" => std::process::id(), "version" => env!("CARGO_PKG_VERSION"));
    tell_ready(starter)?;

    tokio::select! {
        _ = ended.wait_for(|end| *end) => {}
        _ = terminate.recv() => {
            info!(log, "SIGTERM: ending the sandbox");
            if let Err(error) = sandbox.shutdown(true).await {
                warn!(log, "cannot end the sandbox cleanly: {}", one_line(&error));
            }
        }
    }
    // Before the server stops to listen: a socket that does not answer may be replaced by a new server's.
    if let Some(path) = address {
        let _ = std::fs::remove_file(path);
    }
    if !events.flush(LAST_EVENTS).await {
        warn!(log, "some events did not reach containerd");
    }
    // ttrpc cuts connections without regard to answers that are not written yet; containerd's sandbox controller takes
    // a lost answer to ShutdownSandbox for a failure.
    sleep(LAST_ANSWER).await;
    if timeout(LAST_CALLS, server.shutdown()).await.is_err() {
        warn!(log, "some calls were not answered");
    }
    info!(log, "ended");
    Ok(())
}

/// Tells `start` that the server serves, and closes the pipe.
fn tell_ready(starter: &mut File) -> Result<(), Error> {
    starter.write_all(READY.as_bytes()).map_err(system("tell that it serves"))?;
    *starter = File::open("/dev/null").map_err(system("open /dev/null"))?;
    Ok(())
}
