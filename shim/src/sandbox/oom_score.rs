//! Whom the node's kernel ends first when the node's memory runs out.
//!
//! kubelet gives each container a score, which its processes have under runc. In a pod VM these are the guest's; on the node
//! QEMU has the pod's memory. It would keep the engine's own score, by which it is one of the last.

use std::fs;
use std::io;
use std::sync::{Mutex, PoisonError};

/// The score of a VM: the lowest that its pod's containers have had.
#[derive(Debug, Default)]
pub struct OomScore(Mutex<Option<i32>>);

impl OomScore {
    /// Gives the VM, whose QEMU has this process id, the score of a container if that is the first or the lowest so far.
    ///
    /// # Errors
    /// The kernel does not take it.
    pub fn lower(&self, qemu: u32, score: i32) -> io::Result<()> {
        let mut lowest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lowest.is_some_and(|lowest| lowest <= score) {
            return Ok(());
        }
        fs::write(format!("/proc/{qemu}/oom_score_adj"), score.to_string())?;
        *lowest = Some(score);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_vm_has_the_lowest_score_of_its_containers() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (vm, pid) = (OomScore::default(), child.id());
        let scores = [1000, 998, 999].map(|score| {
            vm.lower(pid, score).unwrap();
            fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap()
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(scores, ["1000\n", "998\n", "998\n"]);
        assert!(OomScore::default().lower(pid, 1000).is_err(), "nobody is there");
    }
}
