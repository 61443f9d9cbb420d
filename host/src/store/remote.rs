//! Object stores by URL, with the patience that a host has with them.

use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreScheme, RetryConfig};
use url::Url;

type Opened = std::result::Result<(Box<dyn ObjectStore>, Path), Box<dyn std::error::Error + Send + Sync>>;

/// For how long a request is tried again. The library's own three minutes would keep a host from saying that its store is
/// gone.
const RETRY: Duration = Duration::from_secs(5);
/// Silence after which a request is given up. What is still moving takes as long as it takes: models have gigabytes.
const SILENCE: &str = "20s";
const CONNECT: &str = "3s";

/// Opens an object store. Options are named as its vendor names them, in lower case; one that it does not know is another
/// vendor's.
pub(super) fn open(url: &Url, options: Vec<(String, String)>) -> Opened {
    let (scheme, path) = ObjectStoreScheme::parse(url)?;
    let ours = [("connect_timeout", CONNECT), ("read_timeout", SILENCE), ("timeout", "1h")];
    let options = ours.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().chain(options);
    let retry = RetryConfig { retry_timeout: RETRY, ..RetryConfig::default() };
    macro_rules! build {
        ($builder:ty) => {{
            let builder = <$builder>::new().with_url(url.as_str()).with_retry(retry);
            let builder = options.fold(builder, |builder, (key, value)| match key.parse() {
                Ok(key) => builder.with_config(key, value),
                Err(_) => builder,
            });
            Box::new(builder.build()?)
        }};
    }
    let objects: Box<dyn ObjectStore> = match scheme {
        ObjectStoreScheme::AmazonS3 => build!(AmazonS3Builder),
        ObjectStoreScheme::GoogleCloudStorage => build!(GoogleCloudStorageBuilder),
        ObjectStoreScheme::MicrosoftAzure => build!(MicrosoftAzureBuilder),
        _ => return Err("expected a folder or a URL that begins with s3://, gs:// or az://".into()),
    };
    Ok((objects, path))
}
