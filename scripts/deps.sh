#!/usr/bin/env bash
# Everything the build and the tests need beyond cargo's own crates: PostgreSQL, MariaDB, a C compiler, rustfmt, clippy.
# Does nothing when all is there. What is missing is installed on Debian and its kin as root; anywhere else the
# commands are printed.
set -euo pipefail

have() { command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ]; }

have_postgres() {
  local bin
  for bin in "${TIDELOCK_PG_BIN:-}" "$(pg_config --bindir 2>/dev/null || true)" /usr/lib/postgresql/*/bin; do
    [ -n "$bin" ] && [ -x "$bin/initdb" ] && [ -x "$bin/postgres" ] && return 0
  done
  have initdb && have postgres
}

have_mariadb() {
  { [ -n "${TIDELOCK_MARIADBD:-}" ] || have mariadbd; } && have mariadb-install-db
}

packages=()
have_postgres || packages+=(postgresql)
have_mariadb || packages+=(mariadb-server)
{ have cc && have make; } || packages+=(build-essential)
have pkg-config || packages+=(pkg-config)

install_packages() {
  # The packages want to create a cluster and start services. We start our own servers, so neither is wanted, and in a
  # container a start would fail. Both switches are removed again.
  local policy=/usr/sbin/policy-rc.d config=/etc/postgresql-common/createcluster.d/tidelock.conf made_policy= made_config=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made_policy=1
  fi
  if [ ! -e "$config" ]; then
    mkdir -p "${config%/*}"
    echo 'create_main_cluster = false' >"$config"
    made_config=1
  fi
  local status=0
  {
    apt-get update &&
      DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confold "${packages[@]}"
  } </dev/null || status=$?
  [ -z "$made_policy" ] || rm -f "$policy"
  [ -z "$made_config" ] || rm -f "$config"
  return "$status"
}

if [ ${#packages[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && have apt-get; then
    echo "deps: installing ${packages[*]}"
    # A maintainer script may complain where services cannot start; what counts is whether the programs are there.
    install_packages || true
    have_postgres && have_mariadb && have cc && have pkg-config || {
      echo "deps: the installation left something out of: ${packages[*]}" >&2
      exit 1
    }
  else
    echo "deps: missing: ${packages[*]} (names as on Debian); install them, there with:" >&2
    echo "  sudo apt-get update && sudo apt-get install -y --no-install-recommends ${packages[*]}" >&2
    echo "Servers elsewhere on the disk: set TIDELOCK_PG_BIN, TIDELOCK_MARIADBD." >&2
    exit 1
  fi
fi

if ! have cargo; then
  echo "deps: cargo is missing; install Rust (rustup, or your distribution's package, 1.88 or newer)" >&2
  exit 1
fi

components=()
cargo fmt --version >/dev/null 2>&1 || components+=(rustfmt)
cargo clippy --version >/dev/null 2>&1 || components+=(clippy)
if [ ${#components[@]} -gt 0 ]; then
  if have rustup; then
    rustup component add "${components[@]}"
  else
    echo "deps: missing: ${components[*]}; with rustup: rustup component add ${components[*]}" >&2
    exit 1
  fi
fi
