//! Misbehaves on request: what `do` names happens at `stage`, and the host's tests watch the sandbox hold.
#![cfg(target_family = "wasm")]

mod acts;
mod outputs;
mod peek;

use std::sync::atomic::{AtomicU32, Ordering};

use nexus_guest::{Error, Manifest, Model, Plugin, Request, Response, Stage, Tensor, TensorSpec, http};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// What to do, and when. Everything else the plugin does is proper: see [`Act::Ok`].
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The stage at which it happens.
    #[serde(default)]
    stage: When,
    /// What happens.
    #[serde(default, rename = "do")]
    act: Act,
    /// How many: bytes of the outputs, lines of the log, seconds of the sleep. Each act has its default.
    count: Option<u64>,
    /// What `fetch` fetches where the request names no `url`.
    url: Option<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum When {
    Init,
    #[default]
    Preprocess,
    Postprocess,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Act {
    /// Four floats `x` of the JSON body become an FP32 tensor [1,4]; the answer tells of the outputs.
    #[default]
    Ok,
    Loop,
    Recurse,
    Memory,
    MemoryReport,
    Trap,
    Panic,
    Exit,
    InvalidInput,
    PluginError,
    HugeError,
    LogFlood,
    LogHuge,
    StdoutFlood,
    Sleep,
    Handles,
    Random,
    Fetch,
    /// `fetch` of a server the test makes slow.
    SlowFetch,
    Clock,
    Env,
    Files,
    /// The answer's `state` is there in any case; this names a test's purpose.
    State,
    // As preprocess's tensors:
    HugeOutput,
    ManyTensors,
    NoTensors,
    BadShape,
    OverflowShape,
    WrongName,
    WrongDatatype,
    ExtraTensor,
    // As postprocess's answer (`huge-output` too):
    BadUtf8Json,
    BrokenJson,
    JsonArray,
    OtherType,
}

/// Counts preprocess calls in memory the host has to throw away between requests.
static CALLS: AtomicU32 = AtomicU32::new(0);

struct Hostile {
    config: Config,
    input: TensorSpec,
    /// What the act saw; postprocess answers with it.
    seen: Map<String, Value>,
}

impl Plugin for Hostile {
    type Config = Config;

    fn manifest() -> Manifest {
        let stages = [Stage::Preprocess, Stage::Postprocess];
        Manifest::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), stages).hosts(["*"])
    }

    fn init(model: Model, config: Config) -> Result<Self, Error> {
        let input = model.inputs.into_iter().next().unwrap_or_default();
        let mut hostile = Hostile { config, input, seen: Map::new() };
        hostile.act(When::Init, None)?;
        Ok(hostile)
    }

    fn preprocess(&mut self, request: Request) -> Result<Vec<Tensor>, Error> {
        CALLS.fetch_add(1, Ordering::Relaxed);
        let body: Value = request.json().unwrap_or_default();
        self.act(When::Preprocess, body["url"].as_str())?;
        let features = features(&body)?;
        let act = if self.config.stage == When::Preprocess { self.config.act } else { Act::Ok };
        outputs::tensors(act, self.config.count, &self.input.name, features)
    }

    fn postprocess(&mut self, outputs: Vec<Tensor>) -> Result<Response, Error> {
        self.act(When::Postprocess, None)?;
        let mut answer = std::mem::take(&mut self.seen);
        answer.insert("ok".into(), json!(true));
        answer.insert("state".into(), json!(CALLS.load(Ordering::Relaxed)));
        let outputs = outputs.iter().map(|output| {
            json!({ "name": output.name, "datatype": output.datatype, "shape": output.shape, "bytes": output.data.len() })
        });
        answer.insert("outputs".into(), outputs.collect());
        let act = if self.config.stage == When::Postprocess { self.config.act } else { Act::Ok };
        outputs::response(act, self.config.count, &answer)
    }
}

impl Hostile {
    /// Does what the configuration asks of this stage. Acts that are about what a stage returns are in `outputs`.
    fn act(&mut self, now: When, url: Option<&str>) -> Result<(), Error> {
        if self.config.stage != now {
            return Ok(());
        }
        let count = self.config.count;
        let seen = match self.config.act {
            Act::Loop => acts::endless_loop(),
            Act::Recurse => json!({ "depth": acts::endless_recursion(0) }),
            Act::Memory => acts::eat_memory(),
            Act::MemoryReport => json!({ "allocated_bytes": acts::allocate_until_refused() }),
            Act::Trap => std::arch::wasm32::unreachable(),
            #[allow(clippy::panic)]
            Act::Panic => panic!("hostile panic 42"),
            Act::Exit => std::process::exit(0),
            Act::InvalidInput => return Err(Error::invalid_input("hostile invalid input 42")),
            Act::PluginError => return Err(Error::plugin("hostile plugin error 42")),
            Act::HugeError => return Err(Error::plugin("x".repeat(count.unwrap_or(64 << 20) as usize))),
            Act::LogFlood => acts::log_lines(count.unwrap_or(1_000_000)),
            Act::LogHuge => acts::log_one_line(count.unwrap_or(64 << 20)),
            Act::StdoutFlood => acts::print(count.unwrap_or(1 << 30)),
            Act::Sleep => acts::sleep(count.unwrap_or(3600)),
            Act::Handles => acts::open_handles(count.unwrap_or(10_000_000)),
            Act::Random => json!({ "random_bytes": acts::random_bytes(count.unwrap_or(1 << 40)) }),
            Act::Fetch | Act::SlowFetch => fetch(url.or(self.config.url.as_deref()).unwrap_or_default()),
            Act::Clock => peek::clock(),
            Act::Env => peek::environment(),
            Act::Files => peek::files(),
            _ => json!({}),
        };
        if let Value::Object(seen) = seen {
            self.seen.extend(seen);
        }
        Ok(())
    }
}

/// A failed fetch is reported in the answer too, so that tests can read why.
fn fetch(url: &str) -> Value {
    let fetched = match http::get(url, 1 << 20, "*/*") {
        Ok(answer) => json!({ "url": answer.url, "status": answer.status, "length": answer.body.len() }),
        Err(error) => json!({ "error": error.message() }),
    };
    json!({ "fetch": fetched })
}

/// The four floats `x`; zeros where the body has none, since most tests are not about them.
fn features(body: &Value) -> Result<[f32; 4], Error> {
    match body.get("x") {
        None => Ok([0.0; 4]),
        Some(x) => serde_json::from_value(x.clone())
            .map_err(|error| Error::invalid_input(format!("`x` has to be four numbers: {error}"))),
    }
}

nexus_guest::export!(Hostile);
