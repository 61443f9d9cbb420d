//! Tensors: bytes with a shape and a datatype, and typed ways in and out.

use std::borrow::Cow;

use bytemuck::Pod;
use half::{bf16, f16};

use crate::Error;

/// A dense tensor: elements little-endian and row-major, as the contract carries them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The model's name for this input or output.
    pub name: String,
    /// A datatype name of the Open Inference Protocol, "FP32" for instance.
    pub datatype: String,
    /// Axis sizes, outermost first. Empty for a scalar.
    pub shape: Vec<u64>,
    /// The elements' bytes. A BYTES element is a 4-byte little-endian length and its bytes.
    pub data: Vec<u8>,
}

impl Tensor {
    /// A tensor of `values`. Errs unless the shape holds as many elements as there are values.
    pub fn from_values<T: Element>(
        name: &str,
        shape: impl Into<Vec<u64>>,
        values: impl AsRef<[T]>,
    ) -> Result<Self, Error> {
        let (shape, values) = (shape.into(), values.as_ref());
        check_count(name, &shape, values.len())?;
        let data = bytemuck::cast_slice(values).to_vec();
        Ok(Tensor { name: name.to_owned(), datatype: T::DATATYPE.to_owned(), shape, data })
    }

    /// A tensor whose elements `fill` writes, starting from zeros. Spares the copy [`Tensor::from_values`] makes.
    pub fn filled<T: Element>(
        name: &str,
        shape: impl Into<Vec<u64>>,
        fill: impl FnOnce(&mut [T]),
    ) -> Result<Self, Error> {
        let shape = shape.into();
        let count = element_count(name, &shape)?;
        let bytes = count.checked_mul(size_of::<T>()).ok_or_else(|| too_large(name, &shape))?;
        let mut data = vec![0; bytes];
        match bytemuck::try_cast_slice_mut(&mut data) {
            Ok(values) => fill(values),
            // Allocators align large blocks for any number, but nothing promises it for a vector of bytes.
            Err(_) => {
                let mut values = vec![T::zeroed(); count];
                fill(&mut values);
                data.copy_from_slice(bytemuck::cast_slice(&values));
            }
        }
        Ok(Tensor { name: name.to_owned(), datatype: T::DATATYPE.to_owned(), shape, data })
    }

    /// An FP32 tensor.
    pub fn from_f32(name: &str, shape: impl Into<Vec<u64>>, values: impl AsRef<[f32]>) -> Result<Self, Error> {
        Tensor::from_values(name, shape, values)
    }

    /// An FP16 tensor.
    pub fn from_f16(name: &str, shape: impl Into<Vec<u64>>, values: impl AsRef<[f16]>) -> Result<Self, Error> {
        Tensor::from_values(name, shape, values)
    }

    /// A UINT8 tensor.
    pub fn from_u8(name: &str, shape: impl Into<Vec<u64>>, values: impl AsRef<[u8]>) -> Result<Self, Error> {
        Tensor::from_values(name, shape, values)
    }

    /// An INT64 tensor.
    pub fn from_i64(name: &str, shape: impl Into<Vec<u64>>, values: impl AsRef<[i64]>) -> Result<Self, Error> {
        Tensor::from_values(name, shape, values)
    }

    /// A BYTES tensor, an element for each text.
    pub fn from_strings<S: AsRef<str>>(
        name: &str,
        shape: impl Into<Vec<u64>>,
        values: impl AsRef<[S]>,
    ) -> Result<Self, Error> {
        let (shape, values) = (shape.into(), values.as_ref());
        check_count(name, &shape, values.len())?;
        let mut data = Vec::new();
        for text in values {
            let text = text.as_ref().as_bytes();
            let length = u32::try_from(text.len()).map_err(|_| too_large(name, &shape))?;
            data.extend_from_slice(&length.to_le_bytes());
            data.extend_from_slice(text);
        }
        Ok(Tensor { name: name.to_owned(), datatype: "BYTES".to_owned(), shape, data })
    }

    /// The elements, borrowed where alignment allows. Errs if the datatype is another or shape and data disagree.
    pub fn values<T: Element>(&self) -> Result<Cow<'_, [T]>, Error> {
        self.check_datatype(T::DATATYPE)?;
        if !self.data.len().is_multiple_of(size_of::<T>()) {
            return Err(Error::plugin(format!(
                "tensor `{}`: {} bytes hold no whole number of {} elements",
                self.name,
                self.data.len(),
                T::DATATYPE
            )));
        }
        check_count(&self.name, &self.shape, self.data.len() / size_of::<T>())?;
        Ok(match bytemuck::try_cast_slice(&self.data) {
            Ok(values) => Cow::Borrowed(values),
            Err(_) => Cow::Owned(self.data.chunks_exact(size_of::<T>()).map(bytemuck::pod_read_unaligned).collect()),
        })
    }

    /// The elements, as [`Tensor::values`], of a tensor of that shape, outermost axis first; -1 where any size fits. The error
    /// shows both: "expected FP32[1,3,-1,-1], got UINT8[1,224,224,3]".
    pub fn view<T: Element>(&self, shape: &[i64]) -> Result<Cow<'_, [T]>, Error> {
        let fits = self.shape.len() == shape.len()
            && self.shape.iter().zip(shape).all(|(&size, &wanted)| wanted == -1 || u64::try_from(wanted) == Ok(size));
        if fits && self.datatype == T::DATATYPE {
            return self.values();
        }
        let (expected, got) = (signature(T::DATATYPE, shape), signature(&self.datatype, &self.shape));
        Err(Error::plugin(format!("tensor `{}`: expected {expected}, got {got}", self.name)))
    }

    /// The elements of an FP32 tensor.
    pub fn as_f32(&self) -> Result<Cow<'_, [f32]>, Error> {
        self.values()
    }

    /// The elements of an FP16 tensor.
    pub fn as_f16(&self) -> Result<Cow<'_, [f16]>, Error> {
        self.values()
    }

    /// The elements of a UINT8 tensor.
    pub fn as_u8(&self) -> Result<Cow<'_, [u8]>, Error> {
        self.values()
    }

    /// The elements of an INT64 tensor.
    pub fn as_i64(&self) -> Result<Cow<'_, [i64]>, Error> {
        self.values()
    }

    /// The elements of a BYTES tensor as texts. Errs if one of them is no UTF-8.
    pub fn as_strings(&self) -> Result<Vec<&str>, Error> {
        self.check_datatype("BYTES")?;
        let broken = || Error::plugin(format!("tensor `{}`: its BYTES elements are cut off or no UTF-8", self.name));
        let (mut texts, mut rest) = (Vec::new(), self.data.as_slice());
        while !rest.is_empty() {
            let (length, tail) = rest.split_first_chunk::<4>().ok_or_else(broken)?;
            let (text, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize).ok_or_else(broken)?;
            texts.push(std::str::from_utf8(text).map_err(|_| broken())?);
            rest = tail;
        }
        check_count(&self.name, &self.shape, texts.len())?;
        Ok(texts)
    }

    fn check_datatype(&self, expected: &str) -> Result<(), Error> {
        if self.datatype == expected {
            return Ok(());
        }
        Err(Error::plugin(format!("tensor `{}` is {}, expected {expected}", self.name, self.datatype)))
    }
}

/// A number a tensor can hold.
pub trait Element: Pod {
    /// Its datatype name in the Open Inference Protocol.
    const DATATYPE: &'static str;
}

macro_rules! elements {
    ($($number:ty => $datatype:literal),*) => {
        $(impl Element for $number { const DATATYPE: &'static str = $datatype; })*
    };
}
elements!(
    u8 => "UINT8", u16 => "UINT16", u32 => "UINT32", u64 => "UINT64",
    i8 => "INT8", i16 => "INT16", i32 => "INT32", i64 => "INT64",
    f16 => "FP16", bf16 => "BF16", f32 => "FP32", f64 => "FP64"
);

/// Datatype and shape in short: "FP32[1,3,-1,-1]".
fn signature<N: ToString>(datatype: &str, shape: &[N]) -> String {
    let sizes: Vec<String> = shape.iter().map(N::to_string).collect();
    format!("{datatype}[{}]", sizes.join(","))
}

fn check_count(name: &str, shape: &[u64], values: usize) -> Result<(), Error> {
    let expected = element_count(name, shape)?;
    if expected == values {
        return Ok(());
    }
    Err(Error::plugin(format!("tensor `{name}`: shape {shape:?} holds {expected} elements, the data {values}")))
}

fn element_count(name: &str, shape: &[u64]) -> Result<usize, Error> {
    // A zero among the axes makes an empty tensor, however large the others are.
    if shape.contains(&0) {
        return Ok(0);
    }
    shape
        .iter()
        .try_fold(1_usize, |count, &axis| count.checked_mul(usize::try_from(axis).ok()?))
        .ok_or_else(|| too_large(name, shape))
}

fn too_large(name: &str, shape: &[u64]) -> Error {
    Error::plugin(format!("tensor `{name}`: shape {shape:?} is larger than memory"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_in_and_out() {
        let tensor = Tensor::from_f32("x", [1, 2], vec![1.5, -2.0]).unwrap();
        assert_eq!((tensor.datatype.as_str(), tensor.data.len()), ("FP32", 8));
        assert_eq!(tensor.as_f32().unwrap().as_ref(), [1.5, -2.0]);
        assert_eq!(Tensor::from_i64("y", vec![1], [7]).unwrap().as_i64().unwrap().as_ref(), [7]);
        assert_eq!(Tensor::from_u8("z", [], [7]).unwrap().as_u8().unwrap().as_ref(), [7]);
    }

    #[test]
    fn half_precision_is_two_bytes() {
        let values = [1.5, -2.0].map(f16::from_f32);
        let tensor = Tensor::from_f16("x", [2], values).unwrap();
        // IEEE 754 binary16: 1.5 is 0x3e00, -2 is 0xc000.
        assert_eq!((tensor.datatype.as_str(), tensor.data.as_slice()), ("FP16", [0x00, 0x3e, 0x00, 0xc0].as_slice()));
        assert_eq!(tensor.as_f16().unwrap().as_ref(), values);
        let tensor = Tensor::from_values("x", [1], [bf16::from_f32(1.5)]).unwrap();
        // bfloat16 is the upper half of binary32: 1.5 is 0x3fc00000.
        assert_eq!((tensor.datatype.as_str(), tensor.data.as_slice()), ("BF16", [0xc0, 0x3f].as_slice()));
    }

    #[test]
    fn a_view_is_of_the_expected_shape_and_datatype() {
        let tensor = Tensor::from_f32("x", [1, 3, 2], [0.0; 6]).unwrap();
        for fitting in [[1, 3, 2], [1, 3, -1], [-1, -1, -1]] {
            assert_eq!(tensor.view::<f32>(&fitting).unwrap().len(), 6);
        }
        assert_eq!(Tensor::from_i64("x", [], [7]).unwrap().view::<i64>(&[]).unwrap().as_ref(), [7]);
        for (wrong, shown) in [(&[1, 3][..], "FP32[1,3]"), (&[1, 2, -1], "FP32[1,2,-1]"), (&[-2, 3, 2], "FP32[-2,3,2]")]
        {
            let error = tensor.view::<f32>(wrong).unwrap_err();
            assert_eq!(error.message(), format!("tensor `x`: expected {shown}, got FP32[1,3,2]"));
        }
        let error = tensor.view::<u8>(&[1, 3, -1]).unwrap_err();
        assert_eq!(error.message(), "tensor `x`: expected UINT8[1,3,-1], got FP32[1,3,2]");
        let short = Tensor { data: vec![0; 4], ..tensor };
        assert!(short.view::<f32>(&[1, 3, 2]).unwrap_err().message().contains("holds 6 elements, the data 1"));
    }

    #[test]
    fn unaligned_bytes_are_read_too() {
        let values = [1.0_f32, 2.0, 3.0];
        let shifted: Vec<u8> =
            std::iter::once(0).chain(bytemuck::cast_slice::<_, u8>(&values).iter().copied()).collect();
        // One of the two slices is not aligned for f32.
        for bytes in [&shifted[1..], bytemuck::cast_slice(&values)] {
            let tensor = Tensor { name: "x".into(), datatype: "FP32".into(), shape: vec![3], data: bytes.to_vec() };
            assert_eq!(tensor.as_f32().unwrap().as_ref(), values);
        }
    }

    #[test]
    fn filling_equals_copying() {
        let filled = Tensor::filled("x", [2], |values: &mut [f32]| values.copy_from_slice(&[3.0, 4.0])).unwrap();
        assert_eq!(filled, Tensor::from_f32("x", [2], [3.0, 4.0]).unwrap());
    }

    #[test]
    fn shape_and_data_have_to_agree() {
        let error = Tensor::from_f32("x", [2, 2], [1.0]).unwrap_err();
        assert!(error.message().contains("holds 4 elements, the data 1"), "{error}");
        assert!(Tensor::from_f32("x", [u64::MAX, 3], [1.0]).is_err());
        assert!(Tensor::filled("x", [usize::MAX as u64], |_: &mut [f32]| ()).is_err());
        assert!(Tensor::from_f32("x", [u64::MAX, 3, 0], []).is_ok());
        let ragged = Tensor { name: "x".into(), datatype: "FP32".into(), shape: vec![1], data: vec![0; 5] };
        assert!(ragged.as_f32().is_err());
    }

    #[test]
    fn another_datatype_is_named() {
        let error = Tensor::from_i64("x", [1], [1]).unwrap().as_f32().unwrap_err();
        assert!(error.message().contains("is INT64, expected FP32"), "{error}");
    }

    #[test]
    fn texts_go_in_and_out() {
        let tensor = Tensor::from_strings("x", [2], ["é", ""]).unwrap();
        assert_eq!(tensor.as_strings().unwrap(), ["é", ""]);
        let cut = Tensor { data: tensor.data[..5].to_vec(), ..tensor };
        assert!(cut.as_strings().is_err());
    }
}
