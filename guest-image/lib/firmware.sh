# Firmware: OVMF for TDX without Secure Boot, from Debian's source, kept by the hash of everything that goes into it.

# The source: the edk2 of Debian's stable release, which changes with security fixes only. A new version gives new
# measurements: change it here, and run the tests.
edk2_suite=trixie
edk2_version=2025.02-8+deb13u1

# The Debian packages whose versions the firmware's bits depend on (patterns, see package_versions).
firmware_packages="acpica-tools binutils g\+\+-[0-9]+ gcc-[0-9]+ make nasm python3 uuid-dev"

# Prints the hash of everything that decides the firmware's bits.
firmware_key() {
    local versions
    versions=$(package_versions $firmware_packages)
    { cat "$here/firmware/compile" && echo "edk2 $edk2_version" && echo "$versions"; } | sha256sum | cut -c1-32
}

# Builds the firmware for a kind of confidential VM into build/firmware-KIND, and prints that directory.
build_firmware() { # KIND
    local key built out
    case $1 in
    tdx) ;;
    snp) fail "SNP needs no firmware of its own: Debian's ovmf-amdsev checks the kernel's hashes and has no Secure Boot" ;;
    *) fail "there is no firmware \`$1\`; take tdx" ;;
    esac
    key=$(firmware_key)
    built=$(cache)/firmware-$1-$key
    make_once "$built" OVMF.fd compile_firmware "$1" "$key" "$built"
    out=$repo/build/firmware-$1
    rm -rf "$out.tmp.$BASHPID"
    cp -r "$built" "$out.tmp.$BASHPID"
    rm -rf "$out"
    mv "$out.tmp.$BASHPID" "$out"
    echo "$out"
}

# Compiles the firmware into a directory, which appears only when it is complete.
compile_firmware() { # KIND KEY DIRECTORY
    local source=$repo/build/edk2 log=$repo/build/firmware-$1.log upstream=${edk2_version%-*}
    fetch_edk2 "$source"
    note "compiling the firmware for $1 from edk2 $edk2_version, once (about 4 minutes of CPU time); log: $log"
    rm -rf "$3.tmp"
    mkdir -p "$3.tmp"
    if ! nice -n 5 "$repo/tools/enter" "$here/firmware/compile" "$source/edk2_$upstream.orig.tar.xz" \
        "$source/edk2_$edk2_version.debian.tar.xz" "$edk2_version" "$source" >"$log" 2>&1; then
        grep -i error "$log" | head -n 15 >&2
        fail "the firmware did not build; the whole log is $log"
    fi
    mv "$source/OVMF.fd" "$3.tmp/"
    write_firmware_manifest "$1" "$2" "$3.tmp/OVMF.fd" >"$3.tmp/firmware.json"
    mv "$3.tmp" "$3"
    rm -rf "$source"
}

# Gets the source package's two archives with apt, which checks them against Debian's signed index. All that apt
# keeps is below the directory; the machine's own package lists are not touched. The package's third file, the
# .dsc, says nothing that the index does not, and some mirrors lack it.
fetch_edk2() { # DIRECTORY
    local root mirror part log=$repo/build/edk2-fetch.log
    root=$(forky)
    mirror=$(awk '$1 == "deb" && $3 == "forky" { print $2; exit }' "$root/etc/apt/sources.list")
    rm -rf "$1"
    mkdir -p "$1/apt/lists/partial" "$1/apt/cache/archives/partial"
    echo "deb-src $mirror $edk2_suite main" >"$1/apt/sources.list"
    local options=(-o "Dir::Etc::sourcelist=$1/apt/sources.list" -o "Dir::Etc::sourceparts=-"
        -o "Dir::Etc::trustedparts=$root/etc/apt/trusted.gpg.d" -o "Dir::State::lists=$1/apt/lists"
        -o "Dir::State::status=/dev/null" -o "Dir::Cache=$1/apt/cache" -o "Acquire::Check-Valid-Until=false")
    (
        cd "$1"
        apt-get "${options[@]}" update
        for part in --tar-only --diff-only; do
            apt-get "${options[@]}" source --download-only $part "edk2=$edk2_version"
        done
    ) >"$log" 2>&1 || {
        tail -n 5 "$log" >&2
        fail "cannot get the source of edk2 $edk2_version from Debian $edk2_suite; where that release has a newer" \
            "version by now, name it in guest-image/lib/firmware.sh; the whole log is $log"
    }
    rm -rf "$1/apt"
}

# Prints firmware.json.
write_firmware_manifest() { # KIND KEY FILE
    local versions
    versions=$(package_versions $firmware_packages)
    cat <<JSON
{
  "format": 1,
  "name": "coffer-firmware-$1",
  "file": "OVMF.fd",
  "sha256": "$(sha256 "$3")",
  "inputs": "$2",
  "source": "edk2 $edk2_version",
  "packages": {
JSON
    package_object <<<"$versions"
    echo "}"
}
