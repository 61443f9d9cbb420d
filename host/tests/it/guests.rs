//! Plugins in other languages than Rust, where their toolchains are: uploaded, bound to iris and asked.

use std::io::Write;
use std::path::Path;

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::{Host, answer};

/// Components, listed as folders are in PATH. Those that are listed have to be there.
const GUESTS: &str = "NEXUS_TEST_GUESTS";

#[tokio::test]
async fn plugins_in_other_languages_are_uploaded_bound_and_asked() {
    let Some(guests) = std::env::var_os(GUESTS) else {
        // Past the test's own capture of its output: nobody should take this for a test that ran.
        let mut stderr = std::io::stderr();
        writeln!(stderr, "SKIPPED: {GUESTS} is not set; `cargo xtask test` sets it where npm or Python are there").ok();
        return;
    };
    let guests: Vec<_> = std::env::split_paths(&guests).collect();
    assert!(!guests.is_empty(), "{GUESTS} lists nothing");
    for guest in guests {
        let language = guest.file_stem().unwrap().to_str().unwrap();
        match language {
            "javascript" => javascript(&guest).await,
            "python" => python(&guest).await,
            other => panic!("there is no test of a plugin in {other:?}"),
        }
    }
}

/// A host with iris and this plugin around both ends of it. They are large, and this build compiles slowly.
async fn host_with(guest: &Path, name: &str) -> (Host, tempfile::TempDir) {
    let (host, store) = Host::with_iris(&["--plugin-compile-time", "30m"]).await;
    let form = Form::new().part("file", Part::bytes(std::fs::read(guest).unwrap()).file_name("plugin.wasm"));
    let uploaded = host.client.post(format!("{}/plugins/upload", host.url)).multipart(form).send().await.unwrap();
    let (status, uploaded) = answer(uploaded).await;
    assert_eq!((status, &uploaded["plugin"]["name"]), (201, &json!(name)), "{uploaded}");
    let stage = json!({ "plugin": format!("{name}@{}", uploaded["plugin"]["version"].as_str().unwrap()) });
    let pipeline = json!({ "preprocess": stage, "postprocess": stage });
    let bound = host.client.put(format!("{}/models/iris/pipeline", host.url)).json(&pipeline).send().await.unwrap();
    let (status, bound) = answer(bound).await;
    assert_eq!((status, &bound["versions"][0]["golden"]), (200, &json!("plugin")), "{bound}");
    (host, store)
}

async fn javascript(guest: &Path) {
    let (host, _store) = host_with(guest, "measurements").await;
    let flower = json!({
        "model_id": "iris", "sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2
    });
    let (status, species) = host.predict(flower).await;
    assert_eq!(status, 200, "{species}");
    let scores: &Value = &species["scores"];
    assert!(species["confidence"].as_f64().unwrap() > 0.9 && scores.is_object(), "{species}");
    let (status, error) = host.predict(json!({ "model_id": "iris", "sepal_length": 5.1 })).await;
    assert_eq!(status, 400, "{error}");
}

async fn python(guest: &Path) {
    let (host, _store) = host_with(guest, "rows").await;
    let request = host.client.post(format!("{}/predict?model_id=iris", host.url)).header("content-type", "text/csv");
    let response = request.body("5.1,3.5,1.4,0.2\n6.3,3.3,6.0,2.5\n").send().await.unwrap();
    assert_eq!(response.status(), 200);
    let rows = response.text().await.unwrap();
    let scores: Vec<f64> =
        rows.lines().map(|row| row.rsplit(' ').next().unwrap().parse().unwrap_or_else(|_| panic!("{rows}"))).collect();
    assert_eq!(scores.len(), 2, "{rows}");
    assert!(scores.iter().all(|score| *score > 0.5 && *score <= 1.0), "{rows}");
}
