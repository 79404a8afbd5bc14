#!/bin/sh
# Everything there is to measure of the model on a CUDA card, in one go and at most 7 minutes:
#   sh benchmarks/card.sh
# Needs the CUDA build of torch (pip install 'rmbg-queue[torch]'); no weights, no network.
# Writes card.txt beside what it prints: copy its tables into docs/performance.md.
# With CACHE=FOLDER, a new one, what was compiled is kept there, for card-service.sh.
# To rehearse it without a card, with a small network: DEVICE=cpu sh benchmarks/card.sh
set -eu
cd "$(dirname "$0")/.."
rmbg=${RMBG:-.venv/bin/rmbg}
device=${DEVICE:-cuda}
limit=400
began=$(date +%s)
left() { echo $((limit - $(date +%s) + began)); }
run() {
  seconds=$(left)
  [ "$seconds" -gt 10 ] || { echo "no time left for: $*"; return 0; }
  echo "+ rmbg bench $*"
  timeout "$seconds" "$rmbg" bench "$@" || echo "failed or out of time: $*"
}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cache=${CACHE:-$folder}
if [ "$device" = cpu ]; then
  half=fp32 other=fp32 fastest=fast
  measure() { run model --model birefnet-tiny --size 128 --runs 2 --device "$device" --cache "$cache" "$@"; }
else
  half=fp16 other=bf16 fastest=graphed
  measure() { run model --model rmbg-2.0 --runs 20 --device "$device" --cache "$cache" "$@"; }
fi
{
  if [ "$device" != cpu ]; then
    nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  fi
  # What matters most comes first: the time may end. Each is compared with the float32 reference.
  measure --path "$fastest" --precision "$half" --batch 1 --check --loop
  echo "started again, with what the first start compiled, and by kernel:"
  measure --path "$fastest" --precision "$half" --batch 1 --profile
  measure --path reference --path fast --precision "$half" --check --loop
  run refine --device "$device"
  measure --path "$fastest" --precision "$other" --batch 1 --check
  measure --path "$fastest" --precision "$half" --batch 2 --batch 4 --batch 8
  measure --path reference --path fast --precision "$other" --batch 1 --check
  echo "took $(($(date +%s) - began)) s"
} 2>&1 | tee card.txt
