//! Requests that wait for a model's workers: run together, in their order, each with its own answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use model_nexus::error::{ErrorCode, Result};
use model_nexus::model::{Inference, SessionOptions, WorkerLimits, Workers};
use model_nexus::tensor::{Data, DataType, Tensor};
use model_nexus::terms::{Priority, Terms};
use model_nexus::value::Value;
use tokio::task::JoinHandle;

use crate::onnx_file;
use crate::support::{fixture, runtime};

const LIMITS: WorkerLimits =
    WorkerLimits { instances: 1, batch_rows: 8, queue_capacity: 64, output_bytes: 1 << 20, steady: false };

fn workers(model: &str, limits: WorkerLimits) -> Workers {
    let file = fixture(&format!("models/batching/{model}.onnx"));
    Workers::start(&runtime(), &file, model, limits, &SessionOptions::default(), None).unwrap()
}

fn terms() -> Terms {
    Terms::within(Duration::from_secs(60))
}

fn floats(values: &[f32]) -> Vec<Value> {
    vec![Value::Tensor(Tensor::from_vec("x".into(), DataType::Fp32, vec![values.len()], values.to_vec()).unwrap())]
}

fn indices(values: &[i64]) -> Vec<Value> {
    vec![Value::Tensor(Tensor::from_vec("index".into(), DataType::Int64, vec![values.len()], values.to_vec()).unwrap())]
}

fn numbers(answer: Result<Inference>) -> Vec<f32> {
    let outputs = answer.unwrap().outputs;
    let Value::Tensor(Tensor { data: Data::Raw(bytes), .. }) = &outputs[0] else { panic!("{outputs:?}") };
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// Gives the one worker of the model a long run, so that what is asked next waits.
async fn occupy(workers: &Arc<Workers>) -> JoinHandle<Result<Inference>> {
    occupy_with(workers, floats(&[0.0])).await
}

async fn occupy_with(workers: &Arc<Workers>, inputs: Vec<Value>) -> JoinHandle<Result<Inference>> {
    until(|| workers.busy() == 0).await;
    let busy = Arc::clone(workers);
    let busy = tokio::spawn(async move { busy.infer(inputs, &terms()).await });
    until(|| workers.busy() == 1 && workers.waiting() == 0).await;
    busy
}

async fn until(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !is_so() {
        assert!(Instant::now() < deadline, "what is waited for does not come to be");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_waits_is_run_together_and_everybody_gets_an_answer_of_their_own() {
    let workers = Arc::new(workers("slow", LIMITS));
    let busy = occupy(&workers).await;
    let answers = join_all((1..=8).map(|n| {
        let workers = Arc::clone(&workers);
        async move { workers.infer(floats(&vec![n as f32; n % 3 + 1]), &terms()).await }
    }));
    for (n, answer) in (1..).zip(answers.await) {
        assert_eq!(numbers(answer), vec![n as f32 + 100_000.0; n % 3 + 1]);
    }
    assert_eq!(numbers(busy.await.unwrap()), [100_000.0]);
    let statistics = &workers.statistics;
    assert_eq!(statistics.inferences(), 1 + 17);
    // The first run alone, the eight waiting ones in fewer runs than they are.
    assert!((4..9).contains(&statistics.executions()), "{:?}", statistics.batches());
    assert!(statistics.batches().keys().all(|&rows| rows <= 8), "{:?}", statistics.batches());
    assert_eq!(statistics.queue.count(), 9);
}

#[tokio::test]
async fn one_that_fails_in_a_run_does_not_fail_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.onnx");
    std::fs::write(&file, onnx_file::table_with_an_endless_row()).unwrap();
    let workers = Workers::start(&runtime(), &file, "table", LIMITS, &SessionOptions::default(), None).unwrap();
    let workers = Arc::new(workers);
    let busy = occupy_with(&workers, indices(&[onnx_file::ENDLESS_ROW])).await;
    let requests = [[0].as_slice(), &[1, 2], &[onnx_file::ENDLESS_ROW + 1], &[3]].map(|index| {
        let (workers, index) = (Arc::clone(&workers), indices(index));
        tokio::spawn(async move { workers.infer(index, &terms()).await })
    });
    until(|| workers.waiting() == 4).await;
    // All four wait when the worker comes to take what can run together.
    busy.abort();
    let answers = join_all(requests).await.into_iter().map(|ended| ended.unwrap());
    let [first, second, bad, last] = answers.collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(numbers(first), [1.0, 2.0]);
    assert_eq!(numbers(second), [3.0, 4.0, 5.0, 6.0]);
    assert_eq!(numbers(last), [7.0, 8.0]);
    let error = bad.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidInput);
    assert!(error.message.contains("indices"), "{error}");
    // The common run came to nothing, and each of the good ones was made again by itself.
    assert_eq!(workers.statistics.batches().keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(workers.statistics.executions(), 3);
}

#[tokio::test]
async fn a_request_of_many_rows_is_run_in_parts_and_answered_as_one() {
    let workers = workers("gather", WorkerLimits { instances: 2, ..LIMITS });
    let rows: Vec<i64> = (0..1001).map(|row| row * row % 4).collect();
    let answer = workers.infer(indices(&rows), &terms()).await;
    let expected: Vec<f32> = rows.iter().flat_map(|&row| [row as f32 * 2.0, row as f32 * 2.0 + 1.0]).collect();
    assert_eq!(numbers(answer), expected);
    assert_eq!(workers.statistics.inferences(), 1001);
    assert_eq!(workers.statistics.batches().keys().copied().collect::<Vec<_>>(), [1, 8]);
}

#[tokio::test]
async fn parts_whose_answers_are_too_large_together_are_not_all_run() {
    let workers = workers("gather", WorkerLimits { output_bytes: 100, ..LIMITS });
    // 8 rows answer with 64 bytes, so the second part is one too many of 125.
    let error = workers.infer(indices(&[0; 1000]), &terms()).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::TooLarge, "{error}");
    assert!(error.message.contains("128 bytes or more"), "{error}");
    // Two are asked for at once.
    assert!(workers.statistics.executions() <= 4, "{:?}", workers.statistics.batches());
}

#[tokio::test]
async fn the_urgent_go_first_and_the_rest_in_the_order_of_their_coming() {
    let workers = Arc::new(workers("slow", WorkerLimits { batch_rows: 1, ..LIMITS }));
    let busy = occupy(&workers).await;
    let turn = AtomicUsize::new(0);
    let ask = async |priority| {
        workers.infer(floats(&[0.0]), &Terms { priority, ..terms() }).await.unwrap();
        turn.fetch_add(1, Ordering::Relaxed)
    };
    use Priority::{High, Normal};
    let turns = join_all([ask(Normal), ask(Normal), ask(High), ask(High)]).await;
    assert_eq!(turns, [2, 3, 0, 1]);
    busy.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_nobody_waits_for_any_more_is_not_run_and_takes_no_place() {
    let limits = WorkerLimits { queue_capacity: 2, ..LIMITS };
    let workers = Arc::new(workers("slow", limits));
    let busy = occupy(&workers).await;
    let given_up = [1.0, 2.0].map(|n| {
        let workers = Arc::clone(&workers);
        tokio::spawn(async move { workers.infer(floats(&[n]), &terms()).await })
    });
    until(|| workers.waiting() == 2).await;
    let full = workers.infer(floats(&[3.0]), &terms()).await.unwrap_err();
    assert_eq!(full.code, ErrorCode::Overloaded);
    for request in given_up {
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
    }
    let answer = workers.infer(floats(&[4.0]), &terms()).await;
    assert_eq!(numbers(answer), [100_004.0]);
    busy.await.unwrap().unwrap();
    assert_eq!(workers.statistics.inferences(), 2);
}

#[tokio::test]
async fn a_run_that_everybody_left_is_ended() {
    let workers = Arc::new(workers("slow", LIMITS));
    let busy = occupy(&workers).await;
    busy.abort();
    assert!(busy.await.unwrap_err().is_cancelled());
    let answer = workers.infer(floats(&[4.0]), &terms()).await;
    assert_eq!(numbers(answer), [100_004.0]);
    // The run that was left came to no end of its own.
    assert_eq!(workers.statistics.executions(), 1);
}

#[tokio::test]
async fn a_common_run_that_everybody_left_is_ended_and_not_made_again_for_each() {
    let workers = Arc::new(workers("slow", LIMITS));
    let busy = occupy(&workers).await;
    let together = [1.0, 2.0, 3.0].map(|n| {
        let workers = Arc::clone(&workers);
        tokio::spawn(async move { workers.infer(floats(&[n]), &terms()).await })
    });
    until(|| workers.waiting() == 3).await;
    busy.abort();
    until(|| workers.waiting() == 0).await;
    for request in together {
        request.abort();
        assert!(request.await.unwrap_err().is_cancelled());
    }
    let answer = workers.infer(floats(&[4.0]), &terms()).await;
    assert_eq!(numbers(answer), [100_004.0]);
    assert_eq!(workers.statistics.executions(), 1);
}

#[tokio::test]
async fn a_quick_model_answers_the_same_wherever_it_is_run() {
    let workers = workers("gather", WorkerLimits { steady: true, ..LIMITS });
    // Until it is known how long it takes, the workers run it.
    for row in 0..200 {
        let answer = workers.infer(indices(&[row % 4]), &terms()).await;
        assert_eq!(numbers(answer), [(row % 4) as f32 * 2.0, (row % 4) as f32 * 2.0 + 1.0]);
    }
    let bad = workers.infer(indices(&[9]), &terms()).await.unwrap_err();
    assert_eq!(bad.code, ErrorCode::InvalidInput, "{bad}");
    let together = join_all([[0], [1], [2], [3]].map(|index| {
        let workers = &workers;
        async move { numbers(workers.infer(indices(&index), &terms()).await) }
    }));
    assert_eq!(together.await, [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [6.0, 7.0]]);
    assert_eq!(workers.statistics.inferences(), 204);
    assert_eq!(workers.statistics.queue.count(), 204);
}
