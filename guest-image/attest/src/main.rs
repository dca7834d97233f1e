//! The guest's attestation service. PID 1 starts it when the pod's checked initdata names a key broker:
//! `coffer-attest snp|tdx|none GPUS SWITCHES [key] [proxy=URL]`, where the numbers are what the initdata declares, `key` is that
//! it lets containers have their token's private key, and the broker is reached through the proxy. Its standard input is the
//! socket that the agent finds a confidential data hub at, which PID 1 opened before either of them runs.

use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io, thread};

use attest::aael::{EventLog, FIRMWARE, MEASUREMENTS};
use attest::broker::{BrokerError, Client};
use attest::config::Broker;
use attest::evidence::sample::Sample;
use attest::evidence::tsm::{Kind, REPORTS, Tsm};
use attest::evidence::{Attester, Cpu, Declared};
use attest::gpus;
use attest::hub::{self, Hub};
use attest::service::Service;
use attest::service::server::{self, ADDRESS};
use attest::unseal::{Keys, Nobody};
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
    #[error("PID 1 gave no socket for the agent's questions")]
    Agents(#[source] io::Error),
}

fn main() -> ExitCode {
    let agents = match agents() {
        Ok(agents) => agents,
        Err(error) => {
            say(&format!("no keys for this pod: {}", one_line(&error)));
            return ExitCode::FAILURE;
        }
    };
    match run(&agents) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let reason = format!("no keys for this pod: {}", one_line(&error));
            say(&reason);
            // Whoever asks for a secret hears why there is none, and the agent has somebody to talk to.
            let nobody: Arc<dyn Hub> = Arc::new(Nobody { reason, say: says });
            let _ = hub::run(&agents, &nobody);
            ExitCode::FAILURE
        }
    }
}

/// The socket that the agent asks at.
fn agents() -> Result<UnixListener, StartError> {
    let socket = std::io::stdin().as_fd().try_clone_to_owned().map_err(StartError::Agents)?;
    let listener = UnixListener::from(socket);
    listener.local_addr().map_err(StartError::Agents)?;
    Ok(listener)
}

fn run(agents: &UnixListener) -> Result<(), StartError> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some(Order { attester, gives_key, proxy, events }) = order(&words) else {
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
    let mut service = Service::new(Client::new(&broker, attester, Some(document)), gives_key);
    if let Some(events) = events.filter(|_| broker.events) {
        service = service.with_events(events);
    }
    let service = Arc::new(service);
    if waiting {
        let service = service.clone();
        thread::spawn(move || ready(service.client()));
    }
    let keys: Arc<dyn Hub> = Arc::new(Keys::new(service.clone(), broker.sealed, says));
    let agents = agents.try_clone().map_err(StartError::Agents)?;
    thread::spawn(move || {
        if let Err(error) = hub::run(&agents, &keys) {
            say(&format!("the agent is answered no more: {error}"));
        }
    });
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
    /// The log of runtime events, where the VM has a register for it.
    events: Option<EventLog>,
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
    let tsm = |kind| Tsm::new(Path::new(REPORTS), kind);
    let (cpu, events): (Box<dyn Cpu>, _) = match tee.as_str() {
        "snp" => (Box::new(tsm(Kind::Snp)), None),
        "tdx" => {
            let events = EventLog::new(Path::new(MEASUREMENTS), Path::new(FIRMWARE));
            (Box::new(tsm(Kind::Tdx).with_events(events.clone())), Some(events))
        }
        "none" => (Box::new(Sample), None),
        _ => return None,
    };
    let attester = Attester::new(cpu, gpus::source(tee != "none"), declared);
    Some(Order { attester, gives_key, proxy, events })
}

/// One line, on the guest's console.
fn say(line: &str) {
    says(&format!("coffer-attest: {line}"));
}

/// A line that begins with the program's name already, as [`Keys`] writes it.
fn says(line: &str) {
    eprintln!("{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_1_says_what_the_vm_is() {
        let of = |words: &str| order(&words.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let Order { attester, gives_key, proxy, events } = of("snp 2 0").unwrap();
        assert!(events.is_none() && of("tdx 0 0").unwrap().events.is_some());
        assert_eq!((attester.tee().name(), attester.additional_tees()), ("snp", vec!["nvidia"]));
        assert!(!gives_key && proxy.is_none());
        let Order { attester, gives_key, proxy, .. } =
            of("none 1 0 key proxy=http://192.0.2.7:3128").unwrap();
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
