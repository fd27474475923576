# Both main targets are sufficient alone on a fresh Debian machine with Rust: `tests/setup.sh` installs what is missing
# (as root), or prints the one line that does.

CARGO ?= cargo
# `tidegate version` and /server_info say which commit was built.
BUILD = TIDEGATE_GIT_REVISION=$$(git rev-parse --short=12 HEAD 2>/dev/null) $(CARGO) build --locked
DEMO_ARGS ?=
TEST_ARGS ?=
COMPARE_ARGS ?=
MICRO_ARGS ?=
GATE_ARGS ?=

REL_ARGS ?= list

.PHONY: demo test acme soak bench compare micro gate rel h2spec lint fmt peers help

help:
	@echo 'make demo    build, and run a Bookinfo-like application behind the gateway'
	@echo 'make test    all tests (installs their peers first)'
	@echo 'make acme    issue and renew certificates under every fault that pebble injects (about 5 minutes)'
	@echo 'make soak    the reload and crash tests at full size (about 15 minutes)'
	@echo 'make bench   scale and cost figures of a release build, as tables'
	@echo 'make compare  side by side with Envoy, HAProxy and nginx; tables in target/compare (about 20 minutes)'
	@echo 'make micro   our own hot paths one by one, in wall time and allocations; MICRO_ARGS=selection for a part'
	@echo 'make gate    their instructions (callgrind) against benches/micro/instructions.json'
	@echo 'make rel     one fault, one line of JSON: make rel REL_ARGS="reload --quick"; REL_ARGS=list names them'
	@echo 'make h2spec  conformance of HTTP/2 over plaintext and TLS (needs Go to install h2spec)'
	@echo 'make lint    rustfmt, clippy, and cargo-deny if it is installed'

# The `quick` profile is the release code without the long link.
demo:
	@sh tests/setup.sh build
	$(BUILD) --profile quick -p tidegate
	exec target/quick/tidegate demo $(DEMO_ARGS)

# One build of the workspace with one set of features; everything after it only runs.
test: peers
	$(CARGO) test --locked --workspace --no-run
	$(CARGO) test --locked --workspace --no-fail-fast $(TEST_ARGS)

peers:
	@sh tests/setup.sh build test

# The matrix of faults of which `make test` runs a few corners.
acme: peers
	TIDEGATE_ACME_MATRIX=1 $(CARGO) test --locked -p tidegate-acme --test pebble -- --nocapture

# The same tests as in `make test`, at the sizes of the acceptance list.
soak: peers
	@sh tests/setup.sh soak
	$(BUILD) --profile quick -p tidegate
	TIDEGATE_BIN=$(CURDIR)/target/quick/tidegate TIDEGATE_SOAK=1 \
		$(CARGO) test --locked -p tidegate-tests --test timing -- --nocapture
	TIDEGATE_BIN=$(CURDIR)/target/quick/tidegate TIDEGATE_SOAK=1 \
		$(CARGO) test --locked -p tidegate-tests --test e2e tls::tools

bench:
	@sh tests/setup.sh build bench
	$(BUILD) --release -p tidegate
	TIDEGATE_BIN=$(CURDIR)/target/release/tidegate $(CARGO) bench --locked -p tidegate-tests --bench gateway

# COMPARE_ARGS=--quick, a case (h1, tls, h2, handshake, idle, hosts, change, ...), --proxies tidegate,envoy
compare:
	@sh tests/setup.sh build compare
	$(BUILD) --release -p tidegate
	TIDEGATE_BIN=$(CURDIR)/target/release/tidegate $(CARGO) bench --locked -p tidegate-tests --bench compare -- $(COMPARE_ARGS)

# REL_BINARY=target/release/tidegate runs a binary that is there; without it one is built.
REL_BINARY ?=
REL = $(CARGO) run --locked -q -p tidegate-tests --bin rel --

micro:
	@sh tests/setup.sh build
	$(CARGO) bench --locked -p tidegate-micro --bench micro -- $(MICRO_ARGS)

# GATE_ARGS=--update writes the table, GATE_ARGS="route" takes what has that in its name
gate:
	@sh tests/setup.sh build micro
	$(CARGO) bench --locked -p tidegate-micro --bench micro -- gate $(GATE_ARGS)

rel: peers
	@sh tests/setup.sh rel
	@if [ -z "$(REL_BINARY)" ]; then $(BUILD) --profile quick -p tidegate; fi
	$(REL) --binary $(or $(REL_BINARY),target/quick/tidegate) $(REL_ARGS)

h2spec:
	@sh tests/setup.sh build rel h2spec
	@if [ -z "$(REL_BINARY)" ]; then $(BUILD) --profile quick -p tidegate; fi
	$(REL) --binary $(or $(REL_BINARY),target/quick/tidegate) h2spec

lint:
	$(CARGO) fmt --all -- --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@if $(CARGO) deny --version >/dev/null 2>&1; then $(CARGO) deny check bans licenses sources; \
	else echo 'cargo-deny is not installed (cargo install --locked cargo-deny@0.20.2): licences and bans not checked'; fi

fmt:
	$(CARGO) fmt --all
