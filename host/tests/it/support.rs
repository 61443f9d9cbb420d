//! A host inside the test's process, on a free port and a temporary store, and what tests ask of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use model_nexus::app::App;
use model_nexus::config::{Cli, Command};
use model_nexus::model::{Runtime, Workers};
use model_nexus::server;
use reqwest::{Client, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// For what is sure to come, on a machine that is slow and has other tests to run: some compile plugins for minutes.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A running host. Its tasks end with the test's runtime, its store with this value.
pub struct Host {
    pub url: String,
    pub app: Arc<App>,
    pub client: Client,
}

/// ONNX Runtime allows one environment a process.
pub fn runtime() -> Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            let library = std::env::var_os("ORT_DYLIB_PATH").map(PathBuf::from);
            Runtime::load(library.as_ref()).expect("run the tests with `cargo xtask test`, which fetches ONNX Runtime")
        })
        .clone()
}

/// Real plugins and models, as `cargo xtask` lays them out.
pub fn bundle() -> String {
    std::env::var("NEXUS_BUNDLE").expect("run the tests with `cargo xtask test`, which builds the bundle")
}

/// A component built for the tests.
pub fn test_plugin(name: &str) -> PathBuf {
    let folder =
        std::env::var("NEXUS_TEST_PLUGINS").expect("run the tests with `cargo xtask test`, which builds plugins");
    Path::new(&folder).join(format!("{name}.wasm"))
}

pub fn repository_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

pub fn iris() -> Vec<u8> {
    std::fs::read(repository_root().join("models/iris/1/model.onnx")).unwrap()
}

/// A folder that a host finds iris in, laid down by hand.
pub fn store_with_iris() -> tempfile::TempDir {
    let store = tempfile::tempdir().unwrap();
    let folder = store.path().join("models/iris/1");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("model.onnx"), iris()).unwrap();
    store
}

impl Host {
    /// A host on that store, with more options of `model-nexus serve`.
    pub async fn start(store: &Path, options: &[&str]) -> Host {
        let store = store.to_str().unwrap();
        let fixed = ["model-nexus", "serve", "--store", store, "--listen", "127.0.0.1:0", "--instances", "1"];
        let Command::Serve(mut config) = Cli::try_parse_from(fixed.iter().chain(options)).unwrap().command else {
            unreachable!()
        };
        // The test command sets NEXUS_BUNDLE for the tests that ask for it, not for every host.
        if !options.contains(&"--bundle") {
            config.bundle = None;
        }
        // Its own executable is the test's.
        config.admission.admission_binary = Some(env!("CARGO_BIN_EXE_model-nexus").into());
        let app = Arc::new(App::start(*config, runtime()).await.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(server::serve_on(listener, app.clone(), std::future::pending()));
        Host { url, app, client: Client::builder().no_proxy().timeout(4 * PATIENCE).build().unwrap() }
    }

    /// A host with iris, and a store that nobody else has.
    pub async fn with_iris(options: &[&str]) -> (Host, tempfile::TempDir) {
        let store = store_with_iris();
        (Host::start(store.path(), options).await, store)
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    pub async fn post(&self, path: &str, body: Value) -> Response {
        self.client.post(format!("{}{path}", self.url)).json(&body).send().await.unwrap()
    }

    pub async fn predict(&self, body: Value) -> (u16, Value) {
        answer(self.post("/predict", body).await).await
    }

    /// Uploads a model as `POST /models/upload` takes it.
    pub async fn upload(&self, id: &str, version: &str, model: Vec<u8>) -> (u16, Value) {
        let form = reqwest::multipart::Form::new()
            .part("file", reqwest::multipart::Part::bytes(model).file_name("model.onnx"))
            .text("id", id.to_owned())
            .text("name", format!("{id} by test"))
            .text("version", version.to_owned());
        answer(self.client.post(format!("{}/models/upload", self.url)).multipart(form).send().await.unwrap()).await
    }

    /// The workers of a model's loaded version.
    pub fn workers(&self, id: &str) -> Arc<Workers> {
        Arc::clone(&self.app.models.registry.find(id, None).unwrap().ready().unwrap().workers)
    }

    /// The value of one metric, by its name and labels as Prometheus reads them.
    pub async fn metric(&self, name_and_labels: &str) -> Option<f64> {
        let text = self.get("/metrics").await.text().await.unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
        line.map(|value| value.parse().unwrap())
    }

    /// It still does what it is for.
    pub async fn assert_serves(&self) {
        let (status, answer) = self.predict(json!({ "model_id": "iris", "features": [5.1, 3.5, 1.4, 0.2] })).await;
        assert_eq!((status, &answer["prediction"]), (200, &json!([0])), "{answer}");
    }
}

/// Waits until something is so, and fails the test where it does not come to be.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "it never came to be that {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub async fn answer(response: Response) -> (u16, Value) {
    let status = response.status().as_u16();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}")))
}

/// The error's message, after a check that it has the form every error has.
pub fn error_message(answer: &Value) -> &str {
    assert!(answer["code"].is_string() && answer["request_id"].is_string(), "{answer}");
    answer["error"].as_str().unwrap()
}
