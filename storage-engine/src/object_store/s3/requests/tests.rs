use super::*;

fn part(status: u16, range: Option<&str>, bytes: &Bytes) -> Reply {
    Reply {
        status,
        bytes: bytes.clone(),
        content_range: range.map(str::to_string),
        ..Reply::default()
    }
}

#[test]
fn a_part_is_what_was_asked_for() {
    let bytes = Bytes::from_static(b"345");
    let check = |span, range| check_part(span, part(206, range, &bytes));
    let expected = Part {
        bytes: bytes.clone(),
        object_len: 10,
    };
    let right = Some("bytes 3-5/10");
    assert_eq!(check(Span::From(3, 3), right), Ok(expected));
    for wrong in [Span::From(3, 4), Span::From(2, 3), Span::Last(3), Span::Last(8)] {
        assert!(check(wrong, right).is_err(), "{wrong:?}");
    }
    for range in [
        "bytes 3-6/10",
        "bytes 5-3/10",
        "bytes 8-10/10",
        "3-5/10",
        "bytes 3-5/*",
        "bytes x-5/10",
        "bytes",
    ] {
        assert!(check(Span::From(3, 3), Some(range)).is_err(), "{range}");
    }
    assert!(check(Span::From(3, 3), None).is_err());
}

#[test]
fn a_server_may_answer_with_the_whole_object() {
    let bytes = Bytes::from_static(b"345");
    let check = |span| check_part(span, part(200, None, &bytes));
    for span in [
        Span::From(0, 3),
        Span::From(0, u64::MAX),
        Span::Last(3),
        Span::Last(u64::MAX),
    ] {
        assert_eq!(check(span).expect("the whole object").object_len, 3);
    }
    assert!(check(Span::From(1, 2)).is_err());
}

#[test]
fn the_checksum_of_a_whole_object_is_verified() {
    let bytes = Bytes::from_static(b"123456789");
    let check = |crc: &str, range| {
        let reply = Reply {
            crc32c: Some(crc.to_string()),
            ..part(206, Some(range), &bytes)
        };
        check_part(Span::From(0, 9), reply)
    };
    // CRC-32C's well-known check value is e3069283.
    let right = BASE64_STANDARD.encode(0xe306_9283u32.to_be_bytes());
    assert!(check(&right, "bytes 0-8/9").is_ok());
    assert!(check("AAAAAA==", "bytes 0-8/9").is_err());
    // Of a part, and of an object that was uploaded in parts, it is something else.
    assert!(check("AAAAAA==", "bytes 0-8/20").is_ok());
    assert!(check("AAAAAA==-2", "bytes 0-8/9").is_ok());
}

fn page(keys: &[&str], encoding: &str, more: bool) -> Element {
    let object = |key: &&str| {
        format!(
            "<Contents><Key>{key}</Key><Size>7</Size><LastModified>2026-01-02T03:04:05.678Z</LastModified></Contents>"
        )
    };
    let objects: String = keys.iter().map(object).collect();
    let xml = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>{encoding}{objects}</ListBucketResult>");
    Element::read(&xml.into(), "ListBucketResult").expect("a document")
}

const URL: &str = "<EncodingType>url</EncodingType>";

#[test]
fn encoded_keys_are_decoded_and_others_are_not() {
    let listed = |keys: &[&str], encoding| {
        let (page, _) = check_page(&page(keys, encoding, false), "", "").expect("a page");
        page.objects.into_iter().map(|object| object.key).collect::<Vec<_>>()
    };
    assert_eq!(listed(&["a+b%2B%0A%25"], URL), ["a b+\n%"]);
    assert_eq!(listed(&["a+b%2B"], ""), ["a+b%2B"]);
    assert!(check_page(&page(&["a%ff"], URL, false), "", "").is_err());
}

#[test]
fn a_page_has_sizes_and_times() {
    let (page, _) = check_page(&page(&["a"], "", false), "", "").expect("a page");
    let expected = ObjectMeta {
        key: "a".to_string(),
        size: 7,
        modified_ms: 1_767_323_045_678,
    };
    assert_eq!(page.objects, [expected]);
}

#[test]
fn pages_out_of_order_are_noticed() {
    for (keys, after) in [
        (&["b", "a"][..], ""),
        (&["a", "a"], ""),
        (&["a"], "a"),
        (&["x"], ""),
        (&["a"], "b"),
    ] {
        let prefix = if keys == ["x"] { "y" } else { "" };
        assert!(
            check_page(&page(keys, "", false), prefix, after).is_err(),
            "{keys:?} after {after:?}"
        );
    }
    assert!(check_page(&page(&[], "", true), "", "").is_err());
}

#[test]
fn what_is_no_key_is_passed_over_and_still_gone_on_from() {
    let (found, last) = check_page(&page(&["a", "b//c", "d/"], "", true), "", "").expect("a page");
    assert_eq!((found.objects.len(), last.as_deref()), (1, Some("d/")));
}

#[test]
fn control_characters_do_not_go_through_xml() {
    assert!(is_plain("a/b <>&'\" Ü 漢"));
    for key in [" a", "a ", "a\nb", "a\rb", "a\u{1}", "\u{fffe}", "\u{85}"] {
        assert!(!is_plain(key), "{key:?}");
    }
}
