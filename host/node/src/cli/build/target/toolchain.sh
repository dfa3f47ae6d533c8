#!/bin/sh
# Stands for rustc and rustup in the tests of target.rs. The target's libraries would be in
# $LIBRARIES; $ADDS says what comes of `rustup target add`, and $VERSION how old rustc is: without
# one it does not run.
case "${0##*/}" in
rustc)
    if [ -z "$VERSION" ]; then
        echo "error: no default is configured" >&2
        exit 1
    fi
    case "$1" in
    --version) echo "rustc $VERSION (0123456789 2026-01-01)" ;;
    *) echo "$LIBRARIES" ;;
    esac
    ;;
rustup)
    case "$ADDS" in
    it) : >"$LIBRARIES/libstd.rlib" ;;
    elsewhere) ;;
    both) : >"$LIBRARIES/libstd.rlib" && exit 1 ;;
    *) echo "error: could not download" >&2 && exit 1 ;;
    esac
    ;;
esac
