//! The registry's metadata: signed anew in time, and told to every node.

use super::{Plane, show_news};
use crate::registry::{
    self,
    tuf::{Brought, Keeper, TufError},
};
use nearfield_shared::{
    artefact::{Digest, Manifest, SignedManifest},
    link::RegistryOffer,
};
use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError},
    time::Duration,
};
use tokio::sync::watch;

/// How often it is looked at. A timestamp lasts an hour at least, and is signed anew at half of its time.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The least time between two looks, however many nodes find that what they were told has ended.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

impl Plane {
    /// Follows the registry's metadata, with its newest root.
    pub fn follow_registry(&self) -> watch::Receiver<Option<(Arc<RegistryOffer>, String)>> {
        self.registry.subscribe()
    }

    /// The registry's newest root metadata.
    pub fn registry_root(&self) -> Option<String> {
        self.registry.borrow().as_ref().map(|(_, root)| root.clone())
    }

    /// Models that nodes may be told to have: those that were imported, and those that the regions name.
    fn models_in_use(&self) -> std::io::Result<Vec<(Manifest, SignedManifest)>> {
        let imported = registry::list(&registry::Store::from(&self.dir), &self.signing_public_key)?;
        let mut models: Vec<_> = imported.into_iter().map(|model| (model.manifest, model.signed)).collect();
        let named: Vec<SignedManifest> = self.look(|fleet| fleet.named_models().cloned().collect());
        for signed in named {
            if !models.iter().any(|(_, known)| *known == signed)
                && let Ok(manifest) = signed.verify(&self.signing_public_key)
            {
                models.push((manifest, signed));
            }
        }
        Ok(models)
    }

    /// What a model is whose file has this digest, if nodes may ask for it.
    pub fn manifest_of(&self, digest: &Digest) -> Option<Arc<Manifest>> {
        self.manifests.read().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn bring_registry(&self, takes_over: bool) -> Result<Brought, TufError> {
        let models = self.models_in_use().map_err(|error| TufError::Io { path: self.dir.models(), error })?;
        let of_files = models.iter().map(|(manifest, _)| (manifest.digest, Arc::new(manifest.clone()))).collect();
        *self.manifests.write().unwrap_or_else(PoisonError::into_inner) = of_files;
        let keeper = Keeper::new(&self.dir, self.config.registry, self.now());
        if takes_over { keeper.take_over(&models) } else { keeper.bring_up_to_date(&models, &BTreeSet::new()) }
    }

    /// Lists what was imported, signs what is due, and tells every node. What is wrong is logged, once: nodes go on with what they were told.
    pub async fn refresh_registry(self: &Arc<Self>) {
        self.look_after_registry(false).await;
    }

    /// The same, where this control plane begins to lead in the place of another, which may have signed since this one did.
    pub async fn take_over_registry(self: &Arc<Self>) {
        self.look_after_registry(true).await;
    }

    async fn look_after_registry(self: &Arc<Self>, takes_over: bool) {
        let plane = Arc::clone(self);
        let brought = tokio::task::spawn_blocking(move || plane.bring_registry(takes_over)).await;
        let said = match brought {
            Ok(Ok(brought)) => {
                let offer = Arc::new(RegistryOffer::new(brought.metadata.told()));
                let root = brought.metadata.root_text().unwrap_or_default().to_owned();
                if show_news(&self.registry, Some((offer, root))) {
                    tracing::info!("nodes are told the registry's newest metadata");
                }
                brought.to_do
            }
            Ok(Err(error)) => vec![error.to_string()],
            Err(panic) => vec![format!("looking after the registry's metadata failed: {panic}")],
        };
        let mut said_before = super::locked(&self.registry_said);
        for what in said.iter().filter(|what| !said_before.contains(what)) {
            tracing::error!(what, "the registry's metadata needs a person");
        }
        *said_before = said;
    }

    /// A node finds that what it was told has ended: the clock of a machine that slept has jumped.
    pub fn touch_registry(&self) {
        self.registry_ended.notify_one();
    }

    /// Looks at it from time to time and when a node asks for it, for ever.
    pub(super) async fn keep_registry(self: &Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = self.registry_ended.notified() => {}
            }
            self.refresh_registry().await;
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}
