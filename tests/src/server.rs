//! A server of chat completions on the loopback device, which answers as a test tells it to.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

/// A question as it came in.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The path of the request.
    pub path: String,
    /// The header `authorization`.
    pub authorization: Option<String>,
    /// The body.
    pub body: Value,
    /// How often this body came in before.
    pub before: usize,
}

/// What to do about a question.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Status 200 with a chat completion of this text.
    Text(String),
    /// Any status, headers (each with its line break) and body.
    Raw(u16, &'static str, String),
    /// Promises more bytes than it sends.
    Torn,
    /// Closes the connection.
    Nothing,
    /// Waits before it answers with a text.
    Late(Duration, String),
}

/// The server; it stops when it is dropped.
pub struct Server {
    /// `http://127.0.0.1:<port>/v1`.
    pub url: String,
    port: u16,
    state: Arc<State>,
}

struct State {
    asked: Mutex<Vec<Asked>>,
    now: AtomicUsize,
    most: AtomicUsize,
    stop: AtomicBool,
}

impl Server {
    /// Starts a server that answers as `reply` says.
    pub fn start(reply: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::new(State {
            asked: Mutex::new(Vec::new()),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let (shared, reply) = (state.clone(), Arc::new(reply));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (shared, reply) = (shared.clone(), reply.clone());
                std::thread::spawn(move || {
                    // A client that goes away is no fault of the server.
                    let _ = stream.and_then(|stream| serve(stream, &shared, &*reply));
                });
            }
        });
        Self { url: format!("http://127.0.0.1:{port}/v1"), port, state }
    }

    /// All questions so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.state.asked.lock().unwrap().clone()
    }

    /// The most questions that were under way at one time.
    pub fn most(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(stream: TcpStream, state: &State, reply: &dyn Fn(&Asked) -> Reply) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let (mut length, mut authorization) = (0, None);
        loop {
            let mut header = String::new();
            reader.read_line(&mut header)?;
            let Some((name, value)) = header.trim_end().split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().unwrap(),
                "authorization" => authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let asked = {
            let body: Value = serde_json::from_slice(&body).unwrap();
            let mut all = state.asked.lock().unwrap();
            let before = all.iter().filter(|asked| asked.body == body).count();
            all.push(Asked { path, authorization, body, before });
            all.last().cloned().unwrap()
        };
        let now = state.now.fetch_add(1, Ordering::SeqCst) + 1;
        state.most.fetch_max(now, Ordering::SeqCst);
        let reply = reply(&asked);
        if let Reply::Late(time, _) = &reply {
            std::thread::sleep(*time);
        }
        state.now.fetch_sub(1, Ordering::SeqCst);
        let (status, headers, body) = match reply {
            Reply::Text(text) | Reply::Late(_, text) => (200, "", completion(&text)),
            Reply::Raw(status, headers, body) => (status, headers, body),
            Reply::Torn => {
                write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{{\"choices\"")?;
                return Ok(());
            }
            Reply::Nothing => return Ok(()),
        };
        write!(stream, "HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())?;
        stream.flush()?;
    }
}

fn completion(text: &str) -> String {
    let choice = serde_json::json!({ "message": { "role": "assistant", "content": text }, "finish_reason": "stop" });
    let usage = serde_json::json!({ "prompt_tokens": 7, "completion_tokens": 2 });
    serde_json::json!({ "choices": [choice], "usage": usage }).to_string()
}
