//! Objects as structs.

use serde::Deserialize;
use serde::de::Error;

/// Reads an object. Serde by itself would take a list for a struct's fields in order.
///
/// # Errors
/// It is a list, or not what the struct holds.
pub fn read_object<'j, T: Deserialize<'j>>(json: &'j [u8]) -> serde_json::Result<T> {
    if json.trim_ascii_start().first() == Some(&b'[') {
        return Err(serde_json::Error::custom("it is a list, not an object"));
    }
    serde_json::from_slice(json)
}
