//! Sealed secrets, opened by the guest's client with what the broker gives.

use std::sync::OnceLock;

use attest::hub::Hub;
use attest::service::Service;
use attest::unseal::Keys;
use kbs::sealed::Owner;
use shared_types::sealed::{SealedAnswer, SealedId, SealedWord};

use super::*;

const OWNER: &str = "default/signing/owner";
const PASSWORD: &str = "default/secret/password";
const BINARY: &str = "default/secret/binary";

static SAID: OnceLock<Mutex<Vec<String>>> = OnceLock::new();

/// The guest's console.
fn console() -> &'static Mutex<Vec<String>> {
    SAID.get_or_init(Mutex::default)
}

fn say(line: &str) {
    console().lock().unwrap().push(line.to_owned());
}

/// What the console has of this secret.
fn said(secret: &str) -> Vec<SealedAnswer> {
    let id = SealedId::of(secret.as_bytes());
    let lines = console().lock().unwrap();
    let words = lines.iter().filter_map(|line| SealedWord::parse(line));
    words.filter(|word| word.id == id).map(|word| word.answer).collect()
}

fn hub(scene: &Scene, kbs: &Kbs) -> Keys {
    let client = scene.client(kbs, scene.attester(Behaviour::Honest));
    let rules = scene.broker(&kbs.url).sealed;
    Keys::new(Arc::new(Service::new(client, false)), rules, say)
}

#[test]
fn a_secret_of_the_owners_is_opened_and_another_ones_is_not() {
    let (owner, other) = (Owner::default(), Owner::default());
    let scene = Scene::new(0);
    let setup = scene
        .setup()
        .policy(kbs::ALLOW_ALL)
        .resource(OWNER, owner.jwk().as_bytes())
        .resource(PASSWORD, b"pa55")
        .resource(BINARY, b"\0\xff");
    let kbs = scene.kbs(setup);
    let hub = hub(&scene, &kbs);
    let secret = owner.seal(PASSWORD, OWNER);
    assert_eq!(hub.unseal(secret.as_bytes()).unwrap(), b"pa55");
    assert_eq!(said(&secret), [SealedAnswer::Text]);
    assert_eq!((kbs.handshakes(), kbs.questions()), (1, 2));

    // A host has no key of the broker's.
    let forged = other.seal(PATH, OWNER);
    let error = hub.unseal(forged.as_bytes()).unwrap_err();
    assert!(error.contains("its signature is not by the key default/signing/owner"), "{error}");
    assert_eq!(said(&forged), [SealedAnswer::Refused(error)]);
    assert_eq!(kbs.questions(), 3, "the model's key was asked for");
    let forged = other.seal(PATH, PATH);
    assert!(hub.unseal(forged.as_bytes()).unwrap_err().contains("default/key/model is no public key"));

    // No text, and so nothing for a variable: the host is told that as well.
    let binary = owner.seal(BINARY, OWNER);
    assert_eq!(hub.unseal(binary.as_bytes()).unwrap(), b"\0\xff");
    assert_eq!(said(&binary), [SealedAnswer::Bytes]);

    assert_eq!(hub.resource("kbs:///default/secret/password").unwrap(), b"pa55");
    assert!(hub.resource("kbs://elsewhere/default/secret/password").is_err());
}

#[test]
fn what_the_broker_says_of_a_secret_reaches_the_console() {
    let owner = Owner::default();
    let scene = Scene::new(0);
    // Its policy lets the pod have the model's key alone.
    let kbs = scene.kbs(scene.setup().resource(OWNER, owner.jwk().as_bytes()).resource(PASSWORD, b"pa55"));
    let secret = owner.seal(PASSWORD, OWNER);
    let error = hub(&scene, &kbs).unseal(secret.as_bytes()).unwrap_err();
    assert!(error.contains("PolicyDeny") && error.contains(OWNER), "{error}");
    assert_eq!(said(&secret), [SealedAnswer::Refused(error)]);
}
