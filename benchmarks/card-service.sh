#!/bin/sh
# The service on a CUDA card, in at most 7 minutes: how many workers it carries, and its faults for real:
#   sh benchmarks/card-service.sh
# Needs what the tests need (make install), with the CUDA build of torch; no weights, no network.
# With CACHE=FOLDER, given to card.sh before, its services start with what that has compiled.
# Writes card-service.txt beside what it prints.
# To rehearse it without a card, with a small network: DEVICE=cpu sh benchmarks/card-service.sh
set -eu
cd "$(dirname "$0")/.."
bin=${BIN:-.venv/bin}
device=${DEVICE:-cuda:0}
limit=400
began=$(date +%s)
left() { echo $((limit - $(date +%s) + began)); }
run() {
  seconds=$(left)
  [ "$seconds" -gt 20 ] || { echo "no time left for: $*"; return 0; }
  echo "+ $*"
  # By SIGINT it ends what it has started.
  timeout -s INT -k 20 "$seconds" "$bin/$@" || echo "failed or out of time: $*"
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export RMBG_COMPILE_DIR="${CACHE:-$folder/compiled}"
share() { run rmbg bench gpu-share --device "$device" "$@"; }
faults() { run pytest -q -p no:cacheprovider tests/acceptance/faults/test_gpu_faults.py --gpu "$device" --durations=6 "$@"; }
{
  if [ "$device" = cpu ]; then
    share --model birefnet-tiny --pictures 3 --workers 1 --workers 2
    faults
  else
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    share --pictures 10 --workers 1 --workers 4 --workers 8
    faults
    if command -v nvidia-cuda-mps-control >/dev/null; then
      export CUDA_MPS_PIPE_DIRECTORY="$folder/mps" CUDA_MPS_LOG_DIRECTORY="$folder/mps-log"
      nvidia-cuda-mps-control -d && {
        echo "with CUDA MPS, by which kernels of several processes run at a time:"
        share --pictures 10 --workers 4 --workers 8
        echo quit | nvidia-cuda-mps-control
      }
    else
      echo "no nvidia-cuda-mps-control here: MPS was not measured"
    fi
    share --pictures 10 --workers 2 --workers 16
  fi
  echo "took $(($(date +%s) - began)) s"
} 2>&1 | tee card-service.txt
