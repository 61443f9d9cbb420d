//! What no compiler makes: components written by hand that lie to the host, or hold more than a component may.

use super::*;
use crate::plugin::engine::{CORE_INSTANCES, MEMORIES, TABLE_ELEMENTS, TABLES};

/// What stands in `handmade.wat` where a line says `$…$`; nothing, where a test does not say.
#[derive(Default)]
struct Handmade<'a> {
    /// Beside the module, in the component.
    component: &'a str,
    /// In the module.
    module: &'a str,
    /// Before memory is given to the host.
    realloc: &'a str,
    /// In preprocess.
    preprocess: &'a str,
    /// After the host has read what preprocess returned.
    post_return: &'a str,
    /// What the module is instantiated with.
    with: &'a str,
}

impl Handmade<'_> {
    fn wasm(&self) -> Bytes {
        let text = include_str!("handmade.wat")
            .replace("$component$", self.component)
            .replace("$module$", self.module)
            .replace("$realloc$", self.realloc)
            .replace("$preprocess$", self.preprocess)
            .replace("$post-return$", self.post_return)
            .replace("$with$", self.with);
        wat::parse_str(&text).unwrap().into()
    }

    async fn load(&self) -> Result<Arc<Plugin>> {
        load(&host(small_limits(), NO_HOSTS), self.wasm()).await
    }

    /// The tensors that preprocess returns.
    async fn preprocess(&self) -> Result<Vec<Tensor>> {
        let mut instance = start(&self.load().await?, "{}").await?;
        preprocess(&mut instance, "{}").await
    }
}

#[tokio::test]
async fn a_component_made_by_hand_serves() {
    let plugin = Handmade::default().load().await.unwrap();
    assert_eq!(plugin.reference(), "handmade@1.0.0");
    let mut instance = start(&plugin, "{}").await.unwrap();
    assert_eq!(preprocess(&mut instance, "{}").await.unwrap(), []);
    assert_eq!(postprocess(&mut instance, scores()).await.unwrap().body, "");
}

#[tokio::test]
async fn core_instances_are_limited_in_number() {
    let instances = |count: usize| {
        let more = "(core instance (instantiate $empty))".repeat(count - 1);
        format!("(core module $empty) {more}")
    };
    let most = instances(CORE_INSTANCES);
    Handmade { component: &most, ..Default::default() }.preprocess().await.unwrap();
    let over = instances(CORE_INSTANCES + 1);
    let error = Handmade { component: &over, ..Default::default() }.load().await.unwrap_err();
    assert_says(
        &error,
        ErrorCode::InvalidInput,
        &["cannot be compiled for this host", "core module instances", "maximum of 100"],
    );
}

#[tokio::test]
async fn memories_are_limited_in_number() {
    let memories = |count: usize| {
        let more = "(core instance (instantiate $memory))".repeat(count - 1);
        format!("(core module $memory (memory 1)) {more}")
    };
    let most = memories(MEMORIES);
    Handmade { component: &most, ..Default::default() }.preprocess().await.unwrap();
    let over = memories(MEMORIES + 1);
    let error = Handmade { component: &over, ..Default::default() }.load().await.unwrap_err();
    assert_says(&error, ErrorCode::InvalidInput, &["cannot be compiled for this host", "memories"]);
}

#[tokio::test]
async fn tables_are_limited_in_number() {
    let tables = |count: usize| {
        let more = "(core instance (instantiate $table))".repeat(count);
        format!("(core module $table (table 1 funcref)) {more}")
    };
    let most = tables(TABLES);
    Handmade { component: &most, ..Default::default() }.preprocess().await.unwrap();
    let over = tables(TABLES + 1);
    let error = Handmade { component: &over, ..Default::default() }.load().await.unwrap_err();
    assert_says(&error, ErrorCode::InvalidInput, &["cannot be compiled for this host", "tables"]);
}

/// Every memory of an instance counts towards its one limit: 40 pages each here, and 1,024 in all.
#[tokio::test]
async fn memories_are_limited_together() {
    let component = "(core module $other (memory 1)
          (func (export \"grow\") (param i32) (result i32) (memory.grow (local.get 0))))
        (core instance $j (instantiate $other))";
    let grown = |own: usize, other: usize| {
        format!(
            "(if (i32.eq (memory.grow (i32.const {own})) (i32.const -1)) (then unreachable))
             (if (i32.eq (call $grow-other (i32.const {other})) (i32.const -1)) (then unreachable))"
        )
    };
    for (own, other, fits) in [(500, 483, true), (500, 484, false), (984, 0, false), (0, 1024, false)] {
        let made = Handmade {
            component,
            module: "(import \"other\" \"grow\" (func $grow-other (param i32) (result i32)))",
            preprocess: &grown(own, other),
            with: "(with \"other\" (instance $j))",
            ..Default::default()
        };
        let outcome = made.preprocess().await;
        assert_eq!(outcome.is_ok(), fits, "{own} and {other} pages more: {outcome:?}");
        if let Err(error) = outcome {
            assert_says(&error, ErrorCode::PluginFailed, &["used more than 64 MiB of memory", "--plugin-memory-bytes"]);
        }
    }
}

#[tokio::test]
async fn a_table_grows_to_its_limit() {
    for (elements, fits) in [(TABLE_ELEMENTS, true), (TABLE_ELEMENTS + 1, false), (u32::MAX as usize, false)] {
        let grow = format!(
            "(if (i32.eq (table.grow $t (ref.null func) (i32.const {})) (i32.const -1)) (then unreachable))",
            elements as u32 as i32
        );
        let made = Handmade { module: "(table $t 0 funcref)", preprocess: &grow, ..Default::default() };
        assert_eq!(made.preprocess().await.is_ok(), fits, "{elements}");
    }
    let large = format!("(table {} funcref)", TABLE_ELEMENTS + 1);
    let error = Handmade { module: &large, ..Default::default() }.load().await.unwrap_err();
    assert_says(&error, ErrorCode::InvalidInput, &["cannot be compiled for this host", "table"]);
}

#[tokio::test]
async fn endless_recursion_without_a_stack_in_memory_ends() {
    let recursion = "(func $deep (call $deep))";
    let error = Handmade { module: recursion, preprocess: "(call $deep)", ..Default::default() }.preprocess().await;
    let parts = ["plugin handmade@1.0.0 failed in preprocess", "recursed too deeply for 1 MiB of stack"];
    assert_says(&error.unwrap_err(), ErrorCode::PluginFailed, &parts);
    let some = "(func $deep (param i32) (if (local.get 0) (then (call $deep (i32.sub (local.get 0) (i32.const 1))))))";
    let made = Handmade { module: some, preprocess: "(call $deep (i32.const 1000))", ..Default::default() };
    made.preprocess().await.unwrap();
}

/// Code that runs where nobody called a stage: when a module is instantiated, when the host asks for memory, and after
/// the host has read an answer.
#[tokio::test]
async fn a_loop_around_a_call_ends_too() {
    let parts = ["ran longer than 2 s of processor time", "--plugin-cpu-time (NEXUS_PLUGIN_CPU_TIME)"];
    let module = "(func $forever (loop $again (br $again))) (start $forever)";
    let error = Handmade { module, ..Default::default() }.load().await.unwrap_err();
    assert_says(&error, ErrorCode::InvalidInput, &parts);
    for made in [
        Handmade { realloc: "(loop $again (br $again))", ..Default::default() },
        Handmade { post_return: "(loop $again (br $again))", ..Default::default() },
    ] {
        assert_says(&made.preprocess().await.unwrap_err(), ErrorCode::PluginFailed, &parts);
    }
}

/// A thousand tensors share one piece of memory: 10 GB to the host, 1 MiB to the plugin.
#[tokio::test]
async fn an_output_that_lies_over_itself_is_counted_as_the_host_copies_it() {
    let tensors = |count: usize| {
        format!(
            "(loop $again
               (i32.store offset=8 (i32.add (i32.shl (local.get $i) (i32.const 5)) (i32.const 1048576)) (i32.const 336))
               (i32.store offset=12 (i32.add (i32.shl (local.get $i) (i32.const 5)) (i32.const 1048576)) (i32.const 5))
               (i32.store offset=16 (i32.add (i32.shl (local.get $i) (i32.const 5)) (i32.const 1048576)) (i32.const 344))
               (i32.store offset=20 (i32.add (i32.shl (local.get $i) (i32.const 5)) (i32.const 1048576)) (i32.const 1))
               (i32.store offset=28 (i32.add (i32.shl (local.get $i) (i32.const 5)) (i32.const 1048576)) (i32.const 1048576))
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (br_if $again (i32.lt_u (local.get $i) (i32.const {count}))))
             (i32.store (i32.const 68) (i32.const 1048576))
             (i32.store (i32.const 72) (i32.const {count}))"
        )
    };
    let four = Handmade { preprocess: &tensors(4), ..Default::default() }.preprocess().await.unwrap();
    assert_eq!(four.iter().map(Tensor::byte_size).collect::<Vec<_>>(), [1 << 20; 4]);
    for count in [5, 10_000] {
        let error = Handmade { preprocess: &tensors(count), ..Default::default() }.preprocess().await.unwrap_err();
        let parts = ["returned more than 4 MiB", "--plugin-output-bytes (NEXUS_PLUGIN_OUTPUT_BYTES)"];
        assert_says(&error, ErrorCode::PluginFailed, &parts);
    }
}

#[tokio::test]
async fn an_answer_that_is_no_answer_is_refused() {
    let far = "(i32.store (i32.const 68) (i32.const 2147483640)) (i32.store (i32.const 72) (i32.const 1000))";
    let long = "(i32.store (i32.const 68) (i32.const 1024)) (i32.store (i32.const 72) (i32.const -1))";
    let crooked = "(i32.store (i32.const 68) (i32.const 1027)) (i32.store (i32.const 72) (i32.const 1))";
    let neither = "(i32.store8 (i32.const 64) (i32.const 7))";
    let elsewhere = "(return (i32.const -16))";
    for preprocess in [far, long, crooked, neither, elsewhere] {
        let error = Handmade { preprocess, ..Default::default() }.preprocess().await.unwrap_err();
        assert_says(&error, ErrorCode::PluginFailed, &["plugin handmade@1.0.0 failed in preprocess"]);
    }
    for realloc in ["(return (i32.const -16))", "(return (i32.const 1000000000))", "unreachable"] {
        let error = Handmade { realloc, ..Default::default() }.preprocess().await.unwrap_err();
        assert_says(&error, ErrorCode::PluginFailed, &["plugin handmade@1.0.0 failed in"]);
    }
}
