//! From files of chats to samples: records stream through, and only their tokens stay.

use super::counts::{Fault, SourceReport};
use super::disk::SampleWriter;
use super::overlong::{Fitted, fit_chat, fit_plain};
use super::{OnError, SftCounts, SftDataset, SftOptions};
use crate::chat::{ChatReader, ChatRecord, ChatSource, ChatSplit, PlainText, Record, Side};
use crate::error::{Error, Result};
use burn_models::text::{EndOfTurn, Learn, Specials, SuperviseOptions, Supervised, Tokenizer};
use rayon::prelude::*;
use std::collections::HashSet;
use std::path::Path;

/// How many records are tokenised at a time, and how many bytes of them.
const CHUNK: usize = 512;
const CHUNK_BYTES: usize = 64 << 20;

/// One side of a split.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// How records are split.
    pub split: ChatSplit,
    /// Which side is meant.
    pub side: Side,
    /// The recipe's.
    pub seed: u64,
}

/// What is read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SftSelection {
    /// Where from, in this order.
    pub sources: Vec<ChatSource>,
    /// Only one side of a split; none for everything.
    pub part: Option<Part>,
    /// Of samples with equal tokens only the first is kept, whatever source it is from.
    pub deduplicate: bool,
}

/// What became of a record: its samples, or nothing where it is on the other side of the split.
type Made = Result<Option<Vec<Fitted>>>;

impl SftDataset {
    /// Reads and tokenises one file of conversations: see [`SftDataset::from_chats`].
    ///
    /// # Errors
    /// The same.
    pub fn from_chat(path: &Path, tokenizer: &Tokenizer, options: &SftOptions) -> Result<Self> {
        Self::from_chats(&[path], tokenizer, options)
    }

    /// Reads and tokenises files of conversations of one format, one after the other as if they were one; lines count on from
    /// file to file, but not in messages.
    ///
    /// # Errors
    /// As [`SftDataset::read`].
    pub fn from_chats<P: AsRef<Path>>(paths: &[P], tokenizer: &Tokenizer, options: &SftOptions) -> Result<Self> {
        let selection = SftSelection { sources: vec![ChatSource::of(paths)], ..SftSelection::default() };
        Self::read(&selection, tokenizer, options)
    }

    /// Reads and tokenises sources one after the other; lines count on from file to file, but not in messages.
    ///
    /// # Errors
    /// Fails on files that cannot be read, on records of no known format, and when no sample is left; with
    /// [`OnError::Stop`] also on a malformed record, on one that the chat template refuses and on one in which nothing is
    /// learned. Each names its place.
    pub fn read(selection: &SftSelection, tokenizer: &Tokenizer, options: &SftOptions) -> Result<Self> {
        Self::read_with(selection, tokenizer, options, None)
    }

    /// The same with the tokens in a folder, from which they are mapped into memory: of what is read, only a few hundred records are
    /// in memory at a time. [`SftDataset::load`] opens the folder again.
    ///
    /// # Errors
    /// As [`SftDataset::read`], and a folder that cannot be written to.
    pub fn read_into(
        folder: &Path,
        selection: &SftSelection,
        tokenizer: &Tokenizer,
        options: &SftOptions,
    ) -> Result<Self> {
        let writer = SampleWriter::create(folder)?;
        drop(Self::read_with(selection, tokenizer, options, Some(writer))?);
        Self::load(folder)
    }

    fn read_with(
        selection: &SftSelection,
        tokenizer: &Tokenizer,
        options: &SftOptions,
        writer: Option<SampleWriter>,
    ) -> Result<Self> {
        let mut reading = Reading {
            dataset: Self::default(),
            seen: selection.deduplicate.then(HashSet::new),
            part: selection.part.as_ref(),
            tokenizer,
            options,
            before: 0,
            writer,
        };
        for source in &selection.sources {
            let first = reading.dataset.len();
            let report = reading.source(source)?;
            let Reading { dataset, .. } = &mut reading;
            let count = dataset.len() - first;
            let (copies, more) = source.amount.of(count);
            let per_epoch = (copies * count + more) as u64;
            dataset.counts.add(&report.counts);
            dataset.parts.push((dataset.len() as u64, source.amount));
            dataset.sources.push(SourceReport { per_epoch, ..report });
        }
        let Reading { dataset, writer, .. } = reading;
        if dataset.is_empty() {
            let file = selection.sources.iter().find_map(|source| source.files.first());
            let detail = nothing_left(&dataset.counts, options);
            return Err(Error::Empty { path: file.cloned().unwrap_or_default(), detail });
        }
        if let Some(writer) = writer {
            writer.finish(&dataset)?;
        }
        Ok(dataset)
    }
}

fn nothing_left(counts: &SftCounts, options: &SftOptions) -> String {
    let limit = options.max_length.unwrap_or_default();
    let mut detail = format!("{} conversations, {} of them longer than {limit} tokens", counts.read, counts.overlong);
    for (count, reason) in counts.dropped().into_iter().filter(|(_, reason)| *reason != "too long") {
        detail += &format!(", {count} {reason}");
    }
    if counts.other_side > 0 {
        detail += &format!(", {} on the other side of the split", counts.other_side);
    }
    detail
}

/// A dataset in the making.
struct Reading<'a> {
    dataset: SftDataset,
    /// Hashes of the tokens of the samples so far, 16 bytes each, where equal ones are left out.
    seen: Option<HashSet<[u8; 16]>>,
    part: Option<&'a Part>,
    tokenizer: &'a Tokenizer,
    options: &'a SftOptions,
    /// The lines of the files before.
    before: u64,
    /// Where the tokens go, if not into memory.
    writer: Option<SampleWriter<'a>>,
}

impl Reading<'_> {
    fn source(&mut self, source: &ChatSource) -> Result<SourceReport> {
        let mut report = SourceReport {
            source: source.name.clone(),
            format: source.format,
            files: source.files.len(),
            amount: source.amount,
            ..SourceReport::default()
        };
        let mut layout = source.layout();
        for path in &source.files {
            let mut reader = ChatReader::with(path, layout)?;
            self.file(&mut reader, &mut report)?;
            // What the first file has is expected of the others.
            layout = reader.layout().clone();
            report.format = layout.format;
            self.before += reader.lines();
        }
        Ok(report)
    }

    fn file(&mut self, reader: &mut ChatReader, report: &mut SourceReport) -> Result<()> {
        let path = reader.path().to_path_buf();
        loop {
            let mut chunk: Vec<Record> = Vec::new();
            let mut bytes = 0;
            while chunk.len() < CHUNK && bytes < CHUNK_BYTES {
                let Some(record) = reader.next_record()? else { break };
                bytes += record.bytes();
                chunk.push(record);
            }
            if chunk.is_empty() {
                return Ok(());
            }
            let layout = reader.layout();
            let made: Vec<Made> =
                chunk.par_iter().map(|record| self.made(&path, record.chat(&path, layout)?)).collect();
            for (record, made) in chunk.iter().zip(made) {
                let taken = match made {
                    Ok(Some(samples)) => samples.into_iter().try_for_each(|sample| {
                        report.counts.read += 1;
                        self.sample(&path, record.line(), sample, &mut report.counts)
                    }),
                    Ok(None) => {
                        report.counts.other_side += 1;
                        Ok(())
                    }
                    Err(error) => {
                        report.counts.read += 1;
                        Err((Some(Fault::of(&error)), error))
                    }
                };
                match taken {
                    Ok(()) => {}
                    Err((Some(fault), error)) if self.options.on_error == OnError::Skip => {
                        report.counts.fault(fault);
                        report.example(&error);
                    }
                    Err((_, error)) => return Err(error),
                }
            }
            if let Some(writer) = &mut self.writer {
                writer.append(&mut self.dataset.ids)?;
            }
        }
    }

    /// Adds a sample, unless it is too long or there before; an error that nothing can pass over has no fault.
    fn sample(
        &mut self,
        path: &Path,
        line: u64,
        sample: Fitted,
        counts: &mut SftCounts,
    ) -> std::result::Result<(), (Option<Fault>, Error)> {
        if let (Some(seen), Fitted::Whole(sample) | Fitted::Cut(sample)) = (&mut self.seen, &sample) {
            let hash = blake3::hash(bytemuck::cast_slice(&sample.ids));
            let (short, _) = hash.as_bytes().split_first_chunk().unwrap_or((&[0; 16], &[]));
            if !seen.insert(*short) {
                counts.duplicate += 1;
                return Ok(());
            }
        }
        let is_long = matches!(sample, Fitted::TooLong(_));
        let kept = self.dataset.len();
        match self.dataset.take(path, line, sample, self.options, counts) {
            Ok(()) => {
                if let Some(own) = self.dataset.lines.get_mut(kept) {
                    *own = u32::try_from(self.before + line).unwrap_or(u32::MAX);
                }
                Ok(())
            }
            Err(error) if is_long => Err((None, error)),
            Err(error) => Err((Some(Fault::NothingLearned), error)),
        }
    }

    /// The samples of a record.
    fn made(&self, path: &Path, record: ChatRecord) -> Made {
        if let Some(Part { split, side, seed }) = self.part
            && split.side(path, &record, *seed)? != *side
        {
            return Ok(None);
        }
        let samples = match &record.plain {
            Some(plain) => self.plain(plain),
            None => self.chat(&record),
        };
        let line = record.line;
        samples.map(Some).map_err(|source| Error::Text { path: path.to_path_buf(), line, source: Box::new(source) })
    }

    fn chat(&self, record: &ChatRecord) -> burn_models::Result<Vec<Fitted>> {
        let (tokenizer, options) = (self.tokenizer, self.options);
        let own;
        let supervise = match record.only_read {
            0 => &options.supervise,
            only_read => {
                own = SuperviseOptions { only_read, ..options.supervise.clone() };
                &own
            }
        };
        let samples = tokenizer.supervised_chats(&record.messages, record.tools.as_deref(), supervise)?;
        // With a sample for each reply it ends with that reply.
        let is_reply = |turn: &usize| record.messages[*turn].role() == "assistant" && *turn >= record.only_read;
        let ends: Vec<usize> = match supervise.learn {
            Learn::EachReply => (0..record.messages.len()).filter(is_reply).map(|turn| turn + 1).collect(),
            _ => vec![record.messages.len()],
        };
        samples.into_iter().zip(ends).map(|(sample, end)| fit_chat(sample, record, end, tokenizer, options)).collect()
    }

    /// A text as it is, with the token that ends it. Special tokens in it are recognised: it may be a chat that a template has
    /// written before.
    fn plain(&self, PlainText { prompt, learned }: &PlainText) -> burn_models::Result<Vec<Fitted>> {
        let end = self.tokenizer.eos_ids().first().copied();
        let whole = self.tokenizer.encode_added(if prompt.is_empty() { learned } else { prompt }, Specials::Parse)?;
        let mut ids = whole;
        let bos = usize::from(self.tokenizer.bos_id().is_some() && ids.first().copied() == self.tokenizer.bos_id());
        let mut only_read = bos;
        if !prompt.is_empty() {
            // What is put behind a text would stand in its middle here.
            while ids.len() > bos && ids.last().copied() == end {
                ids.pop();
            }
            only_read = ids.len();
            ids.extend(self.tokenizer.encode(learned, Specials::Parse)?);
        }
        if learned.is_empty() {
            let problem = "the text is empty: there is nothing to learn".into();
            return Err(burn_models::Error::NothingLearned { problem });
        }
        let mut weights = vec![1.0; ids.len()];
        weights[..only_read].fill(0.0);
        if let Some(end) = end {
            let stop = f32::from(u8::from(self.options.supervise.end_of_turn != EndOfTurn::Ignore));
            match ids.last() == Some(&end) {
                true => *weights.last_mut().unwrap_or(&mut 0.0) = stop,
                false => {
                    ids.push(end);
                    weights.push(stop);
                }
            }
        }
        Ok(vec![fit_plain(Supervised { ids, weights }, bos, only_read, self.options)])
    }
}
