//! Which columns of a file are which elements of a row.

use super::ReadOptions;
use crate::batch::plan::{Plan, RowInput};
use crate::error::{Error, Result, shorten};

/// Where a row's values are.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Columns {
    /// For each input of the plan.
    pub(super) inputs: Vec<Source>,
    /// What the row is called by whoever sent it.
    pub(super) id: Option<usize>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// One column an element.
    Scalars(Vec<usize>),
    /// A column of lists.
    List(usize),
}

impl Columns {
    /// Those that are read, in the order of the file.
    pub(super) fn read(&self) -> Vec<usize> {
        let of_inputs = self.inputs.iter().flat_map(|source| match source {
            Source::Scalars(columns) => columns.clone(),
            Source::List(column) => vec![*column],
        });
        let mut read: Vec<usize> = of_inputs.chain(self.id).collect();
        read.sort_unstable();
        read.dedup();
        read
    }

    /// The same columns, by their places among those that are read.
    pub(super) fn among(self, read: &[usize]) -> Columns {
        let place = |column: usize| read.partition_point(|&other| other < column);
        let inputs = self.inputs.into_iter().map(|source| match source {
            Source::Scalars(columns) => Source::Scalars(columns.into_iter().map(place).collect()),
            Source::List(column) => Source::List(place(column)),
        });
        Columns { inputs: inputs.collect(), id: self.id.map(place) }
    }
}

const ID: &str = "id";

/// The names of an input's elements: its own where it has one, `X.0`, `X.1`, … where it has more.
fn element_names(input: &RowInput) -> Vec<String> {
    match input.elements {
        1 => vec![input.name.clone()],
        count => (0..count).map(|index| format!("{}.{index}", input.name)).collect(),
    }
}

/// The column that names rows, where no input has that name.
pub(super) fn id_column(plan: &Plan, names: &[String]) -> Option<usize> {
    let is_input = plan.specs.iter().any(|spec| spec.name() == ID);
    names.iter().position(|name| name == ID).filter(|_| !is_input)
}

/// Finds a model's columns: by the names of its inputs' elements, or in their order, where there are just so many.
///
/// # Errors
/// They are not there. The message says what is, and what would do.
pub(super) fn find(
    plan: &Plan,
    names: &[String],
    is_list: impl Fn(usize) -> bool,
    options: &ReadOptions,
) -> Result<Columns> {
    let id = id_column(plan, names);
    let taken = match &options.columns {
        Some(wanted) => wanted.iter().map(|name| position(names, name)).collect::<Result<Vec<usize>>>()?,
        None => (0..names.len()).filter(|&column| Some(column) != id).collect(),
    };
    let inputs = by_name(plan, names, &taken, &is_list).or_else(|| in_order(plan, &taken, &is_list));
    let inputs = inputs.ok_or_else(|| misfit(plan, names, &taken))?;
    Ok(Columns { inputs, id })
}

fn position(names: &[String], name: &str) -> Result<usize> {
    names.iter().position(|known| known == name).ok_or_else(|| {
        let known = shorten(names.join(", "));
        Error::invalid_input(format!("there is no column {name:?}; the file's columns: {known}"))
    })
}

fn by_name(plan: &Plan, names: &[String], taken: &[usize], is_list: &impl Fn(usize) -> bool) -> Option<Vec<Source>> {
    let find = |name: &str| taken.iter().copied().find(|&column| names.get(column).is_some_and(|known| known == name));
    let sources = plan.inputs.iter().map(|input| {
        if let Some(list) = find(&input.name).filter(|&column| is_list(column)) {
            return Some(Source::List(list));
        }
        let columns = element_names(input).iter().map(|name| find(name)).collect::<Option<Vec<usize>>>()?;
        Some(Source::Scalars(columns))
    });
    sources.collect()
}

fn in_order(plan: &Plan, taken: &[usize], is_list: &impl Fn(usize) -> bool) -> Option<Vec<Source>> {
    if let ([_], [column]) = (plan.inputs.as_slice(), taken)
        && is_list(*column)
    {
        return Some(vec![Source::List(*column)]);
    }
    let elements: usize = plan.inputs.iter().map(|input| input.elements).sum();
    if taken.len() != elements || taken.iter().any(|&column| is_list(column)) {
        return None;
    }
    let mut rest = taken;
    let sources = plan.inputs.iter().map(|input| {
        let (own, after) = rest.split_at(input.elements);
        rest = after;
        Source::Scalars(own.to_vec())
    });
    Some(sources.collect())
}

fn misfit(plan: &Plan, names: &[String], taken: &[usize]) -> Error {
    let elements: usize = plan.inputs.iter().map(|input| input.elements).sum();
    let wanted = plan.inputs.iter().flat_map(element_names).take(4).collect::<Vec<_>>().join(", ");
    let more = if elements > 4 { ", …" } else { "" };
    let known = shorten(names.join(", "));
    Error::invalid_input(format!(
        "the file has {} columns for the model ({known}), which takes {}: give {elements} in that order, or name them \
         {wanted}{more}; ?columns=a,b,c (--columns) says which ones to take",
        taken.len(),
        plan.described
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_that_are_not_read_leave_the_others_closer_together() {
        let columns = Columns { inputs: vec![Source::Scalars(vec![7, 2, 7]), Source::List(5)], id: Some(3) };
        let read = columns.read();
        assert_eq!(read, [2, 3, 5, 7]);
        let among = Columns { inputs: vec![Source::Scalars(vec![3, 0, 3]), Source::List(2)], id: Some(1) };
        assert_eq!(columns.among(&read), among);
    }
}
