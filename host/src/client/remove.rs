//! `model-nexus models rm`: a model, or one version of it, is removed from a host.

use std::io::{IsTerminal, Write};

use clap::Args;
use serde_json::Value;

use super::api::Api;
use super::{HostOptions, ModelReference};

#[derive(Debug, Args)]
pub struct RemoveOptions {
    /// The model, with all its versions, or one version of it.
    #[arg(value_name = "ID[@VERSION]")]
    model: ModelReference,

    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,

    #[command(flatten)]
    host: HostOptions,
}

pub(super) async fn run(options: &RemoveOptions) -> Result<(), String> {
    let ModelReference { id, version } = &options.model;
    let api = Api::new(&options.host)?;
    if !options.yes {
        let what = match version {
            Some(version) => format!("{id}, version {version},"),
            None => format!("{id} with all its versions"),
        };
        confirm(format!("Remove {what} from {}?", options.host.url)).await?;
    }
    let removed = api.remove(id, version.as_deref()).await?;
    for version in removed["removed"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        println!("removed {id}, version {version}");
    }
    Ok(())
}

/// Asks the person at the terminal.
async fn confirm(question: String) -> Result<(), String> {
    if !std::io::stdin().is_terminal() {
        return Err("nobody is there to confirm it: standard input is no terminal; give --yes".to_owned());
    }
    let ask = move || {
        eprint!("{question} [y/N] ");
        std::io::stderr().flush()?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer)?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = tokio::task::spawn_blocking(ask).await.map_err(|error| error.to_string())?;
    let answer = answer.map_err(|error| error.to_string())?;
    if matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes") {
        Ok(())
    } else {
        Err("nothing is removed".to_owned())
    }
}
