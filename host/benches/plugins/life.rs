//! A plugin's life in the host as it ships: uploaded, found again at a start, swapped under load.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Client;
use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};
use wasmtime::component::Component;
use wasmtime::{Config, Engine};

use super::{component, medians, scaler, time, with_text};
use crate::server::Server;
use crate::table::{Row, Table};

const PLUGINS: usize = 20;

/// Uploads of twenty plugins beside their compilation, then starts with those twenty beside starts with none.
pub async fn uploads_and_starts(table: &Table) {
    let (full, empty) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let wasm = component("image-classifier");
    let engine = Engine::new(Config::new().epoch_interruption(true)).unwrap();
    {
        let server = Server::host_on(full.path(), &[]);
        let client = Client::builder().no_proxy().build().unwrap();
        let mut uploaded = 0;
        let [upload, compile] = medians(PLUGINS, async |way| match way {
            0 => {
                uploaded += 1;
                let wasm = with_text(&wasm, "image-classifier", &format!("image-classifi{uploaded:02}"));
                upload(&client, &server, wasm).await;
            }
            _ => drop(Component::new(&engine, &wasm).unwrap()),
        })
        .await;
        table.row(time("upload of image-classifier to ready / its compilation", upload, compile).target(2.0));
    }
    let [with, without] = medians(15, async |way| drop(Server::host_on([&full, &empty][way].path(), &[]))).await;
    table.row(time(format!("start with {PLUGINS} plugins compiled before / with none"), with, without).target(1.3));
}

async fn upload(client: &Client, server: &Server, wasm: Vec<u8>) -> Value {
    let form = Form::new().part("file", Part::bytes(wasm));
    let url = format!("http://{}/plugins/upload", server.address);
    let answer = client.post(url).multipart(form).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    answer.json().await.unwrap()
}

/// A hundred swaps of a plugin's version at two hundred requests a second.
pub async fn swaps() -> Row {
    const RATE: Duration = Duration::from_millis(5);
    let server = Arc::new(Server::host());
    let client = Client::builder().no_proxy().build().unwrap();
    for version in ["0.1.0", "0.2.0"] {
        let wasm = with_text(&scaler(), "contract-fixture0.1.0", &format!("contract-fixture{version}"));
        upload(&client, &server, wasm).await;
    }
    let (requests, failed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let swapping = tokio::spawn({
        let (server, client) = (Arc::clone(&server), client.clone());
        async move {
            for turn in 0..100 {
                let version = ["0.1.0", "0.2.0"][turn % 2];
                let stage = json!({ "plugin": format!("contract-fixture@{version}") });
                let url = format!("http://{}/models/iris/pipeline", server.address);
                let pipeline = json!({ "preprocess": stage, "postprocess": stage });
                let answer = client.put(url).json(&pipeline).send().await.unwrap();
                assert_eq!(answer.status(), 200, "{}", answer.text().await.unwrap());
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        }
    });
    // The first swap binds the plugin; before it there is none to ask.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut tick = tokio::time::interval(RATE);
    let mut asked = tokio::task::JoinSet::new();
    while !swapping.is_finished() {
        tick.tick().await;
        let (server, client) = (Arc::clone(&server), client.clone());
        let (requests, failed) = (Arc::clone(&requests), Arc::clone(&failed));
        asked.spawn(async move {
            let body = json!({ "model_id": "iris", "x": [5.1, 3.5, 1.4, 0.2] });
            let request = client.post(format!("http://{}/predict", server.address)).json(&body);
            let answer = request.header("cache-control", "no-cache").send().await;
            requests.fetch_add(1, Ordering::Relaxed);
            failed.fetch_add(usize::from(!answer.is_ok_and(|answer| answer.status() == 200)), Ordering::Relaxed);
        });
    }
    swapping.await.unwrap();
    while asked.join_next().await.is_some() {}
    let (requests, failed) = (requests.load(Ordering::Relaxed), failed.load(Ordering::Relaxed));
    let case = "100 swaps of a plugin's version at 200 requests a second: failed / all requests";
    Row::less_is_better(case, "requests", failed as f64).beside(requests as f64).target_figure(0.0)
}
