//! A report as one page: tables and figures in a single file that needs nothing else.

use super::run::Run;
use super::seeds::groups;
use super::table::escape;
use super::tables::{metrics, stages};
use super::transfer::matrices;

/// A figure of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// What it belongs to and shows.
    pub title: String,
    /// The figure itself.
    pub svg: String,
}

const STYLE: &str = "body{font-family:sans-serif;margin:2em auto;max-width:82em;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}th,td{padding:.15em .8em;text-align:left}\
th{border-bottom:2px solid #888}tbody{border-bottom:1px solid #ccc}.number{text-align:right;\
font-variant-numeric:tabular-nums}figure{margin:1.5em 0}svg{max-width:100%;height:auto}";

/// The page of a run. `beside` is the table and figure of a comparison with others, as HTML.
pub(super) fn page(run: &Run, figures: &[Figure], beside: &str) -> String {
    let name = escape(&run.name);
    let seed = run.seed.map(|seed| format!(", seed {seed}")).unwrap_or_default();
    let mut text = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{name}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<h1>{name}</h1>\n<p>{}{seed}</p>\n",
        escape(&run.path.display().to_string())
    );
    text += &format!("<h2>Stages</h2>\n{}", stages(run).html());
    text += &format!("<h2>Metrics</h2>\n{}", metrics(run).html());
    if let Some(matrices) = matrices(&groups(std::slice::from_ref(run))) {
        text += "<h2>Transfer</h2>\n";
        matrices.iter().for_each(|matrix| text += &matrix.html());
    }
    text += beside;
    if !figures.is_empty() {
        text += "<h2>Figures</h2>\n";
    }
    for figure in figures {
        text += &self::figure(&figure.title, &figure.svg);
    }
    text + "</body>\n</html>\n"
}

/// A figure with its title.
pub(super) fn figure(title: &str, svg: &str) -> String {
    // An element of a page has no declaration before it.
    let svg = svg.find("<svg").map_or("", |start| &svg[start..]);
    format!("<figure>\n<figcaption>{}</figcaption>\n{svg}\n</figure>\n", escape(title))
}
