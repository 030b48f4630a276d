#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| lacewing_fuzz::filter::run(input));
