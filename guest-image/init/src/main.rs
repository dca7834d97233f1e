//! PID 1 of the guest image.

fn main() {}
