//! What a request handler may reach.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::cache::PredictionCache;
use crate::config::{Config, PluginConfig, object_store_options};
use crate::error::{Error, ErrorCode, Result};
use crate::metrics::Metrics;
use crate::model::{Models, Repository, Runtime};
use crate::plugin::{CompiledCache, EgressPolicy, PluginHost, Plugins};
use crate::store::Store;

/// The host, shared by all requests.
pub struct App {
    pub config: Config,
    pub models: Models,
    pub plugins: Plugins,
    pub cache: PredictionCache,
    pub metrics: Arc<Metrics>,
    /// Predictions that may be in progress.
    predictions: Arc<Semaphore>,
    /// Streams that may be open, as many as predictions: of each a message may be on its way into memory.
    streams: Arc<Semaphore>,
    /// Batches that may be in progress.
    batches: Arc<Semaphore>,
    /// Uploads, loads and unloads that may be in progress.
    uploads: Arc<Semaphore>,
    /// Requests copied to shadow versions that may be in progress.
    shadows: Arc<Semaphore>,
    /// True from when the host is asked to end; `/health` says so, and no new connection is taken.
    draining: watch::Sender<bool>,
}

impl App {
    /// Opens the store, imports the bundle into an empty one, and loads plugins and models.
    ///
    /// # Errors
    /// What keeps the host from starting, such as a store that cannot be opened. A model that cannot serve is skipped, not an error.
    pub async fn start(config: Config, runtime: Runtime) -> Result<App> {
        let fatal = |problem: String| Error::new(ErrorCode::Internal, problem);
        let metrics = Arc::new(Metrics::new().map_err(|error| fatal(error.to_string()))?);
        let store = Store::open(&config.store, object_store_options()).map_err(|error| fatal(error.to_string()))?;
        let egress = EgressPolicy::new(config.allow_hosts.clone());
        let repository = Repository::of_store(store.clone(), &config.model_name).await;
        let repository = repository.map_err(|error| fatal(error.to_string()))?;
        let compiled = compiled_cache(&config.plugin, &store, repository.is_ours()).map_err(fatal)?;
        let plugins = Plugins::new(
            PluginHost::new(config.plugin.limits(), egress, compiled)?,
            store,
            config.plugin.max_plugin_bytes.as_u64(),
            config.plugin.max_plugins as usize,
        );
        if let Some(bundle) = &config.bundle {
            plugins.import(&bundle.join("plugins"), repository.is_ours()).await?;
        }
        plugins.find_all().await?;
        let models = Models::new(repository, runtime, plugins.clone(), Arc::clone(&metrics), &config);
        models
            .check_provider(&config.engine.execution_provider)
            .await
            .map_err(|error| fatal(format!("--execution-provider: {}", error.message)))?;
        models.set_up(config.bundle.as_deref()).await?;
        models.find_all().await?;
        models.load_all().await;
        if !config.store_poll.is_zero() {
            tokio::spawn(models.clone().follow_store(config.store_poll));
        }
        Ok(App {
            cache: PredictionCache::new(&config.cache),
            predictions: Arc::new(Semaphore::new(config.limits.max_predictions as usize)),
            streams: Arc::new(Semaphore::new(config.limits.max_predictions as usize)),
            batches: Arc::new(Semaphore::new(config.limits.max_batches as usize)),
            uploads: Arc::new(Semaphore::new(config.limits.max_uploads as usize)),
            shadows: Arc::new(Semaphore::new(config.engine.max_shadows as usize)),
            draining: watch::Sender::new(false),
            models,
            plugins,
            metrics,
            config,
        })
    }

    /// Leave to run one prediction, held until it ends.
    ///
    /// # Errors
    /// As many as allowed are in progress.
    pub fn admit_prediction(&self) -> Result<OwnedSemaphorePermit> {
        let limit = self.config.limits.max_predictions;
        self.predictions.clone().try_acquire_owned().map_err(|_| {
            Error::new(
                ErrorCode::Overloaded,
                format!("{limit} predictions are in progress (--max-predictions); try again"),
            )
        })
    }

    /// Leave to keep one stream open, of predictions or of a status that is watched, held until it ends.
    ///
    /// # Errors
    /// As many as allowed are open.
    pub fn admit_stream(&self) -> Result<OwnedSemaphorePermit> {
        let limit = self.config.limits.max_predictions;
        self.streams.clone().try_acquire_owned().map_err(|_| {
            Error::new(ErrorCode::Overloaded, format!("{limit} streams are open (--max-predictions); try again"))
        })
    }

    /// Leave to run one batch, held until it ends.
    ///
    /// # Errors
    /// As many as allowed are in progress.
    pub fn admit_batch(&self) -> Result<OwnedSemaphorePermit> {
        let limit = self.config.limits.max_batches;
        self.batches.clone().try_acquire_owned().map_err(|_| {
            Error::new(ErrorCode::Overloaded, format!("{limit} batches are in progress (--max-batches); try again"))
        })
    }

    /// Leave to take one upload, or to load or unload a model as clients of the Open Inference Protocol do, held until it ends.
    ///
    /// # Errors
    /// As many as allowed are in progress.
    pub fn admit_upload(&self) -> Result<OwnedSemaphorePermit> {
        let limit = self.config.limits.max_uploads;
        self.uploads.clone().try_acquire_owned().map_err(|_| {
            let message = format!("{limit} uploads, loads or unloads are in progress (--max-uploads); try again");
            Error::new(ErrorCode::Overloaded, message)
        })
    }

    /// Leave to run one copy of a request, held until it ends; `None` where as many as allowed are in progress.
    pub fn admit_shadow(&self) -> Option<OwnedSemaphorePermit> {
        self.shadows.clone().try_acquire_owned().ok()
    }

    pub fn is_draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// From now on the host says that it is not ready.
    pub fn begin_draining(&self) {
        self.draining.send_replace(true);
    }

    /// Resolves when the host is asked to end.
    pub async fn drains(&self) {
        // The sender lives as long as this host does.
        self.draining.subscribe().wait_for(|draining| *draining).await.ok();
    }
}

/// Where compiled plugins are kept. A folder that was asked for has to work; the one beside the models may not.
fn compiled_cache(
    config: &PluginConfig,
    store: &Store,
    is_ours: bool,
) -> std::result::Result<Option<CompiledCache>, String> {
    let max_bytes = config.plugin_cache_bytes.as_u64();
    if max_bytes == 0 {
        return Ok(None);
    }
    if let Some(folder) = &config.plugin_cache {
        let opened = CompiledCache::open(folder, max_bytes);
        return opened.map(Some).map_err(|error| format!("--plugin-cache {}: {error}", folder.display()));
    }
    let Some(folder) = store.folder().filter(|_| is_ours).map(|folder| folder.join(".compiled")) else {
        return Ok(None);
    };
    match CompiledCache::open(&folder, max_bytes) {
        Ok(cache) => Ok(Some(cache)),
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "compiled plugins are not kept");
            Ok(None)
        }
    }
}
