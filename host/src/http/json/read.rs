//! Nested lists in JSON as tensors.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::Text;
use super::element::{self, Element, Flag};
use crate::error::{Error, Result};
use crate::tensor::{DataType, Tensor, TensorSpec};
use crate::value::{Map, Value, ValueSpec, item_name, keys_name};

/// Axes a tensor in JSON may have.
pub(super) const MAX_RANK: usize = 16;

/// Reads the value of a text that `spec` describes: a tensor, a list of such for a sequence, an object for a map, `null` for an
/// optional that holds nothing.
///
/// # Errors
/// Something else. The message says what was expected and what came.
pub fn read_value(spec: &ValueSpec, text: &Text<'_>, json: &RawValue) -> Result<Value> {
    match spec {
        ValueSpec::Optional(item) if json.get() == "null" => Ok(Value::None { name: item.name().to_owned() }),
        ValueSpec::Optional(item) => read_value(item, text, json),
        ValueSpec::Tensor(spec) => read_tensor(spec, text, json).map(Value::Tensor),
        ValueSpec::Sequence { name, item } => read_sequence(name, item, text, json),
        ValueSpec::Map { name, keys, values } => read_map(name, *keys, *values, text, json).map(Value::Map),
        ValueSpec::Unsupported { name, kind } => {
            Err(Error::invalid_input(format!("input {name} takes a {kind}, which the host cannot give it")))
        }
    }
}

fn read_sequence(name: &str, item: &ValueSpec, text: &Text<'_>, json: &RawValue) -> Result<Value> {
    let items: Vec<&RawValue> = serde_json::from_str(text.of(json)).map_err(|error| {
        Error::invalid_input(format!("input {name}: expected a list, each item of it {item}: {error}"))
    })?;
    let items = items
        .into_iter()
        .enumerate()
        .map(|(index, json)| read_value(&renamed(item, item_name(name, index)), text, json));
    Ok(Value::Sequence { name: name.to_owned(), items: items.collect::<Result<_>>()? })
}

fn renamed(spec: &ValueSpec, to: String) -> ValueSpec {
    match spec.clone() {
        ValueSpec::Tensor(spec) => ValueSpec::Tensor(TensorSpec { name: to, ..spec }),
        ValueSpec::Sequence { item, .. } => ValueSpec::Sequence { name: to, item },
        ValueSpec::Map { keys, values, .. } => ValueSpec::Map { name: to, keys, values },
        ValueSpec::Optional(item) => ValueSpec::Optional(Box::new(renamed(&item, to))),
        ValueSpec::Unsupported { kind, .. } => ValueSpec::Unsupported { name: to, kind },
    }
}

fn read_map(name: &str, keys: DataType, values: DataType, text: &Text<'_>, json: &RawValue) -> Result<Map> {
    let wrong = |problem: &dyn fmt::Display| {
        Error::invalid_input(format!("input {name}: expected an object that maps {keys} to {values}: {problem}"))
    };
    let pairs = pairs_in_order(&mut serde_json::Deserializer::from_str(json.get())).map_err(|error| wrong(&error))?;
    // Keys are strings in JSON, whatever they are in the model.
    let mut words = Vec::with_capacity(pairs.len());
    let mut elements = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        words.push(if keys == DataType::Bytes { serde_json::json!(key).to_string() } else { key });
        elements.push(text.of(value));
    }
    let count = words.len();
    let list =
        |elements: &[&str]| RawValue::from_string(format!("[{}]", elements.join(","))).map_err(|error| wrong(&error));
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Ok(Map {
        keys: read_shaped(&keys_name(name), keys, &[count], list(&words)?.get())?,
        values: read_shaped(name, values, &[count], list(&elements)?.get())?,
    })
}

/// A JSON object as pairs; unlike a map it shows a name that came twice.
///
/// # Errors
/// It is no object.
pub fn pairs_in_order<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Vec<(String, &'de RawValue)>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, &'de RawValue)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some(pair) = map.next_entry()? {
                pairs.push(pair);
            }
            Ok(pairs)
        }
    }
    deserializer.deserialize_map(Pairs)
}

/// A tensor in the form in which the host answers one.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TensorObject<'j> {
    #[serde(borrow, default)]
    datatype: Option<Cow<'j, str>>,
    #[serde(default)]
    shape: Option<Vec<usize>>,
    #[serde(borrow)]
    data: &'j RawValue,
}

/// Reads nested lists as the tensor that `spec` describes. They may leave out a first axis of one (a single row), or be
/// flat where exactly one tensor of the declared sizes fits. An object with `shape` and `data` says its shape itself.
fn read_tensor(spec: &TensorSpec, text: &Text<'_>, json: &RawValue) -> Result<Tensor> {
    let lists = text.of(json);
    if !lists.starts_with('{') {
        return read_nested(&spec.name, spec.datatype, lists, &|given, count| fit_shape(spec, given, count));
    }
    let object: TensorObject<'_> = serde_json::from_str(json.get()).map_err(|error| {
        let name = &spec.name;
        Error::invalid_input(format!(
            "input {name}: expected {spec} as nested JSON lists, or {{\"shape\", \"data\"}}: {error}"
        ))
    })?;
    if let Some(datatype) = object.datatype.filter(|datatype| *datatype != spec.datatype.name()) {
        return Err(Error::invalid_input(format!("input {}: expected {spec}, got {datatype:?}", spec.name)));
    }
    match object.shape {
        Some(shape) => read_shaped(&spec.name, spec.datatype, &shape, text.of(object.data)),
        None => {
            read_nested(&spec.name, spec.datatype, text.of(object.data), &|given, count| fit_shape(spec, given, count))
        }
    }
}

/// Reads lists, flat or nested, as a tensor of just this shape.
///
/// # Errors
/// As [`read_value`].
pub fn read_shaped(name: &str, datatype: DataType, shape: &[usize], json: &str) -> Result<Tensor> {
    read_nested(name, datatype, json, &|given, count| {
        let expected = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        // Lists end where a size is 0, so they cannot show the axes behind it.
        if expected == Some(count) && (given.len() <= 1 || given == shape || count == 0) {
            return Ok(shape.to_vec());
        }
        let (shape, given) = (written(shape), written(given));
        Err(Error::invalid_input(format!(
            "input {name}: its shape is [{shape}], its data is of shape [{given}] ({count} values)"
        )))
    })
}

/// Which shape elements take that came in lists of such sizes, and so many.
type Fit<'f> = &'f dyn Fn(&[usize], usize) -> Result<Vec<usize>>;

fn read_nested(name: &str, datatype: DataType, json: &str, fit: Fit<'_>) -> Result<Tensor> {
    match datatype {
        DataType::Fp32 => read_numbers::<f32>(name, datatype, json, fit),
        DataType::Fp64 => read_numbers::<f64>(name, datatype, json, fit),
        DataType::Fp16 => read_numbers::<half::f16>(name, datatype, json, fit),
        DataType::Bf16 => read_numbers::<half::bf16>(name, datatype, json, fit),
        DataType::Int8 => read_numbers::<i8>(name, datatype, json, fit),
        DataType::Int16 => read_numbers::<i16>(name, datatype, json, fit),
        DataType::Int32 => read_numbers::<i32>(name, datatype, json, fit),
        DataType::Int64 => read_numbers::<i64>(name, datatype, json, fit),
        DataType::Uint8 => read_numbers::<u8>(name, datatype, json, fit),
        DataType::Uint16 => read_numbers::<u16>(name, datatype, json, fit),
        DataType::Uint32 => read_numbers::<u32>(name, datatype, json, fit),
        DataType::Uint64 => read_numbers::<u64>(name, datatype, json, fit),
        DataType::Bool => read_numbers::<Flag>(name, datatype, json, fit),
        DataType::Bytes => {
            let (texts, shape) = collect::<element::Text>(name, datatype, json)?;
            let shape = fit(&shape, texts.len())?;
            let strings = texts.into_iter().map(|element::Text(text)| text).collect();
            Ok(Tensor::from_strings(name.to_owned(), shape, strings)?)
        }
    }
}

fn read_numbers<T>(name: &str, datatype: DataType, json: &str, fit: Fit<'_>) -> Result<Tensor>
where
    T: Element + bytemuck::NoUninit + Send,
{
    let (elements, shape) = collect::<T>(name, datatype, json)?;
    let shape = fit(&shape, elements.len())?;
    Ok(Tensor::from_vec(name.to_owned(), datatype, shape, elements)?)
}

fn collect<T: Element>(name: &str, datatype: DataType, json: &str) -> Result<(Vec<T>, Vec<usize>)> {
    if let Some(read) = T::from_lists(json) {
        return Ok(read);
    }
    let mut collector = Collector { elements: Vec::new(), shape: Vec::new(), leaf_depth: None };
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let level = Level { collector: &mut collector, depth: 0 };
    // A list that was kept apart may have another behind it, as in `[1],[2]`: it would be lost without a word.
    level.deserialize(&mut deserializer).and_then(|()| deserializer.end()).map_err(|error| {
        Error::invalid_input(format!("input {name}: expected {datatype} as nested JSON lists: {error}"))
    })?;
    Ok((collector.elements, collector.shape))
}

/// The shape the elements take in the model, for what came as `given`.
fn fit_shape(spec: &TensorSpec, given: &[usize], count: usize) -> Result<Vec<usize>> {
    if spec.accepts(given) {
        return Ok(given.to_vec());
    }
    let axes = spec.shape.as_deref().unwrap_or_default();
    let with = |open: usize| axes.iter().map(|&size| usize::try_from(size).unwrap_or(open)).collect::<Vec<usize>>();
    let is_full = |shape: &[usize]| shape.iter().try_fold(1usize, |n, &size| n.checked_mul(size)) == Some(count);
    // An empty list shows no axis but its own.
    if given == [0] && is_full(&with(0)) {
        return Ok(with(0));
    }
    let one_row: Vec<usize> = std::iter::once(1).chain(given.iter().copied()).collect();
    if spec.accepts(&one_row) {
        return Ok(one_row);
    }
    if given.len() == 1 && is_full(&with(1)) {
        return Ok(with(1));
    }
    let sizes = written(given);
    Err(Error::invalid_input(format!("input {}: expected {spec}, got shape [{sizes}] ({count} values)", spec.name)))
}

fn written(shape: &[usize]) -> String {
    let sizes: Vec<String> = shape.iter().map(usize::to_string).collect();
    sizes.join(",")
}

/// Elements in row-major order, and the sizes of the lists they came in.
struct Collector<T> {
    elements: Vec<T>,
    shape: Vec<usize>,
    /// How deep the first scalar was; all must be as deep.
    leaf_depth: Option<usize>,
}

/// One level of nesting: a list of levels, or a scalar.
struct Level<'c, T> {
    collector: &'c mut Collector<T>,
    depth: usize,
}

impl<'de, T: Element> DeserializeSeed<'de> for Level<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<T: Element> Level<'_, T> {
    fn push<E: serde::de::Error>(self, element: Option<T>, came: impl fmt::Display) -> std::result::Result<(), E> {
        let element = element.ok_or_else(|| E::custom(format!("expected {}, got {came}", T::EXPECTED)))?;
        match self.collector.leaf_depth {
            Some(depth) if depth != self.depth => return Err(E::custom("lists are nested to different depths")),
            _ => self.collector.leaf_depth = Some(self.depth),
        }
        self.collector.elements.push(element);
        Ok(())
    }
}

impl<'de, T: Element> Visitor<'de> for Level<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} or a list", T::EXPECTED)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> std::result::Result<(), E> {
        self.push(T::from_f64(value), value)
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> std::result::Result<(), E> {
        self.push(T::from_i64(value), value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> std::result::Result<(), E> {
        self.push(T::from_u64(value), value)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> std::result::Result<(), E> {
        self.push(T::from_bool(value), value)
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> std::result::Result<(), E> {
        let shown: String = value.chars().take(40).collect();
        self.push(T::from_str(value), format_args!("the string {shown:?}"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<(), A::Error> {
        let depth = self.depth;
        if depth >= MAX_RANK || self.collector.leaf_depth.is_some_and(|leaf| leaf <= depth) {
            return Err(serde::de::Error::custom("lists are nested too deep or to different depths"));
        }
        let mut length = 0;
        while list.next_element_seed(Level { collector: &mut *self.collector, depth: depth + 1 })?.is_some() {
            length += 1;
        }
        let shape = &mut self.collector.shape;
        // Lists end from the inside out, so the outer axes of the first row are not known yet.
        if shape.len() <= depth {
            shape.resize(depth + 1, usize::MAX);
        }
        match shape[depth] {
            usize::MAX => shape[depth] = length,
            size if size != length => {
                return Err(serde::de::Error::custom(format!("lists of {size} and of {length} stand side by side")));
            }
            _ => {}
        }
        Ok(())
    }
}
