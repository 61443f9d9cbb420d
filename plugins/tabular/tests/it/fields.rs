//! Fields: every kind, what is missing or unknown, what is refused and in which words.

use crate::support::{classifier, plugin, request, spec, vector};
use nexus_guest::{Model, Plugin, Request};
use serde_json::{Value, json};

/// The columns of one field's value; none: a record without it.
fn columns(field: &Value, value: Option<Value>) -> Result<Vec<f32>, String> {
    let model = Model { inputs: vec![spec("X", "FP32", &[-1, -1])], ..classifier(1) };
    let mut plugin = plugin(model, &json!({ "fields": [field] })).unwrap();
    let golden = plugin.golden().unwrap();
    plugin.preprocess(golden).unwrap();
    let record = match value {
        Some(value) => json!({ "x": value }),
        None => json!({}),
    };
    vector(&mut plugin, &record).map_err(|error| {
        assert_eq!(error.code(), "invalid-input");
        error.message().to_owned()
    })
}

type Case<'c> = (Option<Value>, Result<&'c [f32], &'c str>);

/// Each value with what it becomes, or a part of the refusal.
fn check(field: Value, cases: &[Case]) {
    for (value, expected) in cases {
        match (columns(&field, value.clone()), expected) {
            (Ok(actual), Ok(expected)) => {
                let same = |(a, b): (&f32, &f32)| a == b || (a.is_nan() && b.is_nan());
                let equal = actual.len() == expected.len() && actual.iter().zip(*expected).all(same);
                assert!(equal, "{field} {value:?}: {actual:?}, expected {expected:?}");
            }
            (Err(actual), Err(expected)) => {
                assert_eq!(actual, format!("record: field `x` {expected}"), "{field} {value:?}");
            }
            (actual, expected) => panic!("{field} {value:?}: {actual:?}, expected {expected:?}"),
        }
    }
}

#[test]
fn numbers_are_scaled() {
    check(
        json!({ "name": "x", "kind": "numeric" }),
        &[
            (Some(json!(22)), Ok(&[22.0])),
            (Some(json!(-0.5)), Ok(&[-0.5])),
            (Some(json!("22")), Err("expected a number, got the text \"22\" (`coerce` would take it)")),
            (Some(json!("old")), Err("expected a number, got the text \"old\"")),
            (Some(json!(true)), Err("expected a number, got true")),
            (Some(json!([1])), Err("expected a number, got a list")),
            (Some(json!(1e300)), Err("becomes 1e300, which the model's FP32 input cannot hold")),
            (Some(Value::Null), Err("expected a number, got null")),
            (None, Err("is missing: expected a number")),
        ],
    );
    check(
        json!({ "name": "x", "kind": "numeric", "mean": 10, "std": 4, "missing": "mean", "missing_indicator": true }),
        &[(Some(json!(12)), Ok(&[0.5, 0.0])), (None, Ok(&[0.0, 1.0])), (Some(Value::Null), Ok(&[0.0, 1.0]))],
    );
    check(
        json!({ "name": "x", "kind": "numeric", "min": 10, "max": 20, "missing": { "value": 15 } }),
        &[(Some(json!(10)), Ok(&[0.0])), (Some(json!(30)), Ok(&[2.0])), (None, Ok(&[0.5]))],
    );
    check(
        json!({ "name": "x", "kind": "numeric", "log1p": true, "mean": 1, "std": 2, "missing": "mean" }),
        &[
            (Some(json!(0)), Ok(&[-0.5])),
            (Some(json!(std::f64::consts::E - 1.0)), Ok(&[0.0])),
            (None, Ok(&[0.0])),
            (Some(json!(-1)), Err("expected a number over -1, got -1")),
        ],
    );
    check(
        json!({ "name": "x", "kind": "numeric", "coerce": true, "missing": "nan" }),
        &[
            (Some(json!(" 22 ")), Ok(&[22.0])),
            (Some(json!("1e1")), Ok(&[10.0])),
            (Some(json!("  ")), Ok(&[f32::NAN])),
            (None, Ok(&[f32::NAN])),
            (Some(json!("inf")), Err("expected a number, got the text \"inf\"")),
        ],
    );
}

#[test]
fn categories_become_columns() {
    let field = |more: Value| {
        let mut field = json!({ "name": "x", "kind": "one_hot", "categories": ["a", "b"] });
        field.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        field
    };
    check(
        field(json!({})),
        &[
            (Some(json!("a")), Ok(&[1.0, 0.0])),
            (Some(json!("b")), Ok(&[0.0, 1.0])),
            (Some(json!("c")), Err("expected one of \"a\", \"b\", got the text \"c\"")),
            (Some(json!(1)), Err("expected one of \"a\", \"b\", got 1")),
            (None, Err("is missing: expected one of \"a\", \"b\"")),
        ],
    );
    check(
        field(json!({ "unknown": "zeros", "missing": "zeros", "missing_indicator": true })),
        &[
            (Some(json!("b")), Ok(&[0.0, 1.0, 0.0])),
            (Some(json!("c")), Ok(&[0.0, 0.0, 0.0])),
            (None, Ok(&[0.0, 0.0, 1.0])),
            // Of another type than any category: a mistake, not a category that nobody has seen.
            (Some(json!(1)), Err("expected one of \"a\", \"b\", got 1")),
        ],
    );
    check(
        field(json!({ "unknown": "other", "missing": "other" })),
        &[
            (Some(json!("a")), Ok(&[1.0, 0.0, 0.0])),
            (Some(json!("c")), Ok(&[0.0, 0.0, 1.0])),
            (None, Ok(&[0.0, 0.0, 1.0])),
        ],
    );
    check(
        field(json!({ "drop_first": true, "unknown": "other", "missing": { "value": "b" } })),
        &[
            (Some(json!("a")), Ok(&[0.0, 0.0])),
            (Some(json!("b")), Ok(&[1.0, 0.0])),
            (Some(json!("c")), Ok(&[0.0, 1.0])),
            (None, Ok(&[1.0, 0.0])),
        ],
    );
    check(
        json!({ "name": "x", "kind": "one_hot", "categories": [1, true], "coerce": true, "missing": "zeros", "missing_indicator": true }),
        &[
            (Some(json!(1)), Ok(&[1.0, 0.0, 0.0])),
            (Some(json!(1.0)), Ok(&[1.0, 0.0, 0.0])),
            (Some(json!("1")), Ok(&[1.0, 0.0, 0.0])),
            (Some(json!("TRUE")), Ok(&[0.0, 1.0, 0.0])),
            (None, Ok(&[0.0, 0.0, 1.0])),
            (Some(json!("")), Ok(&[0.0, 0.0, 1.0])),
            (Some(json!(1.5)), Err("expected one of 1, true, got 1.5")),
        ],
    );
    let many: Vec<i32> = (0..12).collect();
    check(
        json!({ "name": "x", "kind": "one_hot", "categories": many }),
        &[(Some(json!(99)), Err("expected one of 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 2 more, got 99"))],
    );
}

#[test]
fn categories_become_a_number() {
    check(
        json!({ "name": "x", "kind": "ordinal", "categories": ["low", "high"] }),
        &[
            (Some(json!("high")), Ok(&[1.0])),
            (Some(json!("mid")), Err("expected one of \"low\", \"high\", got the text \"mid\"")),
            (None, Err("is missing: expected one of \"low\", \"high\"")),
        ],
    );
    let codes = json!({ "name": "x", "kind": "ordinal", "categories": [3, 1], "codes": [0.5, 7], "unknown": { "code": -1 },
        "missing": { "value": 1 }, "missing_indicator": true });
    check(codes, &[(Some(json!(3)), Ok(&[0.5, 0.0])), (Some(json!(2)), Ok(&[-1.0, 0.0])), (None, Ok(&[7.0, 1.0]))]);
    check(json!({ "name": "x", "kind": "ordinal", "categories": ["a"], "missing": "nan" }), &[(None, Ok(&[f32::NAN]))]);
    check(
        json!({ "name": "x", "kind": "ordinal", "categories": ["a"], "missing": { "code": 9 } }),
        &[(None, Ok(&[9.0]))],
    );
}

#[test]
fn truth_values_become_0_and_1() {
    check(
        json!({ "name": "x", "kind": "boolean", "missing": "nan" }),
        &[
            (Some(json!(true)), Ok(&[1.0])),
            (Some(json!(false)), Ok(&[0.0])),
            (None, Ok(&[f32::NAN])),
            (Some(json!(1)), Err("expected true or false, got 1")),
            (Some(json!("true")), Err("expected true or false, got the text \"true\"")),
        ],
    );
    check(
        json!({ "name": "x", "kind": "boolean", "coerce": true, "missing": { "value": true }, "missing_indicator": true }),
        &[
            (Some(json!(1)), Ok(&[1.0, 0.0])),
            (Some(json!("False")), Ok(&[0.0, 0.0])),
            (Some(json!("")), Ok(&[1.0, 1.0])),
            (Some(json!(2)), Err("expected true or false, got 2")),
        ],
    );
    check(json!({ "name": "x", "kind": "boolean" }), &[(None, Err("is missing: expected true or false"))]);
}

#[test]
fn a_request_that_does_not_fit_is_told_where_and_why() {
    let fields =
        json!([{ "name": "age", "kind": "numeric" }, { "name": "sex", "kind": "one_hot", "categories": ["f", "m"] }]);
    let mut strict = plugin(classifier(3), &json!({ "fields": fields, "max_records": 2 })).unwrap();
    let good = json!({ "age": 22, "sex": "m" });
    for (body, expected) in [
        (json!({}), "neither `record` nor `records` came"),
        (json!({ "record": null }), "neither `record` nor `records` came"),
        (json!({ "record": good, "records": [good] }), "both `record` and `records` came"),
        (json!({ "records": [] }), "`records` is empty"),
        (json!({ "records": [good, good, good] }), "3 records are over the limit of 2 (`max_records`"),
        (json!({ "record": [22, "m"] }), "`record`: invalid type: sequence"),
        (json!({ "records": [good, 7] }), "`records[1]`: invalid type"),
        (json!({ "records": [good, { "age": "x", "sex": "m" }] }), "records[1]: field `age` expected a number, got"),
        (json!({ "records": [good, { "sex": "m" }] }), "records[1]: field `age` is missing: expected a number"),
        (json!({ "record": { "age": 22, "sex": "x" } }), "record: field `sex` expected one of \"f\", \"m\", got"),
        (
            json!({ "records": [good, { "Age": 22, "sex": "m" }] }),
            "records[1]: there is no field \"Age\"; expected `age`, `sex`",
        ),
    ] {
        let error = strict.preprocess(request(&body)).unwrap_err();
        assert!(error.code() == "invalid-input" && error.message().contains(expected), "{body}: {error}");
    }
    let csv = Request { content_type: "text/csv".into(), body: b"age,sex\n22,m".to_vec(), ..Request::default() };
    assert!(strict.preprocess(csv).unwrap_err().message().contains("came as \"text/csv\""));
    let broken = Request { content_type: "application/json".into(), body: b"{".to_vec(), ..Request::default() };
    assert_eq!(strict.preprocess(broken).unwrap_err().code(), "invalid-input");

    let mut lenient = plugin(classifier(3), &json!({ "fields": fields, "extra_fields": "ignore" })).unwrap();
    let record = json!({ "age": 22, "sex": "m", "name": "Owen" });
    assert_eq!(vector(&mut lenient, &record).unwrap(), [22.0, 0.0, 1.0]);
    let long = json!({ "record": { "age": "9".repeat(5000), "sex": "m" } });
    assert!(lenient.preprocess(request(&long)).unwrap_err().message().len() < 200);
}

#[test]
fn a_model_may_fix_the_number_of_records() {
    let model = Model { inputs: vec![spec("X", "FP32", &[2, 1])], ..classifier(1) };
    let mut plugin = plugin(model, &json!({ "fields": [{ "name": "age", "kind": "numeric" }] })).unwrap();
    let error = plugin.preprocess(request(&json!({ "record": { "age": 1 } }))).unwrap_err();
    assert_eq!(error.message(), "the model takes exactly 2 records at a time, 1 came");
    let golden = plugin.golden().unwrap();
    assert_eq!(plugin.preprocess(golden).unwrap()[0].shape, [2, 1]);
}

#[test]
fn fields_share_inputs_as_configured() {
    let inputs =
        vec![spec("numbers", "FP32", &[-1, 2]), spec("flags", "BOOL", &[-1, 1]), spec("codes", "INT32", &[-1])];
    let fields = json!([
        { "name": "age", "kind": "numeric", "input": "numbers" },
        { "name": "member", "kind": "boolean", "input": "flags" },
        { "name": "fare", "kind": "numeric", "input": "numbers" },
        { "name": "codes", "kind": "ordinal", "categories": ["a", "b"] },
    ]);
    let mut plugin = plugin(Model { inputs, ..classifier(1) }, &json!({ "fields": fields })).unwrap();
    let record = json!({ "age": 22, "member": true, "fare": 7.25, "codes": "b" });
    let tensors = plugin.preprocess(request(&json!({ "record": record }))).unwrap();
    assert_eq!(tensors[0].as_f32().unwrap().as_ref(), [22.0, 7.25]);
    assert_eq!((tensors[1].datatype.as_str(), tensors[1].data.as_slice()), ("BOOL", &[1][..]));
    assert_eq!((tensors[2].shape.as_slice(), tensors[2].values::<i32>().unwrap()[0]), (&[1][..], 1));
}

#[test]
fn a_configuration_that_makes_no_sense_names_the_field() {
    let one = |field: Value| json!({ "fields": [field] });
    let numeric = |more: Value| {
        let mut field = json!({ "name": "age", "kind": "numeric" });
        field.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one(field)
    };
    let table = |kind: &str, categories: Value, more: Value| {
        let mut field = json!({ "name": "sex", "kind": kind, "categories": categories });
        field.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        one(field)
    };
    for (config, expected) in [
        (one(json!({ "name": "", "kind": "text" })), "an empty `name`"),
        (
            json!({ "fields": [{ "name": "a", "kind": "numeric" }, { "name": "a", "kind": "numeric" }] }),
            "field `a` is configured twice",
        ),
        (numeric(json!({ "std": 0 })), "field `age`: `std` has to be over 0"),
        (numeric(json!({ "min": 1 })), "field `age`: `min` and `max` go together"),
        (numeric(json!({ "min": 1, "max": 1 })), "field `age`: `max` has to be over `min`"),
        (numeric(json!({ "mean": 1, "max": 1 })), "not both"),
        (numeric(json!({ "missing": "mean" })), "field `age`: `missing` is \"mean\", but there is no `mean`"),
        (numeric(json!({ "log1p": true, "missing": { "value": -2 } })), "`missing.value` is -2"),
        (numeric(json!({ "missing_indicator": true })), "the input `X` has 1 columns, the fields make 2: `age` 2"),
        (numeric(json!({ "input": "Y" })), "field `age`: the model has no input `Y`; its inputs: `X` FP32 [-1, 1]"),
        (one(json!({ "name": "note", "kind": "text" })), "field `note`: it is text, but the input `X` is FP32"),
        (table("one_hot", json!([]), json!({})), "field `sex`: `categories` is empty"),
        (table("one_hot", json!(["f", "f"]), json!({})), "`categories` holds \"f\" twice"),
        (table("one_hot", json!(["f"]), json!({ "missing": { "value": "m" } })), "\"m\" is not among `categories`"),
        (table("one_hot", json!(["f"]), json!({ "missing": "other" })), "only `unknown` \"other\" makes"),
        (table("one_hot", json!(["f"]), json!({ "drop_first": true })), "leaves no column"),
        (table("ordinal", json!(["f"]), json!({ "codes": [1, 2] })), "field `sex`: 2 `codes` for 1 `categories`"),
        (table("ordinal", json!(["f"]), json!({ "missing": { "value": "m" } })), "\"m\" is not among `categories`"),
    ] {
        let Err(error) = plugin(classifier(1), &config) else { panic!("{config} was accepted") };
        assert!(error.code() == "invalid-config" && error.message().contains(expected), "{config}: {error}");
    }
    for wrong in [
        json!({ "fields": [{ "name": "a", "kind": "number" }] }),
        json!({ "fields": [{ "name": "a", "kind": "numeric", "men": 1 }] }),
        json!({ "fields": [], "outputs": {} }),
        json!({ "fields": [{ "name": "a", "kind": "one_hot", "categories": [null] }] }),
    ] {
        assert!(serde_json::from_value::<tabular::Config>(wrong).is_err());
    }
}

#[test]
fn a_model_that_does_not_fit_is_refused() {
    let age = json!({ "fields": [{ "name": "age", "kind": "numeric" }] });
    let nan = json!({ "fields": [{ "name": "age", "kind": "numeric", "missing": "nan" }] });
    for (inputs, config, expected) in [
        (vec![spec("X", "UINT8", &[-1, 1])], &age, "`X` UINT8 [-1, 1]: records become FP32"),
        (vec![spec("X", "FP32", &[1, 3, 8, 8])], &age, "records become [records, columns]"),
        (vec![spec("age", "BYTES", &[-1, 1])], &age, "field `age`: it is no text"),
        (vec![spec("age", "INT64", &[-1, 1])], &nan, "field `age`: `missing` is \"nan\", which the input `age` INT64"),
        (
            vec![spec("age", "FP32", &[-1, 1]), spec("sex", "BYTES", &[-1, 1])],
            &age,
            "input `sex` BYTES [-1, 1] gets no field",
        ),
        (vec![spec("a", "FP32", &[-1]), spec("b", "FP32", &[-1])], &age, "field `age`: the model has no input `age`"),
    ] {
        let Err(error) = plugin(Model { inputs, ..classifier(1) }, config) else { panic!("accepted: {expected}") };
        assert!(error.code() == "invalid-config" && error.message().contains(expected), "{error}");
    }
}
