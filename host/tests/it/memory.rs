//! What a process of the host keeps of what it unloaded.

use crate::binary::{Process, client};
use crate::support::store_with_iris;

/// Resident bytes.
fn resident(process: &Process) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() * 1024
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_thousand_loads_and_unloads_leave_memory_where_it_was_after_fifty() {
    let store = store_with_iris();
    let process = Process::start(
        store.path(),
        &["--listen", "127.0.0.1:0", "--log", "warn,model_nexus::server=info"],
        &[],
        store.path(),
    );
    let client = client();
    let mut after_fifty = 0;
    for round in 1..=1000 {
        for change in ["unload", "load"] {
            let path = process.url(&format!("/models/iris/versions/1/{change}"));
            assert_eq!(client.post(path).send().await.unwrap().status(), 200);
        }
        if round == 50 {
            after_fifty = resident(&process);
        }
    }
    let after_all = resident(&process);
    assert!(after_all <= after_fifty + after_fifty / 10, "{after_fifty} bytes after 50, {after_all} after 1000");
}
