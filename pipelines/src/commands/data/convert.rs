//! `hearth data convert`: records between JSON lines, compressed ones and Parquet.
//!
//! A table has columns, and a record of FLORA-Bench has not: the keys of its `nodes` differ from record to record, and their
//! order counts. In Parquet `nodes` is therefore a list of `{id, text}`; back in JSON lines it is an object again. Tool calls
//! and lists of content parts have no columns either: chats with them stay JSON lines.

use super::super::rows::wrong;
use crate::cli::args::{ConvertArgs, RecordFormat};
use crate::cli::print;
use crate::run::Error;
use datasets::chat::ChatRecord;
use datasets::flora::{Labels, ReadOptions, check_record};
use datasets::table::{Row, RowWriter, is_parquet_name, read_rows};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Writes the records of the input in the form of the output, each checked.
///
/// # Errors
/// A record that is not of its format, or has no place in a table.
pub fn convert(args: &ConvertArgs) -> crate::Result<()> {
    let (count, format) = write(args)?;
    if datasets::table::is_standard_stream(&args.output) {
        return Ok(());
    }
    print(&format!("{}: {count} {}\n", args.output.display(), format.plural()))
}

fn write(args: &ConvertArgs) -> Result<(usize, RecordFormat), Error> {
    let (input, table) = (args.input.as_path(), is_parquet_name(&args.output));
    let mut writer = RowWriter::create(&args.output)?;
    let (mut count, mut format) = (0, args.format);
    for row in read_rows(input)? {
        let mut row = row?;
        let format = *format.get_or_insert_with(|| match &row.map {
            map if map.contains_key("nodes") && map.contains_key("edge_index") => RecordFormat::Flora,
            map if map.contains_key("messages") => RecordFormat::Chat,
            _ => RecordFormat::Rows,
        });
        match format {
            RecordFormat::Flora => flora(input, &mut row, table)?,
            RecordFormat::Chat => chat(input, &mut row, table)?,
            RecordFormat::Rows => {}
        }
        writer.write(&row.map)?;
        count += 1;
    }
    if count == 0 {
        return Err(datasets::Error::Empty { path: input.to_owned(), detail: "there are no rows".into() }.into());
    }
    writer.finish()?;
    Ok((count, format.unwrap_or(RecordFormat::Rows)))
}

/// Brings `nodes` into the form of the output, and checks the record.
fn flora(path: &Path, row: &mut Row, table: bool) -> Result<(), Error> {
    if let Some(Value::Array(list)) = row.map.get("nodes") {
        let mut nodes = Map::new();
        for node in list {
            let (Some(id), Some(text)) = (node["id"].as_str(), node["text"].as_str()) else {
                return Err(wrong(path, row, "nodes", "a list of {id, text}", node, ""));
            };
            if nodes.insert(id.to_owned(), text.into()).is_some() {
                return Err(wrong(path, row, "nodes", "each id once", format!("{id} twice"), ""));
            }
        }
        row.map.insert("nodes".into(), nodes.into());
    }
    let text = Value::Object(row.map.clone()).to_string();
    check_record(path, row.line, &text, &ReadOptions { labels: Labels::Optional, ..ReadOptions::default() })?;
    if table && let Some(Value::Object(nodes)) = row.map.get("nodes") {
        let list: Vec<Value> = nodes.iter().map(|(id, text)| json!({ "id": id, "text": text })).collect();
        row.map.insert("nodes".into(), list.into());
    }
    Ok(())
}

/// Checks a chat; for a table, that its messages have columns.
fn chat(path: &Path, row: &mut Row, table: bool) -> Result<(), Error> {
    if let Some(Value::Array(messages)) = row.map.get_mut("messages") {
        for message in messages {
            let Value::Object(message) = message else { continue };
            // A key that another message has is null here after a table.
            message.retain(|_, value| !value.is_null());
            if table && (message.contains_key("tool_calls") || !message.get("content").is_none_or(Value::is_string)) {
                let found = "tool calls or parts of content";
                return Err(wrong(path, row, "messages", "texts only in Parquet", found, "write .jsonl.zst"));
            }
        }
    }
    if table && row.map.get("tools").is_some_and(|tools| !tools.is_null()) {
        return Err(wrong(path, row, "tools", "no tools in Parquet", "some", "write .jsonl.zst"));
    }
    ChatRecord::from_map(path, row.line, row.map.clone())?;
    Ok(())
}
