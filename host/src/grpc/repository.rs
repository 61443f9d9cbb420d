//! `RepositoryModelLoad` and `RepositoryModelUnload`.

use std::sync::Arc;

use tonic::Request;

use super::proto::model_repository_parameter::ParameterChoice;
use super::proto::{RepositoryModelLoadRequest, RepositoryModelUnloadRequest};
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::rpc::UploadPlace;
use crate::http::to_the_end;
use crate::oip::{self, Files};

/// Where KServe has its only field, the model's name, Triton has a repository's, and the model's in the second.
fn model_of(repository_name: String, model_name: String) -> String {
    if model_name.is_empty() { repository_name } else { model_name }
}

pub(super) async fn load(app: &Arc<App>, mut request: Request<RepositoryModelLoadRequest>) -> Result<()> {
    let place = request.extensions_mut().remove::<UploadPlace>();
    let RepositoryModelLoadRequest { repository_name, model_name, parameters } = request.into_inner();
    let model = model_of(repository_name, model_name);
    let mut brought = Files::default();
    for (name, value) in parameters {
        match (name.strip_prefix("file:"), value.parameter_choice) {
            (Some(path), Some(ParameterChoice::BytesParam(content))) => {
                brought.files.insert(path.to_owned(), content);
            }
            (None, Some(ParameterChoice::StringParam(config))) if name == "config" => brought.config = Some(config),
            _ => return Err(unknown_parameter(&name)),
        }
    }
    let app = Arc::clone(app);
    to_the_end(async move {
        let _place = place;
        oip::load(&app, &model, brought).await
    })
    .await
}

pub(super) async fn unload(app: &Arc<App>, mut request: Request<RepositoryModelUnloadRequest>) -> Result<()> {
    let place = request.extensions_mut().remove::<UploadPlace>();
    let RepositoryModelUnloadRequest { repository_name, model_name, .. } = request.into_inner();
    let model = model_of(repository_name, model_name);
    let app = Arc::clone(app);
    to_the_end(async move {
        let _place = place;
        oip::unload(&app, &model).await
    })
    .await
}

fn unknown_parameter(name: &str) -> Error {
    let name: String = name.chars().take(128).collect();
    Error::invalid_input(format!(
        "the parameter {name:?} is none of loading a model: `config`, a text, and `file:1/model.onnx` and the like, bytes"
    ))
}
