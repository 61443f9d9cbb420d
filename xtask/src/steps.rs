//! Progress: a line as each step begins, and at the end what each one took.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

pub(crate) struct Steps {
    total: usize,
    done: Vec<Done>,
}

struct Done {
    name: String,
    took: Duration,
    /// Why it was left out, if it was.
    skipped: Option<String>,
}

impl Steps {
    pub(crate) fn new(total: usize) -> Self {
        Self { total, done: Vec::new() }
    }

    /// Runs one step. One that fails ends the list: what ran before it is summed up, and the error names it.
    pub(crate) fn run<T>(&mut self, name: &str, step: impl FnOnce() -> Result<T>) -> Result<T> {
        println!("[{}/{}] {name} …", self.done.len() + 1, self.total);
        let started = Instant::now();
        let result = step();
        let took = started.elapsed();
        match result {
            Ok(value) => {
                self.done.push(Done { name: name.to_owned(), took, skipped: None });
                Ok(value)
            }
            Err(error) => {
                self.summary();
                println!("  FAILED {:>7.1} s  {name}", took.as_secs_f64());
                Err(Error::new(format!("{name}: {error}")))
            }
        }
    }

    /// The step that ran last found that it cannot be done here. The summary says so.
    pub(crate) fn skipped(&mut self, why: String) {
        println!("\n!!! SKIPPED: {why}\n");
        if let Some(step) = self.done.last_mut() {
            step.skipped = Some(why);
        }
    }

    pub(crate) fn summary(&self) {
        println!();
        for step in &self.done {
            match &step.skipped {
                None => println!("  ok     {:>7.1} s  {}", step.took.as_secs_f64(), step.name),
                Some(why) => println!("  SKIPPED            {}: {why}", step.name),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_step_is_named_and_not_counted_as_done() {
        let mut steps = Steps::new(2);
        assert_eq!(steps.run("first", || Ok(7)).unwrap(), 7);
        let error = steps.run("second", || Err::<(), _>(Error::new("no disk"))).unwrap_err();
        assert_eq!(error.to_string(), "second: no disk");
        assert_eq!(steps.done.len(), 1);
    }
}
