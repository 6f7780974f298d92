//! Values of both codecs, made comparable through their `Debug` output: fields by name, newtypes and `Some` unwrapped.

use kafscale_codec::types::TopicId;
use std::collections::BTreeMap;
use std::fmt::Debug;

/// What `Debug` says of a value.
#[derive(Debug, Clone, PartialEq)]
pub enum Tree {
    /// Fields by name.
    Struct(BTreeMap<String, Tree>),
    /// Items in order.
    List(Vec<Tree>),
    /// Anything else, as printed.
    Atom(String),
}

/// The tree of `value`.
pub fn tree(value: &impl Debug) -> Tree {
    let text = format!("{value:?}");
    let mut parser = Parser { rest: &text };
    let tree = parser.value();
    assert_eq!(parser.rest, "", "all of {text}");
    tree
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn eat(&mut self, token: &str) -> bool {
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn word(&mut self) -> &'a str {
        let end = self
            .rest
            .find(|letter: char| !(letter.is_ascii_alphanumeric() || "_-+.".contains(letter)))
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        word
    }

    fn value(&mut self) -> Tree {
        if self.eat("[") {
            return Tree::List(self.items("]"));
        }
        if self.eat("{}") {
            return Tree::List(Vec::new());
        }
        if self.rest.starts_with('"') || self.rest.starts_with("b\"") {
            return Tree::Atom(self.quoted().to_string());
        }
        let word = self.word();
        assert!(!word.is_empty(), "a value at {}", self.rest);
        if self.eat("(") {
            let mut items = self.items(")");
            // `Some(x)`, an id, an error code, the pieces of a list of buffers: the value counts, not its wrapping.
            let item = items.pop().expect("one value inside");
            assert!(items.is_empty(), "one value inside {word}");
            return match (word, item) {
                ("Records", Tree::List(mut buffers)) => buffers.pop().expect("one buffer"),
                (_, item) => item,
            };
        }
        if self.eat(" {") {
            return Tree::Struct(self.fields());
        }
        Tree::Atom(topic_id(word).unwrap_or_else(|| word.to_string()))
    }

    fn items(&mut self, end: &str) -> Vec<Tree> {
        let mut items = Vec::new();
        while !self.eat(end) {
            items.push(self.value());
            self.eat(", ");
        }
        items
    }

    fn fields(&mut self) -> BTreeMap<String, Tree> {
        let mut fields = BTreeMap::new();
        while !self.eat(" }") {
            self.eat(",");
            self.eat(" ");
            // Words of Rust are spelt `_match` there and `r#match` here; `Debug` shows the latter as `match`.
            let name = self.word().trim_start_matches('_').to_string();
            assert!(self.eat(": "), "a field at {}", self.rest);
            fields.insert(name, self.value());
        }
        fields
    }

    fn quoted(&mut self) -> &'a str {
        let start = self.rest.find('"').expect("a quote") + 1;
        let mut escaped = false;
        let end = self.rest[start..]
            .find(|letter| {
                let ends = letter == '"' && !escaped;
                escaped = letter == '\\' && !escaped;
                ends
            })
            .expect("a closing quote");
        let (text, rest) = self.rest.split_at(start + end + 1);
        self.rest = rest;
        text
    }
}

/// `01234567-89ab-…` as Kafka prints a topic id.
fn topic_id(word: &str) -> Option<String> {
    let digits: String = word.chars().filter(|letter| *letter != '-').collect();
    if word.len() != 36 || digits.len() != 32 {
        return None;
    }
    let mut id = [0; 16];
    for (at, byte) in id.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(TopicId(id).to_string())
}
