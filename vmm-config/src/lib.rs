//! Node configuration, pod request and VM description of Coffer; pure, no I/O.
