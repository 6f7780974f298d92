# Kafscale: `make help` lists what there is.
.DEFAULT_GOAL := help

# Seeds that `make sim` runs, and seconds that `make fuzz` gives to each target.
SEEDS ?= 10000
FUZZ_SECONDS ?= 60
# Rounds of `make kill`.
ROUNDS ?= 200
# Of `make chaos`: how long things break.
CHAOS_SECONDS ?= 1800
# Of `make groups`: how long members come and go, how many there are at most, and of which clients (all).
SECONDS ?= 180
MEMBERS ?= 20
CLIENTS ?=
# Of `make bench-compare`, see its --help.
COMPARE_ARGS ?=
# Of `make bench-agree` and `make bench-limits`, see their --help.
AGREE_ARGS ?=
LIMITS_ARGS ?=
# Of `make bench-check`: --update writes a new baseline.
CHECK_ARGS ?=

.PHONY: help build run test fmt lint deny docs sim model kill chaos fuzz cluster failover scale demo compat judge judge-clients groups second-s3 k8s images bench bench-compare bench-agree bench-limits bench-check test-produce-consume test-consumer-group

help: ## This list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-22s %s\n", $$1, $$2 }'

build: ## Release binaries in target/release
	@ci/install.sh
	cargo build --release --locked

run: ## A broker on this machine: records in ./kafscale-data, nothing else needed
	@ci/install.sh
	cargo build --release --locked -p kafscale-broker
	$${CARGO_TARGET_DIR:-target}/release/kafscale-broker

test: ## Format, lints, licences, generated docs and all tests
	@ci/test.sh

fmt: ## Format the code
	cargo fmt --all

lint: ## Lints, warnings are errors
	cargo clippy --workspace --all-targets -- -D warnings

deny: ## Licences, sources and bans of all dependencies; installs cargo-deny if it is missing
	@ci/deny.sh install

docs: ## Write the generated documentation again (docs/settings.md, docs/metrics.md)
	UPDATE_DOCS=1 cargo test --workspace --lib docs_are_current

model: ## All interleavings of the fencing protocol, on the decisions that run in production
	cargo test --release --locked -p kafscale-storage-engine --test fencing_model -- --include-ignored --nocapture

kill: ## A broker killed with SIGKILL under load, again and again: make kill ROUNDS=200
	@ROUNDS=$(ROUNDS) ci/kill.sh

chaos: ## A real cluster (brokers, etcd, S3) in which everything breaks under load: make chaos CHAOS_SECONDS=1800
	@CHAOS_SECONDS=$(CHAOS_SECONDS) ci/chaos.sh

sim: ## Deterministic simulation of a cluster: make sim SEEDS=10000
	@SEEDS=$(SEEDS) ci/sim.sh

fuzz: ## Fuzz the decoders: make fuzz FUZZ_SECONDS=60
	@FUZZ_SECONDS=$(FUZZ_SECONDS) ci/fuzz.sh

cluster: ## Three brokers, an etcd and an S3 server on this machine, until Ctrl-C
	@ci/cluster.sh

failover: ## How long clients wait when a broker of a cluster is killed, and in a rolling restart; needs what `make compat` installs
	@ci/failover.py

scale: ## What 10 and 10,000 partitions cost: puts to S3, memory, the start after a kill
	cargo build --release --locked -p kafscale-broker -p kafscale-bench -p kafscale-test-s3
	@ci/scale.py

demo: ## A broker, a producer and a consumer, in one terminal
	@ci/demo.sh

compat: ## Real Kafka clients against a real broker
	@ci/compat.sh

judge: ## Every answer compared with a real Apache Kafka's: make judge SEEDS=400 JUDGE_ONLY=cases,groups,recorded,generated
	@SEEDS=$(if $(filter file,$(origin SEEDS)),400,$(SEEDS)) ci/judge.sh

judge-clients: ## sarama 1.43.3 and its 300 MB after retention; 3,000 partitions' offsets by time in one request
	@ci/judge_clients.sh

groups: ## Real consumer groups whose members are killed again and again: make groups SECONDS=180 MEMBERS=20 CLIENTS=java-4
	@ci/compat.sh --groups --seconds $(SECONDS) --members $(MEMBERS) $(CLIENTS)

second-s3: ## The object store and a broker that is killed, with an S3 server that is not ours (SeaweedFS; needs Go to build it)
	@ci/second_s3.sh

k8s: ## The operator against a real Kubernetes API server, which the first run builds from source
	@ci/k8s.sh

images: ## Build the images with stand-ins for their bases, and run them as the compose file says; needs root, podman is installed
	@ci/images.sh

test-produce-consume: ## kcat writes records and reads them back, also after a restart
	@ci/compat.sh produce-consume

test-consumer-group: ## kcat reads in a consumer group that remembers its offsets
	@ci/compat.sh consumer-group

bench: ## Throughput, latency percentiles and CPU per GB of a broker of its own, or of any other: make bench BENCH_ARGS=--help
	@BENCH_ARGS="$(BENCH_ARGS)" ci/bench.sh

bench-compare: ## Apache Kafka and this broker under the same loads, in turns: make bench-compare COMPARE_ARGS=--help
	cargo build --release --locked -p kafscale-broker -p kafscale-bench -p kafscale-test-s3
	@ci/bench_compare.py $(COMPARE_ARGS)

bench-agree: ## Whether kafscale-bench and kafka-producer-perf-test measure the same throughput: make bench-agree AGREE_ARGS=--help
	cargo build --release --locked -p kafscale-broker -p kafscale-bench -p kafscale-test-s3
	@ci/bench_agree.py $(AGREE_ARGS)

bench-limits: ## What this machine can do at most: loopback, memory, checksums, disk: make bench-limits LIMITS_ARGS=--help
	cargo build --release --locked -p kafscale-bench
	@$${CARGO_TARGET_DIR:-target}/release/kafscale-bench limits $(LIMITS_ARGS)

bench-check: ## Instructions of pieces of the hot path against the committed baseline; needs valgrind
	@ci/bench_check.py $(CHECK_ARGS)
