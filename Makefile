# Kafscale: `make help` lists what there is.
.DEFAULT_GOAL := help
SEEDS ?= 10000

.PHONY: help build run test fmt lint

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-22s %s\n", $$1, $$2 }'

build: ## Release binaries in target/release
	@ci/install.sh
	cargo build --release --locked

run: build ## A broker on this machine: records in ./kafscale-data, nothing else needed
	target/release/kafscale-broker

test: ## Format, lints and all tests
	@ci/test.sh

fmt: ## Format the code
	cargo fmt --all

lint: ## Lints, warnings are errors
	cargo clippy --workspace --all-targets -- -D warnings

.PHONY: compat
compat: ## Real Kafka clients against a real broker
	@ci/compat.sh
