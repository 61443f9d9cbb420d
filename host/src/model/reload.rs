//! A version comes to run in another way: loaded beside what serves, and put in its place when it is ready.

use std::sync::Arc;

use super::engine::{Engine, EngineOptions};
use super::load::Models;
use super::model_toml::ModelConfig;
use super::registry::{KnownVersion, ModelVersion, State};
use super::repository::Entry;
use super::spec::zeros;
use crate::error::{Error, ErrorCode, Result};
use crate::terms::Terms;

impl Models {
    /// Sets how the versions of a model are run, all of them or the one named; without options, as is set for all versions
    /// and by the host. Those that are loaded are loaded anew beside themselves, and requests under way end where they began;
    /// where one cannot serve so, all go on as they were.
    ///
    /// # Errors
    /// No such model or version; an execution provider that is missing; no memory for both.
    pub async fn set_engine(&self, id: &str, version: Option<&str>, options: Option<EngineOptions>) -> Result<()> {
        self.registry.find(id, version)?;
        let provider = options.as_ref().and_then(|options| options.execution_provider.as_ref());
        if let Some(provider) = provider {
            self.check_provider(provider).await?;
        }
        let from_now_on = |config: &ModelConfig| match (&options, version) {
            (Some(options), _) => options.clone(),
            (None, Some(_)) => config.engine.clone(),
            (None, None) => EngineOptions::default(),
        };
        // Before anybody else has to wait: loading may take long.
        let before = self.reload(id, version, &from_now_on(&self.repository.config(id).await?), Vec::new()).await?;
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let models = self.reload(id, version, &from_now_on(&self.repository.config(id).await?), before).await?;
        self.change_config(id, |config| match version {
            Some(version) => config.version_mut(version).engine.clone_from(&options),
            None => {
                config.engine = options.clone().unwrap_or_default();
                config.versions.values_mut().for_each(|version| version.engine = None);
            }
        })
        .await?;
        tracing::info!(model = id, versions = models.len(), "engine options changed");
        models.into_iter().for_each(|model| drop(self.registry.insert(model)));
        self.try_failed_again(id, version)
    }

    /// The versions that are loaded now, loaded once more to be run in another way; as they are in `before` where that is
    /// still what is wanted of them.
    async fn reload(
        &self,
        id: &str,
        version: Option<&str>,
        options: &EngineOptions,
        mut before: Vec<ModelVersion>,
    ) -> Result<Vec<ModelVersion>> {
        let mut reloaded = Vec::new();
        for serving in self.ready_of(id, version)? {
            let is_it = |model: &ModelVersion| {
                model.info.sha256 == serving.info.sha256
                    && model.version() == serving.version()
                    && model.engine.configured == *options
            };
            let model = match before.iter().position(is_it) {
                // What else was changed meanwhile, such as its plugins, stays changed.
                Some(place) => {
                    let ModelVersion { engine, workers, memory, .. } = before.swap_remove(place);
                    ModelVersion { serial: ModelVersion::next_serial(), engine, workers, memory, ..(*serving).clone() }
                }
                None => self.with_engine(&serving, options).await.map_err(|error| goes_on(&serving, error))?,
            };
            reloaded.push(model);
        }
        Ok(reloaded)
    }

    /// What could not serve may with what is set now.
    fn try_failed_again(&self, id: &str, version: Option<&str>) -> Result<()> {
        for known in self.registry.versions(id)? {
            let is_meant = version.is_none_or(|version| known.version == version);
            if is_meant && matches!(known.state, State::Failed(_)) {
                self.registry
                    .change(&known.entry(), |known| matches!(known.state, State::Failed(_)).then_some(State::Cold));
                let (models, entry) = (self.clone(), known.entry());
                // How it ends is in the log and in its state.
                tokio::spawn(async move { models.ready(&entry).await.ok() });
            }
        }
        Ok(())
    }

    /// The versions of a model, or the one named, that are loaded now.
    pub(super) fn ready_of(&self, id: &str, version: Option<&str>) -> Result<Vec<Arc<ModelVersion>>> {
        let versions = self.registry.versions(id)?;
        let named = versions.iter().filter(|known| version.is_none_or(|version| known.version == version));
        Ok(named.filter_map(KnownVersion::ready).cloned().collect())
    }

    /// A version that does not serve yet, with the engine that is set now, where somebody changed it since it was loaded.
    pub(super) async fn with_current_engine(
        &self,
        model: ModelVersion,
        options: &EngineOptions,
    ) -> Result<ModelVersion> {
        if model.engine.configured == *options {
            return Ok(model);
        }
        self.with_engine(&model, options).await
    }

    /// A version loaded once more, to be run in another way, beside the one that serves.
    ///
    /// # Errors
    /// It cannot be loaded so, or does not run where the one that serves does.
    pub(super) async fn with_engine(&self, serving: &ModelVersion, options: &EngineOptions) -> Result<ModelVersion> {
        let mut engine = Engine::of(&self.engine, options, &serving.info);
        let serial = ModelVersion::next_serial();
        if engine.has_workers_of(&serving.engine) {
            engine.session = serving.engine.session.clone();
            return Ok(ModelVersion { serial, engine, ..serving.clone() });
        }
        let entry = Entry { id: serving.id().to_owned(), version: serving.version().to_owned() };
        let bytes = engine.memory_of(&serving.info);
        let beside = bytes.saturating_add(serving.memory.as_ref().map_or(0, |memory| memory.bytes()));
        let limit = self.memory.limit();
        if beside > limit {
            return Err(Error::new(
                ErrorCode::TooLarge,
                format!(
                    "both at once would take {beside} bytes, and loaded versions may take {limit} (--max-loaded-bytes)"
                ),
            ));
        }
        let memory = Arc::new(self.make_room(&entry, bytes).await?);
        let stored = self.repository.open(&entry).await?;
        if stored.sidecar.sha256 != serving.info.sha256 {
            return Err(Error::new(ErrorCode::Conflict, "the version was replaced in the store; try again"));
        }
        let workers = self.start_workers(&serving.info, &serving.inputs, stored.file, &engine).await?;
        let (workers, memory) = (Arc::new(workers), Some(memory));
        let model = ModelVersion { serial, engine, workers, memory, ..serving.clone() };
        self.compare_runs(serving, &model).await?;
        Ok(model)
    }

    /// Many a model takes no zeros, and serves. One that does takes them on every provider.
    async fn compare_runs(&self, serving: &ModelVersion, model: &ModelVersion) -> Result<()> {
        let Some(inputs) = zeros(&model.inputs) else { return Ok(()) };
        let terms = || Terms::within(self.predict_timeout);
        let Err(error) = model.workers.infer(inputs.clone(), &terms()).await else { return Ok(()) };
        match serving.workers.infer(inputs, &terms()).await {
            Ok(_) => Err(error),
            Err(_) => Ok(()),
        }
    }
}

fn goes_on(serving: &ModelVersion, mut error: Error) -> Error {
    let (id, version) = (serving.id(), serving.version());
    error.message = format!("model {id}, version {version}: {}; it serves on as before", error.message);
    error
}
