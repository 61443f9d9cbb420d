//! Servers as processes of their own: the host as it ships, and a bare echo.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

/// A server as a process of its own, ended with this value.
pub struct Server {
    child: Child,
    pub address: String,
    _store: Option<tempfile::TempDir>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Server {
    /// The host as it ships: logs and metrics on.
    pub fn host() -> Server {
        let store = tempfile::tempdir().unwrap();
        let mut server = Server::start(Server::command(store.path()));
        server._store = Some(store);
        server
    }

    /// The host on a store of the caller's, with no bundle.
    pub fn host_on(store: &Path) -> Server {
        let mut command = Server::command(store);
        command.env_remove("NEXUS_BUNDLE");
        Server::start(command)
    }

    fn command(store: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(store);
        command
    }

    fn start(command: Command) -> Server {
        let (child, address) = started(command, |line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["message"] == "listening").then(|| line["address"].as_str().unwrap().to_owned())
        });
        Server { child, address, _store: None }
    }

    pub fn echo() -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("--echo");
        let (child, address) = started(command, |line| Some(line.to_owned()));
        Server { child, address, _store: None }
    }
}

/// Starts a server and reads its output until a line has the address; the rest is read and dropped, as a collector would.
fn started(mut command: Command, address: impl Fn(&str) -> Option<String>) -> (Child, String) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let address = lines.by_ref().find_map(|line| address(&line)).expect("the server did not start");
    thread::spawn(move || lines.for_each(drop));
    (child, address)
}
