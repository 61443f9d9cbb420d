//! Any bytes as the body of an upload: its form, what it holds taken apart as the host takes it, and nothing left behind.
#![no_main]

use std::collections::BTreeMap;
use std::path::Path;

use axum::body::Body;
use axum::extract::Request;
use bytesize::ByteSize;
use libfuzzer_sys::fuzz_target;
use model_nexus::http::form::{DataSpec, FieldSpec, Form, FormSpec};
use model_nexus::model::{ArchiveLimits, CameAs, NewFiles, path_in_folder};

const LIMIT: ByteSize = ByteSize::kib(64);

fuzz_target!(|body: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let scratch = tempfile::tempdir().unwrap();
    runtime.block_on(upload(body, scratch.path()));
    assert!(std::fs::read_dir(scratch.path()).unwrap().next().is_none(), "something is left in the scratch folder");
});

async fn upload(body: &[u8], scratch: &Path) {
    let request = Request::post("/models/upload").header("content-type", "multipart/form-data; boundary=b");
    let request = request.body(Body::from(body.to_vec())).unwrap();
    let spec = FormSpec {
        file: FieldSpec { name: "file", limit: LIMIT, option: "" },
        data: Some(DataSpec { name: "data", most: 4, option: "" }),
        fields: &[FieldSpec::text("id"), FieldSpec::text("name"), FieldSpec::text("version")],
    };
    let Ok(mut form) = Form::from_request(request, scratch, spec).await else { return };
    let Ok(_) = form.text("id") else { return };
    let Some(file) = form.file else { return };
    let data = form.data.into_iter().filter_map(|part| Some((path_in_folder(&part.name?).ok()?, part.file)));
    let came = CameAs { file: file.file, data: data.collect::<BTreeMap<_, _>>() };
    let limits = ArchiveLimits { bytes: LIMIT.as_u64(), files: 16 };
    if let Ok(files) = NewFiles::of(came, scratch, limits) {
        assert!(files.total_bytes() <= LIMIT.as_u64());
    }
}
