//! A report as a person reads it.

use std::fmt::{self, Display, Formatter};

use serde_json::Value;

use super::case::Outcome;
use super::elements::TensorLine;
use super::report::{Report, Step};
use super::size;

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.write_setup(f)?;
        write_tensors(f, "into the model", &self.seen.inputs)?;
        write_tensors(f, "out of the model", &self.seen.outputs)?;
        self.write_steps(f)?;
        if !self.log.is_empty() {
            writeln!(f, "\nlog")?;
        }
        for line in &self.log {
            writeln!(f, "  {:11} {:5} {}", line.stage, line.level, line.message)?;
        }
        write_outcome(f, &self.outcome)?;
        self.write_replay(f)
    }
}

impl Report {
    fn write_setup(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(plugin) = &self.seen.plugin {
            let (stages, size) = (plugin.stages.join(", "), size(plugin.size));
            writeln!(
                f,
                "plugin    {}@{} ({stages}), {size}, compiled in {:.0} ms",
                plugin.name, plugin.version, plugin.took_ms
            )?;
        }
        writeln!(f, "model     {}", self.model.file)?;
        writeln!(f, "          {} → {}", self.model.inputs.join(", "), self.model.outputs.join(", "))?;
        if let Some(binding) = &self.seen.binding {
            let init = match &binding.no_snapshot {
                None => "init ran once, and requests start from its memory".to_owned(),
                Some(why) => format!("init runs in each request: {why}"),
            };
            writeln!(f, "bound     in {:.0} ms; {init}", binding.took_ms)?;
        }
        if let Some(request) = &self.seen.request {
            let whose = if request.golden { ", the plugin's golden request" } else { "" };
            writeln!(f, "request   {}, {}{whose}", request.content_type, size(request.bytes))?;
        }
        Ok(())
    }

    fn write_steps(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.seen.steps.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n  {:12} {:>10}  {:>12} {:>12} {:>12}", "step", "time", "memory", "bytes in", "bytes out")?;
        for Step { name, ms, fetching_ms, plugin } in &self.seen.steps {
            write!(f, "  {name:12} {ms:>7.3} ms")?;
            if let Some(plugin) = plugin {
                let memory = size(plugin.peak_memory);
                write!(f, "  {memory:>12} {:>12} {:>12}", plugin.bytes_in, plugin.bytes_out)?;
            }
            if let Some(fetching) = fetching_ms {
                write!(f, "  {fetching:.3} ms of it fetching")?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_replay(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(replay) = &self.replay else { return Ok(()) };
        if !replay.changed.is_empty() {
            writeln!(f, "\nsince the case was recorded, another: {}", replay.changed.join(", "))?;
        }
        match replay.same {
            true => writeln!(f, "\nreplayed: ends as it did"),
            false => writeln!(f, "\nreplayed: ends differently; it was\n  {}", replay.recorded.summary()),
        }
    }
}

fn write_tensors(f: &mut Formatter<'_>, heading: &str, tensors: &[TensorLine]) -> fmt::Result {
    if tensors.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n{heading}")?;
    for tensor in tensors {
        let mut first: Vec<String> = tensor.first.iter().map(Value::to_string).collect();
        if tensor.count > first.len() {
            first.push("…".to_owned());
        }
        write!(f, "  {} {}  [{}]", tensor.name, tensor.kind, first.join(", "))?;
        if let (Some(min), Some(max)) = (&tensor.min, &tensor.max) {
            write!(f, "  min {min}, max {max}")?;
        }
        if tensor.nan > 0 {
            write!(f, ", {} NaN", tensor.nan)?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn write_outcome(f: &mut Formatter<'_>, outcome: &Outcome) -> fmt::Result {
    match outcome {
        Outcome::Answer { content_type, body } => {
            writeln!(f, "\nanswer    {content_type}, {}", size(body.len()))?;
            match (serde_json::from_slice::<Value>(body), std::str::from_utf8(body)) {
                (Ok(json), _) => writeln!(f, "{json:#}"),
                (_, Ok(text)) => writeln!(f, "{}", text.trim_end()),
                _ => Ok(()),
            }
        }
        Outcome::Error { at, status, code, message } => {
            writeln!(f, "\nerror     {status} {code}, at the {}\n{message}", at.name())
        }
    }
}
