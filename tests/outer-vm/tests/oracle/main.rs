//! NVIDIA's own tool, unmodified, and crate `gpu` on the same devices: what one sets, the other one reads.
//!
//! Their way is sysfs, as the tool does it by itself. Ours are all three: sysfs, VFIO by iommufd and VFIO by group, each
//! over the real kernel.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod ours;
mod tool;

use std::sync::{Mutex, MutexGuard, PoisonError};

use emulated_gpu::control::Request;
use gpu::Mode;
use gpu::registers::ResetKind;
use outer_vm::{Product, Slot};

use ours::{WAYS, Way};

/// The devices are everybody's: one test at a time. They boot quicker than real ones: the tool waits for one after the
/// other, more than a hundred times in all.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for slot in [chips().concat(), board()].concat() {
        slot.emulator().unwrap().ask(&Request::SetTiming { boot: 100, firewall: 100, reply: 1 }).unwrap();
    }
    turn
}

/// One GPU of each product, by their chips: told of several chips at once, the tool takes the registers of the one that
/// it saw last for those of all.
fn chips() -> [Vec<Slot>; 3] {
    let one = |product| Slot::of(product)[0];
    [vec![one(Product::H100), one(Product::H200)], vec![one(Product::B200)], vec![one(Product::RtxPro6000)]]
}

/// The 8 GPUs and 4 switches of a board.
fn board() -> Vec<Slot> {
    [Slot::of(Product::H100), Slot::of(Product::Nvswitch)].concat()
}

const MODES: [Mode; 3] = [Mode::On, Mode::Devtools, Mode::Off];

#[test]
fn the_tool_is_what_it_says() {
    let _turn = turn();
    let version = tool::version();
    println!("oracle: {version}");
    assert!(version.contains("2025.11.21"), "{version}");
}

#[test]
fn what_they_set_we_read_each_way() {
    let _turn = turn();
    for (slots, mode) in chips().iter().flat_map(|slots| MODES.map(|mode| (slots, mode))) {
        tool::set(slots, mode);
        for (slot, way) in slots.iter().flat_map(|slot| WAYS.map(|way| (*slot, way))) {
            assert_eq!(ours::read(slot, way), mode, "{slot:?} {way:?}");
        }
    }
}

#[test]
fn what_we_set_each_way_they_read() {
    let _turn = turn();
    for (turned, slots) in chips().iter().enumerate() {
        // Every mode on every chip, and every way with every mode.
        for (way, mode) in WAYS.into_iter().cycle().skip(turned).zip(MODES) {
            ours::set(slots, way, mode);
            let theirs = tool::modes(slots);
            assert_eq!(theirs, vec![mode.to_string(); slots.len()], "{way:?}");
        }
    }
}

#[test]
fn a_whole_board_in_protected_pcie_both_ways() {
    let _turn = turn();
    let board = board();
    tool::set_ppcie(&board, "on");
    for slot in &board {
        assert_eq!(ours::read(*slot, Way::Sysfs), Mode::Ppcie, "{slot:?}");
    }
    ours::set(&board, Way::Iommufd, Mode::Off);
    assert_eq!(tool::ppcie_modes(&board), vec!["off"; board.len()]);
    ours::set(&board, Way::Group, Mode::Ppcie);
    assert_eq!(tool::ppcie_modes(&board), vec!["on"; board.len()]);
    tool::set_ppcie(&board, "off");
    for slot in &board {
        assert_eq!(ours::read(*slot, Way::Sysfs), Mode::Off, "{slot:?}");
    }
}

#[test]
fn every_reset_reaches_the_device_once() {
    let _turn = turn();
    for slot in chips().concat() {
        for way in WAYS {
            for kind in [ResetKind::Function, ResetKind::Bus] {
                let resets = ours::resets_made(slot, way, kind);
                assert_eq!(resets, 1, "{slot:?} {way:?} {kind:?}");
            }
        }
    }
}
