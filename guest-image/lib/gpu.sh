# The GPUs' driver: NVIDIA's open modules, firmware, libraries and daemons, laid out in one way wherever they come from:
#   version            modules/ (source)     firmware/*.bin      lib/*.so*      bin/

# Debian's stable release has the 550 series; its modules need our patch for our kernel. A new version gives new measurements:
# change it here and in tests/e2e/tests/gpu_driver, look whether gpu/patches has one for it, and run `make gpu-image`.
driver_suite=trixie
driver_debian=550.163.01
driver_packages="nvidia-open-kernel-dkms=$driver_debian-2 firmware-nvidia-gsp=$driver_debian-2 libnvidia-ml1=$driver_debian-2
    libnvidia-cfg1=$driver_debian-2 libcuda1=$driver_debian-2 libnvidia-ptxjitcompiler1=$driver_debian-2
    nvidia-persistenced=$driver_debian-1"
# What those programs and our own that asks the driver are linked with.
driver_system="libc6 libgcc-s1 libtirpc3t64 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libcom-err2 libkeyutils1
    libssl3t64"
# What containers get of the driver; the rest is for the guest.
driver_for_containers="libcuda.so.1 libnvidia-ml.so.1 libnvidia-ptxjitcompiler.so.1"
# Where programs in containers look for libraries: Debian's kind of system, and the others.
driver_places="/usr/lib/x86_64-linux-gnu /usr/lib64"

# Prints what decides the modules' bits besides the kernel's.
driver_key() {
    echo "driver $(driver_version) $driver_packages"
    [ -z "${NVIDIA_DRIVER-}" ] || (cd "$NVIDIA_DRIVER" && find kernel-open -type f -exec sha256sum {} + | sort)
    cat "$here/gpu/patches/$(driver_version).patch" 2>/dev/null || true
}

# Prints what decides the rest of NVIDIA's archive: firmware, libraries and daemons.
archive_key() {
    [ -z "${NVIDIA_DRIVER-}" ] || (
        cd "$NVIDIA_DRIVER"
        find . -maxdepth 2 -type f \( -name 'gsp_*.bin' -o -name 'lib*.so.*' -o -name nvidia-persistenced \
            -o -name nv-fabricmanager \) -exec sha256sum {} + | sort
    )
}

# Prints the driver's version.
driver_version() {
    local modules=
    if [ -z "${NVIDIA_DRIVER-}" ]; then
        echo "$driver_debian"
        return
    fi
    [ -d "$NVIDIA_DRIVER/kernel-open" ] ||
        fail "NVIDIA_DRIVER=$NVIDIA_DRIVER has no directory kernel-open: unpack NVIDIA's archive there (sh NVIDIA-Linux-x86_64-*.run -x)"
    modules=$(sed -n 's/.*NV_VERSION_STRING=\\\\\{0,1\}"\([0-9.]*\)\\\\\{0,1\}".*/\1/p' "$NVIDIA_DRIVER/kernel-open/Kbuild" | head -n 1)
    [ -n "$modules" ] || fail "NVIDIA_DRIVER=$NVIDIA_DRIVER: kernel-open/Kbuild names no version"
    echo "$modules"
}

# Prints the directory with the driver, made first where it is missing.
gpu_driver() {
    local key driver
    key=$({ driver_key && archive_key && echo "$driver_system" && cat "$here/lib/gpu.sh"; } | sha256sum | cut -c1-32)
    driver=$(cache)/gpu-driver-$key
    make_once "$driver" version lay_out_driver "$driver"
    echo "$driver"
}

# Makes the driver's directory, which holds only what the list at the top says.
lay_out_driver() { # DIRECTORY
    rm -rf "$1" "$1.tmp"
    mkdir -p "$1.tmp/unpacked" "$1.tmp"/{firmware,lib,bin}
    local packages=$driver_system
    [ -n "${NVIDIA_DRIVER-}" ] || packages="$packages $driver_packages"
    fetch_packages "$1.tmp/apt" "$1.tmp/unpacked" $packages
    driver_version >"$1.tmp/version"
    if [ -n "${NVIDIA_DRIVER-}" ]; then
        driver_of_archive "$1.tmp" "$NVIDIA_DRIVER"
    else
        driver_of_debian "$1.tmp" "$1.tmp/unpacked"
    fi
    local library
    for library in "$1.tmp"/unpacked/usr/lib/x86_64-linux-gnu/*.so* "$1.tmp"/unpacked/usr/lib64/ld-linux-x86-64.so.2; do
        [ -e "$1.tmp/lib/$(basename "$library")" ] || cp -a "$library" "$1.tmp/lib/"
    done
    local patch=$here/gpu/patches/$(cat "$1.tmp/version").patch
    if [ -e "$patch" ]; then
        patch --directory="$1.tmp/modules" --strip=1 --forward --fuzz=0 --quiet <"$patch" ||
            fail "gpu/patches/$(basename "$patch") does not fit the modules' source"
    fi
    rm -rf "$1.tmp/unpacked" "$1.tmp/apt"
    mv "$1.tmp" "$1"
}

driver_of_debian() { # DIRECTORY UNPACKED
    cp -a "$2"/usr/src/nvidia-current-open-* "$1/modules"
    cp -a "$2/usr/lib/firmware/nvidia/$driver_debian"/*.bin "$1/firmware/"
    cp -a "$2"/usr/lib/x86_64-linux-gnu/nvidia/current/*.so* "$1/lib/"
    install -m 755 "$2/usr/bin/nvidia-persistenced" "$1/bin/"
    # NVIDIA's libraries have their names by Debian's alternatives; here by links.
    name_libraries "$1/lib"
}

# NVIDIA's own archive, unpacked; of the fabric manager's archive bin/nv-fabricmanager may be put beside it.
driver_of_archive() { # DIRECTORY ARCHIVE
    cp -a "$2/kernel-open" "$1/modules"
    cp -a "$2"/firmware/gsp_*.bin "$1/firmware/"
    local name
    for name in libnvidia-ml libnvidia-cfg libcuda libnvidia-ptxjitcompiler; do
        cp -a "$2/$name".so.* "$1/lib/" || fail "NVIDIA_DRIVER=$2 has no $name.so"
    done
    install -m 755 "$2/nvidia-persistenced" "$1/bin/"
    [ ! -e "$2/nv-fabricmanager" ] || install -m 755 "$2/nv-fabricmanager" "$1/bin/"
    name_libraries "$1/lib"
}

# Gives libraries the names that programs ask for.
name_libraries() { # DIRECTORY
    local file name
    for file in "$1"/*.so.*; do
        [ -f "$file" ] && [ ! -L "$file" ] || continue
        name=$(readelf -d "$file" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
        [ -z "$name" ] || [ -e "$1/$name" ] || ln -s "$(basename "$file")" "$1/$name"
    done
}

# Gets packages with apt, which checks them against Debian's signed index, and unpacks them. All that apt keeps is below the
# first directory; the machine's own package lists are not touched.
fetch_packages() { # APT-DIRECTORY OUTPUT PACKAGE[=VERSION]...
    local root mirror apt=$1 out=$2 log=$repo/build/gpu-fetch.log package
    shift 2
    root=$(forky)
    mirror=$(awk '$1 == "deb" && $3 == "forky" { print $2; exit }' "$root/etc/apt/sources.list")
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/packages"
    echo "deb $mirror $driver_suite main contrib non-free non-free-firmware" >"$apt/sources.list"
    local options=(-o "Dir::Etc::sourcelist=$apt/sources.list" -o "Dir::Etc::sourceparts=-"
        -o "Dir::Etc::trustedparts=$root/etc/apt/trusted.gpg.d" -o "Dir::State::lists=$apt/lists"
        -o "Dir::State::status=/dev/null" -o "Dir::Cache=$apt/cache" -o "Acquire::Check-Valid-Until=false"
        -o "APT::Sandbox::User=root")
    note "getting the GPUs' driver from Debian $driver_suite (contrib, non-free, non-free-firmware)"
    (
        cd "$apt/packages"
        apt-get "${options[@]}" update && apt-get "${options[@]}" download "$@"
    ) >"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        fail "cannot get the GPUs' driver from Debian $driver_suite; where that release has a newer version by now, name it" \
            "in guest-image/lib/gpu.sh; the whole log is $log"
    }
    for package in "$apt"/packages/*.deb; do
        dpkg-deb -x "$package" "$out"
    done
}

# Puts the driver into a staged root: modules for the kernel, firmware, programs, and the libraries that they need.
stage_driver() { # STAGE DRIVER KERNEL
    local stage=$1 driver=$2 kernel=$3 version modules name
    version=$(cat "$driver/version")
    modules=$stage/usr/lib/coffer/gpu
    install -d -m 755 "$modules" "$stage/usr/lib/firmware/nvidia/$version" "$stage/usr/lib/x86_64-linux-gnu" "$stage/usr/lib64"
    ln -s usr/lib "$stage/lib"
    ln -s usr/lib64 "$stage/lib64"
    for name in nvidia nvidia-uvm; do
        install -m 644 "$kernel/$name.ko" "$modules/$name.ko"
    done
    install -m 644 "$driver"/firmware/*.bin "$stage/usr/lib/firmware/nvidia/$version/"
    install -m 755 "$driver"/bin/* "$stage/usr/bin/"
    install -m 755 "$gpu_path" "$stage/usr/bin/coffer-gpu"
    stage_libraries "$stage" "$driver/lib" "$driver"/bin/* "$stage"/usr/bin/{coffer-gpu,coffer-attest} \
        "$driver"/lib/{libnvidia-cfg.so.1,libnvidia-ml.so.1,libcuda.so.1,libnvidia-ptxjitcompiler.so.1}
    driver_description "$version" >"$modules/driver.toml"
}

# Copies libraries under the names that programs ask for, and what those need in turn. A loader's path is the programs' own.
stage_libraries() { # STAGE LIBRARIES PROGRAM-OR-LIBRARY...
    local stage=$1 from=$2 needed=() file name place
    shift 2
    for file in "$@"; do
        case $file in
        "$from"/*) needed+=("$(basename "$file")") ;;
        *) needed+=($(needs "$file")) ;;
        esac
    done
    while [ ${#needed[@]} != 0 ]; do
        name=${needed[0]}
        needed=("${needed[@]:1}")
        place=$stage/usr/lib/x86_64-linux-gnu/$name
        case $name in ld-linux*) place=$stage/usr/lib64/$name ;; esac
        [ ! -e "$place" ] || continue
        [ -e "$from/$name" ] || fail "nobody brings the library $name, which the driver needs"
        install -m 755 "$(readlink -f "$from/$name")" "$place"
        needed+=($(needs "$place"))
    done
}

needs() { # FILE
    readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'
    readelf -l "$1" | grep -o 'ld-linux-x86-64.so.2' | head -n 1 || true
}

# Prints what PID 1 reads (guest-image/init/src/gpu/installed.rs).
driver_description() { # VERSION
    local name place places
    printf 'version = "%s"\nmodules = ["nvidia", "nvidia-uvm"]\npersistence = true\n' "$1"
    for name in $driver_for_containers; do
        places=
        for place in $driver_places; do
            places="$places${places:+, }\"$place/$name\""
        done
        printf '\n[[libraries]]\npath = "/usr/lib/x86_64-linux-gnu/%s"\nplaces = [%s]\n' "$name" "$places"
    done
}
