//! `hearth chat`: a conversation in the terminal, or with whatever writes to standard input.

mod folder;
mod line;
mod session;

use super::rows::decoder;
use crate::cli::args::ChatArgs;
use crate::cli::print;
use crate::preview::visible;
use crate::run::{Error, say};
use burn_models::generate::FinishReason;
use burn_models::text::Tokenizer;
use line::{HELP, Line};
use session::Session;
use std::io::{BufRead, IsTerminal, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

/// The longest line that is read, in bytes.
const LONGEST: u64 = 4 << 20;

/// Whether Ctrl-C means the reply.
static STATE: AtomicU8 = AtomicU8::new(WAITING);
const WAITING: u8 = 0;
const REPLYING: u8 = 1;
const STOPPED: u8 = 2;

/// Reads a message a line and shows the replies as they are written, control characters escaped. Ctrl-C ends a reply, and the
/// program where there is none; the end of the input ends the program. A line with an error is reported in a terminal; with
/// other input it ends the program.
///
/// # Errors
/// A model that cannot be used; messages that its template cannot write or that do not fit.
pub fn chat(args: &ChatArgs) -> crate::Result<()> {
    let found = folder::find(&args.model)?;
    let adapter = args.adapter.as_ref().or(found.adapter.as_ref());
    let device = args.compute.init()?;
    let model = decoder(&found.model, adapter.map(|path| &**path), args.compute.dtype, &device)?;
    let tokenizer = Tokenizer::from_folder(&found.model).map_err(Error::from)?;
    tokenizer.fits(model.config().vocab_size).map_err(Error::from)?;
    tokenizer.chat_template().map_err(Error::from)?;
    let mut session = Session::new(args, &model, &tokenizer)?;

    let stdin = std::io::stdin();
    let talks = stdin.is_terminal() && std::io::stdout().is_terminal();
    ctrlc::set_handler(|| {
        if STATE.compare_exchange(REPLYING, STOPPED, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            std::process::exit(130);
        }
    })
    .map_err(|error| problem(error.to_string()))?;
    if talks {
        let with = adapter.map_or(String::new(), |adapter| format!(" with {}", adapter.display()));
        say(&format!("{}{with}: /help lists the commands, Ctrl-D ends", found.model.display()));
    }
    let mut input = stdin.lock();
    loop {
        if talks {
            print("> ")?;
        }
        let result = match read_line(&mut input) {
            Ok(None) => {
                return if talks { print("\n") } else { Ok(()) };
            }
            Ok(Some(text)) => answer(&mut session, &text),
            Err(error) => Err(error),
        };
        match result {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(crate::Error::Run(Error::Stage { reason, .. })) if talks => say(&reason),
            Err(error @ crate::Error::Run(_)) if talks => say(&error.to_string()),
            Err(error) => return Err(error),
        }
    }
}

/// One line; `None` at the end of the input.
fn read_line(input: &mut impl BufRead) -> crate::Result<Option<String>> {
    let mut bytes = Vec::new();
    let count = input.take(LONGEST + 1).read_until(b'\n', &mut bytes).map_err(Error::io("-"))?;
    if bytes.len() as u64 > LONGEST {
        return Err(crate::Error::File {
            path: "-".into(),
            reason: format!("a line of more than {LONGEST} bytes: a message is one line"),
        });
    }
    if count == 0 {
        return Ok(None);
    }
    let text = String::from_utf8(bytes).map_err(|_| problem("a line that is not UTF-8".into()))?;
    Ok(Some(text.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Does what a line asks for; false for the end.
fn answer(session: &mut Session, text: &str) -> crate::Result<bool> {
    match Line::parse(text) {
        Line::Nothing => {}
        Line::Say(text) => reply(session, text)?,
        Line::Reset => {
            session.reset();
            say("a new conversation");
        }
        Line::System(text) => {
            session.system(text);
            say(if text.is_empty() { "no system message" } else { "a new system message" });
        }
        Line::Undo => {
            say(if session.undo() { "without the last message and reply" } else { "there is no message yet" })
        }
        Line::Save("") => return Err(problem("/save needs the name of a file".into()).into()),
        Line::Save(path) => {
            session.save(Path::new(path))?;
            say(&format!("{path}: {} messages", session.messages().len()));
        }
        Line::Help => print(HELP)?,
        Line::Quit => return Ok(false),
        Line::Unknown(name) => {
            let name = visible(name);
            return Err(
                problem(format!("there is no command {name}: /help lists them; write //… for a message")).into()
            );
        }
    }
    Ok(true)
}

/// Shows the reply to a message.
fn reply(session: &mut Session, text: &str) -> crate::Result<()> {
    STATE.store(REPLYING, Ordering::Relaxed);
    let reason = session.reply(text, |text| print(&visible(text)), || STATE.load(Ordering::Relaxed) == STOPPED);
    STATE.store(WAITING, Ordering::Relaxed);
    let reason = reason?;
    print("\n")?;
    match reason {
        FinishReason::Stop => {}
        FinishReason::Length => say("(cut off: the longest reply, or no more positions)"),
        FinishReason::Cancelled => say("(stopped)"),
    }
    Ok(())
}

fn problem(reason: String) -> Error {
    Error::Stage { stage: "chat".into(), reason }
}
