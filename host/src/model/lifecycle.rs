//! What operators change about a model's versions: which one serves, which are loaded, which are there at all.

use std::sync::Arc;

use super::load::Models;
use super::registry::{ModelVersion, State};
use super::repository::{Entry, ModelConfig, Settings};
use super::traffic::Traffic;
use crate::error::{Error, ErrorCode, Result};

impl Models {
    /// Sets a model's traffic rule, from the next request on. The one before is kept for a rollback.
    ///
    /// # Errors
    /// No such model, or a rule that names a version which cannot take traffic.
    pub async fn set_traffic(&self, id: &str, traffic: Traffic) -> Result<Arc<ModelConfig>> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        self.check_traffic(id, &traffic)?;
        let before = self.registry.config(id).traffic.clone();
        self.change_config(id, |config| {
            // The same rule again, as a client that tries again sends it, leaves the one before where it was.
            if config.traffic != traffic {
                config.previous_traffic = Some(before.clone());
                config.traffic = traffic.clone();
            }
        })
        .await
    }

    /// Brings back the traffic rule before, and keeps the present one in its place.
    ///
    /// # Errors
    /// No such model, no rule before, or one that names a version which cannot take traffic any more.
    pub async fn roll_back_traffic(&self, id: &str) -> Result<Arc<ModelConfig>> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        self.registry.versions(id)?;
        let previous = self.registry.config(id).previous_traffic.clone().ok_or_else(|| {
            Error::new(
                ErrorCode::Conflict,
                format!("the traffic of model {id} was never changed, so nothing is before it"),
            )
        })?;
        self.check_traffic(id, &previous)?;
        self.change_config(id, |config| {
            config.previous_traffic = Some(std::mem::replace(&mut config.traffic, previous.clone()));
        })
        .await
    }

    fn check_traffic(&self, id: &str, traffic: &Traffic) -> Result<()> {
        let versions = self.registry.versions(id)?;
        let can_serve = versions.iter().filter(|known| known.can_serve());
        traffic.check(id, &can_serve.map(|known| known.version.as_str()).collect::<Vec<_>>())
    }

    /// Loads a version that was unloaded, or that could not serve.
    ///
    /// # Errors
    /// No such version, or it cannot serve.
    pub async fn load_version(&self, entry: &Entry) -> Result<Arc<ModelVersion>> {
        {
            let _change = self.changes.acquire().await.map_err(Error::internal)?;
            self.registry.find(&entry.id, Some(&entry.version))?;
            if self.registry.config(&entry.id).is_unloaded(&entry.version) {
                self.change_config(&entry.id, |config| config.version_mut(&entry.version).unloaded = false).await?;
            }
            self.registry.change(entry, |known| {
                matches!(known.state, State::Unloaded | State::Failed(_)).then_some(State::Cold)
            });
        }
        self.ready(entry).await
    }

    /// Unloads a version until it is loaded again; requests under way end with it.
    ///
    /// # Errors
    /// No such version, or `Conflict` where the traffic rule names it.
    pub async fn unload_version(&self, entry: &Entry) -> Result<()> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        self.registry.find(&entry.id, Some(&entry.version))?;
        self.check_without_role(entry, "unloaded")?;
        self.change_config(&entry.id, |config| config.version_mut(&entry.version).unloaded = true).await?;
        self.let_go(entry, State::Unloaded, "operator");
        Ok(())
    }

    /// Removes a version from the host and the store.
    ///
    /// # Errors
    /// No such version, or `Conflict` where the traffic rule names it.
    pub async fn remove_version(&self, entry: &Entry) -> Result<()> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        self.registry.find(&entry.id, Some(&entry.version))?;
        if self.registry.versions(&entry.id)?.len() == 1 {
            // What is set for a model goes with its last version.
            return self.remove_whole(&entry.id).await;
        }
        self.check_without_role(entry, "removed")?;
        self.repository.remove(entry).await?;
        self.forget(entry, "removed").await;
        let config = self.registry.config(&entry.id);
        let named = config.versions.contains_key(&entry.version)
            || [Some(&config.traffic), config.previous_traffic.as_ref()]
                .into_iter()
                .flatten()
                .any(|traffic| traffic.named().any(|version| version == entry.version));
        if named {
            self.change_config(&entry.id, |config| {
                config.versions.remove(&entry.version);
                config.traffic = std::mem::take(&mut config.traffic).without(&entry.version);
                config.previous_traffic = config.previous_traffic.take().map(|rule| rule.without(&entry.version));
            })
            .await?;
        }
        Ok(())
    }

    /// Removes a model with all its versions and what is set for it. Answers with the versions.
    ///
    /// # Errors
    /// No such model.
    pub async fn remove_model(&self, id: &str) -> Result<Vec<String>> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let versions = self.registry.versions(id)?;
        self.remove_whole(id).await?;
        Ok(versions.into_iter().map(|known| known.version).collect())
    }

    async fn remove_whole(&self, id: &str) -> Result<()> {
        let versions = self.registry.versions(id)?;
        self.repository.remove_model(id).await?;
        for known in versions {
            self.forget(&known.entry(), "removed").await;
        }
        if self.registry.default_image_model().as_deref() == Some(id) {
            self.repository.write_settings(&Settings { default_image_model: None }).await?;
            self.registry.set_default_image_model(None);
        }
        Ok(())
    }

    /// Lets go of a version that the store has no more, and of what was counted of it.
    pub(super) async fn forget(&self, entry: &Entry, reason: &str) {
        if let Err(error) = self.repository.drop_copies(entry).await {
            tracing::warn!(model = entry.id, version = entry.version, %error, "a copy of the version was left behind");
        }
        if self.registry.forget(entry).is_some() {
            self.metrics.forget_version(&entry.id, &entry.version);
            tracing::info!(model = entry.id, version = entry.version, reason, "version forgotten");
        }
    }

    fn check_without_role(&self, entry: &Entry, what: &str) -> Result<()> {
        let Entry { id, version } = entry;
        match self.registry.config(id).traffic.role_of(version) {
            None => Ok(()),
            Some(role) => Err(Error::new(
                ErrorCode::Conflict,
                format!(
                    "model {id}, version {version} cannot be {what}: the model's traffic rule names it ({role}); \
                     change the rule first, with PUT /models/{id}/traffic"
                ),
            )),
        }
    }

    /// Changes what is set for a model, in the store and then here. Called with the leave to change.
    pub(super) async fn change_config(&self, id: &str, change: impl Fn(&mut ModelConfig)) -> Result<Arc<ModelConfig>> {
        let (config, mark) = self.repository.change_config(id, change).await?;
        self.registry.set_config(id, config);
        self.registry.set_config_mark(id, mark);
        Ok(self.registry.config(id))
    }
}
