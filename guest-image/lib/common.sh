# What all parts of the builder share. Sourced by ../build; $repo is the checkout, $here guest-image.

# Tells what is going on.
note() {
    echo "guest image: $*" >&2
}

# Ends the build: what is wrong, with which object, what to do.
fail() {
    echo "guest image: $*" >&2
    exit 1
}

# Prints NAME VERSION for each Debian package whose whole name matches one of the patterns (extended regular
# expressions), as installed in the root that everything is built in.
package_versions() { # PATTERN...
    local package versions
    versions=$(awk '/^Package: / { name = $2 } /^Version: / { print name, $2 }' "$(forky)/var/lib/dpkg/status")
    for package in "$@"; do
        grep -E "^$package " <<<"$versions" ||
            fail "package $package is not in build/forky; add it to tools/forky-root.packages"
    done
}

# Prints the rest of a JSON object from lines of NAME VERSION.
package_object() {
    awk '{ printf "%s    \"%s\": \"%s\"", separator, $1, $2; separator = ",\n" } END { print "\n  }" }'
}

# Waits until no other build of NAME runs in this checkout, and keeps others waiting until this one ends.
alone() { # NAME
    mkdir -p "$repo/build"
    exec 8>"$repo/build/.$1.lock"
    wait_for_lock 8 "$1"
}

# Takes the lock of an open file, and says so if that takes time.
wait_for_lock() { # FD WHAT
    flock --nonblock "$1" || { note "waiting for another build of $2" && flock "$1"; }
}

# Has COMMAND make DIRECTORY of the cache, complete or not at all, unless FILE is in it.
make_once() { # DIRECTORY FILE COMMAND [ARG...]
    local made=$1/$2 lock=$1.lock name
    name=$(basename "$1")
    [ ! -e "$made" ] || return 0
    mkdir -p "$(dirname "$1")"
    shift 2
    (
        wait_for_lock 9 "$name" # two builds at once: one compiles, the other waits for it
        [ -e "$made" ] || "$@"
    ) 9>"$lock"
    rm -f "$lock"
}

# Prints the cache's directory.
cache() {
    echo "${COFFER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/coffer}"
}

# Prints the path of the forky root, made first where it is missing.
forky() {
    [ -n "${forky_root-}" ] || forky_root=$("$repo/tools/forky-root")
    echo "$forky_root"
}

# Prints the SHA-256 of a file in hex.
sha256() { # FILE
    sha256sum "$1" | cut -d' ' -f1
}
