# What a user, a developer and CI type. Everything else is plain cargo.
#
#   DEMO_SECONDS=20 make demo    the demo ends by itself after so many seconds (0 or unset: until Ctrl-C)

CARGO ?= cargo
FUZZ_SECONDS ?= 60
BENCH_OUT ?= target/benchmarks

.DEFAULT_GOAL := help
.PHONY: help deps build demo test fuzz soak test-matrix bench bench-growth

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## Check for (and on Debian as root: install) the databases and tools the rest needs
	@./scripts/deps.sh

build: deps ## Build the program: target/debug/tidelock
	$(CARGO) build --locked

demo: build ## A scratch PostgreSQL ERP and MariaDB CRM, kept in step in both directions before your eyes
	@target/debug/tidelock demo

test: deps ## Format, lints, and all tests on real servers
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) test --workspace --locked

fuzz: ## The decoders on damaged input, FUZZ_SECONDS (60) for each; TIDELOCK_FUZZ_SEED=... repeats a case
	TIDELOCK_FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --workspace --locked --profile fuzz -- fuzz --nocapture

soak: deps ## The long ones: random kills under load, killed first copies, everything at once, idle silence, huge transactions, traffic of others
	TIDELOCK_SOAK=1 $(CARGO) test --release --locked --test e2e -- soak:: echo:: snapshot:: chaos:: --nocapture --test-threads=1

test-matrix: deps ## The end-to-end tests against other server versions, MySQL among them (downloads them once)
	./scripts/matrix.sh

bench: deps ## Cost of each stage, then throughput and latency beside native replication (ROWS=... REPEAT=...; tables and plots in BENCH_OUT)
	$(CARGO) bench --locked --bench stages
	OUT=$(BENCH_OUT) $(CARGO) bench --locked --bench replicate

bench-growth: deps ## How throughput, CPU and memory grow with rows, tables, row width and transaction size; cost at rest
	GROWTH=1 OUT=$(BENCH_OUT) $(CARGO) bench --locked --bench replicate
