//! Outputs a host must not believe: too large, or at odds with themselves or the model.

use nexus_guest::{Error, Response, Tensor};
use serde_json::{Map, Value};

use crate::Act;

/// What preprocess returns.
pub(crate) fn tensors(act: Act, count: Option<u64>, name: &str, features: [f32; 4]) -> Result<Vec<Tensor>, Error> {
    let good = Tensor::from_f32(name, [1, 4], features)?;
    let bytes = |data: &[u8]| Tensor { datatype: "BYTES".into(), shape: vec![1], data: data.to_vec(), ..good.clone() };
    Ok(match act {
        Act::HugeOutput => {
            let data = zeros(count.unwrap_or(3 << 30));
            vec![Tensor { shape: vec![1, data.len() as u64 / 4], data, ..good }]
        }
        Act::ManyTensors => vec![good; count.unwrap_or(1_000_000) as usize],
        Act::NoTensors => Vec::new(),
        Act::BadShape => vec![Tensor { shape: vec![1, 5], ..good }],
        Act::OverflowShape => vec![Tensor { shape: vec![u64::MAX, u64::MAX], ..good }],
        Act::NegativeShape => vec![Tensor { shape: vec![-1_i64 as u64, 4], ..good }],
        Act::ZeroSize => vec![Tensor { shape: vec![0, 4], data: Vec::new(), ..good }],
        Act::ZeroByOverflow => vec![Tensor { shape: vec![1 << 32, 1 << 32, 4], data: Vec::new(), ..good }],
        Act::HugeShape => {
            let mut shape = vec![1; count.unwrap_or(1_000_000) as usize];
            shape[0] = 4;
            vec![Tensor { shape, ..good }]
        }
        Act::HugeName => vec![Tensor { name: "x".repeat(count.unwrap_or(1 << 20) as usize), shape: vec![5], ..good }],
        Act::WrongName => vec![Tensor { name: "no-such-input".into(), ..good }],
        Act::BadUtf8 => vec![Tensor { name: not_utf8(), ..good }],
        Act::WrongDatatype => vec![Tensor { datatype: "INT32".into(), ..good }],
        Act::UnknownDatatype => vec![Tensor { datatype: "F".repeat(count.unwrap_or(8) as usize), ..good }],
        Act::BytesBadUtf8 => vec![bytes(b"\x02\0\0\0\xff\xfe")],
        Act::BytesTruncated => vec![bytes(b"\xff\xff\xff\xffabc")],
        Act::TwiceTensor => vec![good.clone(), good],
        Act::ExtraTensor => vec![good.clone(), Tensor { name: "no-such-input".into(), ..good }],
        _ => vec![good],
    })
}

/// What postprocess returns.
pub(crate) fn response(act: Act, count: Option<u64>, answer: &Map<String, Value>) -> Result<Response, Error> {
    Ok(match act {
        Act::HugeOutput => Response::new("application/octet-stream", zeros(count.unwrap_or(3 << 30))),
        Act::BadUtf8 => Response::new(not_utf8(), "text"),
        Act::BadUtf8Json => Response::new("application/json", *b"{\"ok\": \"\xff\xfe\"}"),
        Act::BrokenJson => Response::new("application/json", "{\"ok\": "),
        Act::JsonArray => Response::new("application/json", "[1, 2, 3]"),
        Act::OtherType => Response::new("text/plain; charset=utf-8", "hostile text 42"),
        _ => Response::json(answer)?,
    })
}

/// Text that is none, as a plugin in a language without checks could hand to the host.
#[allow(unsafe_code, reason = "breaking this promise is what the act is for")]
pub(crate) fn not_utf8() -> String {
    // SAFETY: none. Nothing here looks into the text; it is passed on as bytes and a length.
    unsafe { String::from_utf8_unchecked(vec![b'o', b'k', 0xff, 0xfe]) }
}

/// As many zeros as asked for, or as memory allows: half as many until they fit.
fn zeros(mut bytes: u64) -> Vec<u8> {
    loop {
        let mut zeros = Vec::new();
        if usize::try_from(bytes).is_ok_and(|bytes| zeros.try_reserve_exact(bytes).is_ok()) {
            zeros.resize(bytes as usize, 0);
            return zeros;
        }
        bytes /= 2;
    }
}
