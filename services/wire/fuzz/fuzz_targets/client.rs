//! See `imaccess_wire_fuzz::client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| imaccess_wire_fuzz::client(input));
