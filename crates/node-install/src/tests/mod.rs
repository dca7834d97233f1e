//! Installations on hosts that are directories, with a daemon that is played.

pub(crate) mod fixture;

mod bad_input;
mod faults;
mod hosts;
