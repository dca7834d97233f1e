//! What QEMU and the guest's console say, and the record of a sandbox.

use std::io::{Write as _, pipe};

use slog::{Discard, Logger, o};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};
use vmm::lines::follow;
use vmm::progress::Activity;
use vmm::qmp::{Qmp, parse};
use vmm::state::Record;

use super::host::runtime;

/// A monitor's lines: each by itself, and all of them as a conversation.
pub(super) fn qmp(input: &[u8]) {
    input.split(|byte| *byte == b'\n').for_each(|line| drop(parse(line)));
    runtime().block_on(async {
        let (ours, mut qemus) = duplex(2 * crate::limits::MAX_INPUT);
        let said = input.to_vec();
        let qemu = tokio::spawn(async move {
            // Says all of it, and hangs up; what it is asked is of no interest.
            let _ = qemus.write_all(&said).await;
            let _ = qemus.shutdown().await;
            let _ = qemus.read_to_end(&mut Vec::new()).await;
        });
        let (reader, writer) = split(ours);
        if let Ok((qmp, mut events)) = Qmp::connect(reader, writer, None, Activity::default()).await {
            let _ = qmp.execute("query-status", ()).await;
            while events.recv().await.is_some() {}
        }
        qemu.abort();
    });
}

/// What a pipe holds, so that nobody has to write while it is read.
const PIPE: usize = 64 << 10;

/// A serial console's bytes. What is kept of it is short and printable.
pub(super) fn console(input: &[u8]) {
    let Ok((reader, mut writer)) = pipe() else { return };
    let written = writer.write_all(&input[..input.len().min(PIPE)]);
    assert!(written.is_ok(), "{written:?}");
    drop(writer);
    let lines = runtime().block_on(async {
        let tail = follow(reader.into(), "guest", Logger::root(Discard, o!()), Activity::default());
        tail.ended(std::time::Duration::from_secs(60)).await;
        tail.lines()
    });
    assert!(lines.len() <= 64, "{} lines are kept", lines.len());
    for line in lines {
        // A byte that is not UTF-8 becomes a character of three bytes.
        assert!(line.len() <= 3 * 512, "a line of {} bytes is kept", line.len());
        assert!(!line.contains(char::is_control), "{line:?}");
    }
}

/// `state.json`: what is read is written again the same.
pub(super) fn state_record(input: &[u8]) {
    let Ok(record) = serde_json::from_slice::<Record>(input) else { return };
    let again = serde_json::to_vec(&record).ok().and_then(|text| serde_json::from_slice(&text).ok());
    assert_eq!(again.as_ref(), Some(&record));
}
