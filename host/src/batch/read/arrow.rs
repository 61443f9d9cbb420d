//! Arrow's arrays as elements of tensors, and as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrowPrimitiveType, PrimitiveArray};
use arrow_schema::{DataType as ArrowType, FieldRef};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::batch::rows::Column;
use crate::error::{Error, Result};
use crate::http::json::word_for;
use crate::tensor::DataType;

/// Rows that have a value which does not fit, and why: one reason each.
#[derive(Default)]
pub(super) struct Problems(BTreeMap<usize, String>);

impl Problems {
    pub(super) fn add(&mut self, row: usize, problem: impl FnOnce() -> String) {
        self.0.entry(row).or_insert_with(problem);
    }

    pub(super) fn into_rows(self) -> Vec<(usize, String)> {
        self.0.into_iter().collect()
    }
}

/// Elements of one input for some rows, each at its place.
pub(super) struct Elements {
    datatype: DataType,
    column: Column,
}

impl Elements {
    pub(super) fn new(datatype: DataType, count: usize) -> Elements {
        let column = match datatype.size() {
            Some(size) => Column::Raw(vec![0; count * size]),
            None => Column::Strings(vec![Bytes::new(); count]),
        };
        Elements { datatype, column }
    }

    pub(super) fn into_column(self) -> Column {
        self.column
    }
}

pub(super) fn is_list(kind: &ArrowType) -> bool {
    matches!(kind, ArrowType::List(_))
}

/// Whether every value takes as much memory as any other.
pub(super) fn has_one_size(kind: &ArrowType) -> bool {
    kind.is_primitive() || matches!(kind, ArrowType::Boolean)
}

/// Whether values of this type are anything to a model: numbers, booleans, texts, and lists of them.
pub(super) fn has_form(kind: &ArrowType) -> bool {
    match kind {
        ArrowType::List(item) => has_form(item.data_type()),
        ArrowType::Boolean | ArrowType::Utf8View | ArrowType::BinaryView => true,
        kind => kind.is_numeric() && !kind.is_decimal(),
    }
}

/// The same column, with texts that refer to where they are in place of copies.
pub(super) fn with_views(field: &FieldRef) -> FieldRef {
    let kind = match field.data_type() {
        ArrowType::Utf8 => ArrowType::Utf8View,
        ArrowType::Binary => ArrowType::BinaryView,
        ArrowType::List(item) => ArrowType::List(with_views(item)),
        ArrowType::Struct(fields) => ArrowType::Struct(fields.iter().map(with_views).collect()),
        _ => return Arc::clone(field),
    };
    Arc::new(field.as_ref().clone().with_data_type(kind))
}

/// Adds the bytes of each row's text or list.
pub(super) fn add_sizes(array: &dyn Array, sizes: &mut [usize]) {
    if has_one_size(array.data_type()) {
        return;
    }
    for (row, size) in sizes.iter_mut().enumerate().filter(|(row, _)| array.is_valid(*row)) {
        *size = size.saturating_add(size_of_value(array, row));
    }
}

fn size_of_value(array: &dyn Array, row: usize) -> usize {
    match array.data_type() {
        ArrowType::Utf8View => array.as_string_view().value(row).len(),
        ArrowType::BinaryView => array.as_binary_view().value(row).len(),
        ArrowType::List(_) => size_of_list(&array.as_list::<i32>().value(row)),
        _ => 0,
    }
}

fn size_of_list(list: &dyn Array) -> usize {
    match list.data_type().primitive_width() {
        Some(width) => list.len() * width,
        None => (0..list.len())
            .map(|item| if list.is_valid(item) { size_of_value(list, item) } else { 0 } + 1)
            .sum::<usize>(),
    }
}

/// A number of a file, as it becomes an element.
trait Source: Copy {
    fn to_f64(self) -> f64;
    /// Where it is whole.
    fn to_i128(self) -> Option<i128>;
}

macro_rules! whole_sources {
    ($($type:ty),*) => {$(
        impl Source for $type {
            fn to_f64(self) -> f64 {
                self as f64
            }
            fn to_i128(self) -> Option<i128> {
                Some(i128::from(self))
            }
        }
    )*};
}

whole_sources!(i8, i16, i32, i64, u8, u16, u32, u64);

macro_rules! float_sources {
    ($($type:ty),*) => {$(
        impl Source for $type {
            fn to_f64(self) -> f64 {
                f64::from(self)
            }
            fn to_i128(self) -> Option<i128> {
                let value = f64::from(self);
                // Past this not every whole number has a float.
                (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then_some(value as i128)
            }
        }
    )*};
}

float_sources!(half::f16, f32, f64);

/// An element, made from a number of a file; `None` where it does not fit.
trait Target: bytemuck::Pod {
    fn from_source<S: Source>(source: S) -> Option<Self>;
}

macro_rules! float_targets {
    ($($type:ty: $convert:expr),*) => {$(
        impl Target for $type {
            fn from_source<S: Source>(source: S) -> Option<$type> {
                let value = source.to_f64();
                let element: $type = $convert(value);
                (element.is_finite() || !value.is_finite()).then_some(element)
            }
        }
    )*};
}

float_targets!(f32: |value: f64| value as f32, f64: |value: f64| value, half::f16: half::f16::from_f64, half::bf16: half::bf16::from_f64);

macro_rules! whole_targets {
    ($($type:ty),*) => {$(
        impl Target for $type {
            fn from_source<S: Source>(source: S) -> Option<$type> {
                <$type>::try_from(source.to_i128()?).ok()
            }
        }
    )*};
}

whole_targets!(i8, i16, i32, i64, u8, u16, u32, u64);

/// 0 and 1, for BOOL.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(transparent)]
struct Truth(u8);

impl Target for Truth {
    fn from_source<S: Source>(source: S) -> Option<Truth> {
        u8::try_from(source.to_i128()?).ok().filter(|&truth| truth <= 1).map(Truth)
    }
}

/// Where elements go: the first one's place, and how far it is to the next.
type Places = (usize, usize);

/// Puts a column's values at their places. A value that is none, or does not fit, is its row's problem.
///
/// # Errors
/// No value of this type is an element of that datatype.
pub(super) fn copy_scalars(
    array: &dyn Array,
    name: &str,
    elements: &mut Elements,
    places: Places,
    problems: &mut Problems,
) -> Result<()> {
    for row in (0..if array.null_count() > 0 { array.len() } else { 0 }).filter(|&row| array.is_null(row)) {
        problems.add(row, || format!("column {name}: the value is null"));
    }
    copy(array, name, elements, places, &mut |row, problem| problems.add(row, || problem))
}

/// Puts lists, each of a row's elements, one after another.
///
/// # Errors
/// As [`copy_scalars`].
pub(super) fn copy_list(
    array: &dyn Array,
    name: &str,
    elements: &mut Elements,
    size: usize,
    problems: &mut Problems,
) -> Result<()> {
    let lists = array.as_list::<i32>();
    for row in 0..array.len() {
        let list = lists.value(row);
        if array.is_null(row) {
            problems.add(row, || format!("column {name}: the value is null"));
        } else if list.len() != size {
            problems.add(row, || format!("column {name}: expected a list of {size}, got one of {}", list.len()));
        } else {
            if list.null_count() > 0 {
                problems.add(row, || format!("column {name}: a value in the list is null"));
            }
            copy(&list, name, elements, (row * size, 1), &mut |_, problem| problems.add(row, || problem))?;
        }
    }
    Ok(())
}

fn copy(
    array: &dyn Array,
    name: &str,
    elements: &mut Elements,
    places: Places,
    problem: &mut dyn FnMut(usize, String),
) -> Result<()> {
    macro_rules! numbers {
        ($type:ty) => {
            copy_numbers(array.as_primitive::<$type>(), name, elements, places, problem)
        };
    }
    match array.data_type() {
        ArrowType::Float32 => numbers!(Float32Type),
        ArrowType::Float64 => numbers!(Float64Type),
        ArrowType::Float16 => numbers!(Float16Type),
        ArrowType::Int8 => numbers!(Int8Type),
        ArrowType::Int16 => numbers!(Int16Type),
        ArrowType::Int32 => numbers!(Int32Type),
        ArrowType::Int64 => numbers!(Int64Type),
        ArrowType::UInt8 => numbers!(UInt8Type),
        ArrowType::UInt16 => numbers!(UInt16Type),
        ArrowType::UInt32 => numbers!(UInt32Type),
        ArrowType::UInt64 => numbers!(UInt64Type),
        ArrowType::Boolean => {
            let array = array.as_boolean();
            let numbers: PrimitiveArray<UInt8Type> = array.iter().map(|value| value.map(u8::from)).collect();
            copy_numbers(&numbers, name, elements, places, problem)
        }
        other => copy_strings(array, other, name, elements, places, problem),
    }
}

fn copy_strings(
    array: &dyn Array,
    kind: &ArrowType,
    name: &str,
    elements: &mut Elements,
    (first, step): Places,
    problem: &mut dyn FnMut(usize, String),
) -> Result<()> {
    let Column::Strings(strings) = &mut elements.column else { return Err(unfit(name, kind, elements.datatype)) };
    for row in (0..array.len()).filter(|&row| array.is_valid(row)) {
        match text_of(array, row) {
            Some(Ok(text)) => strings[first + row * step] = Bytes::copy_from_slice(text.as_bytes()),
            Some(Err(misfit)) => problem(row, format!("column {name}: {misfit}")),
            None => return Err(unfit(name, kind, DataType::Bytes)),
        }
    }
    Ok(())
}

/// A value that is no null as a text, where it is of a type that is one; why its bytes are none. What is said to be JSON comes
/// from the library unchecked.
fn text_of(array: &dyn Array, row: usize) -> Option<std::result::Result<&str, String>> {
    let bytes = match array.data_type() {
        ArrowType::Utf8View => array.as_string_view().value(row).as_bytes(),
        ArrowType::BinaryView => array.as_binary_view().value(row),
        _ => return None,
    };
    Some(std::str::from_utf8(bytes).map_err(|_| "the value is not UTF-8".to_owned()))
}

fn unfit(name: &str, kind: &ArrowType, datatype: DataType) -> Error {
    Error::invalid_input(format!("column {name} is of type {kind}, whose values are no {datatype}"))
}

fn copy_numbers<T>(
    array: &PrimitiveArray<T>,
    name: &str,
    elements: &mut Elements,
    places: Places,
    problem: &mut dyn FnMut(usize, String),
) -> Result<()>
where
    T: ArrowPrimitiveType,
    T::Native: Source,
{
    let datatype = elements.datatype;
    let Column::Raw(bytes) = &mut elements.column else { return Err(unfit(name, array.data_type(), datatype)) };
    macro_rules! into {
        ($type:ty) => {
            put::<T::Native, $type>(array.values(), bytes, places, &mut |row, value| {
                if array.is_valid(row) {
                    problem(row, format!("column {name}: expected {datatype}, got {value:?}"));
                }
            })
        };
    }
    match datatype {
        DataType::Fp32 => into!(f32),
        DataType::Fp64 => into!(f64),
        DataType::Fp16 => into!(half::f16),
        DataType::Bf16 => into!(half::bf16),
        DataType::Int8 => into!(i8),
        DataType::Int16 => into!(i16),
        DataType::Int32 => into!(i32),
        DataType::Int64 => into!(i64),
        DataType::Uint8 => into!(u8),
        DataType::Uint16 => into!(u16),
        DataType::Uint32 => into!(u32),
        DataType::Uint64 => into!(u64),
        DataType::Bool => into!(Truth),
        DataType::Bytes => {}
    }
    Ok(())
}

/// Every value at its place, where it fits.
fn put<S: Source, T: Target>(values: &[S], bytes: &mut [u8], (first, step): Places, misfit: &mut dyn FnMut(usize, S)) {
    let size = size_of::<T>();
    let places = bytes.chunks_exact_mut(size).skip(first).step_by(step);
    for (row, (&value, place)) in values.iter().zip(places).enumerate() {
        match T::from_source(value) {
            Some(element) => place.copy_from_slice(bytemuck::bytes_of(&element)),
            None => misfit(row, value),
        }
    }
}

/// A value as JSON.
///
/// # Errors
/// Why it is none.
pub(super) fn json_of(array: &dyn Array, row: usize) -> std::result::Result<Value, String> {
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    if let Some(text) = text_of(array, row) {
        return text.map(|text| json!(text));
    }
    macro_rules! number {
        ($type:ty) => {
            json!(array.as_primitive::<$type>().value(row))
        };
    }
    Ok(match array.data_type() {
        ArrowType::Float16 => float(array.as_primitive::<Float16Type>().value(row).to_f64()),
        ArrowType::Float32 => float(f64::from(array.as_primitive::<Float32Type>().value(row))),
        ArrowType::Float64 => float(array.as_primitive::<Float64Type>().value(row)),
        ArrowType::Int8 => number!(Int8Type),
        ArrowType::Int16 => number!(Int16Type),
        ArrowType::Int32 => number!(Int32Type),
        ArrowType::Int64 => number!(Int64Type),
        ArrowType::UInt8 => number!(UInt8Type),
        ArrowType::UInt16 => number!(UInt16Type),
        ArrowType::UInt32 => number!(UInt32Type),
        ArrowType::UInt64 => number!(UInt64Type),
        ArrowType::Boolean => json!(array.as_boolean().value(row)),
        ArrowType::List(_) => list(&array.as_list::<i32>().value(row))?,
        other => return Err(format!("values of type {other} have no form in JSON here")),
    })
}

fn float(value: f64) -> Value {
    word_for(value).map_or_else(|| json!(value), |word| json!(word))
}

fn list(array: &dyn Array) -> std::result::Result<Value, String> {
    (0..array.len()).map(|item| json_of(array, item)).collect()
}
