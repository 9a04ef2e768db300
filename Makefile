# Every target sets itself up: a fresh clone needs nothing but make, Python 3.11 and a network.
.DEFAULT_GOAL := help
SHELL := /bin/bash
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: help setup demo test test-all test-ceph lint types layers bench-render bench-autoencoder bench-warmup bench-kernels bench-fit bench-scale bench-driver bench-overhead bench-store conformance chaos soak doctor check-images clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(STAMP)  ## make .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt deploy/setup.sh
	bash deploy/setup.sh

demo: $(STAMP)  ## render, train, fit, evaluate and report the built-in cars into demo-dataset/
	$(BIN)/fpipe demo demo-dataset

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy, strict
	$(BIN)/mypy

layers: $(STAMP)  ## import-linter: cli -> pipeline -> render_jobs -> storage
	$(BIN)/lint-imports

# Tests of the program's parts run side by side; those that run whole commands, Blender and deadlines do not.
PARTS := tests/test_storage tests/test_pipeline
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile

test: lint types layers  ## lint, types, layers and every test not marked slow
	$(BIN)/pytest -m "not slow" $(SIDE_BY_SIDE) $(PARTS)
	$(BIN)/pytest -m "not slow" $(PARTS:%=--ignore=%)

test-all: lint types layers  ## the slow tests too
	$(BIN)/pytest

test-ceph: $(STAMP)  ## commits and replacements on Ceph's RGW, or on the server in FPIPE_TEST_S3_ENDPOINT
	$(BIN)/pytest -m ceph

bench-render: $(STAMP)  ## cost of a rendered view, end to end, against a plain Blender script
	$(BIN)/python -m tests.benchmarks.bench_render

bench-autoencoder: $(STAMP)  ## PSNR of small autoencoders on unseen objects over CPU-seconds: JSON lines and a plot
	$(BIN)/python -m tests.benchmarks.bench_autoencoder

bench-warmup: $(STAMP)  ## CPU of a training step at the paper's sizes, against plain torch
	$(BIN)/python -m tests.benchmarks.bench_warmup

bench-fit: $(STAMP)  ## quality of fits over CPU-seconds per object, against the paper's recipe: JSON line and plot
	$(BIN)/python -m tests.benchmarks.bench_fit --size small

bench-store: $(STAMP)  ## reads and writes of the store against zarr, tensorstore, files and tars: JSON lines and a plot
	mkdir -p bench-store
	$(BIN)/python -m tests.benchmarks.bench_store --out bench-store

bench-kernels: $(STAMP)  ## sampling and decoding of a fit step: our code against grid_sample and others
	$(BIN)/python -m tests.benchmarks.bench_kernels

bench-scale: $(STAMP)  ## ten million objects: cost of a snapshot, a resume scan, status and verify, and of their requests
	$(BIN)/python -m tests.benchmarks.bench_scale

bench-driver: $(STAMP)  ## 100,000 shards without work through the Ray driver: shards a second against plain Ray, memory
	$(BIN)/python -m tests.benchmarks.bench_driver

bench-overhead: $(STAMP)  ## what a shard of the demo costs beside its work, by both executors: JSON lines
	[ -d bench-overhead/demo/shared ] || $(BIN)/fpipe demo bench-overhead/demo
	$(BIN)/python -m tests.benchmarks.bench_overhead bench-overhead/demo

conformance: $(STAMP)  ## executors x faults: what is lost and how long recovery takes, as a table (half an hour)
	$(BIN)/python -m tests.conformance

chaos: $(STAMP)  ## writers, maintainers and readers under kills and faults, on disk and on S3: counts, and a naive store's
	$(BIN)/python -m tests.chaos $(CHAOS)

soak: $(STAMP)  ## 64 shards on Ray nodes that come and go, and under 20 killed drivers: counts, and what is left
	$(BIN)/python -m tests.soak $(SOAK)

# Root, mmdebstrap, a network and 12 GB in IMAGES are needed, no container engine. CHECK_IMAGE: further options of the script.
IMAGES ?= /var/tmp/fpipe-images
check-images: $(STAMP)  ## run the Dockerfiles' steps in bare Debian roots, then doctor, the demo's stages and fits there
	mkdir -p $(IMAGES)/data
	[ -f $(IMAGES)/base.tar ] || mmdebstrap --variant=minbase bookworm $(IMAGES)/base.tar
	cp tests/tiny.yaml $(IMAGES)/data/
	$(BIN)/python deploy/check_image.py deploy/Dockerfile.render $(IMAGES)/base.tar $(IMAGES)/render \
	  --volume $(IMAGES)/data=/data --then 'fpipe demo /data/demo --preset /data/tiny.yaml' $(CHECK_IMAGE)
	$(BIN)/python deploy/check_image.py deploy/Dockerfile.gpu $(IMAGES)/base.tar $(IMAGES)/gpu \
	  --volume $(IMAGES)/data=/data --then 'fpipe fit-objects /data/demo --name again --executor local' $(CHECK_IMAGE)

doctor: $(STAMP)  ## check this machine
	$(BIN)/fpipe doctor

clean:  ## remove what the targets above made
	rm -rf .venv demo-dataset bench-autoencoder bench-fit bench-overhead bench-store .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info
