//! What the broker wrote, read by a program that shares no code with it.

use crate::setup::{filled, flip, Place};
use std::path::{Path, PathBuf};
use std::process::Command;

fn read(segments: &[PathBuf]) -> (bool, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/compat/segment_reader.py");
    let output = Command::new("python3").arg(script).args(segments).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_reader_made_from_the_description_alone_reads_every_segment() {
    let place = Place::local();
    let (mut broker, _) = filled(&place);
    broker.kill();
    let segments = place.files("/orders/", ".kfs");
    let (agrees, said) = read(&segments);
    assert!(agrees, "{said}");
    assert_eq!(said.lines().count(), segments.len());
    flip(&segments[0], 1000);
    assert!(!read(&segments[..1]).0, "damage is noticed");
}

#[test]
fn it_reads_the_golden_segment_as_the_parser_of_the_broker_does() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../storage-engine/tests/golden");
    let (agrees, said) = read(&[golden.join("segment-00000000000000000100.kfs")]);
    assert!(agrees, "{said}");
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["base_offset"], &said["last_offset"]), (&100.into(), &219.into()));
    assert_eq!((&said["records"], &said["created_ms"]), (&120.into(), &7.into()));
}
