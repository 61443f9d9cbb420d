//! Small disks in memory, for tests that fill one or write-protect it. They take a machine that lets the tests mount.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// A disk of its own under a temporary folder, gone when this is dropped.
pub struct Disk {
    folder: tempfile::TempDir,
}

impl Disk {
    /// `None`, said aloud, where nothing can be mounted.
    pub fn mount(size: &str) -> Option<Disk> {
        let folder = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).stderr(Stdio::null());
        if mount.status().is_ok_and(|status| status.success()) {
            return Some(Disk { folder });
        }
        // Past the test's own capture of its output: nobody should take this for a test that ran.
        writeln!(std::io::stderr(), "SKIPPED: no disk can be mounted here; run the tests as root to have them full")
            .ok();
        None
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// From now on nothing can be written.
    pub fn protect(&self) {
        let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(self.path()).status().unwrap();
        assert!(remounted.success());
        assert!(std::fs::write(self.path().join("probe"), "").is_err(), "the disk is not read-only");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(self.path()).status().ok();
    }
}
