//! Real models, models encoded here field by field, and files that mean harm.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::PathBuf;

use prost::Message;
use prost::encoding::encode_varint;
use serde_json::json;

use super::proto::{
    Dimension, DimensionValue, ElementType, MapType, OperatorSetId, StringStringEntry, TensorShape, TensorType,
    TypeProto, TypeValue, ValueInfoProto,
};
use super::*;

fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

fn host(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn tensor(name: &str, datatype: i32, shape: Option<Vec<Dim>>) -> ValueInfo {
    ValueInfo { name: name.into(), kind: ValueKind::Tensor { datatype, shape }, optional: false }
}

/// A field that holds a number.
fn number(field: u32, value: i64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_varint(u64::from(field) << 3, &mut bytes);
    encode_varint(value.cast_unsigned(), &mut bytes);
    bytes
}

/// The start of a field that holds `length` bytes.
fn head(field: u32, length: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_varint(u64::from(field) << 3 | 2, &mut bytes);
    encode_varint(length, &mut bytes);
    bytes
}

/// A field that holds text, bytes or a message.
fn field(field: u32, content: impl AsRef<[u8]>) -> Vec<u8> {
    let content = content.as_ref();
    [head(field, content.len() as u64), content.to_vec()].concat()
}

fn tensor_type(datatype: i32, shape: Option<Vec<Option<DimensionValue>>>) -> TypeProto {
    let shape = shape.map(|dims| TensorShape { dim: dims.into_iter().map(|value| Dimension { value }).collect() });
    TypeProto { value: Some(TypeValue::Tensor(TensorType { elem_type: datatype, shape })) }
}

fn value(name: &str, value_type: TypeProto) -> Vec<u8> {
    ValueInfoProto { name: name.into(), value_type: Some(value_type) }.encode_to_vec()
}

/// A scalar float.
fn scalar(name: &str) -> Vec<u8> {
    value(name, tensor_type(1, Some(vec![])))
}

/// A `TensorProto` of one float, its elements before its name.
fn weight(name: &str) -> Vec<u8> {
    [number(1, 1), number(2, 1), field(9, [0; 4]), field(8, name)].concat()
}

fn model(ir_version: i64, graph: &[Vec<u8>]) -> Vec<u8> {
    [number(1, ir_version), field(7, graph.concat()), field(8, number(2, 17))].concat()
}

fn input_names(bytes: &[u8]) -> Vec<(String, bool)> {
    read(bytes).unwrap().inputs.into_iter().map(|input| (input.name, input.optional)).collect()
}

fn problem(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

#[test]
fn real_models_say_what_they_take_and_give() {
    let iris = read_file(&repository("models/iris/1/model.onnx")).unwrap();
    assert_eq!(iris.ir_version, 8);
    assert_eq!(iris.opset, [("ai.onnx.ml".into(), 1), (String::new(), 17), (String::new(), 17)]);
    assert_eq!((iris.producer_name.as_str(), iris.producer_version.as_str()), ("skl2onnx", "1.20.0"));
    assert_eq!(iris.graph_name, "ONNX(Pipeline)");
    assert_eq!(iris.inputs, [tensor("X", 1, Some(vec![Dim::Unknown, Dim::Fixed(4)]))]);
    assert_eq!(
        iris.outputs,
        [
            tensor("label", 7, Some(vec![Dim::Unknown])),
            tensor("probabilities", 1, Some(vec![Dim::Unknown, Dim::Fixed(3)]))
        ]
    );

    let efficientnet = read_file(&repository("models/efficientnet-lite0/1/model.onnx")).unwrap();
    let batch = Dim::Symbol("batch".into());
    let image = vec![batch.clone(), Dim::Fixed(3), Dim::Fixed(224), Dim::Fixed(224)];
    assert_eq!(efficientnet.inputs, [tensor("images", 1, Some(image))]);
    assert_eq!(efficientnet.outputs, [tensor("probabilities", 1, Some(vec![batch, Dim::Fixed(1000)]))]);
    assert_eq!(efficientnet.metadata_props[0], ("onnx.infer".into(), "onnxruntime.quant".into()));

    for name in ["mlp", "random-forest"] {
        let digits = read_file(&host(&format!("tests/fixtures/models/digits/{name}.onnx"))).unwrap();
        assert_eq!(digits.inputs, [tensor("X", 1, Some(vec![Dim::Unknown, Dim::Fixed(64)]))]);
        assert_eq!(digits.outputs.len(), 2);
    }
}

#[test]
fn the_sidecar_form_is_tidy_and_reads_back() {
    let metadata = read_file(&host("tests/fixtures/models/iris/model-zipmap.onnx")).unwrap();
    let sidecar = serde_json::to_value(&metadata).unwrap();
    let expected = json!({
        "ir_version": 8,
        "opset": [["", 17], ["ai.onnx.ml", 1]],
        "producer_name": "skl2onnx",
        "producer_version": "1.20.0",
        "graph_name": "ONNX(Pipeline)",
        "inputs": [{"name": "X", "kind": "tensor", "datatype": 1, "shape": [null, 4]}],
        "outputs": [
            {"name": "output_label", "kind": "tensor", "datatype": 7, "shape": [null]},
            {"name": "output_probability", "kind": "sequence", "type_name": "seq(map(int64,tensor(float)))"},
        ],
        "metadata_props": [],
        "steady": true,
    });
    assert_eq!(sidecar, expected);
    assert_eq!(serde_json::from_value::<ModelMetadata>(sidecar).unwrap(), metadata);

    let bytes = model(8, &[field(5, weight("w")), field(11, scalar("w")), field(12, field(1, "untyped"))]);
    let metadata = read(&bytes).unwrap();
    let sidecar = serde_json::to_value(&metadata).unwrap();
    assert_eq!(sidecar["inputs"][0]["optional"], true);
    assert_eq!(sidecar["outputs"][0], json!({"name": "untyped", "kind": "unknown"}));
    assert_eq!(serde_json::from_value::<ModelMetadata>(sidecar).unwrap(), metadata);
}

#[test]
fn weights_are_no_inputs_before_ir_4_and_optional_inputs_after() {
    let sparse = field(1, weight("sparse"));
    let graph = [
        field(11, scalar("x")),
        field(11, scalar("dense")),
        field(5, weight("dense")),
        field(5, weight("hidden")),
        field(15, sparse),
        field(11, scalar("sparse")),
        field(12, scalar("y")),
    ];
    for ir_version in [1, 3] {
        assert_eq!(input_names(&model(ir_version, &graph)), [("x".into(), false)]);
    }
    for ir_version in [4, 14] {
        let expected = [("x".into(), false), ("dense".into(), true), ("sparse".into(), true)];
        assert_eq!(input_names(&model(ir_version, &graph)), expected);
    }
}

#[test]
fn fields_may_come_in_any_order_and_a_second_graph_adds_to_the_first() {
    let first = [field(2, "first"), field(11, scalar("x")), field(11, scalar("w"))].concat();
    let second = [field(2, "second"), field(5, weight("w")), field(12, scalar("y"))].concat();
    let bytes = [field(8, number(2, 17)), field(7, first), field(7, second), number(1, 3)].concat();
    let metadata = read(&bytes).unwrap();
    assert_eq!(metadata.graph_name, "second");
    assert_eq!(metadata.inputs, [tensor("x", 1, Some(vec![]))]);
    assert_eq!(metadata.outputs, [tensor("y", 1, Some(vec![]))]);
}

#[test]
fn shapes_tell_scalars_from_unknown_ranks_and_sizes_from_names() {
    let dims = vec![
        Some(DimensionValue::Name("batch".into())),
        Some(DimensionValue::Size(3)),
        Some(DimensionValue::Size(0)),
        Some(DimensionValue::Size(-1)),
        Some(DimensionValue::Name(String::new())),
        None,
    ];
    let bytes = model(
        8,
        &[
            field(11, value("named", tensor_type(10, Some(dims)))),
            field(11, value("scalar", tensor_type(8, Some(vec![])))),
            field(11, value("any", tensor_type(99, None))),
            field(12, scalar("y")),
        ],
    );
    let unknown = Dim::Unknown;
    let named =
        vec![Dim::Symbol("batch".into()), Dim::Fixed(3), Dim::Fixed(0), unknown.clone(), unknown.clone(), unknown];
    let expected = [tensor("named", 10, Some(named)), tensor("scalar", 8, Some(vec![])), tensor("any", 99, None)];
    assert_eq!(read(&bytes).unwrap().inputs, expected);
}

fn boxed(value_type: TypeProto) -> Option<Box<TypeProto>> {
    Some(Box::new(value_type))
}

fn sequence(elem_type: TypeProto) -> TypeProto {
    TypeProto { value: Some(TypeValue::Sequence(ElementType { elem_type: boxed(elem_type) })) }
}

fn map(key_type: i32, value_type: TypeProto) -> TypeProto {
    TypeProto { value: Some(TypeValue::Map(MapType { key_type, value_type: boxed(value_type) })) }
}

#[test]
fn types_that_are_no_tensors_have_readable_names() {
    let optional = |elem_type| TypeProto { value: Some(TypeValue::Optional(ElementType { elem_type })) };
    let sparse = TensorType { elem_type: 16, shape: None };
    let bytes = model(
        8,
        &[
            field(12, value("a", sequence(map(7, tensor_type(1, None))))),
            field(12, value("b", map(8, sequence(tensor_type(11, None))))),
            field(12, value("c", optional(boxed(sequence(tensor_type(99, None)))))),
            field(12, value("d", TypeProto { value: Some(TypeValue::SparseTensor(sparse)) })),
            field(12, value("e", optional(None))),
            field(12, value("f", TypeProto { value: None })),
        ],
    );
    let kinds: Vec<ValueKind> = read(&bytes).unwrap().outputs.into_iter().map(|output| output.kind).collect();
    let expected = [
        ValueKind::Sequence { type_name: "seq(map(int64,tensor(float)))".into() },
        ValueKind::Map { type_name: "map(string,seq(tensor(double)))".into() },
        ValueKind::Optional { type_name: "optional(seq(tensor(type 99)))".into() },
        ValueKind::Sparse { type_name: "sparse_tensor(bfloat16)".into() },
        ValueKind::Optional { type_name: "optional(unknown)".into() },
        ValueKind::Unknown,
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn texts_need_no_utf8_where_they_are_only_shown() {
    let pair = StringStringEntry { key: b"k".to_vec(), value: b"a\xff".to_vec() }.encode_to_vec();
    let valid = model(8, &[field(12, scalar("y"))]);
    let metadata = read(&[valid.clone(), field(2, b"\xfe!"), field(14, pair)].concat()).unwrap();
    assert_eq!(metadata.producer_name, "\u{fffd}!");
    assert_eq!(metadata.metadata_props, [("k".into(), "a\u{fffd}".into())]);
    assert!(problem(&model(8, &[field(12, field(1, b"\xff"))])).contains("at byte 4, the output is damaged"));
}

#[test]
fn what_is_no_onnx_model_is_told_so() {
    assert_eq!(problem(b""), "not an ONNX model: the file is empty");
    let output = field(12, scalar("y"));
    assert_eq!(problem(&field(7, &output)), "not an ONNX model: it has no ir_version");
    assert_eq!(problem(&model(-1, std::slice::from_ref(&output))), "not an ONNX model: it has no ir_version");
    assert_eq!(problem(&number(1, 8)), "not an ONNX model: it has no graph");
    assert_eq!(problem(&model(8, &[field(11, scalar("x"))])), "not an ONNX model: it has no outputs");
    assert!(problem(b"\x89PNG\r\n\x1a\n").starts_with("not an ONNX model: at byte 0, "));
    assert!(problem(b"PK\x03\x04\x14\0\0\0\x08\0").starts_with("not an ONNX model: at byte 2, "));
    assert!(problem(&[0; 16]).starts_with("not an ONNX model: at byte 0, 0 is no field number"));
    assert!(problem(&[0x08; 1]).contains("at byte 1, the data ends in the middle of a field"));
    assert!(problem(&[[0x08].as_slice(), &[0xff; 10]].concat()).contains("at byte 1, a number is longer than 64 bits"));
    assert!(problem(&number(7, 1)).contains("at byte 0, field 7 should hold text or a message and does not"));
    assert!(problem(&field(1, "8")).contains("at byte 0, field 1 should hold a number and does not"));
    assert!(problem(&[0x3b]).contains("at byte 0, field 7 has wire type 3"));
    assert!(problem(&model(8, &[field(11, "")])).contains("at byte 4, an input has no name"));
}

#[test]
fn input_names_differ() {
    let bytes = model(8, &[field(11, scalar("x")), field(11, scalar("x")), field(12, scalar("y"))]);
    assert_eq!(problem(&bytes), "the ONNX model is invalid: two inputs are named \"x\"");
}

#[test]
fn lengths_past_the_end_are_refused_before_anything_is_allocated() {
    let cut = [number(1, 8), head(7, u64::MAX)].concat();
    assert!(problem(&cut).contains("at byte 2, a field claims 18446744073709551615 bytes where only 0 are left"));
    // The input ends past its graph, though not past the file.
    let bytes = [number(1, 8), field(7, head(11, 100)), field(6, [0; 200])].concat();
    assert!(problem(&bytes).contains("at byte 4, a field claims 100 bytes where only 0 are left"));
    let fixed = [number(1, 8), vec![0x7d, 0, 0, 0]].concat();
    assert!(problem(&fixed).contains("at byte 2, a field claims 4 bytes where only 3 are left"));
}

#[test]
fn types_nested_too_deep_are_refused() {
    let nested = |depth| (0..depth).fold(tensor_type(1, None).encode_to_vec(), |inner, _| field(4, field(1, inner)));
    let output = |depth| model(8, &[field(12, [field(1, "y"), field(2, nested(depth))].concat())]);
    assert!(read(&output(20)).is_ok());
    assert!(problem(&output(1000)).contains("recursion limit reached"));
}

#[test]
fn a_model_of_too_many_parts_is_refused() {
    let output = field(12, scalar("y"));
    let limited = |graph: &[Vec<u8>]| problem(&model(8, &[graph.concat(), output.clone()]));

    let inputs: Vec<_> = (0..20_000).map(|index| field(11, field(1, index.to_string()))).collect();
    assert!(limited(&inputs).contains("more than 16384 inputs and outputs"));
    let weights: Vec<_> = (0..140_000).map(|index| field(5, field(8, index.to_string()))).collect();
    assert!(limited(&weights).contains("more than 131072 names of weights"));
    let long_names: Vec<_> = (0..200).map(|_| field(5, field(8, [b'w'; 60_000]))).collect();
    assert!(limited(&long_names).contains("more than 8388608 bytes"));
    assert!(limited(&[field(2, vec![b'n'; 70_000])]).contains("of more than 65536 bytes"));
    let axes = tensor_type(1, Some(vec![None; 256]));
    assert!(limited(&[field(11, value("x", axes))]).contains("an input of more than 255 axes"));

    let opset = OperatorSetId { domain: "d".into(), version: 1 }.encode_to_vec();
    let opsets = [model(8, &[output]), field(8, opset).repeat(1024)].concat();
    assert!(problem(&opsets).contains("more than 1024 operator sets"));
}

#[test]
fn metadata_pairs_that_are_too_many_or_too_long_are_left_out() {
    let pair = |key: &str, length: usize| field(14, [field(1, key), field(2, vec![b'v'; length])].concat());
    let mut bytes = model(8, &[field(12, scalar("y"))]);
    bytes.extend(pair("tokenizer", 70_000));
    bytes.extend(pair("kept", 60_000));
    assert_eq!(read(&bytes).unwrap().metadata_props.len(), 1);
    bytes.extend(pair("more", 1).repeat(5_000));
    let props = read(&bytes).unwrap().metadata_props;
    assert_eq!((props.len(), props[0].0.as_str()), (1024, "kept"));
}

#[test]
fn a_file_of_countless_empty_fields_is_refused_early() {
    // Past what is read, a hole.
    const LENGTH: u64 = 200 * 1024 * 1024;
    for (tag, what) in [(5, "more than 16000000 nodes"), (1, "more than 16000000 nodes"), (11, "an input has no name")]
    {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let start = [number(1, 8), head(7, LENGTH)].concat();
        file.write_all(&start).unwrap();
        file.write_all(&head(tag, 0).repeat(16_200_000)).unwrap();
        file.as_file().set_len(start.len() as u64 + LENGTH).unwrap();
        let error = read_file(file.path()).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}

#[test]
fn weights_of_a_gigabyte_are_stepped_over() {
    const WEIGHTS: u64 = 1 << 30;
    let start = [number(1, 64 * 1024), number(1, 4 * 1024), number(2, 1), field(8, "w"), head(9, WEIGHTS)].concat();
    let end = [field(11, scalar("x")), field(12, scalar("y"))].concat();
    let weight = [head(5, start.len() as u64 + WEIGHTS), start].concat();
    let graph = head(7, weight.len() as u64 + WEIGHTS + end.len() as u64);
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&[number(1, 8), graph, weight].concat()).unwrap();
    // The weights are a hole, so that the file takes no room on the disk.
    file.seek(SeekFrom::Current(WEIGHTS.cast_signed())).unwrap();
    file.write_all(&end).unwrap();

    let metadata = read_file(file.path()).unwrap();
    assert_eq!(metadata.inputs, [tensor("x", 1, Some(vec![]))]);
    assert_eq!(metadata.outputs, [tensor("y", 1, Some(vec![]))]);

    let length = file.as_file().metadata().unwrap().len();
    file.as_file().set_len(length - 1).unwrap();
    assert!(read_file(file.path()).unwrap_err().to_string().contains("damaged or cut short"));
}

#[test]
fn a_file_that_cannot_be_opened_is_no_fault_of_the_model() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(read_file(&folder.path().join("none.onnx")), Err(MetadataError::Read(_))));
}

#[test]
fn a_model_cut_anywhere_is_an_error_or_complete() {
    let bytes = fs::read(repository("models/iris/1/model.onnx")).unwrap();
    let whole = read(&bytes).unwrap();
    for length in 0..bytes.len() {
        // Cut between the fields that follow the graph, all but the last operator sets are there.
        if let Ok(metadata) = read(&bytes[..length]) {
            assert_eq!((metadata.inputs, metadata.outputs), (whole.inputs.clone(), whole.outputs.clone()));
            assert!(metadata.opset.len() < whole.opset.len());
        }
    }
}

/// Steele, Lea and Flood's SplitMix64: the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

#[test]
fn damaged_models_and_noise_never_panic() {
    let seeds = [
        fs::read(repository("models/iris/1/model.onnx")).unwrap(),
        fs::read(host("tests/fixtures/models/iris/model-zipmap.onnx")).unwrap(),
        model(
            3,
            &[field(11, scalar("w")), field(5, weight("w")), field(15, field(1, weight("s"))), field(12, scalar("y"))],
        ),
    ];
    let mut random = Random(20_260_101);
    let mut refused = 0;
    for round in 0..100_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..=random.below(4) {
            let place = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[place] = random.next() as u8,
                1 => bytes[place] ^= 1 << random.below(8),
                2 => drop(bytes.remove(place)),
                _ => bytes.insert(place, random.next() as u8),
            }
        }
        refused += usize::from(read(&bytes).is_err());
    }
    assert!((10_000..100_000).contains(&refused), "{refused} of 100000 refused");
    for _ in 0..10_000 {
        let noise: Vec<u8> = (0..random.below(64)).map(|_| random.next() as u8).collect();
        assert!(read(&noise).is_err());
    }
}
