#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| evergrant_fuzz::stream(bytes));
