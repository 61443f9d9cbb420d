//! The generated side of the contract: WIT types to ours and back.

use std::marker::PhantomData;

use crate::{Error, Model, Plugin, Request, Response, Tensor, TensorSpec, instance, log};
use bindings::exports::nexus::plugin::{golden, transform as wit};
use bindings::nexus::plugin::types;

/// What wit-bindgen makes of `wit/`.
#[allow(unsafe_code, unreachable_pub, clippy::all, clippy::unwrap_used, clippy::expect_used)]
pub mod bindings {
    wit_bindgen::generate!({
        path: "../wit",
        world: "plugin-with-golden",
        pub_export_macro: true,
        export_macro_name: "export_component",
    });
}
pub use bindings::export_component;

/// The component whose plugin is `P`; never made, only named.
pub struct Component<P>(PhantomData<P>);

impl<P: Plugin> wit::Guest for Component<P> {
    fn describe() -> wit::Manifest {
        log::to_host();
        let manifest = P::manifest();
        wit::Manifest {
            name: manifest.name,
            version: manifest.version,
            stages: manifest.stages.into_iter().map(|stage| stage.as_str().to_owned()).collect(),
            config_schema: instance::config_schema::<P>(),
            hosts: manifest.hosts,
        }
    }

    fn init(model: wit::Model, config: String) -> Result<(), wit::Error> {
        log::to_host();
        Ok(instance::init::<P>(model.into(), &config)?)
    }

    fn preprocess(request: wit::Request) -> Result<Vec<wit::Tensor>, wit::Error> {
        let tensors = instance::preprocess(request.into())?;
        Ok(tensors.into_iter().map(wit::Tensor::from).collect())
    }

    fn postprocess(outputs: Vec<wit::Tensor>) -> Result<wit::Response, wit::Error> {
        let outputs = outputs.into_iter().map(Tensor::from).collect();
        Ok(instance::postprocess(outputs)?.into())
    }
}

impl<P: Plugin> golden::Guest for Component<P> {
    fn example() -> Option<wit::Request> {
        instance::golden().map(wit::Request::from)
    }
}

impl From<wit::Model> for Model {
    fn from(model: wit::Model) -> Self {
        let specs = |specs: Vec<types::TensorSpec>| {
            let spec =
                |spec: types::TensorSpec| TensorSpec { name: spec.name, datatype: spec.datatype, shape: spec.shape };
            specs.into_iter().map(spec).collect()
        };
        Model {
            id: model.id,
            version: model.version,
            inputs: specs(model.inputs),
            outputs: specs(model.outputs),
            labels: model.labels,
        }
    }
}

impl From<wit::Request> for Request {
    fn from(request: wit::Request) -> Self {
        Request { content_type: request.content_type, body: request.body, parameters: request.parameters }
    }
}

impl From<Request> for wit::Request {
    fn from(request: Request) -> Self {
        wit::Request { content_type: request.content_type, body: request.body, parameters: request.parameters }
    }
}

impl From<Response> for wit::Response {
    fn from(response: Response) -> Self {
        wit::Response { content_type: response.content_type, body: response.body }
    }
}

impl From<wit::Tensor> for Tensor {
    fn from(tensor: wit::Tensor) -> Self {
        Tensor { name: tensor.name, datatype: tensor.datatype, shape: tensor.shape, data: tensor.data }
    }
}

impl From<Tensor> for wit::Tensor {
    fn from(tensor: Tensor) -> Self {
        wit::Tensor { name: tensor.name, datatype: tensor.datatype, shape: tensor.shape, data: tensor.data }
    }
}

impl From<Error> for wit::Error {
    fn from(error: Error) -> Self {
        wit::Error { code: error.code().to_owned(), message: error.message().to_owned() }
    }
}
