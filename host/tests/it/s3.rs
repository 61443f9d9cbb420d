//! A real S3-compatible server, moto, and a line to it that can be cut.

use std::io::Write;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::binary::client;

/// Path of `moto_server`.
const MOTO: &str = "NEXUS_TEST_MOTO";
/// The server takes any key; without one, requests would be meant for nobody's region.
const AUTHORIZATION: &str = "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request";
/// moto looks at `If-Match` and writes in two steps, between which another of its threads may write; S3 does both at once.
const SERVE: &str = "
import sys, threading
import moto.s3.responses, moto.server
lock, put = threading.Lock(), moto.s3.responses.S3Response.put_object
def put_object(self):
    with lock:
        return put(self)
moto.s3.responses.S3Response.put_object = put_object
moto.server.main(sys.argv[1:])
";
/// The store within the server.
pub const STORE: &str = "s3://bucket/some/prefix";

/// An S3-compatible server with an empty bucket, and a line to it. It keeps objects in memory.
pub struct S3 {
    server: Child,
    program: PathBuf,
    address: SocketAddr,
    line: Line,
}

impl S3 {
    /// `None`, said aloud, where there is no such server.
    pub async fn start() -> Option<S3> {
        let Some(program) = std::env::var_os(MOTO).map(PathBuf::from) else {
            // Past the test's own capture of its output: nobody should take this for a test that ran.
            writeln!(std::io::stderr(), "SKIPPED: {MOTO} is not set; `cargo xtask test` sets it where Python is").ok();
            return None;
        };
        // Not where the other tests listen, where the system has such addresses: the port is free until the server is up.
        let host = if cfg!(target_os = "linux") { "127.0.0.2" } else { "127.0.0.1" };
        let address = StdListener::bind((host, 0)).unwrap().local_addr().unwrap();
        let line = Line::to(address).await;
        let s3 = S3 { server: serve(&program, address), program, address, line };
        s3.make_bucket().await;
        Some(s3)
    }

    /// What a host's environment says of it.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT", format!("http://{}", self.line.address)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_REGION", "us-east-1".into()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "test".into()),
        ]
    }

    /// From now on, until it is mended, no connection reaches the server, and those that were open are gone.
    pub fn cut(&self) {
        self.line.open.send_replace(false);
    }

    pub fn mend(&self) {
        self.line.open.send_replace(true);
    }

    /// The server takes connections and requests, and answers none, until it is thawed.
    pub fn freeze(&self) {
        self.signal("-STOP");
    }

    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(Command::new("kill").args([signal, &self.server.id().to_string()]).status().unwrap().success());
    }

    /// Ends the server and starts another in its place, which has nothing, not even the bucket.
    pub async fn lose_everything(&mut self) {
        self.server.kill().unwrap();
        self.server.wait().unwrap();
        self.server = serve(&self.program, self.address);
        self.answers(client().get(self.url(""))).await;
    }

    /// The keys of all objects.
    pub async fn keys(&self) -> Vec<String> {
        let listing = client().get(self.url("bucket?list-type=2")).header("authorization", AUTHORIZATION);
        let text = listing.send().await.unwrap().text().await.unwrap();
        let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        keys.map(str::to_owned).collect()
    }

    /// The content of an object, by its key.
    pub async fn object(&self, key: &str) -> String {
        let object = client().get(self.url(&format!("bucket/{key}"))).header("authorization", AUTHORIZATION);
        object.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    async fn make_bucket(&self) {
        let made = self.answers(client().put(self.url("bucket")).header("authorization", AUTHORIZATION)).await;
        assert!(made.status().is_success(), "{made:?}");
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// The answer to a request, from when the server is up.
    async fn answers(&self, request: reqwest::RequestBuilder) -> reqwest::Response {
        let deadline = Instant::now() + Duration::from_secs(300);
        loop {
            match request.try_clone().unwrap().send().await {
                Ok(answer) => return answer,
                Err(error) => assert!(Instant::now() < deadline, "moto_server does not start: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

fn serve(program: &Path, address: SocketAddr) -> Child {
    let mut command = Command::new(program.with_file_name("python"));
    command.args(["-c", SERVE, "-H", &address.ip().to_string(), "-p", &address.port().to_string()]);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Passes connections on to a server, as a network does that can fail.
struct Line {
    address: SocketAddr,
    open: Arc<watch::Sender<bool>>,
}

impl Line {
    async fn to(server: SocketAddr) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(watch::Sender::new(true));
        let state = open.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *state.borrow() {
                    tokio::spawn(pass_on(client, server, state.subscribe()));
                }
            }
        });
        Line { address, open }
    }
}

async fn pass_on(mut client: TcpStream, server: SocketAddr, mut open: watch::Receiver<bool>) {
    let Ok(mut server) = TcpStream::connect(server).await else { return };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => {}
        _ = open.wait_for(|open| !open) => {}
    }
}
