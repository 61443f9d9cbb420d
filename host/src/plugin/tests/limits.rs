//! Every limit reached, and the host going on after it.

use std::time::Instant;

use super::*;

/// Serves a request that breaks a limit, then one that does not.
async fn broken(act: &str) -> Error {
    let plugin = shared_hostile().await;
    let error = serve(&plugin, &format!(r#"{{"do": "{act}"}}"#), "{}").await.unwrap_err();
    assert_says(&error, error.code, &["plugin hostile@", "failed in preprocess"]);
    assert_goes_on(&plugin).await;
    error
}

#[tokio::test]
async fn an_endless_loop_ends() {
    let started = Instant::now();
    let error = broken("loop").await;
    assert_says(
        &error,
        ErrorCode::PluginFailed,
        &["ran longer than 2 s of processor time", "--plugin-cpu-time (NEXUS_PLUGIN_CPU_TIME)"],
    );
    assert!(started.elapsed() < Duration::from_secs(60));
}

/// On one thread, other tasks run while a plugin loops.
#[tokio::test]
async fn a_loop_lets_other_tasks_run() {
    let plugin = shared_hostile().await;
    let looping = tokio::spawn(async move { serve(&plugin, r#"{"do": "loop"}"#, "{}").await });
    let mut turns = 0;
    while !looping.is_finished() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        turns += 1;
    }
    assert!(turns > 10, "{turns} turns in two seconds");
    assert!(looping.await.unwrap().is_err());
}

#[tokio::test]
async fn endless_recursion_ends() {
    assert_says(&broken("recurse").await, ErrorCode::PluginFailed, &["recursed too deeply"]);
}

#[tokio::test]
async fn memory_is_limited() {
    let parts = ["used more than 64 MiB of memory", "--plugin-memory-bytes (NEXUS_PLUGIN_MEMORY_BYTES)"];
    assert_says(&broken("memory").await, ErrorCode::PluginFailed, &parts);
}

#[tokio::test]
async fn a_plugin_that_copes_with_less_memory_is_believed() {
    let plugin = shared_hostile().await;
    let seen = serve_json(&plugin, r#"{"do": "memory-report"}"#, "{}").await;
    let allocated = seen["allocated_bytes"].as_u64().unwrap();
    assert!(allocated > 32 << 20 && allocated < 64 << 20, "{allocated}");
}

/// Whatever a plugin does, it can do in each of its four calls.
#[tokio::test]
async fn every_stage_is_held_to_the_limits() {
    let ends = [
        ("loop", "ran longer than 500 ms of processor time"),
        ("loop-calls", "ran longer than 500 ms of processor time"),
        ("recurse", "recursed too deeply"),
        ("memory", "used more than 64 MiB of memory"),
        ("trap", "it trapped: unreachable"),
        ("panic", "hostile panic 42"),
        ("exit", "it called exit(0)"),
        ("handles", "kept more than 1000 streams, requests and other things of the host"),
    ];
    let limits = PluginLimits { cpu_time: Duration::from_millis(500), ..small_limits() };
    let host = host(limits, NO_HOSTS);
    let plugin = load(&host, component("hostile")).await.unwrap();
    for (act, end) in ends {
        for stage in ["init", "preprocess", "postprocess"] {
            let config = format!(r#"{{"do": "{act}", "stage": "{stage}"}}"#);
            let error = serve(&plugin, &config, "{}").await.unwrap_err();
            assert_says(&error, ErrorCode::PluginFailed, &["plugin hostile@0.1.0", &format!("failed in {stage}"), end]);
        }
    }
    for (act, end) in [("loop", ends[0].1), ("recurse", ends[2].1), ("memory", ends[3].1), ("trap", ends[4].1)] {
        let error = load(&host, describing(act)).await.unwrap_err();
        assert_says(&error, ErrorCode::InvalidInput, &["failed in describe", end]);
    }
    assert_goes_on(&plugin).await;
}

#[tokio::test]
async fn a_describe_that_lies_is_refused() {
    let limits = PluginLimits { wall_time: Duration::from_secs(3), ..small_limits() };
    let host = host(limits, NO_HOSTS);
    let error = load(&host, describing("sleep")).await.unwrap_err();
    assert_says(&error, ErrorCode::InvalidInput, &["failed in describe", "--plugin-wall-time"]);
    let error = load(&host, describing("bad-utf8")).await.unwrap_err();
    assert_says(&error, ErrorCode::InvalidInput, &["failed in describe", "UTF-8"]);
    let error = load(&host, describing("bad-name")).await.unwrap_err();
    assert_says(&error, ErrorCode::InvalidInput, &["failed in describe", "../etc"]);
}

#[tokio::test]
async fn a_trap_a_panic_and_an_exit_are_told_apart() {
    assert_says(&broken("trap").await, ErrorCode::PluginFailed, &["it trapped: unreachable"]);
    assert_says(&broken("panic").await, ErrorCode::PluginFailed, &["it trapped: unreachable", "hostile panic 42"]);
    assert_says(&broken("exit").await, ErrorCode::PluginFailed, &["it called exit(0)"]);
}

#[tokio::test]
async fn an_instance_that_trapped_is_not_used_again() {
    let plugin = shared_hostile().await;
    let mut instance = start(&plugin, r#"{"do": "trap"}"#).await.unwrap();
    assert!(preprocess(&mut instance, "{}").await.is_err());
    let error = postprocess(&mut instance, scores()).await.unwrap_err();
    assert_says(&error, ErrorCode::PluginFailed, &["an earlier call into this instance was cut off"]);
}

#[tokio::test]
async fn a_stage_that_waits_is_ended_by_the_clock() {
    let limits = PluginLimits { wall_time: Duration::from_secs(3), ..small_limits() };
    let plugin = hostile(limits, NO_HOSTS).await;
    let started = Instant::now();
    let error = serve(&plugin, r#"{"do": "sleep"}"#, "{}").await.unwrap_err();
    assert_says(
        &error,
        ErrorCode::PluginFailed,
        &["took longer than 3 s", "--plugin-wall-time (NEXUS_PLUGIN_WALL_TIME)"],
    );
    assert!(started.elapsed() < Duration::from_secs(600));
    assert_goes_on(&plugin).await;
}

#[tokio::test]
async fn a_call_dropped_half_way_frees_its_place() {
    let plugin = hostile(PluginLimits { instances: 1, ..small_limits() }, NO_HOSTS).await;
    let call = serve(&plugin, r#"{"do": "sleep"}"#, "{}");
    assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err());
    assert_goes_on(&plugin).await;
}

#[tokio::test]
async fn output_is_limited_in_both_stages() {
    let parts = ["returned more than 4 MiB", "--plugin-output-bytes (NEXUS_PLUGIN_OUTPUT_BYTES)"];
    let plugin = shared_hostile().await;
    // The first is caught when counted, the second while it is copied.
    for count in [(4 << 20) + 4, 16 << 20] {
        for stage in ["preprocess", "postprocess"] {
            let config = format!(r#"{{"do": "huge-output", "stage": "{stage}", "count": {count}}}"#);
            let error = serve(&plugin, &config, "{}").await.unwrap_err();
            assert_says(&error, ErrorCode::PluginFailed, &parts);
            assert_says(&error, ErrorCode::PluginFailed, &[stage]);
        }
    }
    let error = serve(&plugin, r#"{"do": "many-tensors", "count": 100000}"#, "{}").await.unwrap_err();
    assert_says(&error, ErrorCode::PluginFailed, &parts);
    let error = serve(&plugin, r#"{"do": "huge-error", "count": 1000000}"#, "{}").await.unwrap_err();
    assert_says(&error, ErrorCode::PluginFailed, &["xxxx…"]);
    assert!(error.message.len() < 10_000);
    assert_goes_on(&plugin).await;
}

#[tokio::test]
async fn a_flood_of_log_lines_does_not_stop_a_plugin_nor_fill_the_log() {
    let plugin = hostile(PluginLimits { cpu_time: PATIENCE, wall_time: PATIENCE, ..small_limits() }, NO_HOSTS).await;
    for act in
        [r#""log-flood", "count": 1000000"#, r#""log-huge", "count": 4000000"#, r#""stdout-flood", "count": 8000000"#]
    {
        let seen = serve_json(&plugin, &format!(r#"{{"do": {act}}}"#), "{}").await;
        assert_eq!(seen["ok"], true, "{seen}");
    }
    let error = serve(&plugin, r#"{"do": "log-huge", "count": 8000000}"#, "{}").await.unwrap_err();
    assert_says(&error, ErrorCode::PluginFailed, &["handed the host more than 4 MiB in one call"]);
    // Postprocess fails after the flood: the tail has the last lines of it, each cut.
    let mut instance = start(&plugin, r#"{"do": "log-flood", "count": 500}"#).await.unwrap();
    preprocess(&mut instance, "{}").await.unwrap();
    let bad = Tensor { name: "x".repeat(70 << 20), ..scores() };
    let error = postprocess(&mut instance, bad).await.unwrap_err();
    assert_says(&error, ErrorCode::PluginFailed, &["its log ends: ", "flood line 499"]);
}

#[tokio::test]
async fn handles_and_random_bytes_are_limited() {
    assert_eq!(broken("handles").await.code, ErrorCode::PluginFailed);
    assert_eq!(broken("random").await.code, ErrorCode::PluginFailed);
}

#[tokio::test]
async fn instances_are_limited_and_the_rest_waits_a_while() {
    let plugin = hostile(PluginLimits { instances: 2, ..small_limits() }, NO_HOSTS).await;
    let first = start(&plugin, "{}").await.unwrap();
    let _second = start(&plugin, "{}").await.unwrap();
    let error = start(&plugin, "{}").await.map(|_| ()).unwrap_err();
    assert_says(
        &error,
        ErrorCode::Overloaded,
        &[
            "no instance is free for plugin hostile@",
            "of 2 for all plugins",
            "--plugin-instances (NEXUS_PLUGIN_INSTANCES)",
        ],
    );
    // Trying out a configuration has a place of its own.
    check(&plugin, "{}").await.unwrap();
    let waiting = tokio::spawn(async move { start(&plugin, "{}").await.map(|_| ()) });
    tokio::time::sleep(Duration::from_millis(20)).await;
    drop(first);
    waiting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_requests_at_once_are_all_served() {
    let plugin = hostile(PluginLimits { instance_wait: Duration::from_secs(30), ..small_limits() }, NO_HOSTS).await;
    let requests: Vec<_> = (0..30)
        .map(|number| {
            let plugin = Arc::clone(&plugin);
            tokio::spawn(async move {
                let config = if number % 5 == 0 { r#"{"do": "trap"}"# } else { "{}" };
                (number, serve(&plugin, config, "{}").await)
            })
        })
        .collect();
    for request in requests {
        let (number, served) = request.await.unwrap();
        assert_eq!(served.is_err(), number % 5 == 0, "{number}: {served:?}");
    }
}
