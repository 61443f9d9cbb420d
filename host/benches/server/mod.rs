//! Servers as processes of their own: the host as it ships, and a bare echo.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use reqwest::multipart::{Form, Part};

/// A server as a process of its own, ended with this value.
pub struct Server {
    child: Child,
    pub address: String,
    _store: Option<tempfile::TempDir>,
}

/// Resident memory of a process, in millions of bytes.
#[derive(Debug, Clone, Copy)]
pub struct Memory {
    pub resident: f64,
    /// What the process wrote itself: what leaks is here.
    pub anonymous: f64,
    /// Pages of files, such as libraries; the system can take them back, and other processes share them.
    pub files: f64,
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
        Server::host_with(&[])
    }

    /// The same with more options.
    pub fn host_with(options: &[&str]) -> Server {
        let store = tempfile::tempdir().unwrap();
        let mut command = Server::command(store.path());
        command.args(options);
        let mut server = Server::start(command);
        server._store = Some(store);
        server
    }

    /// The same on a store of the caller's.
    pub fn host_in(store: &Path, options: &[&str]) -> Server {
        let mut command = Server::command(store);
        command.args(options);
        Server::start(command)
    }

    /// The host on a store of the caller's, with no bundle.
    pub fn host_on(store: &Path, options: &[&str]) -> Server {
        let mut command = Server::command(store);
        command.args(options).env_remove("NEXUS_BUNDLE");
        Server::start(command)
    }

    fn command(store: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_model-nexus"));
        command.args(["serve", "--listen", "127.0.0.1:0", "--store"]).arg(store);
        command
    }

    fn start(command: Command) -> Server {
        Server::started(command, |line| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            (line["message"] == "listening").then(|| line["address"].as_str().unwrap().to_owned())
        })
    }

    /// A server that parses a JSON body and writes it again: the least that a JSON server does.
    pub fn echo() -> Server {
        Server::of_this_binary(&["--echo"])
    }

    /// A server that reads an inference request and answers with what it came with.
    pub fn grpc_echo() -> Server {
        Server::of_this_binary(&["--grpc-echo"])
    }

    /// A process that makes that many sessions of each bundled model and does nothing.
    pub fn bare(sessions: usize) -> Server {
        Server::of_this_binary(&["--bare", &sessions.to_string()])
    }

    fn of_this_binary(arguments: &[&str]) -> Server {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(arguments);
        Server::started(command, |line| Some(line.to_owned()))
    }

    /// Starts a server and reads its output until a line has the address; the rest is read and dropped, as a collector would.
    fn started(mut command: Command, address: impl Fn(&str) -> Option<String>) -> Server {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.by_ref().find_map(|line| address(&line)).expect("the server did not start");
        thread::spawn(move || lines.for_each(drop));
        Server { child, address, _store: None }
    }

    /// The memory that is in use now.
    pub fn memory(&self) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let megabytes = |name: &str| {
            let kibibytes = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            kibibytes.trim().trim_end_matches(" kB").parse::<f64>().unwrap() * 1024.0 / 1e6
        };
        Memory { resident: megabytes("VmRSS:"), anonymous: megabytes("RssAnon:"), files: megabytes("RssFile:") }
    }

    pub fn upload_plugin(&self, wasm: Vec<u8>) {
        let form = Form::new().part("file", Part::bytes(wasm));
        let url = format!("http://{}/plugins/upload", self.address);
        answered(client().post(url).multipart(form));
    }

    pub fn put(&self, path: &str, body: &serde_json::Value) {
        answered(client().put(format!("http://{}{path}", self.address)).json(body));
    }
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn answered(request: reqwest::RequestBuilder) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let answer = request.send().await.unwrap();
        let status = answer.status();
        assert!(status.is_success(), "{status}: {}", answer.text().await.unwrap());
    });
}
