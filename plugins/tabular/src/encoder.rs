//! One field: from a JSON value to its columns.

use nexus_guest::Error;
use serde_json::Value;

use crate::config::{
    Category, Field, MissingCategory, MissingCode, MissingNumber, MissingText, MissingTruth, Numeric, OneHot, Ordinal,
    UnknownCategory, UnknownCode,
};
use crate::table::{Place, Table, show};
use crate::value;

/// A field, checked and ready.
pub(crate) struct Encoder {
    pub(crate) name: String,
    /// The model input the configuration names.
    pub(crate) input: Option<String>,
    missing_indicator: bool,
    coerce: bool,
    kind: Kind,
}

enum Kind {
    Number { log1p: bool, subtract: f64, divide: f64, missing: MissingNumber },
    OneHot { table: Table, dropped: usize, unknown: UnknownCategory, missing: MissingCategory },
    Ordinal { table: Table, codes: Vec<f64>, unknown: UnknownCode, missing: MissingCode },
    Truth { missing: MissingTruth },
    Text { missing: MissingText },
}

impl Encoder {
    /// Errs where the field's configuration makes no sense, naming it.
    pub(crate) fn new(field: Field) -> Result<Self, Error> {
        let (name, input, missing_indicator, coerce, kind) = match field {
            Field::Numeric(field) => {
                (field.name.clone(), field.input.clone(), field.missing_indicator, field.coerce, number(&field))
            }
            Field::OneHot(field) => {
                (field.name.clone(), field.input.clone(), field.missing_indicator, field.coerce, one_hot(field))
            }
            Field::Ordinal(field) => {
                (field.name.clone(), field.input.clone(), field.missing_indicator, field.coerce, ordinal(field))
            }
            Field::Boolean(field) => {
                let kind = Kind::Truth { missing: field.missing };
                (field.name, field.input, field.missing_indicator, field.coerce, Ok(kind))
            }
            Field::Text(field) => (field.name, field.input, false, false, Ok(Kind::Text { missing: field.missing })),
        };
        if name.is_empty() {
            return Err(Error::invalid_config("a field has an empty `name`"));
        }
        match kind {
            Ok(kind) => Ok(Encoder { name, input, missing_indicator, coerce, kind }),
            Err(reason) => Err(Error::invalid_config(format!("field `{name}`: {reason}"))),
        }
    }

    /// How many columns [`Encoder::encode`] adds.
    pub(crate) fn columns(&self) -> usize {
        let own = match &self.kind {
            Kind::OneHot { table, dropped, unknown, .. } => {
                table.len() - dropped + usize::from(*unknown == UnknownCategory::Other)
            }
            _ => 1,
        };
        own + usize::from(self.missing_indicator)
    }

    /// Whether the field is text, which only a BYTES input takes.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self.kind, Kind::Text { .. })
    }

    /// Whether a missing value becomes NaN, which only a float input takes.
    pub(crate) fn may_be_nan(&self) -> bool {
        match &self.kind {
            Kind::Number { missing, .. } => *missing == MissingNumber::Nan,
            Kind::Ordinal { missing, .. } => *missing == MissingCode::Nan,
            Kind::Truth { missing } => *missing == MissingTruth::Nan,
            Kind::OneHot { .. } | Kind::Text { .. } => false,
        }
    }

    /// Adds the value's columns to `row`. The error says what was expected and what came.
    pub(crate) fn encode(&self, value: Option<&Value>, row: &mut Vec<f64>) -> Result<(), String> {
        let present = value::present(value, self.coerce);
        match &self.kind {
            Kind::Number { log1p, subtract, divide, missing } => {
                let number = match (present, missing) {
                    (Some(value), _) => self.number_in(value)?,
                    (None, MissingNumber::Value(number)) => *number,
                    (None, MissingNumber::Nan) => f64::NAN,
                    // What is subtracted is subtracted from what the logarithm made.
                    (None, MissingNumber::Mean) => {
                        row.push(0.0);
                        self.indicate(true, row);
                        return Ok(());
                    }
                    (None, MissingNumber::Error) => return Err(is_missing(value, "a number")),
                };
                if *log1p && number <= -1.0 {
                    return Err(format!("expected a number over -1, got {number}"));
                }
                row.push((if *log1p { number.ln_1p() } else { number } - subtract) / divide);
            }
            Kind::OneHot { table, dropped, unknown, missing } => {
                let place = one_hot_place(table, *unknown, missing, value)?;
                let first = row.len();
                row.resize(first + self.columns() - usize::from(self.missing_indicator), 0.0);
                if let Some(column) = place.and_then(|place| place.checked_sub(*dropped)) {
                    row[first + column] = 1.0;
                }
            }
            Kind::Ordinal { table, codes, unknown, missing } => {
                row.push(ordinal_code(table, codes, *unknown, missing, value)?);
            }
            Kind::Truth { missing } => row.push(match (present, missing) {
                (Some(value), _) => f64::from(self.truth_in(value)?),
                (None, MissingTruth::Value(truth)) => f64::from(*truth),
                (None, MissingTruth::Nan) => f64::NAN,
                (None, MissingTruth::Error) => return Err(is_missing(value, "true or false")),
            }),
            Kind::Text { .. } => return Err("is text, which makes no columns".to_owned()),
        }
        self.indicate(present.is_none(), row);
        Ok(())
    }

    /// The value of a text field.
    pub(crate) fn text(&self, value: Option<&Value>) -> Result<String, String> {
        match (value, &self.kind) {
            (Some(Value::String(text)), _) => Ok(text.clone()),
            (None | Some(Value::Null), Kind::Text { missing: MissingText::Value(text) }) => Ok(text.clone()),
            (None | Some(Value::Null), _) => Err(is_missing(value, "text")),
            (Some(other), _) => Err(format!("expected text, got {}", value::show(other))),
        }
    }

    /// A value that is taken: the mean, the first category, false.
    pub(crate) fn example(&self) -> Value {
        match &self.kind {
            Kind::Number { missing: MissingNumber::Value(number), .. } => Value::from(*number),
            Kind::Number { log1p: true, subtract, .. } => Value::from(subtract.exp_m1().max(0.0)),
            Kind::Number { subtract, .. } => Value::from(*subtract),
            Kind::OneHot { table, .. } | Kind::Ordinal { table, .. } => table.example(),
            Kind::Truth { .. } => Value::from(false),
            Kind::Text { missing: MissingText::Value(text) } => Value::from(text.as_str()),
            Kind::Text { .. } => Value::from("text"),
        }
    }

    fn indicate(&self, missing: bool, row: &mut Vec<f64>) {
        if self.missing_indicator {
            row.push(f64::from(missing));
        }
    }

    fn number_in(&self, value: &Value) -> Result<f64, String> {
        let number = match value {
            Value::Number(number) => number.as_f64(),
            Value::String(text) if self.coerce => text.trim().parse().ok().filter(|number: &f64| number.is_finite()),
            _ => None,
        };
        number.ok_or_else(|| {
            let hint = match value {
                Value::String(text) if !self.coerce && text.trim().parse::<f64>().is_ok() => {
                    " (`coerce` would take it)"
                }
                _ => "",
            };
            format!("expected a number, got {}{hint}", value::show(value))
        })
    }

    fn truth_in(&self, value: &Value) -> Result<bool, String> {
        let truth = match value {
            Value::Bool(truth) => Some(*truth),
            Value::Number(number) if self.coerce => value::truth_in(&number.to_string()),
            Value::String(text) if self.coerce => value::truth_in(text),
            _ => None,
        };
        truth.ok_or_else(|| format!("expected true or false, got {}", value::show(value)))
    }
}

fn is_missing(value: Option<&Value>, expected: &str) -> String {
    match value {
        None => format!("is missing: expected {expected}"),
        Some(value) => format!("expected {expected}, got {}", value::show(value)),
    }
}

fn one_hot_place(
    table: &Table,
    unknown: UnknownCategory,
    missing: &MissingCategory,
    value: Option<&Value>,
) -> Result<Option<usize>, String> {
    match (table.find(value)?, unknown, missing) {
        (Place::At(place), ..) => Ok(Some(place)),
        (Place::Unknown, UnknownCategory::Other, _) | (Place::Missing, _, MissingCategory::Other) => {
            Ok(Some(table.len()))
        }
        (Place::Unknown, UnknownCategory::Zeros, _) | (Place::Missing, _, MissingCategory::Zeros) => Ok(None),
        (Place::Unknown, UnknownCategory::Error, _) => Err(table.expected(value.unwrap_or(&Value::Null))),
        (Place::Missing, _, MissingCategory::Value(category)) => Ok(table.place_of(category)),
        (Place::Missing, _, MissingCategory::Error) => Err(is_missing(value, &table.choices())),
    }
}

fn ordinal_code(
    table: &Table,
    codes: &[f64],
    unknown: UnknownCode,
    missing: &MissingCode,
    value: Option<&Value>,
) -> Result<f64, String> {
    let place = match (table.find(value)?, unknown, missing) {
        (Place::At(place), ..) => Some(place),
        (Place::Unknown, UnknownCode::Code(code), _) => return Ok(code),
        (Place::Unknown, UnknownCode::Error, _) => return Err(table.expected(value.unwrap_or(&Value::Null))),
        (Place::Missing, _, MissingCode::Code(code)) => return Ok(*code),
        (Place::Missing, _, MissingCode::Nan) => return Ok(f64::NAN),
        (Place::Missing, _, MissingCode::Value(category)) => table.place_of(category),
        (Place::Missing, _, MissingCode::Error) => return Err(is_missing(value, &table.choices())),
    };
    place.and_then(|place| codes.get(place).copied()).ok_or_else(|| "has no code".to_owned())
}

fn number(field: &Numeric) -> Result<Kind, String> {
    let (subtract, divide) = match (field.mean, field.std, field.min, field.max) {
        (mean, std, None, None) => (mean.unwrap_or(0.0), std.unwrap_or(1.0)),
        (None, None, Some(min), Some(max)) => (min, max - min),
        (None, None, _, _) => return Err("`min` and `max` go together".to_owned()),
        _ => return Err("give `mean` and `std`, or `min` and `max`, not both".to_owned()),
    };
    if divide <= 0.0 || !divide.is_finite() {
        let reason = if field.std.is_some() { "`std` has to be over 0" } else { "`max` has to be over `min`" };
        return Err(reason.to_owned());
    }
    match field.missing {
        MissingNumber::Mean if field.mean.is_none() => Err("`missing` is \"mean\", but there is no `mean`".to_owned()),
        MissingNumber::Value(number) if field.log1p && number <= -1.0 => {
            Err(format!("`missing.value` is {number}; with `log1p` it has to be over -1"))
        }
        missing => Ok(Kind::Number { log1p: field.log1p, subtract, divide, missing }),
    }
}

fn one_hot(field: OneHot) -> Result<Kind, String> {
    let table = Table::new(field.categories, field.coerce)?;
    match &field.missing {
        MissingCategory::Value(category) => check_category(&table, category)?,
        MissingCategory::Other if field.unknown != UnknownCategory::Other => {
            return Err("`missing` is \"other\", a column that only `unknown` \"other\" makes".to_owned());
        }
        _ => {}
    }
    let dropped = usize::from(field.drop_first);
    if table.len() == dropped && field.unknown != UnknownCategory::Other {
        return Err("`drop_first` leaves no column of the only category".to_owned());
    }
    Ok(Kind::OneHot { table, dropped, unknown: field.unknown, missing: field.missing })
}

fn ordinal(field: Ordinal) -> Result<Kind, String> {
    let table = Table::new(field.categories, field.coerce)?;
    if let MissingCode::Value(category) = &field.missing {
        check_category(&table, category)?;
    }
    let codes = field.codes.unwrap_or_else(|| (0..table.len()).map(|place| place as f64).collect());
    if codes.len() != table.len() {
        return Err(format!("{} `codes` for {} `categories`", codes.len(), table.len()));
    }
    Ok(Kind::Ordinal { table, codes, unknown: field.unknown, missing: field.missing })
}

fn check_category(table: &Table, category: &Category) -> Result<(), String> {
    match table.place_of(category) {
        Some(_) => Ok(()),
        None => Err(format!("`missing.value` {} is not among `categories`", show(category))),
    }
}
