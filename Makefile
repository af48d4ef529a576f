HELM ?= $(shell command -v helm || echo "$$(e2e/cluster/build)/helm")

.PHONY: help demo check test soak lint prepare generate docs man chart figures e2e peers speed

help: ## What can be made
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' Makefile | expand -t 10

demo: ## A Postgres, a shop and a receiver: everything at work, until Ctrl-C
	@echo "Building the demo. The first build takes 3 to 15 minutes, as the machine is; later ones a minute or less."
	cargo run --package observer-demo

check: lint ## The quick loop: format, lints, unit tests
	PATH="$$(scripts/prepare tools | paste -sd:):$$PATH" cargo nextest run --workspace --lib --bins

test: ## Everything that must pass to land: tests, the oldest Postgres, the chart, a real cluster
	scripts/test

soak: ## What takes long, for releases: scripts/soak [faults] [oldest-postgres] [image] [cluster]
	scripts/soak

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- --deny warnings

prepare:
	scripts/prepare

generate: ## The chart's resource definitions and the reference of the docs, from the code
	scripts/generate

man: ## Man pages of all programs, in target/man
	cargo run --quiet --locked --package observer-reference -- man target/man

docs: ## The docs as a book, in target/book
	scripts/docs

chart: ## Whether the Helm chart is up to date and renders in all its ways (HELM=program)
	scripts/generate --check
	HELM=$(HELM) charts/test

figures: ## What a dead receiver costs others, by a dist build; printed, not judged
	cargo build --profile dist --package observer-listener
	OBSERVER_TEST_PROGRAM=$(CURDIR)/target/dist/observer-listener \
		cargo test --package observer-listener --test main figures -- --ignored --nocapture --test-threads 1

e2e: ## Everything in a cluster: kind where there is Docker, else one of its own making (root)
	e2e/run

peers: ## The job queue beside others for Postgres, on one server; printed, not judged (Go, npm)
	e2e/peers/run

speed: ## Deliveries beside a bare loop and other systems, on one server; printed, not judged (Java, Go, npm)
	e2e/speed/run --all
