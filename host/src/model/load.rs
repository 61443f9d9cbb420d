//! The models of this host, and how a version of the store comes to serve: at start, or when it is first asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::Semaphore;

use super::StoreHealth;
use super::admission::Admission;
use super::archive::ArchiveLimits;
use super::engine::Engine;
use super::layout::VersionMarks;
use super::memory::{Memory, Reserved};
use super::provider::ExecutionProvider;
use super::registry::{BoundPipeline, KnownVersion, Loading, ModelVersion, Registry, State};
use super::repository::{Entry, Repository, RepositoryError, Sidecar};
use super::runner::WarmUp;
use super::runtime::Runtime;
use super::spec::{InputSpec, input_specs, zeros};
use super::worker::{Workers, give_memory_back};
use crate::config::{Config, EngineConfig};
use crate::error::{Error, ErrorCode, Result};
use crate::metrics::Metrics;
use crate::plugin::Plugins;

/// Sidecars that are read from the store at once.
const READS_AT_ONCE: usize = 16;

/// Pause between two looks for a version that can be unloaded for another.
const BETWEEN_EVICTIONS: Duration = Duration::from_millis(50);

/// The models of this host. Cloning shares them.
#[derive(Clone)]
pub struct Models {
    pub registry: Registry,
    pub store: StoreHealth,
    pub(super) repository: Repository,
    pub(super) plugins: Plugins,
    pub(super) metrics: Arc<Metrics>,
    pub(super) memory: Memory,
    pub(super) admission: Admission,
    pub(super) archive_limits: ArchiveLimits,
    /// Held while what is bound to a model changes, or a version comes to serve or goes from the store: one at a time.
    pub(super) changes: Arc<Semaphore>,
    /// Time that a golden request may take.
    pub(super) predict_timeout: Duration,
    pub(super) engine: EngineConfig,
    pub(super) runtime: Runtime,
}

impl Models {
    pub fn new(
        repository: Repository,
        runtime: Runtime,
        plugins: Plugins,
        metrics: Arc<Metrics>,
        config: &Config,
    ) -> Models {
        Models {
            registry: Registry::default(),
            store: StoreHealth::default(),
            repository,
            plugins,
            metrics,
            memory: Memory::new(config.engine.max_loaded_bytes()),
            admission: Admission::new(&config.admission, &config.onnxruntime),
            archive_limits: ArchiveLimits {
                bytes: config.limits.max_upload_bytes.as_u64(),
                files: config.limits.max_model_files as usize,
            },
            changes: Arc::new(Semaphore::new(1)),
            predict_timeout: config.limits.predict_timeout,
            engine: config.engine.clone(),
            runtime,
        }
    }

    /// A version's model in the store.
    pub fn path_of(&self, entry: &Entry) -> String {
        self.repository.path_of(entry)
    }

    /// A folder for uploads on their way in.
    pub fn scratch(&self) -> &Path {
        self.repository.scratch()
    }

    /// Takes in every version that the store holds, without loading it.
    ///
    /// # Errors
    /// The store cannot be listed.
    pub async fn find_all(&self) -> Result<()> {
        let snapshot = self.repository.snapshot().await?;
        for (id, model) in &snapshot.models {
            match self.repository.config(id).await {
                Ok(config) => self.registry.set_config(id, config),
                // Without it the wrong version might serve.
                Err(error @ RepositoryError::Store(_)) => return Err(error.into()),
                Err(error) => tracing::error!(model = id, %error, "the model's configuration is not readable"),
            }
            self.registry.set_config_mark(id, model.config.clone());
        }
        let known = stream::iter(snapshot.versions()).map(|(entry, marks)| self.look_at(entry, marks, true));
        known.buffer_unordered(READS_AT_ONCE).for_each(async |known| self.registry.know(known)).await;
        Ok(())
    }

    /// A version of the store as its sidecar describes it.
    pub(super) async fn look_at(&self, entry: Entry, marks: VersionMarks, takes_traffic: bool) -> KnownVersion {
        let (info, state) = match self.repository.describe(&entry).await {
            Ok(sidecar) => {
                let is_unloaded = self.registry.config(&entry.id).is_unloaded(&entry.version);
                (Some(Arc::new(sidecar)), if is_unloaded { State::Unloaded } else { State::Cold })
            }
            Err(error) => (None, State::Failed(for_operator(error))),
        };
        let mut known = KnownVersion::new(entry, info, state);
        (known.takes_traffic, known.marks) = (takes_traffic, Some(marks));
        known
    }

    /// Loads the versions that are not loaded, as many as there is memory for. One that cannot serve is reported and
    /// skipped; the others serve.
    pub async fn load_all(&self) {
        let mut cold: Vec<KnownVersion> = self.registry.list();
        cold.retain(|known| matches!(known.state, State::Cold));
        let mut free = self.memory.free();
        cold.retain(|known| {
            let left = free.checked_sub(known.info.as_ref().map_or(0, |info| self.memory_of(info)));
            free = left.unwrap_or(free);
            left.is_some()
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // What goes wrong with one is in the log, and in its state.
        let loads = stream::iter(cold).map(|known| async move { self.ready(&known.entry()).await.ok() });
        loads.buffer_unordered(cores).collect::<Vec<_>>().await;
        // What reading models and binding plugins left. Nobody waits for these threads yet.
        give_memory_back();
    }

    /// The version, loaded if it is not. However many ask at once, it is loaded once.
    ///
    /// # Errors
    /// There is none, or it cannot serve.
    pub async fn ready(&self, entry: &Entry) -> Result<Arc<ModelVersion>> {
        self.registry.loading(entry, |serial| self.begin_loading(entry.clone(), serial))?.await
    }

    /// The version, if it is loaded within the time that a request may take.
    ///
    /// # Errors
    /// As [`Models::ready`]; `NotReady` where it takes longer, and goes on loading.
    pub async fn ready_in_time(&self, entry: &Entry) -> Result<Arc<ModelVersion>> {
        self.ready_by(entry, Instant::now() + self.predict_timeout).await
    }

    /// The version, if it is loaded by then.
    ///
    /// # Errors
    /// As [`Models::ready_in_time`].
    pub async fn ready_by(&self, entry: &Entry, deadline: Instant) -> Result<Arc<ModelVersion>> {
        let ready = tokio::time::timeout_at(deadline.into(), self.ready(entry));
        ready.await.unwrap_or_else(|_| {
            let Entry { id, version } = entry;
            Err(Error::new(ErrorCode::NotReady, format!("model {id}, version {version} is still loading; try again")))
        })
    }

    /// A load goes on to its end, whoever still waits for it.
    fn begin_loading(&self, entry: Entry, serial: u64) -> Loading {
        let models = self.clone();
        let load = tokio::spawn(async move { models.load(&entry, serial).await });
        async move { load.await.map_err(Error::internal)? }.boxed().shared()
    }

    async fn load(&self, entry: &Entry, serial: u64) -> Result<Arc<ModelVersion>> {
        let started = Instant::now();
        let loaded = match self.open_stored(entry).await {
            Ok(model) => self.put_in_service(entry, serial, model).await,
            Err(error) => Err(error),
        };
        let outcome = if loaded.is_ok() { "ok" } else { "error" };
        self.metrics.model_loads.with_label_values(&[&entry.id, &entry.version, outcome]).inc();
        match &loaded {
            Ok(model) => {
                let took_ms = started.elapsed().as_millis() as u64;
                tracing::info!(model = model.id(), version = model.version(), took_ms, "model loaded");
            }
            Err(error) => {
                tracing::error!(model = entry.id, version = entry.version, %error, "model skipped");
                // What may be over soon is tried again by whoever asks next.
                let state = match error.code {
                    ErrorCode::NotReady | ErrorCode::Overloaded | ErrorCode::TooLarge => State::Cold,
                    _ => State::Failed(error.clone()),
                };
                // Another load of it may have begun meanwhile, and is none of this one's.
                let is_this =
                    |known: &KnownVersion| matches!(known.state, State::Loading(current, _) if current == serial);
                self.registry.change(entry, |known| is_this(known).then_some(state));
            }
        }
        loaded
    }

    /// Reads, loads and warms up a version of the store, and binds its plugins.
    async fn open_stored(&self, entry: &Entry) -> Result<ModelVersion> {
        let stored = self.repository.open(entry).await.map_err(for_operator)?;
        let stored = self.admitted(stored).await?;
        // Whether it fits is known from now on, loaded or not.
        let info = Arc::new(stored.sidecar.clone());
        self.registry.note(entry, |known| known.info = Some(info));
        // As the store has it: without it, or with an older one, the version would serve without its plugins.
        let config = self.repository.config(&entry.id).await.map_err(for_operator)?;
        let engine = Engine::of(&self.engine, config.engine_of(&entry.version), &stored.sidecar);
        let memory = self.make_room(entry, engine.memory_of(&stored.sidecar)).await?;
        let mut model = self.open(stored.sidecar, stored.path, stored.labels, stored.file, engine).await?;
        model.memory = Some(Arc::new(memory));
        model.pipeline = self.bind(config.pipeline_of(&entry.version), &model).await?;
        Ok(model)
    }

    /// Makes a loaded version serve, unless it was removed or unloaded meanwhile.
    async fn put_in_service(&self, entry: &Entry, serial: u64, mut model: ModelVersion) -> Result<Arc<ModelVersion>> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let config = self.repository.config(&entry.id).await.map_err(for_operator)?;
        let pipeline = config.pipeline_of(&entry.version);
        model = self.with_current_engine(model, config.engine_of(&entry.version)).await?;
        if *pipeline != model.pipeline.configured || !self.are_current(&model.pipeline) {
            // Somebody changed it since it was bound.
            model.pipeline = self.bind(pipeline, &model).await?;
        }
        match self.registry.find(&entry.id, Some(&entry.version))?.state {
            State::Loading(current, _) if current == serial => Ok(self.registry.insert(model)),
            // It was unloaded and loaded, or removed and uploaded anew, while this load was under way.
            State::Ready(model) => Ok(model),
            state => Err(Error::new(
                ErrorCode::NotReady,
                format!("model {}, version {} is {} meanwhile", entry.id, entry.version, state.name()),
            )),
        }
    }

    /// Starts a version's workers.
    pub(super) async fn open(
        &self,
        info: Sidecar,
        path: String,
        labels: Vec<String>,
        file: PathBuf,
        engine: Engine,
    ) -> Result<ModelVersion> {
        let inputs = input_specs(&info.metadata.inputs);
        let workers = Arc::new(self.start_workers(&info, &inputs, file, &engine).await?);
        let (serial, pipeline) = (ModelVersion::next_serial(), BoundPipeline::default());
        let info = Arc::new(info);
        Ok(ModelVersion { serial, info, path, inputs, labels, pipeline, engine, workers, memory: None })
    }

    pub(super) async fn start_workers(
        &self,
        info: &Sidecar,
        inputs: &[InputSpec],
        file: PathBuf,
        engine: &Engine,
    ) -> Result<Workers> {
        let runtime = self.runtime.clone();
        let name = format!("{}@{}", info.id, info.version);
        let (limits, options) = (engine.workers, engine.session.clone());
        let warm_up = zeros(inputs).map(|zeros| WarmUp::new(zeros, self.engine.warmup_runs)).transpose()?;
        let shared = warm_up.clone();
        let start = move || {
            runtime.check(&options.provider)?;
            Workers::start(&runtime, &file, &name, limits, &options, shared.as_ref())
        };
        let mut start = tokio::task::spawn_blocking(start);
        let started = match tokio::time::timeout(self.predict_timeout, &mut start).await {
            Ok(started) => started,
            Err(_) => {
                // No request may take that long either.
                warm_up.iter().for_each(WarmUp::end);
                start.await
            }
        };
        started.map_err(Error::internal)?
    }

    /// How a version would be run if it were loaded now.
    pub fn engine_of(&self, info: &Sidecar) -> Engine {
        Engine::of(&self.engine, self.registry.config(&info.id).engine_of(&info.version), info)
    }

    /// Memory that a version takes when it is loaded, in bytes.
    pub fn memory_of(&self, info: &Sidecar) -> u64 {
        self.engine_of(info).memory_of(info)
    }

    /// The execution providers that ONNX Runtime's library offers, and the one that models run on where none is set.
    pub fn providers(&self) -> (Vec<&'static str>, &ExecutionProvider) {
        (self.runtime.offered(), &self.engine.execution_provider)
    }

    /// Makes sure that models can run on what the host's options say.
    ///
    /// # Errors
    /// What was asked for is missing.
    pub async fn check_provider(&self, provider: &ExecutionProvider) -> Result<()> {
        let (runtime, provider) = (self.runtime.clone(), provider.clone());
        tokio::task::spawn_blocking(move || runtime.check(&provider)).await.map_err(Error::internal)?
    }

    /// Whether a version would fit without another being unloaded for it.
    pub fn has_room_for(&self, entry: &Entry) -> bool {
        let known = self.registry.find(&entry.id, Some(&entry.version)).ok().and_then(|known| known.info);
        known.is_some_and(|info| self.memory_of(&info) <= self.memory.free())
    }

    /// Makes sure that a version may be loaded at all, whatever else leaves memory for it.
    ///
    /// # Errors
    /// `TooLarge` where it takes more than there may be.
    pub fn check_fits(&self, info: &Sidecar) -> Result<()> {
        self.check_bytes(self.memory_of(info))
    }

    fn check_bytes(&self, bytes: u64) -> Result<()> {
        let limit = self.memory.limit();
        if bytes <= limit {
            return Ok(());
        }
        let message = format!("a version that takes {bytes} bytes loaded is larger than {limit} (--max-loaded-bytes)");
        Err(Error::new(ErrorCode::TooLarge, message))
    }

    /// Memory for a version of that many bytes: what was not used for longest is unloaded until it fits, and requests under
    /// way are waited for, which hold what they began with.
    ///
    /// # Errors
    /// `TooLarge` where it would not fit alone, `Overloaded` where too much of the memory stays in use.
    pub(super) async fn make_room(&self, entry: &Entry, bytes: u64) -> Result<Reserved> {
        self.check_bytes(bytes)?;
        let (limit, deadline) = (self.memory.limit(), Instant::now() + self.predict_timeout);
        loop {
            let freed = self.memory.freed();
            if let Some(reserved) = self.memory.reserve(bytes) {
                return Ok(reserved);
            }
            if Instant::now() > deadline {
                let message =
                    format!("all {limit} bytes for loaded versions are in use (--max-loaded-bytes); try again");
                return Err(Error::new(ErrorCode::Overloaded, message));
            }
            self.evict_one(entry);
            // What is loading now can be unloaded as soon as it is loaded, which frees nothing by itself.
            tokio::time::timeout(BETWEEN_EVICTIONS, freed).await.ok();
        }
    }

    /// Unloads the version that was not used for longest, for another's sake.
    fn evict_one(&self, other: &Entry) {
        let is_other = |model: &Arc<ModelVersion>| model.id() != other.id || model.version() != other.version;
        let Some(model) = self.registry.least_recently_used().into_iter().find(is_other) else { return };
        let entry = Entry { id: model.id().to_owned(), version: model.version().to_owned() };
        // An operator may have unloaded it meanwhile, and that stays so.
        let is_it = |known: &KnownVersion| known.ready().is_some_and(|ready| ready.serial == model.serial);
        let before = self.registry.change(&entry, |known| is_it(known).then_some(State::Cold));
        self.was_unloaded(&entry, before.as_ref(), "memory");
    }

    /// Unloads a version, if it is loaded. Requests under way end with it; its memory is free when the last one has.
    pub(super) fn let_go(&self, entry: &Entry, state: State, reason: &str) {
        let before = self.registry.change(entry, |_| Some(state));
        self.was_unloaded(entry, before.as_ref(), reason);
    }

    fn was_unloaded(&self, entry: &Entry, before: Option<&State>, reason: &str) {
        if matches!(before, Some(State::Ready(_))) {
            self.metrics.model_unloads.with_label_values(&[&entry.id, &entry.version, reason]).inc();
            tracing::info!(model = entry.id, version = entry.version, reason, "model unloaded");
        }
    }
}

/// The operator reads this, in the log and in the version's state: the cause itself is the message.
fn for_operator(error: RepositoryError) -> Error {
    // A store that cannot be reached may be there again for the next request.
    let code = if matches!(error, RepositoryError::Store(_)) { ErrorCode::NotReady } else { ErrorCode::Internal };
    Error::new(code, error.to_string())
}
