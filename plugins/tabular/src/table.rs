//! The categories of a one-hot or ordinal field.

use std::collections::HashMap;

use serde_json::Value;

use crate::config::Category;
use crate::value;

/// Categories and their places.
pub(crate) struct Table {
    categories: Vec<Category>,
    places: HashMap<Category, usize>,
    coerce: bool,
}

/// Where a value is in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    At(usize),
    /// A value of a category's type, but none of the table.
    Unknown,
    /// Absent or null.
    Missing,
}

/// More categories than this are not listed in a message.
const LISTED: usize = 10;

impl Table {
    /// Errs where there are no categories, or one comes twice.
    pub(crate) fn new(categories: Vec<Category>, coerce: bool) -> Result<Self, String> {
        if categories.is_empty() {
            return Err("`categories` is empty".to_owned());
        }
        let mut places = HashMap::with_capacity(categories.len());
        for (place, category) in categories.iter().enumerate() {
            if places.insert(category.clone(), place).is_some() {
                return Err(format!("`categories` holds {} twice", show(category)));
            }
        }
        Ok(Table { categories, places, coerce })
    }

    pub(crate) fn len(&self) -> usize {
        self.categories.len()
    }

    pub(crate) fn place_of(&self, category: &Category) -> Option<usize> {
        self.places.get(category).copied()
    }

    /// Errs on a value of another type than the categories have, unknown or not.
    pub(crate) fn find(&self, value: Option<&Value>) -> Result<Place, String> {
        let Some(value) = value::present(value, self.coerce) else { return Ok(Place::Missing) };
        let candidates = self.candidates(value);
        if let Some(place) = candidates.iter().find_map(|category| self.place_of(category)) {
            return Ok(Place::At(place));
        }
        let same_type = |category: &Category| {
            self.categories.iter().any(|other| std::mem::discriminant(other) == std::mem::discriminant(category))
        };
        if candidates.iter().any(same_type) { Ok(Place::Unknown) } else { Err(self.expected(value)) }
    }

    /// The message for a value that is in no category.
    pub(crate) fn expected(&self, value: &Value) -> String {
        format!("expected {}, got {}", self.choices(), value::show(value))
    }

    /// The categories, for a message.
    pub(crate) fn choices(&self) -> String {
        let mut listed: Vec<String> = self.categories.iter().take(LISTED).map(show).collect();
        if self.len() > LISTED {
            listed.push(format!("{} more", self.len() - LISTED));
        }
        format!("one of {}", listed.join(", "))
    }

    /// The first category.
    pub(crate) fn example(&self) -> Value {
        self.categories.first().map_or(Value::Null, to_value)
    }

    /// What a value may stand for, the likeliest first.
    fn candidates(&self, value: &Value) -> Vec<Category> {
        match value {
            Value::Bool(truth) => vec![Category::Truth(*truth)],
            Value::Number(number) => value::whole(number).map(Category::Whole).into_iter().collect(),
            Value::String(text) if self.coerce => {
                let whole = text.trim().parse().ok().map(Category::Whole);
                let truth = value::truth_in(text).map(Category::Truth);
                [Some(Category::Text(text.clone())), whole, truth].into_iter().flatten().collect()
            }
            Value::String(text) => vec![Category::Text(text.clone())],
            Value::Null | Value::Array(_) | Value::Object(_) => Vec::new(),
        }
    }
}

fn to_value(category: &Category) -> Value {
    match category {
        Category::Text(text) => Value::from(text.as_str()),
        Category::Whole(whole) => Value::from(*whole),
        Category::Truth(truth) => Value::from(*truth),
    }
}

/// A category for a message, as a configuration has it.
pub(crate) fn show(category: &Category) -> String {
    match category {
        Category::Text(text) => value::quote(text),
        other => to_value(other).to_string(),
    }
}
