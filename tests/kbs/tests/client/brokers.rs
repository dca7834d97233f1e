//! What else a broker, or a proxy before it, can do wrong.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;

/// What is said with this trouble, and how many handshakes there were.
fn with_trouble(trouble: Trouble) -> (BrokerError, usize) {
    let scene = Scene::new(0);
    let kbs = scene.kbs(scene.setup().trouble(trouble));
    let client = scene.client(&kbs, scene.attester(Behaviour::Honest));
    (key(&client).unwrap_err(), kbs.handshakes())
}

#[test]
fn each_refusal_is_told_by_its_kind_and_costs_one_handshake() {
    // Trustee's kinds of a 401 (`kbs/src/error.rs`).
    for kind in [
        "AttestationError",
        "JweError",
        "PluginInternalError",
        "PolicyDeny",
        "PolicyEngineError",
        "TokenNotFound",
        "TokenVerifierError",
    ] {
        let (error, handshakes) = with_trouble(Trouble::Refuses(kind));
        words(&error, &["said no when asked for default/key/model", kind, "on purpose"]);
        assert_eq!(handshakes, 1, "{kind}");
    }
}

#[test]
fn a_token_that_is_no_use_is_refused() {
    words(&with_trouble(Trouble::EndedToken).0, &["not usable", "ends before it begins"]);
    words(&with_trouble(Trouble::OthersToken).0, &["cannot be opened", "another key than this session's"]);
}

#[test]
fn a_token_that_the_broker_finds_expired_is_made_again_once() {
    let scene = Scene::new(0);
    let kbs = scene.kbs(scene.setup().trouble(Trouble::Expires));
    let client = scene.client(&kbs, scene.attester(Behaviour::Honest));
    assert_eq!(key(&client).unwrap(), KEY);
    assert_eq!(key(&client).unwrap(), KEY);
    assert_eq!((kbs.handshakes(), kbs.questions()), (2, 3));
}

#[test]
fn a_broker_that_answers_a_byte_at_a_time_is_left_after_the_limit() {
    let scene = Scene::new(0);
    let kbs = scene.kbs(scene.setup().trouble(Trouble::Slow));
    let client = scene.client(&kbs, scene.attester(Behaviour::Honest)).with_limit(Duration::from_millis(600));
    let began = Instant::now();
    words(&key(&client).unwrap_err(), &["for a challenge", "timeout"]);
    assert!(began.elapsed() < Duration::from_secs(5));
}

/// A proxy that passes bytes on, or answers each question with another status.
fn proxy(status: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind(SocketAddr::new(HERE, 0)).unwrap();
    let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::AcqRel);
            thread::spawn(move || pass_on(stream, status));
        }
    });
    (address, asked)
}

fn pass_on(mut stream: TcpStream, status: &str) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    assert!(head.starts_with("CONNECT "), "{head}");
    stream.write_all(format!("HTTP/1.1 {status}\r\n\r\n").as_bytes())?;
    if status.starts_with("200") {
        let target = TcpStream::connect(head.split(' ').nth(1).unwrap_or_default())?;
        let (mut from, mut to) = (stream.try_clone()?, target.try_clone()?);
        thread::spawn(move || io::copy(&mut from, &mut to));
        io::copy(&mut &target, &mut stream)?;
    }
    Ok(())
}

#[test]
fn a_broker_behind_a_proxy_is_reached_and_known_by_its_certificate() {
    let scene = Scene::new(0);
    let kbs = scene.kbs(scene.setup());
    let (address, asked) = proxy("200 Connection established");
    let through = |scene: &Scene| {
        let broker = scene.broker(&kbs.url).through(&format!("http://{address}")).unwrap();
        Client::new(&broker, scene.attester(Behaviour::Honest), Some(scene.initdata.clone()))
            .with_limit(Duration::from_secs(5))
    };
    assert_eq!(key(&through(&scene)).unwrap(), KEY);
    assert!(asked.load(Ordering::Acquire) > 0, "nobody asked the proxy");
    // Who passes bytes on may pass them on to another one.
    let other = Scene { identity: Identity::new(HERE).unwrap(), ..Scene::new(0) };
    words(
        &key(&through(&other)).unwrap_err(),
        &["showed a certificate that the pod's initdata does not pin"],
    );
}

#[test]
fn a_proxy_that_refuses_or_is_not_there_is_named() {
    let scene = Scene::new(0);
    let kbs = scene.kbs(scene.setup());
    let ask = |address: SocketAddr| {
        let broker = scene.broker(&kbs.url).through(&format!("http://{address}")).unwrap();
        let client = Client::new(&broker, scene.attester(Behaviour::Honest), None);
        key(&client.with_limit(Duration::from_millis(900))).unwrap_err()
    };
    let (address, asked) = proxy("403 Forbidden");
    words(&ask(address), &["did not answer", "403", &format!("through the proxy {address}")]);
    assert_eq!(asked.load(Ordering::Acquire), 1, "a refusal is final");
    let (address, asked) = proxy("502 Bad Gateway");
    words(&ask(address), &["502", &address.to_string()]);
    assert!(asked.load(Ordering::Acquire) > 1, "it may reach the broker soon");
    let gone = TcpListener::bind(SocketAddr::new(HERE, 0)).unwrap().local_addr().unwrap();
    words(&ask(gone), &["did not answer", &format!("through the proxy {gone}")]);
    assert_eq!(kbs.handshakes(), 0);
}
