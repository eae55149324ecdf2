//! `hearth data stats` of chats.

use super::stats::{Spread, TokenStats, spread_row, token_stats};
use crate::cli::args::StatsArgs;
use crate::report::{Align, Table};
use crate::run::Error;
use burn_models::text::{Specials, Tokenizer};
use datasets::chat::{ChatFormat, ChatReader, ChatRecord, ChatSource, chat_files};
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Chats whose tokens are counted at a time.
const CHUNK: usize = 512;

/// Numbers that describe chats.
#[derive(Serialize)]
pub(super) struct ChatStats {
    /// By part: to train on, and held out.
    parts: BTreeMap<&'static str, PartStats>,
}

#[derive(Serialize)]
struct PartStats {
    files: usize,
    format: ChatFormat,
    records: usize,
    /// Records with descriptions of tools.
    with_tools: usize,
    /// Messages by role.
    roles: BTreeMap<String, usize>,
    /// Messages of a record.
    messages: Spread,
    /// Characters of a record's contents.
    characters: Spread,
    /// Tokens of a record's contents, without what a template writes around them; only with a tokenizer.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<TokenStats>,
}

/// Whether these are chats: a file, or a folder whose first record is one.
pub(super) fn is_chats(path: &Path) -> bool {
    let look = |files: &[PathBuf]| matches!(ChatSource::of(files).look(), Ok(Some(_)));
    chat_files(path).is_ok_and(|files| !path.is_dir() || look(&files.train))
}

pub(super) fn compute(args: &StatsArgs) -> Result<ChatStats, Error> {
    let tokenizer = args.tokenizer.as_deref().map(Tokenizer::from_folder).transpose()?;
    let files = chat_files(&args.folder)?;
    let mut parts = BTreeMap::new();
    for (name, files) in [("train", files.train), ("held out", files.held_out)] {
        if !files.is_empty() {
            parts.insert(name, part(&files, tokenizer.as_ref())?);
        }
    }
    Ok(ChatStats { parts })
}

fn part(files: &[PathBuf], tokenizer: Option<&Tokenizer>) -> Result<PartStats, Error> {
    let mut found = (ChatFormat::Auto, 0, BTreeMap::new());
    let (mut messages, mut characters, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
    for file in files {
        let mut reader = ChatReader::open(file)?;
        loop {
            let chats = reader.by_ref().take(CHUNK).collect::<Result<Vec<ChatRecord>, _>>()?;
            if chats.is_empty() {
                break;
            }
            found.1 += chats.iter().filter(|chat| chat.tools.is_some()).count();
            let texts: Vec<String> = chats.iter().map(contents).collect();
            for (chat, text) in chats.iter().zip(&texts) {
                messages.push(chat.messages.len());
                characters.push(text.chars().count());
                for message in &chat.messages {
                    *found.2.entry(message.role().to_owned()).or_insert(0) += 1;
                }
            }
            if let Some(tokenizer) = tokenizer {
                tokens.extend(tokenizer.encode_batch(&texts, Specials::Plain)?.iter().map(Vec::len));
            }
        }
        found.0 = reader.format();
    }
    let (format, with_tools, roles) = found;
    Ok(PartStats {
        files: files.len(),
        format,
        records: messages.len(),
        with_tools,
        roles,
        messages: Spread::of(messages),
        characters: Spread::of(characters),
        tokens: tokenizer.map(|_| token_stats(tokens)),
    })
}

/// All that is said in a chat.
fn contents(chat: &ChatRecord) -> String {
    let plain = chat.plain.iter().flat_map(|plain| [plain.prompt.clone(), plain.learned.clone()]);
    let said = chat.messages.iter().map(|message| match (message.text(), message.get("content")) {
        (Some(text), _) => text.to_owned(),
        (None, Some(content)) if !content.is_null() => content.to_string(),
        _ => String::new(),
    });
    said.chain(plain).collect()
}

pub(super) fn tables(stats: &ChatStats, boxed: bool) -> String {
    let columns = |first: &[&str], rest: &[&str]| {
        let left = first.iter().map(|name| ((*name).to_owned(), Align::Left));
        left.chain(rest.iter().map(|name| ((*name).to_owned(), Align::Decimal))).collect::<Vec<_>>()
    };
    let mut parts = Table::new(columns(&["chats", "format"], &["files", "records", "with tools", "messages"]));
    let row = |(name, part): (&&str, &PartStats)| {
        let numbers = [part.files, part.records, part.with_tools, part.roles.values().sum()];
        let head = [(*name).to_owned(), part.format.to_string()];
        head.into_iter().chain(numbers.iter().map(usize::to_string)).collect()
    };
    parts.group(stats.parts.iter().map(row).collect());
    let mut spreads =
        Table::new(columns(&["over all chats"], &["count", "mean", "min", "p50", "p90", "p99", "max", ">256", ">512"]));
    for (name, part) in &stats.parts {
        let mut rows = vec![
            spread_row(&format!("messages, {name}"), &part.messages, None),
            spread_row(&format!("characters, {name}"), &part.characters, None),
        ];
        rows.extend(part.tokens.as_ref().map(|tokens| tokens.row(&format!("tokens, {name}"))));
        spreads.group(rows);
    }
    let mut text = parts.render(boxed) + "\n" + &spreads.render(boxed) + "\n";
    for (name, part) in &stats.parts {
        let roles: Vec<String> = part.roles.iter().map(|(role, count)| format!("{count} {role}")).collect();
        if !roles.is_empty() {
            text += &format!("messages, {name}: {}\n", roles.join(", "));
        }
    }
    text
}
