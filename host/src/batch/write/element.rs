//! Elements of tensors as text.

use serde::Serialize;

use crate::tensor::{Data, DataType, Tensor};

/// Appends one element of a tensor.
pub(super) fn write_element(tensor: &Tensor, index: usize, out: &mut Vec<u8>) {
    match &tensor.data {
        Data::Strings(strings) => match strings.get(index) {
            Some(text) => json(&String::from_utf8_lossy(text), out),
            None => out.extend_from_slice(b"null"),
        },
        Data::Raw(bytes) => write_number(tensor.datatype, bytes, index, out),
    }
}

fn write_number(datatype: DataType, bytes: &[u8], index: usize, out: &mut Vec<u8>) {
    match datatype {
        DataType::Fp32 => number(bytes, index, out, |bytes, out| float(f32::from_le_bytes(bytes), out)),
        DataType::Fp64 => number(bytes, index, out, |bytes, out| double(f64::from_le_bytes(bytes), out)),
        DataType::Fp16 => number(bytes, index, out, |bytes, out| float(half::f16::from_le_bytes(bytes).to_f32(), out)),
        DataType::Bf16 => number(bytes, index, out, |bytes, out| float(half::bf16::from_le_bytes(bytes).to_f32(), out)),
        DataType::Int8 => number(bytes, index, out, |bytes, out| json(&i8::from_le_bytes(bytes), out)),
        DataType::Int16 => number(bytes, index, out, |bytes, out| json(&i16::from_le_bytes(bytes), out)),
        DataType::Int32 => number(bytes, index, out, |bytes, out| json(&i32::from_le_bytes(bytes), out)),
        DataType::Int64 => number(bytes, index, out, |bytes, out| json(&i64::from_le_bytes(bytes), out)),
        DataType::Uint8 | DataType::Bytes => {
            number(bytes, index, out, |bytes, out| json(&u8::from_le_bytes(bytes), out))
        }
        DataType::Uint16 => number(bytes, index, out, |bytes, out| json(&u16::from_le_bytes(bytes), out)),
        DataType::Uint32 => number(bytes, index, out, |bytes, out| json(&u32::from_le_bytes(bytes), out)),
        DataType::Uint64 => number(bytes, index, out, |bytes, out| json(&u64::from_le_bytes(bytes), out)),
        DataType::Bool => number(bytes, index, out, |[byte]: [u8; 1], out| json(&(byte != 0), out)),
    }
}

fn number<const N: usize>(bytes: &[u8], index: usize, out: &mut Vec<u8>, write: impl Fn([u8; N], &mut Vec<u8>)) {
    match bytes.as_chunks::<N>().0.get(index) {
        Some(element) => write(*element, out),
        None => out.extend_from_slice(b"null"),
    }
}

fn float(value: f32, out: &mut Vec<u8>) {
    if value.is_finite() { json(&value, out) } else { double(f64::from(value), out) }
}

/// What JSON has no number for is a word, as everywhere in the host's answers.
fn double(value: f64, out: &mut Vec<u8>) {
    match value {
        value if value.is_finite() => json(&value, out),
        f64::INFINITY => out.extend_from_slice(b"\"Infinity\""),
        f64::NEG_INFINITY => out.extend_from_slice(b"\"-Infinity\""),
        _ => out.extend_from_slice(b"\"NaN\""),
    }
}

/// Appends a value as JSON.
pub(super) fn json(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    if let Err(error) = serde_json::to_writer(&mut *out, value) {
        // Memory takes all that is written, so only a value that cannot be JSON comes here.
        tracing::error!(%error, "a value of a batch has no form in JSON");
        out.extend_from_slice(b"null");
    }
}

/// Appends a row's number.
pub(super) fn row_number(row: u64, out: &mut Vec<u8>) {
    json(&row, out);
}
