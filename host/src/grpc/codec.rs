//! How messages are read: by prost, once it is known that what a large one becomes in memory is no more than it may.
//!
//! A message is as large as `--max-body-bytes` allows, and may be of nothing but empty inputs: two bytes each on the wire,
//! and some hundred in memory.

use std::any::TypeId;
use std::marker::PhantomData;

use bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use prost::{DecodeError, Message};
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, DecodeBuf, Decoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

use super::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::proto::{InferParameter, ModelInferRequest, ModelRepositoryParameter, RepositoryModelLoadRequest};
use crate::error::{Error, ErrorCode};

/// Bytes of memory for each byte of a message: as many as the smallest integers on the wire become as INT64.
const EACH_BYTE: usize = 8;
/// Bytes of memory that a message may take beside: a sequence of tens of thousands of tensors needs them.
const BESIDE: usize = 32 << 20;
/// A message of fewer bytes cannot become more than that, whatever it holds, and is not looked at.
const SMALL: usize = BESIDE / size_of::<InferInputTensor>();

/// What `tonic_prost::ProstCodec` is, but that it measures what it reads.
pub(super) struct MeasuringCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MeasuringCodec<T, U> {
    fn default() -> MeasuringCodec<T, U> {
        MeasuringCodec(PhantomData)
    }
}

impl<T: Message + 'static, U: Message + Default + 'static> Codec for MeasuringCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = MeasuringDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> MeasuringDecoder<U> {
        MeasuringDecoder(ProstDecoder::default())
    }
}

pub(super) struct MeasuringDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default + 'static> Decoder for MeasuringDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        // All of the message lies in one piece.
        check(bytes::Buf::chunk(source), fields_of::<U>())?;
        self.0.decode(source)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// A field that may come any number of times.
struct Field {
    number: u32,
    /// Bytes of memory that each takes, beside what it holds.
    each: usize,
    of: Of,
}

/// What a field holds. Numbers may come many together.
enum Of {
    Bytes,
    Varints,
    /// Numbers of so many bytes on the wire.
    Fixed(usize),
    Message(&'static [Field]),
}

impl Field {
    const fn new<T>(number: u32, of: Of) -> Field {
        Field { number, each: size_of::<T>(), of }
    }

    /// A field that comes once is part of what it is in.
    const fn once(number: u32, fields: &'static [Field]) -> Field {
        Field { number, each: 0, of: Of::Message(fields) }
    }
}

// The numbers are those of `proto/open_inference.proto`. What comes once takes what it took on the wire, and is left out.
static INFER: [Field; 4] = [
    Field::new::<(String, InferParameter)>(4, Of::Bytes),
    Field::new::<InferInputTensor>(5, Of::Message(&INPUT)),
    Field::new::<InferRequestedOutputTensor>(6, Of::Message(&OUTPUT)),
    Field::new::<Bytes>(7, Of::Bytes),
];
static INPUT: [Field; 3] = [
    Field::new::<i64>(3, Of::Varints),
    Field::new::<(String, InferParameter)>(4, Of::Bytes),
    Field::once(5, &CONTENTS),
];
static CONTENTS: [Field; 8] = [
    Field::new::<bool>(1, Of::Varints),
    Field::new::<i32>(2, Of::Varints),
    Field::new::<i64>(3, Of::Varints),
    Field::new::<u32>(4, Of::Varints),
    Field::new::<u64>(5, Of::Varints),
    Field::new::<f32>(6, Of::Fixed(4)),
    Field::new::<f64>(7, Of::Fixed(8)),
    Field::new::<Bytes>(8, Of::Bytes),
];
static OUTPUT: [Field; 1] = [Field::new::<(String, InferParameter)>(2, Of::Bytes)];
static LOAD: [Field; 1] = [Field::new::<(String, ModelRepositoryParameter)>(3, Of::Bytes)];

/// The fields of a message that may be large. What the host itself says, and what its small calls take, is not measured.
fn fields_of<U: 'static>() -> &'static [Field] {
    let message = TypeId::of::<U>();
    if message == TypeId::of::<ModelInferRequest>() {
        &INFER
    } else if message == TypeId::of::<RepositoryModelLoadRequest>() {
        &LOAD
    } else {
        &[]
    }
}

/// Why a message is not read.
enum Refused {
    /// It is none, and why.
    Unreadable(String),
    TooMuch,
}

impl From<DecodeError> for Refused {
    fn from(error: DecodeError) -> Refused {
        Refused::Unreadable(error.to_string())
    }
}

fn check(message: &[u8], fields: &[Field]) -> Result<(), Error> {
    if fields.is_empty() || message.len() <= SMALL {
        return Ok(());
    }
    let mut room = message.len().saturating_mul(EACH_BYTE).saturating_add(BESIDE);
    measure(message, fields, &mut room).map_err(|refused| match refused {
        // Not left to prost, which reads on past a part's end before it notices.
        Refused::Unreadable(problem) => Error::invalid_input(format!("the body is not readable: {problem}")),
        Refused::TooMuch => {
            let (bytes, beside) = (message.len(), BESIDE >> 20);
            let message = format!(
                "the message of {bytes} bytes is of so many small parts that it would take more memory than {EACH_BYTE} times \
                 its size and {beside} MiB; send fewer tensors in one message, and their elements in `raw_input_contents`"
            );
            Error::new(ErrorCode::TooLarge, message)
        }
    })
}

/// Takes from `room` what the fields of a message will take of memory.
fn measure(mut message: &[u8], fields: &[Field], room: &mut usize) -> Result<(), Refused> {
    while !message.is_empty() {
        let (number, wire_type) = decode_key(&mut message)?;
        let field = fields.iter().find(|field| field.number == number);
        let Some(field) = field.filter(|_| wire_type == WireType::LengthDelimited) else {
            skip_field(wire_type, number, &mut message, DecodeContext::default())?;
            // A number that comes by itself.
            take(room, 1, field.map_or(0, |field| field.each))?;
            continue;
        };
        let length = decode_varint(&mut message)?;
        let (content, rest) = usize::try_from(length)
            .ok()
            .and_then(|length| message.split_at_checked(length))
            .ok_or_else(|| Refused::Unreadable(format!("it ends amid a field of {length} bytes")))?;
        message = rest;
        let count = match field.of {
            Of::Bytes | Of::Message(_) => 1,
            // The last byte of each is below 128.
            Of::Varints => content.iter().filter(|byte| **byte < 0x80).count(),
            Of::Fixed(size) => content.len() / size,
        };
        take(room, count, field.each)?;
        if let Of::Message(fields) = field.of {
            measure(content, fields, room)?;
        }
    }
    Ok(())
}

fn take(room: &mut usize, count: usize, each: usize) -> Result<(), Refused> {
    *room = count.checked_mul(each).and_then(|bytes| room.checked_sub(bytes)).ok_or(Refused::TooMuch)?;
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::grpc::proto::InferTensorContents;

    fn refused(message: &[u8]) -> Option<ErrorCode> {
        check(message, &INFER).err().map(|error| error.code)
    }

    /// A field that holds other fields, behind its key.
    fn part(key: u8, content: &[u8]) -> Vec<u8> {
        let mut part = vec![key];
        prost::encode_length_delimiter(content.len(), &mut part).unwrap();
        part.extend_from_slice(content);
        part
    }

    fn request(input: InferInputTensor) -> Vec<u8> {
        ModelInferRequest { inputs: vec![input], ..ModelInferRequest::default() }.encode_to_vec()
    }

    #[test]
    fn what_would_be_many_times_its_size_in_memory_is_refused() {
        let inputs = [0x2a, 0].repeat(1_000_000);
        let outputs = [0x32, 0].repeat(1_000_000);
        let raw_contents = [0x3a, 0].repeat(4_000_000);
        let parameters_of_an_input = part(0x2a, &[0x22, 0].repeat(2_000_000));
        let texts_of_an_input = part(0x2a, &part(0x2a, &[0x42, 0].repeat(8_000_000)));
        for message in [inputs, outputs, raw_contents, parameters_of_an_input, texts_of_an_input] {
            assert_eq!(refused(&message), Some(ErrorCode::TooLarge), "{:x?}", &message[..12]);
        }
    }

    #[test]
    fn tensors_of_any_datatype_and_long_sequences_are_taken() {
        let contents = InferTensorContents::default;
        let count = 1_000_000;
        for contents in [
            InferTensorContents { bool_contents: vec![true; count], ..contents() },
            InferTensorContents { int_contents: vec![1; count], ..contents() },
            InferTensorContents { int64_contents: vec![1; count], ..contents() },
            InferTensorContents { uint_contents: vec![1; count], ..contents() },
            InferTensorContents { uint64_contents: vec![1; count], ..contents() },
            InferTensorContents { fp32_contents: vec![1.0; count], ..contents() },
            InferTensorContents { fp64_contents: vec![1.0; count], ..contents() },
            InferTensorContents { bytes_contents: vec![Bytes::from_static(b"word"); count], ..contents() },
        ] {
            let shape = vec![count as i64];
            let input = InferInputTensor { shape, contents: Some(contents), ..InferInputTensor::default() };
            assert_eq!(refused(&request(input)), None);
        }
        let item = |index: usize| InferInputTensor {
            name: format!("x.{index}"),
            datatype: "FP32".to_owned(),
            shape: vec![1],
            ..InferInputTensor::default()
        };
        let items = ModelInferRequest {
            inputs: (0..50_000).map(item).collect(),
            raw_input_contents: vec![Bytes::from_static(&[0; 4]); 50_000],
            ..ModelInferRequest::default()
        };
        assert_eq!(refused(&items.encode_to_vec()), None);
    }

    #[test]
    fn a_message_that_is_not_looked_at_is_no_more_than_it_may_be() {
        let all = [&INFER[..], &INPUT, &CONTENTS, &OUTPUT, &LOAD].into_iter().flatten();
        for field in all {
            // Packed numbers have a byte each, everything else two.
            let each = if matches!(field.of, Of::Varints) { field.each * 2 } else { field.each };
            assert!(each <= size_of::<InferInputTensor>(), "{}", field.number);
        }
    }

    #[test]
    fn a_part_that_ends_past_what_it_is_in_is_not_read_on() {
        // An input of three bytes, whose contents say that they go on for megabytes.
        let mut message = vec![0x2a, 3, 0x2a, 0x80, 0x80];
        message.extend([0x42, 0].repeat(SMALL));
        assert_eq!(refused(&message), Some(ErrorCode::InvalidInput));
        assert_eq!(refused(&[0xff; SMALL + 1]), Some(ErrorCode::InvalidInput));
        // A group, which no field is, is passed over, and what follows it counts.
        let mut message = vec![0x7b, 0x7c];
        message.extend([0x2a, 0].repeat(1_000_000));
        assert_eq!(refused(&message), Some(ErrorCode::TooLarge));
    }
}
