//! containerd's event stream, as `ctr events` prints it.

use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::ctr::ctr;
use crate::or_fail::OrFail;
use crate::wait::until;

const LIMIT: Duration = Duration::from_secs(30);

/// One event.
#[derive(Debug, Clone)]
pub struct Event {
    /// For example `/tasks/start`.
    pub topic: String,
    /// The event's message.
    pub body: Value,
}

/// A subscription; it sees every event from its start on.
#[derive(Debug)]
pub struct Events {
    seen: Arc<Mutex<Vec<Event>>>,
    child: Child,
}

impl Events {
    /// Subscribes, and waits until events arrive.
    pub async fn subscribe() -> Self {
        let mut child = Command::new("ctr")
            .arg("events")
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .or_fail("start ctr events");
        let mut lines = BufReader::new(child.stdout.take().or_fail("ctr's stdout")).lines();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(event) = parse(&line) {
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push(event);
                }
            }
        });
        let events = Self { seen, child };
        events.wait_until_subscribed().await;
        events
    }

    /// Topics of the events about container `id`, in the order they came.
    pub fn topics(&self, id: &str) -> Vec<String> {
        self.of(id).into_iter().map(|event| event.topic).collect()
    }

    /// Events about container `id`, in the order they came.
    pub fn of(&self, id: &str) -> Vec<Event> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|event| event.body["container_id"] == id).cloned().collect()
    }

    /// Waits for an event of `topic` about container `id`.
    pub async fn expect(&self, id: &str, topic: &str) -> Event {
        until(format!("event {topic} of {id}"), LIMIT, async || {
            self.of(id).into_iter().find(|event| event.topic == topic)
        })
        .await
    }

    /// Ends the subscription, and with it the process behind it.
    pub async fn close(mut self) {
        self.child.kill().await.or_fail("end ctr events");
    }

    /// A subscription has no beginning that shows: label a namespace until that event comes back.
    async fn wait_until_subscribed(&self) {
        for attempt in 0..100 {
            ctr(&["namespaces", "label", crate::NAMESPACE, &format!("e2e={attempt}")]).await.succeeded();
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.iter().any(|event| event.topic == "/namespaces/update") {
                    return;
                }
            }
        }
        panic!("ctr events shows no event");
    }
}

/// A line is "time namespace topic body"; the time has spaces in it, the topic starts with a slash.
fn parse(line: &str) -> Option<Event> {
    let (_, rest) = line.split_once(" /")?;
    let (topic, body) = rest.split_once(' ')?;
    Some(Event { topic: format!("/{topic}"), body: serde_json::from_str(body).ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_line_of_ctr_events() {
        let line = r#"2026-11-24 04:08:37.02 +0000 UTC k8s.io /tasks/exit {"container_id":"c","id":"c","exit_status":7}"#;
        let event = parse(line).unwrap();
        assert_eq!(event.topic, "/tasks/exit");
        assert_eq!(event.body["exit_status"], 7);
    }

    #[test]
    fn a_line_without_a_topic_is_no_event() {
        assert!(parse("time=now level=warning").is_none());
    }
}
