//! A Parquet file: `row`, `id` where rows have one, a column for each output, `error`.

use std::io;
use std::sync::Arc;

use arrow_array::types::{
    Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{
    ArrayRef, ArrowPrimitiveType, BooleanArray, FixedSizeListArray, PrimitiveArray, RecordBatch, StringArray,
};
use arrow_schema::{DataType as ArrowType, Field as ArrowField, Schema, SchemaRef};
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::columns::{Field, Kind, OutputColumn, columns, fields};
use super::csv::name_of;
use super::{Pieces, Unwanted};
use crate::batch::plan::Plan;
use crate::batch::rows::{Answered, Answers, Cell};
use crate::error::{Error, Result};
use crate::tensor::{Data, DataType, Tensor};
use crate::value::Value;

/// Rows that are written together.
const ROW_GROUP: usize = 128 << 10;
/// Bytes of a row group, past which it is written before it has as many rows.
const ROW_GROUP_BYTES: usize = 16 << 20;

pub(super) struct Writer {
    columns: Vec<OutputColumn>,
    has_ids: bool,
    schema: SchemaRef,
    file: ArrowWriter<Pieces>,
}

/// The elements of an output, for rows one after another.
struct Values {
    kind: Kind,
    numbers: Vec<u8>,
    texts: Vec<Option<String>>,
    is_there: Vec<bool>,
}

impl Writer {
    /// # Errors
    /// Two outputs of one name.
    pub(super) fn new(plan: &Plan, has_ids: bool, pieces: Pieces) -> Result<Writer> {
        let columns = columns(plan);
        let mut fields = vec![ArrowField::new("row", ArrowType::Int64, false)];
        if has_ids {
            fields.push(ArrowField::new("id", ArrowType::Utf8, true));
        }
        fields.extend(columns.iter().map(|column| ArrowField::new(&column.name, arrow_type(column.kind), true)));
        fields.push(ArrowField::new("error", ArrowType::Utf8, true));
        let schema = Arc::new(Schema::new(fields));
        // Predictions seldom repeat, so a dictionary of them only costs; row numbers are one apart.
        let properties = WriterProperties::builder()
            .set_dictionary_enabled(false)
            .set_compression(Compression::SNAPPY)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_column_statistics_enabled(ColumnPath::from("error"), EnabledStatistics::Chunk)
            .set_column_encoding(ColumnPath::from("row"), Encoding::DELTA_BINARY_PACKED)
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .build();
        let file = ArrowWriter::try_new(pieces, Arc::clone(&schema), Some(properties));
        Ok(Writer { columns, has_ids, schema, file: file.map_err(Error::internal)? })
    }

    pub(super) fn write(&mut self, answered: &Answered) -> std::result::Result<(), Unwanted> {
        let batch = self.batch(answered).map_err(Error::internal);
        let written = batch.and_then(|batch| self.file.write(&batch).map_err(Error::internal));
        let written = written.and_then(|()| match self.file.in_progress_size() > ROW_GROUP_BYTES {
            true => self.file.flush().map_err(Error::internal),
            false => Ok(()),
        });
        written.map_err(|error| {
            self.fail(&error);
            Unwanted
        })
    }

    /// The job broke off: a file without an end cannot be taken for a whole one.
    pub(super) fn fail(&mut self, error: &Error) {
        self.file.inner_mut().fail(error);
    }

    pub(super) fn finish(mut self) -> std::result::Result<(), Unwanted> {
        match self.file.finish() {
            Ok(_) => self.file.inner_mut().send(),
            Err(error) => {
                self.fail(&Error::internal(error));
                Err(Unwanted)
            }
        }
    }

    fn batch(&self, answered: &Answered) -> std::result::Result<RecordBatch, ParquetError> {
        let (outputs, errors) = match self.whole(answered) {
            Some(outputs) => (outputs?, StringArray::new_null(answered.tags.count)),
            None => self.by_row(answered)?,
        };
        let first = i64::try_from(answered.tags.first).unwrap_or(i64::MAX);
        let rows = (first..).take(answered.tags.count);
        let mut arrays: Vec<ArrayRef> = vec![Arc::new(PrimitiveArray::<Int64Type>::from_iter_values(rows))];
        arrays.extend(self.ids(answered).map(|ids| Arc::new(ids) as ArrayRef));
        arrays.extend(outputs);
        arrays.push(Arc::new(errors));
        Ok(RecordBatch::try_new(Arc::clone(&self.schema), arrays)?)
    }

    /// The outputs of rows that all went well and together, without a look at each.
    fn whole(&self, answered: &Answered) -> Option<std::result::Result<Vec<ArrayRef>, ParquetError>> {
        let Answers::Together(outputs) = &answered.answers else { return None };
        if !answered.tags.bad.is_empty() || outputs.len() != self.columns.len() {
            return None;
        }
        let whole = self.columns.iter().zip(outputs).map(|(column, output)| match output {
            Value::Tensor(Tensor { datatype, shape, data: Data::Raw(bytes), .. })
                if column.kind != Kind::Json
                    && *datatype == column.kind.datatype()
                    && shape.get(1..).is_some_and(|axes| axes.iter().product::<usize>() == column.kind.count()) =>
            {
                Some(array(column.kind, bytes, Vec::new(), None))
            }
            _ => None,
        });
        whole.collect()
    }

    /// What rows are called.
    fn ids(&self, answered: &Answered) -> Option<StringArray> {
        let mut ids = vec![None; if self.has_ids { answered.tags.count } else { return None }];
        for (row, id) in &answered.tags.ids {
            ids[*row] = Some(name_of(id));
        }
        Some(StringArray::from(ids))
    }

    fn by_row(&self, answered: &Answered) -> std::result::Result<(Vec<ArrayRef>, StringArray), ParquetError> {
        let count = answered.tags.count;
        let mut outputs: Vec<Values> = self.columns.iter().map(|column| Values::new(column.kind, count)).collect();
        let mut errors = Vec::with_capacity(count);
        answered.each(|_, _, answer| match fields(&self.columns, answer) {
            Ok(fields) => {
                outputs.iter_mut().zip(fields).for_each(|(values, field)| values.push(field));
                errors.push(None);
            }
            Err(problem) => {
                outputs.iter_mut().for_each(Values::push_none);
                errors.push(Some(problem));
            }
        });
        let outputs = outputs.into_iter().map(Values::into_array).collect::<std::result::Result<_, _>>()?;
        Ok((outputs, StringArray::from(errors)))
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer().extend_from_slice(bytes);
        self.send_full().map_err(|Unwanted| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn arrow_type(kind: Kind) -> ArrowType {
    match kind {
        Kind::Scalar(datatype) => element_type(datatype),
        Kind::List(datatype, count) => {
            let item = Arc::new(ArrowField::new("item", element_type(datatype), false));
            ArrowType::FixedSizeList(item, i32::try_from(count).unwrap_or(i32::MAX))
        }
        Kind::Json => ArrowType::Utf8,
    }
}

fn element_type(datatype: DataType) -> ArrowType {
    match datatype {
        DataType::Bool => ArrowType::Boolean,
        DataType::Uint8 => ArrowType::UInt8,
        DataType::Uint16 => ArrowType::UInt16,
        DataType::Uint32 => ArrowType::UInt32,
        DataType::Uint64 => ArrowType::UInt64,
        DataType::Int8 => ArrowType::Int8,
        DataType::Int16 => ArrowType::Int16,
        DataType::Int32 => ArrowType::Int32,
        DataType::Int64 => ArrowType::Int64,
        DataType::Fp16 => ArrowType::Float16,
        // Arrow has no such float; every one of them is one of these.
        DataType::Bf16 | DataType::Fp32 => ArrowType::Float32,
        DataType::Fp64 => ArrowType::Float64,
        DataType::Bytes => ArrowType::Utf8,
    }
}

impl Kind {
    fn datatype(self) -> DataType {
        match self {
            Kind::Scalar(datatype) | Kind::List(datatype, _) => datatype,
            Kind::Json => DataType::Bytes,
        }
    }

    fn count(self) -> usize {
        if let Kind::List(_, count) = self { count } else { 1 }
    }
}

impl Values {
    fn new(kind: Kind, rows: usize) -> Values {
        let bytes = rows * kind.count() * kind.datatype().size().unwrap_or(0);
        Values { kind, numbers: Vec::with_capacity(bytes), texts: Vec::new(), is_there: Vec::with_capacity(rows) }
    }

    fn push(&mut self, field: Field<'_>) {
        self.is_there.push(true);
        match field {
            Field::Json(text) => self.texts.push(Some(String::from_utf8_lossy(&text).into_owned())),
            Field::Elements(Cell::Elements { tensor, start, axes }) => {
                let count = axes.iter().product::<usize>();
                match &tensor.data {
                    Data::Raw(bytes) => {
                        let size = tensor.datatype.size().unwrap_or(1);
                        let elements = bytes.get(start * size..(start + count) * size).unwrap_or_default();
                        self.numbers.extend_from_slice(elements);
                    }
                    Data::Strings(strings) => {
                        let text = |text: &Bytes| Some(String::from_utf8_lossy(text).into_owned());
                        self.texts.extend(strings.iter().skip(start).take(count).map(text));
                    }
                }
            }
            Field::Elements(Cell::Other(_)) => self.push_none(),
        }
    }

    fn push_none(&mut self) {
        self.is_there.push(false);
        let count = self.kind.count();
        match self.kind.datatype().size() {
            Some(size) => self.numbers.resize(self.numbers.len() + count * size, 0),
            // In a list of texts none may be missing, so a list that is not there is one of empty texts.
            None if count > 1 => self.texts.resize(self.texts.len() + count, Some(String::new())),
            None => self.texts.push(None),
        }
    }

    fn into_array(self) -> std::result::Result<ArrayRef, ParquetError> {
        array(self.kind, &self.numbers, self.texts, Some(self.is_there))
    }
}

/// A column of some rows; all of them are there where `is_there` does not say which.
fn array(
    kind: Kind,
    numbers: &[u8],
    texts: Vec<Option<String>>,
    is_there: Option<Vec<bool>>,
) -> std::result::Result<ArrayRef, ParquetError> {
    let Kind::List(datatype, count) = kind else { return Ok(elements(kind.datatype(), numbers, texts, is_there)) };
    let item = Arc::new(ArrowField::new("item", element_type(datatype), false));
    let size = i32::try_from(count).unwrap_or(i32::MAX);
    let elements = elements(datatype, numbers, texts, None);
    Ok(Arc::new(FixedSizeListArray::try_new(item, size, elements, is_there.map(Into::into))?))
}

fn elements(datatype: DataType, numbers: &[u8], texts: Vec<Option<String>>, is_there: Option<Vec<bool>>) -> ArrayRef {
    match datatype {
        DataType::Bool => {
            let truths: Vec<bool> = numbers.iter().map(|&byte| byte != 0).collect();
            Arc::new(BooleanArray::new(truths.into(), is_there.map(Into::into)))
        }
        DataType::Uint8 => primitive::<UInt8Type>(numbers, is_there),
        DataType::Uint16 => primitive::<UInt16Type>(numbers, is_there),
        DataType::Uint32 => primitive::<UInt32Type>(numbers, is_there),
        DataType::Uint64 => primitive::<UInt64Type>(numbers, is_there),
        DataType::Int8 => primitive::<Int8Type>(numbers, is_there),
        DataType::Int16 => primitive::<Int16Type>(numbers, is_there),
        DataType::Int32 => primitive::<Int32Type>(numbers, is_there),
        DataType::Int64 => primitive::<Int64Type>(numbers, is_there),
        DataType::Fp16 => primitive::<Float16Type>(numbers, is_there),
        DataType::Bf16 => {
            let (elements, _) = numbers.as_chunks::<2>();
            let wide: Vec<f32> = elements.iter().map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32()).collect();
            Arc::new(PrimitiveArray::<Float32Type>::new(wide.into(), is_there.map(Into::into)))
        }
        DataType::Fp32 => primitive::<Float32Type>(numbers, is_there),
        DataType::Fp64 => primitive::<Float64Type>(numbers, is_there),
        DataType::Bytes => Arc::new(StringArray::from(texts)),
    }
}

fn primitive<T>(bytes: &[u8], is_there: Option<Vec<bool>>) -> ArrayRef
where
    T: ArrowPrimitiveType,
    T::Native: bytemuck::Pod,
{
    let values: Vec<T::Native> = bytemuck::pod_collect_to_vec(bytes);
    Arc::new(PrimitiveArray::<T>::new(values.into(), is_there.map(Into::into)))
}
