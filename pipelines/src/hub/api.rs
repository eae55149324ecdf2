//! What is asked of the server.

use super::error::Error;
use super::names::{Kind, Repo, is_commit};
use serde::Deserialize;
use std::time::Duration;
use ureq::http::{HeaderMap, Response, StatusCode, Uri};
use ureq::{Agent, Body};

/// Longer lists of files are not read.
const MAX_JSON: u64 = 16 << 20;
/// More than any server needs.
const MAX_HOPS: usize = 8;

/// One server.
pub(super) struct Api {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
}

/// Without the token.
impl std::fmt::Debug for Api {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Api").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

/// A repository at a commit.
#[derive(Debug)]
pub(super) struct Info {
    pub(super) sha: String,
    pub(super) files: Vec<String>,
}

/// A file as the server announces it.
#[derive(Debug)]
pub(super) struct Announced {
    pub(super) file: String,
    /// Names the content; of large files it is their SHA-256.
    pub(super) etag: String,
    pub(super) size: u64,
}

impl Api {
    pub(super) fn new(endpoint: &str, token: Option<String>) -> Result<Self, Error> {
        if crate::client::url_problem(endpoint).is_some() {
            let problem = "is no address of a server, such as https://huggingface.co";
            return Err(Error::Setting { name: "HF_ENDPOINT", problem });
        }
        if token.as_ref().is_some_and(|token| !token.bytes().all(|byte| byte.is_ascii_graphic())) {
            let problem = "holds no token: visible ASCII characters only";
            return Err(Error::Setting { name: "HF_TOKEN", problem });
        }
        let config = Agent::config_builder()
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            // A transfer that takes longer is broken off and goes on in another request.
            .timeout_recv_body(Some(Duration::from_secs(600)))
            // Redirects are followed here: the token must not go along.
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(concat!("hearth/", env!("CARGO_PKG_VERSION")))
            .build();
        Ok(Self { agent: config.into(), endpoint: endpoint.trim_end_matches('/').into(), token })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The commit that a revision stands for, and its files.
    pub(super) fn info(&self, repo: &Repo) -> Result<Info, Error> {
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            #[serde(default)]
            siblings: Vec<Sibling>,
        }
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        let (kind, revision) = (repo.kind.plural(), repo.revision.replace('/', "%2F"));
        let url = format!("{}/api/{kind}/{}/revision/{revision}", self.endpoint, repo.id);
        let (mut response, _) = self.send(repo, &url, Method::Get { from: 0 })?;
        if !response.status().is_success() {
            return Err(self.refusal(repo, &url, &response));
        }
        let wrong = |reason: String| Error::Answer { repo: repo.to_string(), url: url.clone(), reason };
        let text = response.body_mut().with_config().limit(MAX_JSON).read_to_vec();
        let text = text.map_err(|e| wrong(format!("the list of files cannot be read: {e}")))?;
        let answer: Answer =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("the answer is no list of files: {e}")))?;
        if !is_commit(&answer.sha) {
            return Err(wrong("the answer names no commit".into()));
        }
        let mut files: Vec<String> = answer.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        files.sort();
        files.dedup();
        Ok(Info { sha: answer.sha, files })
    }

    /// The address of a file.
    pub(super) fn file_url(&self, repo: &Repo, commit: &str, file: &str) -> String {
        let kind = if repo.kind == Kind::Dataset { "datasets/" } else { "" };
        format!("{}/{kind}{}/resolve/{commit}/{}", self.endpoint, repo.id, encode(file))
    }

    /// Size and name of a file's content.
    pub(super) fn announced(&self, repo: &Repo, commit: &str, file: &str) -> Result<Announced, Error> {
        let url = self.file_url(repo, commit, file);
        let (response, _) = self.send(repo, &url, Method::Head)?;
        if !response.status().is_success() && !response.status().is_redirection() {
            return Err(self.refusal(repo, &url, &response));
        }
        let headers = response.headers();
        let wrong = |reason: &str| Error::Answer { repo: repo.to_string(), url: url.clone(), reason: reason.into() };
        if text(headers, "x-repo-commit").is_some_and(|found| found != commit) {
            return Err(wrong("the answer is about another commit"));
        }
        let etag = text(headers, "x-linked-etag").or(text(headers, "etag")).map(plain_etag);
        let size = text(headers, "x-linked-size").or(text(headers, "content-length"));
        let etag = etag.filter(|etag| is_etag(etag)).ok_or_else(|| wrong("the answer has no usable etag"))?;
        let size =
            size.and_then(|size| size.parse().ok()).ok_or_else(|| wrong("the answer does not say how long it is"))?;
        Ok(Announced { file: file.to_owned(), etag: etag.to_owned(), size })
    }

    /// A file's bytes from number `from` on. The answer may begin at 0 all the same: see its status.
    pub(super) fn content(&self, repo: &Repo, commit: &str, file: &str, from: u64) -> Result<Response<Body>, Error> {
        let url = self.file_url(repo, commit, file);
        let (response, at) = self.send(repo, &url, Method::Get { from })?;
        match response.status() {
            status if status.is_success() || status == StatusCode::RANGE_NOT_SATISFIABLE => Ok(response),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                let reason = format!("the server answers {status}");
                Err(Error::Unreachable { repo: repo.to_string(), url: at, reason })
            }
            _ => Err(self.refusal(repo, &at, &response)),
        }
    }

    /// Sends a request and follows redirects: within the endpoint for everything, elsewhere for contents only, and without the
    /// token. Also gives the last address, without its query, which may hold a signature.
    fn send(&self, repo: &Repo, url: &str, method: Method) -> Result<(Response<Body>, String), Error> {
        let mut at = url.to_owned();
        for _ in 0..MAX_HOPS {
            let ours = same_server(&at, &self.endpoint);
            let shown = at.split('?').next().unwrap_or_default().to_owned();
            let mut request = match method {
                Method::Head => self.agent.head(&at),
                Method::Get { .. } => self.agent.get(&at),
            }
            .header("accept-encoding", "identity");
            if let (true, Some(token)) = (ours, &self.token) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if let Method::Get { from } = method
                && from > 0
            {
                request = request.header("range", format!("bytes={from}-"));
            }
            let unreachable =
                |reason: String| Error::Unreachable { repo: repo.to_string(), url: shown.clone(), reason };
            let response = request.call().map_err(|error| unreachable(error.to_string()))?;
            let Some(next) = text(response.headers(), "location").filter(|_| response.status().is_redirection()) else {
                return Ok((response, shown));
            };
            let next = resolve(&at, next).ok_or_else(|| Error::Answer {
                repo: repo.to_string(),
                url: shown.clone(),
                reason: "it redirects to something that is no address".into(),
            })?;
            // What a file is, the endpoint says itself; where its bytes are is another matter.
            if matches!(method, Method::Head) && !same_server(&next, &self.endpoint) {
                return Ok((response, shown));
            }
            if at.starts_with("https:") && !next.starts_with("https:") {
                let reason = "it redirects to an address without encryption".into();
                return Err(Error::Answer { repo: repo.to_string(), url: shown, reason });
            }
            at = next;
        }
        Err(Error::Answer { repo: repo.to_string(), url: url.into(), reason: "it redirects in circles".into() })
    }

    /// What a status that is none of success means.
    fn refusal(&self, repo: &Repo, url: &str, response: &Response<Body>) -> Error {
        let (name, status) = (repo.to_string(), response.status());
        let code = text(response.headers(), "x-error-code").unwrap_or_default();
        match (status.as_u16(), code) {
            (_, "RevisionNotFound") => Error::NoRevision { repo: name, revision: repo.revision.clone() },
            (404, "EntryNotFound") => {
                Error::Answer { repo: name, url: url.into(), reason: "there is no such file".into() }
            }
            (401 | 403 | 404, _) => Error::NoAccess {
                repo: name,
                endpoint: self.endpoint.clone(),
                status: status.as_u16(),
                token: self.token.is_some(),
            },
            (408 | 429 | 500.., _) => {
                Error::Unreachable { repo: name, url: url.into(), reason: format!("the server answers {status}") }
            }
            _ => Error::Answer { repo: name, url: url.into(), reason: format!("the server answers {status}") },
        }
    }
}

#[derive(Clone, Copy)]
enum Method {
    Head,
    Get { from: u64 },
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// An etag without its quotes and the mark of a weak one.
fn plain_etag(etag: &str) -> &str {
    etag.trim().trim_start_matches("W/").trim_matches('"')
}

/// Whether an etag can be the name of a file.
fn is_etag(etag: &str) -> bool {
    (1..=200).contains(&etag.len()) && etag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// A path with everything escaped that has a meaning in addresses.
fn encode(path: &str) -> String {
    let mut escaped = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Whether two addresses lead to one server: scheme, host and port.
fn same_server(a: &str, b: &str) -> bool {
    let key = |url: &str| {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some((scheme, uri.host()?.to_ascii_lowercase(), port))
    };
    key(a).is_some() && key(a) == key(b)
}

/// The address that a redirect at `base` leads to.
fn resolve(base: &str, location: &str) -> Option<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return location.parse::<Uri>().ok().map(|_| location.to_owned());
    }
    let uri: Uri = base.parse().ok()?;
    let next = match location {
        _ if location.starts_with("//") => format!("{}:{location}", uri.scheme_str()?),
        _ if location.starts_with('/') => format!("{}://{}{location}", uri.scheme_str()?, uri.authority()?),
        _ => return None,
    };
    next.parse::<Uri>().ok().map(|_| next)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert!(same_server("https://a/x", "https://A:443") && !same_server("https://a/x", "http://a"));
        assert!(!same_server("http://a:1/x", "http://a:2") && !same_server("https://a.b.c/", "https://a.b"));
        assert!(!same_server("https://a@evil/", "https://a") && !same_server("x", "x"));
        assert_eq!(resolve("https://a:5/x/y?z", "/b").unwrap(), "https://a:5/b");
        assert_eq!(resolve("https://a/x", "//c/d").unwrap(), "https://c/d");
        assert_eq!(resolve("https://a/x", "http://c/d").unwrap(), "http://c/d");
        assert_eq!(resolve("https://a/x", "b"), None);
        assert_eq!(encode("a b/ü#?.json"), "a%20b/%C3%BC%23%3F.json");
        assert_eq!(plain_etag("W/\"ab\""), "ab");
        assert!(is_etag("0a-b") && !is_etag("") && !is_etag("../x") && !is_etag("a.lock"));
    }
}
