//! Events to containerd: in order, none lost while the shim lives.
//!
//! One task takes events from one queue and forwards them over ttrpc. An event leaves the queue when
//! containerd has answered for it; while containerd is away the task tries again, for as long as it takes.
//! An event whose answer was lost is sent twice, which containerd's consumers bear; a lost exit they do not.
//!
//! The queue holds at most [`MAX_QUEUED`] events, some ten megabytes: a day of a pod that executes a probe
//! every ten seconds is 26,000. Beyond that the newest are dropped, and the log says so.

mod event;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use containerd_shim::protos::shim::events::ForwardRequest;
use containerd_shim::protos::shim_async::{Client, EventsClient};
use protobuf::MessageField;
use slog::{Logger, debug, info, warn};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};
use ttrpc::r#async::transport::Socket;
use ttrpc::context::with_duration;

pub use event::Event;

use crate::api::Namespace;

/// Most events that wait for containerd.
const MAX_QUEUED: usize = 32 << 10;
/// How long containerd may take to answer for one event before the connection is given up.
const PATIENCE: Duration = Duration::from_secs(30);
/// First pause after a failure; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause between two tries.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// One place in the queue.
#[derive(Debug)]
enum Item {
    Event(Box<ForwardRequest>),
    /// Everything before this has been forwarded.
    Flush(oneshot::Sender<()>),
}

/// Where events are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    queue: Option<mpsc::UnboundedSender<Item>>,
    queued: Arc<AtomicUsize>,
    namespace: Arc<str>,
    log: Option<Logger>,
}

impl Events {
    /// Events that nobody wants.
    pub fn none() -> Self {
        Self { queue: None, queued: Arc::default(), namespace: "".into(), log: None }
    }

    /// Starts the task that forwards to the ttrpc socket at `address`, a path with or without `unix://`.
    ///
    /// CRI-O has no such socket and waits for processes instead; with an empty address events are dropped.
    pub fn forward_to(address: &str, namespace: &Namespace, log: &Logger) -> Self {
        if address.is_empty() {
            debug!(log, "the engine takes no events: TTRPC_ADDRESS is empty");
            return Self::none();
        }
        let path = PathBuf::from(address.strip_prefix("unix://").unwrap_or(address));
        let (queue, items) = mpsc::unbounded_channel();
        let queued = Arc::new(AtomicUsize::new(0));
        let forwarder = Forwarder { path, queued: queued.clone(), log: log.clone(), client: None };
        tokio::spawn(forwarder.run(items));
        Self { queue: Some(queue), queued, namespace: namespace.as_str().into(), log: Some(log.clone()) }
    }

    /// Hands in an event. Returns at once; the order of calls is the order in which they arrive.
    pub fn publish(&self, event: &Event) {
        let Some(queue) = &self.queue else { return };
        if self.queued.fetch_add(1, Ordering::Relaxed) >= MAX_QUEUED {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            if let Some(log) = &self.log {
                warn!(log, "event dropped: {MAX_QUEUED} wait for containerd already"; "topic" => event.topic());
            }
            return;
        }
        let request = ForwardRequest {
            envelope: MessageField::some(event.envelope(&self.namespace, SystemTime::now())),
            ..ForwardRequest::default()
        };
        let _ = queue.send(Item::Event(Box::new(request)));
    }

    /// Waits until every event handed in so far has been forwarded, at most for `limit`.
    /// Returns whether they have.
    pub async fn flush(&self, limit: Duration) -> bool {
        let Some(queue) = &self.queue else { return true };
        let (done, wait) = oneshot::channel();
        queue.send(Item::Flush(done)).is_ok() && matches!(timeout(limit, wait).await, Ok(Ok(())))
    }
}

/// The task at the end of the queue.
struct Forwarder {
    path: PathBuf,
    queued: Arc<AtomicUsize>,
    log: Logger,
    client: Option<EventsClient>,
}

impl Forwarder {
    async fn run(mut self, mut items: mpsc::UnboundedReceiver<Item>) {
        while let Some(item) = items.recv().await {
            match item {
                Item::Flush(done) => drop(done.send(())),
                Item::Event(request) => {
                    self.deliver(&request).await;
                    self.queued.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Forwards one event, however long containerd is away.
    async fn deliver(&mut self, request: &ForwardRequest) {
        let mut pause = MIN_PAUSE;
        loop {
            match self.attempt(request).await {
                Ok(()) if pause > MIN_PAUSE => return info!(self.log, "containerd takes events again"),
                Ok(()) => return,
                // containerd has judged the event; sending it again changes nothing.
                Err(ttrpc::Error::RpcStatus(status)) if is_final(&status) => {
                    let topic = &request.envelope.topic;
                    return warn!(self.log, "containerd refused an event: {}", status.message(); "topic" => topic);
                }
                Err(error) => {
                    self.client = None;
                    if pause == MIN_PAUSE {
                        warn!(self.log, "containerd takes no events, trying again: {error}");
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(MAX_PAUSE);
                }
            }
        }
    }

    async fn attempt(&mut self, request: &ForwardRequest) -> ttrpc::Result<()> {
        let client = match &self.client {
            Some(client) => client,
            None => {
                let stream = UnixStream::connect(&self.path).await;
                let stream = stream.map_err(|error| ttrpc::Error::Socket(error.to_string()))?;
                self.client.insert(EventsClient::new(Client::new(Socket::new(stream))))
            }
        };
        let call = client.forward(with_duration(PATIENCE), request);
        let answer = timeout(PATIENCE, call).await;
        answer.map_err(|_| ttrpc::Error::Socket("no answer".to_owned()))?.map(|_| ())
    }
}

/// Whether an answer is about the event and not about containerd's own state.
fn is_final(status: &ttrpc::Status) -> bool {
    use ttrpc::Code;
    !matches!(
        status.code(),
        Code::UNAVAILABLE | Code::DEADLINE_EXCEEDED | Code::CANCELLED | Code::RESOURCE_EXHAUSTED
    )
}

#[cfg(test)]
mod tests;
