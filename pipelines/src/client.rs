//! A client of OpenAI-compatible servers: chat completions, asked again when that may help.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use ureq::http::Uri;

use crate::recipe::Client;
use crate::train::stop_requested;

/// Longer answers are not read.
const MAX_BODY: u64 = 16 << 20;
/// What is shown of an answer that cannot be used, in characters.
const EXCERPT: usize = 300;
/// The longest pause between two tries.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The environment has no usable key.
    #[error("`client.key`: the environment variable {name} {problem}")]
    Key {
        /// The variable's name.
        name: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The server refused, and would again.
    #[error("{url}: the server answers {status}: {excerpt}")]
    Refused {
        /// The address.
        url: String,
        /// The status.
        status: u16,
        /// The beginning of what it says.
        excerpt: String,
    },
    /// Every try failed.
    #[error(
        "{url}: no answer after {tries} tries; the last one: {reason}; answers so far are kept, run again to go on"
    )]
    Failed {
        /// The address.
        url: String,
        /// How often the question was asked.
        tries: usize,
        /// What came of the last try.
        reason: String,
    },
    /// The run was asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// The text.
    pub content: String,
    /// Why it ends, such as `stop` or `length`.
    #[serde(default)]
    pub finish_reason: Option<String>,
    /// Tokens of the question, where the server counts them.
    #[serde(default)]
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer, where the server counts them.
    #[serde(default)]
    pub completion_tokens: Option<u64>,
}

/// One server.
pub struct ChatClient {
    agent: ureq::Agent,
    url: String,
    key: Option<String>,
    retries: usize,
    wait: Duration,
}

/// Without the key.
impl std::fmt::Debug for ChatClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatClient").field("url", &self.url).finish_non_exhaustive()
    }
}

/// What is wrong with the address of a server, in words that follow its name; it may hold no password, because it is printed.
pub fn url_problem(url: &str) -> Option<&'static str> {
    const FORM: &str = "has to begin with http:// or https:// and a server";
    let Ok(uri) = url.parse::<Uri>() else { return Some(FORM) };
    match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) if authority.as_str().contains('@') => {
            Some("holds a user or password; use `client.key`")
        }
        (Some("http" | "https"), Some(authority)) if authority.host().is_empty() => Some("names no server"),
        (Some("http" | "https"), Some(_)) if uri.query().is_some() => Some("holds a query, which has no place in it"),
        (Some("http" | "https"), Some(_)) => None,
        _ => Some(FORM),
    }
}

/// How a try ended that gave no answer.
enum Failure {
    /// It may pass; the server may have said after how long.
    Passing(String, Option<Duration>),
    Final(Error),
}

impl ChatClient {
    /// A client of the server at `url`, such as `http://localhost:7999/v1`. Takes the key from the environment.
    ///
    /// # Errors
    /// [`Error::Key`].
    pub fn new(url: &str, settings: &Client) -> Result<Self, Error> {
        let key = match settings.key.as_deref().map(|key| key.strip_prefix("env:").unwrap_or_default()) {
            None => None,
            Some(name) => {
                let wrong = |problem| Error::Key { name: name.into(), problem };
                let key = std::env::var(name).map_err(|_| wrong("is not set, or is not UTF-8"))?;
                let key = key.trim();
                if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(wrong("does not hold a key: visible ASCII characters only"));
                }
                Some(key.to_owned())
            }
        };
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs_f64(settings.timeout_seconds)))
            // A status is part of the answer here; and a key is not to be sent on to another server.
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections_per_host(settings.concurrency)
            .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self {
            agent: config.into(),
            url: format!("{}/chat/completions", url.trim_end_matches('/')),
            key,
            retries: settings.retries,
            wait: Duration::from_secs_f64(settings.wait_seconds),
        })
    }

    /// Asks until there is an answer: after no connection, no answer in time, status 408, 409, 425, 429 or 5xx and answers that
    /// make no sense, again after a pause that doubles each time (or is as long as the server says), as often as the settings
    /// allow. `request` is the body of a chat completion.
    ///
    /// # Errors
    /// [`Error::Refused`] at once for any other status, [`Error::Failed`] when all tries are used up,
    /// [`Error::Interrupted`].
    pub fn complete(&self, request: &Value) -> Result<Completion, Error> {
        let body = request.to_string();
        let mut reason = String::new();
        for attempt in 0..=self.retries {
            if stop_requested() {
                return Err(Error::Interrupted);
            }
            match self.ask(&body) {
                Ok(completion) => return Ok(completion),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Passing(why, after)) => {
                    tracing::debug!(attempt, "{}: {why}", self.url);
                    reason = why;
                    if attempt < self.retries {
                        pause(after.unwrap_or_else(|| self.backoff(&body, attempt)))?;
                    }
                }
            }
        }
        Err(Error::Failed { url: self.url.clone(), tries: self.retries + 1, reason })
    }

    /// `wait · 2^attempt`, less up to a half of it by chance, so that questions that failed together are not asked again
    /// together.
    fn backoff(&self, body: &str, attempt: usize) -> Duration {
        let longest = self.wait.saturating_mul(1 << attempt.min(16)).min(MAX_WAIT);
        let mut hasher = blake3::Hasher::new();
        hasher.update(body.as_bytes()).update(&(attempt as u64).to_le_bytes());
        longest.mul_f64(1.0 - f64::from(hasher.finalize().as_bytes()[0]) / 512.0)
    }

    fn ask(&self, body: &str) -> Result<Completion, Failure> {
        let passing = |reason: String| Failure::Passing(self.without_key(&reason), None);
        let mut post = self.agent.post(&self.url).header("content-type", "application/json");
        if let Some(key) = &self.key {
            post = post.header("authorization", format!("Bearer {key}"));
        }
        let mut response = post.send(body).map_err(|error| match error {
            ureq::Error::Timeout(_) => passing("it took too long (`client.timeout_seconds`)".into()),
            other => passing(other.to_string()),
        })?;
        let status = response.status();
        let after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let after = after.map(|seconds: u64| Duration::from_secs(seconds).min(MAX_WAIT));
        let text = response.body_mut().with_config().limit(MAX_BODY).lossy_utf8(true).read_to_string();
        let text = text.map_err(|error| passing(format!("its answer breaks off: {error}")))?;
        if !status.is_success() {
            let excerpt = self.excerpt(&text);
            let again = matches!(status.as_u16(), 408 | 409 | 425 | 429) || status.is_server_error();
            return Err(if again {
                Failure::Passing(format!("the server answers {status}: {excerpt}"), after)
            } else {
                Failure::Final(Error::Refused { url: self.url.clone(), status: status.as_u16(), excerpt })
            });
        }
        read(&text)
            .ok_or_else(|| passing(format!("the server's answer is no chat completion: {}", self.excerpt(&text))))
    }

    /// The beginning of a text, on one line.
    fn excerpt(&self, text: &str) -> String {
        let line = self.without_key(text).split_whitespace().collect::<Vec<_>>().join(" ");
        match line.char_indices().nth(EXCERPT) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    }

    /// Servers quote what they were sent.
    fn without_key(&self, text: &str) -> String {
        match &self.key {
            Some(key) => text.replace(key.as_str(), "…"),
            None => text.to_owned(),
        }
    }
}

/// The body of a chat completion.
pub fn request(model: &str, messages: &[burn_models::text::Message], temperature: f64, max_tokens: usize) -> Value {
    json!({ "model": model, "messages": messages, "temperature": temperature, "max_tokens": max_tokens })
}

/// The first choice of a chat completion.
fn read(text: &str) -> Option<Completion> {
    #[derive(Deserialize)]
    struct Answer {
        choices: Vec<Choice>,
        #[serde(default)]
        usage: Option<Usage>,
    }
    #[derive(Deserialize)]
    struct Choice {
        message: Reply,
        #[serde(default)]
        finish_reason: Option<String>,
    }
    #[derive(Deserialize)]
    struct Reply {
        // Null where a model was cut off before it said anything.
        #[serde(default)]
        content: Option<String>,
    }
    #[derive(Deserialize)]
    struct Usage {
        #[serde(default)]
        prompt_tokens: Option<u64>,
        #[serde(default)]
        completion_tokens: Option<u64>,
    }
    let answer: Answer = serde_json::from_str(text).ok()?;
    let choice = answer.choices.into_iter().next()?;
    Some(Completion {
        content: choice.message.content.unwrap_or_default(),
        finish_reason: choice.finish_reason,
        prompt_tokens: answer.usage.as_ref().and_then(|usage| usage.prompt_tokens),
        completion_tokens: answer.usage.as_ref().and_then(|usage| usage.completion_tokens),
    })
}

/// Waits, unless the run is asked to stop.
fn pause(time: Duration) -> Result<(), Error> {
    let end = Instant::now() + time;
    loop {
        if stop_requested() {
            return Err(Error::Interrupted);
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_looked_at() {
        for url in ["http://localhost:7999/v1", "https://example.org", "http://[::1]:80/v1/"] {
            assert_eq!(url_problem(url), None, "{url}");
        }
        for url in ["", "localhost:7999", "ftp://a/b", "http://", "http://u:p@a/v1", "http://a/v1?key=1", "http://a b"]
        {
            assert!(url_problem(url).is_some(), "{url}");
        }
    }

    #[test]
    fn the_first_choice_is_read() {
        let text = r#"{"id": 1, "choices": [{"message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"},
            {"message": {"content": "b"}}], "usage": {"prompt_tokens": 3, "completion_tokens": 1, "more": null}}"#;
        let want = Completion {
            content: "a".into(),
            finish_reason: Some("stop".into()),
            prompt_tokens: Some(3),
            completion_tokens: Some(1),
        };
        assert_eq!(read(text), Some(want));
        let silent = read(r#"{"choices": [{"message": {"content": null}, "finish_reason": "length"}]}"#);
        assert_eq!(silent.map(|c| (c.content, c.finish_reason)), Some((String::new(), Some("length".into()))));
        for text in ["", "{}", "null", "<html>", r#"{"choices": []}"#, r#"{"choices": [{}]}"#, r#"{"error": "x"}"#] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
