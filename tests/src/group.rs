//! Control groups whose sockets may have little memory. Needs root and a memory controller.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A group of processes, until dropped.
#[derive(Debug)]
pub struct Group(PathBuf);

impl Group {
    /// The sockets of those in the group may have so many `bytes`. `None`, said loudly, where the right or the controller
    /// for it is missing.
    #[must_use]
    pub fn with_socket_memory(bytes: u64) -> Option<Self> {
        // The first kind of groups counts it by itself, the second one with all other memory.
        let kinds = [("memory", "memory.kmem.tcp.limit_in_bytes"), ("", "memory.max"), ("unified", "memory.max")];
        let group = kinds.into_iter().find_map(|(hierarchy, limit)| {
            let parent = Path::new("/sys/fs/cgroup").join(hierarchy);
            let name = format!("cproxy-test-{}-{bytes}", std::process::id());
            parent.join("cgroup.procs").exists().then_some(())?;
            fs::create_dir(parent.join(&name)).ok()?;
            let group = Self(parent.join(name));
            fs::write(group.0.join(limit), bytes.to_string()).ok().map(|()| group)
        });
        if group.is_none() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            let _ = writeln!(std::io::stderr(), "SKIPPED {test}: needs root and a memory controller in /sys/fs/cgroup");
        }
        group
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It is empty once its programs have ended.
        let _ = fs::remove_dir(&self.0);
    }
}
