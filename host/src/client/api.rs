//! The host's REST interface, as the commands call it.

use std::time::Duration;

use reqwest::multipart::Form;
use reqwest::{Body, Client, Method, RequestBuilder, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::HostOptions;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the host may say nothing while it sends an answer.
const SILENCE: Duration = Duration::from_secs(60);
/// Most of an answer that is no JSON, a proxy's page most likely, which a message passes on.
const FOREIGN_TEXT_CHARS: usize = 300;

/// A host to ask.
pub(super) struct Api {
    client: Client,
    /// For answers that come when the host is done with an upload: it says nothing until then.
    patient: Client,
    url: Url,
}

/// Why a call did not do what it was for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    #[error("no answer from {url}: {cause}")]
    Unreachable { url: Url, cause: String },
    #[error("{url} broke off its answer: {cause}")]
    BrokeOff { url: Url, cause: String },
    #[error("{message} (HTTP {status})")]
    Refused { status: u16, message: String },
    #[error("{url} answers in a form that this program does not know, is it a model-nexus host?: {cause}")]
    Unknown { url: Url, cause: String },
}

type Result<T> = std::result::Result<T, ApiError>;

/// `GET /models`.
#[derive(Deserialize)]
struct Listing {
    models: Vec<Listed>,
}

/// One version that the host knows.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Listed {
    pub id: String,
    pub version: String,
}

/// `GET /models/info?id=`, as far as it tells of all versions.
#[derive(Deserialize)]
struct Info<T> {
    versions: Vec<T>,
}

/// `GET /models/{id}/versions/{version}/files`.
#[derive(Deserialize)]
struct Files {
    files: Vec<RemoteFile>,
}

/// One file of a version.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct RemoteFile {
    /// Relative to the version's folder.
    pub path: String,
    /// Bytes.
    pub size: u64,
    pub sha256: String,
}

impl From<ApiError> for String {
    fn from(error: ApiError) -> String {
        error.to_string()
    }
}

impl Api {
    pub(super) fn new(options: &HostOptions) -> std::result::Result<Api, String> {
        if options.url.cannot_be_a_base() || !matches!(options.url.scheme(), "http" | "https") {
            return Err(format!("--url {}: expected http://HOST:PORT or https://HOST", options.url));
        }
        let client = || Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT);
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|error| error.to_string());
        Ok(Api { client: build(client().read_timeout(SILENCE))?, patient: build(client())?, url: options.url.clone() })
    }

    /// Every version that the host knows.
    pub(super) async fn versions(&self) -> Result<Vec<Listed>> {
        let listing: Listing = self.json(self.client.request(Method::GET, self.address(&["models"]))).await?;
        Ok(listing.models)
    }

    /// What the host says of each version of a model.
    pub(super) async fn info<T: DeserializeOwned>(&self, id: &str) -> Result<Vec<T>> {
        let mut url = self.address(&["models", "info"]);
        url.query_pairs_mut().append_pair("id", id);
        let info: Info<T> = self.json(self.client.get(url)).await?;
        Ok(info.versions)
    }

    pub(super) async fn files(&self, id: &str, version: &str) -> Result<Vec<RemoteFile>> {
        let files: Files =
            self.json(self.client.get(self.address(&["models", id, "versions", version, "files"]))).await?;
        Ok(files.files)
    }

    /// The content of one file, as it comes.
    pub(super) async fn download(&self, id: &str, version: &str, path: &str) -> Result<Response> {
        let start = ["models", id, "versions", version, "files"];
        let segments: Vec<&str> = start.into_iter().chain(path.split('/')).collect();
        self.send(self.client.get(self.address(&segments))).await
    }

    pub(super) async fn upload(&self, form: Form) -> Result<Value> {
        self.json(self.patient.post(self.address(&["models", "upload"])).multipart(form)).await
    }

    /// Sends a file of rows through a model; the answer comes while it is being sent.
    pub(super) async fn batch(
        &self,
        id: &str,
        query: &[(&str, &str)],
        types: [&str; 2],
        rows: Body,
    ) -> Result<Response> {
        let mut url = self.address(&["models", id, "batch"]);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let [given, wanted] = types;
        let request = self.patient.post(url).header("content-type", given).header("accept", wanted);
        // Behind the answers comes how many there were.
        self.send(request.header("te", "trailers").body(rows)).await
    }

    /// Removes a model, or one version of it.
    pub(super) async fn remove(&self, id: &str, version: Option<&str>) -> Result<Value> {
        let mut segments = vec!["models", id];
        segments.extend(version.into_iter().flat_map(|version| ["versions", version]));
        self.json(self.client.delete(self.address(&segments))).await
    }

    /// The body of an answer broke off, or has another form than expected.
    pub(super) fn broken(&self, error: &reqwest::Error) -> ApiError {
        let cause = causes(error);
        let url = self.url.clone();
        if is_other_form(error) { ApiError::Unknown { url, cause } } else { ApiError::BrokeOff { url, cause } }
    }

    /// A path below the host's URL, which may have one of its own.
    fn address(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        self.send(request).await?.json().await.map_err(|error| self.broken(&error))
    }

    /// The answer, where it is a success.
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let unreachable =
            |error: reqwest::Error| ApiError::Unreachable { url: self.url.clone(), cause: causes(&error) };
        let response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.map_err(|error| self.broken(&error))?;
        let json: Option<Value> = serde_json::from_str(&text).ok();
        let message = json.as_ref().and_then(|json| json["error"].as_str()).map(str::to_owned);
        let message = message.unwrap_or_else(|| {
            format!("{}: {}", self.url, text.trim().chars().take(FOREIGN_TEXT_CHARS).collect::<String>())
        });
        Err(ApiError::Refused { status: status.as_u16(), message })
    }
}

/// Whether an answer came whole, and is not the JSON that was expected.
fn is_other_form(error: &reqwest::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.is::<serde_json::Error>())
}

/// What went wrong, down to its root: the outermost of these errors only says that a request failed.
fn causes(error: &reqwest::Error) -> String {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    if causes.is_empty() { error.to_string() } else { causes.join(": ") }
}
