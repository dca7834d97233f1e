# Kernels: compiled in the forky root, kept by the hash of everything that goes into them.

# The package with the kernel's source.
kernel_source=linux-source-7.2

# The Debian packages whose versions a kernel's bits depend on (patterns, see package_versions).
kernel_packages="$kernel_source gcc-[0-9]+ binutils make"

# Prints the fragments of a flavour, in order; a later line for a symbol wins.
kernel_fragments() { # FLAVOUR
    case $1 in
    guest | outer) echo "$here/kernel/base.config" "$here/kernel/$1.config" ;;
    *) fail "there is no kernel flavour \`$1\`; take guest or outer" ;;
    esac
}

# Prints the hash of everything that decides a kernel's bits.
kernel_key() { # FLAVOUR
    local fragments versions
    fragments=$(kernel_fragments "$1")
    versions=$(package_versions $kernel_packages)
    { cat $fragments "$here/kernel/compile" && echo "$versions"; } | sha256sum | cut -c1-32
}

# Prints the directory with vmlinuz, config and release of a flavour, compiled first unless it is cached.
build_kernel() { # FLAVOUR
    local key built
    key=$(kernel_key "$1")
    built=$(cache)/kernel-$1-$key
    make_once "$built" vmlinuz compile_kernel "$1" "$built"
    echo "$built"
}

# Compiles a flavour into a directory, which appears only when it is complete.
compile_kernel() { # FLAVOUR DIRECTORY
    local work=$repo/build/kernel/$1 log=$repo/build/kernel-$1.log
    note "compiling kernel \`$1\` from $kernel_source," \
        "once (about 12 minutes of CPU time); log: $log"
    rm -rf "$work" "$2.tmp"
    mkdir -p "$work" "$2.tmp"
    # shellcheck disable=SC2046 # the list of fragments is meant to be split
    if ! nice -n 5 "$repo/tools/enter" "$here/kernel/compile" "/usr/src/$kernel_source.tar.xz" "$work" \
        $(kernel_fragments "$1") 2>&1 | tee "$log" | show_progress; then
        fail "kernel \`$1\` did not build; the reason is above and in $log"
    fi
    cp "$work/vmlinuz" "$work/config" "$work/release" "$2.tmp"
    mv "$2.tmp" "$2"
    rm -rf "$work"
}

# Shows what a compilation prints, but of make's steps only every 250th: about ten lines.
show_progress() {
    local line steps=0
    while IFS= read -r line; do
        case $line in
        '  '[A-Z]*)
            steps=$((steps + 1))
            [ $((steps % 250)) != 0 ] || echo "kernel: $steps steps"
            ;;
        make* | '' | *': override: reassigning to symbol '*) ;;
        *) echo "kernel: $line" ;;
        esac
    done >&2
}
