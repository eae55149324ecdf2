//! A conversation and its model.

use super::problem;
use crate::cli::args::ChatArgs;
use crate::run::Error;
use burn_models::decoder::Decoder;
use burn_models::generate::{Engine, EngineConfig, Event, FinishReason, Generation, Request};
use burn_models::text::{ChatOptions, Message, Tokenizer};
use datasets::atomic::write_file;
use serde_json::json;
use std::path::Path;

/// A conversation. Each message is answered after all before it; as far as their token ids are those of the last time, nothing is
/// computed again.
pub(super) struct Session<'a> {
    args: &'a ChatArgs,
    tokenizer: &'a Tokenizer,
    engine: Engine<'a>,
    positions: usize,
    options: ChatOptions,
    stop_ids: Vec<u32>,
    system: Option<Message>,
    turns: Vec<Message>,
    /// Replies so far, those that were taken back included: each has random numbers of its own.
    replies: u64,
}

impl<'a> Session<'a> {
    pub(super) fn new(args: &'a ChatArgs, model: &'a Decoder, tokenizer: &'a Tokenizer) -> Result<Self, Error> {
        let engine = Engine::new(model, Some(tokenizer), EngineConfig { batch_size: 1, keep: true })?;
        let mut stop_ids = model.config().eos_token_id.clone();
        stop_ids.extend_from_slice(tokenizer.eos_ids());
        let mut session = Self {
            args,
            tokenizer,
            engine,
            positions: model.config().max_position_embeddings,
            options: ChatOptions { enable_thinking: args.no_thinking.then_some(false), ..ChatOptions::prompt() },
            stop_ids,
            system: None,
            turns: Vec::new(),
            replies: 0,
        };
        session.system(args.system.as_deref().unwrap_or_default());
        Ok(session)
    }

    /// All messages.
    pub(super) fn messages(&self) -> Vec<Message> {
        self.system.iter().chain(&self.turns).cloned().collect()
    }

    /// Begins again; the system message stays.
    pub(super) fn reset(&mut self) {
        self.turns.clear();
    }

    /// Sets the system message; none for an empty text.
    pub(super) fn system(&mut self, text: &str) {
        self.system = (!text.is_empty()).then(|| Message::system(text));
    }

    /// Takes back the last message and its reply; false if there is none.
    pub(super) fn undo(&mut self) -> bool {
        let last = self.turns.iter().rposition(|message| message.role() == "user");
        self.turns.truncate(last.unwrap_or(0));
        last.is_some()
    }

    /// Writes the conversation as a line of JSON.
    pub(super) fn save(&self, path: &Path) -> Result<(), Error> {
        let line = json!({ "messages": self.messages() }).to_string() + "\n";
        Ok(write_file(path, line.as_bytes())?)
    }

    /// Answers a message. `show` gets the reply piece by piece; the reply ends early once `stop` is true. After an error the
    /// conversation is as it was.
    pub(super) fn reply(
        &mut self,
        text: &str,
        mut show: impl FnMut(&str) -> crate::Result<()>,
        stop: impl Fn() -> bool,
    ) -> crate::Result<FinishReason> {
        self.turns.push(Message::user(text));
        let reply = self.write(&mut show, stop);
        let answer = match reply {
            Ok(answer) => answer,
            Err(error) => {
                self.turns.pop();
                return Err(error);
            }
        };
        self.turns.push(Message::assistant(answer.text.unwrap_or_default()));
        Ok(answer.finish_reason)
    }

    fn write(
        &mut self,
        show: &mut impl FnMut(&str) -> crate::Result<()>,
        stop: impl Fn() -> bool,
    ) -> crate::Result<Generation> {
        let prompt = self.tokenizer.encode_chat(&self.messages(), None, &self.options).map_err(Error::from)?;
        let (length, positions) = (prompt.len(), self.positions);
        if length >= positions {
            let reason =
                format!("the conversation has {length} tokens, the model {positions} positions: /reset or /undo");
            return Err(problem(reason).into());
        }
        let before = self.engine.stats().prefilled_tokens;
        let request = Request {
            prompt,
            sampling: self.args.filters.sampling(self.args.temperature),
            max_new_tokens: self.args.max_new_tokens,
            stop_ids: Some(self.stop_ids.clone()),
            seed: self.args.seed,
            stream: self.replies,
            streamed: true,
            ..Request::default()
        };
        let number = self.engine.push(request).map_err(Error::from)?;
        self.replies += 1;
        let (mut answer, mut shown) = (None, Ok(()));
        let mut on = |event: Event| match event {
            Event::Token { text, .. } if !text.is_empty() && shown.is_ok() => shown = show(text),
            Event::Token { .. } => {}
            Event::Done { generation, .. } => answer = Some(generation),
        };
        while self.engine.step(&mut on).map_err(Error::from)? {
            if stop() {
                self.engine.cancel(number, &mut on).map_err(Error::from)?;
            }
        }
        shown?;
        let computed = self.engine.stats().prefilled_tokens - before;
        tracing::debug!("{computed} of {length} prompt tokens computed");
        answer.ok_or_else(|| problem("the engine gave no reply".into()).into())
    }
}
