//! Tensors as the host moves them: a datatype, a shape and little-endian elements. Knows neither JSON nor protobuf nor ort.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Element types, by their Open Inference Protocol names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    /// A string or any bytes; elements have no fixed size.
    Bytes,
}

impl DataType {
    const ALL: [DataType; 14] = [
        DataType::Bool,
        DataType::Uint8,
        DataType::Uint16,
        DataType::Uint32,
        DataType::Uint64,
        DataType::Int8,
        DataType::Int16,
        DataType::Int32,
        DataType::Int64,
        DataType::Fp16,
        DataType::Bf16,
        DataType::Fp32,
        DataType::Fp64,
        DataType::Bytes,
    ];

    /// The Open Inference Protocol's name, such as `FP32`.
    pub fn name(self) -> &'static str {
        match self {
            DataType::Bool => "BOOL",
            DataType::Uint8 => "UINT8",
            DataType::Uint16 => "UINT16",
            DataType::Uint32 => "UINT32",
            DataType::Uint64 => "UINT64",
            DataType::Int8 => "INT8",
            DataType::Int16 => "INT16",
            DataType::Int32 => "INT32",
            DataType::Int64 => "INT64",
            DataType::Fp16 => "FP16",
            DataType::Bf16 => "BF16",
            DataType::Fp32 => "FP32",
            DataType::Fp64 => "FP64",
            DataType::Bytes => "BYTES",
        }
    }

    /// The datatype of that Open Inference Protocol name.
    pub fn from_name(name: &str) -> Option<DataType> {
        DataType::ALL.into_iter().find(|datatype| datatype.name() == name)
    }

    /// The datatype of ONNX's `TensorProto.DataType` number (1 float, 7 int64), where the host serves it.
    /// Source: `onnx.proto`, message `TensorProto`.
    pub fn from_onnx(number: i32) -> Option<DataType> {
        DataType::ALL.into_iter().find(|datatype| datatype.onnx() == number)
    }

    /// ONNX's `TensorProto.DataType` number.
    pub fn onnx(self) -> i32 {
        match self {
            DataType::Fp32 => 1,
            DataType::Uint8 => 2,
            DataType::Int8 => 3,
            DataType::Uint16 => 4,
            DataType::Int16 => 5,
            DataType::Int32 => 6,
            DataType::Int64 => 7,
            DataType::Bytes => 8,
            DataType::Bool => 9,
            DataType::Fp16 => 10,
            DataType::Fp64 => 11,
            DataType::Uint32 => 12,
            DataType::Uint64 => 13,
            DataType::Bf16 => 16,
        }
    }

    /// Bytes of one element; `None` for BYTES.
    pub fn size(self) -> Option<usize> {
        match self {
            DataType::Bool | DataType::Uint8 | DataType::Int8 => Some(1),
            DataType::Uint16 | DataType::Int16 | DataType::Fp16 | DataType::Bf16 => Some(2),
            DataType::Uint32 | DataType::Int32 | DataType::Fp32 => Some(4),
            DataType::Uint64 | DataType::Int64 | DataType::Fp64 => Some(8),
            DataType::Bytes => None,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a model declares of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    pub name: String,
    pub datatype: DataType,
    /// Axis sizes, outermost first; -1 where any size fits. `None`: any number of axes fits too.
    pub shape: Option<Vec<i64>>,
}

impl TensorSpec {
    /// Whether a tensor of this shape may be given to the model.
    pub fn accepts(&self, shape: &[usize]) -> bool {
        let Some(axes) = &self.shape else { return true };
        let mut pairs = axes.iter().zip(shape);
        axes.len() == shape.len()
            && pairs.all(|(&declared, &size)| declared < 0 || usize::try_from(declared) == Ok(size))
    }
}

impl fmt::Display for TensorSpec {
    /// `FP32[·,3,224,224]`, a dot standing for any size; `FP32[…]` where there may be any number of axes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(shape) = &self.shape else { return write!(f, "{}[…]", self.datatype) };
        let sizes: Vec<String> =
            shape.iter().map(|&size| if size < 0 { "·".to_owned() } else { size.to_string() }).collect();
        write!(f, "{}[{}]", self.datatype, sizes.join(","))
    }
}

/// A dense, row-major tensor. Cloning shares the elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub name: String,
    pub datatype: DataType,
    pub shape: Vec<usize>,
    pub data: Data,
}

/// A tensor's elements.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Fixed-size elements, little-endian.
    Raw(Bytes),
    /// BYTES elements.
    Strings(Vec<Bytes>),
}

/// Why elements and shape do not make a tensor.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TensorError {
    #[error("tensor {name}: shape {shape:?} has more elements than can be counted")]
    Overflow { name: String, shape: Vec<usize> },
    #[error(
        "tensor {name}: shape {shape:?} has no elements, and more than {most} without its axes of size 0; give it smaller axes"
    )]
    Vast { name: String, shape: Vec<usize>, most: usize },
    #[error("tensor {name}: {datatype}{shape:?} takes {expected} bytes, {actual} came")]
    Size { name: String, datatype: DataType, shape: Vec<usize>, expected: usize, actual: usize },
    #[error("tensor {name}: shape {shape:?} takes {expected} elements, {actual} came")]
    Count { name: String, shape: Vec<usize>, expected: usize, actual: usize },
    #[error("tensor {name}: the BYTES element at byte {offset} runs past the end of the data")]
    Truncated { name: String, offset: usize },
    #[error("tensor {name}: byte {offset} is neither 0 nor 1, so not a BOOL")]
    Bool { name: String, offset: usize },
}

impl Tensor {
    /// A tensor of elements in the protocol's wire form: little-endian, and for BYTES a 4-byte length before each.
    ///
    /// # Errors
    /// The data's size is not what shape and datatype take, or a BOOL is neither 0 nor 1.
    pub fn from_wire(name: String, datatype: DataType, shape: Vec<usize>, data: Bytes) -> Result<Tensor, TensorError> {
        let count = element_count(&name, &shape)?;
        let Some(size) = datatype.size() else {
            let strings = split_strings(&name, &data, count)?;
            return Tensor::from_strings(name, shape, strings);
        };
        let expected = count
            .checked_mul(size)
            .ok_or_else(|| TensorError::Overflow { name: name.clone(), shape: shape.clone() })?;
        if data.len() != expected {
            return Err(TensorError::Size { name, datatype, shape, expected, actual: data.len() });
        }
        if datatype == DataType::Bool
            && let Some(offset) = data.iter().position(|&byte| byte > 1)
        {
            return Err(TensorError::Bool { name, offset });
        }
        Ok(Tensor { name, datatype, shape, data: Data::Raw(data) })
    }

    /// A tensor of numbers, moved and not copied.
    ///
    /// # Errors
    /// The number of elements is not what the shape takes.
    pub fn from_vec<T>(name: String, datatype: DataType, shape: Vec<usize>, data: Vec<T>) -> Result<Tensor, TensorError>
    where
        T: bytemuck::NoUninit + Send + 'static,
    {
        let bytes = Bytes::from_owner(Elements(data));
        Tensor::from_wire(name, datatype, shape, bytes)
    }

    /// A BYTES tensor.
    ///
    /// # Errors
    /// The number of strings is not what the shape takes.
    pub fn from_strings(name: String, shape: Vec<usize>, strings: Vec<Bytes>) -> Result<Tensor, TensorError> {
        let expected = element_count(&name, &shape)?;
        if strings.len() != expected {
            return Err(TensorError::Count { name, shape, expected, actual: strings.len() });
        }
        Ok(Tensor { name, datatype: DataType::Bytes, shape, data: Data::Strings(strings) })
    }

    /// The elements in wire form; shares memory where they are in that form already.
    pub fn to_wire(&self) -> Bytes {
        match &self.data {
            Data::Raw(bytes) => bytes.clone(),
            Data::Strings(strings) => {
                let mut wire = Vec::with_capacity(strings.iter().map(|string| string.len() + 4).sum());
                for string in strings {
                    // A longer string than 4 GiB cannot come in: every way in is capped far below.
                    wire.extend_from_slice(&(string.len() as u32).to_le_bytes());
                    wire.extend_from_slice(string);
                }
                wire.into()
            }
        }
    }

    /// Memory the elements take, in bytes.
    pub fn byte_size(&self) -> usize {
        match &self.data {
            Data::Raw(bytes) => bytes.len(),
            Data::Strings(strings) => strings.iter().map(|string| string.len() + size_of::<Bytes>()).sum(),
        }
    }

    /// Datatype and shape, as `FP32[1,4]`.
    pub fn describe(&self) -> String {
        let sizes: Vec<String> = self.shape.iter().map(usize::to_string).collect();
        format!("{}[{}]", self.datatype, sizes.join(","))
    }
}

/// Lets `Bytes` own a vector of numbers, so that a tensor's memory is the vector's own.
struct Elements<T>(Vec<T>);

impl<T: bytemuck::NoUninit> AsRef<[u8]> for Elements<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// Most that the other axes of a tensor without elements may make together: a model may answer with as much, or run as
/// often, and nothing of it has to be sent.
const MOST_AROUND_NOTHING: usize = 1 << 20;

fn element_count(name: &str, shape: &[usize]) -> Result<usize, TensorError> {
    let mut around = shape.iter().copied().filter(|&size| size > 0);
    let around = around.try_fold(1usize, |count, size| count.checked_mul(size));
    match around {
        _ if !shape.contains(&0) => {
            around.ok_or_else(|| TensorError::Overflow { name: name.to_owned(), shape: shape.to_vec() })
        }
        Some(around) if around <= MOST_AROUND_NOTHING => Ok(0),
        _ => Err(TensorError::Vast { name: name.to_owned(), shape: shape.to_vec(), most: MOST_AROUND_NOTHING }),
    }
}

/// Splits texts apart, but no more than one beyond as many as there should be.
fn split_strings(name: &str, data: &Bytes, count: usize) -> Result<Vec<Bytes>, TensorError> {
    let mut strings = Vec::new();
    let mut offset = 0;
    while offset < data.len() && strings.len() <= count {
        let truncated = || TensorError::Truncated { name: name.to_owned(), offset };
        let length = data.get(offset..offset + 4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(truncated)?;
        let start = offset + 4;
        let end = start.checked_add(u32::from_le_bytes(length) as usize).filter(|&end| end <= data.len());
        let end = end.ok_or_else(truncated)?;
        strings.push(data.slice(start..end));
        offset = end;
    }
    Ok(strings)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_datatype_is_found_by_name_and_by_onnx_number() {
        for datatype in DataType::ALL {
            assert_eq!(DataType::from_name(datatype.name()), Some(datatype));
            assert_eq!(DataType::from_onnx(datatype.onnx()), Some(datatype));
            assert_eq!(serde_json::to_value(datatype).unwrap(), datatype.name());
        }
    }

    #[test]
    fn size_must_be_what_shape_and_datatype_take() {
        let error = Tensor::from_wire("x".into(), DataType::Fp32, vec![2, 2], Bytes::from_static(&[0; 12]));
        assert!(matches!(error, Err(TensorError::Size { expected: 16, actual: 12, .. })));
        let huge = Tensor::from_wire("x".into(), DataType::Fp32, vec![usize::MAX, 2], Bytes::new());
        assert!(matches!(huge, Err(TensorError::Overflow { .. })));
        let huge = Tensor::from_wire("x".into(), DataType::Fp64, vec![usize::MAX / 4], Bytes::new());
        assert!(matches!(huge, Err(TensorError::Overflow { .. })));
    }

    #[test]
    fn a_tensor_of_nothing_claims_no_more_than_somebody_could_send() {
        let nothing = |shape: &[usize]| Tensor::from_wire("x".into(), DataType::Fp32, shape.to_vec(), Bytes::new());
        for shape in [&[0][..], &[0, 4], &[1, 32, 0, 128], &[1 << 20, 0]] {
            assert!(nothing(shape).is_ok(), "{shape:?}");
        }
        for shape in
            [&[1_000_000_000_000_000, 0][..], &[0, usize::MAX], &[usize::MAX, usize::MAX, 0], &[1 << 10, 0, 1 << 11]]
        {
            let error = nothing(shape).unwrap_err();
            assert!(matches!(error, TensorError::Vast { .. }), "{shape:?}: {error}");
            let strings = Tensor::from_strings("x".into(), shape.to_vec(), Vec::new());
            assert!(matches!(strings, Err(TensorError::Vast { .. })), "{shape:?}");
        }
    }

    #[test]
    fn a_bool_is_zero_or_one() {
        let error = Tensor::from_wire("x".into(), DataType::Bool, vec![2], Bytes::from_static(&[1, 7]));
        assert_eq!(error, Err(TensorError::Bool { name: "x".into(), offset: 1 }));
    }

    #[test]
    fn strings_go_to_wire_form_and_back() {
        let strings = vec![Bytes::from_static(b"one"), Bytes::new(), Bytes::from_static("zwölf".as_bytes())];
        let tensor = Tensor::from_strings("s".into(), vec![3], strings).unwrap();
        let back = Tensor::from_wire("s".into(), DataType::Bytes, vec![3], tensor.to_wire()).unwrap();
        assert_eq!(back, tensor);
        let cut = tensor.to_wire().slice(..9);
        assert!(matches!(
            Tensor::from_wire("s".into(), DataType::Bytes, vec![3], cut),
            Err(TensorError::Truncated { offset: 7, .. })
        ));
    }

    #[test]
    fn numbers_are_moved_and_not_copied() {
        let numbers = vec![1.0f32, 2.0, 3.0];
        let address = numbers.as_ptr() as usize;
        let tensor = Tensor::from_vec("x".into(), DataType::Fp32, vec![3], numbers).unwrap();
        assert_eq!(tensor.to_wire().as_ptr() as usize, address);
    }

    #[test]
    fn a_spec_accepts_any_size_where_it_says_so() {
        let spec = TensorSpec { name: "x".into(), datatype: DataType::Fp32, shape: Some(vec![-1, 4]) };
        assert!(spec.accepts(&[7, 4]));
        assert!(!spec.accepts(&[7, 5]));
        assert!(!spec.accepts(&[4]));
        assert_eq!(spec.to_string(), "FP32[·,4]");
        let any = TensorSpec { shape: None, ..spec };
        assert!(any.accepts(&[]) && any.accepts(&[7, 0, 4]));
        assert_eq!(any.to_string(), "FP32[…]");
    }
}
