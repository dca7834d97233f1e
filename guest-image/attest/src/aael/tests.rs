use std::time::{Duration, Instant};

use super::*;

/// What goes with a quote.
fn text(log: &EventLog) -> Result<Option<Vec<u8>>, EventError> {
    log.around(|| Ok(())).map(|((), log)| log)
}

/// An event of TCG's with these digests, as (algorithm, bytes).
fn event(digests: &[(u16, usize)], data: &[u8]) -> Vec<u8> {
    let mut bytes = [1_u32, 8, u32::try_from(digests.len()).unwrap()].map(u32::to_le_bytes).concat();
    for (algorithm, length) in digests {
        bytes.extend(algorithm.to_le_bytes());
        bytes.extend(vec![7; *length]);
    }
    bytes.extend(u32::try_from(data.len()).unwrap().to_le_bytes());
    bytes.extend(data);
    bytes
}

/// A firmware's log: the head, events, room.
fn firmware(events: &[Vec<u8>], room: usize) -> Vec<u8> {
    let head = [&[0; 4][..], &3_u32.to_le_bytes(), &[0; 20], &5_u32.to_le_bytes(), b"specs"].concat();
    [head, events.concat(), vec![0xff; room]].concat()
}

fn parsed(json: &str) -> Result<Event, EventError> {
    Event::parse(json.as_bytes())
}

fn some(content: &str) -> Event {
    parsed(&format!(r#"{{"domain":"domain","operation":"operation","content":"{content}"}}"#)).unwrap()
}

#[test]
fn an_entry_has_the_digest_that_upstream_computes() {
    // guest-components, the digest that its own test of AAEL has for this event; here by hashlib as well.
    let (digest, entry) = some("content").entry();
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        hex,
        "dad5f0e226318ffa9839b75a472c6aa7fdb5834949d0a0a22990cf04d5692440fb00f3aa0609db7e49cd8d793f670d02"
    );
    let head = [4, 0, 0, 0, 6, 0, 0, 0, 1, 0, 0, 0, 0xc, 0];
    let tail = [&[32, 0, 0, 0][..], b"LEAA", &[24, 0, 0, 0], b"domain operation content"].concat();
    assert_eq!(entry, [&head[..], &digest, &tail].concat());
}

#[test]
fn an_event_is_two_words_and_a_line() {
    let with = |domain: &str, content: &str| {
        parsed(&format!(r#"{{"domain":"{domain}","operation":"o","content":"{content}"}}"#))
    };
    assert!(with("github.com/a", "pulled image x").is_ok() && with("d", "").is_ok());
    for (event, words) in [
        (with("two words", "c"), "words of printable ASCII"),
        (with("", "c"), "words of printable ASCII"),
        (with("d", "a\\nb"), "a control character"),
        (with("d", &"x".repeat(LONGEST)), "above 1024 bytes"),
        (parsed("{}"), "not usable"),
        (parsed(""), "not usable"),
        (parsed(r#"{"domain":"d","operation":"o","content":"c","pcr":1}"#), "pcr"),
    ] {
        let text = event.unwrap_err().to_string();
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn an_event_extends_the_register_and_goes_behind_the_firmwares_log() {
    let directory = tempfile::tempdir().unwrap();
    let (ccel, register) = (directory.path().join("CCEL"), directory.path().join(REGISTER));
    let log = EventLog::new(directory.path(), &ccel);
    assert_eq!(text(&log).unwrap(), None);
    // Without the firmware's log nothing is extended.
    let error = log.add(&some("one")).unwrap_err().to_string();
    assert!(error.contains("CCEL") && !register.exists(), "{error}");
    let events = [event(&[(0xc, 48)], b"data"), event(&[(0xb, 32), (0xc, 48)], b"")];
    fs::write(&ccel, firmware(&events, 100)).unwrap();
    log.add(&some("one")).unwrap();
    assert_eq!(fs::read(&register).unwrap(), some("one").entry().0);
    log.clone().add(&some("two")).unwrap();
    let entries = [some("one").entry().1, some("two").entry().1].concat();
    assert_eq!(text(&log).unwrap().unwrap(), [firmware(&events, 0), entries].concat());
    // A register that takes nothing has no event in the log.
    fs::remove_file(&register).unwrap();
    fs::create_dir(&register).unwrap();
    let before = text(&log).unwrap();
    let error = log.add(&some("three")).unwrap_err().to_string();
    assert!(error.contains("rtmr3:sha384"), "{error}");
    assert_eq!(text(&log).unwrap(), before);
    fs::remove_dir(&register).unwrap();
    for index in 2..EVENTS {
        log.add(&some(&index.to_string())).unwrap();
    }
    assert!(log.add(&some("one more")).unwrap_err().to_string().contains("256 events"));
}

#[test]
fn what_is_no_log_of_a_firmware_is_told() {
    let good = firmware(&[event(&[(0xc, 48)], b"data")], 16);
    assert_eq!(written(&good), Some(good.len() - 16));
    let whole = &good[..good.len() - 16];
    assert_eq!(written(whole), Some(whole.len()), "one without room");
    assert_eq!(written(&firmware(&[], 0)), Some(37));
    for bad in [
        vec![],
        good[..20].to_vec(),
        good[..40].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        firmware(&[event(&[(0x99, 48)], b"")], 0),
        firmware(&[event(&[(0xc, 48); DIGESTS + 1], b"")], 0),
        [firmware(&[], 0), vec![0; 3]].concat(),
        vec![0xff; 64],
        vec![0; FIRMWARE_LOG + 1],
    ] {
        assert_eq!(written(&bad), None, "{} bytes", bad.len());
    }
}

#[test]
fn only_tdx_has_a_register() {
    assert!(refusal(Tee::Tdx).is_none());
    for (tee, words) in [(Tee::Snp, "SEV-SNP has no register"), (Tee::Sample, "no confidential VM")] {
        assert!(refusal(tee).unwrap().contains(words));
    }
}

#[test]
fn nothing_is_added_between_a_quote_and_its_log() {
    let directory = tempfile::tempdir().unwrap();
    let ccel = directory.path().join("CCEL");
    fs::write(&ccel, firmware(&[], 0)).unwrap();
    let log = EventLog::new(directory.path(), &ccel);
    log.add(&some("before")).unwrap();
    let (adding, (during, text)) = log
        .around(|| -> Result<_, EventError> {
            let other = log.clone();
            let adding = std::thread::spawn(move || other.add(&some("after")).unwrap());
            // Time enough for it, if nothing kept it waiting.
            let until = Instant::now() + Duration::from_millis(200);
            while Instant::now() < until && !adding.is_finished() {
                std::thread::yield_now();
            }
            let register = fs::read(directory.path().join(REGISTER)).unwrap();
            Ok((adding, register))
        })
        .map(|((adding, during), text)| (adding, (during, text.unwrap())))
        .unwrap();
    adding.join().unwrap();
    let (digest, entry) = some("before").entry();
    assert_eq!((during, text), (digest.to_vec(), [firmware(&[], 0), entry].concat()));
    assert_ne!(fs::read(directory.path().join(REGISTER)).unwrap(), digest);
}
