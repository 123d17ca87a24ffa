//! Whatever a netlink socket delivers, reading the table back must not panic.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let ruleset = tortie_nft_netlink::decode_dump(data);
    // What was read can be printed, and compared with what is wanted.
    let _ = ruleset.to_string();
    let _ = ruleset.diff(&tortie_nft::Ruleset::default()).to_string();
});
