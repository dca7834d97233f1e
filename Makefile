# The two commands of the README:
#   make demo    set up everything and run a container in a VM, step by step
#   make test    set up everything and run every test
# Everything that they need is put below build/ and target/, and into a cache outside the checkout.

SHELL := /bin/bash
CARGO := tools/cargo
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help demo shell test check unit e2e image image-debug image-release programs bench clean

help:
	@sed -n 's/^#   //p; s/^\([a-z-]*\):.*## /make \1\t/p' Makefile

demo: image programs ## run a container in a VM and show the boot timeline
	@tools/enter target/debug/rig demo

shell: image programs ## a shell beside a private containerd, to try `ctr run` by hand
	@tools/enter target/debug/rig shell

test: ## every test: format, lints, unit, image, end to end
	@tools/test

check: ## format and lints only
	@tools/test check

unit: ## unit tests only
	@tools/test unit

e2e: ## end-to-end tests only
	@tools/test e2e

image: ## the guest image for development and tests (build/image-dev)
	@tools/image dev

image-debug: ## the same with the real kata-agent, a console and its log, to find out why a guest fails: KATA_AGENT=/path
	@tools/image debug

image-release: ## the guest image with the real kata-agent: make image-release KATA_AGENT=/path
	@tools/image release

programs: ## shim, coffer, the rig and vhost-device-vsock
	@tools/programs

bench: image programs ## measure against bare QEMU: JSON and a table
	@tools/bench

clean: ## remove build/ and target/ (the cache stays)
	rm -rf build target
