//! BAR0.

use std::time::Instant;

use super::Device;
use crate::mailbox::Mailbox;
use crate::product::Transport;
use crate::queues::Queues;
use crate::{BootFault, IdentityFault, Violation};
use vfio_bindings::bindings::vfio::VFIO_PCI_MSIX_IRQ_INDEX;

const BOOT_0: u32 = 0x0;
const BOOT_42: u32 = 0xa00;
/// Number of rows of the device-information table: none.
const DEVICE_INFO: u32 = 0x2_24fc;
/// The firmware processor's configuration: ports, memory sizes in 256-byte blocks.
const PORTS: u32 = 0x8f_012c;
const FALCON: u32 = 0x8f_0278;
const EMEM_BLOCKS: u32 = 0x8f_0abc;
/// What the firmware leaves behind: two groups of four words.
const SCRATCH_2: u32 = 0x8f_0320;
const SCRATCH_3: u32 = 0x8f_0330;
/// Firmware version 4.76, in the second word of group 3.
const FIRMWARE_VERSION: u32 = 0x0000_044c;
/// What a failed boot has been seen to leave in the first and last word of group 2.
const FAILED: [(u32, u32); 2] = [(0x8f_0320, 0x9f), (0x8f_032c, 0x5)];
/// Scratch words that a function-level reset clears.
const SCRATCHES: [u32; 3] = [0x1458, 0x9_1288, 0xdfe0];
/// Registers by which NVIDIA's tool sets up the internal bus; what they read is not documented.
const BUS_SETUP: [u32; 2] = [0x12_004c, 0x12_2204];

/// The test unit: address low and high, data (writing it writes 4 bytes into the VM), a trigger that reads 4
/// bytes from the VM into data, status (1 done, 0xDEAD failed), a trigger of interrupts.
const TEST_ADDRESS: [u32; 2] = [0xff_f000, 0xff_f004];
const TEST_WRITE: u32 = 0xff_f008;
const TEST_STATUS: u32 = 0xff_f00c;
const TEST_READ: u32 = 0xff_f010;
const TEST_INTERRUPT: u32 = 0xff_f014;
const DONE: u32 = 1;
const FAILED_STATUS: u32 = 0xdead;

/// An answer of the internal bus: not there, or not for the host.
const BLOCKED: u32 = 0xbadf_4100;
const NOT_READY: u32 = 0xbadf_1100;
const LOCKED_DOWN: u32 = 0xbadf_0200;

impl Device {
    /// Reads a register; `offset` must be a multiple of 4 inside BAR0.
    pub fn read(&mut self, now: Instant, offset: u32) -> u32 {
        self.deliver(now);
        if !self.answers(now, offset) {
            return u32::MAX;
        }
        match self.faults.identity {
            Some(IdentityFault::SecurityFault) => return LOCKED_DOWN,
            Some(IdentityFault::Recovery) if offset == BOOT_0 => return 0,
            _ => {}
        }
        let product = self.product;
        match offset {
            BOOT_0 => product.boot_0(),
            BOOT_42 => product.boot_42(),
            DEVICE_INFO | PORTS | FALCON => 0,
            EMEM_BLOCKS => 0x20,
            SCRATCH_2..SCRATCH_3 | SCRATCH_3..=0x8f_033c => self.leftovers(offset),
            _ if offset == product.boot_register() => self.boot_state(now),
            _ if offset == product.mode_register() => self.mode(now),
            _ if offset == product.recovery_register() => self.recovery(),
            _ if Some(offset) == product.scrub_register() => {
                if self.mode_word & 1 == 1 {
                    BLOCKED
                } else {
                    u32::from(self.booted(now))
                }
            }
            _ if self.is_firmware(offset) => self.firmware_read(now, offset),
            _ if SCRATCHES.contains(&offset) => self.scratch.get(&offset).copied().unwrap_or(0),
            _ if BUS_SETUP.contains(&offset) => 0,
            TEST_WRITE => self.test.data,
            TEST_STATUS => self.test.status,
            // What else there is: with confidential computing the host sees none of it.
            _ if self.mode_word != 0 => BLOCKED,
            _ => 0,
        }
    }

    /// Writes a register; `offset` must be a multiple of 4 inside BAR0.
    pub fn write(&mut self, now: Instant, offset: u32, value: u32) {
        self.deliver(now);
        if !self.answers(now, offset) || self.faults.identity == Some(IdentityFault::SecurityFault) {
            return;
        }
        if self.is_firmware(offset) {
            return self.firmware_write(now, offset, value);
        }
        match offset {
            _ if SCRATCHES.contains(&offset) => _ = self.scratch.insert(offset, value),
            _ if offset == TEST_ADDRESS[0] => self.test.address[0] = value,
            _ if offset == TEST_ADDRESS[1] => self.test.address[1] = value,
            TEST_WRITE => {
                self.test.data = value;
                let done = self.dma_write(self.test_address(), &value.to_le_bytes());
                self.test.status = if done.is_ok() { DONE } else { FAILED_STATUS };
            }
            TEST_READ => {
                let mut word = [0; 4];
                let done = self.dma_read(self.test_address(), &mut word);
                self.test.data = u32::from_le_bytes(word);
                self.test.status = if done.is_ok() { DONE } else { FAILED_STATUS };
            }
            TEST_INTERRUPT => {
                let heard = self.interrupts.raise(VFIO_PCI_MSIX_IRQ_INDEX, value);
                self.test.status = if matches!(heard, Ok(true)) { DONE } else { FAILED_STATUS };
            }
            _ => {}
        }
    }

    fn test_address(&self) -> u64 {
        let [low, high] = self.test.address;
        u64::from(high) << 32 | u64::from(low)
    }

    /// Whether BAR0 answers at all.
    fn answers(&mut self, now: Instant, offset: u32) -> bool {
        if matches!(self.faults.identity, Some(IdentityFault::AllOnes | IdentityFault::Gone)) {
            return false;
        }
        if self.config.power_state() != 0 || !self.config.memory_space() {
            self.violate(Violation::NotAnswering { offset });
            return false;
        }
        !self.firewall_up(now)
    }

    fn boot_state(&self, now: Instant) -> u32 {
        if self.booted(now) {
            return 0xff;
        }
        // On Blackwell the unit that has the register comes up late: here half-way.
        let early = self.product.is_blackwell() && now < self.reset_at + self.timing.boot / 2;
        if early || self.faults.boot == Some(BootFault::Blocked) { NOT_READY } else { 0 }
    }

    fn mode(&self, now: Instant) -> u32 {
        // The firmware writes it while it boots.
        let latched = if self.booted(now) { self.mode_word } else { 0 };
        self.faults.mode_word.unwrap_or(latched) | self.faults.mode_extra
    }

    fn recovery(&self) -> u32 {
        match (self.faults.recovers, self.product.is_blackwell()) {
            (false, _) => 0,
            (true, false) => 1 << 30,
            (true, true) => 2,
        }
    }

    fn leftovers(&self, offset: u32) -> u32 {
        if offset == SCRATCH_3 + 4 {
            return if self.mode_word == 0 { FIRMWARE_VERSION } else { 0xbadf_5108 };
        }
        let failed = self.faults.boot == Some(BootFault::Never);
        FAILED.iter().find(|(at, _)| failed && *at == offset).map_or(0, |(_, value)| *value)
    }

    fn is_firmware(&self, offset: u32) -> bool {
        match self.product.transport() {
            Transport::Queues => Queues::has(offset),
            Transport::Mailbox => Mailbox::has(offset),
        }
    }

    fn firmware_read(&mut self, now: Instant, offset: u32) -> u32 {
        if !self.booted(now) {
            self.violate(Violation::BeforeBoot { offset });
            return NOT_READY;
        }
        let mut violations = Vec::new();
        let value = match self.product.transport() {
            Transport::Queues => self.queues.read(offset, &mut violations),
            Transport::Mailbox => self.mailbox.read(offset, self.faults.mailbox, &mut violations),
        };
        violations.into_iter().for_each(|violation| self.violate(violation));
        value
    }

    fn firmware_write(&mut self, now: Instant, offset: u32, value: u32) {
        if !self.booted(now) {
            return self.violate(Violation::BeforeBoot { offset });
        }
        let mut violations = Vec::new();
        let command = match self.product.transport() {
            Transport::Queues => self
                .queues
                .write(offset, value, &mut violations)
                .map(|command| (command.channel, command.packet)),
            Transport::Mailbox => self
                .mailbox
                .write(offset, value, self.faults.mailbox, &mut violations)
                .map(|packet| (0, packet)),
        };
        violations.into_iter().for_each(|violation| self.violate(violation));
        if let Some((channel, packet)) = command {
            self.command(now, channel, &packet);
        }
    }
}
