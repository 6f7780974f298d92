//! Answers that only a broken or a hostile server gives: each from a socket that says what the test wants.

use super::*;
use std::io::{Read, Write};
use std::net::TcpListener;

/// Answers each connection's first request with `answer`, and closes.
fn says(answer: impl Into<Vec<u8>>) -> S3Config {
    says_in_turn(vec![answer.into()])
}

/// Answers one connection after the other like this, and all later ones as the last.
fn says_in_turn(answers: Vec<Vec<u8>>) -> S3Config {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    // Ends with the test's process: it has no other connections to wait for.
    std::thread::spawn(move || {
        for (at, stream) in listener.incoming().take(100).enumerate() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
                    _ => break,
                }
            }
            drop(stream.write_all(&answers[at.min(answers.len() - 1)]));
        }
    });
    let bucket = Bucket {
        name: "bucket".to_string(),
        region: "us-east-1".to_string(),
        endpoint: Some(endpoint),
        connect_to: Vec::new(),
    };
    S3Config {
        path_style: true,
        limits: Limits {
            attempts_max: 2,
            ..impatient()
        },
        ..S3Config::new(bucket)
    }
}

fn ok(headers: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{headers}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn part(range: &str, body: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 206 Partial Content\r\ncontent-length: {}\r\ncontent-range: {range}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn listing(contents: &str) -> Vec<u8> {
    ok(
        "",
        &format!(
            "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated>{contents}</ListBucketResult>"
        ),
    )
}

#[test]
fn wrong_answers_to_reads_are_errors() {
    let answers = [
        part("bytes 0-2/10", "01"),
        part("bytes 1-2/10", "12"),
        part("bytes 0-1/1", "01"),
        part("nonsense", "01"),
        ok("", "0123456789"),
        b"HTTP/1.1 206 Partial Content\r\ncontent-length: 2\r\ncontent-range: bytes 0-1/10\r\n\r\n0".to_vec(),
        b"HTTP/1.1 206 Partial Content\r\ncontent-length: x\r\n\r\n".to_vec(),
        b"HTTP/1.1 206 Partial Content\r\ncontent-length: 99999999999999999\r\n\r\n".to_vec(),
        b"nonsense\r\n\r\n".to_vec(),
        b"".to_vec(),
    ];
    for answer in answers {
        let text = String::from_utf8_lossy(&answer).into_owned();
        with_store(says(answer), move |store| async move {
            let read = store.get_range("a", 0..2).await;
            assert!(matches!(read, Err(StoreError::Unavailable(_))), "{text}: {read:?}");
        });
    }
}

#[test]
fn an_answer_that_is_longer_than_asked_for_is_not_taken() {
    with_store(says(ok("", &"x".repeat(1000))), |store| async move {
        let read = store.get_range("a", 0..10).await;
        assert!(matches!(read, Err(StoreError::Unavailable(_))), "{read:?}");
    });
}

#[test]
fn a_whole_object_with_another_checksum_is_not_taken() {
    let crc = "x-amz-checksum-crc32c: AAAAAA==\r\n";
    with_store(says(ok(crc, "01")), |store| async move {
        let read = store.get_range("a", 0..2).await;
        assert!(
            matches!(&read, Err(StoreError::Unavailable(why)) if why.contains("checksum")),
            "{read:?}"
        );
    });
    with_store(says(ok("", "01")), |store| async move {
        assert_eq!(store.get_range("a", 0..2).await.unwrap(), "01");
    });
}

#[test]
fn wrong_answers_to_listings_are_errors() {
    let object = |inside: &str| format!("<Contents>{inside}</Contents>");
    let answers = [
        ok("", ""),
        ok("", "nonsense"),
        ok("", "<ListBucketResult>"),
        listing(&object("<Key>a</Key><Size>many</Size>")),
        listing(&object("<Key>a</Key><Size>-1</Size>")),
        listing(&object("<Key>a</Key>")),
        listing(&object("<Size>1</Size>")),
        listing(&object(
            "<Key>a</Key><Size>1</Size><LastModified>yesterday</LastModified>",
        )),
        listing(&(object("<Key>b</Key><Size>1</Size>") + &object("<Key>a</Key><Size>1</Size>"))),
        ok(
            "",
            "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>perhaps</IsTruncated></ListBucketResult>",
        ),
    ];
    for answer in answers {
        let text = String::from_utf8_lossy(&answer).into_owned();
        with_store(says(answer), move |store| async move {
            let listed = store.list("", None, 10).await;
            assert!(matches!(listed, Err(StoreError::Unavailable(_))), "{text}: {listed:?}");
        });
    }
}

#[test]
fn keys_that_were_not_deleted_are_told() {
    let answer = |code: &str| {
        ok(
            "",
            &format!(
                "<?xml version=\"1.0\"?><DeleteResult><Error><Key>a</Key><Code>{code}</Code><Message>why</Message>\
                 </Error></DeleteResult>"
            ),
        )
    };
    let table = [
        ("AccessDenied", "refused"),
        ("InternalError", "unknown"),
        ("SlowDown", "unavailable"),
        ("NoSuchKey", "deleted"),
    ];
    for (code, expected) in table {
        with_store(says(answer(code)), move |store| async move {
            let deleted = store.delete(&["a".to_string(), "b".to_string()]).await;
            let told = match deleted {
                Ok(()) => "deleted",
                Err(StoreError::Refused(_)) => "refused",
                Err(StoreError::OutcomeUnknown(_)) => "unknown",
                Err(StoreError::Unavailable(_)) => "unavailable",
                other => panic!("{code}: {other:?}"),
            };
            assert_eq!(told, expected, "{code}");
        });
    }
}

#[test]
fn a_404_that_s3_did_not_write_is_no_missing_object() {
    let answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 9\r\n\r\nNot Found".to_vec();
    with_store(says(answer), |store| async move {
        let read = store.get_range("a", 0..1).await;
        assert!(matches!(read, Err(StoreError::Refused(_))), "{read:?}");
    });
}

#[test]
fn a_delete_that_may_have_worked_stays_in_doubt_whatever_comes_later() {
    let failed = b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n".to_vec();
    let busy = b"HTTP/1.1 429 Busy\r\ncontent-length: 0\r\n\r\n".to_vec();
    let cases = [
        (vec![failed, busy.clone()], "unknown"),
        (vec![busy.clone(), busy], "unavailable"),
    ];
    for (answers, expected) in cases {
        with_store(says_in_turn(answers), move |store| async move {
            let told = match store.delete(&["a".to_string()]).await {
                Err(StoreError::OutcomeUnknown(_)) => "unknown",
                Err(StoreError::Unavailable(_)) => "unavailable",
                other => panic!("{other:?}"),
            };
            assert_eq!(told, expected);
        });
    }
}
