//! A model of one operator that takes nothing and returns an empty sequence: ONNX Runtime's interface makes only others.

use prost::Message;

use super::proto::{ElementType, OperatorSetId, TensorType, TypeProto, TypeValue, ValueInfoProto};

/// The name of its one output.
pub const OUTPUT: &str = "empty";

#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(int64, tag = "1")]
    ir_version: i64,
    #[prost(message, optional, tag = "7")]
    graph: Option<Graph>,
    #[prost(message, repeated, tag = "8")]
    opset_import: Vec<OperatorSetId>,
}

#[derive(Clone, PartialEq, Message)]
struct Graph {
    #[prost(message, repeated, tag = "1")]
    node: Vec<Node>,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(message, repeated, tag = "12")]
    output: Vec<ValueInfoProto>,
}

#[derive(Clone, PartialEq, Message)]
struct Node {
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(int64, tag = "3")]
    integer: i64,
    #[prost(int32, tag = "20")]
    kind: i32,
}

/// `AttributeProto.INT`.
const INTEGER: i32 = 2;

/// The model, for tensors of that `TensorProto.DataType`.
pub fn model(datatype: i32) -> Vec<u8> {
    let item = TypeProto { value: Some(TypeValue::Tensor(TensorType { elem_type: datatype, shape: None })) };
    let sequence = TypeProto { value: Some(TypeValue::Sequence(ElementType { elem_type: Some(Box::new(item)) })) };
    let node = Node {
        output: vec![OUTPUT.to_owned()],
        op_type: "SequenceEmpty".to_owned(),
        attribute: vec![Attribute { name: "dtype".to_owned(), integer: i64::from(datatype), kind: INTEGER }],
    };
    let output = ValueInfoProto { name: OUTPUT.to_owned(), value_type: Some(sequence) };
    let graph = Graph { node: vec![node], name: OUTPUT.to_owned(), output: vec![output] };
    let opset_import = vec![OperatorSetId { domain: String::new(), version: 11 }];
    Model { ir_version: 6, graph: Some(graph), opset_import }.encode_to_vec()
}
