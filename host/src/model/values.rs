//! The host's values as ONNX Runtime's, and back. With `worker`, the only place that knows ort.

use std::fmt::Debug;
use std::hash::Hash;

use bytemuck::{CheckedBitPattern, NoUninit};
use bytes::Bytes;
use ort::AsPointer;
use ort::environment::Environment;
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{
    DynTensor, DynValue, DynValueTypeMarker, IntoTensorElementType, Outlet, PrimitiveTensorElementType, Sequence,
    SequenceValueType, TensorElementType, TensorRef, ValueType,
};

use crate::error::{Error, ErrorCode, Result};
use crate::onnx::empty_sequence;
use crate::tensor::{Data, DataType, Tensor};
use crate::value::{Map, Value, item_name, keys_name};

/// Does something with the Rust type of a datatype's elements; BYTES has none.
macro_rules! with_element {
    ($datatype:expr, $element:ident => $body:expr, BYTES => $strings:expr) => {
        match $datatype {
            DataType::Fp32 => with_element!(@f32, $element, $body),
            DataType::Fp64 => with_element!(@f64, $element, $body),
            DataType::Fp16 => with_element!(@half::f16, $element, $body),
            DataType::Bf16 => with_element!(@half::bf16, $element, $body),
            DataType::Uint8 => with_element!(@u8, $element, $body),
            DataType::Uint16 => with_element!(@u16, $element, $body),
            DataType::Uint32 => with_element!(@u32, $element, $body),
            DataType::Uint64 => with_element!(@u64, $element, $body),
            DataType::Int8 => with_element!(@i8, $element, $body),
            DataType::Int16 => with_element!(@i16, $element, $body),
            DataType::Int32 => with_element!(@i32, $element, $body),
            DataType::Int64 => with_element!(@i64, $element, $body),
            DataType::Bool => with_element!(@bool, $element, $body),
            DataType::Bytes => $strings,
        }
    };
    (@$type:ty, $element:ident, $body:expr) => {{
        type $element = $type;
        $body
    }};
}

/// A value as the input of a session, whose declaration says of which type an empty sequence is.
///
/// # Errors
/// A value that ONNX Runtime's interface has no way to make.
pub(super) fn to_input<'v>(
    environment: &Environment,
    declared: &[Outlet],
    value: &'v Value,
) -> Result<SessionInputValue<'v>> {
    match value {
        Value::Tensor(tensor) => {
            with_element!(tensor.datatype, T => view::<T>(tensor), BYTES => Ok(strings(tensor)?.into()))
        }
        Value::Sequence { name, items } if items.is_empty() => {
            let input = declared.iter().find(|input| input.name() == name);
            let element = input.and_then(|input| sequence_element(input.dtype()));
            let element = element.ok_or_else(|| impossible(name, "an empty sequence of this type"))?;
            empty_sequence(environment, element).map(Into::into).map_err(Error::internal)
        }
        Value::Sequence { name, items } => {
            let tensors = items.iter().map(|item| match item {
                Value::Tensor(tensor) => dynamic(tensor),
                _ => Err(impossible(name, "a sequence of anything but tensors")),
            });
            let sequence = Sequence::new(tensors.collect::<Result<Vec<DynTensor>>>()?);
            sequence.map(Into::into).map_err(|error| refused(name, &error))
        }
        Value::Map(Map { keys, values }) => match keys.datatype {
            DataType::Int64 => map(owned::<i64>(keys)?, values),
            DataType::Bytes => map(strings(keys)?, values),
            other => Err(impossible(&values.name, &format!("a map whose keys are {other}"))),
        },
        Value::None { name } => Err(impossible(name, "an optional without a value")),
    }
}

fn impossible(name: &str, what: &str) -> Error {
    Error::invalid_input(format!("input {name}: ONNX Runtime's interface has no way to be given {what}"))
}

fn refused(name: &str, error: &ort::Error) -> Error {
    Error::invalid_input(format!("input {name}: ONNX Runtime refuses it: {}", error.message()))
}

/// The tensor's own memory as the session's input, or a copy of it where it is not aligned for its elements.
fn view<T>(tensor: &Tensor) -> Result<SessionInputValue<'_>>
where
    T: PrimitiveTensorElementType + CheckedBitPattern + NoUninit + Debug + 'static,
{
    match bytemuck::checked::try_cast_slice::<u8, T>(raw(tensor)?) {
        Ok(elements) => {
            let view = TensorRef::from_array_view((tensor.shape.as_slice(), elements));
            view.map(Into::into).map_err(|error| refused(&tensor.name, &error))
        }
        Err(_) => Ok(owned::<T>(tensor)?.into()),
    }
}

fn owned<T>(tensor: &Tensor) -> Result<ort::value::Tensor<T>>
where
    T: PrimitiveTensorElementType + CheckedBitPattern + Debug + 'static,
{
    let elements = raw(tensor)?.chunks_exact(size_of::<T>()).map(bytemuck::checked::try_pod_read_unaligned::<T>);
    let elements: Vec<T> = elements.collect::<std::result::Result<_, _>>().map_err(Error::internal)?;
    ort::value::Tensor::from_array((tensor.shape.as_slice(), elements)).map_err(|error| refused(&tensor.name, &error))
}

fn raw(tensor: &Tensor) -> Result<&Bytes> {
    match &tensor.data {
        Data::Raw(bytes) => Ok(bytes),
        Data::Strings(_) => Err(Error::internal("numbers that are strings")),
    }
}

fn strings(tensor: &Tensor) -> Result<ort::value::Tensor<String>> {
    let Data::Strings(strings) = &tensor.data else {
        return Err(Error::internal("a BYTES tensor without strings"));
    };
    let texts = strings.iter().map(|string| std::str::from_utf8(string).map(str::to_owned));
    let texts: std::result::Result<Vec<String>, _> = texts.collect();
    let texts = texts
        .map_err(|error| Error::invalid_input(format!("input {}: ONNX strings are UTF-8: {error}", tensor.name)))?;
    ort::value::Tensor::from_string_array((tensor.shape.as_slice(), texts.as_slice()))
        .map_err(|error| refused(&tensor.name, &error))
}

fn dynamic(tensor: &Tensor) -> Result<DynTensor> {
    with_element!(tensor.datatype, T => Ok(owned::<T>(tensor)?.upcast()), BYTES => Ok(strings(tensor)?.upcast()))
}

fn map<K>(keys: ort::value::Tensor<K>, values: &Tensor) -> Result<SessionInputValue<'static>>
where
    K: IntoTensorElementType + Debug + Clone + Hash + Eq + 'static,
{
    use ort::value::Map as OrtMap;
    let map = match values.datatype {
        DataType::Fp32 => OrtMap::new_kv(keys, owned::<f32>(values)?).map(Into::into),
        DataType::Fp64 => OrtMap::new_kv(keys, owned::<f64>(values)?).map(Into::into),
        DataType::Int64 => OrtMap::new_kv(keys, owned::<i64>(values)?).map(Into::into),
        DataType::Bytes => OrtMap::new_kv(keys, strings(values)?).map(Into::into),
        other => return Err(impossible(&values.name, &format!("a map whose values are {other}"))),
    };
    map.map_err(|error| refused(&values.name, &error))
}

/// The type of a sequence's items, where the declared type is a sequence of tensors or may hold one.
fn sequence_element(declared: &ValueType) -> Option<TensorElementType> {
    match declared {
        ValueType::Optional(inner) => sequence_element(inner),
        ValueType::Sequence(item) => item.tensor_type(),
        _ => None,
    }
}

/// ONNX Runtime makes a sequence out of at least one value, so a model that returns one of none does it.
fn empty_sequence(environment: &Environment, element: TensorElementType) -> ort::Result<DynValue> {
    let datatype = datatype_of(element).ok_or_else(|| ort::Error::new(format!("a sequence of {element}")))?;
    let mut builder = Session::builder(environment)?.with_intra_threads(1)?;
    let mut session = builder.commit_from_memory(&empty_sequence::model(datatype.onnx()))?;
    let mut outputs = session.run(Vec::<(&str, DynValue)>::new())?;
    outputs.remove(empty_sequence::OUTPUT).ok_or_else(|| ort::Error::new("no empty sequence came"))
}

fn datatype_of(element: TensorElementType) -> Option<DataType> {
    let datatype = match element {
        TensorElementType::Float32 => DataType::Fp32,
        TensorElementType::Float64 => DataType::Fp64,
        TensorElementType::Float16 => DataType::Fp16,
        TensorElementType::Bfloat16 => DataType::Bf16,
        TensorElementType::Uint8 => DataType::Uint8,
        TensorElementType::Uint16 => DataType::Uint16,
        TensorElementType::Uint32 => DataType::Uint32,
        TensorElementType::Uint64 => DataType::Uint64,
        TensorElementType::Int8 => DataType::Int8,
        TensorElementType::Int16 => DataType::Int16,
        TensorElementType::Int32 => DataType::Int32,
        TensorElementType::Int64 => DataType::Int64,
        TensorElementType::Bool => DataType::Bool,
        TensorElementType::String => DataType::Bytes,
        _ => return None,
    };
    Some(datatype)
}

/// A session's outputs, in its order, if they take no more than so many bytes.
///
/// # Errors
/// They are larger, or of a type that the host cannot return.
pub(super) fn from_outputs(outputs: &SessionOutputs<'_>, limit: usize) -> Result<Vec<Value>> {
    let mut reader = Reader { limit, taken: 0 };
    // All of them first: what is too large is not copied in part.
    let mut before = Reader { limit, taken: 0 };
    outputs.iter().try_for_each(|(_, value)| before.take(tensor_bytes(&value)?))?;
    outputs.iter().map(|(name, value)| reader.value(name.to_owned(), &value)).collect()
}

/// What a tensor will take in the host's memory; of other values nothing is known before they are copied.
fn tensor_bytes(value: &DynValue) -> Result<usize> {
    let ValueType::Tensor { ty, shape, .. } = value.dtype() else { return Ok(0) };
    let texts = match ty {
        TensorElementType::String if value.is_tensor() => text_bytes(value).map_err(Error::internal)?,
        _ => 0,
    };
    // Texts take a reference each beside their bytes.
    let element = ty.byte_size(1).unwrap_or(size_of::<Bytes>());
    Ok(shape.num_elements().saturating_mul(element).saturating_add(texts))
}

/// Bytes of all texts of a tensor, without a copy of any: ort tells no length but that of what it has copied.
#[allow(unsafe_code)]
fn text_bytes(value: &DynValue) -> ort::Result<usize> {
    let mut bytes = 0;
    // SAFETY: the value outlives the call, which reads of it and writes one length. One that is no tensor of texts is an error.
    unsafe {
        let status = (ort::api().GetStringTensorDataLength)(value.ptr(), &mut bytes);
        ort::Error::result_from_status(status)?;
    }
    Ok(bytes)
}

/// # Errors
/// An answer takes more bytes than it may.
pub(super) fn check_size(bytes: usize, limit: usize) -> Result<()> {
    if bytes <= limit {
        return Ok(());
    }
    let message = format!("the model's answer of {bytes} bytes or more is larger than {limit} (--max-output-bytes)");
    Err(Error::new(ErrorCode::TooLarge, message))
}

struct Reader {
    limit: usize,
    taken: usize,
}

impl Reader {
    fn take(&mut self, bytes: usize) -> Result<()> {
        self.taken = self.taken.saturating_add(bytes);
        check_size(self.taken, self.limit)
    }

    fn value(&mut self, name: String, value: &DynValue) -> Result<Value> {
        match value.dtype() {
            ValueType::Tensor { ty, .. } if value.is_tensor() => self.tensor(name, *ty, value).map(Value::Tensor),
            ValueType::Sequence(_) => self.sequence(name, value),
            ValueType::Map { key, value: values } => self.map(name, (*key, *values), value).map(Value::Map),
            other => Err(unsupported(&name, &other.to_string())),
        }
    }

    fn tensor(&mut self, name: String, element: TensorElementType, value: &DynValue) -> Result<Tensor> {
        let datatype = datatype_of(element).ok_or_else(|| unsupported(&name, &format!("tensor of {element}")))?;
        self.take(tensor_bytes(value)?)?;
        let tensor = with_element!(datatype, T => copy::<T>(name, datatype, value), BYTES => {
            copy_strings(name, value)
        });
        tensor.map_err(Error::internal)
    }

    fn sequence(&mut self, name: String, value: &DynValue) -> Result<Value> {
        let view = value.view().downcast::<SequenceValueType<DynValueTypeMarker>>().map_err(Error::internal)?;
        let items = (0..view.len()).map(|index| {
            self.take(size_of::<Value>())?;
            // One at a time: each is a copy that ONNX Runtime makes.
            let item = view.get(index).ok_or_else(|| Error::internal("an item of a sequence is not there"))?;
            self.value(item_name(&name, index), &item)
        });
        let items = items.collect::<Result<_>>()?;
        Ok(Value::Sequence { name, items })
    }

    fn map(&mut self, name: String, kind: (TensorElementType, TensorElementType), value: &DynValue) -> Result<Map> {
        let map = match kind {
            (TensorElementType::Int64, TensorElementType::Float32) => integer_map::<f32>(name, DataType::Fp32, value),
            (TensorElementType::Int64, TensorElementType::Float64) => integer_map::<f64>(name, DataType::Fp64, value),
            (TensorElementType::Int64, TensorElementType::Int64) => integer_map::<i64>(name, DataType::Int64, value),
            (TensorElementType::String, TensorElementType::Float32) => string_map::<f32>(name, DataType::Fp32, value),
            (TensorElementType::String, TensorElementType::Float64) => string_map::<f64>(name, DataType::Fp64, value),
            (TensorElementType::String, TensorElementType::Int64) => string_map::<i64>(name, DataType::Int64, value),
            (keys, values) => return Err(unsupported(&name, &format!("map from {keys} to {values}"))),
        };
        let map = map.map_err(Error::internal)?;
        self.take(map.keys.byte_size() + map.values.byte_size())?;
        Ok(map)
    }
}

fn unsupported(name: &str, kind: &str) -> Error {
    Error::invalid_input(format!("output {name} is a {kind}, which the host cannot return"))
}

fn copy<T>(name: String, datatype: DataType, value: &DynValue) -> ort::Result<Tensor>
where
    T: PrimitiveTensorElementType + NoUninit,
{
    let (shape, elements) = value.try_extract_tensor::<T>()?;
    let bytes = Bytes::copy_from_slice(bytemuck::cast_slice(elements));
    Ok(Tensor { name, datatype, shape: sizes(shape)?, data: Data::Raw(bytes) })
}

fn copy_strings(name: String, value: &DynValue) -> ort::Result<Tensor> {
    let (shape, strings) = value.try_extract_strings()?;
    let strings = strings.into_iter().map(Bytes::from).collect();
    Tensor::from_strings(name, sizes(shape)?, strings).map_err(ort::Error::wrap)
}

fn sizes(shape: &[i64]) -> ort::Result<Vec<usize>> {
    shape.iter().map(|&size| usize::try_from(size).map_err(ort::Error::wrap)).collect()
}

fn integer_map<V>(name: String, datatype: DataType, value: &DynValue) -> ort::Result<Map>
where
    V: PrimitiveTensorElementType + NoUninit + Send,
{
    let (keys, values): (Vec<i64>, Vec<V>) = value.try_extract_key_values::<i64, V>()?.into_iter().unzip();
    let keys = Tensor::from_vec(keys_name(&name), DataType::Int64, vec![keys.len()], keys).map_err(ort::Error::wrap)?;
    let values = Tensor::from_vec(name, datatype, vec![values.len()], values).map_err(ort::Error::wrap)?;
    Ok(Map { keys, values })
}

fn string_map<V>(name: String, datatype: DataType, value: &DynValue) -> ort::Result<Map>
where
    V: PrimitiveTensorElementType + NoUninit + Send,
{
    let pairs = value.try_extract_key_values::<String, V>()?.into_iter().map(|(key, value)| (Bytes::from(key), value));
    let (keys, values): (Vec<Bytes>, Vec<V>) = pairs.unzip();
    let keys = Tensor::from_strings(keys_name(&name), vec![keys.len()], keys).map_err(ort::Error::wrap)?;
    let values = Tensor::from_vec(name, datatype, vec![values.len()], values).map_err(ort::Error::wrap)?;
    Ok(Map { keys, values })
}
