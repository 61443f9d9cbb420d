//! Whether requests for a model may be run together: tried on made-up rows, together and one by one.

use bytes::Bytes;
use fastrand::Rng;
use half::{bf16, f16};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::spec::value_spec;
use crate::onnx::{Dim, ModelMetadata, ValueInfo, ValueKind};
use crate::tensor::{Data, DataType, Tensor, TensorSpec};
use crate::value::Value;

/// Rows that are tried together.
const ROWS: usize = 3;
/// Sizes tried for axes that may have any, one after the other until the model runs: more than 1, by which a model that
/// mixes an axis with the batch is found out; 1; and what a model of images takes.
const SIZES: [usize; 3] = [2, 1, 64];
/// Most that one row may take, in bytes.
const ROW_BYTES: usize = 16 << 20;

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batching {
    pub ok: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Batching {
    pub fn works() -> Batching {
        Batching { ok: true, reason: None }
    }

    pub fn off(reason: impl Into<String>) -> Batching {
        Batching { ok: false, reason: Some(reason.into()) }
    }
}

/// Runs a model on made-up rows, one by one and together, and compares the answers.
pub(super) fn try_rows(metadata: &ModelMetadata, mut run: impl FnMut(&[Value]) -> Result<Vec<Value>>) -> Batching {
    let tried = declared_rows(metadata).and_then(|inputs| compare_runs(&inputs, &mut run));
    tried.map_or_else(Batching::off, |()| Batching::works())
}

/// The inputs that have rows, where the model declares rows on all of its inputs and outputs; else what it declares instead.
pub(in crate::model) fn declared_rows(metadata: &ModelMetadata) -> std::result::Result<Vec<TensorSpec>, String> {
    let inputs = inputs_with_rows(metadata)?;
    check_outputs(metadata)?;
    Ok(inputs)
}

/// The inputs that have to be given, each with rows. A request that gives others too is run by itself.
fn inputs_with_rows(metadata: &ModelMetadata) -> std::result::Result<Vec<TensorSpec>, String> {
    let mut specs = Vec::new();
    for input in metadata.inputs.iter().filter(|input| !input.optional) {
        specs.push(rows_of(input).map_err(|problem| format!("input {} {problem}", input.name))?);
    }
    if specs.is_empty() {
        return Err("it takes no input with a row for each request".to_owned());
    }
    let values = metadata.inputs.iter().chain(&metadata.outputs);
    let shapes = || values.clone().filter_map(|value| Some((&value.name, axes(value)?)));
    let is_batch = |dim: &Dim| shapes().any(|(_, axes)| matches!(dim, Dim::Symbol(_)) && axes.first() == Some(dim));
    match shapes().find(|(_, axes)| axes.iter().skip(1).any(is_batch)) {
        Some((name, _)) => Err(format!("{name} has another axis of the same size as the batch")),
        None => Ok(specs),
    }
}

fn axes(value: &ValueInfo) -> Option<&[Dim]> {
    match &value.kind {
        ValueKind::Tensor { shape, .. } => shape.as_deref(),
        _ => None,
    }
}

/// What an input declares, if its first axis may have any size.
fn rows_of(input: &ValueInfo) -> std::result::Result<TensorSpec, String> {
    let spec = value_spec(input);
    let spec = spec.tensor().ok_or("is no tensor")?;
    match spec.shape.as_deref() {
        None => Err("does not declare its axes".to_owned()),
        Some([size, ..]) if *size < 0 => Ok(spec.clone()),
        Some(_) => Err(format!("has no first axis of any size: {spec}")),
    }
}

/// An output need not declare its axes: it is looked at.
fn check_outputs(metadata: &ModelMetadata) -> std::result::Result<(), String> {
    for output in &metadata.outputs {
        match &output.kind {
            ValueKind::Tensor { shape: None, .. } | ValueKind::Unknown => {}
            _ => drop(rows_of(output).map_err(|problem| format!("output {} {problem}", output.name))?),
        }
    }
    Ok(())
}

fn compare_runs(
    inputs: &[TensorSpec],
    run: &mut impl FnMut(&[Value]) -> Result<Vec<Value>>,
) -> std::result::Result<(), String> {
    let has_free_axes = inputs.iter().any(|spec| spec.shape.iter().flatten().skip(1).any(|&size| size < 0));
    let mut problem = None;
    for size in SIZES.into_iter().take(if has_free_axes { SIZES.len() } else { 1 }) {
        let rows: Vec<Vec<Tensor>> =
            (0..ROWS).map(|row| made_up(inputs, row, size)).collect::<std::result::Result<_, _>>()?;
        let alone: Result<Vec<Vec<Value>>> = rows.iter().map(|row| run(&values(row.clone()))).collect();
        match alone {
            Ok(alone) => {
                let together = run(&values(join(&rows)))
                    .map_err(|error| format!("it does not run on {ROWS} rows at once: {}", error.message))?;
                return compare(&together, &alone);
            }
            Err(error) => drop(problem.get_or_insert(error.message)),
        }
    }
    Err(format!("it does not run on made-up inputs: {}", problem.unwrap_or_default()))
}

fn values(tensors: Vec<Tensor>) -> Vec<Value> {
    tensors.into_iter().map(Value::Tensor).collect()
}

/// A row that is not like the others, and the same in every trial.
fn made_up(inputs: &[TensorSpec], row: usize, size: usize) -> std::result::Result<Vec<Tensor>, String> {
    let mut rng = Rng::with_seed(row as u64 + 1);
    let mut left = ROW_BYTES;
    let tensors = inputs.iter().map(|spec| {
        let axes = spec.shape.iter().flatten().skip(1).map(|&axis| usize::try_from(axis).unwrap_or(size));
        let shape: Vec<usize> = std::iter::once(1).chain(axes).collect();
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let bytes = count.and_then(|count| count.checked_mul(spec.datatype.size().unwrap_or(size_of::<Bytes>())));
        let (count, bytes) = count.zip(bytes).filter(|(_, bytes)| *bytes <= left).ok_or("its inputs are very large")?;
        left -= bytes;
        let data = elements(spec.datatype, row, count, &mut rng);
        Ok(Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data })
    });
    tensors.collect()
}

/// Floats from -1 to 1; integers of 0 and 1, which is an index into most tables; strings that read as numbers too.
fn elements(datatype: DataType, row: usize, count: usize, rng: &mut Rng) -> Data {
    let mut raw = Vec::new();
    let mut number = |index: usize| match index {
        // The first one tells neighbours apart where there is nothing but it.
        0 => (row % 2) as u8,
        _ => rng.u8(0..2),
    };
    if datatype == DataType::Bytes {
        return Data::Strings((0..count).map(|index| Bytes::from((row * count + index).to_string())).collect());
    }
    if !is_float(datatype) {
        // Little-endian: the lowest byte comes first.
        for index in 0..count {
            raw.push(number(index));
            raw.resize((index + 1) * datatype.size().unwrap_or(1), 0);
        }
        return Data::Raw(raw.into());
    }
    for _ in 0..count {
        let value = rng.f32() * 2.0 - 1.0;
        match datatype {
            DataType::Fp16 => raw.extend_from_slice(&f16::from_f32(value).to_le_bytes()),
            DataType::Bf16 => raw.extend_from_slice(&bf16::from_f32(value).to_le_bytes()),
            DataType::Fp64 => raw.extend_from_slice(&f64::from(value).to_le_bytes()),
            _ => raw.extend_from_slice(&value.to_le_bytes()),
        }
    }
    Data::Raw(raw.into())
}

fn is_float(datatype: DataType) -> bool {
    matches!(datatype, DataType::Fp16 | DataType::Bf16 | DataType::Fp32 | DataType::Fp64)
}

fn join(rows: &[Vec<Tensor>]) -> Vec<Tensor> {
    let Some(first) = rows.first() else { return Vec::new() };
    let joined = first.iter().enumerate().map(|(index, tensor)| {
        let mut shape = tensor.shape.clone();
        shape[0] = rows.len();
        let data = match &tensor.data {
            Data::Raw(_) => Data::Raw(rows.iter().flat_map(|row| raw(&row[index])).copied().collect()),
            Data::Strings(_) => Data::Strings(rows.iter().flat_map(|row| strings(&row[index])).cloned().collect()),
        };
        Tensor { shape, data, ..tensor.clone() }
    });
    joined.collect()
}

fn raw(tensor: &Tensor) -> &[u8] {
    match &tensor.data {
        Data::Raw(bytes) => bytes,
        Data::Strings(_) => &[],
    }
}

fn strings(tensor: &Tensor) -> &[Bytes] {
    match &tensor.data {
        Data::Raw(_) => &[],
        Data::Strings(strings) => strings,
    }
}

/// Whether the answer to all rows at once is that of the rows one by one.
fn compare(together: &[Value], alone: &[Vec<Value>]) -> std::result::Result<(), String> {
    for (index, output) in together.iter().enumerate() {
        let name = output.name();
        let Value::Tensor(together) = output else { return Err(format!("output {name} came as no tensor")) };
        if together.shape.first() != Some(&alone.len()) {
            let (rows, shape) = (alone.len(), &together.shape);
            return Err(format!("{rows} rows went in, and output {name} came with the shape {shape:?}"));
        }
        let rows = alone.iter().map(|outputs| match outputs.get(index) {
            Some(Value::Tensor(row)) if row.shape.first() == Some(&1) && row.shape[1..] == together.shape[1..] => {
                Ok(row)
            }
            Some(Value::Tensor(row)) => {
                Err(format!("output {name} of one row has the shape {:?}, of several {:?}", row.shape, together.shape))
            }
            _ => Err(format!("output {name} came as no tensor")),
        });
        let rows: Vec<&Tensor> = rows.collect::<std::result::Result<_, _>>()?;
        compare_rows(together, &rows)?;
    }
    Ok(())
}

fn compare_rows(together: &Tensor, alone: &[&Tensor]) -> std::result::Result<(), String> {
    let name = &together.name;
    if !is_float(together.datatype) {
        let same = raw(together).iter().eq(alone.iter().flat_map(|row| raw(row)))
            && strings(together).iter().eq(alone.iter().flat_map(|row| strings(row)));
        let differ = || format!("output {name} of several rows differs from that of the rows one by one");
        return same.then_some(()).ok_or_else(differ);
    }
    let alone: Vec<f64> = alone.iter().flat_map(|row| floats(row)).collect();
    let magnitude = alone.iter().filter(|value| value.is_finite()).fold(0.0, |most: f64, value| most.max(value.abs()));
    let most = floats(together).zip(alone).map(difference).fold(0.0, f64::max);
    if most <= tolerance(together.datatype) * magnitude {
        return Ok(());
    }
    Err(format!(
        "output {name} of several rows differs from that of the rows one by one by {most:.1e}, where it is up to {magnitude:.1e}"
    ))
}

fn difference((one, other): (f64, f64)) -> f64 {
    match (one - other).abs() {
        _ if one == other || one.is_nan() && other.is_nan() => 0.0,
        difference if difference.is_nan() => f64::INFINITY,
        difference => difference,
    }
}

/// How far floats may differ, as a share of the largest one of the output. Kernels for one row and for several add up in
/// another order, which changes the last digits: layers upon layers of 32 bits stay under 1e-5. What depends on other rows
/// is far above: where a scale is taken over all of them, as dynamic quantization does, it is 1e-3 and more.
/// Results of 64 bits may have been computed with 32; those of 16 bits have a few of their own last digits.
fn tolerance(datatype: DataType) -> f64 {
    match datatype {
        DataType::Fp16 => 4e-3,
        DataType::Bf16 => 3e-2,
        _ => 1e-4,
    }
}

fn floats(tensor: &Tensor) -> impl Iterator<Item = f64> {
    let datatype = tensor.datatype;
    raw(tensor).chunks_exact(datatype.size().unwrap_or(1)).map(move |bytes| match *bytes {
        [a, b] if datatype == DataType::Fp16 => f16::from_le_bytes([a, b]).into(),
        [a, b] => bf16::from_le_bytes([a, b]).into(),
        [a, b, c, d] => f32::from_le_bytes([a, b, c, d]).into(),
        [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => f64::NAN,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn floats_of(name: &str, shape: &[usize], elements: &[f32]) -> Value {
        Value::Tensor(Tensor::from_vec(name.into(), DataType::Fp32, shape.to_vec(), elements.to_vec()).unwrap())
    }

    fn compared(together: Value, alone: [Value; 2]) -> std::result::Result<(), String> {
        compare(&[together], &alone.map(|row| vec![row]))
    }

    #[test]
    fn last_digits_may_differ_and_nothing_else() {
        let alone = || [floats_of("y", &[1, 2], &[1.0, -10.0]), floats_of("y", &[1, 2], &[f32::NAN, f32::INFINITY])];
        let together = |second: f32| floats_of("y", &[2, 2], &[1.0, second, f32::NAN, f32::INFINITY]);
        assert_eq!(compared(together(-10.0), alone()), Ok(()));
        assert_eq!(compared(together(-10.0009), alone()), Ok(()));
        for other in [-10.002, 10.0, f32::NAN, f32::NEG_INFINITY] {
            assert!(compared(together(other), alone()).unwrap_err().contains("output y of several rows differs"));
        }
    }

    #[test]
    fn an_output_needs_a_row_for_each_row() {
        let alone = || [floats_of("y", &[1, 2], &[1.0, 2.0]), floats_of("y", &[1, 2], &[3.0, 4.0])];
        assert!(compared(floats_of("y", &[1, 2], &[1.0, 2.0]), alone()).unwrap_err().contains("2 rows went in"));
        assert!(compared(floats_of("y", &[2, 1], &[1.0, 2.0]), alone()).unwrap_err().contains("has the shape [1, 2]"));
        assert!(compared(Value::None { name: "y".into() }, alone()).unwrap_err().contains("no tensor"));
    }

    #[test]
    fn rows_are_of_every_datatype_distinct_and_the_same_each_time() {
        for datatype in ["BOOL", "UINT8", "INT64", "FP16", "BF16", "FP32", "FP64", "BYTES"] {
            let datatype = DataType::from_name(datatype).unwrap();
            let spec = TensorSpec { name: "x".into(), datatype, shape: Some(vec![-1, 3, -1]) };
            let row = |row| made_up(std::slice::from_ref(&spec), row, 2).unwrap();
            assert_eq!(row(0), row(0), "{datatype}");
            assert_ne!(row(0), row(1), "{datatype}");
            let joined = join(&[row(0), row(1), row(2)]);
            assert_eq!(joined[0].shape, [3, 3, 2]);
            assert_eq!(raw(&joined[0]).len(), 18 * datatype.size().unwrap_or(0));
            assert_eq!(strings(&joined[0]).len(), if datatype == DataType::Bytes { 18 } else { 0 });
        }
        let vast = TensorSpec { name: "x".into(), datatype: DataType::Fp32, shape: Some(vec![-1, i64::MAX, 3]) };
        assert!(made_up(&[vast], 0, 2).is_err());
    }
}
