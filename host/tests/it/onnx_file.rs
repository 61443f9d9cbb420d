//! ONNX files made in the test, field by field, where no exporter's file shows the case.
//! Field numbers: `onnx.proto`.

/// A protobuf message under construction.
#[derive(Default, Clone)]
pub struct Message(Vec<u8>);

impl Message {
    /// What is there already, to add to.
    pub fn of(encoded: Vec<u8>) -> Message {
        Message(encoded)
    }

    pub fn varint(mut self, field: u64, value: u64) -> Message {
        self.push(field << 3);
        self.push(value);
        self
    }

    pub fn bytes(mut self, field: u64, value: impl AsRef<[u8]>) -> Message {
        let value = value.as_ref();
        self.push(field << 3 | 2);
        self.push(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    pub fn message(self, field: u64, value: Message) -> Message {
        self.bytes(field, value.0)
    }

    pub fn finish(self) -> Vec<u8> {
        self.0
    }

    fn push(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

/// A graph's input or output; an axis of -1 has any size, the same as all others of them.
pub fn value(name: &str, datatype: i32, shape: &[i64]) -> Message {
    let axes = shape.iter().map(|&size| {
        let axis = Message::default();
        if size < 0 { axis.bytes(2, "n") } else { axis.varint(1, size as u64) }
    });
    declared(name, datatype, axes)
}

/// A graph's input or output whose axes have any size, each by a name of its own.
pub fn open_value(name: &str, datatype: i32, axes: &[&str]) -> Message {
    declared(name, datatype, axes.iter().map(|axis| Message::default().bytes(2, axis)))
}

fn declared(name: &str, datatype: i32, axes: impl Iterator<Item = Message>) -> Message {
    let shape = axes.fold(Message::default(), |shape, axis| shape.message(1, axis));
    let tensor = Message::default().varint(1, datatype as u64).message(2, shape);
    Message::default().bytes(1, name).message(2, Message::default().message(1, tensor))
}

pub fn node(operator: &str, inputs: &[&str], outputs: &[&str]) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.bytes(1, input));
    outputs.iter().fold(node, |node, output| node.bytes(2, output)).bytes(4, operator)
}

/// An integer list attribute (`AttributeProto.INTS`).
pub fn ints(name: &str, values: &[i64]) -> Message {
    let attribute =
        values.iter().fold(Message::default().bytes(1, name), |attribute, &value| attribute.varint(8, value as u64));
    attribute.varint(20, 7)
}

/// An integer attribute (`AttributeProto.INT`).
pub fn int(name: &str, value: i64) -> Message {
    Message::default().bytes(1, name).varint(3, value as u64).varint(20, 2)
}

/// A float32 weight.
pub fn weight(name: &str, shape: &[i64], values: &[f32]) -> Message {
    let tensor = shape.iter().fold(Message::default(), |tensor, &size| tensor.varint(1, size as u64));
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor.varint(2, 1).bytes(8, name).bytes(9, data)
}

/// A float32 weight whose elements are in another file, as many bytes from `offset` on as its shape takes.
pub fn external_weight(name: &str, shape: &[i64], location: &str, offset: u64) -> Message {
    let tensor = shape.iter().fold(Message::default(), |tensor, &size| tensor.varint(1, size as u64));
    let pair = |key: &str, value: &str| Message::default().bytes(1, key).bytes(2, value);
    let length = 4 * shape.iter().product::<i64>();
    let tensor = tensor.varint(2, 1).bytes(8, name).message(13, pair("location", location));
    let tensor = tensor.message(13, pair("offset", &offset.to_string()));
    tensor.message(13, pair("length", &length.to_string())).varint(14, 1)
}

/// An int64 weight.
pub fn int_weight(name: &str, shape: &[i64], values: &[i64]) -> Message {
    let tensor = shape.iter().fold(Message::default(), |tensor, &size| tensor.varint(1, size as u64));
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor.varint(2, 7).bytes(8, name).bytes(9, data)
}

/// A model of IR 8, opset 17.
pub fn model(nodes: Vec<Message>, weights: Vec<Message>, inputs: Vec<Message>, outputs: Vec<Message>) -> Vec<u8> {
    let graph = nodes.into_iter().fold(Message::default(), |graph, node| graph.message(1, node)).bytes(2, "test");
    let graph = weights.into_iter().fold(graph, |graph, weight| graph.message(5, weight));
    let graph = inputs.into_iter().fold(graph, |graph, input| graph.message(11, input));
    let graph = outputs.into_iter().fold(graph, |graph, output| graph.message(12, output));
    Message::default().varint(1, 8).message(7, graph).message(8, Message::default().varint(2, 17)).finish()
}

/// A model that returns what it is given: `x` to `y`.
pub fn identity(datatype: i32, shape: &[i64]) -> Vec<u8> {
    let node = node("Identity", &["x"], &["y"]);
    model(vec![node], vec![], vec![value("x", datatype, shape)], vec![value("y", datatype, shape)])
}

/// A model of any number of rows, each of any length, as those of texts have: `x` to `y`.
pub fn rows_of_any_length() -> Vec<u8> {
    let [x, y] = ["x", "y"].map(|name| open_value(name, 1, &["batch", "length"]));
    model(vec![node("Identity", &["x"], &["y"])], vec![], vec![x], vec![y])
}

/// A model of an older format and opset that returns the two floats it is given.
pub fn old_identity(ir_version: u64, opset: u64) -> Vec<u8> {
    let graph = Message::default().message(1, node("Identity", &["x"], &["y"])).bytes(2, "old");
    let graph = graph.message(11, value("x", 1, &[2])).message(12, value("y", 1, &[2]));
    Message::default().varint(1, ir_version).message(7, graph).message(8, Message::default().varint(2, opset)).finish()
}

/// `sum` of `left` and `right`, float32 of any length.
pub fn add() -> Vec<u8> {
    let inputs = vec![value("left", 1, &[-1]), value("right", 1, &[-1])];
    model(vec![node("Add", &["left", "right"], &["sum"])], vec![], inputs, vec![value("sum", 1, &[-1])])
}

/// An image classifier in the form of efficientnet-lite4: `images:0` [1,224,224,3], `Softmax:0` [1,1000]. Its class
/// follows from the mean of each colour: red makes 1, green 2, blue 3.
pub fn nhwc_classifier(datatype: i32) -> Vec<u8> {
    let mut weights = vec![0.0; 3 * 1000];
    for colour in 0..3 {
        weights[colour * 1000 + colour + 1] = 10.0;
    }
    // ONNX number 1 is float, and `to` of Cast takes it.
    let nodes = vec![
        node("Cast", &["images:0"], &["pixels"]).message(5, int("to", 1)),
        node("ReduceMean", &["pixels"], &["means"]).message(5, ints("axes", &[1, 2])).message(5, int("keepdims", 0)),
        node("MatMul", &["means", "weights"], &["logits"]),
        node("Softmax", &["logits"], &["Softmax:0"]),
    ];
    let inputs = vec![value("images:0", datatype, &[1, 224, 224, 3])];
    model(nodes, vec![weight("weights", &[3, 1000], &weights)], inputs, vec![value("Softmax:0", 1, &[1, 1000])])
}

/// `y` = `x`, which has one element, with `one` added `trips` times, one by one.
pub fn counting_loop_node() -> Message {
    counting_from("x", &[1])
}

fn counting_from(start: &str, shape: &[i64]) -> Message {
    let body_nodes = [node("Identity", &["go"], &["go_on"]), node("Add", &["sum", "one"], &["next"])];
    let body = body_nodes.into_iter().fold(Message::default(), |graph, node| graph.message(1, node)).bytes(2, "body");
    let body = [value("trip", 7, &[]), value("go", 9, &[]), value("sum", 1, shape)]
        .into_iter()
        .fold(body, |graph, input| graph.message(11, input));
    let body = [value("go_on", 9, &[]), value("next", 1, shape)]
        .into_iter()
        .fold(body, |graph, output| graph.message(12, output));
    // 5 is `AttributeProto.GRAPH`.
    let attribute = Message::default().bytes(1, "body").message(6, body).varint(20, 5);
    node("Loop", &["trips", "", start], &["y"]).message(5, attribute)
}

/// `y` = `x` with 1 added `trips` times: as long a run as one likes.
pub fn counting_loop() -> Vec<u8> {
    let inputs = vec![value("trips", 7, &[]), value("x", 1, &[1])];
    model(vec![counting_loop_node()], vec![weight("one", &[1], &[1.0])], inputs, vec![value("y", 1, &[1])])
}

/// A row of a table for each number, and 1 added to it: row `n` is `2 * n` and `2 * n + 1`. With [`ENDLESS_ROW`] among the
/// numbers a run has no end, and past it is a number that no run can do anything with.
pub fn table_with_an_endless_row() -> Vec<u8> {
    let table: Vec<f32> = (0..=ENDLESS_ROW).flat_map(|row| [2.0 * row as f32, 2.0 * row as f32 + 1.0]).collect();
    let mut trips = vec![1; ENDLESS_ROW as usize + 1];
    trips[ENDLESS_ROW as usize] = 1 << 60;
    let rows = ENDLESS_ROW + 1;
    let weights =
        vec![weight("table", &[rows, 2], &table), int_weight("all_trips", &[rows], &trips), weight("one", &[], &[1.0])];
    let nodes = vec![
        node("ReduceMax", &["index"], &["largest"]).message(5, int("keepdims", 0)),
        node("Gather", &["all_trips", "largest"], &["trips"]),
        node("Gather", &["table", "index"], &["rows"]),
        counting_from("rows", &[-1, 2]),
    ];
    model(nodes, weights, vec![value("index", 7, &[-1])], vec![value("y", 1, &[-1, 2])])
}

pub const ENDLESS_ROW: i64 = 4;
