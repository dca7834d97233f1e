//! Harness and end-to-end tests on real containerd and QEMU.
