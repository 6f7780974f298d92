//! The Kafscale broker process.

fn main() {}
