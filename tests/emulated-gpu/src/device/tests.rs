use super::*;

const MEMORY_SPACE: [u8; 2] = [2, 0];

/// A device that is awake, answers on its BARs and has booted; and when that is.
fn ready(product: Product) -> (Device, Instant) {
    let start = Instant::now();
    let mut device = Device::new(product, product.bars(), Timing::REAL, start).unwrap();
    device.config_write(start, 4, &MEMORY_SPACE);
    (device, start + Timing::REAL.boot)
}

#[test]
fn hopper_boots_in_its_time() {
    let (mut device, booted) = ready(Product::H100);
    let before = booted - Duration::from_millis(1);
    assert_eq!(device.read(before, 0), 0x1800_00a1);
    assert_eq!(device.read(before, 0x2_00bc), 0);
    assert_eq!(device.read(booted, 0x2_00bc), 0xff);
    assert_eq!(device.read(booted, 0xa00), 0x180a_1000);
    assert!(device.state(booted).violations.is_empty());
}

#[test]
fn blackwell_hides_behind_its_firewall_after_every_reset() {
    let (mut device, booted) = ready(Product::B200);
    device.reset(booted);
    device.config_write(booted, 4, &MEMORY_SPACE);
    let word = |device: &mut Device, now| {
        let mut word = [0; 4];
        device.config_read(now, 0xaf8, &mut word);
        u32::from_le_bytes(word)
    };
    assert_eq!(word(&mut device, booted), 1 << 20);
    assert_eq!(device.read(booted, 0), u32::MAX);
    let down = booted + Timing::REAL.firewall;
    assert_eq!(word(&mut device, down), 0);
    assert_eq!(device.read(down, 0), 0x1a00_00a1);
    assert_eq!(device.read(down, 0x2_00bc) >> 16, 0xbadf);
    assert_eq!(device.read(booted + Timing::REAL.boot, 0x2_00bc), 0xff);
}

#[test]
fn settings_become_the_mode_at_a_reset_only() {
    let (mut device, now) = ready(Product::H200);
    assert!(device.set_knob(8, 1));
    assert!(!device.set_knob(200, 1));
    assert_eq!(device.read(now, 0x11_82cc), 0);
    // Function-level reset, by configuration space.
    device.config_write(now, 0x68, &[0x10, 0xa8]);
    device.config_write(now, 4, &MEMORY_SPACE);
    let booted = now + Timing::REAL.boot;
    assert_eq!(device.read(now, 0x11_82cc), 0, "the firmware has not booted");
    assert_eq!(device.read(booted, 0x11_82cc), 1);
    assert_eq!(device.read(booted, 0x40_0000), 0xbadf_4100, "the host is kept out");
    assert_eq!(device.state(booted).resets, 1);
}

#[test]
fn a_sleeping_device_answers_nothing_and_tells() {
    let (mut device, now) = ready(Product::H100);
    device.sleep();
    assert_eq!(device.read(now, 0), u32::MAX);
    assert_eq!(device.state(now).violations, [Violation::NotAnswering { offset: 0 }]);
}

#[test]
fn the_firmware_is_not_to_be_asked_before_it_has_booted() {
    let (mut device, booted) = ready(Product::Nvswitch);
    device.write(booted - Duration::from_millis(1), 0x8f_2c10, 0x800);
    assert_eq!(device.state(booted).violations, [Violation::BeforeBoot { offset: 0x8f_2c10 }]);
}

#[test]
fn a_lockdown_ends_with_the_power() {
    let (mut device, now) = ready(Product::H100);
    device.faults.identity = Some(IdentityFault::SecurityFault);
    assert_eq!(device.read(now, 0), 0xbadf_0200);
    device.reset(now);
    device.config_write(now, 4, &MEMORY_SPACE);
    assert_eq!(device.read(now, 0), 0xbadf_0200);
    device.power_cycle(now);
    device.config_write(now, 4, &MEMORY_SPACE);
    assert_eq!(device.read(now, 0), 0x1800_00a1);
}

#[test]
fn a_reset_wipes_memory() {
    let (mut device, now) = ready(Product::H100);
    device.video.as_ref().unwrap().write(0x1000, b"secret").unwrap();
    device.reset(now);
    let mut found = [0xff; 6];
    device.video.as_ref().unwrap().read(0x1000, &mut found).unwrap();
    assert_eq!(found, [0; 6]);
}

#[test]
fn dma_needs_bus_mastering() {
    let (mut device, now) = ready(Product::H100);
    let file = tempfile::tempfile().unwrap();
    file.set_len(0x1000).unwrap();
    device.memory.map(0x10_0000, 0x1000, 0, file).unwrap();
    let poke = |device: &mut Device| {
        for (offset, value) in [(0xff_f000, 0x10_0010), (0xff_f004, 0), (0xff_f008, 0xc0ff_ee00)] {
            device.write(now, offset, value);
        }
        device.read(now, 0xff_f00c)
    };
    assert_eq!(poke(&mut device), 0xdead);
    device.config_write(now, 4, &[6, 0]);
    assert_eq!(poke(&mut device), 1);
    let mut word = [0; 4];
    device.dma_read(0x10_0010, &mut word).unwrap();
    assert_eq!(u32::from_le_bytes(word), 0xc0ff_ee00);
    device.write(now, 0xff_f010, 0);
    assert_eq!(device.read(now, 0xff_f008), 0xc0ff_ee00);
    assert_eq!(device.state(now).violations, [Violation::DmaWithoutBusMaster { address: 0x10_0010 }]);
}
