//! What a plugin hands to the host: tensors at odds with themselves, text that is none.

use super::*;

async fn preprocessed(act: &str) -> Result<Vec<Tensor>> {
    let plugin = shared_hostile().await;
    let mut instance = start(&plugin, &format!(r#"{{"do": {act}}}"#)).await?;
    preprocess(&mut instance, "{}").await
}

#[tokio::test]
async fn tensors_at_odds_with_themselves_are_refused() {
    for (act, reason) in [
        (r#""bad-shape""#, "takes 20 bytes, 16 came"),
        (r#""overflow-shape""#, "more elements than can be counted"),
        (r#""negative-shape""#, "more elements than can be counted"),
        (r#""zero-by-overflow""#, "more elements than can be counted"),
        (r#""unknown-datatype""#, "unknown datatype \"FFFFFFFF\""),
        (r#""bytes-truncated""#, "runs past the end of the data"),
    ] {
        let error = preprocessed(act).await.unwrap_err();
        assert_says(&error, ErrorCode::PluginFailed, &["plugin hostile@", "failed in preprocess", reason]);
    }
    assert_goes_on(&shared_hostile().await).await;
}

/// Whether they fit the model is not for the sandbox to say, and tested where the model is.
#[tokio::test]
async fn tensors_that_agree_with_themselves_are_taken() {
    let zero = preprocessed(r#""zero-size""#).await.unwrap();
    assert_eq!((zero[0].shape.as_slice(), zero[0].byte_size()), (&[0, 4][..], 0));
    assert_eq!(preprocessed(r#""wrong-datatype""#).await.unwrap()[0].datatype, DataType::Int32);
    assert_eq!(preprocessed(r#""wrong-name""#).await.unwrap()[0].name, "no-such-input");
    assert_eq!(preprocessed(r#""twice-tensor""#).await.unwrap().len(), 2);
    assert_eq!(preprocessed(r#""no-tensors""#).await.unwrap(), []);
    // Elements of a BYTES tensor are bytes, as the protocol has it.
    let bytes = preprocessed(r#""bytes-bad-utf8""#).await.unwrap();
    assert_eq!(bytes[0].to_wire(), b"\x02\0\0\0\xff\xfe"[..]);
}

/// What a plugin chose does not fill a message, or a log.
#[tokio::test]
async fn errors_about_large_names_are_short() {
    for act in [r#""huge-name", "count": 2000000"#, r#""unknown-datatype", "count": 2000000"#] {
        let error = preprocessed(act).await.unwrap_err();
        assert_says(&error, ErrorCode::PluginFailed, &["plugin hostile@", "failed in preprocess"]);
        assert!(error.message.len() < 10_000, "{} bytes", error.message.len());
    }
    assert_eq!(preprocessed(r#""huge-shape", "count": 100000"#).await.unwrap()[0].shape.len(), 100_000);
}

#[tokio::test]
async fn text_that_is_not_utf8_is_refused_where_text_is_due() {
    let plugin = shared_hostile().await;
    for (act, stage) in [
        ("bad-utf8", "preprocess"),
        ("bad-utf8", "postprocess"),
        ("bad-utf8-error", "init"),
        ("bad-utf8-error", "preprocess"),
        ("bad-utf8-error", "postprocess"),
        ("log-bad-utf8", "init"),
        ("log-bad-utf8", "preprocess"),
    ] {
        let error = serve(&plugin, &format!(r#"{{"do": "{act}", "stage": "{stage}"}}"#), "{}").await.unwrap_err();
        let parts = ["plugin hostile@", &format!("failed in {stage}"), "handed the host text that is not UTF-8"];
        assert_says(&error, ErrorCode::PluginFailed, &parts);
    }
    assert_goes_on(&plugin).await;
    // A body is bytes, whatever it says of itself; the host looks into it when it merges it into an answer.
    let response = serve(&plugin, r#"{"do": "bad-utf8-json", "stage": "postprocess"}"#, "{}").await.unwrap();
    assert!(serde_json::from_slice::<serde_json::Value>(&response.body).is_err());
}
