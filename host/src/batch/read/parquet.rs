//! Columns of a Parquet file, turned into rows of tensors.

use std::fs::File;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use arrow_schema::{FieldRef, Fields};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use parquet::arrow::{ProjectionMask, parquet_to_arrow_field_levels, parquet_to_arrow_schema};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde_json::value::{RawValue, to_raw_value};

use super::arrow::{
    Elements, Problems, add_sizes, copy_list, copy_scalars, has_form, has_one_size, is_list, json_of, with_views,
};
use super::checked::RowGroup;
use super::columns::{Columns, Source, find, id_column};
use super::footer;
use super::json::read_row;
use super::pages::Pages;
use super::{Begun, Chunks, ReadOptions, Stopped};
use crate::batch::Progress;
use crate::batch::plan::{Plan, Way};
use crate::batch::rows::{Collector, HELD_BYTES};
use crate::error::{Error, Result, shorten};

/// Rows that are decoded at once: where all have one size, as many as have so many elements, or so many where they have not.
const ROWS: usize = 8192;
const MOST_ELEMENTS: usize = 2 << 20;
const UNEVEN_ROWS: usize = 128;
/// Bytes of such rows that are decoded at once, where one has not more.
const UNEVEN_BYTES: usize = 16 << 20;

/// Reads one row group after another.
pub(super) fn read(
    file: File,
    options: &ReadOptions,
    row_bytes: usize,
    progress: &Progress,
    rows: &mut Collector<'_>,
    chunks: &mut Chunks<'_>,
) -> std::result::Result<(), Stopped> {
    let unreadable =
        |error: &dyn std::fmt::Display| Error::invalid_input(format!("the file is not readable as Parquet: {error}"));
    footer::check(&file).map_err(|problem| unreadable(&problem))?;
    let metadata = ParquetMetaDataReader::new().parse_and_finish(&file).map_err(|error| unreadable(&error))?;
    let schema = metadata.file_metadata().schema_descr_ptr();
    progress.expect(u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0));
    let fields = fields(&metadata).map_err(|error| unreadable(&error))?;
    let (table, read) = Table::of(&fields, rows.plan, options, row_bytes)?;
    let mask = ProjectionMask::roots(&schema, read.iter().copied());
    let levels =
        parquet_to_arrow_field_levels(&schema, mask.clone(), Some(&fields)).map_err(|error| unreadable(&error))?;
    let (pages, metadata) = (Arc::new(Pages::new(file)), Arc::new(metadata));
    let shown = Begun { has_ids: table.id.is_some() };
    for index in 0..metadata.num_row_groups() {
        let group = RowGroup::new(&pages, &metadata, index);
        let at_once = rows_at_once(read.iter().map(|&column| &fields[column]), group.row_bytes(&mask));
        let batches = ParquetRecordBatchReader::try_new_with_row_groups(&levels, &group, at_once, None);
        let batches = batches.map_err(|error| unreadable(&error))?;
        chunks.begin(shown);
        for batch in batches {
            pages.next_rows();
            table.read(&batch.map_err(|error| unreadable(&error))?, rows, chunks)?;
        }
    }
    chunks.begin(shown);
    Ok(())
}

/// The columns of a file, of which texts refer to where they are: one that a file has once, and each of its rows, is in
/// memory once. What a writer says of them beside their types is not asked for.
fn fields(metadata: &ParquetMetaData) -> std::result::Result<Fields, ParquetError> {
    let schema = parquet_to_arrow_schema(metadata.file_metadata().schema_descr(), None)?;
    Ok(schema.fields().iter().map(with_views).collect())
}

fn rows_at_once<'f>(mut fields: impl ExactSizeIterator<Item = &'f FieldRef>, row_bytes: usize) -> usize {
    let count = fields.len().max(1);
    match fields.all(|field| has_one_size(field.data_type())) {
        true => (MOST_ELEMENTS / count).clamp(1, ROWS),
        false => (UNEVEN_BYTES / row_bytes.max(1)).clamp(1, UNEVEN_ROWS),
    }
}

/// Rows that a file says it has; `None` where it is not Parquet.
pub fn rows_in_parquet(file: &File) -> Option<u64> {
    footer::check(file).ok()?;
    let metadata = ParquetMetaDataReader::new().parse_and_finish(file).ok()?;
    u64::try_from(metadata.file_metadata().num_rows()).ok()
}

/// What the columns of a file are.
struct Table {
    names: Vec<String>,
    /// Those of the model's inputs, where rows have one size.
    columns: Option<Columns>,
    id: Option<usize>,
    /// Most bytes of a row.
    row_bytes: usize,
}

impl Table {
    /// With the columns of the file that are read: those of the model where it takes a row's elements, or all.
    fn of(fields: &Fields, plan: &Plan, options: &ReadOptions, row_bytes: usize) -> Result<(Table, Vec<usize>)> {
        let names: Vec<String> = fields.iter().map(|field| field.name().clone()).collect();
        let columns = match plan.way {
            Way::Together | Way::OneByOne => {
                Some(find(plan, &names, |column| is_list(fields[column].data_type()), options)?)
            }
            Way::Json | Way::Plugin => None,
        };
        let read = columns.as_ref().map_or_else(|| (0..fields.len()).collect(), Columns::read);
        if read.is_empty() {
            return Err(Error::invalid_input("the file has no columns"));
        }
        if let Some(field) = read.iter().map(|&column| &fields[column]).find(|field| !has_form(field.data_type())) {
            let (name, kind) = (shorten(field.name().clone()), shorten(field.data_type().to_string()));
            return Err(Error::invalid_input(format!(
                "column {name} is of type {kind}; a column's values are numbers, booleans, texts, or lists of them"
            )));
        }
        let columns = columns.map(|columns| columns.among(&read));
        let names: Vec<String> = read.iter().map(|&column| names[column].clone()).collect();
        let id = columns.as_ref().map_or_else(|| id_column(plan, &names), |columns| columns.id);
        Ok((Table { names, columns, id, row_bytes }, read))
    }

    /// Takes the rows of a batch, as many at once as a chunk has room for.
    fn read(
        &self,
        batch: &RecordBatch,
        rows: &mut Collector<'_>,
        chunks: &mut Chunks<'_>,
    ) -> std::result::Result<(), Stopped> {
        let sizes = sizes(batch, self.columns.as_ref());
        let mut from = 0;
        while from < batch.num_rows() {
            let count = together(&sizes[from..], rows.room(), self.row_bytes);
            let part = batch.slice(from, count);
            match &self.columns {
                _ if count == 0 => {
                    rows.bad(format!("the row is larger than {} bytes (--max-body-bytes)", self.row_bytes));
                }
                Some(columns) => read_fixed(&part, columns, &self.names, rows)?,
                None => read_objects(&part, &self.names, self.id, rows),
            }
            if rows.is_full() {
                chunks.send(rows)?;
            }
            from += count.max(1);
        }
        Ok(())
    }
}

/// Bytes that each row has in texts and lists, of what is read of it.
fn sizes(batch: &RecordBatch, columns: Option<&Columns>) -> Vec<usize> {
    let mut sizes = vec![0; batch.num_rows()];
    let mut add = |column: usize| add_sizes(batch.column(column), &mut sizes);
    let Some(columns) = columns else {
        (0..batch.num_columns()).for_each(add);
        return sizes;
    };
    for source in &columns.inputs {
        match source {
            Source::Scalars(scalars) => scalars.iter().copied().for_each(&mut add),
            Source::List(list) => add(*list),
        }
    }
    columns.id.into_iter().for_each(add);
    sizes
}

/// How many of the rows to come are read together: as many as a chunk takes, and none where the first is larger than a row
/// may be.
fn together(sizes: &[usize], room: usize, most: usize) -> usize {
    let mut bytes = 0;
    let fitting = sizes.iter().take(room.max(1)).take_while(|&&size| {
        let fits = size <= most && bytes < HELD_BYTES;
        bytes += size;
        fits
    });
    fitting.count()
}

/// Rows of one size, all at once.
fn read_fixed(part: &RecordBatch, columns: &Columns, names: &[String], rows: &mut Collector<'_>) -> Result<()> {
    let count = part.num_rows();
    let mut problems = Problems::default();
    let plan = rows.plan;
    let mut inputs = Vec::with_capacity(plan.inputs.len());
    for (input, source) in plan.inputs.iter().zip(&columns.inputs) {
        let mut elements = Elements::new(input.datatype, count * input.elements);
        match source {
            Source::Scalars(scalars) => {
                for (place, &column) in scalars.iter().enumerate() {
                    let array = part.column(column);
                    copy_scalars(array, &names[column], &mut elements, (place, input.elements), &mut problems)?;
                }
            }
            Source::List(column) => {
                copy_list(part.column(*column), &names[*column], &mut elements, input.elements, &mut problems)?;
            }
        }
        inputs.push(elements);
    }
    let ids = columns.id.map(|column| ids(part.column(column), &names[column], &mut problems));
    let ids = ids.transpose()?.unwrap_or_default();
    let datas = inputs.into_iter().map(Elements::into_column).collect();
    rows.extend(count, datas, problems.into_rows(), ids);
    Ok(())
}

/// What rows are called, by their place.
fn ids(array: &dyn Array, name: &str, problems: &mut Problems) -> Result<Vec<(usize, Box<RawValue>)>> {
    let mut ids = Vec::new();
    for row in (0..array.len()).filter(|&row| array.is_valid(row)) {
        match json_of(array, row) {
            Ok(id) => ids.push((row, to_raw_value(&id).map_err(Error::internal)?)),
            Err(misfit) => problems.add(row, || format!("column {name}: {misfit}")),
        }
    }
    Ok(ids)
}

/// Rows as objects in JSON, for a plugin or where they differ in size.
fn read_objects(part: &RecordBatch, names: &[String], id: Option<usize>, rows: &mut Collector<'_>) {
    for row in 0..part.num_rows() {
        if let Err(error) = read_object(part, row, names, id, rows) {
            rows.bad(error.message);
        }
    }
}

fn read_object(
    part: &RecordBatch,
    row: usize,
    names: &[String],
    id: Option<usize>,
    rows: &mut Collector<'_>,
) -> Result<()> {
    let value = |column: usize| {
        let value = json_of(part.column(column), row);
        value.map_err(|misfit| Error::invalid_input(format!("column {}: {misfit}", names[column])))
    };
    if let Some(id) = id.filter(|&id| part.column(id).is_valid(row)) {
        rows.id(to_raw_value(&value(id)?).map_err(Error::internal)?);
    }
    let mut object = serde_json::Map::new();
    for (column, name) in names.iter().enumerate().filter(|(column, _)| Some(*column) != id) {
        object.insert(name.clone(), value(column)?);
    }
    let row = match rows.plan.way {
        Way::Plugin => serde_json::json!({ "record": object }),
        _ => serde_json::Value::Object(object),
    };
    read_row(row.to_string().as_bytes(), rows)
}
