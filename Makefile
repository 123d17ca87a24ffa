# The commands a newcomer needs. `make demo` and `make test` get what they need by themselves: what builds the project (a linker) is
# installed when missing, the programs that tests compare us with are unpacked into target/peers and never installed.

CARGO ?= cargo
TOOLS := target/tools/bin
DENY_VERSION := 0.20.2
# One name everywhere: the one that deploy/ uses.
IMAGE := $(shell sed -n 's/^ *image: //p' deploy/base/daemonset.yaml)

# Network namespaces need root. Building does not: only the programs that are run get it.
ifneq ($(shell id -u),0)
SUDO := sudo
AS_ROOT := --config 'target."cfg(all())".runner="sudo -E"'
endif

.PHONY: help demo test test-cluster test-long check format lint deny crds bench fuzz peers k8s image build setup clean-lab

help:
	@echo "make demo          boot a three-node cluster on this machine, route, enforce, break things, clean up"
	@echo "make test          every test, with real kernels and real peers (BIRD, nft)"
	@echo "make test-cluster  the pass through a real two-node Kubernetes cluster, with the image of make image"
	@echo "make test-long     what takes hours: all truth tables by packets, fuzzing, a thousand kills"
	@echo "make check         what must hold before a change lands: format, lints, licences, tests"
	@echo "make image         the container image that deploy/ uses: target/image/tortie.tar"
	@echo "make crds          the CustomResourceDefinitions in deploy/crds, from the types in api/"
	@echo "make bench         side-by-side benchmarks; receipts are in docs/perf/"
	@echo "make fuzz          every fuzz target for a minute each (needs a nightly toolchain and cargo-fuzz)"

demo: build
	$(SUDO) target/release/tortie lab demo

build: setup
	$(CARGO) build --release --locked -p tortie-node -p tortie-ctl

image: setup
	deploy/image/build.sh target/image/files
	$(CARGO) run --quiet --locked -p tortie-image -- target/image/tortie.tar target/image/files --name $(IMAGE) --entrypoint /usr/bin/tortie-node

setup:
	@command -v $(CARGO) >/dev/null || { echo "Rust is missing: install rustc and cargo 1.89 or later"; exit 1; }
	@command -v cc >/dev/null || { echo "installing a linker (gcc)"; $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq gcc libc6-dev; }

peers:
	@tests/peers.sh

# A real cluster's programs, for tests: minutes the first time, nothing afterwards.
k8s: setup peers
	@tests/k8s/build.sh

test: setup peers k8s
	$(CARGO) build --locked --workspace
	$(CARGO) test --locked --workspace --no-fail-fast $(AS_ROOT)

# The pass through a two-node cluster, with the very image that users get.
test-cluster: setup peers k8s image
	$(CARGO) build --locked --workspace
	TORTIE_IMAGE=target/image/tortie.tar $(CARGO) test --locked -p tortie-tests --test k8s $(AS_ROOT) -- cluster::

test-long: setup peers k8s image
	@tests/k8s/build.sh e2e
	$(CARGO) build --locked --release --workspace
	TORTIE_LONG=1 TORTIE_IMAGE=target/image/tortie.tar $(CARGO) test --locked --release --workspace --no-fail-fast $(AS_ROOT)
	tests/vm/run.sh 12
	tests/vm/run.sh 13
	TORTIE_VM_ARGS="ipip --test-threads 1 --nocapture" tests/vm/run.sh 12 "$$(ls -t target/release/deps/overlay-* | grep -v '[.]d$$' | head -n 1)"

check: format lint deny test

format:
	$(CARGO) fmt --all --check

lint: setup
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

deny: $(TOOLS)/cargo-deny
	$(TOOLS)/cargo-deny --locked check --hide-inclusion-graph bans licenses sources

$(TOOLS)/cargo-deny:
	$(CARGO) install cargo-deny --version $(DENY_VERSION) --locked --root target/tools

crds: setup
	$(CARGO) run --locked -q -p tortie-api --features schema --bin crds -- deploy/crds

bench: build peers
	bench/run.sh

fuzz:
	fuzz/run.sh
