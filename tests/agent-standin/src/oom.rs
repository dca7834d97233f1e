//! Tells when the kernel killed a process of a container because its memory ran out.

use std::fs;
use std::path::Path;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::unistd;
use tokio::io::Interest;
use tokio::sync::mpsc::Sender;

use crate::cgroup::table;
use crate::error::{Error, Result};
use crate::sys;

/// Sends `id` each time the cgroup's `oom_kill` counter has grown, until the cgroup is removed.
pub fn watch(id: String, cgroup: &Path, events: Sender<String>) -> Result<()> {
    let file = cgroup.join("memory.events");
    if !file.exists() {
        // No memory controller: nothing can run out.
        return Ok(());
    }
    let notify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
        .map_err(Error::system("watch memory events"))?;
    notify.add_watch(&file, AddWatchFlags::IN_MODIFY).map_err(Error::errno("watch", &file))?;
    let notify =
        sys::watched(notify.into(), Interest::READABLE).map_err(Error::system("watch memory events"))?;
    tokio::spawn(async move {
        let mut seen = 0;
        loop {
            let Ok(text) = fs::read_to_string(&file) else { return };
            let kills = table(&text).get("oom_kill").copied().unwrap_or_default();
            if kills > seen && events.send(id.clone()).await.is_err() {
                return;
            }
            seen = kills;
            let Ok(mut ready) = notify.readable().await else { return };
            let _ = ready.try_io(|notify| Ok(unistd::read(notify, &mut [0; 4096])?));
        }
    });
    Ok(())
}
