# Kernels: compiled in the forky root, kept by the hash of everything that goes into them.

# The package with the kernel's source.
kernel_source=linux-source-7.2

# The Debian packages whose versions a kernel's bits depend on (patterns, see package_versions).
kernel_packages="$kernel_source gcc-[0-9]+ binutils make"

# Prints the fragments of a flavour, in order; a later line for a symbol wins.
kernel_fragments() { # FLAVOUR
    local fragments=$here/kernel
    case $1 in
    guest | outer) echo "$fragments/base.config" "$fragments/console.config" "$fragments/$1.config" ;;
    release) echo "$fragments/base.config" "$fragments/guest.config" ;;
    gpu) echo "$fragments/base.config" "$fragments/guest.config" "$fragments/gpu.config" ;;
    gpu-debug) echo "$fragments/base.config" "$fragments/console.config" "$fragments/guest.config" "$fragments/gpu.config" ;;
    *) fail "there is no kernel flavour \`$1\`; take guest, release, gpu, gpu-debug or outer" ;;
    esac
}

# Prints the flavours that differ in so little that they are compiled together, the one that is asked for among them.
kernel_family() { # FLAVOUR
    case $1 in
    guest | release) echo guest release ;;
    *) echo "$1" ;;
    esac
}

# Prints the flavour that a profile's image has; with GPU=1 one that has modules for GPUs.
kernel_of_profile() { # PROFILE
    case ${GPU-}-$1 in
    1-release) echo gpu ;;
    1-*) echo gpu-debug ;;
    -release) echo release ;;
    *) echo guest ;;
    esac
}

# Whether a flavour has modules for GPUs.
has_driver() { # FLAVOUR
    case $1 in gpu*) true ;; *) false ;; esac
}

# Prints the hash of everything that decides a kernel's bits.
kernel_key() { # FLAVOUR
    local fragments versions
    fragments=$(kernel_fragments "$1")
    versions=$(package_versions $kernel_packages)
    {
        cat $fragments "$here/kernel/compile" "$here"/kernel/patches/*.patch && echo "$versions"
        ! has_driver "$1" || { cat "$here/gpu/compile" && driver_key; }
    } | sha256sum | cut -c1-32
}

# Prints where the cache keeps a flavour.
kernel_cached() { # FLAVOUR
    local key
    key=$(kernel_key "$1")
    echo "$(cache)/kernel-$1-$key"
}

# Prints the directory with vmlinuz, config and release of a flavour, and the modules where it has any. What is missing of its family is compiled first.
build_kernel() { # FLAVOUR
    local built family lock
    built=$(kernel_cached "$1")
    family=$(kernel_family "$1")
    lock=$(cache)/kernel-${family%% *}.lock
    mkdir -p "$(cache)"
    [ -e "$built/vmlinuz" ] || (
        wait_for_lock 9 "kernel \`${family%% *}\`" # two builds at once: one compiles, the other waits for it
        [ -e "$built/vmlinuz" ] || compile_missing "$family"
    ) 9>"$lock"
    echo "$built"
}

# Compiles those of the flavours that are not in the cache, and puts them there.
compile_missing() { # FLAVOURS
    local flavour made missing=() places=() out
    out=$(cache)/kernel-${1%% *}.tmp
    for flavour in $1; do
        made=$(kernel_cached "$flavour") # before: somebody may change a fragment meanwhile
        [ -e "$made/vmlinuz" ] || { missing+=("$flavour") && places+=("$made"); }
    done
    compile_kernels "$out" "${missing[@]}"
    for flavour in "${!missing[@]}"; do
        rm -rf "${places[flavour]}"
        mv "$out/${missing[flavour]}" "${places[flavour]}"
    done
    rmdir "$out"
}

# Compiles flavours, in this order and in one tree, into DIRECTORY/FLAVOUR.
compile_kernels() { # DIRECTORY FLAVOUR...
    local out=$1 work=$repo/build/kernel/$2 log=$repo/build/kernel-$2.log flavour driver
    shift
    note "compiling kernel $* from $kernel_source," \
        "once (about 12 minutes of CPU time); log: $log"
    rm -rf "$work" "$out"
    for flavour in "$@"; do
        mkdir -p "$work/$flavour" "$out/$flavour"
        # shellcheck disable=SC2046 # the list of fragments is meant to be split
        cat $(kernel_fragments "$flavour") >"$work/$flavour/fragment"
        if has_driver "$flavour"; then
            driver=$(gpu_driver)
            cp -a "$driver/modules" "$work/$flavour/modules"
        fi
    done
    local script=$here/kernel/compile
    ! has_driver "$1" || script=$here/gpu/compile
    if ! nice -n 5 "$repo/tools/enter" "$script" "/usr/src/$kernel_source.tar.xz" "$work" "$@" 2>&1 |
        tee "$log" | show_progress; then
        fail "kernel \`$*\` did not build; the reason is above and in $log"
    fi
    for flavour in "$@"; do
        cp "$work/$flavour"/{vmlinuz,config,release} "$out/$flavour"
        ! has_driver "$flavour" || cp "$work/$flavour"/*.ko "$out/$flavour"
    done
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
