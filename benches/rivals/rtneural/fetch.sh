#!/usr/bin/env bash
# Fetches RTNeural and prints where it lies.
#
# Usage: benches/rivals/rtneural/fetch.sh
#
# RTNeural is not packaged by itself. Debian's source package of guitarix bundles it whole, with the versions of Eigen,
# xsimd and json that it is built with; this keeps that part of it, below ${XDG_CACHE_HOME:-~/.cache}/escapement. The
# package comes through apt from the Debian mirror this machine uses already, and must have the hash below. apt's own
# settings and lists stay as they are, and no privileges are needed.
set -euo pipefail

package=guitarix
version=0.46.0+dfsg-1
release=trixie
sha256=08081fac0a731b105c4acf7279ccab66ca0de54d132d1309c48b9c4ea4fba4aa
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { printf 'rtneural: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

cache=${XDG_CACHE_HOME:-$HOME/.cache}/escapement
target=$cache/rtneural-${sha256:0:16}
mkdir -p "$cache"
exec 9>"$target.lock"
flock 9
if [[ ! -d $target ]]; then
    command -v apt-get >/dev/null || fail "there is no apt-get here; set RTNEURAL to a checkout of RTNeural instead"
    mirror=$(apt-get indextargets --format '$(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        sed -n 's/^Debian //p' | head -n 1)
    [[ -n $mirror && -e $keyring ]] || fail "this machine uses no Debian mirror; set RTNEURAL to a checkout instead"

    staging=$target.partial
    rm -rf "$staging"
    mkdir -p "$staging/lists/partial" "$staging/cache/archives/partial" "$staging/source"
    trap 'rm -rf "$staging"' EXIT
    trap 'exit 130' INT TERM HUP
    printf 'deb-src [signed-by=%s] %s %s main\n' "$keyring" "$mirror" "$release" >"$staging/sources.list"
    cat >"$staging/apt.conf" <<CONF
Dir::Etc::sourcelist "$staging/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$staging/lists";
Dir::Cache "$staging/cache";
APT::Sandbox::User "$(id -un)";
CONF
    export APT_CONFIG=$staging/apt.conf
    say "downloading the source of $package $version (80 MB, once per machine)"
    apt-get --quiet --quiet update >&2 || fail "apt-get update failed, see above"
    cd "$staging"
    apt-get --quiet --quiet source --download-only --tar-only "$package=$version" >&2 ||
        fail "the download failed, see above"
    archives=(*.orig.tar.xz)
    sha256sum --check --quiet <<<"$sha256  ${archives[0]}" >&2 || fail "${archives[0]} is not what was pinned"
    tar --extract --file "${archives[0]}" --directory "$staging/source" --strip-components=4 --wildcards \
        '*/src/RTNeural/RTNeural/LICENSE' '*/src/RTNeural/RTNeural/RTNeural' '*/src/RTNeural/RTNeural/modules'
    mv -T "$staging/source" "$target"
fi
printf '%s\n' "$target"
