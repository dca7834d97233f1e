//! The device: registers, timers, resets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::config_space::{ConfigSpace, Effect};
use crate::firmware::{self, Answer};
use crate::guest::{GuestMemory, Interrupts, VideoMemory};
use crate::knobs::{CONFLICTING, Knobs};
use crate::mailbox::Mailbox;
use crate::product::{Firewall, Transport};
use crate::queues::Queues;
use crate::{BootFault, Faults, IdentityFault, Product, ReplyFault, Violation};

mod registers;

/// So many requests and violations are kept; a guest could make them without end.
const LOG: usize = 10_000;

/// How long things take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From a reset until the firmware has booted.
    pub boot: Duration,
    /// From a reset until the firewall before BAR0 is down, where there is one. Part of the boot.
    pub firewall: Duration,
    /// From a request to its reply.
    pub reply: Duration,
}

impl Timing {
    /// As on hardware, as far as it is known: H100 boots in about 1.2 s (measured by users of cc-manager as
    /// 1.66 to 1.79 s with reset and verification); replies within 1 ms are a guess, no reading is published.
    pub const REAL: Self = Self {
        boot: Duration::from_millis(1_200),
        firewall: Duration::from_millis(300),
        reply: Duration::from_millis(1),
    };

    /// For tests that are not about time.
    pub const FAST: Self =
        Self { boot: Duration::from_millis(5), firewall: Duration::from_millis(2), reply: Duration::ZERO };
}

/// What can be seen from outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct State {
    /// What is played.
    pub product: Product,
    /// The mode's register, as the last reset has made it.
    pub mode_word: u32,
    /// All settings.
    pub knobs: BTreeMap<u16, u16>,
    /// How often it was reset, by whomever.
    pub resets: u64,
    /// Whether the firmware has booted.
    pub booted: bool,
    /// 0 for D0.
    pub power_state: u8,
    /// Pieces of memory that the VMM has mapped for DMA.
    pub dma_pieces: usize,
    /// Third word of every request to the firmware (sub-message, knob), and the fourth where there is one.
    pub requests: Vec<(u32, Option<u32>)>,
    /// What no well-behaved driver does.
    pub violations: Vec<Violation>,
    /// What is wrong with it.
    pub faults: Faults,
}

/// A message on its way to the host.
#[derive(Debug)]
struct Reply {
    due: Instant,
    /// For the queues.
    channel: usize,
    words: Vec<u32>,
}

/// Registers by which a test makes the device act. No GPU has these: a driver would have it act by work
/// queues, which are not played.
#[derive(Debug, Default)]
struct TestUnit {
    address: [u32; 2],
    data: u32,
    status: u32,
}

/// A GPU or NVSwitch.
#[derive(Debug)]
pub struct Device {
    product: Product,
    timing: Timing,
    config: ConfigSpace,
    knobs: Knobs,
    mode_word: u32,
    queues: Queues,
    mailbox: Mailbox,
    reply: Option<Reply>,
    scratch: BTreeMap<u32, u32>,
    reset_at: Instant,
    resets: u64,
    test: TestUnit,
    requests: Vec<(u32, Option<u32>)>,
    violations: Vec<Violation>,
    pub(crate) faults: Faults,
    pub(crate) memory: GuestMemory,
    pub(crate) interrupts: Interrupts,
    pub(crate) video: Option<VideoMemory>,
}

impl Device {
    /// As it comes from the factory, booting since `now`.
    ///
    /// # Errors
    /// Its memory cannot be made.
    pub fn new(product: Product, bars: [u64; 3], timing: Timing, now: Instant) -> std::io::Result<Self> {
        let knobs = Knobs::new(product);
        let video = (bars[1] != 0).then(|| VideoMemory::new(bars[1])).transpose()?;
        Ok(Self {
            product,
            timing,
            config: ConfigSpace::new(product, bars),
            mode_word: knobs.mode_word(product),
            knobs,
            queues: Queues::new(),
            mailbox: Mailbox::default(),
            reply: None,
            scratch: BTreeMap::new(),
            reset_at: now,
            resets: 0,
            test: TestUnit::default(),
            requests: Vec::new(),
            violations: Vec::new(),
            faults: Faults::default(),
            memory: GuestMemory::default(),
            interrupts: Interrupts::default(),
            video,
        })
    }

    /// What can be seen from outside.
    #[must_use]
    pub fn state(&self, now: Instant) -> State {
        State {
            product: self.product,
            mode_word: self.mode_word,
            knobs: self.knobs.all(),
            resets: self.resets,
            booted: self.booted(now),
            power_state: self.config.power_state(),
            dma_pieces: self.memory.pieces(),
            requests: self.requests.clone(),
            violations: self.violations.clone(),
            faults: self.faults.clone(),
        }
    }

    /// Resets the function: settings become the mode, the firmware boots anew.
    pub fn reset(&mut self, now: Instant) {
        self.resets += 1;
        if self.faults.boot == Some(BootFault::UntilReset) {
            self.faults.boot = None;
        }
        self.config.reset();
        self.queues = Queues::new();
        self.mailbox = Mailbox::default();
        self.reply = None;
        self.scratch.clear();
        self.test = TestUnit::default();
        self.reset_at = now;
        if let Some(video) = &self.video {
            // A scrub that fails would show as old content; nothing else can be done about it here.
            let _ = video.scrub();
        }
        if !self.faults.not_latched {
            self.mode_word = self.knobs.mode_word(self.product);
        }
        self.judge_settings();
    }

    fn judge_settings(&mut self) {
        let is_set = |knob| self.knobs.get(knob).is_some_and(|value| value != 0);
        let (computing, ppcie) = (is_set(crate::knobs::COMPUTING), is_set(crate::knobs::PPCIE));
        let conflict = CONFLICTING.into_iter().find(|knob| is_set(*knob));
        if computing && ppcie {
            self.violate(Violation::ModesAtOnce);
        }
        if let Some(knob) = conflict.filter(|_| computing || ppcie) {
            self.violate(Violation::ConflictingFeature { knob });
        }
    }

    /// Power off and on: also clears a lockdown.
    pub fn power_cycle(&mut self, now: Instant) {
        if self.faults.identity == Some(IdentityFault::SecurityFault) {
            self.faults.identity = None;
        }
        self.reset(now);
    }

    /// Puts it into D3hot, as the kernel does with an idle function.
    pub fn sleep(&mut self) {
        self.config.sleep();
    }

    /// Sets a setting behind everybody's back. Tells whether there is such a setting.
    pub fn set_knob(&mut self, knob: u16, value: u16) -> bool {
        self.knobs.set(knob, value)
    }

    /// Leaves a reply to nobody where the next user finds it.
    pub fn leave_stale_reply(&mut self) {
        let words = [0xc000_0000, 0x1510_de7e, 3, 0x13, 0, 0x5eed_0001];
        match self.product.transport() {
            Transport::Queues => self.queues.deliver(2, &words),
            Transport::Mailbox => self.mailbox.deliver(&words),
        }
    }

    /// Changes how long things take.
    pub fn set_timing(&mut self, timing: Timing) {
        self.timing = timing;
    }

    /// Forgets requests and violations seen so far.
    pub fn clear_log(&mut self) {
        self.requests.clear();
        self.violations.clear();
    }

    pub(crate) fn violate(&mut self, violation: Violation) {
        eprintln!("emulated-gpu: {:?}: violation: {violation}", self.product);
        if self.violations.len() < LOG {
            self.violations.push(violation);
        }
    }

    fn booted(&self, now: Instant) -> bool {
        !matches!(self.faults.boot, Some(BootFault::Never | BootFault::UntilReset))
            && now >= self.reset_at + self.timing.boot
    }

    fn firewall_up(&self, now: Instant) -> bool {
        self.product.firewall() != Firewall::None
            && (self.faults.firewall_stuck || now < self.reset_at + self.timing.firewall)
    }

    fn gone(&self) -> bool {
        self.faults.identity == Some(IdentityFault::Gone)
    }

    /// Reads configuration space; `data` must end inside.
    pub fn config_read(&mut self, now: Instant, at: usize, data: &mut [u8]) {
        if self.gone() {
            return data.fill(0xff);
        }
        let up = self.firewall_up(now);
        self.config.show_firewall(up);
        self.config.show_fault(self.faults.identity == Some(IdentityFault::SecurityFault));
        if self.faults.capabilities_hidden {
            self.config.read_hidden(at, data);
        } else {
            self.config.read(at, data);
        }
    }

    /// Writes configuration space; `data` must end inside.
    pub fn config_write(&mut self, now: Instant, at: usize, data: &[u8]) {
        if self.gone() {
            return;
        }
        match self.config.write(at, data, self.faults.stays_asleep) {
            Effect::None => {}
            Effect::FunctionLevelReset => self.reset(now),
        }
    }

    /// Takes what the firmware has been asked for.
    fn command(&mut self, now: Instant, channel: usize, packet: &[u32]) {
        if let Some(first) = packet.get(2).filter(|_| self.requests.len() < LOG) {
            self.requests.push((*first, packet.get(3).copied()));
        }
        let Answer { reply, violations } = firmware::answer(packet, &mut self.knobs, &self.faults);
        violations.into_iter().for_each(|violation| self.violate(violation));
        let late = match self.faults.reply {
            Some(ReplyFault::Lost) => {
                self.queues.forget(channel);
                self.mailbox.forget();
                return;
            }
            Some(ReplyFault::Late(millis)) => Duration::from_millis(millis),
            _ => Duration::ZERO,
        };
        self.reply = Some(Reply { due: now + self.timing.reply + late, channel, words: reply });
        self.deliver(now);
    }

    /// Hands out a reply whose time has come.
    fn deliver(&mut self, now: Instant) {
        if let Some(reply) = self.reply.take_if(|reply| reply.due <= now) {
            match self.product.transport() {
                Transport::Queues => self.queues.deliver(reply.channel, &reply.words),
                Transport::Mailbox => self.mailbox.deliver(&reply.words),
            }
        }
    }

    /// DMA from the device into the VM.
    ///
    /// # Errors
    /// There is no memory, or bus mastering is off.
    pub fn dma_write(&mut self, address: u64, data: &[u8]) -> std::io::Result<()> {
        self.may_master(address)?;
        self.memory.write(address, data)
    }

    /// DMA from the VM into the device.
    ///
    /// # Errors
    /// There is no memory, or bus mastering is off.
    pub fn dma_read(&mut self, address: u64, data: &mut [u8]) -> std::io::Result<()> {
        self.may_master(address)?;
        self.memory.read(address, data)
    }

    /// DMA from the VM, page by page: the lowest address of a page that begins with `data`.
    ///
    /// # Errors
    /// Bus mastering is off.
    pub fn dma_find(&mut self, data: &[u8]) -> std::io::Result<Option<u64>> {
        self.may_master(0)?;
        Ok(self.memory.find_page(data))
    }

    fn may_master(&mut self, address: u64) -> std::io::Result<()> {
        if self.config.bus_master() {
            return Ok(());
        }
        self.violate(Violation::DmaWithoutBusMaster { address });
        Err(std::io::ErrorKind::PermissionDenied.into())
    }
}

#[cfg(test)]
mod tests;
