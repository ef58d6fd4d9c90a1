#!/bin/bash
# Makes a stand-in for python:3.11-slim out of Debian's packages, for machines that reach no registry of images, and
# names it docker.io/library/python:3.11-slim in the storage of buildah and podman. Then `buildah build` finds it.
#
# It needs root, mmdebstrap and buildah, and a mirror of Debian: that of this machine's apt, if it is bookworm, or any
# address as the first argument. Words for apt go into APT_OPTIONS, separated by semicolons.
set -euo pipefail

image=docker.io/library/python:3.11-slim
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

options=()
IFS=';' read -ra words <<< "${APT_OPTIONS:-}"
for word in "${words[@]}"; do options+=(--aptopt="$word"); done

# As in the real one: no documentation, no translations, no compiled modules, no caches that apt leaves in layers.
mmdebstrap --variant=minbase --include=ca-certificates,netbase,python3-venv,tzdata "${options[@]}" \
    --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --customize-hook='ln -s ../../bin/python3 "$1/usr/local/bin/python"' \
    --customize-hook='find "$1/usr/lib/python3" "$1/usr/lib/python3.11" -name "*.pyc" -delete' \
    --customize-hook='printf "%s\n" "Dir::Cache::pkgcache \"\";" "Dir::Cache::srcpkgcache \"\";" > "$1/etc/apt/apt.conf.d/docker-clean"' \
    --customize-hook='printf "%s\n" "DPkg::Post-Invoke { \"rm -f /var/cache/apt/archives/*.deb || true\"; };" >> "$1/etc/apt/apt.conf.d/docker-clean"' \
    --customize-hook='rm -f "$1"/var/cache/apt/*.bin' \
    bookworm "$folder/base.tar" "$@"

container=$(buildah from scratch)
buildah add --quiet "$container" "$folder/base.tar" /
buildah config --cmd python --env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$container"
buildah commit --quiet --rm "$container" "$image"
