# The front desk: what is not here does not exist. `make run` needs Rust and nothing else, and
# `make test` installs what else it needs.

.PHONY: run test check fmt clippy doc proto schema session bench deny postgres mailpit chromium

## Serves, with a private Postgres in the data folder. Settings: make run ARGS="--listen 127.0.0.1:6000"
run: postgres
	cargo run -- $(ARGS)

## Runs all tests, against a real Postgres, a real mail server and a real browser that they start themselves.
test: postgres mailpit chromium
	cargo test

## All that CI checks besides the tests.
check: fmt clippy doc proto schema

fmt:
	cargo fmt --all --check

clippy:
	cargo clippy --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items

## Lints the protos (needs buf: npm install --global @bufbuild/buf).
proto:
	buf lint
	buf format --diff --exit-code

## Compares src/schema.rs with what the migrations make, up, down and up again (needs diesel_cli).
schema: postgres
	scripts/check-schema

## Runs the README's session with the real grpcurl, as it is printed there.
session: postgres
	cargo build
	scripts/check-session

## Measures verification, the feed, and lists of a million tenants: see docs/performance.md. Takes some minutes, and 2 GB in BENCH.
BENCH ?= $(CURDIR)/target/bench
bench: postgres
	TENANTRY_BENCH_DIR=$(BENCH) cargo bench --bench verify
	TENANTRY_BENCH_DIR=$(BENCH) cargo bench --bench feed
	TENANTRY_BENCH_DIR=$(BENCH) cargo bench --bench lists
	TENANTRY_BENCH_DIR=$(BENCH) cargo bench --bench authorizations

## Checks licences and sources of what we depend on (needs cargo-deny).
deny:
	cargo deny check bans licenses sources

## Makes sure that Postgres's server binaries are on the machine.
postgres:
	@scripts/ensure-postgres

## Makes sure that the tests' mail server is on the machine. It is built with Go, which is installed too.
mailpit:
	@scripts/ensure-mailpit

## Makes sure that the tests' browser and its driver are on the machine.
chromium:
	@scripts/ensure-chromium
