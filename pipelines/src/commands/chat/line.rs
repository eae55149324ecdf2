//! What a line asks for.

/// The commands.
pub(super) const HELP: &str = "\
/reset         begin a new conversation
/system TEXT   tell the model something before the conversation; nothing: without
/undo          take back the last message and its reply
/save FILE     write the conversation, as one line of JSON with `messages`
/help          show this
/quit          end; so does Ctrl-D. Ctrl-C ends a reply
//…            a message that begins with /
";

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    Nothing,
    Say(&'a str),
    Reset,
    System(&'a str),
    Undo,
    Save(&'a str),
    Help,
    Quit,
    Unknown(&'a str),
}

impl<'a> Line<'a> {
    pub(super) fn parse(line: &'a str) -> Self {
        if line.trim().is_empty() {
            return Self::Nothing;
        }
        let Some(command) = line.strip_prefix('/') else { return Self::Say(line) };
        if command.starts_with('/') {
            return Self::Say(command);
        }
        let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match name {
            "/system" => Self::System(rest),
            "/save" => Self::Save(rest),
            "/reset" if rest.is_empty() => Self::Reset,
            "/undo" if rest.is_empty() => Self::Undo,
            "/help" if rest.is_empty() => Self::Help,
            "/quit" if rest.is_empty() => Self::Quit,
            _ => Self::Unknown(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Line;

    #[test]
    fn lines() {
        for (text, line) in [
            ("  ", Line::Nothing),
            (" how / many?", Line::Say(" how / many?")),
            ("//etc", Line::Say("/etc")),
            ("/", Line::Unknown("/")),
            ("/system  Be brief. ", Line::System("Be brief.")),
            ("/system", Line::System("")),
            ("/save a b.jsonl", Line::Save("a b.jsonl")),
            ("/reset", Line::Reset),
            ("/undo ", Line::Undo),
            ("/help", Line::Help),
            ("/quit", Line::Quit),
            ("/quit now", Line::Unknown("/quit")),
            ("/Reset", Line::Unknown("/Reset")),
        ] {
            assert_eq!(Line::parse(text), line, "{text:?}");
        }
    }
}
