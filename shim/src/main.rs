//! containerd shim v2 that runs a pod in a confidential VM.

fn main() {}
