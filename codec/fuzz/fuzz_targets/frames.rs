//! Whatever comes from a socket: frames, request headers, every message in every version. What can be read can be said,
//! and what was said is read as the same message.

#![no_main]

use bytes::Bytes;
use kafscale_codec::api::ApiKey;
use kafscale_codec::frame::FrameDecoder;
use kafscale_codec::messages::*;
use kafscale_codec::wire::{Reader, Writer};
use libfuzzer_sys::fuzz_target;

/// Larger frames only make it slow.
const FRAME_MAX: usize = 1 << 16;

/// The first byte says how the rest arrives: in pieces of this size.
fn frames(input: &[u8]) -> Vec<Bytes> {
    let Some((&piece, rest)) = input.split_first() else {
        return Vec::new();
    };
    let mut decoder = FrameDecoder::new(FRAME_MAX);
    let mut found = Vec::new();
    for piece in rest.chunks(usize::from(piece).max(1)) {
        decoder.buffer_mut().extend_from_slice(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => found.push(frame),
                Ok(None) => break,
                Err(_) => return found,
            }
        }
    }
    found
}

fn there_and_back<M: Message + std::fmt::Debug>(body: &Bytes, version: i16) {
    if !M::VERSIONS.contains(&version) {
        return;
    }
    let mut reader = Reader::new(body.clone());
    let Ok(message) = M::decode(&mut reader, version) else {
        return;
    };
    let mut writer = Writer::new();
    message.encode(&mut writer, version).expect("what was read can be said");
    let again = M::decode(&mut Reader::new(writer.finish().concat().into()), version);
    // As text, since a NaN is not equal to itself.
    assert_eq!(format!("{:?}", again.as_ref()), format!("{:?}", Ok::<_, ()>(&message)));
}

macro_rules! every_message {
    ($($api:ident $request:ident $response:ident,)*) => {
        fn decode(key: ApiKey, version: i16, body: &Bytes) {
            match key {
                $(ApiKey::$api => {
                    there_and_back::<$request>(body, version);
                    there_and_back::<$response>(body, version);
                })*
                _ => {}
            }
        }
    };
}

kafscale_codec::for_each_api!(every_message);

fuzz_target!(|input: &[u8]| {
    // A message by itself: a header that fits is too hard to find.
    if let [key, version, body @ ..] = input {
        if let Some(key) = ApiKey::from_key(i16::from(*key)) {
            decode(key, i16::from(*version), &Bytes::copy_from_slice(body));
        }
    }
    for frame in frames(input) {
        let mut reader = Reader::new(frame.clone());
        let Ok(header) = decode_request_header(&mut reader) else {
            continue;
        };
        let Some(key) = ApiKey::from_key(header.api_key) else {
            continue;
        };
        let body = frame.slice(frame.len() - reader.remaining()..);
        decode(key, header.api_version, &body);
    }
});
