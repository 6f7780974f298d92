//! Reads S3's answers. rusoto's own reader unwraps numbers, takes nothing for an empty result, and never returns from a
//! document that ends too soon; a listing decides what is recovered, so none of this will do.

use bytes::Bytes;
use xml::reader::{EventReader, ParserConfig, XmlEvent};

/// Elements within elements, at most. S3 needs four.
const DEPTH_MAX: usize = 16;

/// An element, its text and what is in it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Element {
    name: String,
    text: String,
    children: Vec<Element>,
}

impl Element {
    /// Reads a whole document.
    ///
    /// # Errors
    /// Why it is none, or that its root has another name.
    pub(super) fn read(document: &Bytes, root: &str) -> Result<Element, String> {
        let config = ParserConfig::new()
            .cdata_to_characters(true)
            .whitespace_to_characters(true)
            .allow_multiple_root_elements(false);
        // The elements that are open; the first one holds the root.
        let mut open = vec![Element::default()];
        for event in EventReader::new_with_config(document.as_ref(), config) {
            match event.map_err(|error| error.to_string())? {
                XmlEvent::StartElement { .. } if open.len() > DEPTH_MAX => return Err("it is too deep".to_string()),
                XmlEvent::StartElement { name, .. } => open.push(Element {
                    name: name.local_name,
                    ..Element::default()
                }),
                XmlEvent::EndElement { .. } => {
                    let done = open.pop().ok_or("an end without a beginning")?;
                    open.last_mut().ok_or("an end without a beginning")?.children.push(done);
                }
                XmlEvent::Characters(text) => {
                    if let Some(element) = open.last_mut() {
                        element.text.push_str(&text);
                    }
                }
                _ => {}
            }
        }
        let read = open.pop().and_then(|mut document| document.children.pop());
        read.filter(|element| element.name == root)
            .ok_or_else(|| format!("it is no {root}"))
    }

    /// The elements of this name.
    pub(super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.children.iter().filter(move |child| child.name == name)
    }

    /// The text of the element of this name.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        let child = self.children.iter().find(|child| child.name == name)?;
        Some(&child.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(document: &str) -> Result<Element, String> {
        Element::read(&Bytes::copy_from_slice(document.as_bytes()), "R")
    }

    #[test]
    fn elements_and_their_text_are_found() {
        let root =
            read("<?xml version=\"1.0\"?>\n<R xmlns=\"http://x/\"><A>1 &lt;&#38; </A><B><A>2</A></B><A>3</A></R>\n");
        let root = root.expect("a document");
        let texts: Vec<&str> = root.all("A").map(|element| element.text.as_str()).collect();
        assert_eq!(texts, ["1 <& ", "3"]);
        assert_eq!(root.text("A"), Some("1 <& "));
        assert_eq!(root.all("B").next().and_then(|element| element.text("A")), Some("2"));
        assert_eq!(root.text("C"), None);
    }

    #[test]
    fn what_is_no_whole_document_is_an_error() {
        let whole = "<?xml version=\"1.0\"?><R><A>1</A><B/></R>";
        assert!(read(whole).is_ok());
        for end in 0..whole.len() {
            assert!(read(&whole[..end]).is_err(), "{}", &whole[..end]);
        }
        for other in [
            "<Error><R></R></Error>",
            "<R></A>",
            "<R>&nbsp;</R>",
            "text",
            "<html><R></R>",
            "<R/><R/>",
        ] {
            assert!(read(other).is_err(), "{other}");
        }
        assert!(read(&format!("<R>{}", "<A>".repeat(1_000_000))).is_err());
        assert!(Element::read(&Bytes::from_static(b"<R>\xff</R>"), "R").is_err());
    }

    #[test]
    fn entities_that_grow_are_an_error() {
        let bomb = "<!DOCTYPE R [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;\">\
                    <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;\"><!ENTITY d \"&c;&c;&c;&c;&c;&c;&c;&c;\">\
                    <!ENTITY e \"&d;&d;&d;&d;&d;&d;&d;&d;\"><!ENTITY f \"&e;&e;&e;&e;&e;&e;&e;&e;\">\
                    <!ENTITY g \"&f;&f;&f;&f;&f;&f;&f;&f;\"><!ENTITY h \"&g;&g;&g;&g;&g;&g;&g;&g;\">]><R>&h;</R>";
        let read = read(bomb);
        assert!(read.is_err() || read.is_ok_and(|root| root.text.len() < 1 << 20));
    }
}
