//! The models of this host, and how a version of the store comes to serve: at start, or when it is first asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::Semaphore;

use super::StoreHealth;
use super::admission::Admission;
use super::archive::ArchiveLimits;
use super::layout::VersionMarks;
use super::registry::{BoundPipeline, KnownVersion, Loading, ModelVersion, Registry, State};
use super::repository::{Entry, Repository, RepositoryError, Sidecar};
use super::spec::{InputSpec, input_specs, zeros};
use super::worker::{Runtime, WarmUp, WorkerLimits, Workers};
use crate::config::{Config, EngineConfig, to_usize};
use crate::error::{Error, ErrorCode, Result};
use crate::metrics::Metrics;
use crate::plugin::Plugins;

/// Sidecars that are read from the store at once.
const READS_AT_ONCE: usize = 16;

/// The models of this host. Cloning shares them.
#[derive(Clone)]
pub struct Models {
    pub registry: Registry,
    pub store: StoreHealth,
    pub(super) repository: Repository,
    pub(super) plugins: Plugins,
    pub(super) metrics: Arc<Metrics>,
    pub(super) admission: Admission,
    pub(super) archive_limits: ArchiveLimits,
    /// Held while what is bound to a model changes, or a version comes to serve: one at a time.
    pub(super) changes: Arc<Semaphore>,
    /// Time that a golden request may take.
    pub(super) predict_timeout: Duration,
    pub(super) engine: EngineConfig,
    runtime: Runtime,
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
        let limit = self.engine.max_loaded_bytes();
        let mut taken: u64 = self.registry.ready().iter().map(|model| self.memory_of(&model.info)).sum();
        cold.retain(|known| {
            let bytes = known.info.as_ref().map_or(0, |info| self.memory_of(info));
            let fits = taken.saturating_add(bytes) <= limit;
            taken += if fits { bytes } else { 0 };
            fits
        });
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // What goes wrong with one is in the log, and in its state.
        let loads = stream::iter(cold).map(|known| async move { self.ready(&known.entry()).await.ok() });
        loads.buffer_unordered(cores).collect::<Vec<_>>().await;
    }

    /// The version, loaded if it is not. However many ask at once, it is loaded once.
    ///
    /// # Errors
    /// There is none, or it cannot serve.
    pub async fn ready(&self, entry: &Entry) -> Result<Arc<ModelVersion>> {
        self.registry.loading(entry, || self.begin_loading(entry.clone()))?.await
    }

    /// A load goes on to its end, whoever still waits for it.
    fn begin_loading(&self, entry: Entry) -> Loading {
        let models = self.clone();
        let load = tokio::spawn(async move { models.load(&entry).await });
        async move { load.await.map_err(Error::internal)? }.boxed().shared()
    }

    async fn load(&self, entry: &Entry) -> Result<Arc<ModelVersion>> {
        let started = Instant::now();
        let loaded = match self.open_stored(entry).await {
            Ok(model) => self.put_in_service(entry, model).await,
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
                self.registry.change(entry, |known| matches!(known.state, State::Loading(_)).then_some(state));
            }
        }
        loaded
    }

    /// Reads, loads and warms up a version of the store, and binds its plugins.
    async fn open_stored(&self, entry: &Entry) -> Result<ModelVersion> {
        let stored = self.repository.open(entry).await.map_err(for_operator)?;
        let stored = self.admitted(stored).await?;
        self.make_room(entry, self.memory_of(&stored.sidecar))?;
        let mut model = self.open(stored.sidecar, stored.path, stored.labels, stored.file).await?;
        let config = self.registry.config(&entry.id);
        model.pipeline = self.bind(config.pipeline_of(&entry.version), &model).await?;
        Ok(model)
    }

    /// Makes a loaded version serve, unless it was removed or unloaded meanwhile.
    async fn put_in_service(&self, entry: &Entry, mut model: ModelVersion) -> Result<Arc<ModelVersion>> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let config = self.registry.config(&entry.id);
        let pipeline = config.pipeline_of(&entry.version);
        if *pipeline != model.pipeline.configured || !self.are_current(&model.pipeline) {
            // Somebody changed it since it was bound.
            model.pipeline = self.bind(pipeline, &model).await?;
        }
        let known = self.registry.find(&entry.id, Some(&entry.version))?;
        // Removed and uploaded anew while this one was loading, it would be another.
        let is_same = known.info.is_none_or(|info| info.sha256 == model.info.sha256);
        match known.state {
            State::Loading(_) if is_same => Ok(self.registry.insert(model)),
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
    ) -> Result<ModelVersion> {
        let inputs = input_specs(&info.metadata.inputs);
        let workers = Arc::new(self.start_workers(&info, &inputs, file).await?);
        let (serial, pipeline) = (ModelVersion::next_serial(), BoundPipeline::default());
        Ok(ModelVersion { serial, info: Arc::new(info), path, inputs, labels, pipeline, workers })
    }

    async fn start_workers(&self, info: &Sidecar, inputs: &[InputSpec], file: PathBuf) -> Result<Workers> {
        let runtime = self.runtime.clone();
        let name = format!("{}@{}", info.id, info.version);
        let limits = WorkerLimits {
            instances: self.engine.instance_count(info.total_bytes()),
            queue_capacity: self.engine.queue_capacity as usize,
            output_bytes: to_usize(self.engine.max_output_bytes),
        };
        let warm_up = zeros(inputs).map(|zeros| WarmUp::new(zeros, self.engine.warmup_runs)).transpose()?;
        let shared = warm_up.clone();
        let start = move || Workers::start(&runtime, &file, &name, limits, shared.as_ref());
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

    /// Memory that a loaded version takes, in bytes: what its sessions took when it was admitted, else what they read.
    pub fn memory_of(&self, info: &Sidecar) -> u64 {
        let files = info.total_bytes();
        let session = info.session_bytes.unwrap_or(files);
        session.saturating_mul(self.engine.instance_count(files) as u64)
    }

    /// Unloads what was not used for longest until a version of that many bytes fits.
    ///
    /// # Errors
    /// It would not fit alone.
    pub(super) fn make_room(&self, entry: &Entry, bytes: u64) -> Result<()> {
        let limit = self.engine.max_loaded_bytes();
        if bytes > limit {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!("a version that takes {bytes} bytes loaded is larger than {limit} (--max-loaded-bytes)"),
            ));
        }
        let is_other = |known: &KnownVersion| known.id != entry.id || known.version != entry.version;
        let held = |known: &KnownVersion| match known.state {
            State::Ready(_) | State::Loading(_) => known.info.as_ref().map_or(0, |info| self.memory_of(info)),
            _ => 0,
        };
        let mut taken: u64 = self.registry.list().iter().filter(|known| is_other(known)).map(held).sum();
        for model in self.registry.least_recently_used() {
            if taken.saturating_add(bytes) <= limit {
                break;
            }
            let used = Entry { id: model.id().to_owned(), version: model.version().to_owned() };
            if used != *entry && self.let_go(&used, State::Cold, "memory") {
                taken = taken.saturating_sub(self.memory_of(&model.info));
            }
        }
        Ok(())
    }

    /// Unloads a version, if it is loaded. Requests under way end with it; its memory is free when the last one has.
    pub(super) fn let_go(&self, entry: &Entry, state: State, reason: &str) -> bool {
        let before = self.registry.change(entry, |_| Some(state));
        let was_loaded = matches!(before, Some(State::Ready(_)));
        if was_loaded {
            self.metrics.model_unloads.with_label_values(&[&entry.id, &entry.version, reason]).inc();
            tracing::info!(model = entry.id, version = entry.version, reason, "model unloaded");
        }
        was_loaded
    }
}

/// The operator reads this, in the log and in the version's state: the cause itself is the message.
fn for_operator(error: RepositoryError) -> Error {
    // A store that cannot be reached may be there again for the next request.
    let code = if matches!(error, RepositoryError::Store(_)) { ErrorCode::NotReady } else { ErrorCode::Internal };
    Error::new(code, error.to_string())
}
