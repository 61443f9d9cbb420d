//! Misbehaves on request: what `do` names happens at `stage`, and the host's tests watch the sandbox hold.
#![cfg(target_family = "wasm")]

mod acts;
mod outputs;
mod peek;
mod raw_http;
mod sockets;

use std::sync::atomic::{AtomicU32, Ordering};

use nexus_guest::{Error, Manifest, Model, Plugin, Request, Response, Stage, Tensor, TensorSpec, http, log};
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
    /// Never ends, and never calls the host.
    Loop,
    /// Never ends, and calls the host all the time.
    LoopCalls,
    /// Calls itself until the stack is gone.
    Recurse,
    /// Allocates until refused, and aborts.
    Memory,
    /// Allocates until refused, and goes on.
    MemoryReport,
    /// Looks for what an earlier instance left in its memory, and leaves something.
    Residue,
    /// Executes `unreachable`.
    Trap,
    /// Panics with a message.
    Panic,
    /// Ends the program as if all were well.
    Exit,
    /// Blames the client.
    InvalidInput,
    /// Fails by itself.
    PluginError,
    /// Fails with a message of `count` bytes.
    HugeError,
    /// Fails with a message that is not UTF-8.
    BadUtf8Error,
    /// Logs `count` lines.
    LogFlood,
    /// Logs one line of `count` bytes.
    LogHuge,
    /// Logs a line that is not UTF-8.
    LogBadUtf8,
    /// Prints `count` bytes without a line's end.
    StdoutFlood,
    /// Sleeps in a host call.
    Sleep,
    /// Makes host-side objects and keeps them.
    Handles,
    /// Asks for `count` random bytes at once.
    Random,
    /// Shows what the host takes for random.
    Dice,
    /// GETs a URL, as a proper plugin does.
    Fetch,
    /// `fetch` of a server the test makes slow.
    SlowFetch,
    /// Sends a URL as it stands, with a Host header of its own and a body of `count` bytes.
    FetchRaw,
    /// Sends a request and does not wait for its answer.
    FetchAndForget,
    /// Reads the clocks.
    Clock,
    /// Reads variables, arguments and stdin.
    Env,
    /// Reads and writes files.
    Files,
    /// Connects, listens, sends and asks for names, past HTTP.
    Sockets,
    /// The answer's `state` is there in any case; this names a test's purpose.
    State,
    // As preprocess's tensors:
    /// A tensor of `count` bytes.
    HugeOutput,
    /// `count` tensors.
    ManyTensors,
    /// None.
    NoTensors,
    /// A shape that takes more than the data has.
    BadShape,
    /// A shape whose product overflows.
    OverflowShape,
    /// An axis of -1.
    NegativeShape,
    /// An axis of 0: proper, though few models like it.
    ZeroSize,
    /// No data, and axes that multiply to 0 past an overflow.
    ZeroByOverflow,
    /// A shape of `count` axes, which agrees with the data.
    HugeShape,
    /// A name of `count` bytes.
    HugeName,
    /// A name the model does not know.
    WrongName,
    /// A name that is not UTF-8.
    BadUtf8,
    /// A datatype the model does not take.
    WrongDatatype,
    /// A datatype nobody knows, `count` bytes long.
    UnknownDatatype,
    /// A BYTES tensor whose element is not UTF-8, as it may be.
    BytesBadUtf8,
    /// A BYTES tensor whose element runs past the end.
    BytesTruncated,
    /// The good tensor twice.
    TwiceTensor,
    /// One more than the model has inputs.
    ExtraTensor,
    // As postprocess's answer (`huge-output` and `bad-utf8` too):
    /// JSON that is not UTF-8.
    BadUtf8Json,
    /// JSON cut off.
    BrokenJson,
    /// JSON, but no object.
    JsonArray,
    /// Text.
    OtherType,
}

/// Counts preprocess calls in memory the host has to throw away between requests.
static CALLS: AtomicU32 = AtomicU32::new(0);

/// `describe` takes no configuration: its act lies in the component itself, where tests overwrite it.
static DESCRIBE: [u8; 32] = *b"act of describe: ok             ";

struct Hostile {
    config: Config,
    input: TensorSpec,
    /// What the act saw; postprocess answers with it.
    seen: Map<String, Value>,
}

impl Plugin for Hostile {
    type Config = Config;

    fn manifest() -> Manifest {
        let describe = std::hint::black_box(&DESCRIBE);
        let act = String::from_utf8_lossy(&describe[16..]).trim().to_owned();
        let name = match act.as_str() {
            "bad-utf8" => outputs::not_utf8(),
            "bad-name" => "../etc".to_owned(),
            _ => env!("CARGO_PKG_NAME").to_owned(),
        };
        if let Ok(act) = Act::deserialize(Value::String(act)) {
            // `describe` cannot return an error; the acts tried here end in none.
            drop(perform(act, None, ""));
        }
        Manifest::new(&name, env!("CARGO_PKG_VERSION"), [Stage::Preprocess, Stage::Postprocess]).hosts(["*"])
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
        if self.config.act != Act::Ok {
            log::info!("hostile means it");
        }
        let url = url.or(self.config.url.as_deref()).unwrap_or_default();
        if let Value::Object(seen) = perform(self.config.act, self.config.count, url)? {
            self.seen.extend(seen);
        }
        Ok(())
    }
}

/// Does an act, and tells what it saw.
fn perform(act: Act, count: Option<u64>, url: &str) -> Result<Value, Error> {
    Ok(match act {
        Act::Loop => acts::endless_loop(),
        Act::LoopCalls => acts::endless_calls(),
        Act::Recurse => json!({ "depth": acts::endless_recursion(0) }),
        Act::Memory => acts::eat_memory(),
        Act::MemoryReport => json!({ "allocated_bytes": acts::allocate_until_refused() }),
        Act::Residue => json!({ "residue_bytes": acts::residue(count.unwrap_or(16 << 20)) }),
        Act::Trap => std::arch::wasm32::unreachable(),
        #[allow(clippy::panic)]
        Act::Panic => panic!("hostile panic 42"),
        Act::Exit => std::process::exit(0),
        Act::InvalidInput => return Err(Error::invalid_input("hostile invalid input 42")),
        Act::PluginError => return Err(Error::plugin("hostile plugin error 42")),
        Act::HugeError => return Err(Error::plugin("x".repeat(count.unwrap_or(64 << 20) as usize))),
        Act::BadUtf8Error => return Err(Error::plugin(outputs::not_utf8())),
        Act::LogFlood => acts::log_lines(count.unwrap_or(1_000_000)),
        Act::LogHuge => acts::log_one_line(count.unwrap_or(64 << 20)),
        Act::LogBadUtf8 => acts::log_bad_utf8(),
        Act::StdoutFlood => acts::print(count.unwrap_or(1 << 30)),
        Act::Sleep => acts::sleep(count.unwrap_or(3600)),
        Act::Handles => acts::open_handles(count.unwrap_or(10_000_000)),
        Act::Random => json!({ "random_bytes": acts::random_bytes(count.unwrap_or(1 << 40)) }),
        Act::Dice => peek::dice(),
        Act::Fetch | Act::SlowFetch => fetch(url, count.unwrap_or(1)),
        Act::FetchRaw => raw_http::fetch(url, count.unwrap_or(0)),
        Act::FetchAndForget => raw_http::fetch_and_forget(url),
        Act::Clock => peek::clock(),
        Act::Env => peek::environment(),
        Act::Files => peek::files(),
        Act::Sockets => sockets::attempts(url),
        _ => json!({}),
    })
}

/// Fetches `count` times. A failed fetch is reported in the answer too, so that tests can read why.
fn fetch(url: &str, count: u64) -> Value {
    let mut fetched = Value::Null;
    for _ in 0..count {
        fetched = match http::get(url, 1 << 20, "*/*") {
            Ok(answer) => json!({ "url": answer.url, "status": answer.status, "length": answer.body.len() }),
            Err(error) => json!({ "error": error.message() }),
        };
    }
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
