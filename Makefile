# Skein: two commands matter, `make up` and `make test`. Everything else is a part of them.

GO       ?= go
CACHE    ?= cache
IMAGE    := $(CACHE)/image
DEMO     := $(CACHE)/demo
VERSION  := $(shell git describe --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0

# What the host needs besides Go and git: an emulator for the lab, and tools of the network tests.
PACKAGES := qemu-system-x86 seabios ovmf ipxe-qemu iproute2 nftables ca-certificates
TOOLS    := qemu-system-x86_64 ip nft
# Kept going to the end of a long run by CI's own limit; a hang is cut here.
TESTTIME := 40m

.PHONY: all up down test unit guest sim bench chaos outage lint fmt deps build image skopeo clean

all: build

## up: everything installed and built, a three-node cluster running the demo
up: deps build image
	bin/skein lab up --image $(IMAGE) --demo $(DEMO)

## down: stop the cluster of `make up`
down:
	bin/skein lab down

## test: all tests: lint, units, guests under emulation, the cluster end to end
test: deps build image skopeo lint
	SKEIN_IMAGE_DIR=$(abspath $(IMAGE)) SKEIN_DEMO_DIR=$(abspath $(DEMO)) SKEIN_BIN=$(abspath bin/skein) SKEIN_CACHE_DIR=$(abspath $(CACHE)) \
		$(GO) test -timeout $(TESTTIME) -p 1 ./...

## unit: what needs no machine, under three minutes
unit: build
	$(GO) test -short -timeout 5m ./...

## sim: many more seeded fault schedules than the unit tests run, and larger models
sim:
	SKEIN_MODEL=all $(GO) test -timeout 10m ./agent/model
	GOGC=800 SKEIN_SIM_RUNS=$(or $(RUNS),100000) $(GO) test -timeout 20m -v -run 'TestRandom$$|TestScenarios|TestStorageFaults|TestBroken|TestOneWriter|TestCheckerSees' ./agent/sim

## bench: figures of boot, takeover, memory and size, as ratios to something in the same run
bench: deps build image
	$(GO) run ./tests/bench -image $(IMAGE) -demo $(DEMO) -skein bin/skein

## chaos: 200 random power cuts, freezes and partitions (FAULTS, SEED), results in cache/chaos; an hour
chaos: deps build image
	$(GO) run ./tests/chaos -n $(or $(FAULTS),200) -seed $(or $(SEED),1) -image $(IMAGE) -demo $(DEMO) -skein bin/skein -out $(CACHE)/chaos

## outage: docs/outage.md and its picture from all results there are
outage:
	$(GO) run ./tests/chaos -report docs/outage.md $(wildcard $(CACHE)/chaos*/results.jsonl)

lint:
	@test -z "$$(gofmt -l agent cmd images initramfs netboot qemu storage tests 2>/dev/null)" || { gofmt -l agent cmd images initramfs netboot qemu storage tests; echo 'run: make fmt'; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

fmt:
	gofmt -w agent cmd images initramfs netboot qemu storage tests

build:
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/skein ./cmd/skein
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/skeind ./cmd/skeind
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o bin/skein-san ./qemu/san/init

image: build
	bin/skein image build --format lab,pxe,uki,raw --cache $(CACHE) --skeind bin/skeind --out $(IMAGE)
	bin/skein image demo --cache $(CACHE) --out $(DEMO)

# skopeo of Debian beside this machine's programs, for the tests of the registry; they skip without it.
SKOPEO := skopeo libgpgme11 libassuan0 libdevmapper1.02.1 golang-github-containers-common
skopeo:
	@test -e $(CACHE)/skopeo/usr/bin/skopeo || { mkdir -p $(CACHE)/skopeo/debs && cd $(CACHE)/skopeo/debs && \
		apt-get download -qq $(SKOPEO) 2>/dev/null && for d in *.deb; do dpkg-deb -x $$d ..; done; } || \
		echo 'no skopeo from apt: the tests with it are skipped'

## deps: install what is missing on a fresh Debian machine
deps:
	@missing=; for t in $(TOOLS); do PATH=$$PATH:/usr/sbin:/sbin command -v $$t >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		echo "installing: $(PACKAGES)"; \
		$$sudo apt-get update -qq && DEBIAN_FRONTEND=noninteractive $$sudo apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; \
	fi

clean:
	rm -rf bin $(CACHE)
