use super::*;
use rusoto_s3::Object;

fn part(status: u16, range: Option<&str>) -> Head {
    Head {
        status,
        content_range: range.map(str::to_string),
        ..Head::default()
    }
}

#[test]
fn a_part_is_what_was_asked_for() {
    let bytes = || Bytes::from_static(b"345");
    let head = part(206, Some("bytes 3-5/10"));
    let expected = Part {
        bytes: bytes(),
        object_len: 10,
    };
    assert_eq!(check_part(Span::From(3, 3), bytes(), &head), Ok(expected));
    for wrong in [Span::From(3, 4), Span::From(2, 3), Span::Last(3), Span::Last(7)] {
        assert!(check_part(wrong, bytes(), &head).is_err(), "{wrong:?}");
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
        let refused = check_part(Span::From(3, 3), bytes(), &part(206, Some(range)));
        assert!(refused.is_err(), "{range}");
    }
    assert!(check_part(Span::From(3, 3), bytes(), &part(206, None)).is_err());
}

#[test]
fn a_server_may_answer_with_the_whole_object() {
    let bytes = || Bytes::from_static(b"345");
    let whole = part(200, None);
    for span in [
        Span::From(0, 3),
        Span::From(0, u64::MAX),
        Span::Last(3),
        Span::Last(u64::MAX),
    ] {
        let part = check_part(span, bytes(), &whole).expect("the whole object");
        assert_eq!(part.object_len, 3);
    }
    assert!(check_part(Span::From(1, 2), bytes(), &whole).is_err());
}

#[test]
fn the_checksum_of_a_whole_object_is_verified() {
    let bytes = Bytes::from_static(b"123456789");
    let head = |crc: &str, range: &str| Head {
        crc32c: Some(crc.to_string()),
        ..part(206, Some(range))
    };
    // CRC-32C's well-known check value is e3069283.
    let right = BASE64_STANDARD.encode(0xe306_9283u32.to_be_bytes());
    let all = Span::From(0, 9);
    assert!(check_part(all, bytes.clone(), &head(&right, "bytes 0-8/9")).is_ok());
    assert!(check_part(all, bytes.clone(), &head("AAAAAA==", "bytes 0-8/9")).is_err());
    // Of a part, and of an object that was uploaded in parts, it is something else.
    assert!(check_part(all, bytes.clone(), &head("AAAAAA==", "bytes 0-8/20")).is_ok());
    assert!(check_part(all, bytes, &head("AAAAAA==-2", "bytes 0-8/9")).is_ok());
}

fn page(keys: &[&str], encoding: Option<&str>, more: bool) -> ListObjectsV2Output {
    let object = |key: &&str| Object {
        key: Some(key.to_string()),
        size: Some(7),
        last_modified: Some("2026-01-02T03:04:05.678Z".to_string()),
        ..Object::default()
    };
    ListObjectsV2Output {
        contents: Some(keys.iter().map(object).collect()),
        encoding_type: encoding.map(str::to_string),
        is_truncated: Some(more),
        ..ListObjectsV2Output::default()
    }
}

#[test]
fn encoded_keys_are_decoded_and_others_are_not() {
    let listed = |keys: &[&str], encoding| {
        let (page, _) = check_page(page(keys, encoding, false), "", "").expect("a page");
        page.objects.into_iter().map(|object| object.key).collect::<Vec<_>>()
    };
    assert_eq!(listed(&["a+b%2B%0A%25"], Some("url")), ["a b+\n%"]);
    assert_eq!(listed(&["a+b%2B"], None), ["a+b%2B"]);
    assert!(check_page(page(&["a%ff"], Some("url"), false), "", "").is_err());
}

#[test]
fn a_page_has_sizes_and_times() {
    let (page, _) = check_page(page(&["a"], None, false), "", "").expect("a page");
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
            check_page(page(keys, None, false), prefix, after).is_err(),
            "{keys:?} after {after:?}"
        );
    }
    assert!(check_page(page(&[], None, true), "", "").is_err());
}

#[test]
fn what_is_no_key_is_passed_over_and_still_gone_on_from() {
    let (found, last) = check_page(page(&["a", "b//c", "d/"], None, true), "", "").expect("a page");
    assert_eq!((found.objects.len(), last.as_deref()), (1, Some("d/")));
}

#[test]
fn control_characters_do_not_go_through_xml() {
    assert!(is_plain("a/b <>&'\" Ü 漢"));
    for key in ["a\nb", "a\rb", "a\u{1}", "\u{fffe}", "\u{85}"] {
        assert!(!is_plain(key), "{key:?}");
    }
}
