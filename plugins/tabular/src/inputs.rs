//! Which fields make which of the model's inputs, and the tensors they become.

use nexus_guest::{Error, Model, Tensor, TensorSpec};
use serde_json::Value;

use crate::encoder::Encoder;
use crate::records::Records;

/// One input and the fields that are its columns.
pub(crate) struct Input {
    name: String,
    datatype: Datatype,
    /// Whether the shape is [rows, columns]; else it is [rows].
    has_columns: bool,
    /// Places in the list of encoders.
    fields: Vec<usize>,
    width: usize,
}

/// What inputs may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Datatype {
    Fp32,
    Fp64,
    Int32,
    Int64,
    Bool,
    Bytes,
}

/// The records of a request one input takes at once.
pub(crate) fn fixed_rows(model: &Model) -> Option<usize> {
    model.inputs.iter().filter_map(|input| input.shape.first()).find_map(|&rows| usize::try_from(rows).ok())
}

/// Each input with its fields. Errs where the two do not fit together, naming the field or input.
pub(crate) fn assign(model: &Model, encoders: &[Encoder]) -> Result<Vec<Input>, Error> {
    let mut inputs = model.inputs.iter().map(Input::new).collect::<Result<Vec<_>, _>>()?;
    for (place, encoder) in encoders.iter().enumerate() {
        let wanted = match (&encoder.input, inputs.as_slice()) {
            (Some(name), _) => name.clone(),
            (None, [only]) => only.name.clone(),
            (None, _) => encoder.name.clone(),
        };
        let refuse = |reason: String| Err(Error::invalid_config(format!("field `{}`: {reason}", encoder.name)));
        let Some(input) = inputs.iter_mut().find(|input| input.name == wanted) else {
            return refuse(format!("the model has no input `{wanted}`; its inputs: {}", describe(&model.inputs)));
        };
        if encoder.is_text() != (input.datatype == Datatype::Bytes) {
            let kind = if encoder.is_text() { "text" } else { "no text (kind \"text\")" };
            return refuse(format!("it is {kind}, but the input `{wanted}` is {}", input.datatype.name()));
        }
        if encoder.may_be_nan() && !matches!(input.datatype, Datatype::Fp32 | Datatype::Fp64) {
            return refuse(format!(
                "`missing` is \"nan\", which the input `{wanted}` {} cannot hold",
                input.datatype.name()
            ));
        }
        input.fields.push(place);
        input.width += encoder.columns();
    }
    for (input, spec) in inputs.iter().zip(&model.inputs) {
        input.check_width(spec, encoders)?;
    }
    Ok(inputs)
}

fn describe(specs: &[TensorSpec]) -> String {
    let specs: Vec<String> = specs.iter().map(|s| format!("`{}` {} {:?}", s.name, s.datatype, s.shape)).collect();
    specs.join(", ")
}

impl Input {
    fn new(spec: &TensorSpec) -> Result<Self, Error> {
        let described = || describe(std::slice::from_ref(spec));
        let datatype = Datatype::of(&spec.datatype).ok_or_else(|| {
            Error::invalid_config(format!(
                "input {}: records become FP32, FP64, INT32, INT64, BOOL or BYTES, nothing else",
                described()
            ))
        })?;
        let has_columns = match spec.shape.len() {
            1 => false,
            2 => true,
            _ => {
                return Err(Error::invalid_config(format!(
                    "input {}: records become [records, columns] or [records]",
                    described()
                )));
            }
        };
        Ok(Input { name: spec.name.clone(), datatype, has_columns, fields: Vec::new(), width: 0 })
    }

    fn check_width(&self, spec: &TensorSpec, encoders: &[Encoder]) -> Result<(), Error> {
        let expected = if self.has_columns { spec.shape[1] } else { 1 };
        if self.fields.is_empty() {
            return Err(Error::invalid_config(format!(
                "input {} gets no field; give one its name, or `input`",
                describe(std::slice::from_ref(spec))
            )));
        }
        if expected < 0 || expected == self.width as i64 {
            return Ok(());
        }
        let columns = |&place: &usize| format!("`{}` {}", encoders[place].name, encoders[place].columns());
        let columns: Vec<String> = self.fields.iter().map(columns).collect();
        Err(Error::invalid_config(format!(
            "the input `{}` has {expected} columns, the fields make {}: {}",
            self.name,
            self.width,
            columns.join(", ")
        )))
    }

    /// The input's tensor, a row for each record.
    pub(crate) fn tensor(&self, records: &Records, encoders: &[Encoder]) -> Result<Tensor, Error> {
        let rows = records.records.len() as u64;
        let shape = if self.has_columns { vec![rows, self.width as u64] } else { vec![rows] };
        if self.datatype == Datatype::Bytes {
            let texts = self.cells(records, encoders, |encoder, value, row| {
                row.push(encoder.text(value)?);
                Ok(())
            })?;
            return Tensor::from_strings(&self.name, shape, texts);
        }
        let values = self.cells(records, encoders, |encoder, value, row| {
            let first = row.len();
            encoder.encode(value, row)?;
            row[first..].iter().try_for_each(|&number| self.datatype.check(number))
        })?;
        self.datatype.tensor(&self.name, shape, &values)
    }

    fn cells<T>(
        &self,
        records: &Records,
        encoders: &[Encoder],
        mut encode: impl FnMut(&Encoder, Option<&Value>, &mut Vec<T>) -> Result<(), String>,
    ) -> Result<Vec<T>, Error> {
        let mut cells = Vec::with_capacity(records.records.len() * self.width);
        for (row, record) in records.records.iter().enumerate() {
            for encoder in self.fields.iter().map(|&place| &encoders[place]) {
                encode(encoder, record.get(&encoder.name), &mut cells).map_err(|reason| {
                    let (record, field) = (records.name(row), &encoder.name);
                    Error::invalid_input(format!("{record}: field `{field}` {reason}"))
                })?;
            }
        }
        Ok(cells)
    }
}

impl Datatype {
    fn of(name: &str) -> Option<Self> {
        let all = [Self::Fp32, Self::Fp64, Self::Int32, Self::Int64, Self::Bool, Self::Bytes];
        all.into_iter().find(|datatype| datatype.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Datatype::Fp32 => "FP32",
            Datatype::Fp64 => "FP64",
            Datatype::Int32 => "INT32",
            Datatype::Int64 => "INT64",
            Datatype::Bool => "BOOL",
            Datatype::Bytes => "BYTES",
        }
    }

    /// Whether the model's input can hold this number.
    fn check(self, number: f64) -> Result<(), String> {
        let whole = number.fract() == 0.0;
        let fits = match self {
            Datatype::Fp32 => number.is_nan() || (number as f32).is_finite(),
            Datatype::Fp64 => number.is_nan() || number.is_finite(),
            Datatype::Int32 => whole && (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&number),
            // 2^63 itself is too large, and the first number over i64::MAX that a float can be.
            Datatype::Int64 => whole && (i64::MIN as f64..i64::MAX as f64).contains(&number),
            Datatype::Bool => number == 0.0 || number == 1.0,
            Datatype::Bytes => false,
        };
        if fits {
            Ok(())
        } else {
            Err(format!("becomes {number:?}, which the model's {} input cannot hold", self.name()))
        }
    }

    fn tensor(self, name: &str, shape: Vec<u64>, values: &[f64]) -> Result<Tensor, Error> {
        match self {
            Datatype::Fp32 => Tensor::from_f32(name, shape, values.iter().map(|&v| v as f32).collect::<Vec<_>>()),
            Datatype::Fp64 => Tensor::from_values(name, shape, values),
            Datatype::Int32 => Tensor::from_values(name, shape, values.iter().map(|&v| v as i32).collect::<Vec<_>>()),
            Datatype::Int64 => Tensor::from_i64(name, shape, values.iter().map(|&v| v as i64).collect::<Vec<_>>()),
            Datatype::Bool => {
                let tensor = Tensor::from_u8(name, shape, values.iter().map(|&v| v as u8).collect::<Vec<_>>())?;
                Ok(Tensor { datatype: self.name().to_owned(), ..tensor })
            }
            Datatype::Bytes => Err(Error::plugin(format!("input `{name}` is BYTES, which numbers do not become"))),
        }
    }
}
