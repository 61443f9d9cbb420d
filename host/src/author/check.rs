//! `plugin check`: whether this host takes a component, what it says of itself, and what it would need granted.

use std::fmt::{self, Display, Formatter};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{milliseconds, plugin_host, read, size};
use crate::config::PluginConfig;
use crate::digest::sha256_hex;
use crate::error::Error;
use crate::plugin::{Access, CONTRACT_VERSION, Grants, Import, Inspection, Manifest, Plugin, Wasm};

/// What `model-nexus plugin check` takes.
#[derive(Debug, Clone, Args)]
pub struct CheckOptions {
    /// The component.
    #[arg(value_name = "FILE.wasm")]
    pub file: PathBuf,

    /// Answer in JSON.
    #[arg(long)]
    pub json: bool,

    #[command(flatten, next_help_heading = "Limits, as of `serve`")]
    pub limits: PluginConfig,
}

pub(super) async fn run(options: &CheckOptions) -> Result<bool, String> {
    let verdict = Verdict::of(options).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&verdict).map_err(|error| error.to_string())?);
    } else {
        print!("{verdict}");
    }
    Ok(verdict.fits)
}

/// What there is to say of a component.
#[derive(Serialize)]
struct Verdict {
    file: String,
    fits: bool,
    /// Why it does not fit, as an upload would be answered.
    problem: Option<String>,
    sha256: String,
    size: usize,
    /// Taking it in: compiling it and asking it to describe itself.
    took_ms: f64,
    /// The contract it was built for.
    contract: Option<String>,
    host_contract: &'static str,
    imports: Vec<Import>,
    /// Whether it can bring a request of its own to be tried with.
    golden_export: bool,
    #[serde(flatten)]
    plugin: Option<Described>,
}

/// What a component that fits says of itself.
#[derive(Serialize)]
struct Described {
    name: String,
    version: String,
    stages: Vec<&'static str>,
    hosts: Vec<String>,
    config_schema: Value,
    snapshot: bool,
    no_snapshot: Option<String>,
    /// All that it can make use of, as the form field `grants` of an upload has it.
    grants: Value,
}

impl Verdict {
    async fn of(options: &CheckOptions) -> Result<Verdict, String> {
        let wasm = read(&options.file).await?;
        let host = plugin_host(&options.limits, &[])?;
        let inspection = Inspection::of(&wasm);
        let golden_export = inspection.has_golden();
        let Inspection { contract, imports, .. } = inspection;
        let (sha256, bytes) = (sha256_hex(&wasm), wasm.len());
        let limit = options.limits.max_plugin_bytes;
        let started = Instant::now();
        let loaded = if bytes as u64 > limit.as_u64() {
            Err(Error::invalid_input(format!("the component is larger than {limit} (--max-plugin-bytes)")))
        } else {
            host.load(Wasm::Held(wasm), Grants::default()).await
        };
        Ok(Verdict {
            file: options.file.display().to_string(),
            fits: loaded.is_ok(),
            problem: loaded.as_ref().err().map(|error| error.message.clone()),
            sha256,
            size: bytes,
            took_ms: milliseconds(started.elapsed()),
            contract,
            host_contract: CONTRACT_VERSION,
            plugin: loaded.ok().map(|plugin| Described::of(&plugin, &imports)),
            golden_export,
            imports,
        })
    }
}

impl Described {
    fn of(plugin: &Plugin, imports: &[Import]) -> Described {
        let Manifest { name, version, stages, config_schema, hosts } = &plugin.manifest;
        let uses = |access| imports.iter().any(|import| import.access == access);
        let mut grants = Map::new();
        if uses(Access::Hosts) {
            grants.insert("hosts".to_owned(), json!(hosts));
        }
        for (name, access) in [("clock", Access::Clock), ("random", Access::Random)] {
            if uses(access) {
                grants.insert(name.to_owned(), json!(true));
            }
        }
        Described {
            name: name.clone(),
            version: version.clone(),
            stages: stages.iter().map(|stage| stage.name()).collect(),
            hosts: hosts.clone(),
            // Checked when the plugin was loaded; an empty one is none.
            config_schema: serde_json::from_str(config_schema).unwrap_or_default(),
            snapshot: plugin.unfit_for_snapshots.is_none(),
            no_snapshot: plugin.unfit_for_snapshots.clone(),
            grants: grants.into(),
        }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (&self.plugin, &self.problem) {
            (Some(plugin), _) => writeln!(f, "{}@{} fits this host", plugin.name, plugin.version)?,
            (None, problem) => writeln!(f, "does not fit: {}", problem.as_deref().unwrap_or_default())?,
        }
        writeln!(f, "\nfile       {}, {}, sha256 {}", self.file, size(self.size), self.sha256)?;
        let contract = self.contract.as_deref().unwrap_or("none named");
        writeln!(f, "contract   nexus:plugin {contract}; this host speaks {}", self.host_contract)?;
        if let Some(plugin) = &self.plugin {
            plugin.fmt(f)?;
            let golden = if self.golden_export { "exported" } else { "not exported: a binding has to bring a request" };
            writeln!(f, "golden     {golden}")?;
            writeln!(f, "compiled   in {:.0} ms, with all that an upload does", self.took_ms)?;
        }
        self.write_imports(f)
    }
}

impl Verdict {
    fn write_imports(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.imports.is_empty() {
            return Ok(());
        }
        writeln!(f, "\nimports")?;
        let width = self.imports.iter().map(|import| import.interface.len()).max().unwrap_or_default();
        for Import { interface, access, means } in &self.imports {
            let access = match access {
                Access::Always => "always there",
                Access::Hosts => "grant \"hosts\"",
                Access::Clock => "grant \"clock\"",
                Access::Random => "grant \"random\"",
                Access::Never => "never granted",
                Access::Refused => "REFUSED",
            };
            writeln!(f, "  {interface:width$}  {access:14}  {means}")?;
        }
        match &self.plugin {
            Some(Described { grants: Value::Object(grants), .. }) if !grants.is_empty() => writeln!(
                f,
                "\nImporting is not needing. All that it could be granted, as `grants` of an upload:\n  {}",
                Value::Object(grants.clone())
            ),
            _ => Ok(()),
        }
    }
}

impl Display for Described {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "stages     {}", self.stages.join(", "))?;
        if !self.hosts.is_empty() {
            writeln!(f, "hosts      asks for {}", self.hosts.join(", "))?;
        }
        match &self.no_snapshot {
            None => writeln!(f, "init       runs once a binding; its memory can be kept")?,
            Some(why) => writeln!(f, "init       runs in each request: {why}")?,
        }
        self.write_config(f)
    }
}

impl Described {
    /// The configuration's fields, as the schema describes them.
    fn write_config(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(fields) = self.config_schema["properties"].as_object().filter(|fields| !fields.is_empty()) else {
            return writeln!(f, "config     none");
        };
        let required = |name: &str| {
            let required = self.config_schema["required"].as_array();
            required.is_some_and(|required| required.iter().any(|field| field == name))
        };
        for (index, (name, schema)) in fields.iter().enumerate() {
            let heading = if index == 0 { "config" } else { "" };
            let required = if required(name) { " (required)" } else { "" };
            let description = schema["description"].as_str().unwrap_or_default().replace('\n', " ");
            writeln!(f, "{heading:10} {name}{required}  {description}")?;
        }
        Ok(())
    }
}
