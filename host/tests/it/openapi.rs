//! `/openapi.json` says what the host does: its paths are the routes', its examples work, and answers are as it describes them.

use std::collections::BTreeSet;

use reqwest::multipart::{Form, Part};
use serde_json::{Value, json};

use crate::support::{Host, answer, bundle, error_message, fixture, iris, repository_root};

const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

/// One method of one path.
struct Operation<'d> {
    document: &'d Value,
    path: &'d str,
    method: &'d str,
    parameters: Vec<&'d Value>,
    described: &'d Value,
}

fn resolve<'d>(document: &'d Value, value: &'d Value) -> &'d Value {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(&reference[1..]).unwrap_or_else(|| panic!("{reference} leads nowhere")),
        None => value,
    }
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, described) in item.as_object().unwrap().iter().filter(|(name, _)| METHODS.contains(&name.as_str()))
        {
            let own = described["parameters"].as_array().into_iter().chain(item["parameters"].as_array()).flatten();
            let parameters = own.map(|parameter| resolve(document, parameter)).collect();
            operations.push(Operation { document, path, method, parameters, described });
        }
    }
    operations
}

async fn document(host: &Host) -> Value {
    let (status, document) = answer(host.get("/openapi.json").await).await;
    assert_eq!(status, 200);
    document
}

/// Every (method, path) of `routes.rs`, paths as the document writes them.
fn routes() -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(repository_root().join("host/src/routes.rs")).unwrap();
    let mut routes = BTreeSet::new();
    for route in text.split(".route(").skip(1) {
        let (path, handlers) = route.trim_start().strip_prefix('"').unwrap().split_once('"').unwrap();
        for method in METHODS.into_iter().filter(|method| handlers.contains(&format!("{method}(http::"))) {
            routes.insert((method.to_owned(), path.replace("{*", "{")));
        }
    }
    routes
}

#[tokio::test]
async fn document_and_routes_name_the_same_paths_and_methods() {
    let (host, _store) = Host::with_iris(&[]).await;
    let document = document(&host).await;
    assert_eq!(document["info"]["version"], env!("CARGO_PKG_VERSION"));
    let operations = operations(&document);
    let described = operations.iter().map(|operation| (operation.method.to_owned(), operation.path.to_owned()));
    let (described, routes) = (described.collect::<BTreeSet<_>>(), routes());
    assert!(routes.len() > 30, "{routes:?}");
    let only_in =
        |one: &BTreeSet<_>, other: &BTreeSet<_>| one.difference(other).cloned().collect::<Vec<(String, String)>>();
    assert!(described.is_subset(&routes), "not routed: {:?}", only_in(&described, &routes));
    assert!(routes.is_subset(&described), "not described: {:?}", only_in(&routes, &described));
    let ids: BTreeSet<_> = operations.iter().map(|operation| operation.described["operationId"].as_str()).collect();
    assert_eq!(ids.len(), operations.len(), "an operationId is missing or comes twice");
}

/// Every `$ref` below a value.
fn references(value: &Value, found: &mut BTreeSet<String>) {
    if let Some(reference) = value["$ref"].as_str() {
        found.insert(reference.to_owned());
    }
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(fields) => fields.values().for_each(|field| references(field, found)),
        _ => {}
    }
}

#[tokio::test]
async fn the_document_is_whole() {
    let (host, _store) = Host::with_iris(&[]).await;
    let document = document(&host).await;
    let mut used = BTreeSet::new();
    references(&document, &mut used);
    let components = document["components"].as_object().unwrap();
    let there = components
        .iter()
        .flat_map(|(kind, all)| all.as_object().unwrap().keys().map(move |name| format!("#/components/{kind}/{name}")));
    assert_eq!(used, there.collect(), "what is referred to, and what is there");
    for operation in operations(&document) {
        let name = format!("{} {}", operation.method, operation.path);
        let in_path = operation.parameters.iter().filter(|parameter| parameter["in"] == "path");
        let in_path: BTreeSet<_> =
            in_path.map(|parameter| format!("{{{}}}", parameter["name"].as_str().unwrap())).collect();
        let named: BTreeSet<_> =
            operation.path.split('/').filter(|part| part.starts_with('{')).map(str::to_owned).collect();
        assert_eq!(in_path, named, "{name}");
        assert!(operation.described["summary"].is_string(), "{name} has no summary");
    }
}

/// A body that an example stands for.
enum Body {
    None,
    Json(Value),
    Form(Value),
    /// Of this media type.
    Text(String, String),
}

impl Operation<'_> {
    /// The bodies of all examples; an operation without a body has one that is none.
    fn bodies(&self) -> Vec<Body> {
        let Some(content) = self.described["requestBody"]["content"].as_object() else { return vec![Body::None] };
        let mut bodies = Vec::new();
        for (media, kind) in content {
            for example in kind["examples"].as_object().into_iter().flat_map(|examples| examples.values()) {
                let value = resolve(self.document, example)["value"].clone();
                match media.as_str() {
                    "application/json" => bodies.push(Body::Json(value)),
                    "multipart/form-data" => bodies.push(Body::Form(value)),
                    other => bodies.push(Body::Text(other.to_owned(), value.as_str().unwrap().to_owned())),
                }
            }
        }
        bodies
    }

    /// The path and query with each parameter's example.
    fn address(&self) -> String {
        let (mut path, mut query) = (self.path.to_owned(), Vec::new());
        for parameter in &self.parameters {
            let name = parameter["name"].as_str().unwrap();
            match (parameter["in"].as_str().unwrap(), parameter["example"].as_str()) {
                ("path", example) => path = path.replace(&format!("{{{name}}}"), example.unwrap()),
                ("query", Some(example)) => query.push(format!("{name}={example}")),
                (_, None) => assert_ne!(parameter["required"], true, "{path}: {name} has no example"),
                _ => {}
            }
        }
        format!("{path}?{}", query.join("&"))
    }

    async fn send(&self, host: &Host, body: &Body) -> reqwest::Response {
        let method = self.method.to_uppercase().parse().unwrap();
        let request = host.client.request(method, format!("{}{}", host.url, self.address()));
        let request = match body {
            Body::None => request,
            Body::Json(value) => request.json(value),
            Body::Text(media, text) => request.header("content-type", media).body(text.clone()),
            Body::Form(fields) => request.multipart(with_files(self.path, fields)),
        };
        request.send().await.unwrap()
    }

    /// Checks an answer against the one that is described for its status.
    async fn check(&self, response: reqwest::Response) -> Value {
        let name = format!("{} {}", self.method, self.path);
        let status = response.status().as_u16();
        let described = &self.described["responses"][status.to_string()];
        let headers = response.headers().clone();
        let text = response.text().await.unwrap();
        assert!(!described.is_null(), "{name}: {status} is not described: {text}");
        let described = resolve(self.document, described);
        for (header, about) in described["headers"].as_object().into_iter().flatten() {
            let is_required = resolve(self.document, about)["required"] == true;
            assert!(!is_required || headers.contains_key(header), "{name}: {status} without {header}");
        }
        let media = headers["content-type"].to_str().unwrap().split(';').next().unwrap();
        let kind = &described["content"][media];
        assert!(!kind.is_null(), "{name}: {status} came as {media}");
        if media != "application/json" {
            return Value::Null;
        }
        let answer = serde_json::from_str(&text).unwrap();
        let mut schema = kind["schema"].clone();
        schema["components"] = self.document["components"].clone();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let problems: Vec<String> =
            validator.iter_errors(&answer).map(|error| format!("{}: {error}", error.instance_path())).collect();
        assert_eq!(problems, Vec::<String>::new(), "{name}: {status} is not as described: {answer}");
        answer
    }
}

/// A form's files cannot stand in the document.
fn with_files(path: &str, fields: &Value) -> Form {
    let file = |file: std::path::PathBuf| {
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        Part::bytes(std::fs::read(&file).unwrap()).file_name(name)
    };
    let bundled = |file: &str| repository_root().join("models/efficientnet-lite0/1").join(file);
    let mut form = match path {
        "/models/upload" => Form::new().part("file", file(fixture("models/digits/mlp.onnx"))),
        "/plugins/upload" => Form::new().part("file", file(fixture("plugins/contract-0.1.0.wasm"))),
        "/upload" => {
            Form::new().part("model", file(bundled("model.onnx"))).part("labels", file(bundled("labels.json")))
        }
        "/predict" => Form::new().part("image", file(fixture("images/cat.jpg"))),
        other => panic!("{other} takes a form: which files?"),
    };
    for (name, value) in fields.as_object().unwrap() {
        form = form.text(name.clone(), value.as_str().unwrap().to_owned());
    }
    form
}

/// A host that has what the examples speak of.
async fn host_of_the_examples() -> (Host, tempfile::TempDir) {
    let store = tempfile::tempdir().unwrap();
    let host = Host::start(store.path(), &["--bundle", &bundle()]).await;
    let (status, uploaded) = host.upload("iris", "2", iris()).await;
    assert_eq!(status, 201, "{uploaded}");
    (host, store)
}

#[tokio::test]
async fn every_example_works_and_is_answered_as_described() {
    let (host, _store) = host_of_the_examples().await;
    let document = document(&host).await;
    // What removes comes last, and what was described first goes last.
    let (removing, others): (Vec<_>, Vec<_>) =
        operations(&document).into_iter().partition(|operation| operation.method == "delete");
    for operation in others.iter().chain(removing.iter().rev()) {
        let bodies = operation.bodies();
        assert!(!bodies.is_empty(), "{} {} has no example", operation.method, operation.path);
        for body in &bodies {
            let response = operation.send(&host, body).await;
            let status = response.status();
            let answer = operation.check(response).await;
            assert!(status.is_success(), "{} {}: {status} {answer}", operation.method, operation.path);
        }
    }
}

#[tokio::test]
async fn refusals_are_answered_as_described() {
    let (host, _store) = Host::with_iris(&[]).await;
    let document = document(&host).await;
    for operation in operations(&document) {
        let named =
            operation.parameters.iter().any(|parameter| parameter["in"] == "path" && parameter["name"] != "file");
        if named {
            let path = operation.path.replace("{id}", "lily").replace("{model}", "lily");
            let path = path.replace("{version}", "1").replace("{path}", "model.onnx");
            let method = operation.method.to_uppercase().parse().unwrap();
            let request = host.client.request(method, format!("{}{path}", host.url)).json(&json!({ "inputs": [] }));
            let response = request.send().await.unwrap();
            // Unloading what is not there is no error to the Open Inference Protocol.
            let is_fine = response.status().is_client_error() || path.ends_with("/lily/unload");
            assert!(is_fine, "{} {path}: {}", operation.method, response.status());
            operation.check(response).await;
        }
        if !operation.described["requestBody"].is_null() {
            let method = operation.method.to_uppercase().parse().unwrap();
            let request = host.client.request(method, format!("{}{}", host.url, operation.address()));
            let response = request.header("content-type", "application/json").body("{").send().await.unwrap();
            assert!(
                response.status().is_client_error(),
                "{} {}: {}",
                operation.method,
                operation.path,
                response.status()
            );
            operation.check(response).await;
        }
    }
    host.assert_serves().await;
}

#[tokio::test]
async fn a_list_is_not_taken_for_the_fields_of_an_object() {
    let (host, _store) = Host::with_iris(&[]).await;
    for (path, list) in [("pipeline", json!([null, null])), ("pipeline", json!([])), ("traffic", json!(["1", {}]))] {
        let request = host.client.put(format!("{}/models/iris/{path}", host.url)).json(&list);
        let (status, refused) = answer(request.send().await.unwrap()).await;
        assert_eq!(status, 400, "{list}: {refused}");
        assert!(error_message(&refused).contains("it is a list"), "{refused}");
    }
}

#[tokio::test]
async fn a_query_that_is_not_readable_is_refused_as_everything_is() {
    let (host, _store) = Host::with_iris(&[]).await;
    let request = host.client.post(format!("{}/models/iris/batch?header=maybe", host.url));
    let (status, refused) =
        answer(request.header("content-type", "text/csv").body("1,2,3,4").send().await.unwrap()).await;
    assert_eq!(status, 400, "{refused}");
    assert!(error_message(&refused).contains("header"), "{refused}");
}

#[tokio::test]
async fn a_path_that_is_not_utf8_is_refused_as_everything_is() {
    let (host, _store) = Host::with_iris(&[]).await;
    for path in ["/models/%FF/traffic", "/v2/models/%C3/ready", "/ui/%80"] {
        let (status, refused) = answer(host.get(path).await).await;
        assert_eq!(status, 400, "{path}: {refused}");
        assert!(error_message(&refused).contains("UTF-8"), "{refused}");
    }
}
