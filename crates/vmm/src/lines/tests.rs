use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

use proptest::prelude::*;
use slog::{Discard, Drain, KV, Key, Level, Never, OwnedKVList, Record, Serializer, o};
use tokio::io::AsyncWriteExt;

use super::*;

fn quiet() -> Logger {
    Logger::root(Discard, o!())
}

#[tokio::test]
async fn the_last_lines_are_kept_without_escapes() {
    let (ours, mut guest) = io::pipe().unwrap();
    let tail = follow(ours.into(), "console", quiet(), Activity::default());
    for n in 0..90 {
        guest.write_all(format!("\u{1b}[2Jline {n}\r\n").as_bytes()).unwrap();
    }
    guest.write_all(b"no newline at the end").unwrap();
    drop(guest);
    tail.ended(Duration::from_secs(5)).await;
    let lines = tail.lines();
    assert_eq!(lines.len(), KEPT);
    assert_eq!(lines[KEPT - 2], "line 89");
    assert_eq!(lines[KEPT - 1], "no newline at the end");
}

/// Whether the runtime waits for this file: the epoll sets of a process name what they watch in /proc.
fn is_watched(inode: u64) -> bool {
    let watched = format!(" ino:{inode:x} ");
    let sets = fs::read_dir("/proc/self/fdinfo").unwrap();
    sets.flatten().any(|set| fs::read_to_string(set.path()).is_ok_and(|set| set.contains(&watched)))
}

/// As a UART writes: its letters wake nobody while they are gathered.
#[tokio::test(start_paused = true)]
async fn single_bytes_are_gathered() {
    let (ours, mut guest) = io::pipe().unwrap();
    let pipe = OwnedFd::from(ours);
    let inode = fs::File::from(pipe.try_clone().unwrap()).metadata().unwrap().ino();
    let tail = follow(pipe, "console", quiet(), Activity::default());
    sleep(Duration::from_millis(1)).await;
    assert!(is_watched(inode), "a pipe without a word is waited for");
    let mut watched = 0;
    for byte in [b"x".repeat(99), b"\n".to_vec()].concat().repeat(20) {
        guest.write_all(&[byte]).unwrap();
        watched += usize::from(is_watched(inode));
        sleep(Duration::from_millis(1)).await;
    }
    assert!(watched < 20, "the runtime was woken for {watched} of 2000 letters");
    sleep(2 * GATHER).await;
    assert!(is_watched(inode), "a pipe that has fallen silent is waited for");
    drop(guest);
    tail.ended(Duration::from_secs(5)).await;
    assert_eq!(tail.lines().len(), 20);
}

#[test]
fn the_agents_chatter_is_told_from_its_complaints() {
    let line = |level: &str| format!("{{\"msg\":\"signal process\",\"level\":\"{level}\",\"ts\":\"2026\"}}");
    assert!(is_chatter(&line("INFO")) && is_chatter(&line("DEBG")));
    assert!(!is_chatter(&line("WARN")) && !is_chatter(&line("ERRO")));
    assert!(!is_chatter("[    0.1] \"level\":\"INFO\""));
}

/// As it writes the whole request for a container, in whatever pieces the console gives it.
#[test]
fn a_line_that_is_cut_keeps_its_level() {
    let message =
        "receive createcontainer, spec: ".to_owned() + &"Mount { destination: \\\"/x\\\" }, ".repeat(200);
    for (level, chatter) in [("INFO", true), ("ERRO", false)] {
        let line = format!(
            "{{\"msg\":\"{message}\",\"level\":\"{level}\",\"ts\":\"2026\",\"name\":\"kata-agent\"}}\n"
        );
        for piece in [1, 7, 8192] {
            let mut splitter = Splitter { line: Vec::new(), last: Vec::new(), longest: MAX_LINE };
            let mut lines = Vec::new();
            for bytes in [line.as_bytes(), b"the next\n"].concat().chunks(piece) {
                splitter.push(bytes, |line| lines.push(line));
            }
            assert_eq!(lines.len(), 2, "{lines:?}");
            assert_eq!(is_chatter(&lines[0]), chatter, "{}", lines[0]);
            assert!(lines[0].len() < MAX_LINE + 32 && lines[1] == "the next", "{lines:?}");
        }
    }
}

#[tokio::test]
async fn words_are_waited_for() {
    let (reader, mut writer) = io::pipe().unwrap();
    let tail = follow(reader.into(), "test", quiet(), Activity::default());
    let waiting = tokio::spawn({
        let tail = tail.clone();
        async move { tail.said(&["never", "fatal"]).await }
    });
    for line in ["all is well\n", "a fatal error\n"] {
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        writer.write_all(line.as_bytes()).unwrap();
    }
    waiting.await.unwrap();
    // Said before somebody listens, it is heard too.
    tail.said(&["fatal"]).await;
}

/// What a logger at debug gets of each kind: bytes of lines, and how many it is told were left out.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Told {
    bytes: u64,
    left_out: u64,
}

/// Counts what is logged: the chatter's, and the rest.
#[derive(Clone, Default)]
struct Counter(Arc<Mutex<[Told; 2]>>);

impl Drain for Counter {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        struct Lines(u64);
        impl Serializer for Lines {
            fn emit_arguments(&mut self, key: Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
                if key == "lines" {
                    self.0 = value.to_string().parse().unwrap();
                }
                Ok(())
            }
        }
        let mut lines = Lines(0);
        record.kv().serialize(record, &mut lines).unwrap();
        let mut told = self.0.lock().unwrap();
        let told = &mut told[usize::from(record.level() == Level::Info)];
        match record.msg().to_string() {
            text if text.starts_with("lines left out") => told.left_out += lines.0,
            text => told.bytes += text.len() as u64,
        }
        Ok(())
    }
}

/// As many lines of both kinds as 8 MiB have, a guest's that wants to be in the log of the host.
fn flood() -> (Vec<u8>, u64) {
    let pad = "x".repeat(100);
    let both = format!("{{\"msg\":\"{pad}\",\"level\":\"INFO\"}}\n[    1.2] {pad}\n");
    let times = (8 << 20) / both.len();
    (both.repeat(times).into_bytes(), times as u64)
}

/// A budget's worth for the time that it took, and all that is beyond was counted.
fn assert_bounded(counter: &Counter, lines: u64, took: Duration) {
    let most = BURST + REFILL * (took.as_secs() + 1);
    for told in *counter.0.lock().unwrap() {
        assert!((BURST / 2..=most).contains(&told.bytes), "{told:?} within {took:?}, and {most} may be");
        let line = 100;
        let at_least = lines - told.bytes / line - most / line;
        assert!(told.left_out >= at_least && told.left_out < lines, "{told:?} of {lines}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flood_is_dropped_and_counted() {
    let (bytes, lines) = flood();
    let least = GATHER * u32::try_from(bytes.len() / MOST - 1).unwrap();
    // As a console is read, and as PID 1 is.
    let counter = Counter::default();
    let log = Logger::root(counter.clone(), o!());
    let (ours, mut guest) = io::pipe().unwrap();
    let flood = bytes.clone();
    let writer = std::thread::spawn(move || guest.write_all(&flood));
    let start = Instant::now();
    let tail = follow(ours.into(), "console", log, Activity::default());
    let mut ended = tail.ended.clone();
    ended.wait_for(|ended| *ended).await.unwrap();
    writer.join().unwrap().unwrap();
    assert_bounded(&counter, lines, start.elapsed());
    assert!(start.elapsed() >= least, "read within {:?}", start.elapsed());

    let counter = Counter::default();
    let log = Logger::root(counter.clone(), o!());
    let (_tail, feed) = super::tail("guest", MAX_LINE);
    let (start, mut seen) = (Instant::now(), 0);
    feed.copy(bytes.as_slice(), &log, &Activity::default(), |_| seen += 1).await;
    assert_eq!(seen, 2 * lines);
    assert_bounded(&counter, lines, start.elapsed());
    assert!(start.elapsed() >= least, "read within {:?}", start.elapsed());
}

/// As PID 1 speaks: nothing is put off, so that a start does not wait for it.
#[tokio::test(start_paused = true)]
async fn lines_of_a_start_are_heard_at_once() {
    let (mut guest, ours) = tokio::io::duplex(1 << 20);
    let (tail, feed) = super::tail("guest", MAX_LINE);
    let start = Instant::now();
    tokio::spawn(async move { feed.copy(ours, &quiet(), &Activity::default(), |_| {}).await });
    for number in 0..LOOKS - 1 {
        guest.write_all(format!("layer {number} ready\n").as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    drop(guest);
    tail.ended(Duration::from_secs(5)).await;
    assert!(tail.has(&format!("layer {} ready", LOOKS - 2)));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

proptest! {
    #[test]
    fn lines_are_short_and_printable(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut splitter = Splitter { line: Vec::new(), last: Vec::new(), longest: MAX_LINE };
        let mut lines = Vec::new();
        splitter.push(&bytes, |line| lines.push(line));
        splitter.finish(|line| lines.push(line));
        for line in lines {
            // A replacement character is three bytes for one.
            prop_assert!(line.len() <= 3 * MAX_LINE);
            prop_assert!(!line.chars().any(char::is_control));
        }
    }
}
