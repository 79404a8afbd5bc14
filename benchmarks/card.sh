#!/bin/sh
# Everything there is to measure on a CUDA card, in one go and at most 8 minutes:
#   sh benchmarks/card.sh
# Needs the CUDA build of torch (pip install 'rmbg-queue[torch]'); no weights, no network.
# Writes card.txt beside what it prints: copy its tables into docs/performance.md.
set -eu
cd "$(dirname "$0")/.."
rmbg=${RMBG:-.venv/bin/rmbg}
limit=450
began=$(date +%s)
left() { echo $((limit - $(date +%s) + began)); }
measure() {
  seconds=$(left)
  [ "$seconds" -gt 10 ] || { echo "no time left for: $*"; return 0; }
  timeout "$seconds" "$rmbg" bench model --model rmbg-2.0 --device cuda --runs 20 --check \
    --cache "$cache" "$@" || echo "failed or out of time: $*"
}
cache=$(mktemp -d)
trap 'rm -rf "$cache"' EXIT
{
  nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
  measure --path reference --path fast --path graphed --precision fp16 --loop
  echo "started again, with what the first start compiled:"
  measure --path graphed --precision fp16 --batch 1
  measure --path graphed --precision bf16
  measure --path reference --precision bf16 --batch 1
  echo "took $(($(date +%s) - began)) s"
} 2>&1 | tee card.txt
