//! What JSON becomes, and what becomes of it.

use serde_json::value::RawValue;
use serde_json::{Value as Json, json};

use super::{Text, ValueJson, read_value};
use crate::tensor::{DataType, TensorSpec};
use crate::value::{Value, ValueSpec};

fn spec(datatype: DataType, shape: Option<&[i64]>) -> ValueSpec {
    ValueSpec::Tensor(TensorSpec { name: "x".into(), datatype, shape: shape.map(<[i64]>::to_vec) })
}

fn read(spec: &ValueSpec, json: &Json) -> Result<Value, String> {
    let value = RawValue::from_string(json.to_string()).unwrap();
    read_value(spec, &Text::new(b""), &value).map_err(|error| error.message)
}

fn back(spec: &ValueSpec, json: &Json) -> Json {
    serde_json::from_str(&serde_json::to_string(&ValueJson(&read(spec, json).unwrap())).unwrap()).unwrap()
}

#[test]
fn empty_lists_take_the_axes_that_are_declared() {
    let rows = spec(DataType::Fp32, Some(&[-1, 4]));
    assert_eq!(back(&rows, &json!([]))["shape"], json!([0, 4]));
    assert_eq!(back(&spec(DataType::Fp32, Some(&[-1, -1])), &json!([]))["shape"], json!([0, 0]));
    assert_eq!(back(&spec(DataType::Fp32, None), &json!([[], []]))["shape"], json!([2, 0]));
    assert!(read(&spec(DataType::Fp32, Some(&[2, 4])), &json!([])).unwrap_err().contains("got shape [0]"));
}

#[test]
fn what_is_answered_can_be_sent() {
    for (datatype, data) in [
        (DataType::Fp32, json!([0.1, "NaN", "-Infinity"])),
        (DataType::Bool, json!([true, false, true])),
        (DataType::Bytes, json!(["a", "", "ä"])),
        (DataType::Uint64, json!([u64::MAX, 0, 1])),
    ] {
        let answer = json!({ "datatype": datatype.name(), "shape": [3, 1], "data": data });
        assert_eq!(back(&spec(datatype, None), &answer), answer);
    }
}

#[test]
fn keys_of_a_map_are_of_its_type() {
    let map = ValueSpec::Map { name: "x".into(), keys: DataType::Int64, values: DataType::Fp64 };
    let given = json!({ "-3": 0.5, "7": "Infinity" });
    assert_eq!(back(&map, &given), json!({ "datatype": "MAP", "shape": [], "data": given }));
    assert!(read(&map, &json!({ "a": 1 })).unwrap_err().contains("object that maps INT64 to FP64"));
    assert!(read(&map, &json!({ "1,2": 1 })).is_err());
    assert!(read(&map, &json!({ "1": [1] })).is_err());
    let words = ValueSpec::Map { name: "x".into(), keys: DataType::Bytes, values: DataType::Bytes };
    let given = json!({ "a\"]": "b", "": "" });
    assert_eq!(back(&words, &given)["data"], given);
}
