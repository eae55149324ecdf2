//! A hub on the loopback device: files of one repository, and all that can go wrong with them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A request as it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// The path with its query.
    pub path: String,
    /// The header `authorization`.
    pub authorization: Option<String>,
    /// The header `range`.
    pub range: Option<String>,
}

/// What the hub serves, and how.
#[derive(Debug, Clone, Default)]
pub struct Repository {
    /// `org/name`, with `datasets/` before that of a data set.
    pub id: String,
    /// The commit of `main`.
    pub commit: String,
    /// Files by name.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Where contents are redirected to; none for no redirect.
    pub contents_at: Option<String>,
    /// Contents break off after so many bytes, this often.
    pub torn: (usize, usize),
    /// So many contents arrive with a wrong byte.
    pub damaged: usize,
    /// The token without which nothing is served.
    pub token: Option<String>,
    /// Names in the list of files that are no files.
    pub listed: Vec<String>,
}

/// The server; it stops when it is dropped.
pub struct HubServer {
    /// `http://127.0.0.1:<port>`.
    pub url: String,
    port: u16,
    state: Arc<State>,
}

struct State {
    repository: Mutex<Repository>,
    requests: Mutex<Vec<Request>>,
    stop: AtomicBool,
}

/// SHA-256 in hexadecimal: the etag of large files.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl HubServer {
    /// Starts a server of a repository.
    pub fn start(repository: Repository) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            repository: Mutex::new(repository),
            requests: Mutex::new(Vec::new()),
            stop: AtomicBool::new(false),
        });
        let shared = state.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // A client that goes away is no fault of the server.
                    let _ = stream.and_then(|stream| serve(stream, &shared));
                });
            }
        });
        Self { url: format!("http://127.0.0.1:{port}"), port, state }
    }

    /// All requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.state.requests.lock().unwrap())
    }

    /// Changes what is served.
    pub fn change(&self, change: impl FnOnce(&mut Repository)) {
        change(&mut self.state.repository.lock().unwrap());
    }
}

impl Drop for HubServer {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(mut stream: TcpStream, state: &State) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(());
    }
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let (mut authorization, mut range) = (None, None);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.trim_end().split_once(": ") else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = Some(value.to_owned()),
            "range" => range = Some(value.to_owned()),
            _ => {}
        }
    }
    let request = Request { method, path, authorization, range };
    state.requests.lock().unwrap().push(request.clone());
    let (head, body) = answer(&mut state.repository.lock().unwrap(), &request);
    write!(stream, "HTTP/1.1 {head}connection: close\r\n\r\n")?;
    if request.method != "HEAD" {
        stream.write_all(&body)?;
    }
    stream.flush()
}

/// Status line with headers, and body.
fn answer(repository: &mut Repository, request: &Request) -> (String, Vec<u8>) {
    let refuse =
        |status: &str, code: &str| (format!("{status} X\r\nx-error-code: {code}\r\ncontent-length: 0\r\n"), vec![]);
    let path = request.path.split('?').next().unwrap_or_default();
    if let Some(etag) = path.strip_prefix("/contents/") {
        let content = repository.files.values().find(|content| sha256(content) == etag).cloned();
        return content
            .map_or_else(|| refuse("404", "EntryNotFound"), |content| send(repository, request, content, etag));
    }
    if let Some(token) = &repository.token
        && request.authorization.as_deref() != Some(&format!("Bearer {token}"))
    {
        return refuse("401", "RepoNotFound");
    }
    let api = match repository.id.strip_prefix("datasets/") {
        Some(id) => format!("/api/datasets/{id}/revision/"),
        None => format!("/api/models/{}/revision/", repository.id),
    };
    let resolve = format!("/{}/resolve/{}/", repository.id, repository.commit);
    if let Some(revision) = path.strip_prefix(&api) {
        if revision != "main" && revision != repository.commit {
            return refuse("404", "RevisionNotFound");
        }
        let names = repository.files.keys().chain(&repository.listed);
        let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": repository.commit, "siblings": siblings, "more": 1 }).to_string();
        return (format!("200 OK\r\ncontent-length: {}\r\n", body.len()), body.into_bytes());
    }
    let Some(content) = path.strip_prefix(&resolve).and_then(|file| repository.files.get(file)).cloned() else {
        return refuse("404", "RepoNotFound");
    };
    let (etag, size) = (sha256(&content), content.len());
    match repository.contents_at.clone() {
        Some(url) => {
            let head = format!(
                "302 Found\r\nlocation: {url}/contents/{etag}?signature=secret\r\nx-repo-commit: {}\r\n\
                 x-linked-etag: \"{etag}\"\r\nx-linked-size: {size}\r\ncontent-length: 0\r\n",
                repository.commit
            );
            (head, vec![])
        }
        None => send(repository, request, content, &etag),
    }
}

fn send(repository: &mut Repository, request: &Request, mut content: Vec<u8>, etag: &str) -> (String, Vec<u8>) {
    let size = content.len();
    let from = request.range.as_deref().and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
    let from: usize = from.unwrap_or(0);
    if from >= size && from > 0 {
        return ("416 X\r\ncontent-length: 0\r\n".into(), vec![]);
    }
    if request.method == "GET" && repository.damaged > 0 {
        repository.damaged -= 1;
        content[size - 1] ^= 1;
    }
    let mut body = content[from..].to_vec();
    let (status, range) = match from {
        0 => ("200 OK", String::new()),
        _ => ("206 Partial", format!("content-range: bytes {from}-{}/{size}\r\n", size - 1)),
    };
    let commit = &repository.commit;
    let length = body.len();
    if request.method == "GET" && repository.torn.1 > 0 {
        repository.torn.1 -= 1;
        body.truncate(repository.torn.0);
    }
    (format!("{status}\r\ncontent-length: {length}\r\netag: \"{etag}\"\r\nx-repo-commit: {commit}\r\n{range}"), body)
}
