//! What operators change about a model's versions: which one serves, which are loaded, which are there at all.

use std::sync::Arc;

use super::load::Models;
use super::model_toml::ModelConfig;
use super::registry::{ModelVersion, State, cannot_serve};
use super::repository::{Entry, Settings};
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
        self.change_config(id, |config| exchange_traffic(config, &traffic)).await
    }

    /// Brings back the traffic rule before, and keeps the present one in its place.
    ///
    /// # Errors
    /// No such model, no rule before, or one that names a version which cannot take traffic any more.
    pub async fn roll_back_traffic(&self, id: &str) -> Result<Arc<ModelConfig>> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        self.registry.versions(id)?;
        // As the store has it: another host may have changed it a moment ago.
        let previous = self.repository.config(id).await?.previous_traffic.ok_or_else(|| {
            Error::new(
                ErrorCode::Conflict,
                format!("the traffic of model {id} was never changed, so nothing is before it"),
            )
        })?;
        self.check_traffic(id, &previous)?;
        self.change_config(id, |config| exchange_traffic(config, &previous)).await
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
        check_without_role(entry, &self.repository.config(&entry.id).await?, "unloaded")?;
        self.change_config(&entry.id, |config| config.version_mut(&entry.version).unloaded = true).await?;
        self.let_go(entry, State::Unloaded, "operator");
        Ok(())
    }

    /// Loads a model: versions that were unloaded, or could not serve, may be asked again. Answers when the one that requests
    /// come to serves, be it one that came to the store a moment ago.
    ///
    /// # Errors
    /// No such model, or that version cannot serve.
    pub async fn load_model(&self, id: &str) -> Result<()> {
        {
            let _change = self.changes.acquire().await.map_err(Error::internal)?;
            let versions = self.registry.versions(id)?;
            let config = self.registry.config(id);
            if versions.iter().any(|known| config.is_unloaded(&known.version)) {
                self.change_config(id, |config| config.versions.values_mut().for_each(|own| own.unloaded = false))
                    .await?;
            }
            for known in versions {
                self.registry.change(&known.entry(), |known| {
                    matches!(known.state, State::Unloaded | State::Failed(_)).then_some(State::Cold)
                });
            }
        }
        // One that is new here takes requests once it is loaded, which has begun.
        if let Some(coming) = self.registry.coming(id)? {
            self.ready_or_why_not(&coming.entry()).await?;
        }
        self.ready_or_why_not(&self.registry.find(id, None)?.entry()).await
    }

    /// Waits until a version is loaded. What is wrong with its files is for whoever laid them down to mend, and no fault of
    /// the host's own.
    async fn ready_or_why_not(&self, entry: &Entry) -> Result<()> {
        match self.ready(entry).await {
            Err(error) if error.code == ErrorCode::Internal => Err(cannot_serve(&entry.id, &entry.version, &error)),
            ready => ready.map(drop),
        }
    }

    /// Unloads all versions of a model until they are loaded again, those that the traffic rule names too; requests under way end
    /// with them.
    ///
    /// # Errors
    /// No such model, or a store that is gone.
    pub async fn unload_model(&self, id: &str) -> Result<()> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        let versions = self.registry.versions(id)?;
        let remembered = self.change_config(id, |config| {
            versions.iter().for_each(|known| config.version_mut(&known.version).unloaded = true);
        });
        match remembered.await {
            // A repository that is mounted read-only is unloaded from all the same.
            Err(error) if error.code == ErrorCode::Forbidden => {
                tracing::warn!(model = id, %error, "the model is unloaded until the next start");
            }
            remembered => drop(remembered?),
        }
        versions.iter().for_each(|known| self.let_go(&known.entry(), State::Unloaded, "operator"));
        Ok(())
    }

    /// Removes a version from the host and the store.
    ///
    /// # Errors
    /// No such version, or `Conflict` where the traffic rule names it.
    pub async fn remove_version(&self, entry: &Entry) -> Result<()> {
        let _change = self.changes.acquire().await.map_err(Error::internal)?;
        self.registry.find(&entry.id, Some(&entry.version))?;
        // As the store has it: another host may have uploaded a version, or changed the rule, a moment ago.
        let config = self.repository.config(&entry.id).await?;
        let others = self.repository.versions(&entry.id).await?.iter().any(|version| *version != entry.version);
        if others {
            check_without_role(entry, &config, "removed")?;
        }
        self.repository.remove_with_config(entry).await?;
        self.forget(entry, "removed").await;
        if self.repository.versions(&entry.id).await?.is_empty() {
            // What is set for a model goes with its last version.
            return self.remove_whole(&entry.id).await;
        }
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
        let versions = self.registry.versions(id).unwrap_or_default();
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

    /// Changes what is set for a model, in the store and then here. Called with the leave to change.
    pub(super) async fn change_config(&self, id: &str, change: impl Fn(&mut ModelConfig)) -> Result<Arc<ModelConfig>> {
        let (config, mark) = self.repository.change_config(id, change).await?;
        self.registry.set_config(id, config);
        self.registry.set_config_mark(id, mark);
        Ok(self.registry.config(id))
    }
}

/// Sets a rule and keeps the one before. The same rule again, as a client that tries again sends it, leaves both as they are.
fn exchange_traffic(config: &mut ModelConfig, rule: &Traffic) {
    if config.traffic != *rule {
        config.previous_traffic = Some(std::mem::replace(&mut config.traffic, rule.clone()));
    }
}

fn check_without_role(entry: &Entry, config: &ModelConfig, what: &str) -> Result<()> {
    let Entry { id, version } = entry;
    match config.traffic.role_of(version) {
        None => Ok(()),
        Some(role) => Err(Error::new(
            ErrorCode::Conflict,
            format!(
                "model {id}, version {version} cannot be {what}: the model's traffic rule names it ({role}); change the rule \
                 first, with PUT /models/{id}/traffic"
            ),
        )),
    }
}
