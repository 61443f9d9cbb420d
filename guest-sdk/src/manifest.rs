//! What a plugin says of itself.

/// Name, version, stages and wishes of a plugin. The configuration's JSON Schema is added from [`crate::Plugin::Config`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub name: String,
    pub version: String,
    pub stages: Vec<Stage>,
    /// Hosts the plugin would like to reach over HTTP, "*" for any. The operator grants; this asks.
    pub hosts: Vec<String>,
}

impl Manifest {
    /// A manifest that asks for no network. `env!("CARGO_PKG_NAME")` and `env!("CARGO_PKG_VERSION")` fit the first two.
    pub fn new(name: &str, version: &str, stages: impl Into<Vec<Stage>>) -> Self {
        Manifest { name: name.to_owned(), version: version.to_owned(), stages: stages.into(), hosts: Vec::new() }
    }

    /// Asks for the hosts named.
    pub fn hosts<'a>(mut self, hosts: impl IntoIterator<Item = &'a str>) -> Self {
        self.hosts = hosts.into_iter().map(str::to_owned).collect();
        self
    }
}

/// A place in the pipeline a plugin can fill.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Preprocess,
    Postprocess,
}

impl Stage {
    /// The name the contract uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Preprocess => "preprocess",
            Stage::Postprocess => "postprocess",
        }
    }
}
