//! What other hosts change in the store comes to this one; and whether the store is there at all.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use super::layout::{Snapshot, VersionMarks};
use super::load::Models;
use super::model_toml::ModelConfig;
use super::registry::{KnownVersion, ModelVersion, State};
use super::repository::{Entry, RepositoryError};
use crate::error::{Error, ErrorCode, Result};
use crate::store::Mark;

/// Pause between removals of what other hosts left half-done.
const BETWEEN_TIDYING: Duration = Duration::from_secs(600);

/// Whether the store could be read when it was last looked at. Cloning shares it.
#[derive(Clone, Default)]
pub struct StoreHealth {
    trouble: Arc<RwLock<Option<StoreTrouble>>>,
}

/// A store that cannot be read.
#[derive(Debug, Clone)]
pub struct StoreTrouble {
    pub error: String,
    pub since: DateTime<Utc>,
}

impl StoreHealth {
    pub fn trouble(&self) -> Option<StoreTrouble> {
        self.trouble.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn looked(&self, result: &Result<()>) {
        let mut trouble = self.trouble.write().unwrap_or_else(PoisonError::into_inner);
        match (result, &mut *trouble) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => {
                tracing::info!("the store can be read again");
                *trouble = None;
            }
            (Err(error), Some(known)) => known.error.clone_from(&error.message),
            (Err(error), None) => {
                tracing::error!(%error, "the store cannot be read; what is loaded serves on");
                *trouble = Some(StoreTrouble { error: error.message.clone(), since: Utc::now() });
            }
        }
    }
}

impl Models {
    /// Looks at the store again and again, for as long as the host runs.
    pub async fn follow_store(self, pause: Duration) {
        let mut tidied = Instant::now();
        loop {
            tokio::time::sleep(pause).await;
            let looked = self.look_at_store().await;
            self.store.looked(&looked);
            if looked.is_ok() && tidied.elapsed() > BETWEEN_TIDYING {
                tidied = Instant::now();
                if let Err(error) = self.repository.tidy().await {
                    tracing::warn!(%error, "what was left half-done in the store is not removed");
                }
            }
        }
    }

    /// Takes over what has changed in the store: versions that came and went, and what is set for models.
    ///
    /// # Errors
    /// The store cannot be read, or has lost everything.
    pub async fn look_at_store(&self) -> Result<()> {
        let began = Instant::now();
        let unreachable = |error: RepositoryError| Error { message: error.to_string(), ..Error::internal(&error) };
        let snapshot = self.repository.snapshot().await.map_err(unreachable)?;
        if snapshot.models.is_empty()
            && !self.registry.list().is_empty()
            && !self.repository.is_marked().await.map_err(unreachable)?
        {
            // Nobody removes the mark: this is another folder or bucket, or one that is not mounted.
            let message = "the store is empty all of a sudden; what is loaded serves on";
            return Err(Error { message: message.to_owned(), ..Error::internal(message) });
        }
        let new_plugins = self.plugins.look_at_store().await?;
        self.forget_removed(&snapshot, began).await;
        for (id, model) in &snapshot.models {
            if model.config != self.registry.config_mark(id) {
                self.take_over_config(id, model.config.clone()).await?;
            }
        }
        for (entry, marks) in snapshot.versions() {
            self.take_over(entry, marks, new_plugins).await;
        }
        Ok(())
    }

    /// Forgets versions that the store has no more. What came here while the store was being listed is not in the list yet.
    async fn forget_removed(&self, snapshot: &Snapshot, began: Instant) {
        let there: BTreeSet<Entry> = snapshot.entries().collect();
        let is_gone = |known: &KnownVersion| known.known_since < began && !there.contains(&known.entry());
        if !self.registry.list().iter().any(is_gone) {
            return;
        }
        // Nobody is to put one back in its place that is gone.
        let Ok(_change) = self.changes.acquire().await else { return };
        for known in self.registry.list().iter().filter(|known| is_gone(known)) {
            self.forget(&known.entry(), "removed from the store").await;
        }
    }

    /// A version that is new here is loaded before it takes traffic; one that could not serve for want of a plugin is
    /// tried again, and one that was removed and uploaded anew takes the place of the one before.
    async fn take_over(&self, entry: Entry, marks: VersionMarks, new_plugins: bool) {
        match self.registry.find(&entry.id, Some(&entry.version)) {
            Err(_) => {
                let known = self.look_at(entry.clone(), marks, false).await;
                match &known.state {
                    // The store went away meanwhile: it is looked at again with the store.
                    State::Failed(error) if error.code == ErrorCode::NotReady => return,
                    State::Cold => {
                        tracing::info!(model = entry.id, version = entry.version, "a version came to the store");
                    }
                    _ => {}
                }
                self.registry.know(known);
            }
            Ok(known) => {
                if !self.take_over_known(&known, marks, new_plugins).await {
                    return;
                }
            }
        }
        // How it ends is in the log and in its state.
        let models = self.clone();
        tokio::spawn(async move { models.ready(&entry).await.ok() });
    }

    /// Puts what the store has in the place of a version that was replaced, or could not serve. Answers whether it is to be loaded.
    async fn take_over_known(&self, known: &KnownVersion, marks: VersionMarks, new_plugins: bool) -> bool {
        let entry = known.entry();
        let has_changed = known.marks.as_ref().is_some_and(|before| *before != marks);
        // The store went away meanwhile: it is looked at again with the store.
        let Ok(is_replaced) = self.is_replaced(known, &marks).await else { return false };
        let may_serve_now = match &known.state {
            State::Failed(error) => new_plugins || has_changed || error.code == ErrorCode::NotReady,
            // Its first load came to nothing, and nobody asks for it by itself. One that is too large stays so.
            State::Cold => {
                let may_fit = || known.info.as_ref().is_none_or(|info| self.check_fits(info).is_ok());
                !known.takes_traffic && (has_changed || may_fit())
            }
            _ => false,
        };
        let is_as_known = matches!(known.state, State::Cold) && !has_changed;
        if !is_replaced && (!may_serve_now || is_as_known) {
            self.registry.note(&entry, |known| known.marks = Some(marks));
            return may_serve_now;
        }
        let anew = self.look_at(entry, marks, known.takes_traffic).await;
        // What serves goes on until it can be told what takes its place.
        !matches!(&anew.state, State::Failed(error) if error.code == ErrorCode::NotReady)
            && self.put_in_place_of(known, anew, is_replaced).await
    }

    /// Forgets a version for what the store has now. Not while somebody puts the version before back in its place, to be run in
    /// another way or with other plugins: it would serve on under the marks of this one. And not for one that is another by now.
    async fn put_in_place_of(&self, before: &KnownVersion, mut anew: KnownVersion, is_replaced: bool) -> bool {
        let entry = before.entry();
        let Ok(_change) = self.changes.acquire().await else { return false };
        let Ok(now) = self.registry.find(&entry.id, Some(&entry.version)) else { return false };
        let is_idle = matches!(now.state, State::Failed(_) | State::Cold);
        if now.known_since != before.known_since || !(is_replaced || is_idle) {
            return false;
        }
        // Somebody who had the leave to change before may have unloaded it, or loaded it again.
        let is_unloaded = self.registry.config(&entry.id).is_unloaded(&entry.version);
        anew.state = match (anew.state, is_unloaded) {
            (State::Cold, true) => State::Unloaded,
            (State::Unloaded, false) => State::Cold,
            (state, _) => state,
        };
        anew.takes_traffic = now.takes_traffic;
        self.forget(&entry, "changed in the store").await;
        self.registry.know(anew);
        true
    }

    /// Whether a version was removed and uploaded anew since it came here.
    async fn is_replaced(
        &self,
        known: &KnownVersion,
        now: &VersionMarks,
    ) -> std::result::Result<bool, RepositoryError> {
        if let Some(before) = &known.marks {
            return Ok(before.is_replaced_by(now));
        }
        // It was uploaded here and not seen in the store yet: another host may have been quicker than this look.
        match self.repository.describe(&known.entry()).await {
            Ok(stored) => Ok(known.info.as_ref().is_some_and(|info| info.uploaded_at != stored.uploaded_at)),
            Err(error @ RepositoryError::Store(_)) => Err(error),
            // What is damaged serves on.
            Err(_) => Ok(false),
        }
    }

    /// Takes over what another host set for a model: its traffic, what is unloaded, and its plugins.
    async fn take_over_config(&self, id: &str, mark: Option<Mark>) -> Result<()> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let config = match self.repository.config(id).await {
            Ok(config) => config,
            // It is looked at again with the store.
            Err(error @ RepositoryError::Store(_)) => return Err(error.into()),
            Err(error) => {
                tracing::error!(model = id, %error, "the model's configuration is not readable; it serves on as before");
                self.registry.set_config_mark(id, mark);
                return Ok(());
            }
        };
        let before = self.registry.config(id);
        self.registry.set_config_mark(id, mark);
        if *before != config {
            tracing::info!(model = id, "the model's configuration was changed in the store");
            self.registry.set_config(id, config.clone());
        }
        // Also where it is as it was before somebody damaged it.
        for known in self.registry.versions(id).unwrap_or_default() {
            self.follow_config(&known, &config).await;
        }
        Ok(())
    }

    /// The version as it serves now: loaded anew where other engine options are set for it.
    async fn follow_engine(&self, model: &Arc<ModelVersion>, config: &ModelConfig) -> Arc<ModelVersion> {
        let options = config.engine_of(model.version());
        if *options == model.engine.configured {
            return Arc::clone(model);
        }
        match self.with_engine(model, options).await {
            Ok(model) => self.registry.insert(model),
            Err(error) => {
                tracing::error!(model = model.id(), version = model.version(), %error, "engine options not changed");
                Arc::clone(model)
            }
        }
    }

    async fn follow_config(&self, known: &KnownVersion, config: &ModelConfig) {
        let entry = known.entry();
        match (config.is_unloaded(&known.version), &known.state) {
            (true, State::Unloaded) => {}
            (true, _) => {
                self.let_go(&entry, State::Unloaded, "operator");
            }
            // What could not serve may with what is set now.
            (false, State::Unloaded | State::Failed(_)) => {
                self.registry.change(&entry, |_| Some(State::Cold));
                let models = self.clone();
                tokio::spawn(async move { models.ready(&entry).await.ok() });
            }
            (false, State::Ready(model)) => {
                let model = &self.follow_engine(model, config).await;
                let pipeline = config.pipeline_of(&known.version);
                if *pipeline == model.pipeline.configured {
                    return;
                }
                match self.rebind(std::slice::from_ref(model), pipeline).await {
                    Ok(rebound) => rebound.into_iter().for_each(|(model, _)| drop(self.registry.insert(model))),
                    Err(error) => {
                        tracing::error!(model = entry.id, version = entry.version, %error, "pipeline not changed")
                    }
                }
            }
            (false, _) => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;
    use std::sync::OnceLock;

    use clap::Parser;

    use super::super::Runtime;
    use super::super::admission::Batching;
    use super::super::repository::{Repository, Sidecar, describe};
    use super::*;
    use crate::app::App;
    use crate::config::{Cli, Command};

    const IRIS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/iris/1/model.onnx");

    fn iris() -> Entry {
        Entry { id: "iris".to_owned(), version: "1".to_owned() }
    }

    /// iris as another host uploads it, with something appended to its file. Answers with its sha256.
    async fn upload(repository: &Repository, appended: &[u8]) -> String {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("model.onnx");
        std::fs::write(&file, [&std::fs::read(IRIS).unwrap(), appended].concat()).unwrap();
        let sidecar = describe(&iris(), &file).await.unwrap();
        // Tried already: the tests' binary tries no models.
        let sidecar = Sidecar { session_bytes: Some(1000), batching: Some(Batching::off("")), ..sidecar };
        repository.publish(&sidecar, None, folder.path()).await.unwrap();
        sidecar.sha256
    }

    async fn host(store: &Path) -> Models {
        host_with(store, &[]).await
    }

    async fn host_with(store: &Path, options: &[&str]) -> Models {
        let arguments = ["model-nexus", "serve", "--store", store.to_str().unwrap(), "--store-poll", "0s"];
        let arguments = arguments.iter().chain(options);
        let Command::Serve(mut config) = Cli::try_parse_from(arguments).unwrap().command else { unreachable!() };
        config.bundle = None;
        // ONNX Runtime allows one environment a process.
        static RUNTIME: OnceLock<Runtime> = OnceLock::new();
        let runtime = RUNTIME.get_or_init(|| Runtime::load(config.onnxruntime.library()).unwrap());
        App::start(*config, runtime.clone()).await.unwrap().models
    }

    #[tokio::test]
    async fn a_version_that_is_replaced_while_it_comes_to_run_in_another_way_is_not_served_on() {
        let store = tempfile::tempdir().unwrap();
        let models = host(store.path()).await;
        upload(&models.repository, b"").await;
        models.look_at_store().await.unwrap();
        let before = models.ready(&iris()).await.unwrap();

        let change = models.changes.acquire().await.unwrap();
        models.repository.remove(&iris()).await.unwrap();
        // Field 6 of the file: a description.
        let sha256 = upload(&models.repository, &[0x32, 1, b'a']).await;
        let looking = tokio::spawn({
            let models = models.clone();
            async move { models.look_at_store().await }
        });
        // Long enough for it to find what is new, were it not to wait.
        tokio::time::sleep(Duration::from_secs(1)).await;
        models.registry.insert(ModelVersion { serial: ModelVersion::next_serial(), ..(*before).clone() });
        drop(change);
        looking.await.unwrap().unwrap();
        assert_eq!(models.ready(&iris()).await.unwrap().info.sha256, sha256);
    }

    #[tokio::test]
    async fn a_version_that_is_unloaded_or_loaded_while_another_takes_its_place_stays_so() {
        for (unloaded, expected) in [(true, "unloaded"), (false, "cold")] {
            let store = tempfile::tempdir().unwrap();
            let models = host(store.path()).await;
            upload(&models.repository, b"").await;
            models.look_at_store().await.unwrap();
            models.ready(&iris()).await.unwrap();
            let set = async |unloaded| {
                models.change_config("iris", |config| config.version_mut("1").unloaded = unloaded).await.unwrap();
            };
            set(!unloaded).await;

            models.repository.remove(&iris()).await.unwrap();
            let sha256 = upload(&models.repository, &[0x32, 1, b'a']).await;
            let known = models.registry.find("iris", Some("1")).unwrap();
            let marks = models.repository.snapshot().await.unwrap().models["iris"].versions["1"].clone();
            let anew = models.look_at(iris(), marks, true).await;
            assert_ne!(anew.state.name(), expected);
            set(unloaded).await;
            assert!(models.put_in_place_of(&known, anew, true).await);
            let known = models.registry.find("iris", Some("1")).unwrap();
            assert_eq!((known.state.name(), &known.info.unwrap().sha256), (expected, &sha256));
        }
    }

    #[tokio::test]
    async fn a_version_that_is_too_large_is_not_loaded_again_at_every_look() {
        let store = tempfile::tempdir().unwrap();
        let models = host_with(store.path(), &["--max-loaded-bytes", "999"]).await;
        upload(&models.repository, b"").await;
        models.look_at_store().await.unwrap();
        assert_eq!(models.ready(&iris()).await.map(drop).unwrap_err().code, ErrorCode::TooLarge);
        let known = models.registry.find("iris", Some("1")).unwrap();
        for _ in 0..2 {
            models.look_at_store().await.unwrap();
            let now = models.registry.find("iris", Some("1")).unwrap();
            assert_eq!((now.state.name(), now.known_since), ("cold", known.known_since));
        }
    }

    #[tokio::test]
    async fn an_upload_that_another_host_replaced_before_the_next_look_at_the_store_is_not_served_on() {
        let store = tempfile::tempdir().unwrap();
        let models = host(store.path()).await;
        upload(&models.repository, b"").await;
        models.look_at_store().await.unwrap();
        let uploaded = models.ready(&iris()).await.unwrap();
        // As an upload to this host leaves it.
        models.registry.forget(&iris());
        models.registry.insert((*uploaded).clone());
        models.look_at_store().await.unwrap();
        assert_eq!(models.ready(&iris()).await.unwrap().serial, uploaded.serial, "what is the store's serves on");

        models.registry.forget(&iris());
        models.registry.insert((*uploaded).clone());
        models.repository.remove(&iris()).await.unwrap();
        let sha256 = upload(&models.repository, &[0x32, 1, b'a']).await;
        models.look_at_store().await.unwrap();
        assert_eq!(models.ready(&iris()).await.unwrap().info.sha256, sha256);
    }
}
