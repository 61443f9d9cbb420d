//! Rows on their way: into a model, and out of it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::value::RawValue;

use super::plan::{Plan, RowInput, Way};
use crate::error::{Error, Result};
use crate::pipeline::{Answer, Payload};
use crate::tensor::{Data, Tensor};
use crate::value::Value;

/// Some rows that follow one another, read and not run yet.
#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) tags: Tags,
    pub(super) rows: Rows,
}

/// What is known of rows beside their values.
#[derive(Debug, Default)]
pub(super) struct Tags {
    /// The number of the first one in its file, from 0.
    pub(super) first: u64,
    pub(super) count: usize,
    /// Rows that could not be read, by their place among these, and why.
    pub(super) bad: Vec<(usize, String)>,
    /// What rows are called by whoever sent them, by their place among these.
    pub(super) ids: Vec<(usize, Box<RawValue>)>,
}

/// The rows that could be read.
#[derive(Debug)]
pub(super) enum Rows {
    /// One tensor an input, of the rows' elements one after another.
    Fixed { count: usize, data: Vec<Data> },
    /// Each by itself.
    Each(Vec<Payload>),
}

impl Default for Rows {
    fn default() -> Rows {
        Rows::Each(Vec::new())
    }
}

/// Rows and what the model says of them.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) tags: Tags,
    /// Of the rows that could be read.
    pub(super) answers: Answers,
}

#[derive(Debug)]
pub(super) enum Answers {
    /// The outputs of one run, each with the rows along its first axis.
    Together(Vec<Value>),
    /// Of each row, or why there is none.
    Each(Vec<std::result::Result<Arc<Answer>, String>>),
}

/// The answer to one row.
#[derive(Debug, Clone, Copy)]
pub(super) enum RowAnswer<'a> {
    /// Row number so of these outputs.
    Of(&'a [Value], usize),
    Whole(&'a Answer),
    Failed(&'a str),
}

impl Answered {
    /// Every row, with its number.
    pub(super) fn each(&self, mut write: impl FnMut(u64, Option<&RawValue>, RowAnswer<'_>)) {
        let mut bad = self.tags.bad.iter().peekable();
        let mut ids = self.tags.ids.iter().peekable();
        let mut good = 0;
        for place in 0..self.tags.count {
            let id = ids.next_if(|(of, _)| *of == place).map(|(_, id)| &**id);
            let answer = match bad.next_if(|(of, _)| *of == place) {
                Some((_, problem)) => RowAnswer::Failed(problem),
                None => {
                    good += 1;
                    self.answers.of(good - 1)
                }
            };
            write(self.tags.first + place as u64, id, answer);
        }
    }
}

impl Answered {
    /// Rows that have an error for an answer.
    pub(super) fn failed(&self) -> usize {
        let failed = match &self.answers {
            Answers::Together(_) => 0,
            Answers::Each(answers) => answers.iter().filter(|answer| answer.is_err()).count(),
        };
        self.tags.bad.len() + failed
    }
}

impl Answers {
    fn of(&self, row: usize) -> RowAnswer<'_> {
        match self {
            Answers::Together(outputs) => RowAnswer::Of(outputs, row),
            Answers::Each(answers) => match answers.get(row) {
                Some(Ok(answer)) => RowAnswer::Whole(answer),
                Some(Err(problem)) => RowAnswer::Failed(problem),
                None => RowAnswer::Failed("the row was not run"),
            },
        }
    }
}

/// What one row has of one output.
#[derive(Debug, Clone, Copy)]
pub(super) enum Cell<'a> {
    /// So many elements of a tensor from one on, in a shape.
    Elements {
        tensor: &'a Tensor,
        start: usize,
        axes: &'a [usize],
    },
    Other(&'a Value),
}

/// What a row has of an output that holds many rows.
pub(super) fn cell_of(output: &Value, row: usize) -> Cell<'_> {
    match output {
        Value::Tensor(tensor) => {
            let axes = tensor.shape.get(1..).unwrap_or_default();
            Cell::Elements { tensor, start: row * axes.iter().product::<usize>(), axes }
        }
        Value::Sequence { items, .. } => items.get(row).map_or(Cell::Other(output), Cell::Other),
        other => Cell::Other(other),
    }
}

/// What a row has of an output that is its alone: the row's own axis, of one, is left out.
pub(super) fn cell_of_whole(output: &Value) -> Cell<'_> {
    match output {
        Value::Tensor(tensor) => {
            let axes = tensor.shape.strip_prefix(&[1]).unwrap_or(&tensor.shape);
            Cell::Elements { tensor, start: 0, axes }
        }
        Value::Sequence { items, .. } if items.len() == 1 => Cell::Other(&items[0]),
        other => Cell::Other(other),
    }
}

/// Whether an output of a run of so many rows tells them apart.
pub(super) fn has_rows(output: &Value, rows: usize) -> bool {
    match output {
        Value::Tensor(tensor) => tensor.shape.first() == Some(&rows),
        Value::Sequence { items, .. } => items.len() == rows,
        _ => false,
    }
}

/// Collects rows into chunks.
pub(super) struct Collector<'p> {
    pub(super) plan: &'p Plan,
    tags: Tags,
    columns: Vec<Column>,
    each: Vec<Payload>,
    good: usize,
    /// Bytes of what differs from row to row: requests, texts, what rows are called, what is wrong with them.
    held_bytes: usize,
    has_texts: bool,
    /// Rows of this chunk.
    most: usize,
}

/// The elements of one input.
pub(super) enum Column {
    Raw(Vec<u8>),
    Strings(Vec<Bytes>),
}

/// Bytes of rows that differ in size which travel together.
pub(super) const HELD_BYTES: usize = 1 << 20;

impl<'p> Collector<'p> {
    pub(super) fn new(plan: &'p Plan) -> Collector<'p> {
        let mut collector = Collector {
            plan,
            tags: Tags::default(),
            columns: Vec::new(),
            each: Vec::new(),
            good: 0,
            held_bytes: 0,
            has_texts: plan.inputs.iter().any(|input| input.datatype.size().is_none()),
            most: 0,
        };
        collector.begin(0);
        collector
    }

    fn begin(&mut self, first: u64) {
        self.tags = Tags { first, ..Tags::default() };
        (self.good, self.held_bytes, self.most) = (0, 0, self.plan.pace.rows());
        if matches!(self.plan.way, Way::Together | Way::OneByOne) {
            let most = self.most;
            self.columns = self.plan.inputs.iter().map(|input| Column::with_room(input, most)).collect();
        }
    }

    /// The chunk so far, if there is anything in it; a new one begins.
    pub(super) fn take(&mut self) -> Option<Chunk> {
        if self.tags.count == 0 {
            return None;
        }
        let next = self.tags.first + self.tags.count as u64;
        let rows = match self.plan.way {
            Way::Together | Way::OneByOne => {
                let data = std::mem::take(&mut self.columns).into_iter().map(Column::into_data).collect();
                Rows::Fixed { count: self.good, data }
            }
            Way::Json | Way::Plugin => Rows::Each(std::mem::take(&mut self.each)),
        };
        let chunk = Chunk { tags: std::mem::take(&mut self.tags), rows };
        self.begin(next);
        Some(chunk)
    }

    pub(super) fn is_full(&self) -> bool {
        self.tags.count >= self.most || self.held_bytes >= HELD_BYTES
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tags.count == 0
    }

    /// The row that is being read was called so; the last name that it is given counts.
    pub(super) fn id(&mut self, id: Box<RawValue>) {
        self.held_bytes += id.get().len();
        match self.tags.ids.last_mut() {
            Some((place, known)) if *place == self.tags.count => *known = id,
            _ => self.tags.ids.push((self.tags.count, id)),
        }
    }

    /// Where the elements of the row being read go, for one input.
    pub(super) fn column(&mut self, input: usize) -> &mut Column {
        &mut self.columns[input]
    }

    /// So many rows are in all columns.
    pub(super) fn good(&mut self, rows: usize) {
        self.hold_texts();
        self.good += rows;
        self.tags.count += rows;
    }

    /// Counts the texts that rows have left in the columns since `good` was last raised.
    fn hold_texts(&mut self) {
        if !self.has_texts {
            return;
        }
        for (column, input) in self.columns.iter().zip(&self.plan.inputs) {
            if let Column::Strings(strings) = column {
                let of_rows = strings.iter().skip(self.good * input.elements);
                self.held_bytes += of_rows.map(Bytes::len).sum::<usize>();
            }
        }
    }

    /// A row that is run by itself.
    pub(super) fn each(&mut self, payload: Payload) {
        self.held_bytes += payload.byte_size();
        self.each.push(payload);
        self.good(1);
    }

    /// Takes many rows at once, the bad ones and the names by their places among them, in order.
    pub(super) fn extend(
        &mut self,
        count: usize,
        mut columns: Vec<Column>,
        bad: Vec<(usize, String)>,
        ids: Vec<(usize, Box<RawValue>)>,
    ) {
        for ((column, own), input) in columns.iter_mut().zip(&mut self.columns).zip(&self.plan.inputs) {
            if bad.is_empty() {
                own.append(column);
                continue;
            }
            let mut is_bad = bad.iter().map(|(row, _)| *row).peekable();
            let good = (0..count).filter(|row| is_bad.next_if_eq(row).is_none());
            good.for_each(|row| own.append_row(column, row, input));
        }
        self.hold_texts();
        self.held_bytes += ids.iter().map(|(_, id)| id.get().len()).sum::<usize>();
        self.held_bytes += bad.iter().map(|(_, problem)| problem.len()).sum::<usize>();
        let start = self.tags.count;
        self.good += count - bad.len();
        self.tags.bad.extend(bad.into_iter().map(|(row, problem)| (start + row, problem)));
        self.tags.ids.extend(ids.into_iter().map(|(row, id)| (start + row, id)));
        self.tags.count += count;
    }

    /// How many more rows this chunk takes.
    pub(super) fn room(&self) -> usize {
        self.most.saturating_sub(self.tags.count)
    }

    /// The row being read is none; what it left in the columns is taken back.
    pub(super) fn bad(&mut self, problem: String) {
        self.take_back();
        self.held_bytes += problem.len();
        self.tags.bad.push((self.tags.count, problem));
        self.tags.count += 1;
    }

    /// Takes back what the row being read has left in the columns.
    pub(super) fn take_back(&mut self) {
        for (column, input) in self.columns.iter_mut().zip(&self.plan.inputs) {
            match column {
                Column::Raw(bytes) => bytes.truncate(self.good * input.row_bytes()),
                Column::Strings(strings) => strings.truncate(self.good * input.elements),
            }
        }
    }
}

impl Column {
    fn with_room(input: &RowInput, rows: usize) -> Column {
        match input.datatype.size() {
            Some(size) => Column::Raw(Vec::with_capacity(rows * input.elements * size)),
            None => Column::Strings(Vec::with_capacity(rows * input.elements)),
        }
    }

    /// The elements of a tensor, which is a row's.
    pub(super) fn push(&mut self, data: Data) {
        match (self, data) {
            (Column::Raw(elements), Data::Raw(row)) => elements.extend_from_slice(&row),
            (Column::Strings(elements), Data::Strings(row)) => elements.extend(row),
            // A tensor of the input's datatype has the input's elements.
            (Column::Raw(_), Data::Strings(_)) | (Column::Strings(_), Data::Raw(_)) => {}
        }
    }

    /// Everything of another.
    fn append(&mut self, other: &mut Column) {
        match (self, other) {
            (Column::Raw(own), Column::Raw(other)) => own.append(other),
            (Column::Strings(own), Column::Strings(other)) => own.append(other),
            (Column::Raw(_), Column::Strings(_)) | (Column::Strings(_), Column::Raw(_)) => {}
        }
    }

    /// One row of another.
    fn append_row(&mut self, other: &Column, row: usize, input: &RowInput) {
        match (self, other) {
            (Column::Raw(own), Column::Raw(other)) => {
                let size = input.row_bytes();
                own.extend_from_slice(&other[row * size..(row + 1) * size]);
            }
            (Column::Strings(own), Column::Strings(other)) => {
                own.extend_from_slice(&other[row * input.elements..(row + 1) * input.elements]);
            }
            (Column::Raw(_), Column::Strings(_)) | (Column::Strings(_), Column::Raw(_)) => {}
        }
    }

    fn into_data(self) -> Data {
        match self {
            Column::Raw(bytes) => Data::Raw(bytes.into()),
            Column::Strings(strings) => Data::Strings(strings),
        }
    }
}

/// Rows `from..to` as a model's inputs.
pub(super) fn tensors(inputs: &[RowInput], data: &[Data], from: usize, to: usize) -> Result<Vec<Value>> {
    let tensors = inputs.iter().zip(data).map(|(input, data)| {
        let data = match data {
            Data::Raw(bytes) => {
                let size = input.row_bytes();
                Data::Raw(bytes.slice(from * size..to * size))
            }
            Data::Strings(strings) => Data::Strings(strings[from * input.elements..to * input.elements].to_vec()),
        };
        let (name, shape) = (input.name.clone(), input.shape(to - from));
        let tensor = match data {
            Data::Raw(bytes) => Tensor::from_wire(name, input.datatype, shape, bytes),
            Data::Strings(strings) => Tensor::from_strings(name, shape, strings),
        };
        tensor.map(Value::Tensor).map_err(Error::from)
    });
    tensors.collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::tensor::DataType;

    #[test]
    fn long_names_and_texts_fill_a_chunk() {
        let name = |length: usize| RawValue::from_string(format!("\"{}\"", "n".repeat(length))).unwrap();
        let plan = Plan::of_one_input(DataType::Fp32, 1);
        let mut rows = Collector::new(&plan);
        for _ in 0..2 {
            assert!(!rows.is_full());
            rows.column(0).push(Data::Raw(Bytes::from_static(&[0; 4])));
            rows.id(name(HELD_BYTES / 2));
            rows.good(1);
        }
        assert!(rows.is_full());
        rows.take();
        assert!(!rows.is_full());

        let plan = Plan::of_one_input(DataType::Bytes, 1);
        let mut rows = Collector::new(&plan);
        let text = Bytes::from(vec![b'x'; HELD_BYTES / 2]);
        for _ in 0..2 {
            assert!(!rows.is_full());
            rows.column(0).push(Data::Strings(vec![text.clone()]));
            rows.good(1);
        }
        assert!(rows.is_full());
        rows.take();
        rows.extend(2, vec![Column::Strings(vec![text.clone(), text])], Vec::new(), Vec::new());
        assert!(rows.is_full());
    }
}
