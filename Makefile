# The two commands of the README:
#   make demo    set up everything, run a container in a VM, a pod bound to its image, and one with an emulated GPU
#   make test    set up everything and run every test
# Everything that they need is put below build/ and target/, and into a cache outside the checkout.

SHELL := /bin/bash
export PATH := $(PATH):/usr/sbin:/sbin

.PHONY: help demo shell test check unit e2e outer conformance guest-components coverage gpu-image parts image image-debug image-release programs package installer-image test-api bench soak clean

help:
	@sed -n 's/^#   //p; s/^\([a-z-]*\):.*## /make \1\t/p' Makefile

demo: programs-for = demo
demo: parts ## run a container in a VM, a bound pod, an inference server, and a pod with an emulated GPU, step by step
	@tools/image release-test
	@tools/model-server
	@tools/enter target/debug/rig demo

shell: parts ## a shell beside a private containerd, to try `ctr run` by hand
	@tools/enter target/debug/rig shell

test: ## every test: format, lints, unit, image, end to end, in the outer VM
	@tools/test

check: ## format and lints only
	@tools/test check

unit: ## unit tests only
	@tools/test unit

e2e: ## end-to-end tests only
	@tools/test e2e

outer: ## only the tests in the outer VM: VFIO, and NVIDIA's tool on the emulated GPUs
	@tools/test outer

conformance: ## the end-to-end tests with the real agent in the guests: make conformance KATA_AGENT=/path
	@KATA_AGENT="$(KATA_AGENT)" tools/test conformance

guest-components: ## keys and pulled images with the Confidential Containers project's programs: KATA_AGENT=/path GUEST_COMPONENTS=/path
	@KATA_AGENT="$(KATA_AGENT)" GUEST_COMPONENTS="$(GUEST_COMPONENTS)" tools/test guest-components

coverage: ## how much of shim, vmm and the policy's rules the unit tests reach
	@tools/coverage

# The forky root first: both need it, and a machine without Rust gets cargo with it. Then each fills the other's gaps.
parts: ## image and programs at the same time
	@tools/cargo --version >/dev/null
	@tools/forky-root >/dev/null
	@tools/image dev & tools/programs $(programs-for); programs=$$?; wait $$! && exit $$programs

image: ## the guest image for development and tests (build/image-dev)
	@tools/image dev

image-debug: ## the same with the real kata-agent, a console and its log, to find out why a guest fails: KATA_AGENT=/path
	@tools/image debug

image-release: ## the guest image with the real kata-agent: make image-release KATA_AGENT=/path; GPU=1: and NVIDIA's driver
	@tools/image release

programs: ## the shim, the rig and vhost-device-vsock
	@tools/programs

package: ## what is released: a bundle as a tarball and as a .deb, its list of components (CycloneDX), checksums: in build/package
	@tools/cargo build --quiet --release -p coffer -p containerd-shim-coffer
	@tools/package build/package

installer-image: ## the installer's container image, by buildah, of the bundle in build/bundle: build/coffer-node.tar
	@tools/forky-root >/dev/null
	@tools/installer-image build/bundle build/coffer-node.tar

gpu-image: ## an image with NVIDIA's driver, from Debian's non-free part, and a test that it loads in its guest
	@tools/test gpu-image

test-api: ## deploy/ and the installer's rights on a real API server, which is compiled first (about 10 minutes, once)
	@tools/test-api

soak: parts ## one pod that lives long: restarts, execs, volumes, containers, and what they leave
	@tools/soak

bench: parts ## measure against bare QEMU: JSON and a table; KATA_AGENT=/path: with the real kata-agent
	@tools/bench

clean: ## remove build/ and target/ (the cache stays)
	rm -rf build target
