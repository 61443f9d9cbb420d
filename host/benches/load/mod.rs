//! Load: connections that send one request after the other and wait for each answer.

use std::io::Write;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What is sent, over and over.
#[derive(Clone)]
pub struct Request {
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    pub fn post(path: &str, content_type: &str, body: impl Into<Vec<u8>>) -> Request {
        Request {
            path: path.to_owned(),
            headers: vec![("content-type".into(), content_type.into())],
            body: body.into(),
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Asked so that the cache does not answer.
    pub fn fresh(self) -> Request {
        self.header("cache-control", "no-cache")
    }

    /// Head and body, as they go over the wire.
    fn bytes(&self) -> Vec<u8> {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let (path, length) = (&self.path, self.body.len());
        let head = format!("POST {path} HTTP/1.1\r\nhost: bench\r\n{headers}content-length: {length}\r\n\r\n");
        [head.as_bytes(), &self.body].concat()
    }

    /// A script that has wrk send it.
    fn lua(&self) -> String {
        let text = |bytes: &[u8]| -> String { bytes.iter().map(|byte| format!("\\{byte:03}")).collect() };
        let headers = self.headers.iter();
        let headers: String = headers.map(|(name, value)| format!("wrk.headers[\"{name}\"] = \"{value}\"\n")).collect();
        format!("wrk.method = \"POST\"\nwrk.body = \"{}\"\n{headers}", text(&self.body))
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Measured {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Measured {
    pub fn of(mut latencies: Vec<Duration>, elapsed: Duration) -> Measured {
        latencies.sort_unstable();
        let quantile = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        Measured {
            per_second: latencies.len() as f64 / elapsed.as_secs_f64(),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}

/// Sends for that long, after a second that does not count. Panics on any answer but 200: a bench of failures says nothing.
/// wrk takes the least of the machine, so it is asked where it is installed and one answer is not megabytes.
pub fn measure(address: &str, request: &Request, connections: usize, duration: Duration) -> Measured {
    run(address, request, connections, Duration::from_secs(1));
    if request.body.len() < 1 << 20
        && let Some(measured) = wrk(address, request, connections, duration)
    {
        return measured;
    }
    run(address, request, connections, duration)
}

fn wrk(address: &str, request: &Request, connections: usize, duration: Duration) -> Option<Measured> {
    let mut script = tempfile::Builder::new().suffix(".lua").tempfile().unwrap();
    script.write_all(request.lua().as_bytes()).unwrap();
    // What the summary says in words, as numbers.
    script
        .write_all(
            b"\ndone = function(summary, latency)\n\
              local errors = summary.errors\n\
              io.write(string.format('RESULT %d %d %d %f %f\\n', summary.requests, summary.duration,\n\
              errors.connect + errors.read + errors.write + errors.status + errors.timeout,\n\
              latency:percentile(50), latency:percentile(99)))\nend\n",
        )
        .unwrap();
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{}s", duration.as_secs().max(1)), "-s"]);
    command.arg(script.path()).arg(format!("http://{address}{}", request.path));
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let result = text.lines().find_map(|line| line.strip_prefix("RESULT ")).unwrap_or_else(|| panic!("wrk: {text}"));
    let numbers: Vec<f64> = result.split(' ').map(|number| number.parse().unwrap()).collect();
    let [requests, microseconds, errors, p50, p99] = numbers[..] else { panic!("wrk: {text}") };
    assert!(errors == 0.0, "{errors} requests failed:\n{text}");
    Some(Measured { per_second: requests / (microseconds / 1e6), p50_ms: p50 / 1e3, p99_ms: p99 / 1e3 })
}

/// Sends for that long, over connections that are made now.
pub fn run(address: &str, request: &Request, connections: usize, duration: Duration) -> Measured {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let started = Instant::now();
    let latencies = runtime.block_on(async {
        let tasks: Vec<_> = (0..connections)
            .map(|_| tokio::spawn(send(address.to_owned(), request.bytes(), started + duration)))
            .collect();
        let mut latencies = Vec::new();
        for task in tasks {
            latencies.extend(task.await.unwrap());
        }
        latencies
    });
    Measured::of(latencies, started.elapsed())
}

async fn send(address: String, request: Vec<u8>, until: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answer = vec![0; 256 << 10];
    let mut latencies = Vec::new();
    while Instant::now() < until {
        let sent = Instant::now();
        stream.write_all(&request).await.unwrap();
        read_answer(&mut stream, &mut answer).await;
        latencies.push(sent.elapsed());
    }
    latencies
}

/// Reads one answer to its end. Answers are small, so the whole of one fits the buffer.
async fn read_answer(stream: &mut TcpStream, buffer: &mut [u8]) {
    let mut filled = 0;
    loop {
        let read = stream.read(&mut buffer[filled..]).await.unwrap();
        assert!(read > 0, "the server closed the connection");
        filled += read;
        let Some(head) = buffer[..filled].windows(4).position(|bytes| bytes == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&buffer[..head]).unwrap();
        assert!(text.starts_with("HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..filled]));
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        if filled >= head + 4 + length.parse::<usize>().unwrap() {
            return;
        }
    }
}
