#!/usr/bin/env bash
# Everything that only a GPU can show, unattended: build, tests, fragment layouts, compute-sanitizer, timings.
#
#   scripts/gpu_check.sh [FOLDER]     logs, tests.xml, raw JSON of the timings, summary.json; default: gpu_check
#
# PYTHON is an interpreter with a CUDA torch, pytest, hypothesis and the build requirements (default: python3).
# Every step runs, whatever the others do; the exit status is that of the worst. Steps have limits, which add up to
# 580 seconds.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-gpu_check}")
python=${PYTHON:-python3}
mkdir -p "$out"
worst=0
steps=()

step() { # name seconds command...
  local name=$1 limit=$2 start=$SECONDS status=0
  shift 2
  timeout --kill-after=2 "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  printf '%-12s %-8s %4d s\n' "$name" "$([ $status = 0 ] && echo ok || echo "exit $status")" $((SECONDS - start))
  steps+=("{\"step\": \"$name\", \"exit\": $status, \"seconds\": $((SECONDS - start)), \"limit\": $limit}")
  [ $status -gt $worst ] && worst=$status
}

step device 20 "$python" -c "import torch; assert torch.cuda.is_available(), 'no GPU'; print(torch.cuda.get_device_properties(0))"
step build 240 "$python" -m pip install --no-build-isolation --no-deps --editable .
step info 20 "$python" -c "import lowbit; print(lowbit.info())"
step fragments 30 "$python" -m pytest tests/cuda/test_fragments.py -rs
step tests 100 "$python" -m pytest tests/ops -m gpu -rs --junitxml "$out/tests.xml"
step benchmarks 60 "$python" benchmarks/cuda_kernels.py --output "$out"
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -n "$sanitizer" ]; then
  step memcheck 60 "$sanitizer" --tool memcheck --error-exitcode 9 "$python" -m pytest tests/ops -m gpu -k "graph or test_planes"
  step racecheck 50 "$sanitizer" --tool racecheck --error-exitcode 9 "$python" -m pytest tests/ops -m gpu -k "test_a_row"
else
  echo "compute-sanitizer is not installed: skipped"
  steps+=('{"step": "compute-sanitizer", "skipped": "not installed"}')
fi
(IFS=,; echo "[${steps[*]}]") >"$out/summary.json"
exit $worst
