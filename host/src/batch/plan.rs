//! How rows become a model's inputs: which elements a row has, and whether rows can be run together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::error::ErrorCode;
use crate::model::{ModelVersion, WorkerLimits, value_spec};
use crate::tensor::{DataType, TensorSpec};
use crate::value::ValueSpec;

/// How the rows of a file come to a model.
#[derive(Debug)]
pub struct Plan {
    /// What a row has to give.
    pub(super) inputs: Vec<RowInput>,
    pub(super) way: Way,
    /// The model's inputs, as messages show them.
    pub(super) described: String,
    /// All inputs, those with defaults too.
    pub(super) specs: Vec<ValueSpec>,
    /// What a row is answered with; `None` where a plugin makes the answer.
    pub(super) outputs: Option<Vec<ValueSpec>>,
    pub(super) pace: Pace,
    /// Places in the model's queue that a chunk takes, at most.
    places: usize,
    /// Places in it that a file may take: the others are for requests that somebody waits for.
    most_places: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Rows of one size, many in a run.
    Together,
    /// Rows of one size, each run by itself: the model's first axis is fixed, its rows know of one another, or a plugin looks
    /// at its outputs.
    OneByOne,
    /// Rows that differ in size, or are more than tensors: JSON, and each run by itself.
    Json,
    /// Each row is a request of its own to the preprocess plugin.
    Plugin,
}

/// What a row gives to one input.
#[derive(Debug, Clone)]
pub(super) struct RowInput {
    pub(super) name: String,
    pub(super) datatype: DataType,
    /// Sizes of a row, without the axis that rows lie along.
    pub(super) axes: Vec<usize>,
    pub(super) elements: usize,
    /// Rows lie along a first axis.
    has_row_axis: bool,
}

impl RowInput {
    fn of(spec: &TensorSpec) -> Option<RowInput> {
        let declared = spec.shape.as_ref()?;
        let has_row_axis = matches!(declared.first(), Some(-1 | 1));
        let axes = declared[usize::from(has_row_axis)..].iter().map(|&size| usize::try_from(size).ok());
        let axes: Vec<usize> = axes.collect::<Option<_>>()?;
        let elements = axes.iter().try_fold(1usize, |count, &size| count.checked_mul(size))?;
        // A row of nothing cannot be told from its neighbour.
        let is_something = elements > 0 && elements <= MOST_BYTES;
        is_something.then(|| RowInput {
            name: spec.name.clone(),
            datatype: spec.datatype,
            axes,
            elements,
            has_row_axis,
        })
    }

    /// The shape of so many rows.
    pub(super) fn shape(&self, rows: usize) -> Vec<usize> {
        if !self.has_row_axis {
            return self.axes.clone();
        }
        std::iter::once(rows).chain(self.axes.iter().copied()).collect()
    }

    /// Bytes of a row; of strings, those of what refers to them.
    pub(super) fn row_bytes(&self) -> usize {
        self.elements * self.datatype.size().unwrap_or(size_of::<bytes::Bytes>())
    }
}

impl Plan {
    pub fn of(model: &ModelVersion) -> Plan {
        let required: Vec<&ValueSpec> =
            model.inputs.iter().filter(|input| !input.optional).map(|input| &input.spec).collect();
        let tensors = required.iter().map(|spec| match spec {
            ValueSpec::Tensor(spec) => RowInput::of(spec),
            _ => None,
        });
        let inputs: Vec<RowInput> = tensors.collect::<Option<_>>().unwrap_or_default();
        let outputs: Vec<ValueSpec> = model.info.metadata.outputs.iter().map(value_spec).collect();
        let is_open = |spec: &TensorSpec| spec.shape.as_ref().is_none_or(|axes| axes.first() == Some(&-1));
        let are_open = required.iter().all(|spec| matches!(spec, ValueSpec::Tensor(spec) if is_open(spec)))
            && outputs.iter().all(|output| match output {
                ValueSpec::Tensor(spec) => is_open(spec),
                ValueSpec::Sequence { .. } => true,
                _ => false,
            });
        let workers = &model.engine.workers;
        // Where rows know of one another, or where that was set for the model, the workers run each by itself.
        let may_batch = workers.batch_rows > 1;
        let way = match &model.pipeline {
            pipeline if pipeline.preprocess.is_some() => Way::Plugin,
            _ if inputs.is_empty() => Way::Json,
            pipeline if are_open && may_batch && pipeline.postprocess.is_none() => Way::Together,
            _ => Way::OneByOne,
        };
        let most_places = (workers.queue_capacity / 4).max(1);
        let most_rows = most_rows(way, &inputs, &outputs, workers, most_places);
        let places = if way == Way::Together { places(most_rows, workers) } else { 1 };
        let pace = Pace::new(most_rows);
        let specs = model.inputs.iter().map(|input| input.spec.clone()).collect();
        let outputs = model.pipeline.postprocess.is_none().then_some(outputs);
        let described = crate::pipeline::describe_inputs(model);
        Plan { inputs, way, described, specs, outputs, pace, places, most_places }
    }

    /// How many chunks run at once: no more than `wanted`, and than have a place in the model's queue.
    pub(super) fn in_flight(&self, wanted: usize) -> usize {
        wanted.min(self.most_places / self.places).max(1)
    }

    /// The input that a row without names is for.
    pub(super) fn only_input(&self) -> Option<&RowInput> {
        match self.inputs.as_slice() {
            [input] => Some(input),
            _ => None,
        }
    }
}

/// How many rows travel together at most, by what is declared of them and by the places that a file may take.
fn most_rows(
    way: Way,
    inputs: &[RowInput],
    outputs: &[ValueSpec],
    workers: &WorkerLimits,
    most_places: usize,
) -> usize {
    let most = match way {
        // The workers take more rows than they run together in parts, and each has a place in the queue.
        Way::Together => MOST_ROWS.min(workers.batch_rows.saturating_mul(most_places)),
        _ => ROWS_APART,
    };
    let bytes = inputs.iter().map(RowInput::row_bytes).sum::<usize>().max(1);
    let answer_bytes = outputs.iter().map(answer_bytes).fold(0, usize::saturating_add).max(1);
    let most_answers = MOST_ANSWER_BYTES.min(workers.output_bytes) / answer_bytes;
    most.min(MOST_BYTES / bytes).min(most_answers).max(1)
}

/// Jobs that a run of so many rows is to the workers, at once.
fn places(rows: usize, workers: &WorkerLimits) -> usize {
    rows.div_ceil(workers.batch_rows.max(1)).min(workers.instances * 2).max(1)
}

/// Bytes of one row of an output, as far as its declaration tells.
fn answer_bytes(spec: &ValueSpec) -> usize {
    let ValueSpec::Tensor(TensorSpec { datatype, shape: Some(axes), .. }) = spec else { return 0 };
    let axes = &axes[usize::from(matches!(axes.first(), Some(-1 | 1)))..];
    let elements = axes.iter().try_fold(1usize, |count, &size| Some(count.saturating_mul(usize::try_from(size).ok()?)));
    elements.map_or(0, |count| count.saturating_mul(datatype.size().unwrap_or(size_of::<bytes::Bytes>())))
}

/// Most rows of a run: with more, iris gains nothing.
pub const MOST_ROWS: usize = 1024;
/// Rows that travel together to be run one by one.
const ROWS_APART: usize = 16;
/// Most bytes of inputs that travel together.
const MOST_BYTES: usize = 4 << 20;
/// Most bytes of outputs that travel together.
const MOST_ANSWER_BYTES: usize = 16 << 20;
/// Rows of the first run, before anybody knows how long one takes.
const FIRST_ROWS: usize = 64;
/// Other requests wait behind a run, so it is not to take longer than this.
const LONG_RUN: Duration = Duration::from_millis(8);

/// How many rows travel together: as many as the model runs in a few milliseconds.
#[derive(Debug)]
pub(super) struct Pace {
    rows: AtomicUsize,
    most: AtomicUsize,
}

impl Pace {
    fn new(most: usize) -> Pace {
        Pace { rows: AtomicUsize::new(FIRST_ROWS.min(most)), most: AtomicUsize::new(most) }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// A run of `rows` rows took so long.
    pub(super) fn ran(&self, rows: usize, took: Duration) {
        let next = match took {
            took if took > LONG_RUN => rows / 2,
            took if took < LONG_RUN / 4 && rows >= self.rows() => rows * 2,
            _ => return,
        };
        self.rows.store(next.clamp(1, self.most.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// A run of `rows` rows came to nothing. Where that is for their number, the next ones have half as many.
    pub(super) fn failed(&self, rows: usize, code: ErrorCode) {
        let fewer = (rows / 2).max(1);
        match code {
            // As many rows never have a smaller answer.
            ErrorCode::TooLarge => {
                self.most.fetch_min(fewer, Ordering::Relaxed);
                self.rows.fetch_min(fewer, Ordering::Relaxed);
            }
            // They may have waited behind others' runs, so there may be more of them again.
            ErrorCode::DeadlineExceeded => {
                self.rows.fetch_min(fewer, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
impl Plan {
    /// Of a model with one input `X`, whose rows have so many elements.
    pub(super) fn of_one_input(datatype: DataType, elements: usize) -> Plan {
        let spec = TensorSpec { name: "X".to_owned(), datatype, shape: Some(vec![-1, elements as i64]) };
        Plan {
            inputs: RowInput::of(&spec).into_iter().collect(),
            way: Way::Together,
            described: String::new(),
            specs: vec![ValueSpec::Tensor(spec)],
            outputs: Some(Vec::new()),
            pace: Pace::new(MOST_ROWS),
            places: 1,
            most_places: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_whose_answers_were_too_large_stay_smaller() {
        let pace = Pace::new(MOST_ROWS);
        pace.failed(64, ErrorCode::TooLarge);
        assert_eq!(pace.rows(), 32);
        pace.ran(32, Duration::ZERO);
        assert_eq!(pace.rows(), 32);
        pace.failed(1, ErrorCode::TooLarge);
        assert_eq!(pace.rows(), 1);
    }

    #[test]
    fn runs_that_were_out_of_time_are_smaller_until_they_are_quick() {
        let pace = Pace::new(MOST_ROWS);
        pace.failed(64, ErrorCode::InvalidInput);
        assert_eq!(pace.rows(), 64);
        pace.failed(64, ErrorCode::DeadlineExceeded);
        // Another of that size, which was under way beside it.
        pace.failed(64, ErrorCode::DeadlineExceeded);
        assert_eq!(pace.rows(), 32);
        pace.failed(32, ErrorCode::DeadlineExceeded);
        assert_eq!(pace.rows(), 16);
        pace.ran(16, Duration::ZERO);
        assert_eq!(pace.rows(), 32);
    }

    #[test]
    fn a_file_takes_no_more_places_than_it_may() {
        let workers = |instances, batch_rows| WorkerLimits {
            instances,
            batch_rows,
            queue_capacity: 64,
            output_bytes: usize::MAX,
            steady: false,
        };
        let plan = |places| Plan { places, most_places: 16, ..Plan::of_one_input(DataType::Fp32, 4) };
        for (rows, instances, batch_rows, at_once, in_flight) in
            [(1024, 4, 64, 8, 2), (1024, 16, 64, 16, 1), (64, 16, 64, 1, 16), (1024, 16, 1024, 1, 16)]
        {
            let places = places(rows, &workers(instances, batch_rows));
            assert_eq!((places, plan(places).in_flight(instances + 1)), (at_once, in_flight.min(instances + 1)));
        }
    }
}
