use shared_types::one_line;

use super::*;

/// A self-signed certificate: `openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=kbs -days 36500`.
const PEM: &str = include_str!("kbs.pem");

fn aa(url: &str, cert: &str) -> String {
    format!("[token_configs.kbs]\nurl = {url:?}\ncert = '''\n{cert}'''\n[log]\nlevel = \"debug\"\n")
}

fn cdh(url: &str, cert: &str) -> String {
    format!("socket = \"x\"\n[kbc]\nname = \"cc_kbc\"\nurl = {url:?}\nkbs_cert = '''\n{cert}'''\n")
}

fn refused(aa: Option<&str>, cdh: Option<&str>, words: &str) {
    let error = Broker::parse(aa, cdh).unwrap_err();
    let text = one_line(&error);
    assert!(text.contains(words), "{words:?} is not in: {text}");
}

#[test]
fn either_file_or_both_name_the_broker() {
    let (url, aa, cdh) = (
        "https://kbs.example:8080",
        aa("https://kbs.example:8080/", PEM),
        cdh("https://kbs.example:8080", PEM),
    );
    for (aa, cdh) in [(Some(&*aa), None), (None, Some(&*cdh)), (Some(&aa), Some(&cdh))] {
        let broker = Broker::parse(aa, cdh).unwrap();
        assert_eq!((broker.url.as_str(), broker.certificates.len(), broker.is_authentic()), (url, 1, true));
    }
    let plain = Broker::parse(Some("[token_configs.kbs]\nurl = \"http://10.0.0.1:8080\"\n"), None).unwrap();
    assert!(!plain.is_authentic());
    let two = Broker::parse(Some(&super::tests::aa(url, &PEM.repeat(2))), None).unwrap();
    assert_eq!(two.certificates.len(), 2);
}

#[test]
fn two_brokers_or_none_are_refused() {
    refused(None, None, "names no key broker");
    refused(Some(""), Some("[image]\n"), "names no key broker");
    refused(
        Some(&aa("https://one.example", PEM)),
        Some(&cdh("https://two.example", PEM)),
        "names two key brokers",
    );
    let other = PEM.replace("MIIB", "MIIC");
    refused(
        Some(&aa("https://a.example", PEM)),
        Some(&cdh("https://a.example", &other)),
        "another one in cdh.toml",
    );
    refused(None, Some("[kbc]\nname = \"offline_fs_kbc\"\n"), "offline_fs_kbc");
}

#[test]
fn a_certificate_is_pinned_or_there_is_no_broker() {
    refused(Some("[token_configs.kbs]\nurl = \"https://kbs.example\"\n"), None, "pins no certificate");
    refused(Some(&aa("https://kbs.example", "")), None, "pins no certificate");
    refused(Some(&aa("https://kbs.example", "nothing")), None, "it is no PEM");
    let broken = PEM.replacen("MIIB", "AAAA", 1);
    refused(Some(&aa("https://kbs.example", &broken)), None, "no certificate (X.509)");
    let key = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----\n";
    refused(Some(&aa("https://kbs.example", key)), None, "something else than certificates");
    refused(Some(&aa("http://kbs.example", PEM)), None, "nobody shows one over http");
}

#[test]
fn what_is_no_address_is_named() {
    for url in ["", "kbs", "ftp://kbs", "https://", "https:///path", "https://kbs?x=1", "https://k bs"] {
        refused(Some(&aa(url, PEM)), None, "is no address of a key broker");
    }
}

#[test]
fn a_file_that_is_none_is_named() {
    refused(Some("[token_configs"), None, "aa.toml in the initdata");
    refused(None, Some("kbc = 1"), "cdh.toml in the initdata");
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(Broker::read(directory.path()), Err(ConfigError::Nobody)));
    std::fs::create_dir(directory.path().join("aa.toml")).unwrap();
    assert!(matches!(Broker::read(directory.path()), Err(ConfigError::Read { .. })));
}

#[test]
fn another_kind_of_session_key_is_refused() {
    let with = |algorithm: &str| {
        format!("[token_configs.kbs]\nurl = \"http://10.0.0.1\"\ntee_key_algorithm = {algorithm:?}\n")
    };
    assert!(Broker::parse(Some(&with("ECDH-ES+A256KW-P256")), None).is_ok());
    for other in ["ECDH-ES+A256KW-P521", "RSA-OAEP-256", ""] {
        refused(Some(&with(other)), None, "leave it out");
    }
}

#[test]
fn a_proxy_has_a_host_a_port_and_no_password() {
    let broker = || Broker::parse(Some("[token_configs.kbs]\nurl = \"http://10.0.0.1\"\n"), None).unwrap();
    for proxy in ["http://192.0.2.7:3128", "http://proxy.example:8080/", "http://[2001:db8::1]:3128"] {
        assert!(broker().through(proxy).is_ok(), "{proxy}");
    }
    for proxy in [
        "",
        "192.0.2.7:3128",
        "http://192.0.2.7",
        "https://192.0.2.7:3128",
        "socks5://192.0.2.7:1080",
        "http://user:word@192.0.2.7:3128",
        "http://192.0.2.7:3128/path",
        "http://:3128",
    ] {
        let error = broker().through(proxy).unwrap_err();
        assert!(error.to_string().contains("is no proxy"), "{proxy}: {error}");
    }
}

#[test]
fn the_owner_says_whether_secrets_are_signed_and_events_logged() {
    let broker = Broker::parse(Some(&aa("https://kbs.example:8080", PEM)), None).unwrap();
    let sealed = Rules { authority: "kbs.example:8080".into(), ..Rules::default() };
    assert_eq!((broker.sealed, broker.events), (sealed, false));
    let kbc = cdh("https://kbs.example:8080", PEM);
    let text = format!(
        "skip_sealed_secret_verification = true\n{kbc}[[credentials]]\npath = \
         \"/run/confidential-containers/cdh/sealed-secret/owner\"\nresource_uri = \"kbs:///a/b/c\"\n"
    );
    let events = "[eventlog_config]\nenable_eventlog = true\ninit_pcr = 17\n";
    let broker = Broker::parse(Some(events), Some(&text)).unwrap();
    assert!(broker.sealed.unsigned && broker.events);
    assert_eq!(broker.sealed.credentials["owner"], "kbs:///a/b/c");
    refused(Some(&events.replace("17", "16")), Some(&text), "RTMR3 only, which is 17");
    refused(Some(&events.replace("true", "1")), Some(&text), "aa.toml in the initdata is not usable");
}
