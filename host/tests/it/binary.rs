//! The real binary as a process, for tests of what only a process of its own shows.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::PATIENCE;

/// Killed when this is dropped.
pub struct Process {
    pub child: Child,
    lines: Receiver<String>,
    pub address: String,
    /// Lines read so far.
    pub log: Vec<Value>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Process {
    pub fn start(store: impl AsRef<OsStr>, options: &[&str], environment: &[(&str, &str)], folder: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
        command.args(["serve", "--instances", "1", "--store"]).arg(store.as_ref()).args(options);
        command.current_dir(folder).env_remove("NEXUS_BUNDLE").stdout(Stdio::piped());
        if environment.iter().any(|(name, _)| *name == "ONNX_LIBRARY_PATH") {
            command.env_remove("ORT_DYLIB_PATH");
        }
        command.envs(environment.iter().copied());
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let mut process = Process { child, lines, address: String::new(), log: Vec::new() };
        let line = process.wait_for("listening");
        process.address = line["address"].as_str().unwrap().to_owned();
        process
    }

    /// The first line with that message, from now on.
    pub fn wait_for(&mut self, message: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line =
                self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line {message:?} in {:?}", self.log));
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("not JSON: {line}"));
            self.log.push(line.clone());
            if line["message"] == message {
                return line;
            }
        }
    }

    /// Waits until everything that was in the store is loaded.
    pub async fn healthy(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while client().get(self.url("/health")).send().await.unwrap().status() != 200 {
            assert!(Instant::now() < deadline, "the host does not come to serve: {:?}", self.log);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn terminate(&self) {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Bytes that it has had in memory at most.
    #[cfg(target_os = "linux")]
    pub fn most_resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() * 1024
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

pub fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(4 * PATIENCE).build().unwrap()
}
