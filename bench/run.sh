#!/usr/bin/env bash
# Runs the side-by-side benchmarks, each beside its peers in one run, and leaves their results as JSON in target/bench.
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p target/bench
cargo build --release --locked -p tortie-bench
for name in nft fib policy path scale delta start; do
    echo "bench: $name"
    "target/release/bench-$name" --json "target/bench/$name.json"
done
