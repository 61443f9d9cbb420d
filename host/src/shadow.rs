//! Shadow traffic: a version gets a copy of a request, and its answer is recorded and goes to nobody.

use std::sync::Arc;
use std::time::Instant;

use tracing::Instrument;

use crate::app::App;
use crate::error::{Error, ErrorCode, Result};
use crate::model::Entry;
use crate::pipeline::{self, Answer, Payload, Trace};
use crate::predict::{check_payload, record};
use crate::terms::Terms;
use crate::value::Value;

/// Sends a copy on its way. `real` is what the client was answered, `None` where that was an error.
pub fn send(app: &Arc<App>, shadow: Entry, payload: Payload, real: Option<Arc<Answer>>) {
    // A version on trial takes no place from one that serves: neither in memory nor among the copies under way.
    let is_ready =
        || app.models.registry.find(&shadow.id, Some(&shadow.version)).is_ok_and(|known| known.ready().is_some());
    let has_place = is_ready() || app.models.has_room_for(&shadow);
    let Some(permit) = app.admit_shadow().filter(|_| has_place) else {
        app.metrics.shadow_predictions.with_label_values(&[&shadow.id, &shadow.version, "dropped"]).inc();
        return;
    };
    let app = Arc::clone(app);
    let work = async move {
        let started = Instant::now();
        let answered = answer(&app, &shadow, payload).await;
        let labels = [shadow.id.as_str(), shadow.version.as_str()];
        app.metrics.shadow_duration.with_label_values(&labels).observe(started.elapsed().as_secs_f64());
        let outcome = answered.as_ref().map_or_else(|error| error.code.name(), |_| "ok");
        app.metrics.shadow_predictions.with_label_values(&[labels[0], labels[1], outcome]).inc();
        let same = answered.as_ref().ok().zip(real.as_deref()).map(|(shadow, real)| is_same(shadow, real));
        if let Some(same) = same {
            let same = if same { "same" } else { "different" };
            app.metrics.shadow_answers.with_label_values(&[labels[0], labels[1], same]).inc();
        }
        let latency_ms = started.elapsed().as_micros() as f64 / 1e3;
        let error = answered.err().map(|error| error.to_string());
        tracing::info!(model = shadow.id, version = shadow.version, outcome, same, latency_ms, error, "shadow");
        drop(permit);
    };
    tokio::spawn(work.in_current_span());
}

async fn answer(app: &App, shadow: &Entry, payload: Payload) -> Result<Answer> {
    let model = app.models.ready(shadow).await?;
    check_payload(&model, &payload)?;
    let mut trace = Trace::default();
    let terms = Terms::within(app.config.limits.predict_timeout);
    let run = pipeline::run(&model, payload, &terms, &mut trace);
    let answer = tokio::time::timeout_at(terms.deadline.into(), run)
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorCode::DeadlineExceeded, "the copy took too long")));
    record(app, &model, &trace);
    answer
}

/// Whether both say the same: the plugin's answer, or the model's first output, which of classifiers is the label. Scores
/// of two versions never agree to the last digit.
fn is_same(shadow: &Answer, real: &Answer) -> bool {
    match (shadow, real) {
        (Answer::Outputs(shadow), Answer::Outputs(real)) => match (shadow.first(), real.first()) {
            // Exporters name one and the same output differently.
            (Some(Value::Tensor(shadow)), Some(Value::Tensor(real))) => {
                shadow.shape == real.shape && shadow.data == real.data
            }
            (shadow, real) => shadow == real,
        },
        (Answer::Response(shadow), Answer::Response(real)) => shadow.body == real.body,
        _ => false,
    }
}
