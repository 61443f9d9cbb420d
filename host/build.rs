//! Turns `proto/` into Rust, without protoc: messages, the service, and the descriptors that reflection answers with.

use std::error::Error;
use std::path::PathBuf;

use protox::prost::Message;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/open_inference.proto"], ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("open_inference.bin"), descriptors.encode_to_vec())?;
    // Tensors are slices of the message they came in, and go out as they are.
    let builder = tonic_prost_build::configure().bytes(".").codec_path("crate::grpc::codec::MeasuringCodec");
    builder.compile_fds(descriptors)?;
    Ok(())
}
