//! Which mode the GPUs must be in, and bringing them there.

use futures_util::future::join_all;
use gpu::chip::{Chip, Family};
use gpu::owner::{Ownership, ownership};
use gpu::sysfs::Function;
use gpu::{Gpu, Mode, ModePolicy, Unverified, Verified, set};
use slog::{Logger, info};
use tokio::time::Instant;
use vmm_config::config::{AutoOr, NodeConfig, Tee};

use super::release::ms;
use super::{DevicesError, GpuHost};

/// The mode that the configuration asks for.
pub(super) fn wanted(config: &NodeConfig, functions: &[Function]) -> Mode {
    match config.gpu_mode {
        AutoOr::Is(mode) => mode,
        // The driver in a guest that is not confidential refuses a GPU that is.
        AutoOr::Auto if config.tee == Tee::None => Mode::Off,
        AutoOr::Auto => confidential(functions),
    }
}

/// Several Hopper GPUs can only be a whole board. Whether they are one is checked with the set.
fn confidential(functions: &[Function]) -> Mode {
    let families: Vec<_> = functions.iter().filter_map(|f| f.chip).map(Chip::family).collect();
    let hopper = families.iter().filter(|family| **family == Family::Hopper).count();
    let switches = families.contains(&Family::NvSwitch);
    if hopper > 1 || switches { Mode::Ppcie } else { Mode::On }
}

/// Sets the mode where it is ours to set, resets, and verifies: all GPUs at once.
pub(super) async fn prepare(
    gpus: Vec<Gpu<Unverified>>,
    mode: Mode,
    config: &NodeConfig,
    host: &GpuHost,
    log: &Logger,
) -> Result<Vec<Gpu<Verified>>, DevicesError> {
    let mut gpus = gpus;
    match ownership(config.cc_mode, &host.cc_manager) {
        Ownership::Manage => {
            if differ(&mut gpus, mode).await {
                info!(log, "GPUs are set to another mode"; "mode" => %mode);
                // That ends with a reset and reading the mode again.
                return Ok(set::switch(gpus, mode).await?);
            }
        }
        Ownership::VerifyOnly => {
            // Before the reset, which would make settings active that somebody else has only just written.
            let owner = match config.cc_mode {
                ModePolicy::Manage => {
                    "NVIDIA's cc-manager owns it here: set the node's label nvidia.com/cc.mode"
                }
                ModePolicy::Verify => {
                    "cc_mode = \"verify\": set it with `coffer gpu cc-mode`, or set cc_mode = \"manage\""
                }
            };
            let verified = set::verify(gpus, mode).await;
            let verified = verified.map_err(|source| DevicesError::NotOurs { owner, source })?;
            return Ok(read(set::reset(verified).await?, mode, log).await?);
        }
    }
    Ok(read(set::reset(gpus).await?, mode, log).await?)
}

/// Verifies all, and says how long that took.
async fn read(
    gpus: Vec<Gpu<Unverified>>,
    mode: Mode,
    log: &Logger,
) -> Result<Vec<Gpu<Verified>>, set::Error> {
    let (start, count) = (Instant::now(), gpus.len());
    let verified = set::verify(gpus, mode).await;
    info!(log, "GPUs' modes are read"; "gpus" => count, "ms" => ms(start));
    verified
}

/// Whether any is not in the mode, or will not be after its next reset. One that cannot tell counts.
async fn differ(gpus: &mut [Gpu<Unverified>], mode: Mode) -> bool {
    let looks = gpus.iter_mut().map(async |gpu| {
        let active = gpu.query().await.is_ok_and(|active| active.mode == mode);
        let pending = gpu.pending().await.is_ok_and(|pending| pending == gpu::PendingMode::Mode(mode));
        !(active && pending)
    });
    join_all(looks).await.contains(&true)
}

#[cfg(test)]
mod tests {
    use gpu::DeviceId;
    use gpu::Kind;

    use super::*;

    fn function(device: u16) -> Function {
        let id = DeviceId(device);
        Function {
            address: "0000:41:00.0".parse().unwrap(),
            path: "/nonexistent".into(),
            kind: Kind::Gpu,
            id,
            chip: Chip::of(id),
            subsystem: 0,
            class: 0x03_0200,
            driver: None,
            group: None,
            vfio_device: None,
            bars: vec![],
            numa_node: None,
            reset_methods: vec![],
        }
    }

    #[test]
    fn the_mode_follows_the_vm_unless_it_is_configured() {
        let config = |tee, gpu_mode| NodeConfig { tee, gpu_mode, ..NodeConfig::default() };
        let (h100, b200, switch) = (function(0x2330), function(0x2901), function(0x22a3));
        let auto = |tee, functions: &[&Function]| {
            let functions: Vec<_> = functions.iter().copied().cloned().collect();
            wanted(&config(tee, AutoOr::Auto), &functions)
        };
        assert_eq!(auto(Tee::None, &[&h100]), Mode::Off);
        assert_eq!(auto(Tee::Tdx, &[&h100]), Mode::On);
        assert_eq!(auto(Tee::Snp, &[&h100, &h100]), Mode::Ppcie);
        assert_eq!(auto(Tee::Auto, &[&h100, &switch]), Mode::Ppcie);
        assert_eq!(auto(Tee::Tdx, &[&b200, &b200]), Mode::On);
        assert_eq!(wanted(&config(Tee::None, AutoOr::Is(Mode::Devtools)), &[h100]), Mode::Devtools);
    }
}
