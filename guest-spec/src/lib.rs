//! Turns a container's OCI spec into what the guest agent is asked for; pure, no I/O.
