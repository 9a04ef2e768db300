#!/usr/bin/env bash
# Makes .venv with the pinned versions of constraints.txt. Run through `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."

python=""
for candidate in "${FPIPE_PYTHON:-}" python3.11 python3 python; do
  [ -n "$candidate" ] || continue
  if "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    python=$candidate
    break
  fi
done
if [ -z "$python" ]; then
  echo "fpipe needs Python 3.11 (Blender's bpy 5.0.1 has wheels for no other version): install it, or set FPIPE_PYTHON to its path." >&2
  exit 3
fi

if command -v dpkg-query >/dev/null 2>&1; then
  missing=()
  while read -r package; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done < deploy/debian-libraries.txt
  if [ ${#missing[@]} -gt 0 ]; then
    command="apt-get install -y --no-install-recommends ${missing[*]}"
    if [ "$(id -u)" = 0 ]; then
      apt-get update -qq
      DEBIAN_FRONTEND=noninteractive $command
    else
      echo "Blender needs libraries that are missing here. Run: sudo $command" >&2
      exit 3
    fi
  fi
fi

[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[render,train,dev]'
touch .venv/.installed
