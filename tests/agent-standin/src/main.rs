//! Test stand-in for kata-agent: same ttrpc contract, real containers by libcontainer.

fn main() {}
