//! A row as JSON: a list for the one input, or an object by input names.

use bytes::Bytes;
use serde_json::value::RawValue;

use crate::batch::plan::{Plan, RowInput, Way};
use crate::batch::rows::{Collector, Column};
use crate::error::{Error, Result, shorten};
use crate::http::json::{Text, pairs_in_order, read_shaped, read_value};
use crate::numbers::Number;
use crate::pipeline::Payload;
use crate::plugin::Request;
use crate::tensor::DataType;
use crate::value::{Value, ValueSpec};

/// What a row is called by whoever sends it, where no input has that name.
const ID: &str = "id";
/// The one input's value, as in a request for one prediction.
const FEATURES: &str = "features";

/// Takes a row that is a flat list of as many numbers as the one input has elements: what most lines are. Says whether it
/// was one.
pub(super) fn read_flat(line: &[u8], rows: &mut Collector<'_>) -> bool {
    let plan = rows.plan;
    let Some(input) = plan.only_input() else { return false };
    let (Way::Together | Way::OneByOne) = plan.way else { return false };
    let count = input.elements;
    let Column::Raw(elements) = rows.column(0) else { return false };
    let was_one = match input.datatype {
        DataType::Fp32 => flat_list::<f32>(line, count, elements),
        DataType::Fp64 => flat_list::<f64>(line, count, elements),
        DataType::Int8 => flat_list::<i8>(line, count, elements),
        DataType::Int16 => flat_list::<i16>(line, count, elements),
        DataType::Int32 => flat_list::<i32>(line, count, elements),
        DataType::Int64 => flat_list::<i64>(line, count, elements),
        DataType::Uint8 => flat_list::<u8>(line, count, elements),
        DataType::Uint16 => flat_list::<u16>(line, count, elements),
        DataType::Uint32 => flat_list::<u32>(line, count, elements),
        DataType::Uint64 => flat_list::<u64>(line, count, elements),
        DataType::Bool | DataType::Fp16 | DataType::Bf16 | DataType::Bytes => return false,
    };
    if !was_one {
        rows.take_back();
    }
    was_one
}

/// Takes any row, into the columns or as a request of its own.
///
/// # Errors
/// It is no row of this model. What was put into the columns is the caller's to take back.
pub(super) fn read_row(line: &[u8], rows: &mut Collector<'_>) -> Result<()> {
    let text = Text::new(line);
    let json: &RawValue = serde_json::from_slice(text.json())
        .map_err(|error| Error::invalid_input(format!("the line is not JSON: {error}")))?;
    let plan = rows.plan;
    let named = match json.get().starts_with('{') {
        true => Some(pairs(json, plan, rows)?),
        false => None,
    };
    match plan.way {
        Way::Plugin => {
            let content_type = "application/json".to_owned();
            let body = Bytes::copy_from_slice(line);
            rows.each(Payload::Raw(Request { content_type, body, parameters: Vec::new() }));
        }
        Way::Json => {
            let values = match named {
                Some(named) => by_name(&named, &text, plan)?,
                None => vec![read_value(only_spec(plan)?, &text, json)?],
            };
            rows.each(Payload::Tensors(values));
        }
        Way::Together | Way::OneByOne => {
            match named {
                Some(named) => fixed_by_name(&named, &text, rows)?,
                None => {
                    let input = plan.only_input().ok_or_else(|| needs_names(plan))?;
                    read_fixed(input, 0, (&text, json), rows)?;
                }
            }
            rows.good(1);
        }
    }
    Ok(())
}

/// Inputs by name. The row's own name is kept, and `features` has the one input's.
fn pairs<'j>(json: &'j RawValue, plan: &Plan, rows: &mut Collector<'_>) -> Result<Vec<(String, &'j RawValue)>> {
    let is_input = |name: &str| plan.specs.iter().any(|spec| spec.name() == name);
    let pairs = pairs_in_order(&mut serde_json::Deserializer::from_str(json.get()));
    let pairs = pairs.map_err(|error| Error::invalid_input(format!("the row is not readable: {error}")))?;
    let mut named = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        match name.as_str() {
            ID if !is_input(ID) => rows.id(value.to_owned()),
            FEATURES if !is_input(FEATURES) && plan.way != Way::Plugin => {
                named.push((only_spec(plan)?.name().to_owned(), value));
            }
            _ => named.push((name, value)),
        }
    }
    Ok(named)
}

/// The one input that a row has to give.
fn only_spec(plan: &Plan) -> Result<&ValueSpec> {
    let required = plan.only_input().and_then(|input| plan.specs.iter().find(|spec| spec.name() == input.name));
    match (required, plan.specs.as_slice()) {
        (Some(spec), _) | (None, [spec]) => Ok(spec),
        _ => Err(needs_names(plan)),
    }
}

fn needs_names(plan: &Plan) -> Error {
    Error::invalid_input(format!(
        "the model has not exactly one input: give the row as an object with a value for each of: {}",
        plan.described
    ))
}

fn no_such_input(name: &str, plan: &Plan) -> Error {
    let name = shorten(name.to_owned());
    Error::invalid_input(format!("the model has no input {name:?}; its inputs: {}", plan.described))
}

fn by_name(named: &[(String, &RawValue)], text: &Text<'_>, plan: &Plan) -> Result<Vec<Value>> {
    let values = named.iter().map(|(name, value)| {
        let spec = plan.specs.iter().find(|spec| spec.name() == name).ok_or_else(|| no_such_input(name, plan))?;
        read_value(spec, text, value)
    });
    values.collect()
}

/// Each input once, in whatever order.
fn fixed_by_name(named: &[(String, &RawValue)], text: &Text<'_>, rows: &mut Collector<'_>) -> Result<()> {
    let plan = rows.plan;
    for (index, input) in plan.inputs.iter().enumerate() {
        let mut given = named.iter().filter(|(name, _)| *name == input.name);
        let (_, value) = given.next().ok_or_else(|| {
            Error::invalid_input(format!("the row misses input {}; the model's inputs: {}", input.name, plan.described))
        })?;
        if given.next().is_some() {
            return Err(Error::invalid_input(format!("input {} came twice", input.name)));
        }
        read_fixed(input, index, (text, value), rows)?;
    }
    match named.iter().find(|(name, _)| plan.inputs.iter().all(|input| input.name != *name)) {
        None => Ok(()),
        Some((name, _)) if plan.specs.iter().any(|spec| spec.name() == name) => Err(Error::invalid_input(format!(
            "input {name} has a default, which the rows of a batch cannot replace each by itself"
        ))),
        Some((name, _)) => Err(no_such_input(name, plan)),
    }
}

/// A row's value for one input, as a list of its shape, or a flat one.
fn read_fixed(
    input: &RowInput,
    index: usize,
    (text, json): (&Text<'_>, &RawValue),
    rows: &mut Collector<'_>,
) -> Result<()> {
    let row = read_shaped(&input.name, input.datatype, &input.axes, text.of(json));
    // With the axis of the row itself, as a request for one prediction may have it.
    let row = row.or_else(|error| {
        let with_axis = read_shaped(&input.name, input.datatype, &input.shape(1), text.of(json));
        with_axis.map_err(|_| error)
    });
    rows.column(index).push(row?.data);
    Ok(())
}

/// Appends the elements of `[n, n, …]`, where `text` is just that with so many numbers. Says whether it was; what was
/// appended when it was not is the caller's to take back.
fn flat_list<T: Number + bytemuck::NoUninit>(text: &[u8], count: usize, elements: &mut Vec<u8>) -> bool {
    let Some(mut rest) = text.strip_prefix(b"[") else { return false };
    for index in 0..count {
        let Some((element, length)) = T::read(skip_blank(rest)) else { return false };
        elements.extend_from_slice(bytemuck::bytes_of(&element));
        let after = skip_blank(&skip_blank(rest)[length..]);
        let expected = if index + 1 == count { b']' } else { b',' };
        match after.split_first() {
            Some((&byte, after)) if byte == expected => rest = after,
            _ => return false,
        }
    }
    skip_blank(rest).is_empty()
}

fn skip_blank(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\r', rest @ ..] = text {
        text = rest;
    }
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::flat_list;

    #[test]
    fn a_list_is_taken_whole_or_not_at_all() {
        let list = |text: &str, count| {
            let mut elements = Vec::new();
            let was_one = flat_list::<f32>(text.as_bytes(), count, &mut elements);
            was_one.then(|| bytemuck::pod_collect_to_vec::<u8, f32>(&elements))
        };
        assert_eq!(list("[5.1,3.5]", 2), Some(vec![5.1, 3.5]));
        assert_eq!(list("[ 5.1 , -3e0 ]\r", 2), Some(vec![5.1, -3.0]));
        for text in [
            "[5.1]",
            "[5.1,3.5,1]",
            "[5.1,3.5",
            "[5.1,3.5]x",
            "[5.1 3.5]",
            "[[5.1,3.5]]",
            "[5.1,null]",
            "[,]",
            "[5.1,]",
        ] {
            assert_eq!(list(text, 2), None, "{text}");
        }
    }
}
