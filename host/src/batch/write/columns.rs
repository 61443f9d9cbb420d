//! The columns that a model's answers have in a table.

use std::collections::BTreeMap;

use super::element::json;
use super::ndjson::{write_cell, write_response};
use crate::batch::plan::Plan;
use crate::batch::rows::{Cell, RowAnswer, cell_of, cell_of_whole};
use crate::http::json::ValueData;
use crate::pipeline::Answer;
use crate::tensor::DataType;
use crate::value::{Value, ValueSpec};

/// One output of the model, or what a plugin makes of all of them.
#[derive(Debug, Clone)]
pub(super) struct OutputColumn {
    pub(super) name: String,
    pub(super) kind: Kind,
}

/// What a row has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Scalar(DataType),
    /// So many elements.
    List(DataType, usize),
    /// What differs from row to row, or is more than a tensor.
    Json,
}

/// What one row has in one column.
pub(super) enum Field<'a> {
    Elements(Cell<'a>),
    Json(Vec<u8>),
}

/// More elements than this are no columns that anybody reads.
const MOST_ELEMENTS: usize = 16384;

/// The columns, as the model declares its outputs.
pub(super) fn columns(plan: &Plan) -> Vec<OutputColumn> {
    match &plan.outputs {
        Some(outputs) => {
            outputs.iter().map(|spec| OutputColumn { name: spec.name().to_owned(), kind: kind(spec) }).collect()
        }
        None => vec![OutputColumn { name: "prediction".to_owned(), kind: Kind::Json }],
    }
}

fn kind(spec: &ValueSpec) -> Kind {
    let ValueSpec::Tensor(spec) = spec else { return Kind::Json };
    let Some(declared) = &spec.shape else { return Kind::Json };
    let axes = &declared[usize::from(matches!(declared.first(), Some(-1 | 1)))..];
    let count = axes
        .iter()
        .try_fold(1usize, |count, &size| count.checked_mul(usize::try_from(size).ok()?))
        .filter(|&count| (1..=MOST_ELEMENTS).contains(&count));
    match count {
        Some(1) => Kind::Scalar(spec.datatype),
        Some(count) => Kind::List(spec.datatype, count),
        None => Kind::Json,
    }
}

/// What a row has in each column.
///
/// # Errors
/// Why it has nothing, or something else than the model declares.
pub(super) fn fields<'a>(columns: &[OutputColumn], answer: RowAnswer<'a>) -> Result<Vec<Field<'a>>, String> {
    let (outputs, row): (&'a [Value], Option<usize>) = match answer {
        RowAnswer::Failed(problem) => return Err(problem.to_owned()),
        RowAnswer::Of(outputs, row) => (outputs, Some(row)),
        RowAnswer::Whole(Answer::Outputs(outputs)) => (outputs, None),
        RowAnswer::Whole(Answer::Response(response)) => {
            let mut text = Vec::new();
            write_response(response, &mut text)?;
            return Ok(vec![Field::Json(text)]);
        }
    };
    if columns.len() != outputs.len() {
        // The postprocess plugin was gone around.
        let named: BTreeMap<_, _> = outputs.iter().map(|output| (output.name(), ValueData(output))).collect();
        let mut text = Vec::new();
        json(&named, &mut text);
        return Ok(vec![Field::Json(text)]);
    }
    let cell = |output: &'a Value| row.map_or_else(|| cell_of_whole(output), |row| cell_of(output, row));
    columns.iter().zip(outputs).map(|(column, output)| field(column, cell(output))).collect()
}

fn field<'a>(column: &OutputColumn, cell: Cell<'a>) -> Result<Field<'a>, String> {
    let (datatype, count) = match column.kind {
        Kind::Scalar(datatype) => (datatype, 1),
        Kind::List(datatype, count) => (datatype, count),
        Kind::Json => {
            let mut text = Vec::new();
            write_cell(cell, &mut text);
            return Ok(Field::Json(text));
        }
    };
    match cell {
        Cell::Elements { tensor, axes, .. }
            if tensor.datatype == datatype && axes.iter().product::<usize>() == count =>
        {
            Ok(Field::Elements(cell))
        }
        Cell::Elements { tensor, .. } => Err(format!(
            "output {} came as {}, and {count} {datatype} a row were declared",
            column.name,
            tensor.describe()
        )),
        Cell::Other(value) => Err(format!(
            "output {} came as {}, and {count} {datatype} a row were declared",
            column.name,
            value.describe()
        )),
    }
}
