#!/bin/sh
# Stands for rustc and rustup in the tests of target.rs. The target's libraries would be in
# $LIBRARIES; $ADDS says what comes of `rustup target add`.
case "${0##*/}" in
rustc)
    echo "$LIBRARIES"
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
