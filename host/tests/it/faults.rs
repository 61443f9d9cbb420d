//! kill -9 at random moments of uploads, deletions and traffic changes: what was acknowledged is there, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};

use crate::binary::{Process, client};
use crate::store::files;
use crate::support::iris;

/// How many kills there are, spread over stores of their own.
const KILLS: &str = "NEXUS_TEST_KILLS";
const STORES: usize = 2;
const IDS: usize = 3;
const VERSIONS: u128 = 3;
/// Fewer changes than this are answered before a host is killed.
const ANSWERED: u128 = 4;

/// What the changes of one host's life tell about when to kill it: an upload takes as long as the machine lets it.
#[derive(Default)]
struct Pace {
    answered: AtomicUsize,
    /// What the last answered change took.
    milliseconds: AtomicU64,
}

/// What a client knows of one model.
#[derive(Default, Clone)]
struct Known {
    /// Versions that are there.
    versions: BTreeSet<String>,
    traffic: Option<Value>,
    /// The change that was never answered.
    pending: Option<Change>,
    /// Answered changes, by kind.
    acknowledged: BTreeMap<&'static str, usize>,
}

#[derive(Clone, Debug)]
enum Change {
    Upload(String),
    Delete(String),
    DeleteAll,
    Traffic(Value),
}

fn below(limit: u128) -> u128 {
    uuid::Uuid::new_v4().as_u128() % limit
}

impl Change {
    fn random() -> Change {
        let version = (below(VERSIONS) + 1).to_string();
        match below(8) {
            0 => Change::DeleteAll,
            1 | 2 => Change::Delete(version),
            3 | 4 => Change::Traffic(json!({ "weights": { version: 1.0 } })),
            _ => Change::Upload(version),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Change::Upload(_) => "upload",
            Change::Delete(_) => "delete",
            Change::DeleteAll => "delete all",
            Change::Traffic(_) => "traffic",
        }
    }

    fn request(&self, client: &Client, host: &str, id: &str) -> RequestBuilder {
        let model = format!("{host}/models/{id}");
        match self {
            Change::Upload(version) => {
                let part = reqwest::multipart::Part::bytes(iris()).file_name("m.onnx");
                let form = reqwest::multipart::Form::new().part("file", part).text("id", id.to_owned());
                let form = form.text("name", "n").text("version", version.clone());
                client.post(format!("{host}/models/upload")).multipart(form)
            }
            Change::Delete(version) => client.request(Method::DELETE, format!("{model}/versions/{version}")),
            Change::DeleteAll => client.request(Method::DELETE, model),
            Change::Traffic(rule) => client.put(format!("{model}/traffic")).json(rule),
        }
    }
}

impl Pace {
    /// After a random number of changes, somewhere in the next one.
    async fn random_moment(&self) {
        let enough = usize::try_from(below(ANSWERED)).unwrap();
        while self.answered.load(Ordering::Relaxed) < enough {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let one_change = u128::from(self.milliseconds.load(Ordering::Relaxed)).max(20);
        tokio::time::sleep(Duration::from_millis(u64::try_from(below(one_change)).unwrap())).await;
    }
}

impl Known {
    fn apply(&mut self, change: Change) {
        *self.acknowledged.entry(change.kind()).or_default() += 1;
        match change {
            Change::Upload(version) => drop(self.versions.insert(version)),
            Change::Delete(version) => drop(self.versions.remove(&version)),
            Change::DeleteAll => self.versions.clear(),
            Change::Traffic(rule) => self.traffic = Some(rule),
        }
        if self.versions.is_empty() {
            // What is set for a model goes with its last version.
            self.traffic = None;
        }
    }

    /// One change after the other until the host is gone.
    async fn change_until_killed(mut self, host: String, id: String, pace: Arc<Pace>) -> Known {
        let client = client();
        loop {
            let change = Change::random();
            let began = Instant::now();
            match change.request(&client, &host, &id).send().await.map(|response| response.status().as_u16()) {
                Ok(200 | 201) => {
                    self.apply(change);
                    let took = u64::try_from(began.elapsed().as_millis()).unwrap();
                    pace.milliseconds.store(took, Ordering::Relaxed);
                    pace.answered.fetch_add(1, Ordering::Relaxed);
                }
                // Not applied, and said so: no such version, or one that takes traffic.
                Ok(400 | 404 | 409) => {}
                Ok(status) => panic!("{change:?} of {id}: {status}"),
                Err(_) => {
                    self.pending = Some(change);
                    return self;
                }
            }
        }
    }

    /// Compares with what a new host has; of the unanswered change either outcome will do, but a whole one.
    fn settle(&mut self, id: &str, versions: BTreeSet<String>, traffic: Option<Value>) {
        let mut outcomes = vec![self.clone()];
        if let Some(change) = self.pending.take() {
            let mut applied = self.clone();
            applied.apply(change);
            outcomes.push(applied);
        }
        let found = outcomes.iter().find(|outcome| outcome.versions == versions && outcome.traffic == traffic);
        let Some(found) = found else {
            let known: Vec<_> = outcomes.iter().map(|outcome| (&outcome.versions, &outcome.traffic)).collect();
            panic!("{id} has {versions:?} and {traffic:?}; acknowledged, or under way: {known:?}");
        };
        (self.versions, self.traffic) = (found.versions.clone(), found.traffic.clone());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_kill_9_at_any_moment_every_acknowledged_change_is_there_and_nothing_half() {
    let kills: usize = std::env::var(KILLS).map_or(200, |kills| kills.parse().unwrap());
    let stores = (0..STORES).map(|_| tokio::spawn(kill_again_and_again(kills / STORES)));
    let mut acknowledged: BTreeMap<&str, usize> = BTreeMap::new();
    for store in stores.collect::<Vec<_>>() {
        for (kind, count) in store.await.unwrap() {
            *acknowledged.entry(kind).or_default() += count;
        }
    }
    for kind in ["upload", "delete", "delete all", "traffic"] {
        let count = acknowledged.get(kind).copied().unwrap_or_default();
        assert!(count > 0, "no change of the kind {kind:?} was acknowledged: {acknowledged:?}");
    }
    println!("{kills} kills; acknowledged: {acknowledged:?}");
}

async fn kill_again_and_again(kills: usize) -> BTreeMap<&'static str, usize> {
    let store = tempfile::tempdir().unwrap();
    let mut known: BTreeMap<String, Known> = (0..IDS).map(|index| (format!("m{index}"), Known::default())).collect();
    for _ in 0..kills {
        let mut process = start(store.path()).await;
        let url = process.url("");
        compare(&url, store.path(), &mut known).await;
        let pace = Arc::new(Pace::default());
        let change = |id: &String, known: &Known| {
            let changes = known.clone().change_until_killed(url.clone(), id.clone(), pace.clone());
            (id.clone(), tokio::spawn(changes))
        };
        let changes: Vec<_> = known.iter().map(|(id, known)| change(id, known)).collect();
        pace.random_moment().await;
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        for (id, change) in changes {
            known.insert(id, change.await.unwrap());
        }
    }
    let process = start(store.path()).await;
    compare(&process.url(""), store.path(), &mut known).await;
    let mut acknowledged = BTreeMap::new();
    for (kind, count) in known.into_values().flat_map(|known| known.acknowledged) {
        *acknowledged.entry(kind).or_default() += count;
    }
    acknowledged
}

async fn start(store: &Path) -> Process {
    let mut process = Process::start(store, &["--listen", "127.0.0.1:0"], &[], store);
    process.healthy().await;
    process
}

async fn compare(host: &str, store: &Path, known: &mut BTreeMap<String, Known>) {
    let listed: Value = client().get(format!("{host}/models")).send().await.unwrap().json().await.unwrap();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for model in listed["models"].as_array().unwrap() {
        assert_ne!(model["state"], "failed", "{listed}");
        let text = |field: &str| model[field].as_str().unwrap().to_owned();
        versions.entry(text("id")).or_default().insert(text("version"));
    }
    let mut expected = BTreeSet::new();
    for (id, known) in known {
        let versions = versions.remove(id).unwrap_or_default();
        let answer = client().get(format!("{host}/models/{id}/traffic")).send().await.unwrap();
        let traffic = match answer.status().as_u16() {
            200 => answer.json::<Value>().await.unwrap()["traffic"].clone(),
            _ => Value::Null,
        };
        let traffic = Some(traffic).filter(|traffic| traffic.as_object().is_some_and(|rule| !rule.is_empty()));
        known.settle(id, versions, traffic);
        for version in &known.versions {
            let folder = format!("models/{id}/{version}");
            assert_eq!(std::fs::read(store.join(&folder).join("model.onnx")).unwrap(), iris(), "{folder}");
            expected.extend(["model.onnx", "model_info.json"].map(|file| format!("{folder}/{file}")));
        }
        let config = format!("models/{id}/model.toml");
        // A rule that was taken back leaves a file without one. With the last version it goes, or the next model of that name had it.
        if known.traffic.is_some() || (!known.versions.is_empty() && store.join(&config).exists()) {
            expected.insert(config);
        }
    }
    assert!(versions.is_empty(), "models that nobody uploaded: {versions:?}");
    let is_own = |file: &String| file != ".lock" && file != "store.json";
    let found: BTreeSet<_> = files(store).into_iter().filter(is_own).collect();
    assert_eq!(found, expected, "files in the store");
    let scratch = std::fs::read_dir(store.join(".scratch")).unwrap().count();
    assert_eq!(scratch, 1, "a killed host's scratch folder was left");
}
