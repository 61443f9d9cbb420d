//! One plugin beside another: what one takes, it does not take from all.

use tokio::task::JoinSet;

use super::*;

/// Limits that let a loop go on for as long as a test does.
fn endless() -> PluginLimits {
    let hour = Duration::from_secs(3600);
    PluginLimits { instances: 8, instance_wait: hour, cpu_time: hour, wall_time: hour, ..small_limits() }
}

/// As many instances as there are threads loop, and three times as many: the other plugin's requests are served all the
/// same, one after the other, while no loop ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_that_loop_leave_time_to_the_others() {
    let host = host(endless(), NO_HOSTS);
    let greedy = load(&host, component("hostile")).await.unwrap();
    let modest = load(&host, component("hostile")).await.unwrap();
    let mut loops = JoinSet::new();
    for number in 0..6 {
        let (greedy, config) = (Arc::clone(&greedy), if number % 2 == 0 { "loop" } else { "loop-calls" });
        loops.spawn(async move { serve(&greedy, &format!(r#"{{"do": "{config}"}}"#), "{}").await.map(drop) });
    }
    for _ in 0..20 {
        assert_goes_on(&modest).await;
    }
    assert!(loops.try_join_next().is_none(), "a loop has ended");
    loops.shutdown().await;
    assert_goes_on(&greedy).await;
}

/// However many requests one plugin gets, the other finds a place for its own at once: it need not wait for one to end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_never_has_every_place() {
    let host = host(PluginLimits { instance_wait: Duration::from_secs(1), ..endless() }, NO_HOSTS);
    let greedy = load(&host, component("hostile")).await.unwrap();
    let modest = load(&host, component("hostile")).await.unwrap();
    let mut sleepers = JoinSet::new();
    for _ in 0..30 {
        let greedy = Arc::clone(&greedy);
        sleepers.spawn(async move { serve(&greedy, r#"{"do": "sleep"}"#, "{}").await.map(drop) });
    }
    // The last place that `greedy` may have is taken when it turns a request away.
    while start(&greedy, "{}").await.is_ok() {}
    for _ in 0..20 {
        let _two = (start(&modest, "{}").await.unwrap(), start(&modest, "{}").await.unwrap());
    }
    assert_goes_on(&modest).await;
}
