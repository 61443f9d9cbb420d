//! `ModelInfer`: a message becomes what was asked, and what was answered a message. Bytes are moved, not copied.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;

use super::proto::infer_parameter::ParameterChoice;
use super::proto::model_infer_request::InferInputTensor;
use super::proto::model_infer_response::InferOutputTensor;
use super::proto::{InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse};
use super::some;
use crate::app::App;
use crate::error::{Error, Result};
use crate::http::{Observation, terms};
use crate::model::{ModelVersion, Sticky};
use crate::oip::{self, Asked, Output, Parameter, Parameters, WantedOutput};
use crate::pipeline::Trace;
use crate::predict::Target;
use crate::tensor::{DataType, Tensor};
use crate::terms::Terms;

/// Runs one request.
///
/// # Errors
/// As [`oip::infer`], and a message that is no request.
pub(super) async fn infer(
    app: &Arc<App>,
    headers: &HeaderMap,
    observation: &Observation,
    message: ModelInferRequest,
) -> Result<ModelInferResponse> {
    let mut terms = with_timeout(terms(app, headers)?, headers)?;
    let ModelInferRequest { model_name, model_version, id, parameters, inputs, outputs, raw_input_contents } = message;
    let parameters = parameters_of(parameters);
    let key = |sticky: &Sticky| match sticky {
        Sticky::Header(name) => headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned),
        Sticky::Field(name) => parameters.text(name),
    };
    let timeout = || parameters.text("timeout");
    let model = oip::resolve(app, &model_name, some(&model_version), &mut terms, key, timeout).await?;
    observation.serves(&model);
    let (tensors, content_type) = read_tensors(inputs, raw_input_contents)?;
    let outputs = outputs.into_iter().map(|output| wanted(output.name, &output.parameters)).collect::<Result<_>>()?;
    let asked = Asked { tensors, content_type, parameters, outputs, binary: true };
    let target = Target::of(app, model, some(&model_version));
    let mut trace = Trace::default();
    let inferred = oip::infer(app, &target, asked, terms, &mut trace).await;
    observation.went(trace);
    Ok(wrap(&target.model, id, inferred?.outputs))
}

/// `grpc-timeout` is the time that the client waits. Source: gRPC's `PROTOCOL-HTTP2.md`.
fn with_timeout(mut terms: Terms, headers: &HeaderMap) -> Result<Terms> {
    let Some(timeout) = headers.get("grpc-timeout") else { return Ok(terms) };
    let timeout = timeout.to_str().unwrap_or_default();
    let parsed = timeout.split_at_checked(timeout.len().saturating_sub(1)).and_then(|(number, unit)| {
        let number: u64 = number.parse().ok().filter(|_| number.len() <= 8)?;
        match unit {
            "H" => Some(Duration::from_secs(number * 3600)),
            "M" => Some(Duration::from_secs(number * 60)),
            "S" => Some(Duration::from_secs(number)),
            "m" => Some(Duration::from_millis(number)),
            "u" => Some(Duration::from_micros(number)),
            "n" => Some(Duration::from_nanos(number)),
            _ => None,
        }
    });
    let parsed =
        parsed.ok_or_else(|| Error::invalid_input(format!("grpc-timeout is a number and a unit; {timeout:?} came")))?;
    // Unlike a timeout of zero among the parameters, this one is no wish for none.
    terms.hurry(parsed.max(Duration::from_nanos(1)));
    Ok(terms)
}

pub(super) fn parameters_of(parameters: HashMap<String, InferParameter>) -> Parameters {
    let parameter = |choice| match choice {
        ParameterChoice::BoolParam(value) => Parameter::Bool(value),
        ParameterChoice::Int64Param(value) => Parameter::Int(value),
        ParameterChoice::Uint64Param(value) => Parameter::Uint(value),
        ParameterChoice::DoubleParam(value) => Parameter::Float(value),
        ParameterChoice::StringParam(value) => Parameter::Text(value),
    };
    parameters.into_iter().filter_map(|(name, value)| Some((name, parameter(value.parameter_choice?)))).collect()
}

fn wanted(name: String, parameters: &HashMap<String, InferParameter>) -> Result<WantedOutput> {
    let classes = match parameters.get("classification").and_then(|parameter| parameter.parameter_choice.as_ref()) {
        None => Some(0),
        Some(ParameterChoice::Int64Param(classes)) => usize::try_from(*classes).ok(),
        Some(ParameterChoice::Uint64Param(classes)) => usize::try_from(*classes).ok(),
        Some(_) => None,
    };
    let classes = classes.ok_or_else(|| {
        Error::invalid_input(format!(
            "output {name}: the parameter `classification` is how many classes there are to be"
        ))
    })?;
    Ok(WantedOutput { name, classes, binary: true })
}

/// The tensors, and the media type of the input `request`.
fn read_tensors(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> Result<(Vec<Tensor>, Option<String>)> {
    if !raw.is_empty() && raw.len() != inputs.len() {
        let names: Vec<&str> = inputs.iter().take(20).map(|input| input.name.as_str()).collect();
        return Err(Error::invalid_input(format!(
            "`raw_input_contents` has {} tensors, and the inputs are {}: {}",
            raw.len(),
            inputs.len(),
            names.join(", ")
        )));
    }
    let mut content_type = None;
    let mut tensors = Vec::with_capacity(inputs.len());
    let mut raw = raw.into_iter();
    for mut input in inputs {
        if input.name == oip::RAW_REQUEST
            && let Some(ParameterChoice::StringParam(media_type)) =
                input.parameters.remove("content_type").and_then(|parameter| parameter.parameter_choice)
        {
            content_type = Some(media_type);
        }
        tensors.push(read_tensor(input, raw.next())?);
    }
    Ok((tensors, content_type))
}

fn read_tensor(input: InferInputTensor, raw: Option<Bytes>) -> Result<Tensor> {
    let InferInputTensor { name, datatype, shape, contents, .. } = input;
    let known = DataType::from_name(&datatype).ok_or_else(|| {
        Error::invalid_input(format!("input {name}: {datatype:?} is no datatype of the Open Inference Protocol"))
    })?;
    oip::check_axes(&name, shape.len())?;
    let sizes: Option<Vec<usize>> = shape.iter().map(|&size| usize::try_from(size).ok()).collect();
    let sizes = sizes.ok_or_else(|| {
        Error::invalid_input(format!("input {name}: its shape is {shape:?}, and a tensor's sizes are not negative"))
    })?;
    match (raw, contents) {
        (Some(raw), None) => Ok(Tensor::from_wire(name, known, sizes, raw)?),
        (Some(_), Some(_)) => Err(Error::invalid_input(format!(
            "input {name}: give either `contents` or `raw_input_contents`, for all inputs the same"
        ))),
        (None, contents) => read_contents(name, known, sizes, contents.unwrap_or_default()),
    }
}

/// Elements in the field of their datatype.
fn read_contents(name: String, datatype: DataType, shape: Vec<usize>, contents: InferTensorContents) -> Result<Tensor> {
    let (field, others_are_empty) = field_of(datatype, &contents);
    let Some(field) = field else {
        let message = format!("input {name}: {datatype} has no field in `contents`; give it in `raw_input_contents`");
        return Err(Error::invalid_input(message));
    };
    if !others_are_empty {
        return Err(Error::invalid_input(format!("input {name}: the elements of {datatype} come in `{field}` alone")));
    }
    let narrow = |value: String| {
        Error::invalid_input(format!("input {name}: {value} in `{field}` is not within the range of {datatype}"))
    };
    macro_rules! narrowed {
        ($values:expr, $type:ty) => {{
            let values = $values.iter().map(|value| <$type>::try_from(*value).map_err(|_| narrow(value.to_string())));
            Tensor::from_vec(name.clone(), datatype, shape, values.collect::<Result<Vec<$type>>>()?)
        }};
    }
    let tensor = match datatype {
        DataType::Bool => {
            let bytes: Vec<u8> = contents.bool_contents.into_iter().map(u8::from).collect();
            Tensor::from_vec(name, datatype, shape, bytes)
        }
        DataType::Int8 => narrowed!(contents.int_contents, i8),
        DataType::Int16 => narrowed!(contents.int_contents, i16),
        DataType::Int32 => Tensor::from_vec(name, datatype, shape, contents.int_contents),
        DataType::Int64 => Tensor::from_vec(name, datatype, shape, contents.int64_contents),
        DataType::Uint8 => narrowed!(contents.uint_contents, u8),
        DataType::Uint16 => narrowed!(contents.uint_contents, u16),
        DataType::Uint32 => Tensor::from_vec(name, datatype, shape, contents.uint_contents),
        DataType::Uint64 => Tensor::from_vec(name, datatype, shape, contents.uint64_contents),
        DataType::Fp32 => Tensor::from_vec(name, datatype, shape, contents.fp32_contents),
        DataType::Fp64 => Tensor::from_vec(name, datatype, shape, contents.fp64_contents),
        DataType::Bytes => Tensor::from_strings(name, shape, contents.bytes_contents),
        DataType::Fp16 | DataType::Bf16 => Tensor::from_wire(name, datatype, shape, Bytes::new()),
    };
    Ok(tensor?)
}

/// The field that a datatype's elements come in, and whether no other has any.
fn field_of(datatype: DataType, contents: &InferTensorContents) -> (Option<&'static str>, bool) {
    let filled = [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ];
    let field = match datatype {
        DataType::Bool => "bool_contents",
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "int_contents",
        DataType::Int64 => "int64_contents",
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => "uint_contents",
        DataType::Uint64 => "uint64_contents",
        DataType::Fp32 => "fp32_contents",
        DataType::Fp64 => "fp64_contents",
        DataType::Bytes => "bytes_contents",
        DataType::Fp16 | DataType::Bf16 => return (None, false),
    };
    (Some(field), filled.iter().all(|(name, elements)| *name == field || *elements == 0))
}

fn wrap(model: &ModelVersion, id: String, outputs: Vec<Output>) -> ModelInferResponse {
    let mut response = ModelInferResponse {
        model_name: model.id().to_owned(),
        model_version: model.version().to_owned(),
        id,
        outputs: Vec::with_capacity(outputs.len()),
        raw_output_contents: Vec::with_capacity(outputs.len()),
        ..ModelInferResponse::default()
    };
    for Output { tensor, content_type, .. } in outputs {
        response.raw_output_contents.push(tensor.to_wire());
        let parameters = content_type.map(|media_type| ("content_type".to_owned(), text_parameter(media_type)));
        response.outputs.push(InferOutputTensor {
            name: tensor.name,
            datatype: tensor.datatype.name().to_owned(),
            shape: tensor.shape.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect(),
            parameters: parameters.into_iter().collect(),
            contents: None,
        });
    }
    response
}

fn text_parameter(text: String) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::StringParam(text)) }
}
