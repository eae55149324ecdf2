//! A plan as tables.

use super::{Memory, Plan};
use crate::report::{Align, Table};

/// The plan as text, with lines around the cells or without.
pub fn table(plan: &Plan, boxed: bool) -> String {
    let column = |name: &&str| ((*name).to_owned(), if *name == "stage" { Align::Left } else { Align::Decimal });
    let columns =
        ["stage", "records", "tokens", "computed", "steps", "parameters", "trained", "memory ~", "disk ~", "time ~"];
    let mut table = Table::new(columns.iter().map(column));
    let count = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let row = |stage: &super::StagePlan| {
        vec![
            stage.stage.clone(),
            count(stage.records),
            count(stage.tokens),
            count(stage.computed),
            count(stage.steps),
            count(stage.parameters),
            count(stage.trainable),
            stage.memory.as_ref().map_or("-".into(), |memory| bytes(memory.total())),
            stage.disk.map_or("-".into(), bytes),
            stage.seconds.map_or("-".into(), time),
        ]
    };
    table.group(plan.stages.iter().map(row).collect());
    let mut text = table.render(boxed);
    text += "\nrecords, tokens (of one pass over the records), steps and parameters are exact; ~ is estimated\n";
    for stage in &plan.stages {
        if let Some(Memory { weights, gradients, optimizer, activations, head }) = stage.memory {
            let parts = [
                ("weights", weights),
                ("gradients", gradients),
                ("optimizer", optimizer),
                ("activations", activations),
                ("logits", head),
            ];
            let parts = parts.iter().filter(|(_, size)| *size > 0);
            let parts: Vec<String> = parts.map(|(name, size)| format!("{name} {}", bytes(*size))).collect();
            text += &format!("{}: {}\n", stage.stage, parts.join(", "));
        }
        for note in &stage.notes {
            text += &format!("{}: {note}\n", stage.stage);
        }
    }
    let total = plan.seconds.map_or("time not estimated".into(), |seconds| format!("about {}", time(seconds)));
    let memory = plan.memory.map_or(String::new(), |memory| format!(", {} of memory", bytes(memory)));
    text + &format!("all: {total}{memory}, {} on disk\n", bytes(plan.disk))
}

/// `3.2 GiB`.
fn bytes(size: u64) -> String {
    let mut value = size as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" { format!("{value:.0} {unit}") } else { format!("{value:.1} {unit}") };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// `3 h 20 min`.
fn time(seconds: f64) -> String {
    let minutes = (seconds / 60.0).round() as u64;
    match seconds {
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{minutes} min"),
        _ => format!("{} h {} min", minutes / 60, minutes % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_are_readable() {
        assert_eq!([0, 1023, 1024, 1 << 20, 3 << 30].map(bytes), ["0 B", "1023 B", "1.0 KiB", "1.0 MiB", "3.0 GiB"]);
        assert_eq!([0.25, 59.0, 61.0, 7260.0].map(time), ["0.2 s", "59.0 s", "1 min", "2 h 1 min"]);
    }
}
