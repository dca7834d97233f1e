//! The first process of a sandbox: it keeps the pod's namespaces, reaps the orphans of a shared process namespace, and
//! ends when it is asked to.

use std::process::ExitCode;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

fn main() -> ExitCode {
    let signals: SigSet = [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
    // Blocked before anything can be sent: a first process gets no signal that it neither handles nor waits for.
    let Ok(arriving) = signals.thread_block().and_then(|()| SignalFd::new(&signals)) else {
        return ExitCode::FAILURE;
    };
    loop {
        match arriving.read_signal() {
            Ok(Some(signal)) if signal.ssi_signo == libc::SIGCHLD.cast_unsigned() => {
                reap(|| waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)));
            }
            Ok(Some(_)) => return ExitCode::SUCCESS,
            Ok(None) | Err(Errno::EINTR) => {}
            Err(_) => return ExitCode::FAILURE,
        }
    }
}

/// Takes the ends of children until there is none.
fn reap(mut next: impl FnMut() -> Result<WaitStatus, Errno>) {
    // EINVAL: one died of a real-time signal, for which nix has no name; it is reaped all the same.
    while !matches!(next(), Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD)) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_child_that_ended_is_reaped() {
        let mut ends = vec![
            Ok(WaitStatus::Exited(Pid::from_raw(2), 0)),
            Err(Errno::EINVAL),
            Ok(WaitStatus::Exited(Pid::from_raw(3), 1)),
            Ok(WaitStatus::StillAlive),
            Err(Errno::EIO),
        ]
        .into_iter();
        reap(|| ends.next().unwrap());
        assert_eq!(ends.next(), Some(Err(Errno::EIO)));
        reap(|| Err(Errno::ECHILD));
    }
}
