//! A preview as one page.

use super::Preview;
use super::text::{layout, passes};
use std::fmt::Write;

/// The page's looks: light and dark as the browser likes it.
const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font: 13px/1.5 ui-monospace, monospace; padding: .8rem;
  border: 1px solid color-mix(in srgb, currentColor 25%, transparent); border-radius: .4rem; }
mark { background: light-dark(#b7e4c7, #1b6b43); color: inherit; border-radius: .2rem; }
mark.part { background: light-dark(#ffe8a3, #6b5a1b); }
h2 { font-size: 1rem; margin-top: 2rem; }
small { opacity: .7; font-weight: normal; }";

/// The whole page; it asks for nothing from elsewhere.
pub fn html(preview: &Preview) -> String {
    let title = escape(&format!("{} / {}", preview.recipe, preview.stage));
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}\n</style>\n</head>\n<body>\n<h1>{title}</h1>\n<ul>\n"
    );
    for line in preview.summary() {
        let _ = writeln!(out, "<li>{}</li>", escape(&line));
    }
    out += "</ul>\n<p>What is learned is <mark>marked</mark>, <mark class=\"part\">so</mark> where a token does \
            not count once; the rest is only read.</p>\n";
    let _ = writeln!(out, "<h2>Lengths</h2>\n<pre>{}</pre>", escape(&preview.histogram().join("\n")));
    for (number, sample) in preview.samples.iter().enumerate() {
        let _ = write!(
            out,
            "<h2>Sample {} <small>line {}, {} tokens, {} learned</small></h2>\n<pre>",
            number + 1,
            sample.line,
            sample.tokens,
            sample.learned
        );
        for piece in &sample.pieces {
            let text = escape(&piece.text);
            // A browser drops a line break right after `<pre>`.
            out += &match piece.weight {
                0.0 => format!("<span title=\"{} tokens\">{text}</span>", piece.tokens),
                1.0 => format!("<mark title=\"{} tokens\">{text}</mark>", piece.tokens),
                weight => {
                    format!("<mark class=\"part\" title=\"{} tokens, weight {weight}\">{text}</mark>", piece.tokens)
                }
            };
        }
        out += "</pre>\n";
    }
    let _ = writeln!(out, "<h2>The first step <small>{}</small></h2>\n<ul>", passes(preview.first_step.len()));
    for (number, pass) in preview.first_step.iter().enumerate() {
        let _ = writeln!(out, "<li>{}</li>", escape(&layout(number, pass)));
    }
    out + "</ul>\n</body>\n</html>\n"
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' | '\t' => escaped.push(sign),
            // Not allowed in a page at all.
            sign if sign.is_control() => escaped.extend(sign.escape_unicode()),
            sign => escaped.push(sign),
        }
    }
    escaped
}
