//! A PID namespace for one program, whose parent stays the caller.

use std::fs::File;

use nix::sched::{CloneFlags, setns, unshare};

use crate::Error;

/// Has the first process that `start` starts be the first one of a PID namespace. It sees no other process and has a parent
/// outside: whoever starts it, which it follows into its end. With it end all that it has started.
///
/// Nothing else may be started by this thread meanwhile.
///
/// # Errors
/// [`Error::Step`]: there are no such namespaces, or we may not make them.
pub fn apart<T>(start: impl FnOnce() -> T) -> Result<T, Error> {
    const STEP: &str = "make a PID namespace for a jailed program";
    let own = File::open("/proc/thread-self/ns/pid").map_err(|source| Error::Step { step: STEP, source })?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(Error::step(STEP))?;
    let started = start();
    setns(own, CloneFlags::CLONE_NEWPID).map_err(Error::step("leave a jailed program's PID namespace"))?;
    Ok(started)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn it_is_process_1_ends_with_all_its_own_and_the_next_one_is_not_there() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let shell = |script: &str| {
            let mut command = Command::new("/bin/sh");
            command.args(["-c", script]).stdout(Stdio::piped());
            command
        };
        // A child that outlived it would keep the pipe open for a long time.
        let child = apart(|| shell("sleep 1000 & echo $$").spawn()).unwrap().unwrap();
        assert_eq!(child.wait_with_output().unwrap().stdout, b"1\n");
        let outside = shell("echo $$").output().unwrap().stdout;
        assert_ne!(outside, b"1\n");
        let mut child = apart(|| shell("sleep 1000").spawn()).unwrap().unwrap();
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}
