//! Where each value of a RON text stands. The typed recipe forgets its places; rules across fields and `--set` look them
//! up here by path.
//!
//! The reader is lenient: it never fails, and stops where the brackets stop making sense. Whether a text is RON at all
//! is for [`ron`] to say.

use std::ops::Range;

/// A lexical piece of a RON text. Spans are byte ranges of the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    pub kind: TokenKind,
    pub span: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// `(`, `[` or `{`.
    Open,
    /// `)`, `]` or `}`.
    Close,
    Comma,
    Colon,
    /// A field, struct or variant name, `true`, `None`, …
    Word,
    /// A string of any form, with its quotes.
    Text,
    /// Anything else up to the next separator: a number, or rubbish.
    Other,
}

/// Splits a text into tokens; white space, comments and `#![…]` attributes are left out.
pub(crate) fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (kind, length) = if first.is_whitespace() || matches!(first, '\u{200E}' | '\u{200F}') {
            (None, first.len_utf8())
        } else if rest.starts_with("//") {
            (None, rest.find('\n').unwrap_or(rest.len()))
        } else if rest.starts_with("/*") {
            (None, block_comment(rest))
        } else if rest.starts_with("#!") {
            (None, rest.find(']').map_or(rest.len(), |end| end + 1))
        } else if let Some(length) = string(rest) {
            (Some(TokenKind::Text), length)
        } else {
            match first {
                '(' | '[' | '{' => (Some(TokenKind::Open), 1),
                ')' | ']' | '}' => (Some(TokenKind::Close), 1),
                ',' => (Some(TokenKind::Comma), 1),
                ':' => (Some(TokenKind::Colon), 1),
                _ => {
                    let separator = |c: char| c.is_whitespace() || "()[]{},:\"".contains(c);
                    let length = rest.find(separator).unwrap_or(rest.len());
                    let length = rest[..length].find("//").or(rest[..length].find("/*")).unwrap_or(length);
                    let word = first == '_' || first.is_alphabetic();
                    (Some(if word { TokenKind::Word } else { TokenKind::Other }), length)
                }
            }
        };
        if let Some(kind) = kind {
            tokens.push(Token { kind, span: at..at + length });
        }
        at += length;
    }
    tokens
}

/// Length of the block comment, with nested ones, that `text` begins with.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// Length of the string, raw string, byte string or character that `text` begins with, or `None`.
fn string(text: &str) -> Option<usize> {
    let body = text.strip_prefix('b').unwrap_or(text);
    let prefix = text.len() - body.len();
    if let Some(raw) = body.strip_prefix('r') {
        let hashes = raw.len() - raw.trim_start_matches('#').len();
        let inner = raw[hashes..].strip_prefix('"')?;
        let end = format!("\"{}", "#".repeat(hashes));
        let length = inner.find(&end).map_or(inner.len(), |at| at + end.len());
        return Some(prefix + 1 + hashes + 1 + length);
    }
    let quote = body.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut escaped = false;
    for (at, c) in body.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(prefix + at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// A value of the text and the values inside it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// The whole value, from its name or bracket to its closing bracket.
    pub span: Range<usize>,
    /// The name before the bracket, or a bare word: `AdamW` of `AdamW(lr: 1e-3)`.
    pub name: Option<Range<usize>>,
    /// The opening bracket; 0 for a value without one.
    pub bracket: u8,
    /// Fields, entries or elements in the order of the text.
    pub children: Vec<Child>,
}

/// A field, map entry or element of a value.
#[derive(Debug, Clone)]
pub(crate) struct Child {
    /// Name of the field or entry; for an element its number, from 0.
    pub key: String,
    /// The key in the text; for an element the same as its value.
    pub key_span: Range<usize>,
    pub value: Node,
}

impl Node {
    /// Reads a text: the value it begins with.
    pub(crate) fn read(text: &str) -> Self {
        let tokens = tokens(text);
        Reader { text, tokens: &tokens, at: 0 }.value(0)
    }

    /// The underlining that stands for the whole value: all of it if it is on one line, else its name or bracket.
    pub(crate) fn headline(&self, text: &str) -> Range<usize> {
        match &self.name {
            _ if !text[self.span.clone()].contains('\n') => self.span.clone(),
            Some(name) => name.clone(),
            None => self.span.start..self.span.start + 1,
        }
    }

    /// The value whose fields are addressed through this one: `Some(x)`, `Init(Decoder(…))` and the like are seen through.
    pub(crate) fn inner(&self) -> &Node {
        let mut node = self;
        while let [only] = node.children.as_slice()
            && node.bracket == b'('
            && node.name.is_some()
            && only.key == "0"
            && only.value.bracket != 0
        {
            node = &only.value;
        }
        node
    }

    /// The child with this key, seeing through [`Node::inner`].
    pub(crate) fn child(&self, key: &str) -> Option<&Child> {
        self.inner().children.iter().find(|child| child.key == key)
    }

    /// The value at `path`, or the deepest one on the way to it (a field left at its default is not in the text), with
    /// the number of steps that were found.
    pub(crate) fn find(&self, path: &[String]) -> (&Node, usize) {
        let mut node = self;
        for (depth, key) in path.iter().enumerate() {
            match node.child(key) {
                Some(child) => node = &child.value,
                None => return (node, depth),
            }
        }
        (node, path.len())
    }
}

/// Whether a text is exactly one value: its brackets match, and nothing follows.
pub(crate) fn is_one_value(text: &str) -> bool {
    let tokens = tokens(text);
    let mut open = 0usize;
    for token in &tokens {
        match token.kind {
            TokenKind::Open => open += 1,
            TokenKind::Close if open == 0 => return false,
            TokenKind::Close => open -= 1,
            TokenKind::Comma | TokenKind::Colon if open == 0 => return false,
            _ => {}
        }
    }
    let end = tokens.last().map_or(0, |last| last.span.end);
    open == 0 && !tokens.is_empty() && Node::read(text).span.end == end
}

struct Reader<'a> {
    text: &'a str,
    tokens: &'a [Token],
    at: usize,
}

impl Reader<'_> {
    /// Deeper than anything that ron's own limit lets through.
    const DEPTH: usize = 128;

    fn peek(&self, ahead: usize) -> Option<&Token> {
        self.tokens.get(self.at + ahead)
    }

    fn is(&self, ahead: usize, kind: TokenKind) -> bool {
        self.peek(ahead).is_some_and(|token| token.kind == kind)
    }

    fn value(&mut self, depth: usize) -> Node {
        let Some(first) = self.peek(0).cloned() else {
            return Node { span: self.text.len()..self.text.len(), ..Node::default() };
        };
        let mut node = Node { span: first.span.clone(), ..Node::default() };
        if first.kind == TokenKind::Word {
            node.name = Some(first.span);
            self.at += 1;
            if !self.peek(0).is_some_and(|next| self.text[next.span.clone()].starts_with('(')) {
                return node;
            }
        } else if first.kind != TokenKind::Open {
            self.at += 1;
            return node;
        }
        if let Some(open) = self.peek(0) {
            node.bracket = self.text.as_bytes()[open.span.start];
        }
        self.at += 1;
        while depth < Self::DEPTH
            && let Some(next) = self.peek(0).cloned()
        {
            node.span.end = next.span.end;
            match next.kind {
                TokenKind::Close => {
                    self.at += 1;
                    return node;
                }
                TokenKind::Comma | TokenKind::Colon => self.at += 1,
                _ if self.is(1, TokenKind::Colon) => {
                    self.at += 2;
                    let key = self.text[next.span.clone()].trim_matches('"').to_owned();
                    let value = self.value(depth + 1);
                    node.children.push(Child { key, key_span: next.span, value });
                }
                _ => {
                    let value = self.value(depth + 1);
                    let key = node.children.len().to_string();
                    node.children.push(Child { key, key_span: value.span.clone(), value });
                }
            }
        }
        node.span.end = self.text.len();
        node
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at<'a>(text: &'a str, path: &str) -> (&'a str, usize) {
        let root = Node::read(text);
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        let (node, found) = root.find(&path);
        (&text[node.span.clone()], found)
    }

    #[test]
    fn values_are_found_through_tags_strings_and_comments() {
        let text = r##"#![enable(implicit_some)]
            R(a: "x, (y", // b: 1,
              b: Some((c: [1, /* 2, /* , */ */ Q(3)], d: r#"")"#)), 'e': '(', m: { "k.1": Init(Dec(n: -1.5e3)) })"##;
        assert_eq!(at(text, "a"), (r#""x, (y""#, 1));
        assert_eq!(at(text, "b.c.1"), ("Q(3)", 3));
        assert_eq!(at(text, "b.d"), (r##"r#"")"#"##, 2));
        let root = Node::read(text);
        let path = ["m".to_owned(), "k.1".to_owned(), "n".to_owned()];
        assert_eq!(&text[root.find(&path).0.span.clone()], "-1.5e3");
    }

    #[test]
    fn a_missing_field_gives_its_parent() {
        assert_eq!(at("(a: Sft(b: 1))", "a.optim.lr"), ("Sft(b: 1)", 1));
        let text = "(a: Sft(\n b: Q(1)))";
        let root = Node::read(text);
        assert_eq!(&text[root.find(&["a".to_owned()]).0.headline(text)], "Sft");
        assert_eq!(&text[root.find(&["a".to_owned(), "b".to_owned()]).0.headline(text)], "Q(1)");
    }

    #[test]
    fn one_value_is_told_from_none_and_several() {
        for one in ["1e-4", "\"a, b\"", "Path(\"x\")", "(a: 1, b: [2])", "[ ]", "None // why", " x "] {
            assert!(is_one_value(one), "{one}");
        }
        for other in ["", "1 2", "1, epochs: 2", "1)", "(1", "a: 1", "// 1"] {
            assert!(!is_one_value(other), "{other}");
        }
    }

    #[test]
    fn broken_texts_do_not_hang_or_panic() {
        for text in ["", "(", "(a:", "(a: [)", ")(", "\"", "r#\"", "/*", "'", "(((((", "a b c", "é(ü: \u{200E}1"] {
            Node::read(text);
        }
        Node::read(&"[".repeat(100_000));
    }
}
