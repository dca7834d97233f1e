//! The service that signs quotes for TDX guests, where the node's configuration has it.
//!
//! QEMU asks it only when a guest wants a quote, so that without this check a guest runs that can prove nothing.

use std::io::{Error, ErrorKind};

use nix::libc::ENODEV;
use vmm_config::config::{QuoteAddress, QuoteService};

use crate::check::{Fault, Finding};
use crate::connect::Service;
use crate::host::Host;

/// Where Intel's service has its settings.
const SETTINGS: &str = "/etc/qgs.conf";

pub(super) fn answers(host: &Host<'_>) -> Finding {
    match &host.config().quote_service {
        QuoteService::None => Finding::warning(
            Fault::Setup,
            "quote_service is \"none\": guests cannot prove what they are",
            "set `quote_service` in the node's configuration to where qgsd listens",
        ),
        QuoteService::At(QuoteAddress::Unix(path)) => {
            match host.probe.connect(Service::Unix(&host.root.path(path.as_path()))) {
                Ok(()) => Finding::Ok(format!("{path} answers")),
                Err(error) => unix(host, path.as_str(), &error),
            }
        }
        &QuoteService::At(QuoteAddress::Vsock { cid, port }) => {
            match host.probe.connect(Service::Vsock { cid, port }) {
                Ok(()) => Finding::Ok(format!("vsock port {port} of CID {cid} answers")),
                Err(error) => vsock(host, cid, port, &error),
            }
        }
    }
}

fn unix(host: &Host<'_>, path: &str, error: &Error) -> Finding {
    let (evidence, fix) = match (error.kind(), port(host)) {
        (ErrorKind::NotFound, Some(port)) => (
            format!("{path} does not exist, and {SETTINGS} puts qgsd on vsock port {port}"),
            format!("set quote_service = \"vsock:2:{port}\" in the node's configuration"),
        ),
        (ErrorKind::NotFound, None) => (
            format!("{path} does not exist: guests would get no quotes"),
            "install and start Intel's qgsd (package tdx-qgs), or set `quote_service` to where it listens"
                .to_owned(),
        ),
        (ErrorKind::WouldBlock, _) => (
            format!("{path} takes no more connections: qgsd hangs or is overloaded"),
            "restart it: systemctl restart qgsd".to_owned(),
        ),
        _ => (format!("{path} does not answer: {error}"), "start it: systemctl start qgsd".to_owned()),
    };
    Finding::failed(Fault::Setup, evidence, fix)
}

fn vsock(host: &Host<'_>, cid: u32, port: u32, error: &Error) -> Finding {
    let evidence = format!("vsock port {port} of CID {cid} does not answer: {error}");
    let fix = match self::port(host) {
        // Between two programs of one host, the kernel carries vsock by this module.
        _ if error.raw_os_error() == Some(ENODEV) => "modprobe vsock_loopback".to_owned(),
        Some(other) if other != port.to_string() => {
            format!("{SETTINGS} has port = {other}: set quote_service = \"vsock:2:{other}\"")
        }
        Some(_) => "start it: systemctl start qgsd".to_owned(),
        None => {
            format!("start qgsd with port = {port} in {SETTINGS}, or set `quote_service` to its unix socket")
        }
    };
    Finding::failed(Fault::Setup, evidence, fix)
}

/// The vsock port in the settings of Intel's service; without one it has a unix socket.
fn port(host: &Host<'_>) -> Option<String> {
    let settings = host.root.text(SETTINGS).ok().flatten()?;
    let port =
        settings.lines().find_map(|line| line.trim().strip_prefix("port")?.trim().strip_prefix('='))?;
    Some(port.trim().to_owned())
}
