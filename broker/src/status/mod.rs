//! What people look at: the page on the HTTP port, and the same facts as JSON below `/api/v1/`.

mod api;
pub mod facts;
mod groups;
mod picture;

use crate::node::Node;
use picture::Photographer;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The files of the page, by path. They are part of the program.
const FILES: [(&str, &str, &str); 3] = [
    ("/", "text/html; charset=utf-8", include_str!("page/index.html")),
    (
        "/status.js",
        "text/javascript; charset=utf-8",
        include_str!("page/status.js"),
    ),
    (
        "/status.css",
        "text/css; charset=utf-8",
        include_str!("page/status.css"),
    ),
];

/// Where everything of the API lies.
const API: &str = "/api/v1/";

/// Answers questions about the broker. It runs on one shard and asks the others.
pub struct Status {
    node: Rc<Node>,
    photographer: Photographer,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// As HTTP has it.
    pub status: &'static str,
    /// As HTTP has it.
    pub content_type: &'static str,
    /// The body.
    pub body: String,
}

impl Status {
    /// For the broker that the node is part of.
    pub fn new(node: Rc<Node>) -> Self {
        Status {
            photographer: Photographer::new(node.clone()),
            node,
        }
    }

    /// Values of the metastore that this broker cannot read, by key, with the reason.
    pub fn unreadable(&self) -> BTreeMap<String, String> {
        self.node.unreadable()
    }

    /// The answer to a GET of a path with its query; none if nothing of this lies there.
    pub async fn answer(&self, target: &str) -> Option<Answer> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        if let Some((_, content_type, body)) = FILES.iter().find(|(at, _, _)| *at == path) {
            return Some(Answer {
                status: "200 OK",
                content_type,
                body: (*body).to_string(),
            });
        }
        let what = path.strip_prefix(API)?;
        Some(self.api(what, query).await)
    }
}
