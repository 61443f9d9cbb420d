//! One request's instance: what the host adds to wasmtime, how often a tensor is copied, how fast a picture is read.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use model_nexus::app::App;
use model_nexus::config::{Cli, Command};
use model_nexus::model::{Pipeline, Runtime, StageBinding};
use model_nexus::pipeline::{Payload, Trace};
use model_nexus::plugin::{
    Binding, EgressPolicy, Grants, Instance, ModelDescription, PluginHost, PluginLimits, Request, Wasm,
};
use model_nexus::predict::{Target, predict};
use model_nexus::tensor::{Data, DataType, Tensor, TensorSpec};
use model_nexus::terms::Terms;
use model_nexus::value::Value;
use wasmtime::component::{Component, InstancePre, Linker, ResourceTable};
use wasmtime::{Config, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, Store};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};

use super::{component, fixture, medians, scaler, time};
use crate::table::{Row, Table};

const IRIS: [f32; 4] = [5.1, 3.5, 1.4, 0.2];

/// A trivial plugin's share of a request, beside a fresh instance and one call in wasmtime alone.
pub async fn trivial() -> Row {
    let store = tempfile::tempdir().unwrap();
    let app = iris_with_scaler(store.path()).await;
    let model = app.models.registry.ready().pop().unwrap();
    let target = Target { model, shadow: None };
    let bare = Bare::new(&scaler());
    let [bare, alone, with] = medians(20_000, async |way| match way {
        0 => bare.once().await,
        1 => ask(&app, &target, Payload::Tensors(vec![Value::Tensor(features())])).await,
        _ => ask(&app, &target, Payload::Raw(json(br#"{"x":[5.1,3.5,1.4,0.2]}"#))).await,
    })
    .await;
    let case = "trivial preprocess and postprocess / wasmtime alone: a fresh instance and one call";
    time(case, with.saturating_sub(alone), bare).target(2.3)
}

async fn iris_with_scaler(store: &std::path::Path) -> Arc<App> {
    let folder = store.join("models/iris/1");
    std::fs::create_dir_all(&folder).unwrap();
    let iris = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/iris/1/model.onnx");
    std::fs::copy(iris, folder.join("model.onnx")).unwrap();
    let arguments = ["model-nexus", "serve", "--cache-bytes", "0", "--store", store.to_str().unwrap()];
    let Command::Serve(mut config) = Cli::try_parse_from(arguments).unwrap().command else { unreachable!() };
    config.bundle = None;
    config.admission.admission_binary = Some(env!("CARGO_BIN_EXE_model-nexus").into());
    let library = PathBuf::from(std::env::var("ORT_DYLIB_PATH").unwrap());
    let app = App::start(*config, Runtime::load(Some(&library)).unwrap()).await.unwrap();
    let staged = |content: Vec<u8>| {
        let mut file = tempfile::NamedTempFile::new_in(app.models.scratch()).unwrap();
        std::io::Write::write_all(&mut file, &content).unwrap();
        file.into_temp_path()
    };
    let plugin = model_nexus::plugin::NewPlugin { file: staged(scaler()), grants: Grants::default() };
    let plugin = app.plugins.add(plugin).await.unwrap();
    let stage = StageBinding::new(plugin.reference());
    let pipeline = Pipeline { preprocess: Some(stage.clone()), postprocess: Some(stage), golden: None };
    app.models.set_pipeline("iris", None, pipeline).await.unwrap();
    Arc::new(app)
}

async fn ask(app: &Arc<App>, target: &Target, payload: Payload) {
    let terms = Terms { use_cache: false, ..Terms::within(Duration::from_secs(60)) };
    predict(app, target, payload, &terms, &mut Trace::default()).await.unwrap();
}

fn features() -> Tensor {
    Tensor::from_vec("X".into(), DataType::Fp32, vec![1, 4], IRIS.to_vec()).unwrap()
}

fn json(body: &[u8]) -> Request {
    Request {
        content_type: "application/json".into(),
        body: bytes::Bytes::copy_from_slice(body),
        parameters: Vec::new(),
    }
}

/// The same component in wasmtime with nothing around it: pooled instances, an empty WASI.
struct Bare {
    component: InstancePre<Nothing>,
    call: wasmtime::component::ComponentExportIndex,
}

struct Nothing {
    wasi: WasiCtx,
    table: ResourceTable,
}

impl WasiView for Nothing {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl Bare {
    fn new(wasm: &[u8]) -> Bare {
        let mut config = Config::new();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(PoolingAllocationConfig::new()));
        let engine = Engine::new(&config).unwrap();
        let component = Component::new(&engine, wasm).unwrap();
        let mut linker = Linker::<Nothing>::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut linker).unwrap();
        let mut log = linker.instance("nexus:plugin/log@0.1.0").unwrap();
        log.func_wrap("emit", |_, (_, _): (String, String)| Ok(())).unwrap();
        let interface = component.get_export_index(None, "nexus:plugin/golden@0.1.0").unwrap();
        let call = component.get_export_index(Some(&interface), "example").unwrap();
        Bare { component: linker.instantiate_pre(&component).unwrap(), call }
    }

    /// A fresh instance, and the call in it that does least: before `init` there is no golden request.
    async fn once(&self) {
        let nothing = Nothing { wasi: WasiCtx::builder().build(), table: ResourceTable::new() };
        let mut store = Store::new(self.component.engine(), nothing);
        let instance = self.component.instantiate_async(&mut store).await.unwrap();
        let call = instance.get_func(&mut store, self.call).unwrap();
        let mut results = [wasmtime::component::Val::Bool(false)];
        call.call_async(&mut store, &[], &mut results).await.unwrap();
    }
}

/// Copies of a tensor from the plugin's memory to the session's input: one out of the plugin, and another one where the
/// session cannot take the memory as it lies.
pub async fn copies() -> Row {
    let classifier = Classifier::new().await;
    let image = picture("cat.jpg");
    let (mut copies, mut bytes) = (0, 0);
    const RUNS: usize = 100;
    for _ in 0..RUNS {
        let tensors = classifier.start().await.preprocess(&image).await.unwrap();
        let Data::Raw(data) = &tensors[0].data else { unreachable!() };
        bytes = data.len();
        copies += 1 + usize::from(data.as_ptr().align_offset(align_of::<f32>()) != 0);
    }
    let case = format!("a {} KB tensor from guest to session", bytes / 1000);
    Row::less_is_better(case, "copies", copies as f64 / RUNS as f64).target_figure(1.0)
}

/// Reading a picture in the plugin, in a fresh instance, beside native code that decodes all of it.
pub async fn pictures(table: &Table) {
    let classifier = Classifier::new().await;
    for (name, at_most) in [("coffee-2400x1600.jpg", 1.0), ("cat.jpg", 1.8)] {
        let image = picture(name);
        let file = image.body.clone();
        let [plugin, native] = medians(60, async |way| match way {
            0 => drop(classifier.start().await.preprocess(&image).await.unwrap()),
            _ => drop(super::native::reference(&file)),
        })
        .await;
        table.row(time(format!("image-classifier: {name} to tensor / natively"), plugin, native).target(at_most));
    }
}

fn picture(name: &str) -> Request {
    let file = std::fs::read(fixture("images").join(name)).unwrap();
    Request { content_type: "image/jpeg".into(), body: file.into(), parameters: Vec::new() }
}

/// The bundled classifier, bound as to the bundled model.
struct Classifier {
    binding: Binding,
}

impl Classifier {
    async fn new() -> Classifier {
        let host = PluginHost::new(PluginLimits::default(), EgressPolicy::default(), None).unwrap();
        let wasm = Wasm::Held(component("image-classifier").into());
        let plugin = Arc::new(host.load(wasm, Grants::default()).await.unwrap());
        let spec = |name: &str, shape: Vec<i64>| TensorSpec {
            name: name.into(),
            datatype: DataType::Fp32,
            shape: Some(shape),
        };
        let model = ModelDescription {
            id: "efficientnet-lite0".into(),
            version: "1".into(),
            inputs: vec![spec("images", vec![-1, 3, 224, 224])],
            outputs: vec![spec("probabilities", vec![-1, 1000])],
            labels: (0..1000).map(|class| format!("class {class}")).collect(),
        };
        let binding = Binding::new(plugin, Arc::new(model), "{}".to_owned()).await.unwrap();
        assert_eq!(binding.no_snapshot(), None);
        Classifier { binding }
    }

    async fn start(&self) -> Instance {
        self.binding.start().await.unwrap()
    }
}
