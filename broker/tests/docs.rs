//! The tables of docs/ that come out of the code's own tables. `KAFSCALE_WRITE_DOCS=1` writes them again.

#[allow(dead_code)] // The judge uses all of it.
#[path = "judge/meant.rs"]
mod meant;
#[allow(dead_code)]
#[path = "judge/report.rs"]
mod report;

use std::fs;
use std::path::Path;

/// Compares, or writes, what stands between `<!-- name: generated -->` and `<!-- /name -->`.
fn check(file: &str, name: &str, table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(file);
    let text = fs::read_to_string(&path).expect("docs/ lies beside the crate");
    let (open, close) = (format!("<!-- {name}: generated -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = text.split_once(&open).expect("the opening mark is there");
    let (_, after) = rest.split_once(&close).expect("the closing mark is there");
    let wanted = format!("{before}{open}{table}{close}{after}");
    if std::env::var_os("KAFSCALE_WRITE_DOCS").is_some() {
        fs::write(&path, wanted).expect("docs/ can be written");
    } else {
        assert!(
            text == wanted,
            "docs/{file} is stale: KAFSCALE_WRITE_DOCS=1 cargo test -p kafscale-broker --test docs"
        );
    }
}

#[test]
fn protocol_docs_are_current() {
    check("protocol.md", "served", &kafscale_codec::api::protocol_table_markdown());
}

#[test]
fn the_list_of_differences_from_kafka_is_current() {
    check("protocol.md", "differences", &meant::markdown());
}

#[test]
fn topic_setting_docs_are_current() {
    check(
        "user-guide.md",
        "topic-settings",
        &kafscale_broker::topic_config::topic_settings_markdown(),
    );
}
