//! A load generator: connections that send one HTTP/1.1 request after the other and wait for each answer.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub struct Load {
    pub address: String,
    /// Head and body, as they go over the wire.
    pub request: Vec<u8>,
    pub connections: usize,
    pub threads: usize,
}

pub struct Measured {
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

impl Load {
    /// Sends for that long. Panics on any answer but 200: a bench of failures says nothing.
    pub fn run(&self, duration: Duration) -> Measured {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(self.threads).enable_all().build().unwrap();
        let started = Instant::now();
        let mut latencies: Vec<Duration> = runtime.block_on(async {
            let tasks: Vec<_> = (0..self.connections)
                .map(|_| tokio::spawn(send(self.address.clone(), self.request.clone(), started + duration)))
                .collect();
            let mut latencies = Vec::new();
            for task in tasks {
                latencies.extend(task.await.unwrap());
            }
            latencies
        });
        let elapsed = started.elapsed();
        latencies.sort_unstable();
        let quantile = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
        Measured {
            per_second: latencies.len() as f64 / elapsed.as_secs_f64(),
            p50_ms: quantile(0.5),
            p99_ms: quantile(0.99),
        }
    }
}

async fn send(address: String, request: Vec<u8>, until: Instant) -> Vec<Duration> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut answer = vec![0; 64 << 10];
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
