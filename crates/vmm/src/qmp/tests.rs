//! The client against a scripted peer.

use agent_client::MAX_TEXT;
use serde_json::json;
use tokio::io::{
    AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf, duplex, split,
};

use super::*;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 1, "major": 11}, "package": "x"}, "capabilities": []}}"#;

struct Peer {
    reader: BufReader<ReadHalf<DuplexStream>>,
    writer: WriteHalf<DuplexStream>,
}

impl Peer {
    async fn say(&mut self, line: &str) {
        self.writer.write_all(line.as_bytes()).await.unwrap();
        self.writer.write_all(b"\n").await.unwrap();
    }

    async fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

async fn connected() -> (Qmp, mpsc::Receiver<Event>, Peer) {
    let (ours, theirs) = duplex(4096);
    let (reader, writer) = split(theirs);
    let mut peer = Peer { reader: BufReader::new(reader), writer };
    let (our_reader, our_writer) = split(ours);
    let connecting = tokio::spawn(Qmp::connect(our_reader, our_writer, None, Activity::default()));
    peer.say(GREETING).await;
    let hello = peer.hear().await;
    assert_eq!(hello["execute"], "qmp_capabilities");
    peer.say(&json!({"return": {}, "id": hello["id"]}).to_string()).await;
    let (qmp, events) = connecting.await.unwrap().unwrap();
    (qmp, events, peer)
}

#[tokio::test]
async fn answers_find_their_callers_in_any_order() {
    let (qmp, _events, mut peer) = connected().await;
    assert_eq!(qmp.version(), VersionTriple { major: 11, minor: 1, micro: 2 });
    let (one, two) = (qmp.clone(), qmp.clone());
    let one = tokio::spawn(async move { one.execute("query-one", Value::Null).await });
    let first = peer.hear().await;
    let two = tokio::spawn(async move { two.execute("query-two", json!({"a": 1})).await });
    let second = peer.hear().await;
    assert_eq!(second["arguments"]["a"], 1);
    peer.say(&json!({"return": "two", "id": second["id"]}).to_string()).await;
    peer.say(&json!({"return": "one", "id": first["id"]}).to_string()).await;
    assert_eq!(one.await.unwrap().unwrap(), "one");
    assert_eq!(two.await.unwrap().unwrap(), "two");
}

#[tokio::test]
async fn a_refusal_names_the_command_and_the_reason() {
    let (qmp, _events, mut peer) = connected().await;
    let call = tokio::spawn(async move { qmp.execute("device_add", json!({})).await });
    let heard = peer.hear().await;
    peer.say(
        &json!({"error": {"class": "GenericError", "desc": "Bus 'x' not found"}, "id": heard["id"]})
            .to_string(),
    )
    .await;
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.to_string(), "QEMU refused `device_add`: Bus 'x' not found");
}

#[tokio::test]
async fn events_arrive_between_answers() {
    let (qmp, mut events, mut peer) = connected().await;
    let call = tokio::spawn(async move { qmp.execute("query-status", Value::Null).await });
    let heard = peer.hear().await;
    peer.say(r#"{"event": "GUEST_PANICKED", "data": {"action": "poweroff"}, "timestamp": {}}"#).await;
    peer.say(&json!({"return": {}, "id": heard["id"]}).to_string()).await;
    call.await.unwrap().unwrap();
    assert_eq!(events.recv().await.unwrap().event, "GUEST_PANICKED");
}

/// As a QEMU that somebody has taken over would send them, while nobody reads: the boot is still going on.
#[tokio::test]
async fn events_without_end_are_kept_in_bounded_memory_and_calls_are_still_answered() {
    let (qmp, mut events, mut peer) = connected().await;
    let event =
        |name: &str, bytes: usize| json!({"event": name, "data": {"x": "y".repeat(bytes)}}).to_string();
    for _ in 0..1000 {
        peer.say(&event("RTC_CHANGE", 10)).await;
        peer.say(&event("SHUTDOWN", 100)).await;
    }
    peer.say(&event("SHUTDOWN", MAX_EVENT)).await;
    let call = tokio::spawn(async move { qmp.execute("query-status", Value::Null).await });
    let heard = peer.hear().await;
    let error = json!({"class": "c".repeat(MAX_LINE / 4), "desc": "d".repeat(MAX_LINE / 4)});
    peer.say(&json!({"error": error, "id": heard["id"]}).to_string()).await;
    let Err(QmpError::Refused { class, desc, .. }) = call.await.unwrap() else { panic!("it was refused") };
    assert!(class.len() <= MAX_TEXT + 3 && desc.len() <= MAX_TEXT + 3);
    drop(peer);
    let mut kept = 0;
    while let Some(event) = events.recv().await {
        assert_eq!(event.event, "SHUTDOWN");
        kept += 1;
    }
    assert_eq!(kept, MAX_EVENTS);
}

#[tokio::test]
async fn a_closed_monitor_ends_calls_in_flight_and_later_ones() {
    let (qmp, mut events, mut peer) = connected().await;
    let in_flight = qmp.clone();
    let call = tokio::spawn(async move { in_flight.execute("query-status", Value::Null).await });
    peer.hear().await;
    drop(peer);
    assert!(matches!(call.await.unwrap(), Err(QmpError::Closed)));
    assert!(events.recv().await.is_none());
    assert!(qmp.execute("query-status", Value::Null).await.is_err());
}

#[tokio::test]
async fn garbage_is_named() {
    let (ours, mut theirs) = duplex(4096);
    theirs.write_all(b"SSH-2.0-OpenSSH\r\n").await.unwrap();
    let (reader, writer) = split(ours);
    let error = Qmp::connect(reader, writer, None, Activity::default()).await.unwrap_err();
    assert!(error.to_string().contains("SSH-2.0-OpenSSH"), "{error}");
}

#[tokio::test]
async fn an_endless_line_is_refused() {
    let (ours, mut theirs) = duplex(64 * 1024);
    tokio::spawn(async move { while theirs.write_all(&[b'x'; 4096]).await.is_ok() {} });
    let (reader, writer) = split(ours);
    let error = Qmp::connect(reader, writer, None, Activity::default()).await.unwrap_err();
    assert!(error.to_string().contains("longer than"), "{error}");
}
