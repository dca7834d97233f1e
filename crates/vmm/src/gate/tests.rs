use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use shared_types::sealed::{SealedAnswer, SealedId};
use slog::{Discard, Drain, KV, Never, OwnedKVList, Record, o};

use super::*;

const SOON: Duration = Duration::from_secs(1);

fn root(digit: char) -> RootHash {
    digit.to_string().repeat(64).parse().unwrap()
}

fn quiet() -> Logger {
    Logger::root(Discard, o!())
}

fn lun(number: u16) -> Lun {
    Lun::new(number).unwrap()
}

/// A gate that nobody speaks to but the test.
fn gate() -> Gate {
    Gate::hear(None, quiet(), Activity::default())
}

fn say(gate: &Gate, line: &str) {
    gate.heard.send_modify(|heard| heard.note(line, &quiet()));
}

/// Keeps what is logged, with its values.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<String>>>);

impl Drain for Kept {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        struct Values(String);
        impl slog::Serializer for Values {
            fn emit_arguments(&mut self, key: slog::Key, value: &std::fmt::Arguments<'_>) -> slog::Result {
                self.0.push_str(&format!(" {key}={value}"));
                Ok(())
            }
        }
        let mut values = Values(record.msg().to_string());
        record.kv().serialize(record, &mut values).unwrap();
        self.0.lock().unwrap().push(values.0);
        Ok(())
    }
}

#[test]
fn only_pid_1s_own_lines_mean_something() {
    let a = "a".repeat(64);
    let parsed = |line: &str| format!("{:?}", Line::parse(&line.replace('@', &a)));
    assert!(parsed("layer @ ready").starts_with("Some(Ready("));
    assert!(parsed("layer @ gone").starts_with("Some(Gone("));
    assert!(parsed("layer @: data block 7 is not what its hash says").contains("\"data\", block: 7"));
    assert!(parsed("layer @: metadata block 0 is not what its hash says").contains("\"metadata\", block: 0"));
    assert_eq!(Line::parse("disk 0:17 refused: a salt"), Some(Line::Refused { lun: 17, reason: "a salt" }));
    assert_eq!(Line::parse("fatal: no policy; powering off"), Some(Line::Fatal("no policy")));
    let ended = Line::parse("the agent exited with status 0; powering off");
    assert_eq!(ended, Some(Line::AgentEnded("exited with status 0")));
    for nothing in [
        "the agent exited with status 0",
        "",
        "layer",
        "layer @",
        "layer @ ready ",
        "layer @@ ready",
        "layer @: other block 7 is not what its hash says",
        "layer @: data block -7 is not what its hash says",
        "disk 1:17 refused: x",
        "disk 0:x refused: x",
        " fatal: x",
        "starting the agent",
    ] {
        assert_eq!(parsed(nothing), "None", "{nothing:?}");
    }
    assert_eq!(Line::parse(&format!("layer {} ready", "A".repeat(64))), None);
}

#[tokio::test(start_paused = true)]
async fn a_layer_is_waited_for() {
    let gate = gate();
    gate.expect(root('a'), lun(0), Path::new("/a"));
    gate.expect(root('b'), lun(1), Path::new("/b"));
    gate.expect(root('c'), lun(2), Path::new("/c"));
    say(&gate, &format!("layer {} ready", root('a')));
    say(&gate, "disk 0:1 refused: its salt is not all zeros");
    assert_eq!(gate.ready(root('a'), SOON).await, Ok(()));
    assert_eq!(
        gate.ready(root('b'), SOON).await,
        Err(NotReady::Refused("its salt is not all zeros".to_owned()))
    );
    assert_eq!(gate.ready(root('c'), SOON).await, Err(NotReady::Silent(SOON)));
    // What is refused or ready stays so, whatever is said later.
    say(&gate, &format!("layer {} ready", root('b')));
    say(&gate, "disk 0:0 refused: x");
    assert!(gate.ready(root('b'), SOON).await.is_err() && gate.ready(root('a'), SOON).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_layer_comes_again_only_after_it_has_gone() {
    let gate = gate();
    gate.expect(root('a'), lun(0), Path::new("/a"));
    say(&gate, &format!("layer {} ready", root('a')));
    // Not what was asked for: the layer is in use.
    say(&gate, &format!("layer {} gone", root('a')));
    assert_eq!(gate.ready(root('a'), SOON).await, Ok(()));
    gate.leaving(root('a'));
    let waiting = tokio::spawn({
        let gate = gate.clone();
        async move { gate.gone(root('a'), SOON).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    say(&gate, &format!("layer {} gone", root('a')));
    assert!(waiting.await.unwrap());
    // One that never goes is forgotten after a while.
    gate.expect(root('a'), lun(1), Path::new("/a"));
    say(&gate, &format!("layer {} ready", root('a')));
    gate.leaving(root('a'));
    assert!(gate.is_leaving(root('a')));
    assert!(!gate.gone(root('a'), SOON).await);
    assert!(gate.gone(root('a'), SOON).await && gate.heard.borrow().layers.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_refused_layer_has_nothing_to_leave() {
    let gate = gate();
    gate.expect(root('a'), lun(0), Path::new("/a"));
    say(&gate, "disk 0:0 refused: it is too short");
    gate.leaving(root('a'));
    let start = tokio::time::Instant::now();
    assert!(gate.gone(root('a'), SOON).await && start.elapsed() < SOON);
}

#[test]
fn a_damaged_layer_is_told_with_its_file_and_block_and_not_for_ever() {
    let kept = Kept::default();
    let log = Logger::root(kept.clone(), o!());
    let mut heard = Heard::default();
    let layer = Layer { lun: lun(0), image: "/var/x.erofs".into(), standing: Standing::Ready, damages: 0 };
    heard.layers.insert(root('a'), layer);
    for block in 0..100 {
        let line = format!("layer {}: data block {block} is not what its hash says", root('a'));
        heard.note(&line, &log);
    }
    heard.note(&format!("layer {}: data block 1 is not what its hash says", root('b')), &log);
    let told = kept.0.lock().unwrap();
    assert_eq!(told.len(), 8);
    for part in ["/var/x.erofs", &root('a').to_string(), "block=3"] {
        assert!(told[3].contains(part), "{}", told[3]);
    }
}

#[tokio::test]
async fn the_first_word_and_the_last_are_heard() {
    let gate = gate();
    say(&gate, "cmdline ok");
    gate.speaks().await;
    assert_eq!(gate.powered_off(), None);
    say(&gate, "fatal: two initdata disks; powering off");
    say(&gate, "fatal: something else; powering off");
    gate.powers_off().await;
    let why = gate.powered_off().unwrap();
    assert_eq!(why.to_string(), "the guest refused to go on: two initdata disks");
    assert_eq!(why.in_boot(Phase::Agent), "two initdata disks");
}

/// QEMU then ends with status 0, as after any shutdown: the agent's end is the cause. What is behind that can be guessed only
/// where it ended by itself, before it ever answered.
#[tokio::test]
async fn an_agent_that_ends_is_told_from_a_vm_that_ends() {
    let said = |line: &str| {
        let gate = gate();
        say(&gate, line);
        gate.powered_off().unwrap()
    };
    let exited = said("the agent exited with status 101; powering off");
    assert_eq!(exited.to_string(), "its agent exited with status 101, and the VM ended for it");
    let text = exited.in_boot(Phase::Agent);
    assert!(text.contains("its agent exited with status 101") && text.contains("policy"), "{text}");
    assert_eq!(exited.in_boot(Phase::Running), exited.to_string());
    // As PID 1 says it when there was no memory left, in its first second or after days.
    let killed = said("the agent was killed by SIGKILL; powering off");
    for text in [killed.to_string(), killed.in_boot(Phase::Agent), killed.in_boot(Phase::Running)] {
        assert_eq!(text, "its agent was killed by SIGKILL, and the VM ended for it");
    }
}

proptest! {
    #[test]
    fn a_guest_can_fill_nothing(lines in proptest::collection::vec("(layer|disk 0:|fatal: )[ -~]{0,90}", 0..50)) {
        let mut heard = Heard::default();
        for line in lines {
            heard.note(&line, &quiet());
        }
        prop_assert!(heard.layers.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn each_sealed_secret_of_a_container_has_a_line_of_its_own() {
    let gate = gate();
    let [a, b] = [b"a", b"b"].map(|text| Expected { id: SealedId::of(text), is_text: false });
    let word = |secret: Expected, refusal: Option<&str>| {
        let answer = refusal.map_or(SealedAnswer::Text, |why| SealedAnswer::Refused(why.to_owned()));
        SealedWord { id: secret.id, answer }.to_string()
    };
    assert_eq!(gate.expect_secrets(&[]).opened(SOON).await, Ok(()));
    // One text twice has two lines, and two containers do not answer for each other.
    let (one, other) = (gate.expect_secrets(&[a, a, b]), gate.expect_secrets(&[a]));
    for line in [word(a, None), word(b, None)] {
        say(&gate, &line);
    }
    assert_eq!(one.opened(SOON).await, Err((1, NotReady::Silent(SOON))));
    say(&gate, &word(a, None));
    assert_eq!(one.opened(SOON).await, Ok(()));
    assert_eq!(other.opened(SOON).await, Err((0, NotReady::Silent(SOON))));
    say(&gate, &word(a, Some("the key broker said no")));
    let refused = NotReady::Refused("the key broker said no".to_owned());
    assert_eq!(other.opened(SOON).await, Err((0, refused.clone())));
    // What is decided stays so; and one that stays sealed ends the waiting for the others.
    say(&gate, &word(a, None));
    assert!(one.opened(SOON).await.is_ok() && other.opened(SOON).await.is_err());
    let both = gate.expect_secrets(&[a, b]);
    say(&gate, &word(b, Some("the key broker said no")));
    let began = tokio::time::Instant::now();
    assert_eq!(both.opened(SOON).await, Err((1, refused)));
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop((one, other, both));
    // A file may have what is no text, and a variable may not.
    let bytes = SealedWord { id: a.id, answer: SealedAnswer::Bytes }.to_string();
    for is_text in [false, true] {
        let secret = gate.expect_secrets(&[Expected { is_text, ..a }]);
        say(&gate, &bytes);
        let opened = secret.opened(SOON).await;
        assert_eq!(opened.is_err(), is_text, "{opened:?}");
    }
    say(&gate, &word(a, None));
    assert!(gate.heard.borrow().secrets.is_empty(), "what nobody waits for is not kept");
}
