//! The `model-nexus` binary: options, log, start, serve; and the commands beside it.

use std::process::ExitCode;
use std::sync::Arc;

use model_nexus::app::App;
use model_nexus::config::{Cli, Command, Config, HealthOptions};
use model_nexus::model::{Runtime, admission};
use model_nexus::{author, client, server, telemetry};

fn main() -> ExitCode {
    let ended = Cli::from_process().map_err(|error| format!(".env: {error}")).and_then(run);
    match ended {
        Ok(code) => code,
        Err(problem) => {
            eprintln!("model-nexus: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, String> {
    match cli.command {
        Command::Serve(config) => with_runtime(async { serve(*config).await.map(|()| ExitCode::SUCCESS) }),
        Command::Health(options) => with_runtime(async { health(&options).await.map(|()| ExitCode::SUCCESS) }),
        Command::Models(command) => with_runtime(client::run(*command)),
        Command::Predict(options) => with_runtime(client::predict(*options)),
        Command::Plugin(command) => with_runtime(author::run(*command)),
        // Limits itself while it has one thread.
        Command::Admit(options) => admission::run(&options).map(|()| ExitCode::SUCCESS),
    }
}

fn with_runtime(work: impl Future<Output = Result<ExitCode, String>>) -> Result<ExitCode, String> {
    let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
    let ended = runtime.block_on(work);
    // A request that outlived the drain timeout does not keep the process alive.
    runtime.shutdown_background();
    ended
}

async fn serve(config: Config) -> Result<(), String> {
    // Dropped last: what is still to be logged is written then.
    let _log = telemetry::start(&config.log, config.log_format)?;
    let mut asked_to_end = std::pin::pin!(server::asked_to_end().map_err(|error| error.to_string())?);
    let runtime = Runtime::load(config.onnxruntime.library())?;
    let app = tokio::select! {
        started = App::start(config, runtime) => started.map_err(|error| error.to_string())?,
        // Nothing was taken on yet, so there is nothing to drain.
        () = &mut asked_to_end => return Ok(()),
    };
    server::serve(Arc::new(app), asked_to_end).await.map_err(|error| error.to_string())
}

async fn health(options: &HealthOptions) -> Result<(), String> {
    let mut url = options.url.join("/health").map_err(|error| error.to_string())?;
    if options.port.is_some() && url.set_port(options.port).is_err() {
        return Err(format!("{url} takes no port"));
    }
    let client = reqwest::Client::builder().no_proxy().timeout(std::time::Duration::from_secs(5)).build();
    let client = client.map_err(|error| error.to_string())?;
    let response = client.get(url).send().await.map_err(|error| error.to_string())?;
    let status = response.status();
    println!("{}", response.text().await.map_err(|error| error.to_string())?);
    if status.is_success() { Ok(()) } else { Err(format!("unhealthy: {status}")) }
}
