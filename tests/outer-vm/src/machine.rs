//! QEMU's command line for the outer VM.

use std::path::Path;

use crate::Arguments;

/// Emulated CPUs. One that polls when it is idle keeps one CPU of the machine busy; a second one would take the other from
/// QEMU's own thread and from the GPUs' emulators.
const CPUS: u32 = 1;

/// What the kernel is told.
///
/// `no_timer_check`: under emulation the check of the timer's interrupt fails now and then, and panics. `nohz=off
/// highres=off`: with a timer that has to be set anew each time, the VM has been seen to stop for good; one that ticks by
/// itself goes on. `idle=poll`: an idle CPU that halts has been seen to sleep for half a minute with something to do. `-c`
/// and what follows is for PID 1, a shell, which goes on with the script that the VM is given.
const KERNEL: &str = "console=ttyS0 panic=-1 quiet no_timer_check idle=poll nohz=off highres=off intel_iommu=on \
                      root=/dev/vda rootfstype=erofs ro init=/bin/sh -- -c \"mount -t 9p -o \
                      trans=virtio,version=9p2000.L run /mnt && exec sh /mnt/init\"";

/// The arguments, in QEMU's order. `folder` holds what is private to this run: the script `init` and the sockets
/// that are to be connected to.
pub(crate) fn arguments(options: &Arguments, folder: &Path, devices: &[String]) -> Vec<String> {
    let memory = options.memory;
    let file = |name: &str| folder.join(name).display().to_string();
    let mut arguments: Vec<String> = [
        // SVM is among what TCG emulates, so the VM has a KVM of its own. 46 bits of address: room for 8 large GPUs.
        // Four levels of page tables, not five, of which a nested VM's processor walks those of both.
        "-accel",
        "tcg,thread=multi,tb-size=1024",
        "-cpu",
        "max,phys-bits=46,la57=off",
        "-smp",
        &CPUS.to_string(),
        "-M",
        "q35,memory-backend=memory",
        "-m",
        &format!("{memory}M"),
        // Shared: the emulated devices reach it by DMA.
        "-object",
        &format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
        "-run-with",
        "exit-with-parent=on",
        "-kernel",
        &options.kernel.display().to_string(),
        "-append",
        KERNEL,
        "-serial",
        &format!("file:{}", file("console")),
        // Caching mode: the IOMMU's user learns of every mapping, which VFIO in the VM needs.
        "-device",
        "intel-iommu,intremap=on,caching-mode=on,aw-bits=48",
        "-drive",
        &format!("if=none,id=root,file={},format=raw,readonly=on", options.root.display()),
        "-device",
        "virtio-blk-pci,drive=root",
        "-device",
        "virtio-rng-pci",
        "-device",
        "virtio-serial-pci,id=ports",
        "-chardev",
        &format!("socket,id=output,path={}", file("output")),
        "-device",
        "virtserialport,bus=ports.0,chardev=output,name=output",
    ]
    .map(str::to_owned)
    .into();
    let mut share = |tag: &str, path: &Path, access: &str| {
        let path = path.display();
        let folder = format!("local,id={tag},path={path},security_model=none,multidevs=remap{access}");
        let device = format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}");
        arguments.extend(["-fsdev".to_owned(), folder, "-device".to_owned(), device]);
    };
    share("run", folder, ",readonly=on");
    for (index, path) in options.share.iter().enumerate() {
        share(&format!("share{index}"), path, "");
    }
    arguments.extend_from_slice(devices);
    arguments
}
