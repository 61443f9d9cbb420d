//! The versions that this host knows, in memory: a map behind a handle, whose lock is never held across an `.await`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};

use super::engine::Engine;
use super::layout::VersionMarks;
use super::memory::Reserved;
use super::model_toml::ModelConfig;
use super::repository::Entry;
use super::spec::InputSpec;
use super::traffic::{Sticky, Traffic, point_of};
use super::{OnFailure, Pipeline, Sidecar, Workers};
use crate::error::{Error, ErrorCode, Result};
use crate::plugin::{Binding, Stage};
use crate::store::Mark;

/// A loaded version of a model. Requests hold an `Arc` of it, so it outlives its place in the registry.
#[derive(Clone)]
pub struct ModelVersion {
    /// Differs between any two loads in this process; what is remembered of one version is never taken for another's.
    pub serial: u64,
    pub info: Arc<Sidecar>,
    /// The model's path in the store.
    pub path: String,
    /// Inputs the host can take.
    pub inputs: Vec<InputSpec>,
    pub labels: Vec<String>,
    pub pipeline: BoundPipeline,
    pub engine: Engine,
    pub workers: Arc<Workers>,
    /// What it takes of the memory that versions share; `None` for one that is not the host's.
    pub memory: Option<Arc<Reserved>>,
}

/// The plugins around a version, initialised for it.
#[derive(Debug, Clone, Default)]
pub struct BoundPipeline {
    pub preprocess: Option<BoundStage>,
    pub postprocess: Option<BoundStage>,
    /// What it was made from.
    pub configured: Pipeline,
}

/// A plugin in one place of a pipeline.
#[derive(Debug, Clone)]
pub struct BoundStage {
    pub binding: Arc<Binding>,
    pub on_failure: OnFailure,
}

impl BoundPipeline {
    /// Whether one instance serves both stages of a request.
    pub fn shares_instance(&self) -> bool {
        match (&self.preprocess, &self.postprocess) {
            (Some(preprocess), Some(postprocess)) => Arc::ptr_eq(&preprocess.binding, &postprocess.binding),
            _ => false,
        }
    }

    /// Its stages, each with its name.
    pub fn stages(&self) -> impl Iterator<Item = (Stage, &BoundStage)> {
        let stages = [(Stage::Preprocess, &self.preprocess), (Stage::Postprocess, &self.postprocess)];
        stages.into_iter().filter_map(|(name, stage)| Some((name, stage.as_ref()?)))
    }
}

impl ModelVersion {
    pub fn id(&self) -> &str {
        &self.info.id
    }

    pub fn version(&self) -> &str {
        &self.info.version
    }

    /// A number no other loaded version of this process has.
    pub fn next_serial() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }
}

/// A version that the store holds, whether it serves or not.
#[derive(Clone)]
pub struct KnownVersion {
    pub id: String,
    pub version: String,
    /// What its sidecar says; `None` where that cannot be read.
    pub info: Option<Arc<Sidecar>>,
    pub state: State,
    /// It has served, or was here when the host started. A version that another host uploaded waits until it can serve.
    pub takes_traffic: bool,
    /// What of it in the store was looked at; another mark means that it has changed.
    pub marks: Option<VersionMarks>,
    pub(super) known_since: Instant,
    last_used: Arc<AtomicU64>,
}

/// How far a version is from serving.
#[derive(Clone)]
pub enum State {
    /// In the store alone: it is loaded when somebody asks for it.
    Cold,
    /// An operator unloaded it: it takes no requests until it is loaded again.
    Unloaded,
    /// On its way; whoever needs it waits for the same load, which has a number that no other has.
    Loading(u64, Loading),
    Ready(Arc<ModelVersion>),
    /// It cannot serve, and why.
    Failed(Error),
}

/// A load that any number of requests wait for.
pub(super) type Loading = Shared<BoxFuture<'static, Result<Arc<ModelVersion>>>>;

impl State {
    /// The name that clients read.
    pub fn name(&self) -> &'static str {
        match self {
            State::Cold => "cold",
            State::Unloaded => "unloaded",
            State::Loading(..) => "loading",
            State::Ready(_) => "ready",
            State::Failed(_) => "failed",
        }
    }
}

impl KnownVersion {
    pub fn new(entry: Entry, info: Option<Arc<Sidecar>>, state: State) -> KnownVersion {
        KnownVersion {
            id: entry.id,
            version: entry.version,
            info,
            state,
            takes_traffic: true,
            marks: None,
            known_since: Instant::now(),
            last_used: Arc::default(),
        }
    }

    pub fn entry(&self) -> Entry {
        Entry { id: self.id.clone(), version: self.version.clone() }
    }

    /// The version, where it is loaded.
    pub fn ready(&self) -> Option<&Arc<ModelVersion>> {
        match &self.state {
            State::Ready(model) => Some(model),
            _ => None,
        }
    }

    /// Whether requests that name no version may come to it.
    pub fn can_serve(&self) -> bool {
        self.takes_traffic && !matches!(self.state, State::Unloaded | State::Failed(_))
    }

    /// Newest last. Of files of one age, as a copied folder has them, the highest version number is the newest.
    fn age(&self) -> (DateTime<Utc>, Vec<(u64, &str)>) {
        let uploaded_at = self.info.as_ref().map(|info| info.uploaded_at).unwrap_or_default();
        (uploaded_at, version_key(&self.version))
    }

    fn touch(&self) {
        self.last_used.store(ticks(), Ordering::Relaxed);
    }
}

/// Milliseconds since the first call.
fn ticks() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_millis() as u64
}

/// Orders versions part by part, as numbers where they are numbers.
pub(crate) fn version_key(version: &str) -> Vec<(u64, &str)> {
    let parts = version.split(['.', '-', '_']);
    parts.map(|part| part.parse().map_or((0, part), |number| (number, ""))).collect()
}

/// What a request came to.
pub enum Route {
    Ready(Arc<ModelVersion>),
    /// The version has to be loaded first.
    Cold(Entry),
}

/// A model that the store holds.
#[derive(Default)]
struct Model {
    config: Arc<ModelConfig>,
    /// What of its configuration in the store was looked at.
    config_mark: Option<Mark>,
    versions: BTreeMap<String, KnownVersion>,
}

impl Model {
    /// The version that requests come to where no weights are set: the one that is set, or the newest.
    fn default_version(&self) -> Option<&KnownVersion> {
        let set = self.config.traffic.default.as_ref().and_then(|version| self.versions.get(version));
        let newest = || self.versions.values().filter(|known| known.can_serve()).max_by_key(|known| known.age());
        set.or_else(newest)
    }

    /// What a request comes to that names a version, or the one that a traffic rule gives it.
    fn route(&self, traffic: &Traffic, id: &str, version: Option<&str>, key: Option<&str>) -> Result<Route> {
        let known = match version {
            Some(version) => self.versions.get(version).ok_or_else(|| unknown_version(self, id, version))?,
            None => draw(self, traffic, id, key)?,
        };
        known.touch();
        match &known.state {
            State::Ready(model) => Ok(Route::Ready(Arc::clone(model))),
            State::Cold | State::Loading(..) => Ok(Route::Cold(known.entry())),
            State::Unloaded => Err(unloaded(known)),
            State::Failed(error) => Err(cannot_serve(&known.id, &known.version, error)),
        }
    }
}

/// A handle to the versions that this host knows. Cloning shares it.
#[derive(Clone, Default)]
pub struct Registry {
    models: Arc<RwLock<BTreeMap<String, Model>>>,
    default_image_model: Arc<RwLock<Option<String>>>,
}

impl Registry {
    /// The version that a request comes to: the one that it names, or the one that the model's traffic rule gives it.
    /// `key` looks into the request for the key that its answers are to stick to, with the lock let go of: it may go through
    /// all of a body, and whoever changes something would wait for it, and everybody else for them.
    ///
    /// # Errors
    /// No such model or version is known, the message says which there are; or none that could serve.
    pub fn route(&self, id: &str, version: Option<&str>, key: impl FnOnce(&Sticky) -> Option<String>) -> Result<Route> {
        let config = {
            let models = self.read();
            let model = find_model(&models, id)?;
            if version.is_some() || model.config.traffic.sticky_by_weights().is_none() {
                return model.route(&model.config.traffic, id, version, None);
            }
            Arc::clone(&model.config)
        };
        let key = config.traffic.sticky_by_weights().and_then(key);
        // By the rule that the key was looked up for, whatever is set meanwhile.
        find_model(&self.read(), id)?.route(&config.traffic, id, None, key.as_deref())
    }

    /// The version that gets a copy of this request, which named none.
    pub fn shadow(&self, id: &str) -> Option<Entry> {
        let models = self.read();
        let model = models.get(id)?;
        let shadow = model.config.traffic.shadow.as_ref()?;
        let known = model.versions.get(&shadow.version).filter(|known| known.can_serve())?;
        (shadow.fraction >= 1.0 || fastrand::f64() < shadow.fraction).then(|| known.entry())
    }

    /// A version, loaded or not; without one named, the one that requests come to where no weights are set.
    ///
    /// # Errors
    /// No such model or version.
    pub fn find(&self, id: &str, version: Option<&str>) -> Result<KnownVersion> {
        let models = self.read();
        let model = find_model(&models, id)?;
        let known = match version {
            Some(version) => model.versions.get(version),
            // What can serve goes before what was uploaded last.
            None => model.default_version().or_else(|| model.versions.values().max_by_key(|known| known.age())),
        };
        known.cloned().ok_or_else(|| unknown_version(model, id, version.unwrap_or_default()))
    }

    /// The newest version of a model that came to the store and has not served yet, if there is one. It is the one of which
    /// nothing can be read, where there is such a one.
    ///
    /// # Errors
    /// No such model.
    pub fn coming(&self, id: &str) -> Result<Option<KnownVersion>> {
        let models = self.read();
        let coming = find_model(&models, id)?.versions.values().filter(|known| !known.takes_traffic);
        Ok(coming.max_by_key(|known| (known.info.is_none(), known.age())).cloned())
    }

    /// The versions of a model.
    ///
    /// # Errors
    /// No such model.
    pub fn versions(&self, id: &str) -> Result<Vec<KnownVersion>> {
        let models = self.read();
        let model = find_model(&models, id)?;
        Ok(model.versions.values().cloned().collect())
    }

    /// All versions, by id and version.
    pub fn list(&self) -> Vec<KnownVersion> {
        self.read().values().flat_map(|model| model.versions.values().cloned()).collect()
    }

    /// The versions that are loaded.
    pub fn ready(&self) -> Vec<Arc<ModelVersion>> {
        let models = self.read();
        models.values().flat_map(|model| model.versions.values()).filter_map(KnownVersion::ready).cloned().collect()
    }

    /// What is set for a model; nothing for one that is not known.
    pub fn config(&self, id: &str) -> Arc<ModelConfig> {
        self.read().get(id).map(|model| Arc::clone(&model.config)).unwrap_or_default()
    }

    pub fn config_mark(&self, id: &str) -> Option<Mark> {
        self.read().get(id)?.config_mark.clone()
    }

    pub fn set_config(&self, id: &str, config: ModelConfig) {
        self.write().entry(id.to_owned()).or_default().config = Arc::new(config);
    }

    pub fn set_config_mark(&self, id: &str, mark: Option<Mark>) {
        self.write().entry(id.to_owned()).or_default().config_mark = mark;
    }

    /// Takes a version in, unless it is known.
    pub fn know(&self, known: KnownVersion) {
        let mut models = self.write();
        let versions = &mut models.entry(known.id.clone()).or_default().versions;
        versions.entry(known.version.clone()).or_insert(known);
    }

    /// Makes a version serve, in place of the one of its id and version.
    pub fn insert(&self, model: ModelVersion) -> Arc<ModelVersion> {
        let model = Arc::new(model);
        let info = Some(Arc::clone(&model.info));
        let entry = Entry { id: model.id().to_owned(), version: model.version().to_owned() };
        let state = State::Ready(Arc::clone(&model));
        let mut models = self.write();
        let versions = &mut models.entry(entry.id.clone()).or_default().versions;
        match versions.get_mut(&entry.version) {
            Some(known) => {
                (known.info, known.state, known.takes_traffic) = (info, state, true);
                known.touch();
            }
            None => {
                let known = KnownVersion::new(entry.clone(), info, state);
                known.touch();
                versions.insert(entry.version, known);
            }
        }
        model
    }

    /// Changes a version's state, where it is known and `change` has a new one for it; answers with the old one. What the
    /// old one held is dropped by the caller, outside the lock.
    pub fn change(&self, entry: &Entry, change: impl FnOnce(&KnownVersion) -> Option<State>) -> Option<State> {
        let mut models = self.write();
        let known = models.get_mut(&entry.id)?.versions.get_mut(&entry.version)?;
        let state = change(known)?;
        Some(std::mem::replace(&mut known.state, state))
    }

    /// Notes something about a version, where it is known.
    pub(super) fn note(&self, entry: &Entry, note: impl FnOnce(&mut KnownVersion)) {
        let mut models = self.write();
        if let Some(known) = models.get_mut(&entry.id).and_then(|model| model.versions.get_mut(&entry.version)) {
            note(known);
        }
    }

    /// The load that makes a version serve: the one under way, or the one that `begin` starts under a number of its own.
    ///
    /// # Errors
    /// No such version, or one that cannot be loaded.
    pub fn loading(&self, entry: &Entry, begin: impl FnOnce(u64) -> Loading) -> Result<Loading> {
        let mut models = self.write();
        let Some(model) = models.get_mut(&entry.id) else { return Err(unknown_model(&models, &entry.id)) };
        let Some(known) = model.versions.get_mut(&entry.version) else {
            return Err(unknown_version(model, &entry.id, &entry.version));
        };
        known.touch();
        match &known.state {
            State::Ready(model) => Ok(std::future::ready(Ok(Arc::clone(model))).boxed().shared()),
            State::Loading(_, loading) => Ok(loading.clone()),
            State::Unloaded => Err(unloaded(known)),
            State::Failed(error) => Err(cannot_serve(&known.id, &known.version, error)),
            State::Cold => {
                let serial = ModelVersion::next_serial();
                let loading = begin(serial);
                known.state = State::Loading(serial, loading.clone());
                Ok(loading)
            }
        }
    }

    /// Loaded versions that may be unloaded, the least recently used first.
    pub fn least_recently_used(&self) -> Vec<Arc<ModelVersion>> {
        let models = self.read();
        let mut ready: Vec<(u64, &Arc<ModelVersion>)> = models
            .values()
            .flat_map(|model| model.versions.values())
            .filter_map(|known| Some((known.last_used.load(Ordering::Relaxed), known.ready()?)))
            .collect();
        ready.sort_by_key(|(used, _)| *used);
        ready.into_iter().map(|(_, model)| Arc::clone(model)).collect()
    }

    /// Lets go of a version; of its model with the last one.
    pub fn forget(&self, entry: &Entry) -> Option<KnownVersion> {
        let mut models = self.write();
        let model = models.get_mut(&entry.id)?;
        let known = model.versions.remove(&entry.version);
        if model.versions.is_empty() {
            models.remove(&entry.id);
        }
        known
    }

    pub fn default_image_model(&self) -> Option<String> {
        self.default_image_model.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn set_default_image_model(&self, id: Option<String>) {
        *self.default_image_model.write().unwrap_or_else(PoisonError::into_inner) = id;
    }

    // The lock only guards whole values, so what a panicking thread left is still true.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<String, Model>> {
        self.models.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<String, Model>> {
        self.models.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The version that a traffic rule gives a request for a model.
fn draw<'m>(model: &'m Model, traffic: &Traffic, id: &str, key: Option<&str>) -> Result<&'m KnownVersion> {
    let drawn = if traffic.weights.is_empty() {
        model.default_version()
    } else {
        let point = key.map_or_else(fastrand::f64, |key| point_of(id, key));
        let drawn = traffic.draw(point, |version| model.versions.get(version).is_some_and(KnownVersion::can_serve));
        drawn.and_then(|version| model.versions.get(version))
    };
    // Nothing of what the rule names has served yet, but something of it is on its way.
    let is_meant = |known: &&KnownVersion| traffic.weights.is_empty() || traffic.weights.contains_key(&known.version);
    let is_coming = |known: &&KnownVersion| matches!(known.state, State::Loading(..) | State::Cold);
    let on_its_way = || model.versions.values().filter(is_meant).filter(is_coming);
    drawn.or_else(|| on_its_way().max_by_key(|known| known.age())).ok_or_else(|| {
        let why = |known: &KnownVersion| match &known.state {
            State::Failed(error) => format!("{} ({})", known.version, error.message),
            state => format!("{} ({})", known.version, state.name()),
        };
        let versions: Vec<String> = model.versions.values().take(20).map(why).collect();
        Error::new(ErrorCode::NotReady, format!("model {id} has no version that can serve: {}", versions.join(", ")))
    })
}

/// A model that has a version: of one without there may be no more than a configuration.
fn find_model<'m>(models: &'m BTreeMap<String, Model>, id: &str) -> Result<&'m Model> {
    models.get(id).filter(|model| !model.versions.is_empty()).ok_or_else(|| unknown_model(models, id))
}

fn unknown_model(models: &BTreeMap<String, Model>, id: &str) -> Error {
    let known: Vec<&str> = models.keys().take(20).map(String::as_str).collect();
    let id: String = id.chars().take(128).collect();
    Error::not_found(format!("there is no model {id:?}; models: {}", known.join(", ")))
}

fn unknown_version(model: &Model, id: &str, version: &str) -> Error {
    let known: Vec<&str> = model.versions.keys().take(20).map(String::as_str).collect();
    let version: String = version.chars().take(128).collect();
    Error::not_found(format!("model {id} has no version {version:?}; versions: {}", known.join(", ")))
}

fn unloaded(known: &KnownVersion) -> Error {
    let KnownVersion { id, version, .. } = known;
    Error::new(
        ErrorCode::NotReady,
        format!("model {id}, version {version} is unloaded; load it with POST /models/{id}/versions/{version}/load"),
    )
}

pub(super) fn cannot_serve(id: &str, version: &str, error: &Error) -> Error {
    let message = format!("model {id}, version {version} cannot serve: {}", error.message);
    Error { code: ErrorCode::NotReady, message, ..error.clone() }
}
