#!/usr/bin/env bash
# Runs every fuzz target for SECONDS_EACH (60) seconds; a crash ends it with the input that caused it. Needs a nightly toolchain.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${SECONDS_EACH:-60}
fuzz=../target/tools/bin/cargo-fuzz
[ -x "$fuzz" ] || cargo install cargo-fuzz --locked --root ../target/tools
export PATH="$PWD/../target/tools/bin:$PATH"
for target in fuzz_targets/*.rs; do
    name=$(basename "$target" .rs)
    echo "fuzz: $name for $seconds s"
    cargo +nightly fuzz run --fuzz-dir . "$name" -- -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1
done
