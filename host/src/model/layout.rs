//! Where a store keeps models: in this host's own layout, or in that of another server, which is served as it is.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::check_name;
use super::repository::{Entry, MARKER};
use crate::store::{self, Mark};

pub(super) const MODEL: &str = "model.onnx";
pub(super) const SIDECAR: &str = "model_info.json";
pub(super) const LABELS: &str = "labels.json";
pub(super) const CONFIG: &str = "model.toml";
/// Says that a model is being deleted; none of its versions is visible from then on.
pub(super) const TOMBSTONE: &str = "deleted.json";

/// How the paths of a store read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Layout {
    /// `models/<id>/<version>/model.onnx`.
    Own,
    /// `<id>/<version>/model.onnx`: a Triton repository, or what KServe mounts of one.
    Triton,
    /// `<version>/model.onnx`: one model's folder.
    OneModel { id: String },
    /// `model.onnx`: one version's folder. The version is called 1.
    OneVersion { id: String },
}

/// What an object of the store is of.
pub(super) enum Place {
    Model { id: String, file: String },
    Version { entry: Entry, file: String },
}

impl Layout {
    /// The layout of a store with these objects. `name` is the id of a model whose folder does not tell it.
    pub(super) fn detect(objects: &[store::Entry], name: &str) -> Layout {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let paths = objects.iter().map(|object| object.path.split('/').collect::<Vec<_>>());
        // The shallowest model tells: what lies deeper may be its data.
        let found = paths.filter_map(|parts| match parts[..] {
            ["models", _, _, MODEL] | [MARKER] => Some((0, Layout::Own)),
            [MODEL] => Some((1, Layout::OneVersion { id: name.to_owned() })),
            [version, MODEL] if is_number(version) => Some((2, Layout::OneModel { id: name.to_owned() })),
            [_, version, MODEL] if is_number(version) => Some((3, Layout::Triton)),
            _ => None,
        });
        found.min_by_key(|(depth, _)| *depth).map_or(Layout::Own, |(_, layout)| layout)
    }

    /// Whether uploads have a place in it.
    pub(super) fn takes_uploads(&self) -> bool {
        matches!(self, Layout::Own | Layout::Triton)
    }

    /// The folder of all models.
    pub(super) fn root(&self) -> &'static str {
        if *self == Layout::Own { "models" } else { "" }
    }

    pub(super) fn of_model(&self, id: &str, file: &str) -> String {
        match self {
            Layout::Own => join(&["models", id, file]),
            Layout::Triton => join(&[id, file]),
            Layout::OneModel { .. } | Layout::OneVersion { .. } => file.to_owned(),
        }
    }

    pub(super) fn of_version(&self, entry: &Entry, file: &str) -> String {
        match self {
            Layout::OneVersion { .. } => file.to_owned(),
            _ => self.of_model(&entry.id, &join(&[&entry.version, file])),
        }
    }

    /// What a path is of; `None` where it is nothing of a model.
    pub(super) fn place(&self, path: &str) -> Option<Place> {
        let (id, rest) = match self {
            Layout::Own => path.strip_prefix("models/")?.split_once('/')?,
            Layout::Triton => path.split_once('/')?,
            Layout::OneModel { id } | Layout::OneVersion { id } => (id.as_str(), path),
        };
        check_name("id", id).ok()?;
        let id = id.to_owned();
        let (version, file) = match (self, rest.split_once('/')) {
            (Layout::OneVersion { .. }, _) if rest != CONFIG => ("1", rest),
            (_, Some(parts)) => parts,
            (_, None) => return Some(Place::Model { id, file: rest.to_owned() }),
        };
        check_name("version", version).ok()?;
        Some(Place::Version { entry: Entry { id, version: version.to_owned() }, file: file.to_owned() })
    }
}

/// What a store holds at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By id: models with a visible version or a configuration.
    pub models: BTreeMap<String, ModelMarks>,
    /// Versions with some file, but no model.
    pub(super) partial: Vec<Partial>,
    /// Ids of models that are being deleted, and since when.
    pub(super) deleted: BTreeMap<String, DateTime<Utc>>,
}

/// What is there of a model.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ModelMarks {
    /// Visible versions.
    pub versions: BTreeMap<String, VersionMarks>,
    /// Of `model.toml`.
    pub config: Option<Mark>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionMarks {
    /// Of `model.onnx`.
    pub model: Mark,
    /// Of `model_info.json`.
    pub sidecar: Option<Mark>,
}

impl VersionMarks {
    /// Whether it was removed and uploaded anew. A model that changed under its sidecar was not: that is damage.
    pub(super) fn is_replaced_by(&self, now: &VersionMarks) -> bool {
        self.model != now.model && (self.sidecar.is_none() || self.sidecar != now.sidecar)
    }
}

#[derive(Debug)]
pub(super) struct Partial {
    pub(super) entry: Entry,
    /// Publishing begins with a sidecar. What has none is somebody's own.
    pub(super) has_sidecar: bool,
    /// When its youngest file was written.
    pub(super) changed: DateTime<Utc>,
}

/// The files of one version.
#[derive(Default)]
struct Files {
    model: Option<Mark>,
    sidecar: Option<Mark>,
    changed: DateTime<Utc>,
}

impl Snapshot {
    pub(super) fn of(layout: &Layout, objects: Vec<store::Entry>) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let mut versions: BTreeMap<Entry, Files> = BTreeMap::new();
        for object in objects {
            match layout.place(&object.path) {
                Some(Place::Version { entry, file }) => versions.entry(entry).or_default().add(&file, object),
                Some(Place::Model { id, file }) if file == CONFIG => {
                    snapshot.models.entry(id).or_default().config = Some(object.mark);
                }
                Some(Place::Model { id, file }) if file == TOMBSTONE => {
                    snapshot.deleted.insert(id, object.modified);
                }
                _ => {}
            }
        }
        for (entry, files) in versions {
            let Files { model, sidecar, changed } = files;
            match model {
                Some(model) => {
                    let versions = &mut snapshot.models.entry(entry.id).or_default().versions;
                    versions.insert(entry.version, VersionMarks { model, sidecar });
                }
                None => snapshot.partial.push(Partial { entry, has_sidecar: sidecar.is_some(), changed }),
            }
        }
        snapshot.models.retain(|id, _| !snapshot.deleted.contains_key(id));
        snapshot
    }

    /// All visible versions, with their marks.
    pub fn versions(&self) -> impl Iterator<Item = (Entry, VersionMarks)> {
        self.models.iter().flat_map(|(id, model)| {
            let of = |(version, marks): (&String, &VersionMarks)| {
                (Entry { id: id.clone(), version: version.clone() }, marks.clone())
            };
            model.versions.iter().map(of).collect::<Vec<_>>()
        })
    }

    /// All visible versions.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        let versions = |(id, model): (&String, &ModelMarks)| {
            let of = |version: &String| Entry { id: id.clone(), version: version.clone() };
            model.versions.keys().map(of).collect::<Vec<_>>()
        };
        self.models.iter().flat_map(versions)
    }
}

impl Files {
    fn add(&mut self, file: &str, object: store::Entry) {
        self.changed = self.changed.max(object.modified);
        match file {
            MODEL => self.model = Some(object.mark),
            SIDECAR => self.sidecar = Some(object.mark),
            _ => {}
        }
    }
}

fn join(parts: &[&str]) -> String {
    parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/")
}
