#!/usr/bin/env bash
# Everything that only a GPU can show, unattended: build, tests, fragment layouts, compute-sanitizer, timings.
#
#   scripts/gpu_check.sh [FOLDER]     logs, raw JSON and summary.txt; default: gpu_check
#
# PYTHON is an interpreter with a CUDA torch, pytest, hypothesis and the build requirements (default: python3).
# Every step runs, whatever the others do; the exit status is that of the worst. SECONDS_PER_STEP limits each.
set -uo pipefail
cd "$(dirname "$0")/.."
out=$(realpath -m "${1:-gpu_check}")
python=${PYTHON:-python3}
limit=${SECONDS_PER_STEP:-180}
mkdir -p "$out"
: >"$out/summary.txt"
worst=0

step() { # name command...
  local name=$1 start=$SECONDS status=0
  shift
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || status=$?
  printf '%-12s %-8s %4d s\n' "$name" "$([ $status = 0 ] && echo ok || echo "exit $status")" $((SECONDS - start)) |
    tee -a "$out/summary.txt"
  [ $status -gt $worst ] && worst=$status
}

step device "$python" -c "import torch; assert torch.cuda.is_available(), 'no GPU'; print(torch.cuda.get_device_properties(0))"
limit=400 step build "$python" -m pip install --no-build-isolation --no-deps --editable .
step info "$python" -c "import lowbit; print(lowbit.info())"
step fragments "$python" -m pytest tests/cuda/test_fragments.py -rs
step tests "$python" -m pytest tests/ops -m gpu -rs --junitxml "$out/tests.xml"
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda/bin/compute-sanitizer 2>/dev/null)
if [ -n "$sanitizer" ]; then
  step memcheck "$sanitizer" --tool memcheck --error-exitcode 9 "$python" -m pytest tests/ops -m gpu -k "test_graph or test_planes"
  step racecheck "$sanitizer" --tool racecheck --error-exitcode 9 "$python" -m pytest tests/ops -m gpu -k "test_a_row"
else
  echo "compute-sanitizer is not installed: skipped" | tee -a "$out/summary.txt"
fi
step benchmarks "$python" benchmarks/cuda_kernels.py --output "$out"
exit $worst
