#!/usr/bin/env bash
# Starts a SLURM cluster on this machine and runs tests/slurm/scenarios.py on it.
#
# bash tests/slurm/run.sh [SCENARIO ...]        python: PYTHON, else that of .venv
set -euo pipefail
cd "$(dirname "$0")/../.."
python=${PYTHON:-$PWD/.venv/bin/python}
dir=$(mktemp -d)
missing() {
  echo "!!! NOT TESTED: SLURM. $1" >&2
  exit 0
}
[ "$(id -u)" = 0 ] || missing "starting a cluster needs root."
if ! command -v slurmctld >/dev/null; then
  command -v apt-get >/dev/null || missing "it is not installed, and there is no apt-get."
  { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends slurm-wlm munge; } \
    >"$dir/apt.log" 2>&1 || missing "it cannot be installed: $(tail -1 "$dir/apt.log")"
fi
trap 'bash tests/slurm/cluster.sh stop "$dir/cluster"; rm -rf "$dir"' EXIT
bash tests/slurm/cluster.sh start "$dir/cluster"
export SLURM_CONF=$dir/cluster/slurm.conf PYTHONPATH=$PWD
"$python" -m tests.slurm.scenarios "$dir/runs" "$@"
