use super::*;
use crate::DeviceId;

const H100: u16 = 0x2330;
const B200: u16 = 0x2901;
const RTX: u16 = 0x2bb5;
const RUBIN: u16 = 0x3000;
const A100: u16 = 0x20b0;
const SWITCH: u16 = 0x22a3;

/// So many of each, in a mode, at addresses of their own.
fn set(parts: &[(usize, u16, Mode)]) -> Vec<Assignable> {
    let devices =
        parts.iter().flat_map(|(count, id, mode)| std::iter::repeat_n((DeviceId(*id), *mode), *count));
    let at = |bus: usize| format!("0000:{bus:02x}:00.0").parse().unwrap();
    devices.enumerate().map(|(bus, (id, mode))| Assignable::for_test(at(bus), id, mode)).collect()
}

#[test]
fn sets_that_can_be() {
    for parts in [
        &[(1, H100, Mode::On)][..],
        &[(1, H100, Mode::Devtools)],
        &[(8, H100, Mode::Ppcie), (4, SWITCH, Mode::Ppcie)],
        &[(2, H100, Mode::Off)],
        &[(8, H100, Mode::Off), (4, SWITCH, Mode::Off)],
        &[(8, B200, Mode::On)],
        &[(2, B200, Mode::On)],
        &[(4, B200, Mode::Devtools)],
        &[(3, B200, Mode::Off)],
        &[(8, RUBIN, Mode::On)],
        &[(3, A100, Mode::Off)],
        &[(1, RTX, Mode::On)],
    ] {
        assert_eq!(one_vm(&set(parts)), Ok(parts[0].2), "{parts:?}");
    }
}

#[test]
fn sets_that_cannot_be() {
    let error = |parts: &[(usize, u16, Mode)]| one_vm(&set(parts)).unwrap_err();
    assert_eq!(error(&[]), BadSet::Empty);
    assert_eq!(error(&[(4, SWITCH, Mode::Off)]), BadSet::Empty);
    assert!(matches!(error(&[(1, B200, Mode::On), (1, B200, Mode::Off)]), BadSet::MixedModes { .. }));
    assert!(matches!(error(&[(2, H100, Mode::On)]), BadSet::Several { gpus: 2, .. }));
    assert!(matches!(error(&[(2, RTX, Mode::On)]), BadSet::Several { .. }));
    for gpus in [3, 5, 6, 7, 9, 16] {
        let several = error(&[(gpus, B200, Mode::On)]);
        assert!(several.to_string().contains("1, 2, 4 or 8"), "{several}");
        assert!(matches!(error(&[(gpus, RUBIN, Mode::Devtools)]), BadSet::Several { .. }));
    }
    assert!(matches!(error(&[(1, A100, Mode::On)]), BadSet::UnknownChip { mode: Mode::On, .. }));
    assert!(matches!(error(&[(1, B200, Mode::On), (1, A100, Mode::On)]), BadSet::UnknownChip { .. }));
    assert!(matches!(error(&[(1, H100, Mode::On), (1, B200, Mode::On)]), BadSet::MixedChips { .. }));
    assert!(matches!(
        error(&[(8, H100, Mode::Ppcie), (3, SWITCH, Mode::Ppcie)]),
        BadSet::NoBoard { gpus: 8, switches: 3 }
    ));
    assert!(matches!(
        error(&[(7, H100, Mode::Ppcie), (4, SWITCH, Mode::Ppcie)]),
        BadSet::NoBoard { gpus: 7, switches: 4 }
    ));
    assert!(matches!(error(&[(1, H100, Mode::Ppcie)]), BadSet::NoBoard { gpus: 1, switches: 0 }));
    let mut twice = set(&[(2, B200, Mode::On)]);
    twice[1] = twice[0].clone();
    assert!(matches!(one_vm(&twice), Err(BadSet::Twice(_))));
}
