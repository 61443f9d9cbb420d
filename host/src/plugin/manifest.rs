//! What a plugin says of itself, checked.

use serde::{Deserialize, Serialize};

use super::bindings::v0_1::nexus::plugin::types;

/// Most that a manifest may hold, in bytes, and in hosts or stages.
const MANIFEST_BYTES: usize = 256 << 10;
const MANIFEST_ITEMS: usize = 100;

/// A call into a plugin. A manifest names the two that a request goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Describe,
    Init,
    /// Asked for a golden request.
    Golden,
    Preprocess,
    Postprocess,
}

impl Stage {
    pub fn name(self) -> &'static str {
        match self {
            Stage::Describe => "describe",
            Stage::Init => "init",
            Stage::Golden => "golden",
            Stage::Preprocess => "preprocess",
            Stage::Postprocess => "postprocess",
        }
    }
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    /// Preprocess, postprocess or both.
    pub stages: Vec<Stage>,
    /// JSON Schema of the configuration; empty where there is none.
    pub config_schema: String,
    /// Hosts the plugin would like to fetch from. The operator grants; this asks.
    pub hosts: Vec<String>,
}

impl Manifest {
    /// Checks what `describe` returned; an error says what is wrong with it.
    pub(super) fn check(manifest: types::Manifest) -> Result<Manifest, String> {
        for (field, value) in [("name", &manifest.name), ("version", &manifest.version)] {
            if !is_id(value) {
                return Err(format!(
                    "its {field} is {value:?}, which does not match [A-Za-z0-9][A-Za-z0-9._-]{{0,127}}"
                ));
            }
        }
        let size = manifest.config_schema.len() + manifest.hosts.iter().map(String::len).sum::<usize>();
        if size > MANIFEST_BYTES || manifest.hosts.len().max(manifest.stages.len()) > MANIFEST_ITEMS {
            return Err(format!("its manifest is over {MANIFEST_BYTES} bytes or {MANIFEST_ITEMS} hosts or stages"));
        }
        let mut stages = Vec::new();
        for name in &manifest.stages {
            let stage = match name.as_str() {
                "preprocess" => Stage::Preprocess,
                "postprocess" => Stage::Postprocess,
                _ => {
                    return Err(format!(
                        "it names a stage {:?}; there are \"preprocess\" and \"postprocess\"",
                        name.chars().take(200).collect::<String>()
                    ));
                }
            };
            if !stages.contains(&stage) {
                stages.push(stage);
            }
        }
        if stages.is_empty() {
            return Err("it names no stage; it needs \"preprocess\", \"postprocess\" or both".to_owned());
        }
        let types::Manifest { name, version, config_schema, hosts, .. } = manifest;
        Ok(Manifest { name, version, stages, config_schema, hosts })
    }

    /// `name@version`, as pipelines name a plugin.
    pub fn reference(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    pub fn has(&self, stage: Stage) -> bool {
        self.stages.contains(&stage)
    }
}

fn is_id(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 128
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, stages: &[&str]) -> Result<Manifest, String> {
        Manifest::check(types::Manifest {
            name: name.to_owned(),
            version: "1.0.0".to_owned(),
            stages: stages.iter().map(|stage| (*stage).to_owned()).collect(),
            config_schema: String::new(),
            hosts: Vec::new(),
        })
    }

    #[test]
    fn a_manifest_names_itself_and_its_stages() {
        let manifest = check("image-classifier", &["preprocess", "preprocess"]).map(|manifest| manifest.stages);
        assert_eq!(manifest, Ok(vec![Stage::Preprocess]));
        assert!(check("../etc", &["preprocess"]).is_err());
        assert!(check("", &["preprocess"]).is_err());
        assert!(check("x", &["infer"]).is_err());
        assert!(check("x", &[]).is_err());
    }
}
