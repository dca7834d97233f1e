//! The guest's attestation service. PID 1 starts it when the pod's checked initdata names a key broker:
//! `coffer-attest snp|tdx|none GPUS SWITCHES [key] [proxy=URL]`, where the numbers are what the initdata declares, `key` is that it
//! lets containers have their token's private key, and the broker is reached through the proxy.

use std::net::TcpListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, thread};

use attest::broker::{BrokerError, Client};
use attest::config::Broker;
use attest::evidence::sample::Sample;
use attest::evidence::tsm::{Kind, REPORTS, Tsm};
use attest::evidence::{Attester, Cpu, Declared};
use attest::gpus;
use attest::service::Service;
use attest::service::server::{self, ADDRESS};
use shared_types::one_line;

/// Where PID 1 puts the checked initdata.
const INITDATA: &str = "/run/confidential-containers/initdata";

/// Between two tries to have the GPUs attested; each try has its own patience.
const PAUSE: Duration = Duration::from_secs(1);

/// Why it does not serve.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("called by somebody else than PID 1: {0:?}")]
    Words(Vec<String>),
    #[error(transparent)]
    Config(#[from] attest::config::ConfigError),
    #[error("cannot read the initdata")]
    Initdata(#[source] io::Error),
    #[error("cannot listen on {ADDRESS}")]
    Listen(#[source] io::Error),
    #[error("cannot take questions")]
    Serve(#[source] io::Error),
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("no keys for this pod: {}", one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), StartError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(Order { attester, gives_key, proxy }) = order(&words) else {
        return Err(StartError::Words(words));
    };
    let mut broker = Broker::read(Path::new(INITDATA))?;
    if let Some(proxy) = &proxy {
        broker = broker.through(proxy)?;
    }
    let document =
        fs::read_to_string(Path::new(INITDATA).join("initdata.toml")).map_err(StartError::Initdata)?;
    let listener = TcpListener::bind(ADDRESS).map_err(StartError::Listen)?;
    let known = if broker.is_authentic() {
        "by its certificate"
    } else {
        "by nothing: whoever is on the way can answer for it"
    };
    let way = proxy.map(|proxy| format!(" through the proxy {proxy}")).unwrap_or_default();
    say(&format!("keys come from {}{way}, known {known}; evidence is {}", broker.url, attester.tee().name()));
    let waiting = attester.has_driver();
    let service = Arc::new(Service::new(Client::new(&broker, attester, Some(document)), gives_key));
    if waiting {
        let service = service.clone();
        thread::spawn(move || ready(service.client()));
    }
    server::run(&listener, &service).map_err(StartError::Serve)
}

/// Has the GPUs attested without being asked: they take no work before, whoever wants to give them some. The pod's network comes
/// up after this program, so a broker that cannot be reached is asked again for as long as the VM runs; its no is final.
fn ready(client: &Client) {
    loop {
        match client.token() {
            Ok(_) => return say("the GPUs are attested, and take work"),
            Err(error) => {
                say(&format!("the GPUs take no work: {}", one_line(&error)));
                if !matches!(error, BrokerError::Http { .. }) {
                    return;
                }
            }
        }
        #[expect(
            clippy::disallowed_methods,
            reason = "a thread of its own asks; there is no runtime to block"
        )]
        thread::sleep(PAUSE);
    }
}

/// The VM, and what its containers may have.
struct Order {
    attester: Attester,
    gives_key: bool,
    proxy: Option<String>,
}

/// The order, by PID 1's words.
fn order(words: &[String]) -> Option<Order> {
    let [tee, gpus, switches, more @ ..] = words else { return None };
    let (gives_key, more) =
        more.split_first().filter(|(word, _)| *word == "key").map_or((false, more), |(_, more)| (true, more));
    let proxy = match more {
        [] => None,
        [word] => Some(word.strip_prefix("proxy=")?.to_owned()),
        _ => return None,
    };
    let declared = Declared { gpus: gpus.parse().ok()?, switches: switches.parse().ok()? };
    let tsm = |kind| -> Box<dyn Cpu> { Box::new(Tsm::new(Path::new(REPORTS), kind)) };
    let cpu: Box<dyn Cpu> = match tee.as_str() {
        "snp" => tsm(Kind::Snp),
        "tdx" => tsm(Kind::Tdx),
        "none" => Box::new(Sample),
        _ => return None,
    };
    Some(Order { attester: Attester::new(cpu, gpus::source(tee != "none"), declared), gives_key, proxy })
}

/// One line, on the guest's console.
fn say(line: &str) {
    eprintln!("coffer-attest: {line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_1_says_what_the_vm_is() {
        let of = |words: &str| order(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let Order { attester, gives_key, proxy } = of("snp 2 0").unwrap();
        assert_eq!((attester.tee().name(), attester.additional_tees()), ("snp", vec!["nvidia"]));
        assert!(!gives_key && proxy.is_none());
        let Order { attester, gives_key, proxy } = of("none 1 0 key proxy=http://192.0.2.7:3128").unwrap();
        assert_eq!(attester.tee().name(), "sample");
        assert!(gives_key);
        assert_eq!(proxy.as_deref(), Some("http://192.0.2.7:3128"));
        assert!(!of("snp 0 0 proxy=http://192.0.2.7:3128").unwrap().gives_key);
        assert!(of("tdx 0 0").unwrap().attester.additional_tees().is_empty());
        for words in [
            "",
            "snp",
            "sev 0 0",
            "snp 0",
            "snp -1 0",
            "snp 0 0 0",
            "snp 0 0 key key",
            "snp 0 0 proxy=a key",
            "snp 0 0 proxy",
        ] {
            assert!(of(words).is_none(), "{words}");
        }
    }
}
