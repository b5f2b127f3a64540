#!/usr/bin/env bash
# What a release consists of, in target/dist: the program (stripped of line numbers) with manual pages, completions, examples and the unit in an archive, a Debian
# package, checksums.
#
#   deploy/dist.sh                                  for this machine, linked as usual
#   deploy/dist.sh x86_64-unknown-linux-musl        static, by cargo-zigbuild and zig; aarch64-unknown-linux-musl likewise, on such a machine
#
# librdkafka's configure takes this machine's own compiler: for another processor it must run there. A static program has OpenSSL from its source and lacks the driver mysql_cdc; it needs no library of the system's. NO_DEB=1: no package.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=${1:-}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
out=${CARGO_TARGET_DIR:-target}
dist=target/dist # where Cargo.toml's list for the Debian package looks, wherever cargo builds

case $target in
"") cargo build --release --locked --package rowbust && program=$out/release/rowbust ;;
*-musl)
    cargo zigbuild --release --locked --package rowbust --target "$target" --no-default-features --features kafka,static
    program=$out/$target/release/rowbust
    ;;
*) echo "usage: $0 [ARCH-unknown-linux-musl]" >&2 && exit 2 ;;
esac

# Pages and completions come from the program; where it is for another processor, from one for this.
speaks=$program
"$speaks" --version >/dev/null 2>&1 || { cargo build --release --locked --package rowbust && speaks=$out/release/rowbust; }
rm -rf "$dist/man" "$dist/completions" "$dist/program"
mkdir -p "$dist/completions" "$dist/program"
# Four fifths of the file are line numbers; the names of functions stay for backtraces.
strip --strip-debug -o "$dist/program/rowbust" "$program"
"$speaks" man --dir "$dist/man"
"$speaks" completions bash >"$dist/completions/rowbust.bash"
"$speaks" completions zsh >"$dist/completions/_rowbust"
"$speaks" completions fish >"$dist/completions/rowbust.fish"

name=rowbust-$version-${target:-$(uname -m)-linux}
rm -rf "${dist:?}/$name"
mkdir -p "$dist/$name"
install -m 755 "$dist/program/rowbust" "$dist/$name/rowbust"
cp -r "$dist/man" "$dist/completions" README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE docs config "$dist/$name/"
install -D -m 644 deploy/systemd/rowbust.service "$dist/$name/systemd/rowbust.service"
# The same content gives the same archive.
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}" \
    -C "$dist" -cf - "$name" | gzip -9n >"$dist/$name.tar.gz"
made=("$name.tar.gz")

if [ -z "${NO_DEB:-}" ]; then
    deb=$(cargo deb --no-build --no-strip --package rowbust ${target:+--target "$target"} --output "$dist/" | tail -1)
    made+=("$(basename "$deb")")
fi
(cd "$dist" && sha256sum "${made[@]}" | tee "$name.sha256")
