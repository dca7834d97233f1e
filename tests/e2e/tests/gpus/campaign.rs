//! Thirty pods with GPUs, each with something that goes wrong at a moment of chance. Afterwards every GPU is free and well, or
//! in quarantine with the reason; and when an operator has looked, all of them go to one more pod.

use std::collections::BTreeSet;
use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::{BUSYBOX, Gpus, Machine, OrFail, Output, Random, Rig, Run, Victim, e2e_with_gpus, until};
use emulated_gpu::control::Request;
use emulated_gpu::{BootFault, Faults, IdentityFault, ReplyFault};
use tokio::time::sleep;

const PODS: usize = 30;
const GPUS: usize = 4;

/// Knobs of the firmware: confidential computing, and its debugging.
const COMPUTING: u16 = 8;
const DEBUGGING: u16 = 6;
/// Sub-message of a request that writes a knob.
const WRITE: u32 = 0x0d;

/// Moments of a pod, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Before,
    Assigned,
    /// A setting is written, but it may not be the last.
    Written,
    Reset,
    Verified,
    Spawned,
    Qmp,
    Agent,
    Running,
    /// The container has been running for a moment.
    Idle,
    /// The VM is gone; its GPUs are not free yet.
    Ending,
}

impl Moment {
    const ALL: [Self; 11] = [
        Self::Before,
        Self::Assigned,
        Self::Written,
        Self::Reset,
        Self::Verified,
        Self::Spawned,
        Self::Qmp,
        Self::Agent,
        Self::Running,
        Self::Idle,
        Self::Ending,
    ];

    /// Those at which Coffer is not in the middle of a request to a GPU's firmware.
    const WITHOUT_REQUESTS: [Self; 9] = [
        Self::Before,
        Self::Reset,
        Self::Verified,
        Self::Spawned,
        Self::Qmp,
        Self::Agent,
        Self::Running,
        Self::Idle,
        Self::Ending,
    ];

    /// What the log says then.
    const fn line(self) -> &'static str {
        match self {
            Self::Assigned => "GPU assigned",
            Self::Reset => "GPU: reset",
            Self::Verified => "GPUs are verified",
            Self::Spawned => "phase=spawned",
            Self::Qmp => "phase=qmp",
            Self::Agent => "phase=agent",
            Self::Running => "phase=running",
            Self::Ending => "VM stopped",
            Self::Before | Self::Written | Self::Idle => "",
        }
    }
}

/// What goes wrong.
#[derive(Debug, Clone)]
enum Trouble {
    Nothing,
    Fault(Faults),
    Ask(Request),
    Kill(Victim),
}

impl Trouble {
    /// That of a round: each of them once, and then any.
    fn of(round: usize, random: &mut Random) -> Self {
        let fault = |change: fn(&mut Faults)| {
            let mut faults = Faults::default();
            change(&mut faults);
            Self::Fault(faults)
        };
        let all = [
            Self::Nothing,
            fault(|f| f.boot = Some(BootFault::Never)),
            fault(|f| f.identity = Some(IdentityFault::Gone)),
            fault(|f| f.identity = Some(IdentityFault::AllOnes)),
            fault(|f| f.identity = Some(IdentityFault::SecurityFault)),
            fault(|f| f.identity = Some(IdentityFault::Recovery)),
            fault(|f| f.recovers = true),
            fault(|f| f.reply = Some(ReplyFault::Lost)),
            fault(|f| f.reply = Some(ReplyFault::Late(500))),
            fault(|f| f.reply = Some(ReplyFault::OtherType)),
            fault(|f| f.every_error = Some(0x202)),
            fault(|f| f.locked = [COMPUTING, DEBUGGING].into()),
            fault(|f| f.not_latched = true),
            fault(|f| f.mode_word = Some(2)),
            Self::Ask(Request::BusError),
            Self::Ask(Request::Reset),
            Self::Ask(Request::Sleep),
            Self::Ask(Request::StaleReply),
        ];
        if let Some(trouble) = all.get(round) {
            return trouble.clone();
        }
        // A kill is as likely as all that a GPU does.
        match random.below(4) {
            0 => Self::Kill(Victim::Qemu),
            1 => Self::Kill(Victim::Shim),
            _ => random.pick(&all).clone(),
        }
    }

    /// Whether the GPU does not come back from any reset.
    fn lasts(&self) -> bool {
        matches!(self, Self::Fault(faults) if faults.boot.is_some() || faults.identity.is_some() || faults.recovers)
    }

    /// Whether no reset makes new settings active.
    fn keeps_settings(&self) -> bool {
        matches!(self, Self::Fault(faults) if faults.not_latched)
    }

    fn strike(&self, gpus: &Gpus, index: usize) {
        match self {
            Self::Nothing => {}
            Self::Fault(faults) => {
                gpus.ask(index, &Request::SetFaults { faults: faults.clone() }).or_fail("faults");
            }
            // A bus error that nobody listens for yet is none.
            Self::Ask(request) => drop(gpus.ask(index, request)),
            Self::Kill(victim) => drop(victim.kill()),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Ask(request) => write!(f, "{request:?}"),
            Self::Kill(victim) => write!(f, "{victim:?} killed"),
            Self::Fault(faults) => {
                let (all, none) = (serde_json::json!(faults), serde_json::json!(Faults::default()));
                let set = all.as_object().into_iter().flatten().filter(|(key, value)| none[key] != **value);
                f.write_str(&set.map(|(key, value)| format!("{key} {value}")).collect::<Vec<_>>().join(", "))
            }
        }
    }
}

/// One pod of the campaign.
#[derive(Debug)]
struct Round {
    id: String,
    gpus: Vec<usize>,
    mode: &'static str,
    trouble: Trouble,
    moment: Moment,
}

impl Round {
    fn new(number: usize, random: &mut Random) -> Self {
        let trouble = Trouble::of(number, random);
        let first = usize::try_from(random.below(GPUS as u64)).or_fail("a GPU");
        // Several Hopper GPUs in one VM are allowed in mode off only.
        let (gpus, mode) = match random.below(4) {
            0 => (vec![first, (first + 1) % GPUS], "off"),
            _ => (vec![first], *random.pick(&["on", "devtools", "off"])),
        };
        let moments: &[Moment] = match trouble {
            // QEMU must be there, to be killed or to hear of it. And who resets a GPU, puts it to sleep, undoes its boot, locks its
            // knobs or leaves a reply while Coffer talks to its firmware makes what Coffer does next an offence in the emulator's eyes.
            Trouble::Kill(Victim::Qemu)
            | Trouble::Ask(Request::BusError | Request::Reset | Request::Sleep) => &Moment::ALL[5..10],
            Trouble::Fault(ref faults) if faults.boot.is_some() || !faults.locked.is_empty() => {
                &Moment::WITHOUT_REQUESTS
            }
            Trouble::Ask(Request::StaleReply) => &Moment::WITHOUT_REQUESTS,
            Trouble::Kill(_) => &Moment::ALL[1..],
            _ => &Moment::ALL,
        };
        Self { id: format!("campaign-{number}"), gpus, mode, trouble, moment: *random.pick(moments) }
    }

    /// The GPU that something happens to.
    fn struck(&self) -> usize {
        self.gpus[0]
    }

    /// Waits until the moment has come.
    async fn comes(&self, rig: &Rig<'_>, gpus: &Gpus, known: usize) {
        loop {
            let here = match self.moment {
                Moment::Before | Moment::Idle => true,
                Moment::Written => {
                    gpus.state(self.struck()).requests[known..].iter().any(|(word, _)| word & 0xff == WRITE)
                }
                moment => rig.log().contains(moment.line()),
            };
            if here {
                return;
            }
            sleep(Duration::from_millis(3)).await;
        }
    }

    /// Runs the pod to its end; tells how its start ended, and whether the trouble came.
    async fn run(&self, rig: &Rig<'_>, gpus: &Gpus) -> (Output, bool) {
        let known = gpus.state(self.struck()).requests.len();
        let config = rig
            .config()
            .set("cc_mode", "\"manage\"")
            .set("gpu_mode", &format!("{:?}", self.mode))
            .set("default_memory_mib", "256")
            .write(&self.id);
        let run = Run::new(&self.id, BUSYBOX, &["sleep", "100000"]).config(&config);
        let run = run.flag("--annotation").flag(&Gpus::annotation_of(&self.gpus));
        let strike = async {
            self.comes(rig, gpus, known).await;
            self.trouble.strike(gpus, self.struck());
        };
        let mut strike = Box::pin(strike);
        let mut came = false;
        let mut with_strike = async |work: &mut (dyn Future<Output = ()> + Unpin), may: bool| {
            if !came && may {
                tokio::select! {
                    () = &mut *work => return came,
                    () = &mut strike => came = true,
                }
            }
            work.await;
            came
        };
        let mut output = None;
        let mut start = Box::pin(async { output = Some(run.try_start().await) });
        with_strike(&mut start, self.moment < Moment::Idle).await;
        drop(start);
        let output = output.or_fail("ctr");
        let idle = async {
            if output.code == 0 {
                sleep(Duration::from_millis(100)).await;
            }
        };
        with_strike(&mut Box::pin(idle), self.moment == Moment::Idle && output.code == 0).await;
        let came = with_strike(&mut Box::pin(run.clear()), self.moment == Moment::Ending).await;
        (output, came)
    }
}

/// Whether its settings are a mode, and the one that it runs in.
fn settled(gpus: &Gpus, index: usize) -> bool {
    let state = gpus.state(index);
    let knob = |knob| state.knobs.get(&knob).is_some_and(|value| *value == 1);
    let settings = u32::from(knob(COMPUTING)) | u32::from(knob(DEBUGGING)) << 1;
    state.booted && state.dma_pieces == 0 && state.mode_word & 3 == settings && settings != 2
}

/// The operator mends a GPU, and lets it out of its quarantine.
fn mend(rig: &Rig<'_>, gpus: &Gpus, index: usize) {
    for request in [Request::SetFaults { faults: Faults::default() }, Request::PowerCycle] {
        gpus.ask(index, &request).or_fail("a mended GPU");
    }
    let mut coffer = Command::new(rig.artefacts.shim.with_file_name("coffer"));
    let address = Gpus::address(index).to_string();
    let output = coffer.args(["gpu", "release", &address]).output().or_fail("coffer gpu release");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(gpus.quarantined(index), None);
}

async fn round(round: &Round, rig: &mut Rig<'_>, gpus: &Gpus) {
    let begin = Instant::now();
    let before = Machine::now();
    rig.forget_log();
    let out: BTreeSet<usize> = (0..GPUS).filter(|gpu| gpus.quarantined(*gpu).is_some()).collect();
    let others: Vec<(usize, u64)> =
        (0..GPUS).filter(|gpu| !round.gpus.contains(gpu)).map(|gpu| (gpu, gpus.state(gpu).resets)).collect();
    let (output, came) = round.run(rig, gpus).await;

    Machine::back_to(&before).await;
    let mut ends = Vec::new();
    for index in round.gpus.iter().copied() {
        gpus.free(index).await;
        let quarantined = gpus.quarantined(index);
        ends.push(quarantined.as_ref().map_or_else(|| "free".to_owned(), |entry| entry.reason.clone()));
        match quarantined {
            Some(entry) => assert!(!entry.reason.is_empty() && !entry.sandbox.is_empty(), "{entry:?}"),
            None => {
                gpus.ask(index, &Request::SetFaults { faults: Faults::default() }).or_fail("faults");
                if round.trouble.keeps_settings() {
                    // It took them at no reset; it does at the next pod's.
                    gpus.ask(index, &Request::Reset).or_fail("a reset");
                }
                until(format!("GPU {index} to be well"), Duration::from_secs(5), async || {
                    settled(gpus, index).then_some(())
                })
                .await;
            }
        }
    }
    let said = output.stderr.trim().lines().next().unwrap_or("started").chars().take(200).collect::<String>();
    println!(
        "{} ({:.1} s): GPUs {:?} {}, {} {} {:?}: {said} -> {}",
        round.id,
        begin.elapsed().as_secs_f64(),
        round.gpus,
        round.mode,
        round.trouble,
        if came { "at" } else { "not reached:" },
        round.moment,
        ends.join("; ")
    );
    for (gpu, resets) in others {
        let same = (gpus.state(gpu).resets, gpus.quarantined(gpu).is_some());
        assert_eq!(same, (resets, out.contains(&gpu)), "GPU {gpu} is not of this pod");
    }
    if round.gpus.iter().any(|gpu| out.contains(gpu)) {
        // A killed shim has not always come to say why.
        let killed = came && matches!(round.trouble, Trouble::Kill(Victim::Shim));
        let words: &[&str] = if killed { &[] } else { &["is in quarantine", "coffer gpu release"] };
        output.failed_with(words);
        // It is refused before anybody looks at it.
        round.gpus.iter().filter(|gpu| out.contains(gpu)).for_each(|gpu| mend(rig, gpus, *gpu));
    } else if came && round.trouble.lasts() && round.moment < Moment::Ending {
        assert!(gpus.quarantined(round.struck()).is_some(), "a GPU that does not come back is free");
    }
}

#[test]
fn thirty_pods_with_troubles_leave_every_gpu_free_and_well_or_in_quarantine() {
    e2e_with_gpus(async |rig| {
        let mut random = Random::new();
        let gpus = Gpus::h100_like_vfio(GPUS);
        for number in 0..PODS {
            round(&Round::new(number, &mut random), rig, &gpus).await;
        }
        // None is stuck: when the operator has looked, all of them serve.
        for index in (0..GPUS).filter(|gpu| gpus.quarantined(*gpu).is_some()) {
            mend(rig, &gpus, index);
        }
        let last = Round {
            id: "after-all".to_owned(),
            gpus: (0..GPUS).collect(),
            mode: "off",
            trouble: Trouble::Nothing,
            moment: Moment::Idle,
        };
        let (output, _) = last.run(rig, &gpus).await;
        output.succeeded();
        for index in 0..GPUS {
            gpus.free(index).await;
            assert_eq!(gpus.quarantined(index), None);
            until(format!("GPU {index} to be well"), Duration::from_secs(5), async || {
                settled(&gpus, index).then_some(())
            })
            .await;
            assert_eq!(gpus.state(index).mode_word & 3, 0);
        }
    });
}
