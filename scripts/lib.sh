# The functions that the scripts share. A script sources this file.
# shellcheck shell=bash

# fail TEXT...: prints the reason why the script stops, and stops it.
fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# need PROGRAM REMEDY: stops the script if the program is missing.
need() {
    command -v "$1" >/dev/null || fail "$1 is missing: $2"
}

# Prints the directory that cargo builds in.
target_directory() {
    cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/'
}
