//! Whole images: from a registry that the tests play, layouts, archives, and a containerd that the tests play, through the
//! real mkfs.erofs of the machine or of the checkout's forky root. Where there is none, each test says so, and passes,
//! unless `COFFER_REQUIRE_MKFS=1`.

#![allow(clippy::unwrap_used, reason = "a test's helpers may panic as the test itself")]

mod archive;
mod bytes;
mod fake_containerd;
mod fake_registry;
mod hasher;
mod hostile;
mod make;
mod node;
mod registry;
mod tools;
