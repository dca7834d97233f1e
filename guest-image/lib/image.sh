# The image directory: kernel, root file system with its hash tree, manifest.

# What the stand-in's binary carries, so that it can never pass for the real agent.
standin_marker=coffer-agent-standin

# Where kata-agent looks for the policy that holds until initdata brings another, if it was built to look for one
# (kata-containers 4.1.0, src/agent/policy/src/policy.rs). The program carries the path.
policy_path=/etc/kata-opa/default-policy.rego

# The guest components of the Confidential Containers project, which kata-agent starts from /usr/local/bin (kata-agent 4.1.0,
# src/agent/src/main.rs).
component_names="attestation-agent confidential-data-hub api-server-rest"

# The Debian packages whose versions the root's bits depend on, besides the kernel's.
root_packages="erofs-utils cryptsetup-bin"

# Builds the image of a profile into a directory, which appears (or is replaced) only when it is complete.
build_image() ( # PROFILE DIRECTORY; a subshell, for its trap
    profile=$1 out=$2 work=$2.tmp.$BASHPID
    trap 'rm -rf "$work"' EXIT
    choose_agent "$profile"
    [ -z "${GPU-}" ] || [ "$GPU" = 1 ] || fail "GPU=$GPU: set GPU=1 for an image with NVIDIA's driver, or unset it"
    [ -z "${GPU-}" ] || [ "$report" != fake ] || fail "an image for tests has a played driver of GPUs, and no other; unset GPU"
    choose_components
    kernel=$(build_kernel "$(kernel_of_profile "$profile")")
    mkdir -p "$work"
    cp "$kernel/vmlinuz" "$work/vmlinuz"
    build_init
    stage_root "$profile" "$work/stage"
    gpu_version=
    if [ -n "${GPU-}" ]; then
        driver=$(gpu_driver)
        build_gpu_programs
        install_attest "$work/stage"
        stage_driver "$work/stage" "$driver" "$kernel"
        gpu_version=$(cat "$driver/version")
    fi
    [ "$report" != fake ] || stage_fake_driver "$work/stage"
    "$repo/tools/enter" "$here/root/pack" "$work/stage" "$work/root.img" >"$work/verity" 2>"$work/log" || {
        cat "$work/log" >&2
        fail "the root file system of profile $profile could not be packed"
    }
    write_manifest "$profile" "$work" "$(cat "$kernel/release")" >"$work/image.json"
    rm -rf "$work/stage" "$work/verity" "$work/log" "$out"
    mv "$work" "$out"
    report_sizes "$out"
)

# Decides which agent goes in, and whether PID 1 takes its report from the host: sets agent_path, agent_kind and report,
# or says what is missing.
choose_agent() { # PROFILE
    report=hardware
    if [ -n "${COFFER_FAKE_REPORT-}" ]; then
        [ "$1" = release ] || fail "COFFER_FAKE_REPORT is for tests of profile release; unset it"
        [ -n "${AGENT_STANDIN-}" ] && [ -z "${KATA_AGENT-}" ] ||
            fail "COFFER_FAKE_REPORT takes the tests' stand-in and no other agent; set AGENT_STANDIN"
        report=fake
    fi
    case $1-$report in
    release-fake) ;;
    dev-*)
        [ -z "${KATA_AGENT-}" ] || [ -z "${AGENT_STANDIN-}" ] ||
            fail "KATA_AGENT and AGENT_STANDIN are both set; an image holds one agent, unset the other"
        [ -n "${KATA_AGENT-}${AGENT_STANDIN-}" ] ||
            fail "profile dev needs an agent: set AGENT_STANDIN to the tests' stand-in or KATA_AGENT to kata-agent"
        ;;
    debug-* | release-*)
        [ -z "${AGENT_STANDIN-}" ] || fail "profile $1 takes no stand-in; unset AGENT_STANDIN"
        [ -n "${KATA_AGENT-}" ] ||
            fail "profile $1 needs the real agent: set KATA_AGENT to kata-agent (README.md says where to get it)"
        ;;
    *) fail "there is no profile \`$1\`; take dev, debug or release" ;;
    esac
    agent_kind=kata-agent
    agent_path=${KATA_AGENT-}
    if [ -n "${AGENT_STANDIN-}" ]; then
        agent_kind=stand-in
        agent_path=$AGENT_STANDIN
    fi
    [ -f "$agent_path" ] || fail "the agent $agent_path is not there"
    [ "$(head -c 4 "$agent_path" | tail -c 3)" = ELF ] || fail "the agent $agent_path is not an ELF program"
    if grep -qaF "$standin_marker" "$agent_path"; then
        [ $agent_kind = stand-in ] || fail "KATA_AGENT=$agent_path is the tests' stand-in, not kata-agent"
    else
        if [ "$1" = release ] && [ $agent_kind != stand-in ] && ! grep -qaF "$policy_path" "$agent_path"; then
            fail "KATA_AGENT=$agent_path looks at no policy, so a release image's host could ask it for anything; build \
it with AGENT_POLICY=yes"
        fi
        [ $agent_kind = kata-agent ] || fail "AGENT_STANDIN=$agent_path is not the stand-in from tests/agent-standin"
    fi
}

# Decides whether the guest components go in, in the place of our own attestation service: sets components_path, or says what is
# missing.
choose_components() {
    local name
    components_path=${GUEST_COMPONENTS-}
    [ -n "$components_path" ] || return 0
    [ $agent_kind = kata-agent ] ||
        fail "GUEST_COMPONENTS is for images with kata-agent, which starts them; the tests' stand-in starts none"
    [ -z "${GPU-}" ] ||
        fail "GUEST_COMPONENTS and GPU are both set: the GPUs take no work before our own attestation service says so; unset one"
    for name in $component_names; do
        [ -f "$components_path/$name" ] || fail "GUEST_COMPONENTS=$components_path has no $name; it needs $component_names"
        [ "$(head -c 4 "$components_path/$name" | tail -c 3)" = ELF ] ||
            fail "GUEST_COMPONENTS: $components_path/$name is not an ELF program"
    done
}

# Builds the image's own programs, static, without paths of this machine in them; sets init_path, pause_path,
# attest_path, volume_path and gpu_path. A PID 1 that takes its report from the host is built apart from the one that does not.
build_init() {
    local target=x86_64-unknown-linux-gnu flags directory=${CARGO_TARGET_DIR:-$repo/target} features=
    if [ "${report-}" = fake ]; then
        directory=$directory/fake-report
        features=coffer-init/fake-report,coffer-attest/fake-gpus
    fi
    flags="-C target-feature=+crt-static -A linker-messages --remap-path-prefix=$repo=/coffer"
    flags="$flags --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    RUSTFLAGS=$flags "$repo/tools/cargo" build --quiet --release --locked --package coffer-init --package coffer-pause \
        --package coffer-attest --package coffer-volume --bins \
        --features "$features" --target-dir "$directory" --target $target ||
        fail "one of the image's own programs (guest-image/init, guest-image/pause, guest-image/attest) did not build"
    init_path=$directory/$target/release/coffer-init
    pause_path=$directory/$target/release/pause
    attest_path=$directory/$target/release/coffer-attest
    volume_path=$directory/$target/release/coffer-volume
    gpu_path=$directory/$target/release/coffer-gpu
}

# Builds the programs that load NVIDIA's library: linked with the image's libraries, since a static program can load none. Sets
# attest_path and gpu_path.
build_gpu_programs() {
    local target=x86_64-unknown-linux-gnu flags directory=${CARGO_TARGET_DIR:-$repo/target}/gpu
    flags="-A linker-messages --remap-path-prefix=$repo=/coffer --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
    RUSTFLAGS=$flags "$repo/tools/cargo" build --quiet --release --locked --package coffer-attest --bins \
        --target-dir "$directory" --target $target || fail "guest-image/attest did not build"
    attest_path=$directory/$target/release/coffer-attest
    gpu_path=$directory/$target/release/coffer-gpu
}

# Puts our own attestation service into the root, if it is small enough.
install_attest() { # DIRECTORY
    local size
    size=$(stat -c %s "$attest_path")
    [ "$size" -le $((6 << 20)) ] || fail "coffer-attest has $size bytes; the attestation service has at most 6 MiB"
    install -m 755 "$attest_path" "$1/usr/bin/coffer-attest"
}

# Lays out the root: PID 1, the agent, the attestation service, the sandbox's own container, mount points and a few files of
# /etc. Nothing else is in the guest.
stage_root() { # PROFILE DIRECTORY
    local stage=$2 pause=$2/usr/lib/coffer/pause/rootfs policy=allow-all name
    install -d -m 755 "$stage" "$stage"/{dev,etc,proc,root,run,sbin,sys,tmp,usr,usr/bin,var}
    ln -s ../run "$stage/var/run" # the agent keeps its shared namespaces in /var/run
    install -m 755 "$init_path" "$stage/sbin/init"
    install -m 755 "$agent_path" "$stage/usr/bin/kata-agent"
    if [ -n "$components_path" ]; then
        install -d -m 755 "$stage"/usr/local{,/bin}
        for name in $component_names; do
            install -m 755 "$components_path/$name" "$stage/usr/local/bin/$name"
        done
    else
        install_attest "$stage"
    fi
    install -m 755 "$volume_path" "$stage/usr/bin/coffer-volume"
    install -d -m 755 "$stage"/usr/lib{,/coffer,/coffer/pause} "$pause" "$pause"/{dev,etc,proc,sys,tmp}
    install -m 755 "$pause_path" "$pause/pause"
    install -m 644 "$here"/root/etc/* "$stage/etc/"
    [ "$1" != release ] || policy=deny-all
    install -D -m 644 "$here/root/kata-opa/$policy.rego" "$stage$policy_path"
    echo "VARIANT_ID=$1" >>"$stage/etc/os-release"
}

# Puts what plays NVIDIA's driver into the staged root of an image for tests; PID 1 reads the description
# (guest-image/init/src/gpu/installed.rs).
stage_fake_driver() { # DIRECTORY
    install -d -m 755 "$1/usr/lib/coffer/gpu"
    install -m 755 "$gpu_path" "$1/usr/bin/coffer-gpu"
    printf 'version = "fake"\nmodules = []\npersistence = false\nlibraries = []\n' >"$1/usr/lib/coffer/gpu/driver.toml"
}

# Prints image.json. $2/verity holds the lines that root/pack printed: NAME VALUE.
write_manifest() { # PROFILE DIRECTORY KERNEL-RELEASE
    local root_hash salt data_blocks versions cmdline name=coffer-$1 fake= gpu= components=
    if [ -n "$gpu_version" ]; then
        name=$name-gpu
        gpu="
  \"gpu_driver\": \"$gpu_version\","
    fi
    if [ "$report" = fake ]; then
        name=$name-test
        fake='
  "report": "fake",
  "gpu_driver": "fake",'
    fi
    if [ -n "$components_path" ]; then
        name=$name-guest-components
        components=$(component_digests)
    fi
    root_hash=$(awk '$1 == "root_hash" { print $2 }' "$2/verity")
    salt=$(awk '$1 == "salt" { print $2 }' "$2/verity")
    data_blocks=$(awk '$1 == "data_blocks" { print $2 }' "$2/verity")
    versions=$(package_versions $kernel_packages $root_packages)
    cmdline=$(command_line "$1" "$root_hash" "$salt" "$data_blocks")
    cat <<JSON
{
  "format": 1,
  "name": "$name",
  "profile": "$1",$fake$gpu
  "agent": "$agent_kind",
  "agent_sha256": "$(sha256 "$agent_path")",$components
  "kernel": {
    "file": "vmlinuz",
    "sha256": "$(sha256 "$2/vmlinuz")",
    "release": "$3"
  },
  "root": {
    "file": "root.img",
    "sha256": "$(sha256 "$2/root.img")",
    "verity": {
      "algorithm": "sha256",
      "block_size": 4096,
      "data_blocks": $data_blocks,
      "hash_start_block": $data_blocks,
      "salt": "$salt",
      "root_hash": "$root_hash"
    }
  },
  "cmdline": "${cmdline//\"/\\\"}",
  "packages": {
JSON
    package_object <<<"$versions"
    echo "}"
}

# Prints the manifest's member with the digests of the guest components.
component_digests() {
    local name comma=
    printf '\n  "guest_components": {'
    for name in $component_names; do
        printf '%s\n    "%s": "%s"' "$comma" "$name" "$(sha256 "$components_path/$name")"
        comma=,
    done
    printf '\n  },'
}

# Prints the measured part of the kernel's command line. The root is the first virtio-blk disk; a block of it
# that does not match the root hash stops the guest.
command_line() { # PROFILE ROOT-HASH SALT DATA-BLOCKS
    local table="0 $(($4 * 8)) verity 1 /dev/vda /dev/vda 4096 4096 $4 $4 sha256 $2 $3 1 panic_on_corruption"
    # The host reads a console. Without the word it would get one by giving the VM a serial port.
    case $1 in
    release) echo -n "console=null " ;;
    *) echo -n "console=ttyS0 " ;;
    esac
    echo -n "quiet panic=-1 root=/dev/dm-0 rootfstype=erofs ro"
    echo -n " dm-mod.create=\"coffer-root,,,ro,$table\""
    # The agent then starts none, and asks whom it finds at a hub's socket: our own attestation service.
    if [ -z "$components_path" ]; then
        echo -n " agent.guest_components_procs=none"
    fi
    # The agent's informational log quotes requests.
    case $1 in
    debug) echo -n " agent.log=debug" ;;
    release) echo -n " agent.log=warn" ;;
    esac
}

# Says what was built and how large it is.
report_sizes() { # DIRECTORY
    local kernel root
    kernel=$(stat -c %s "$1/vmlinuz")
    root=$(stat -c %s "$1/root.img")
    awk -v dir="$1" -v agent="$agent_kind" -v kernel="$kernel" -v root="$root" 'BEGIN {
        mib = 1048576
        printf "%s (agent: %s)\n", dir, agent
        printf "  vmlinuz   %6.1f MiB\n  root.img  %6.1f MiB\n  total     %6.1f MiB\n", \
            kernel / mib, root / mib, (kernel + root) / mib
    }'
}
