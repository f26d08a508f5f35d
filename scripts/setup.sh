#!/usr/bin/env bash
# Makes .venv with everything a cluster on this machine needs. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'setup: %s\n' "$*" >&2; }

# Installs Debian's packages where we may, else says which are missing and fails.
install() {
  local sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo -n)
  if ! command -v apt-get >/dev/null || ! { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    say "missing: $* (on Debian and Ubuntu: apt-get install $*)"
    return 1
  fi
  say "installing $*"
  "${sudo[@]}" apt-get update -qq
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Triton's python backend needs numpy 1.26, which has wheels up to Python 3.12.
find_python() {
  local candidate
  for candidate in "${PYTHON:-python3.11}" python3.12 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}
if ! python=$(find_python); then
  # Debian 12's and Ubuntu 24.04's python3 will do; Ubuntu 22.04 has 3.11 beside an older one.
  install python3 && python=$(find_python) || install python3.11 || true
  python=$(find_python) || { say "no Python 3.11 or 3.12 here; name one: make setup PYTHON=/path/to/python"; exit 1; }
fi
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

# What a bare machine may lack: venv, and the shared libpython that Triton's python backend links to.
has_libpython() {
  local folder
  folder=$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))')
  [ -e "$folder/libpython$version.so.1.0" ] || ldconfig -p | grep -q "libpython$version\.so\.1\.0"
}
missing=()
"$python" -c 'import ensurepip' 2>/dev/null || missing+=("python$version-venv")
has_libpython || missing+=("libpython$version")
[ ${#missing[@]} -eq 0 ] || install "${missing[@]}"

# Redis, which a cluster can do without. redis-tools holds the server's binary and starts no daemon.
find_redis() { command -v redis-server || command -v redis-check-rdb; }
find_redis >/dev/null || install redis-tools || say "without Redis, sessions live in the gateway's memory"

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt)
say "installing Python packages into .venv (some minutes the first time)"
# torch first and by its version, so that a CPU build that lies ready is taken.
"${pip[@]}" "$(grep '^torch==' constraints.txt)"
"${pip[@]}" setuptools grpcio-tools mypy-protobuf
"${pip[@]}" --no-build-isolation --editable '.[local,dev]'

# The server under its own name: Debian's redis-check-rdb is the same binary, which goes by how it is called.
redis=$(find_redis || true)
[ -z "$redis" ] || ln -sf "$redis" .venv/bin/redis-server
touch .venv/ready
say "done"
