//! Boots and drives one QEMU: spawn, QMP, boot stages, deadlines, console.
