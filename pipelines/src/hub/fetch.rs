//! Contents: resumed where they broke off, checked, and moved into place as a whole.

use super::api::{Announced, Api};
use super::cache::Cache;
use super::error::Error;
use super::names::Repo;
use crate::progress;
use crate::train::stop_requested;
use indicatif::ProgressBar;
use ring::digest::{Context, SHA256};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;
use ureq::http::StatusCode;

/// How often in a row a transfer may break off without anything having arrived.
const TRIES: u32 = 4;
/// The pause after the first of these; it doubles.
const WAIT: Duration = Duration::from_millis(250);

/// Asks again where nothing could be reached, a few times.
pub(super) fn again<T>(ask: impl Fn() -> Result<T, Error>) -> Result<T, Error> {
    let mut wait = WAIT;
    for _ in 1..TRIES {
        match ask() {
            Err(Error::Unreachable { .. }) if !stop_requested() => std::thread::sleep(wait),
            other => return other,
        }
        wait *= 2;
    }
    ask()
}

/// Fetches files into a snapshot.
pub(super) fn files(api: &Api, cache: &Cache, repo: &Repo, commit: &str, files: &[&str]) -> Result<(), Error> {
    let announced: Vec<Announced> =
        files.iter().map(|file| again(|| api.announced(repo, commit, file))).collect::<Result<_, _>>()?;
    let missing: u64 = announced.iter().filter(|a| !cache.blob(repo, &a.etag).exists()).map(|a| a.size).sum();
    if missing > 0 {
        let mib = missing as f64 / f64::from(1 << 20);
        crate::run::say(&format!(
            "fetching {repo}: {mib:.1} MiB from {} into {}",
            api.endpoint(),
            cache.path().display()
        ));
    }
    let bar = progress::bytes(&repo.to_string(), missing);
    for file in &announced {
        content(api, cache, repo, commit, file, &bar)?;
        cache.link(repo, commit, &file.file, &file.etag)?;
    }
    bar.finish_and_clear();
    Ok(())
}

/// Makes sure that the cache has a content.
fn content(
    api: &Api,
    cache: &Cache,
    repo: &Repo,
    commit: &str,
    file: &Announced,
    bar: &ProgressBar,
) -> Result<(), Error> {
    let blob = cache.blob(repo, &file.etag);
    if blob.exists() {
        return Ok(());
    }
    let _lock = cache.lock(repo, &file.etag)?;
    // Whoever held the lock may have fetched it.
    if blob.exists() {
        bar.inc(file.size);
        return Ok(());
    }
    if let Some(folder) = blob.parent() {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
    }
    let partial = blob.with_file_name(format!("{}.incomplete", file.etag));
    let start = bar.position();
    let mut reason = String::new();
    for _ in 0..2 {
        bar.set_position(start);
        transfer(api, repo, commit, file, &partial, bar)?;
        match problem(&partial, file)? {
            None => {
                return fs::rename(&partial, &blob).map_err(Error::io(&blob));
            }
            Some(found) => {
                tracing::warn!("{repo}: {}: {found}: it is fetched again", file.file);
                fs::remove_file(&partial).map_err(Error::io(&partial))?;
                reason = found;
            }
        }
    }
    Err(Error::Checksum { repo: repo.to_string(), file: file.file.clone(), reason })
}

/// Fetches what is missing of a content, in as many requests as that takes.
fn transfer(
    api: &Api,
    repo: &Repo,
    commit: &str,
    file: &Announced,
    partial: &Path,
    bar: &ProgressBar,
) -> Result<(), Error> {
    let mut failures = 0;
    let start = bar.position();
    loop {
        if stop_requested() {
            return Err(Error::Interrupted);
        }
        let had = fs::metadata(partial).map_or(0, |meta| meta.len());
        if had == file.size && (had > 0 || partial.exists()) {
            return Ok(());
        }
        bar.set_position(start + had);
        let broken = match request(api, repo, commit, file, partial, had, bar) {
            Ok(None) => return Ok(()),
            Ok(Some(reason)) => {
                let url = api.file_url(repo, commit, &file.file);
                Error::Unreachable { repo: repo.to_string(), url, reason }
            }
            Err(error @ Error::Unreachable { .. }) => error,
            Err(error) => return Err(error),
        };
        let has = fs::metadata(partial).map_or(0, |meta| meta.len());
        failures = if has > had { 1 } else { failures + 1 };
        if failures == TRIES {
            return Err(broken);
        }
        tracing::debug!("{broken}: going on at byte {has}");
        std::thread::sleep(WAIT * 2u32.pow(failures - 1));
    }
}

/// One request: `None` when the server has sent all it wanted to, else why it ended early.
fn request(
    api: &Api,
    repo: &Repo,
    commit: &str,
    file: &Announced,
    partial: &Path,
    had: u64,
    bar: &ProgressBar,
) -> Result<Option<String>, Error> {
    let response = api.content(repo, commit, &file.file, had)?;
    let resumed = match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            let range = response.headers().get("content-range").and_then(|range| range.to_str().ok());
            range.is_some_and(|range| range.trim().starts_with(&format!("bytes {had}-")))
        }
        // What is here cannot be the beginning of it.
        StatusCode::RANGE_NOT_SATISFIABLE => {
            fs::remove_file(partial).map_err(Error::io(partial))?;
            return Ok(Some("the server does not go on where it broke off".into()));
        }
        _ => false,
    };
    if response.status() == StatusCode::PARTIAL_CONTENT && !resumed {
        return Ok(Some("the server goes on at another place than it was asked to".into()));
    }
    let mut options = File::options();
    let target = if resumed { options.append(true) } else { options.write(true).truncate(true).create(true) };
    let mut target = target.open(partial).map_err(Error::io(partial))?;
    let mut done = if resumed { had } else { 0 };
    // One byte more, to see that it is too long.
    let mut body = response.into_body().into_reader().take((file.size - done.min(file.size)).saturating_add(1));
    let mut buffer = vec![0; 1 << 18];
    loop {
        if stop_requested() {
            return Err(Error::Interrupted);
        }
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Ok(Some(format!("the transfer broke off: {error}"))),
        };
        target.write_all(buffer.get(..count).unwrap_or_default()).map_err(Error::io(partial))?;
        done += count as u64;
        bar.inc(count as u64);
    }
    target.sync_all().map_err(Error::io(partial))?;
    Ok((done < file.size).then(|| format!("{done} of {} bytes arrived", file.size)))
}

/// What is wrong with a content that has arrived: its length, or, where the etag is one, its SHA-256.
fn problem(partial: &Path, file: &Announced) -> Result<Option<String>, Error> {
    let size = fs::metadata(partial).map_err(Error::io(partial))?.len();
    if size != file.size {
        return Ok(Some(format!("{size} bytes instead of {}", file.size)));
    }
    if file.etag.len() != 64 || !file.etag.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(None);
    }
    let mut hash = Context::new(&SHA256);
    let mut reader = File::open(partial).map_err(Error::io(partial))?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer).map_err(Error::io(partial))? {
            0 => break,
            count => hash.update(buffer.get(..count).unwrap_or_default()),
        }
    }
    let found: String = hash.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((found != file.etag.to_ascii_lowercase()).then(|| format!("its SHA-256 is {found} instead of {}", file.etag)))
}
