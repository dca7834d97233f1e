//! What a key broker answers, what its owner writes of it, and what containers ask.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use attest::aael::{self, Event};
use attest::broker::Client;
use attest::config::Broker;
use attest::evidence::sample::Sample;
use attest::evidence::{Attester, Declared, Source};
use attest::hub::{self, Hub};
use attest::jwe;
use attest::sealed::{self, Rules};
use attest::service::server::{Head, head};
use p256::SecretKey;

/// A broker that says this to whoever connects. Nothing is tried again within the limit.
pub(super) fn broker(input: &[u8]) {
    let Ok(listener) = TcpListener::bind("127.0.0.1:0") else { return };
    let Ok(address) = listener.local_addr() else { return };
    let text = format!("[token_configs.kbs]\nurl = \"http://{address}\"\n");
    let Ok(broker) = Broker::parse(Some(&text), None) else { panic!("{text} names a broker") };
    let said = input.to_vec();
    let there = thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let _ = stream.read(&mut [0; 1024]);
        let _ = stream.write_all(&said);
    });
    let attester = Attester::new(Box::new(Sample), Source::Sample, Declared::default());
    let client = Client::new(&broker, attester, None).with_limit(Duration::from_millis(150));
    // A token takes two answers, and this broker has one.
    assert!(client.token().is_err(), "a token from nobody");
    drop(client);
    // Whoever was not asked still waits.
    let _ = std::net::TcpStream::connect(address);
    let _ = there.join();
}

/// An answer that is encrypted for a session.
pub(super) fn sealed(input: &[u8]) {
    let Ok(key) = SecretKey::from_slice(&[7; 32]) else { panic!("7 is a key") };
    if let Ok(content) = jwe::open(input, &key) {
        assert!(content.len() < input.len());
    }
}

/// `aa.toml` and `cdh.toml`.
pub(super) fn config(input: &[u8]) {
    let Ok(text) = str::from_utf8(input) else { return };
    for (aa, cdh) in [(Some(text), None), (None, Some(text)), (Some(text), Some(text))] {
        if let Ok(broker) = Broker::parse(aa, cdh) {
            assert_eq!(broker.url.starts_with("https://"), broker.is_authentic(), "{}", broker.url);
        }
    }
}

/// A container's question.
pub(super) fn question(input: &[u8]) {
    if let Head::Whole { method, target, .. } = head(input) {
        assert!(!method.is_empty() && !target.contains(' '), "{method:?} {target:?}");
    }
}

/// An event that a container logs, and a firmware's log.
pub(super) fn events(input: &[u8]) {
    let _ = Event::parse(input);
    if let Some(written) = aael::written(input) {
        assert!(written <= input.len());
        assert_eq!(aael::written(&input[..written]), Some(written), "without the room it is another one");
    }
}

/// A sealed secret, of a pod whose owner wants signatures and of one who does not; and what the broker has as the key.
pub(super) fn secret(input: &[u8]) {
    for unsigned in [false, true] {
        let rules = Rules { unsigned, ..Rules::default() };
        let mut asked = 0;
        let opened = sealed::open(input, &rules, |_| {
            asked += 1;
            Ok(input.to_vec())
        });
        // Nobody can have signed it with the key that it is itself.
        assert!(opened.is_err() || (unsigned && asked == 1), "opened without a signature");
    }
}

/// What an agent would send to a hub that gives each secret back.
pub(super) fn agent(input: &[u8]) {
    struct Echo;
    impl Hub for Echo {
        fn unseal(&self, secret: &[u8]) -> Result<Vec<u8>, String> {
            Ok(secret.to_vec())
        }

        fn resource(&self, uri: &str) -> Result<Vec<u8>, String> {
            Err(uri.to_owned())
        }
    }
    let Ok((mut here, there)) = UnixStream::pair() else { return };
    let served = thread::spawn(move || {
        let echo: Arc<dyn Hub> = Arc::new(Echo);
        hub::serve(there, &echo)
    });
    let mut from = here.try_clone().ok();
    let reader = thread::spawn(move || {
        let mut answers = Vec::new();
        let _ = from.as_mut().map(|from| from.read_to_end(&mut answers));
    });
    let _ = here.write_all(input);
    let _ = here.shutdown(Shutdown::Write);
    assert!(served.join().is_ok(), "the hub panicked");
    let _ = reader.join();
}
