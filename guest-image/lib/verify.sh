# Reproducibility: build again under other conditions, compare every bit.

# Builds twice and compares: an image without its kernel, or (slow) the guest kernel or the firmware.
verify() { # PROFILE-OR-kernel-OR-firmware
    scratch=$(mktemp -d "$repo/build/verify-scratch.XXXXXX") # in the checkout: tools/cargo may see nothing else
    trap 'rm -rf "$scratch"' EXIT
    case $1 in
    kernel) verify_kernel "$scratch" ;;
    firmware) verify_firmware "$scratch" ;;
    *) verify_image "$1" "$scratch" ;;
    esac
}

# Builds a profile's image twice: other place, other umask, PID 1 compiled anew. The kernel comes from the
# cache both times.
verify_image() { # PROFILE SCRATCH
    note "building image $1 twice"
    (umask 022 && CARGO_TARGET_DIR=$2/target-1 build_image "$1" "$repo/build/verify-1") >/dev/null
    (umask 077 && CARGO_TARGET_DIR=$2/elsewhere/target-2 build_image "$1" "$repo/build/verify/2") >/dev/null
    compare "$repo/build/verify-1" "$repo/build/verify/2" vmlinuz root.img image.json
    rm -rf "$repo/build/verify-1" "$repo/build/verify"
    note "image $1 is reproducible: root, hash tree, command line and manifest are bit-identical"
}

# Compiles the guest's kernels again, past the cache and in the other order, and compares them with the cached ones.
verify_kernel() { # SCRATCH
    local flavour cached
    compile_kernels "$1/kernels" release guest
    for flavour in guest release; do
        cached=$(build_kernel $flavour)
        compare "$cached" "$1/kernels/$flavour" vmlinuz config release
    done
    note "the guest's kernels are reproducible: two builds, each in another order, are bit-identical"
}

# Compiles the firmware again, past the cache and from a source fetched anew, and compares it with the cached one.
verify_firmware() { # SCRATCH
    local cached
    cached=$(build_firmware tdx)
    (umask 077 && compile_firmware tdx "$(firmware_key)" "$1/firmware")
    compare "$cached" "$1/firmware" OVMF.fd firmware.json
    note "the firmware is reproducible: two builds are bit-identical"
}

# Fails, naming the first file that differs.
compare() { # DIRECTORY DIRECTORY FILE...
    local one=$1 two=$2 file
    shift 2
    for file in "$@"; do
        cmp "$one/$file" "$two/$file" >&2 || fail "not reproducible: $file differs between $one and $two"
    done
}
