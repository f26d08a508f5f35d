#!/usr/bin/env bash
# Makes .venv with everything a cluster on this machine needs. Safe to run again.
set -euo pipefail
cd "$(dirname "$0")/.."
say() { printf 'setup: %s\n' "$*" >&2; }

# Triton's python backend needs numpy 1.26, which has wheels up to Python 3.12.
python=${PYTHON:-}
for candidate in python3.11 python3.12 python3; do
  [ -n "$python" ] && break
  if command -v "$candidate" >/dev/null &&
    "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
    python=$candidate
  fi
done

# Debian's packages that may be missing on a bare machine: venv, the shared libpython that Triton's python
# backend links to, and Redis. redis-tools holds the server's binary without starting a daemon.
missing=()
[ -n "$python" ] || { missing+=(python3); python=python3; }
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || echo 3)
"$python" -c 'import ensurepip' 2>/dev/null || missing+=("python3-venv")
has_libpython() {
  ldconfig -p | grep -q "libpython$version\.so\.1\.0" ||
    [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_config_var("LIBDIR"))' 2>/dev/null)/libpython$version.so.1.0" ]
}
has_libpython || missing+=("libpython$version")
redis=$(command -v redis-server || command -v redis-check-rdb || true)
[ -n "$redis" ] || missing+=(redis-tools)
if [ ${#missing[@]} -gt 0 ]; then
  sudo=()
  [ "$(id -u)" = 0 ] || sudo=(sudo -n)
  if command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; then
    say "installing ${missing[*]}"
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  elif [ "${missing[*]}" = redis-tools ]; then
    say "no Redis found: sessions will live in the gateway's memory (to have it: apt-get install redis-tools)"
  else
    say "these packages are missing; install them first: apt-get install ${missing[*]}"
    exit 1
  fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt)
say "installing Python packages into .venv (some minutes the first time)"
# torch first and by its version, so that a CPU build that lies ready is taken.
"${pip[@]}" "$(grep '^torch==' constraints.txt)"
"${pip[@]}" setuptools grpcio-tools mypy-protobuf
"${pip[@]}" --no-build-isolation --editable '.[local,dev]'

# The server under its own name: Debian's redis-check-rdb is the same binary, which goes by how it is called.
redis=$(command -v redis-server || command -v redis-check-rdb || true)
[ -z "$redis" ] || ln -sf "$redis" .venv/bin/redis-server
touch .venv/ready
say "done"
