//! Which settings make a mode, and in which order they are written.
//!
//! The order follows gpu-admin-tools (2025.11.21, and 2026.09 on Blackwell): devtools never stands without confidential
//! computing, so that an interruption at any write leaves settings that make a mode.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::chip::{Capability, DeviceId, Family};
use crate::error::PendingMode;
use crate::fsp::{Code, Error, Fsp};
use crate::knob::Knob;
use crate::{Cause, Mode};

/// One step towards a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Read, as the tool does; changes nothing.
    Look(Knob),
    /// Read, and write if it has another value: each write wears the InfoROM.
    Set(Knob, u16),
}

/// What the firmware knows of protected PCIe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ppcie {
    /// Older firmware, or Blackwell.
    Unknown,
    Off,
    On,
}

const DECOUPLED: u16 = 2;
/// What a setting is that is off, or that the firmware does not have.
const OFF: u16 = 0;

/// Whether the mode exists on this device at all.
pub(crate) fn supported(id: DeviceId, subsystem: u16, family: Family, mode: Mode) -> Result<(), Cause> {
    let unsupported = |reason| Err(Cause::Unsupported { mode, reason });
    if mode == Mode::Off {
        return Ok(());
    }
    match (family, mode, id.capability(subsystem)) {
        (Family::NvSwitch, Mode::On | Mode::Devtools, _) => {
            unsupported("an NVSwitch knows off and ppcie; its GPUs have the mode")
        }
        (Family::Blackwell1 | Family::Blackwell2 | Family::Rubin, Mode::Ppcie, _) => {
            unsupported("it is Hopper's; newer ones encrypt NVLink in mode on")
        }
        (_, _, Some(Capability::Firmware)) => {
            unsupported("the GPU is joined to its CPU, the system's firmware owns the mode")
        }
        (_, _, Some(Capability::NotOffered)) => {
            unsupported("NVIDIA does not offer confidential computing for this product")
        }
        (_, _, Some(Capability::Yes)) => Ok(()),
        (_, _, None) => Err(Cause::UnknownChip(id)),
    }
}

fn steps(family: Family, mode: Mode, ppcie: Ppcie) -> Vec<Step> {
    use Step::{Look, Set};
    let mut steps = Vec::new();
    let ppcie_known = ppcie != Ppcie::Unknown;
    let two_queues = matches!(family, Family::Hopper | Family::NvSwitch);
    let on_switch = family == Family::NvSwitch;
    if mode == Mode::Ppcie || on_switch {
        steps.push(Look(Knob::CCM));
        if mode == Mode::Ppcie {
            for knob in [Knob::FEATURE_2, Knob::FEATURE_4, Knob::CCD, Knob::CCM, Knob::FEATURE_34] {
                steps.push(Set(knob, 0));
            }
        }
        let decoupler = if mode == Mode::Ppcie && !on_switch { DECOUPLED } else { 0 };
        steps.push(Set(Knob::BAR0_DECOUPLER, decoupler));
        steps.push(Set(Knob::PPCIE, u16::from(mode == Mode::Ppcie)));
        return steps;
    }
    if ppcie_known {
        steps.push(Look(Knob::PPCIE));
    }
    let on = matches!(mode, Mode::On | Mode::Devtools);
    if on && two_queues {
        // Firmware from Blackwell on need not know them.
        steps.extend([Knob::FEATURE_2, Knob::FEATURE_4, Knob::FEATURE_34].map(|knob| Set(knob, 0)));
    }
    // The tool leaves protected PCIe alone when it switches confidential computing off. Our mode off means
    // that nothing is on.
    if ppcie_known && (on || ppcie == Ppcie::On) {
        steps.push(Set(Knob::PPCIE, 0));
    }
    if two_queues {
        steps.push(Set(Knob::BAR0_DECOUPLER, if mode == Mode::On { DECOUPLED } else { 0 }));
    }
    if on {
        steps.extend([Set(Knob::CCM, 1), Set(Knob::CCD, u16::from(mode == Mode::Devtools))]);
    } else {
        steps.extend([Set(Knob::CCD, 0), Set(Knob::CCM, 0)]);
    }
    steps
}

/// What is to be written to one GPU; made by reading, before anything is written to any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    mode: Mode,
    steps: Vec<Step>,
    changes: Vec<(Knob, u16)>,
}

impl Plan {
    /// Nothing to change: a chip whose settings are not known is left as it is.
    pub(crate) const fn nothing(mode: Mode) -> Self {
        Self { mode, steps: Vec::new(), changes: Vec::new() }
    }

    /// Reads what there is to change and whether the host may.
    pub(crate) async fn make(fsp: &mut Fsp<'_>, family: Family, mode: Mode) -> Result<Self, Cause> {
        let ppcie = ppcie(fsp, family).await?;
        if mode == Mode::Ppcie && ppcie == Ppcie::Unknown {
            return Err(Cause::Unsupported {
                mode,
                reason: "its firmware is too old for it (HGX firmware 1.7.0 is what it takes)",
            });
        }
        let steps = steps(family, mode, ppcie);
        let mut values = BTreeMap::new();
        if ppcie != Ppcie::Unknown {
            values.insert(Knob::PPCIE, Some(u16::from(ppcie == Ppcie::On)));
        }
        let mut changes = Vec::new();
        for step in &steps {
            let Step::Set(knob, wanted) = *step else { continue };
            let value = match values.entry(knob) {
                Entry::Occupied(value) => *value.get(),
                Entry::Vacant(value) => *value.insert(known(fsp.read_knob(knob).await)?),
            };
            match value {
                None if wanted != OFF => {
                    return Err(Cause::Unsupported {
                        mode,
                        reason: "its firmware lacks a setting that the mode needs; a newer VBIOS may have it",
                    });
                }
                value if value.unwrap_or(OFF) != wanted => changes.push((knob, wanted)),
                _ => {}
            }
        }
        permitted(fsp, &changes).await?;
        Ok(Self { mode, steps, changes })
    }

    /// The mode it leads to.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// What will be written, in order; empty when the settings are right already.
    #[must_use]
    pub fn changes(&self) -> &[(Knob, u16)] {
        &self.changes
    }

    /// Writes it. A knob that somebody has set right since then is not written.
    pub(crate) async fn apply(&self, fsp: &mut Fsp<'_>) -> Result<(), Error> {
        for step in &self.steps {
            match *step {
                Step::Look(knob) => drop(known(fsp.read_knob(knob).await)?),
                Step::Set(knob, value) => {
                    if known(fsp.read_knob(knob).await)?.unwrap_or(OFF) != value {
                        fsp.write_knob(knob, value).await?;
                    }
                }
            }
        }
        Ok(())
    }
}

async fn permitted(fsp: &mut Fsp<'_>, changes: &[(Knob, u16)]) -> Result<(), Cause> {
    let mut knobs = Vec::new();
    for (knob, _) in changes {
        // A firmware without the permission has no lock.
        if known(fsp.read_knob(knob.permission()).await)? == Some(0) {
            knobs.push(*knob);
        }
    }
    if knobs.is_empty() { Ok(()) } else { Err(Cause::Locked { knobs }) }
}

async fn ppcie(fsp: &mut Fsp<'_>, family: Family) -> Result<Ppcie, Error> {
    if !matches!(family, Family::Hopper | Family::NvSwitch) {
        return Ok(Ppcie::Unknown);
    }
    Ok(match known(fsp.read_knob(Knob::PPCIE).await)? {
        None => Ppcie::Unknown,
        Some(0) => Ppcie::Off,
        Some(_) => Ppcie::On,
    })
}

/// `None` for a knob that this firmware does not have.
fn known(value: Result<u16, Error>) -> Result<Option<u16>, Error> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(Error::Refused { code: Code::UnknownKnob, .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the settings make of the GPU at its next reset.
pub(crate) async fn pending(fsp: &mut Fsp<'_>, family: Family) -> Result<PendingMode, Error> {
    let ppcie = ppcie(fsp, family).await? == Ppcie::On;
    if family == Family::NvSwitch {
        return Ok(PendingMode::Mode(if ppcie { Mode::Ppcie } else { Mode::Off }));
    }
    let computing = known(fsp.read_knob(Knob::CCM).await)?.unwrap_or(OFF);
    let devtools = known(fsp.read_knob(Knob::CCD).await)?.unwrap_or(OFF);
    Ok(match (computing, devtools, ppcie) {
        (0, 0, false) => PendingMode::Mode(Mode::Off),
        (1, 0, false) => PendingMode::Mode(Mode::On),
        (1, 1, false) => PendingMode::Mode(Mode::Devtools),
        (0, 0, true) => PendingMode::Mode(Mode::Ppcie),
        _ => PendingMode::None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The payloads that the tool sends when every knob but `set` reads 0.
    fn payloads(family: Family, mode: Mode, ppcie: Ppcie, set: &[(Knob, u16)]) -> String {
        let mut values: BTreeMap<Knob, u16> = set.iter().copied().collect();
        let mut sent = Vec::new();
        for step in steps(family, mode, ppcie) {
            let (Step::Look(knob) | Step::Set(knob, _)) = step;
            sent.push(format!("{:04X}020C", knob.0));
            if let Step::Set(knob, value) = step
                && values.insert(knob, value).unwrap_or(0) != value
            {
                sent.push(format!("{:04X}020D+{value}", knob.0));
            }
        }
        sent.join(" ")
    }

    #[test]
    fn the_tools_order_on_hopper() {
        let sent = |mode| payloads(Family::Hopper, mode, Ppcie::Off, &[]);
        assert_eq!(
            sent(Mode::On),
            "002D020C 0002020C 0004020C 0022020C 002D020C 000A020C 000A020D+2 0008020C 0008020D+1 0006020C"
        );
        assert_eq!(
            sent(Mode::Devtools),
            "002D020C 0002020C 0004020C 0022020C 002D020C 000A020C 0008020C 0008020D+1 0006020C 0006020D+1"
        );
        assert_eq!(sent(Mode::Off), "002D020C 000A020C 0006020C 0008020C");
        assert_eq!(
            sent(Mode::Ppcie),
            "0008020C 0002020C 0004020C 0006020C 0008020C 0022020C 000A020C 000A020D+2 002D020C 002D020D+1"
        );
        let on = [(Knob::BAR0_DECOUPLER, 2), (Knob::CCM, 1)];
        assert_eq!(
            payloads(Family::Hopper, Mode::Off, Ppcie::Off, &on),
            "002D020C 000A020C 000A020D+0 0006020C 0008020C 0008020D+0"
        );
    }

    #[test]
    fn off_ends_protected_pcie_too() {
        let on = [(Knob::BAR0_DECOUPLER, 2), (Knob::PPCIE, 1)];
        assert_eq!(
            payloads(Family::Hopper, Mode::Off, Ppcie::On, &on),
            "002D020C 002D020C 002D020D+0 000A020C 000A020D+0 0006020C 0008020C"
        );
    }

    #[test]
    fn the_tools_order_on_the_switch() {
        assert_eq!(
            payloads(Family::NvSwitch, Mode::Ppcie, Ppcie::Off, &[]),
            "0008020C 0002020C 0004020C 0006020C 0008020C 0022020C 000A020C 002D020C 002D020D+1"
        );
    }

    #[test]
    fn the_tools_order_on_blackwell() {
        for family in [Family::Blackwell1, Family::Blackwell2, Family::Rubin] {
            let sent = |mode| payloads(family, mode, Ppcie::Unknown, &[]);
            assert_eq!(sent(Mode::On), "0008020C 0008020D+1 0006020C");
            assert_eq!(sent(Mode::Devtools), "0008020C 0008020D+1 0006020C 0006020D+1");
            assert_eq!(sent(Mode::Off), "0006020C 0008020C");
        }
    }

    #[test]
    fn devtools_never_stands_alone_at_any_interruption() {
        let modes = [Mode::Off, Mode::On, Mode::Devtools];
        for family in [Family::Hopper, Family::Blackwell1] {
            for (from, to) in modes.into_iter().flat_map(|from| modes.map(|to| (from, to))) {
                let mut ccm = u16::from(from != Mode::Off);
                let mut ccd = u16::from(from == Mode::Devtools);
                for step in steps(family, to, Ppcie::Unknown) {
                    match step {
                        Step::Set(Knob::CCM, value) => ccm = value,
                        Step::Set(Knob::CCD, value) => ccd = value,
                        _ => {}
                    }
                    assert!(ccd <= ccm, "{family:?} {from} to {to}");
                }
            }
        }
    }

    #[test]
    fn modes_that_a_device_does_not_have() {
        let check = |id, mode| {
            let id = DeviceId(id);
            supported(id, 0, crate::Chip::of(id).unwrap().family(), mode)
        };
        assert!(check(0x2330, Mode::Ppcie).is_ok());
        assert!(check(0x22a3, Mode::Ppcie).is_ok());
        assert!(check(0x3000, Mode::On).is_ok());
        for (id, mode) in [
            (0x22a3, Mode::On),
            (0x2901, Mode::Ppcie),
            (0x3000, Mode::Ppcie),
            // GH200, GB200: joined to their CPUs.
            (0x2342, Mode::On),
            (0x2941, Mode::Devtools),
            // GeForce.
            (0x2b85, Mode::On),
        ] {
            assert!(matches!(check(id, mode), Err(Cause::Unsupported { .. })), "{id:x} {mode}");
            assert!(check(id, Mode::Off).is_ok());
        }
    }
}
