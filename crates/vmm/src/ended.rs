//! How a VM ended, in words that an operator can act on.

use serde_json::Value;
use shared_types::PciAddress;

use crate::diagnose::diagnose;
use crate::gate::PoweredOff;
use crate::lost::Loss;
use crate::qemu::Exit;
use crate::qmp::Event;

/// How many lines of each source go into an error message; the log has them all.
const QUOTED: usize = 6;

/// The last words of a VM: what QEMU and the guest said before the end.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LastWords {
    /// The last lines of QEMU's stderr.
    pub stderr: Vec<String>,
    /// The last lines of the guest's console.
    pub console: Vec<String>,
    /// The last lines of the guest's PID 1, which the console has as well where there is one.
    pub guest: Vec<String>,
    /// Why PID 1 powered off.
    pub powered_off: Option<PoweredOff>,
    /// What QEMU's monitor says of a guest that gave up.
    pub panic: Option<String>,
}

impl LastWords {
    /// Whether nobody said anything.
    pub fn is_empty(&self) -> bool {
        self.stderr.is_empty() && self.console.is_empty() && self.guest.is_empty() && self.panic.is_none()
    }

    /// The line with which the guest's kernel gave up; the trace of calls after it is longer than what is quoted.
    fn panic(&self) -> Option<&str> {
        let line = self.console.iter().rfind(|line| line.contains("Kernel panic"))?;
        line.find("Kernel panic").map(|start| &line[start..])
    }
}

/// What QMP said about the end before QEMU's exit was seen.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    pub(crate) cause: Option<Cause>,
    /// What the guest said in giving up.
    pub(crate) panic: Option<String>,
}

impl Signs {
    /// Keeps what an event says about the end.
    pub(crate) fn note(&mut self, event: &Event) {
        match event.event.as_str() {
            "GUEST_PANICKED" => {
                self.cause = Some(Cause::GuestPanicked);
                // A later event, of another device, has no text.
                self.panic = panic_text(event).or_else(|| self.panic.take());
            }
            "SHUTDOWN" if self.cause.is_none() && event.data["guest"] == true => {
                self.cause = Some(Cause::GuestShutDown);
            }
            _ => {}
        }
    }
}

/// What a `GUEST_PANICKED` event says besides (`qapi/run-state.json`, `GuestPanicInformation`). A trust domain whose
/// firmware or kernel gives up has no console: up to 64 bytes of text in this event are all its words.
fn panic_text(event: &Event) -> Option<String> {
    let info = event.data.get("info")?;
    let code = info.get("error-code").and_then(Value::as_u64);
    let message: String =
        info.get("message")?.as_str()?.chars().filter(|c| !c.is_control()).take(64).collect();
    Some(format!("the guest gave up with code {:#x}: {message:?}", code.unwrap_or_default()))
}

/// One clause per source, all on one line: containerd makes a pod event of it.
impl std::fmt::Display for LastWords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(meaning) = diagnose(&self.console, &self.stderr) {
            write!(f, "; {meaning}")?;
        }
        if let Some(why) = &self.powered_off {
            write!(f, "; {why}")?;
        }
        if let Some(panic) = &self.panic {
            write!(f, "; {panic}")?;
        }
        if let Some(panic) = self.panic() {
            write!(f, "; the guest's kernel said: {panic}")?;
        }
        let guest = match self.console.is_empty() {
            true => ("the guest's last lines", &self.guest),
            false => ("the guest console's last lines", &self.console),
        };
        for (name, lines) in [("QEMU said", &self.stderr), guest] {
            if !lines.is_empty() {
                let quoted = &lines[lines.len().saturating_sub(QUOTED)..];
                write!(f, "; {name}: {}", quoted.join(" | "))?;
            }
        }
        Ok(())
    }
}

/// Why a VM is no longer there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// Whether Coffer stopped it; everything else is a failure.
    pub cause: Cause,
    /// QEMU's exit.
    pub exit: Exit,
    /// What was said last.
    pub last_words: LastWords,
}

/// What ended a VM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Coffer was asked to stop it.
    Stopped,
    /// The guest's kernel panicked.
    GuestPanicked,
    /// The agent's connection ended, and the VM went on without it.
    AgentLost,
    /// The guest powered itself off or reset.
    GuestShutDown,
    /// A GPU was lost, and the VM ended for it.
    DeviceLost(PciAddress, Loss),
    /// QEMU went away by itself or was killed.
    QemuDied,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.cause {
            Cause::Stopped => write!(f, "the VM was stopped"),
            Cause::GuestPanicked => write!(f, "the guest's kernel panicked{}", self.last_words),
            Cause::AgentLost => {
                write!(
                    f,
                    "the connection to the guest's agent was lost, and the VM ended for it{}",
                    self.last_words
                )
            }
            Cause::GuestShutDown => write!(f, "the guest shut itself down{}", self.last_words),
            Cause::DeviceLost(address, loss) => {
                write!(f, "GPU {address} {loss}; the VM ended for it{}", self.last_words)
            }
            Cause::QemuDied => write!(f, "QEMU ended with {}{}", self.exit, self.last_words),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_qemu_is_told_on_one_line_with_its_causes() {
        let ended = Ended {
            cause: Cause::QemuDied,
            exit: Exit::Unknown("x".to_owned()),
            last_words: LastWords {
                stderr: vec!["qemu: boom".to_owned()],
                console: (0..9).map(|n| format!("line {n}")).collect(),
                guest: vec!["line 8".to_owned()],
                ..LastWords::default()
            },
        };
        let text = ended.to_string();
        assert_eq!(
            text,
            "QEMU ended with unknown status: x; QEMU said: qemu: boom; the guest console's last lines: \
             line 3 | line 4 | line 5 | line 6 | line 7 | line 8"
        );
    }

    #[test]
    fn a_panic_is_told_though_its_trace_is_longer_than_the_quote() {
        let trace = (0..20).map(|n| format!("[ 2.2] ? call_{n}"));
        let console = std::iter::once("[ 2.1] Kernel panic - not syncing: no memory".to_owned()).chain(trace);
        let last_words = LastWords { console: console.collect(), ..LastWords::default() };
        let exit = Exit::Unknown(String::new());
        let text = Ended { cause: Cause::GuestPanicked, exit, last_words }.to_string();
        assert!(
            text.contains("; the guest's kernel said: Kernel panic - not syncing: no memory; "),
            "{text}"
        );
    }

    #[test]
    fn a_guest_without_a_console_is_heard_all_the_same() {
        let last_words = LastWords {
            guest: vec!["starting".to_owned(), "fatal: no policy; powering off".to_owned()],
            powered_off: Some(PoweredOff::Refused("no policy".to_owned())),
            ..LastWords::default()
        };
        assert!(!last_words.is_empty());
        let exit = Exit::Unknown(String::new());
        let text = Ended { cause: Cause::GuestShutDown, exit, last_words }.to_string();
        assert_eq!(
            text,
            "the guest shut itself down; the guest refused to go on: no policy; the guest's last lines: starting | \
             fatal: no policy; powering off"
        );
    }

    /// After days, for lack of memory: no word of what may be wrong at a start.
    #[test]
    fn an_agent_that_was_killed_is_told_as_that() {
        let last_words = LastWords {
            powered_off: Some(PoweredOff::AgentEnded("was killed by SIGKILL".to_owned())),
            ..LastWords::default()
        };
        let exit = Exit::Unknown(String::new());
        let text = Ended { cause: Cause::GuestShutDown, exit, last_words }.to_string();
        assert_eq!(
            text,
            "the guest shut itself down; its agent was killed by SIGKILL, and the VM ended for it"
        );
    }

    #[test]
    fn a_stop_that_was_asked_for_is_not_dressed_as_a_failure() {
        let ended = Ended {
            cause: Cause::Stopped,
            exit: Exit::Unknown(String::new()),
            last_words: LastWords { stderr: vec!["terminating".to_owned()], ..LastWords::default() },
        };
        assert_eq!(ended.to_string(), "the VM was stopped");
    }

    #[test]
    fn what_a_trust_domain_says_last_is_told_without_its_control_characters() {
        let event = |info: serde_json::Value| Event {
            event: "GUEST_PANICKED".to_owned(),
            data: serde_json::json!({ "action": "poweroff", "info": info }),
        };
        let info = serde_json::json!({ "type": "tdx", "error-code": 3, "message": "TD misconfiguration\u{1b}: SEPT #VE" });
        let text = panic_text(&event(info)).unwrap();
        assert_eq!(text, "the guest gave up with code 0x3: \"TD misconfiguration: SEPT #VE\"");
        assert_eq!(panic_text(&event(serde_json::json!({ "type": "hyper-v" }))), None);
        let words = LastWords { panic: Some(text), ..LastWords::default() };
        assert!(!words.is_empty() && words.to_string().contains("TD misconfiguration"));
    }
}
