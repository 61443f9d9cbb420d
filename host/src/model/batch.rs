//! Requests run together: which can be, their inputs joined along the first axis, the rows of large ones taken apart.

use bytes::{Bytes, BytesMut};

use crate::error::{Error, Result};
use crate::tensor::{Data, Tensor};
use crate::value::Value;

/// The size of the first axis, where all of a request's inputs are tensors that have one of the same size. `None` too where
/// none of them has an element: as `[1000000000, 0]` a few bytes claim more rows than anybody could run.
pub(super) fn rows_in(inputs: &[Value]) -> Option<usize> {
    let rows = |input: &Value| if let Value::Tensor(tensor) = input { tensor.shape.first().copied() } else { None };
    let first = rows(inputs.first()?)?;
    let is_held = first == 0 || inputs.iter().any(|input| input.byte_size() > 0);
    (is_held && inputs.iter().all(|input| rows(input) == Some(first))).then_some(first)
}

/// Whether the inputs of two requests, of which each has rows, differ in nothing but their number and elements.
pub(super) fn are_alike(one: &[Value], other: &[Value]) -> bool {
    let alike = |(one, other): (&Value, &Value)| match (one, other) {
        (Value::Tensor(one), Value::Tensor(other)) => {
            one.datatype == other.datatype && one.shape.get(1..) == other.shape.get(1..) && one.name == other.name
        }
        _ => false,
    };
    one.len() == other.len() && one.iter().zip(other).all(alike)
}

/// The inputs of requests that are alike as those of one run.
///
/// # Errors
/// They are not alike.
pub(super) fn join<'j>(requests: impl Iterator<Item = &'j [Value]> + Clone) -> Result<Vec<Value>> {
    let Some(first) = requests.clone().next() else { return Ok(Vec::new()) };
    (0..first.len()).map(|index| join_tensors(requests.clone().map(|inputs| inputs.get(index)))).collect()
}

/// Tensors of several answers, or of the parts of one, as one tensor each.
fn join_tensors<'j>(values: impl Iterator<Item = Option<&'j Value>> + Clone) -> Result<Value> {
    let tensors = values.map(|value| match value {
        Some(Value::Tensor(tensor)) => Ok(tensor),
        _ => Err(Error::internal("what is no tensor was to be joined")),
    });
    let tensors: Vec<&Tensor> = tensors.collect::<Result<_>>()?;
    let first = tensors.first().ok_or_else(|| Error::internal("nothing was to be joined"))?;
    let mut shape = first.shape.clone();
    let rows = tensors.iter().filter_map(|tensor| tensor.shape.first()).sum();
    *shape.first_mut().ok_or_else(|| Error::internal("a scalar was to be joined"))? = rows;
    let data = match &first.data {
        Data::Raw(_) => {
            let mut joined = BytesMut::with_capacity(tensors.iter().map(|tensor| tensor.byte_size()).sum());
            for tensor in &tensors {
                let Data::Raw(bytes) = &tensor.data else { return Err(Error::internal("numbers that are strings")) };
                joined.extend_from_slice(bytes);
            }
            Data::Raw(joined.freeze())
        }
        Data::Strings(_) => {
            let strings = tensors.iter().filter_map(|tensor| match &tensor.data {
                Data::Strings(strings) => Some(strings),
                Data::Raw(_) => None,
            });
            Data::Strings(strings.flatten().cloned().collect())
        }
    };
    Ok(Value::Tensor(Tensor { name: first.name.clone(), datatype: first.datatype, shape, data }))
}

/// The parts of a request, each of no more than so many rows, made as they are asked for. Their elements are the request's
/// own.
pub(super) fn split(inputs: &[Value], rows: usize, most_rows: usize) -> impl Iterator<Item = Vec<Value>> {
    let most_rows = most_rows.max(1);
    (0..rows).step_by(most_rows).map(move |start| {
        let end = rows.min(start + most_rows);
        inputs.iter().map(|input| rows_of(input, rows, start, end)).collect()
    })
}

/// Rows `start` to `end` of a tensor of `rows` rows.
pub(super) fn rows_of(value: &Value, rows: usize, start: usize, end: usize) -> Value {
    let Value::Tensor(tensor) = value else { return value.clone() };
    let of = |length: usize| {
        let row = length / rows.max(1);
        row * start..row * end
    };
    let data = match &tensor.data {
        Data::Raw(bytes) => Data::Raw(bytes.slice(of(bytes.len()))),
        Data::Strings(strings) => Data::Strings(strings[of(strings.len())].to_vec()),
    };
    let mut shape = tensor.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = end - start;
    }
    Value::Tensor(Tensor { name: tensor.name.clone(), datatype: tensor.datatype, shape, data })
}

/// A run's outputs as those of the requests that were run together, which had so many rows each. Every answer has memory
/// of its own: one that is kept does not keep the others.
///
/// # Errors
/// An output without as many rows as went in.
pub(super) fn part(outputs: &[Value], rows: &[usize]) -> Result<Vec<Vec<Value>>> {
    let total: usize = rows.iter().sum();
    let has_all = |output: &Value| matches!(output, Value::Tensor(tensor) if tensor.shape.first() == Some(&total));
    if let Some(output) = outputs.iter().find(|output| !has_all(output)) {
        let (name, what) = (output.name(), output.describe());
        return Err(Error::internal(format!("{total} rows went in, and output {name} came as {what}")));
    }
    let mut start = 0;
    let parts = rows.iter().map(|rows| {
        let end = start + rows;
        let part = outputs.iter().map(|output| own(rows_of(output, total, start, end))).collect();
        start = end;
        part
    });
    Ok(parts.collect())
}

fn own(value: Value) -> Value {
    match value {
        Value::Tensor(Tensor { name, datatype, shape, data: Data::Raw(bytes) }) => {
            Value::Tensor(Tensor { name, datatype, shape, data: Data::Raw(Bytes::copy_from_slice(&bytes)) })
        }
        other => other,
    }
}

/// The answers to the parts of a request as the answer to all of it.
///
/// # Errors
/// Outputs that are no tensors.
pub(super) fn join_answers(parts: &[Vec<Value>]) -> Result<Vec<Value>> {
    join(parts.iter().map(Vec::as_slice))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    fn numbers(name: &str, shape: &[usize], from: i32) -> Value {
        let count: usize = shape.iter().product();
        let elements: Vec<i32> = (from..).take(count).collect();
        Value::Tensor(Tensor::from_vec(name.into(), DataType::Int32, shape.to_vec(), elements).unwrap())
    }

    fn words(name: &str, words: &[&str]) -> Value {
        let strings = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        Value::Tensor(Tensor::from_strings(name.into(), vec![words.len()], strings).unwrap())
    }

    #[test]
    fn what_was_joined_comes_apart_again() {
        let requests = [
            vec![numbers("x", &[1, 3], 0), words("s", &["a"])],
            vec![numbers("x", &[2, 3], 100), words("s", &["b", "c"])],
            vec![numbers("x", &[1, 3], 200), words("s", &["d"])],
        ];
        let joined = join(requests.iter().map(Vec::as_slice)).unwrap();
        assert_eq!(joined[1], words("s", &["a", "b", "c", "d"]));
        assert_eq!(part(&joined, &[1, 2, 1]).unwrap(), requests);
        let parts: Vec<Vec<Value>> = split(&joined, 4, 3).collect();
        assert_eq!(parts.len(), 2);
        assert_eq!(join_answers(&parts).unwrap(), joined);
    }

    #[test]
    fn only_requests_that_are_alike_run_together() {
        let alike = |one: &[usize], other: &[usize]| are_alike(&[numbers("x", one, 0)], &[numbers("x", other, 0)]);
        assert!(alike(&[1, 3], &[7, 3]));
        assert!(!alike(&[1, 3], &[1, 4]));
        assert!(!alike(&[1, 3], &[1, 3, 1]));
        assert!(!are_alike(&[numbers("x", &[1, 3], 0)], &[numbers("y", &[1, 3], 0)]));
        assert!(!are_alike(&[numbers("x", &[1], 0)], &[words("x", &["a"])]));
        assert!(!are_alike(&[numbers("x", &[1], 0)], &[numbers("x", &[1], 0), numbers("y", &[1], 0)]));
        assert_eq!(rows_in(&[numbers("x", &[2, 3], 0), words("s", &["b", "c"])]), Some(2));
        assert_eq!(rows_in(&[numbers("x", &[1, 3], 0), numbers("y", &[2, 3], 0)]), None);
        assert_eq!(rows_in(&[numbers("x", &[], 0)]), None);
    }

    #[test]
    fn rows_without_elements_are_nothing_to_run_together() {
        assert_eq!(rows_in(&[numbers("x", &[1 << 20, 0], 0)]), None);
        assert_eq!(rows_in(&[numbers("x", &[3, 0], 0), numbers("y", &[3, 2, 0], 0)]), None);
        // Beside elements they are as many as those show.
        assert_eq!(rows_in(&[numbers("x", &[3, 2], 0), numbers("past", &[3, 4, 0], 0)]), Some(3));
        assert_eq!(rows_in(&[numbers("x", &[0, 4], 0)]), Some(0));
    }

    #[test]
    fn an_output_without_a_row_for_each_row_is_a_fault() {
        assert!(part(&[numbers("mean", &[1, 3], 0)], &[1, 1]).is_err());
    }
}
