//! The `hearth` program: reads the command line, hands over to the library, and turns errors into messages and exit codes.

pub mod args;
mod check;
mod docs;
mod list;
mod plan;
mod preview;
mod run;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use crate::commands;
use crate::diagnostics::{render, render_error};
use crate::{Error, Result};
use args::{Cli, Command, DataCommand, GlowCommand, LoraCommand};

/// The program. Exit codes: 0 done, 1 a run failed, 2 the recipe or the arguments are wrong, 130 interrupted.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            // Also help and version. That nobody may be reading is no failure.
            let _ = usage.print();
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    log_to_stderr(&cli);
    if cli.quiet {
        crate::run::be_quiet();
    }
    // A panic is a fault of ours (or the dashboard's kill key): its message has been printed by the hook.
    let Ok(result) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| on_worker(|| dispatch(cli.command))))
    else {
        crate::train::restore_terminal();
        return ExitCode::FAILURE;
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            show(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// Does the work on a thread of rayon's pool. There a parallel loop begins at once; on a thread of its own the program would wake
/// a worker for each and sleep until it is done, which took a fifth of the time of training a small model.
fn on_worker<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    // As deep a stack as a program's first thread has. Fails only where the pool is there already.
    let _ = rayon::ThreadPoolBuilder::new().stack_size(8 << 20).build_global();
    rayon::scope(|_| work())
}

fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::check(&args),
        Command::Plan(args) => plan::plan(&args),
        Command::Preview(args) => preview::preview(&args),
        Command::List(args) => list::list(&args),
        Command::Docs(args) => docs::docs(&args),
        Command::Report(args) => run::report_runs(&args),
        Command::Data(DataCommand::Stats(args)) => commands::stats(&args),
        Command::Data(DataCommand::GraphQuestions(args)) => commands::graph_questions(&args),
        Command::Data(DataCommand::Synthesize(args)) => commands::synthesize(&args),
        Command::Data(DataCommand::Convert(args)) => commands::convert(&args),
        Command::Embed(args) => commands::embed(&args),
        Command::Score(args) => commands::score(&args),
        Command::Generate(args) => commands::generate(&args),
        Command::Export(args) => commands::export(&args),
        Command::Chat(args) => commands::chat(&args),
        Command::Lora(LoraCommand::Merge(args)) => commands::merge(&args),
        Command::Glow(GlowCommand::Predict(args)) => commands::predict(&args),
        #[cfg(feature = "remote")]
        Command::Lend(args) => crate::lend::lend(&args),
        Command::Bench(args) => crate::bench::bench(&args),
    }
}

fn log_to_stderr(cli: &Cli) {
    let level = match (cli.quiet, cli.verbose) {
        (true, _) => "error",
        (_, true) => "info,hearth=debug",
        _ => "warn,hearth=info",
    };
    let filter = EnvFilter::try_from_env("HEARTH_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    // Fails only where a program that calls this has its own log already.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(is_coloured())
        // What cannot be written is not worth a panic: nobody may be reading.
        .log_internal_errors(false)
        .without_time()
        .try_init();
}

/// Whether standard error shows colours.
fn is_coloured() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Writes an error to standard error.
fn show(error: &Error) {
    if error.exit_code() == 0 {
        return;
    }
    let colour = is_coloured();
    let mut text = String::new();
    // A string takes everything: none of this can fail.
    let _ = match error {
        Error::Recipe(problems) => render(problems, colour, &mut text),
        other => render_error(other, colour, &mut text),
    };
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Writes to standard output.
pub(crate) fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
