//! One pod that lives long: `make soak`. It takes too long for `make test`, where it is compiled only.

use std::time::Duration;
use std::{env, fs};

use e2e::{BUSYBOX, OrFail, Pod, PodContainer, Victim, e2e_that_takes, until};
use k8s_cri::v1::Mount;
use tokio::time::sleep;

/// What a pod that lives long has taken.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Taken {
    /// Of the guest's memory, in MiB, without what the kernel gives back when memory is short.
    guest: u64,
    /// Of the guest: disks.
    disks: usize,
    /// Of the shim.
    descriptors: usize,
    inotify: usize,
    sockets: usize,
    threads: u64,
}

impl Taken {
    async fn by(keeper: &PodContainer) -> Self {
        // What the kernel can give back it gives back first. A cgroup that is gone stays in memory as long as a page of a file's
        // cache is charged to it.
        keeper.exec(&["sh", "-c", "sync; echo 3 >/proc/sys/vm/drop_caches"]).await;
        let memory = keeper.exec(&["cat", "/proc/meminfo"]).await;
        let kib = |name: &str| -> u64 {
            let rest =
                memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).or_fail(name);
            rest.trim().trim_end_matches(" kB").parse().or_fail(name)
        };
        let zones = keeper.exec(&["cat", "/proc/zoneinfo"]).await;
        // What is still in Cached is mapped by running programs, or is a file in memory (Shmem), which counts as used. MemFree is
        // without the free pages that each CPU keeps for itself, up to an eighth of a zone.
        let kept = kib("Cached") + kib("Buffers") - kib("Shmem") + pages_of_cpus(&zones) * 4;
        let used = kib("MemTotal") - kib("MemFree") - kept;
        let parts =
            ["AnonPages", "Shmem", "SUnreclaim", "Percpu", "KernelStack", "PageTables", "VmallocUsed"];
        println!(
            "  KiB: {}; given back when needed: {kept}",
            parts.map(|part| format!("{part} {}", kib(part))).join(", ")
        );
        let disks = keeper.exec(&["ls", "/sys/class/scsi_disk"]).await.split_whitespace().count();
        sleep(Duration::from_secs(2)).await;
        let shim = Victim::Shim.processes().into_iter().next().or_fail("the shim");
        let links: Vec<String> = fs::read_dir(format!("/proc/{}/fd", shim.pid))
            .or_fail("the shim's descriptors")
            .filter_map(|link| fs::read_link(link.ok()?.path()).ok())
            .map(|link| link.to_string_lossy().into_owned())
            .collect();
        let of = |word: &str| links.iter().filter(|link| link.contains(word)).count();
        Self {
            guest: used / 1024,
            disks,
            descriptors: links.len(),
            inotify: of("inotify"),
            sockets: of("socket:"),
            threads: shim.kib("status", "Threads"),
        }
    }
}

/// The free pages that the CPUs keep for themselves: `count:` of the page sets in `/proc/zoneinfo`.
fn pages_of_cpus(zones: &str) -> u64 {
    let counts = zones.lines().filter_map(|line| line.trim().strip_prefix("count:"));
    counts.map(|count| count.trim().parse::<u64>().or_fail("count")).sum()
}

/// How much of it is done, in percent: `COFFER_SOAK`, or all.
fn share(of: usize) -> usize {
    let percent = env::var("COFFER_SOAK").ok().map_or(100, |text| text.parse().or_fail("COFFER_SOAK"));
    (of * percent / 100).max(1)
}

/// 200 restarts, 30 containers, 1,000 execs with children, 50 volumes that change, in one pod.
#[test]
fn one_pod_that_lives_long_takes_no_more_than_at_first() {
    e2e_that_takes(Duration::from_secs(3 * 3600), async |rig| {
        let (restarted_times, executions, crowd) = (share(200), share(1000), share(30));
        let mut pod = rig.pod("long").await.privileged().resources(1 << 30, 1).start().await;
        let volumes: Vec<_> = (0..50)
            .map(|n| {
                pod.directory.configmap(&format!("v{n}"), &[("key", "0"), ("gone", "x")], &format!("/v/{n}"))
            })
            .collect();
        let hosts = pod.directory.etc_hosts("127.0.0.1 localhost\n");
        let mounts = [volumes, vec![hosts]].concat();
        // What execs leave comes to its first process: one that waits for nobody, such as sleep, would keep their dead.
        let keeps = ["sh", "-c", "while :; do sleep 1000; done"];
        let mut config = pod.container_config("keeper", BUSYBOX, &keeps, mounts.clone());
        let context = config.linux.get_or_insert_default().security_context.get_or_insert_default();
        context.privileged = true; // it empties the guest's caches
        (context.masked_paths, context.readonly_paths) = (vec![], vec![]);
        let keeper = pod.try_run_config(&config).await.or_fail("the keeper");
        restarts(&mut pod, 2, &mounts).await;
        let first = Taken::by(&keeper).await;
        println!("after 2 restarts: {first:?}");

        restarts(&mut pod, restarted_times, &mounts).await;
        let restarted = Taken::by(&keeper).await;
        println!("after {restarted_times} restarts more: {restarted:?}");

        for _ in 0..executions {
            keeper.exec(&["sh", "-c", "sleep 1 & sleep 1 & true"]).await;
        }
        let executed = Taken::by(&keeper).await;
        println!("after {executions} execs with children: {executed:?}");

        for round in 1..=3_u32 {
            let value = round.to_string();
            for n in 0..50 {
                pod.directory.update_configmap(&format!("v{n}"), &[("key", &value)]);
            }
            until("the new content", Duration::from_secs(60), async || {
                let seen = keeper.exec(&["sh", "-c", "cat /v/*/key; ls /v/*/gone 2>/dev/null | wc -l"]).await;
                (seen == format!("{}0\n", value.repeat(50))).then_some(())
            })
            .await;
        }
        let rotated = Taken::by(&keeper).await;
        println!("after 50 volumes changed 3 times: {rotated:?}");

        let mut many = Vec::new();
        for n in 0..crowd {
            many.push(
                pod.run(&format!("many-{n}"), BUSYBOX, &["sleep", "100000"], mounts[..1].to_vec()).await,
            );
        }
        let crowded = Taken::by(&keeper).await;
        println!("with {crowd} containers more: {crowded:?}");
        for container in &many {
            pod.cri.stop(&container.id, 0).await;
            pod.cri.remove(&container.id).await;
        }
        let last = Taken::by(&keeper).await;
        println!("without them: {last:?}");

        for now in [restarted, executed, rotated, crowded, last] {
            assert_eq!((now.inotify, now.threads, now.disks), (first.inotify, first.threads, first.disks));
        }
        for now in [restarted, executed, rotated, last] {
            assert!(now.guest <= first.guest + 8, "guest memory: {} MiB, then {}", first.guest, now.guest);
            assert!(
                now.descriptors <= first.descriptors + 4,
                "{} and {}",
                first.descriptors,
                now.descriptors
            );
        }
        pod.remove().await;
    });
}

/// A container that ends at once, made and removed so often.
async fn restarts(pod: &mut Pod, times: usize, mounts: &[Mount]) {
    for _ in 0..times {
        let crash = pod.run("crash", BUSYBOX, &["false"], mounts.to_vec()).await;
        assert_eq!(crash.exited().await, 1);
        pod.cri.remove(&crash.id).await;
    }
}
