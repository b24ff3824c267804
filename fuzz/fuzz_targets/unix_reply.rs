#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| listen_queue_exporter_fuzz::run("unix_reply", input));
