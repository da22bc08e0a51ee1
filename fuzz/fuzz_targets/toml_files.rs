#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nearfield_fuzz::toml_files(bytes));
