//! What a pod VM claims from its host.
//!
//! Every claim goes the same way: a *plan* is made without touching anything, its *record* (plain data)
//! is written into the sandbox's state, and only then the plan is *claimed*. The claim is a value that owns
//! what it must give back: `release(self)` gives it back and reports errors, dropping it does what can be
//! done without waiting. After a shim's death the record alone is enough to release, any number of times.
//!
//! The crate expects a current-thread tokio runtime and is woken by file descriptors only. File system calls
//! on cgroupfs, procfs and the state directory are made in place: they are short and do not wait for disks. Others are made
//! [`aside`].

pub mod accel;
pub mod aside;
pub mod cgroup;
pub mod files;
pub mod net;
pub mod process;
pub mod rootfs;
pub mod scratch;
mod sys;
pub mod vsock;
