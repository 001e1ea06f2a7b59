#!/usr/bin/env bash
# One command for a machine with a GPU and no network: builds the library, tests it, times everything beside its peers,
# compares the emulator with the device, runs the kernels under compute-sanitizer, trains a small net.
#
#   benchmarks/on_gpu.sh OUT              the usual parts, in under 8 minutes:
#                                         build emulator tests layers network kernels primitives graph input
#                                         sanitizer train
#   benchmarks/on_gpu.sh OUT build layers some parts, in the order above; also these, which take longer:
#                                         full   layers, network and kernels at every batch, torch.compile unhurried
#                                         cifar  CIFAR-10's 80sec net to convergence in fp32, tf32 and bf16
#                                         cutlass  CUTLASS's convolutions compiled into build/cutlass, 15 minutes of one
#                                                core; from then on they take part in layers and full
#
# Needs CUDA >= 13.0, Python >= 3.11, CuPy 14, NumPy, Pillow, pybind11 >= 3, setuptools >= 77, cmake; for the tests
# pytest and hypothesis, for the training scikit-learn, for the comparison PyTorch and (else cuDNN's own plans are
# missing among the peers) nvidia-cudnn-frontend, for the chart matplotlib, for the part cutlass nvidia-cutlass.
# PYCONVNET_WHEELS=DIR   a folder of wheels to install what is missing from (nothing is ever fetched)
# PYCONVNET_DEVICE=NAME  the device, default cuda:0; "emulator" tries this script on a machine without a GPU, "ptx" tries
#                        it on a stand-in for CUDA there: the script and the library as for a GPU, small shapes, the
#                        kernels' PTX run on the CPU (docs/emulator.md). Needs nvcc 13 and pytest. No time is a GPU's.
# PYCONVNET_PTX=DIR      the stand-in's build (of tests/ptx/runtime), else the part build makes one, which takes long
# PYCONVNET_SITE=DIR     where the library is installed, default a temporary folder; one that stays serves later calls
# PYCONVNET_SECONDS=N    time for everything, default 465; parts get what the later ones can spare
# PYCONVNET_BATCH=N      images per batch, default 128; PYCONVNET_BATCHES="128 256 1024" those of the part full
# PYCONVNET_ONLY=TEXT    only benchmark rows whose layer, op, precision or kernel contains it
# PYCONVNET_PEERS=no     time ours alone
# PYCONVNET_CIFAR=DIR    the folder of CIFAR-10 that the part cifar needs
# The part build compiles for the GPU that is here and nothing else: about 180 seconds of one core. The emulator, which
# the tests compare the GPU with, is a part of its own.
# OUT receives summary.txt, table.md, speed.png, layers.json, network.json, kernels.json, graph.json, input.json,
# tuning.json, machine.txt, tests.xml, training.jsonl and logs.tar.gz (full-*.json, cifar-*.json from the longer parts);
# on an H200 also predictions.txt and .json, the times beside those of the cycle model.
# The exit status is 1 when a part failed, which stops no other one, except that without the build there is nothing to
# run. A part that this machine cannot run is skipped and says why. OUT is complete after every part.
set -uo pipefail
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; exit 2; }
[ $# -ge 1 ] && [ "${1#-}" = "$1" ] || usage
mkdir -p "$1"
out=$(cd "$1" && pwd)
shift
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 2
exec </dev/null

# On a card, or a stand-in for one; cuda: what the library takes for a card.
device=${PYCONVNET_DEVICE:-cuda:0} card=no stand_in=no cuda=no
[ "${device%%:*}" = cuda ] && card=yes cuda=yes
[ "$device" = ptx ] && device=cuda:0 stand_in=yes cuda=yes
usual=(build emulator tests layers network kernels primitives graph input sanitizer train)
all=(build cutlass "${usual[@]:1}" full cifar)
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=("${usual[@]}")
for part in "${parts[@]}"; do
  case " ${all[*]} " in *" $part "*) ;; *) echo "no such part: $part (there are: ${all[*]})" >&2; exit 2 ;; esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
logs=$work/logs
mkdir "$logs"
site=${PYCONVNET_SITE:-$work/site}
export PYTHONPATH=$site${PYTHONPATH:+:$PYTHONPATH} PYTHONUNBUFFERED=1 MPLBACKEND=Agg
# Programs that came with wheels, and a toolkit that nobody put there.
export PATH=$site/bin:$PATH:/usr/local/cuda/bin
[ $cuda = yes ] && export PYCONVNET_REQUIRE=cuda
if [ $stand_in = yes ]; then
  export PYCONVNET_PTX=${PYCONVNET_PTX:-$work/ptx} PYTHONPATH=$PWD/tests/support/stand_in:$PWD/tests:$PYTHONPATH
fi
# Which kernels were chosen on this card is a result too; less time for each choice than in earnest.
export PYCONVNET_TUNE_CACHE=$out/tuning.json PYCONVNET_TUNE_SECONDS=${PYCONVNET_TUNE_SECONDS:-0.1}
python=${PYTHON:-python3}
failed=0

# Seconds of a part: what it takes at most, and what the parts before leave it at least (both together make the whole
# fit: the least ones and the build's most are less than the time for everything).
declare -A most=([build]=150 [emulator]=120 [tests]=120 [layers]=160 [network]=80 [kernels]=80 [primitives]=40
  [graph]=50 [input]=50 [sanitizer]=70 [train]=50 [full]=100000 [cifar]=100000 [cutlass]=100000)
declare -A least=([build]=120 [emulator]=30 [tests]=40 [layers]=80 [network]=35 [kernels]=30 [primitives]=15
  [graph]=20 [input]=20 [sanitizer]=25 [train]=20 [full]=60 [cifar]=60 [cutlass]=60)
whole=465
if [ $stand_in = yes ]; then # whose times are its own
  whole=36000
  for part in "${!most[@]}"; do most[$part]=$whole; done
fi

# part NAME RESERVED COMMAND...: runs it under its time limit, RESERVED seconds being for the parts after it, with its
# output in the logs; a line for the summary.
part() {
  local name=$1 reserved=$2 start=$SECONDS left=$((${PYCONVNET_SECONDS:-$whole} - SECONDS)) status=0 limit result note
  shift 2
  limit=$((left - reserved))
  [ "$limit" -ge "${least[$name]}" ] || limit=${least[$name]}
  [ "$limit" -le "${most[$name]}" ] || limit=${most[$name]}
  [ "$limit" -le "$left" ] || limit=$left
  export limit
  [ "$limit" -ge 5 ] || { not_run "$name" "no time left"; return 1; }
  echo "==== $name (at most $limit s)"
  timeout --kill-after=10 "$limit" "$@" >"$logs/$name.log" 2>&1 || status=$?
  note=$(grep -v '^[[:space:]]*$' "$logs/$name.log" | tail -n 1 | cut -c1-110)
  case $status in
    0) result=ok ;;
    77) result=skipped ;; # the part's own word for: this machine cannot
    124 | 137) result="stopped after $limit s" ;;
    *) result="FAILED ($status)" ;;
  esac
  [ "$status" = 0 ] || [ "$status" = 77 ] || { failed=1; tail -n 25 "$logs/$name.log"; }
  say "$(printf '%-12s %-20s %4d s  %s' "$name" "$result" $((SECONDS - start)) "$note")"
  tar -C "$work" -czf "$out/logs.tar.gz" logs
  return $status
}

# A line of the summary, which is there after every part.
say() { echo "$1" | tee -a "$out/summary.txt"; }
not_run() { failed=1; say "$(printf '%-12s %s' "$1" "NOT RUN: $2")"; }

machine() {
  date -u +%Y-%m-%dT%H:%M:%SZ
  git rev-parse HEAD 2>/dev/null && git status --porcelain | head -20
  uname -srm
  nproc
  nvidia-smi || true
  nvcc --version || true
  "$python" --version
  "$python" -m pip list 2>/dev/null |
    grep -iE '^(numpy|cupy|torch|nvidia-cu(dnn|tlass)|pybind11|setuptools|cmake|ninja|pytest|pillow|safetensors|scikit-learn)' || true
}
machine >"$out/machine.txt" 2>&1

# -- the parts, as shell functions that `part` runs in a bash of their own

build() {
  set -e
  if [ -n "${PYCONVNET_WHEELS:-}" ]; then
    "$python" -m pip install -q --no-index --no-deps --upgrade --target "$site" "$PYCONVNET_WHEELS"/*.whl
  fi
  "$python" -P - <<'PY'
import importlib.metadata, importlib.util, re, sys
needed = {"PIL": "pillow", "cupy": "cupy-cuda13x"}
needed |= {name: name for name in ("numpy", "ml_dtypes", "pybind11", "setuptools", "safetensors", "tqdm")}
least = {"cupy-cuda13x": 14, "pybind11": 3, "setuptools": 77}
useful = {"sklearn": "scikit-learn", "pytest": "pytest", "hypothesis": "hypothesis", "torch": "torch"}
lacking = [name for module, name in useful.items() if importlib.util.find_spec(module) is None]
missing = [name for module, name in needed.items() if importlib.util.find_spec(module) is None]
if lacking:
    print("missing, so that some parts are skipped: " + ", ".join(lacking))
if missing:
    sys.exit("missing: " + ", ".join(missing) + "; put their wheels in a folder and name it in PYCONVNET_WHEELS")
for name, major in least.items():
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # of another name: CuPy built here, say
        continue
    if int(re.match(r"\d+", found)[0]) < major:
        sys.exit(f"{name} {found} is too old: at least {major} is needed, its wheel in PYCONVNET_WHEELS")
PY
  command -v cmake >/dev/null || { echo "missing: cmake"; exit 1; }
  local only=-DPYCONVNET_EMULATOR=OFF tree=.
  [ $cuda = yes ] || only=-DPYCONVNET_CUDA=OFF
  if [ $stand_in = yes ]; then
    # The same command for the smallest family, away from the tree's own build; the kernels are the stand-in's.
    only+=" -DPYCONVNET_FAMILIES=optim -DCMAKE_CUDA_ARCHITECTURES=80-virtual" tree=$work/tree
    mkdir -p "$tree"
    cp -r CMakeLists.txt LICENSE README.md bindings cmake kernels pyconvnet pyproject.toml setup.py "$tree"
    rm -f "$tree"/pyconvnet/*.so
    if [ ! -e "$PYCONVNET_PTX/libcudart.so.13" ]; then
      cmake -S tests/ptx/runtime -B "$PYCONVNET_PTX" \
        -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')"
      cmake --build "$PYCONVNET_PTX" --parallel "${PYCONVNET_JOBS:-$(nproc)}"
    fi
  fi
  export CMAKE_ARGS="$only ${CMAKE_ARGS:-}"
  "$python" -m pip install -v --no-build-isolation --no-deps --no-index --upgrade --target "$site" "$tree" \
    >"$logs/pip.log" 2>&1 || { tail -n 60 "$logs/pip.log"; exit 1; }
  grep -E 'CUDA architectures|Kernel families|warning' "$logs/pip.log" || true
  "$python" -P -c "
import pyconvnet, sys
from pyconvnet.common import devices
print(pyconvnet.__file__)
for name, reason in devices.available_devices():
    print(name, reason or 'works')
devices.get_device('$device')
print('built, and $device works')"
}

has_emulator() { "$python" -P -c "from pyconvnet.common import devices; devices.emulator()" 2>/dev/null; }

emulator() {
  set -e
  if ! has_emulator; then
    local ninja=()
    ! command -v ninja >/dev/null || ninja=(-GNinja)
    cmake -S . -B "$work/emulator" "${ninja[@]}" -DCMAKE_BUILD_TYPE=Release -DPYCONVNET_CUDA=OFF \
      -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')"
    cmake --build "$work/emulator" --parallel "${PYCONVNET_JOBS:-$(nproc)}"
    cmake --install "$work/emulator" --prefix "$site"
    has_emulator
  fi
  echo "there is an emulator"
}

tests() {
  set -e
  "$python" -P -c "import pytest" || { echo "skipped: pytest is missing"; exit 77; }
  has_emulator || { echo "skipped: the tests compare the GPU with the emulator, which is missing"; exit 77; }
  local which=(-m gpu) where=tests
  [ $stand_in = no ] || which+=(-k "fwd and avg") where=tests/kernels/pool_norm
  [ $cuda = yes ] || which=(-m kernels -k "pool and fwd")
  # Interrupted, not killed: what was tested by then is reported.
  timeout --signal=INT "$((limit > 20 ? limit - 8 : limit))" \
    "$python" -P -m pytest -q -rs "${which[@]}" --junitxml="$out/tests.xml" "$where"
}

# CUTLASS's convolutions, which the benchmarks find where they are compiled.
cutlass() {
  if [ $card = no ] || ! "$python" -P -c "import importlib.util as u; assert u.find_spec('cutlass_library')" 2>/dev/null; then
    echo "skipped: CUTLASS's convolutions need a GPU and the headers of nvidia-cutlass"
    exit 77
  fi
  "$python" benchmarks/cutlass_contender.py
}

# Status 2 of the comparison: its program, which is for compute capability 9.0, cannot run here.
primitives() {
  local status=0 runtime=()
  [ $stand_in = no ] || runtime=(--runtime "$PYCONVNET_PTX")
  "$python" tests/support/emulator/compare_primitives.py --build "$work/primitives" --json "$logs/primitives.json" \
    "${runtime[@]}" || status=$?
  [ $status != 2 ] || { echo "skipped: the primitives need a GPU of compute capability 9.0"; exit 77; }
  return $status
}

# Every kernel of every family over small shapes under compute-sanitizer, compared with the reference as well.
sanitizer() {
  local status=0 tool
  local check=("$python" benchmarks/run.py --check --tiny --batch 2 --device "$device" --only "${PYCONVNET_ONLY:-}"
    --deadline $((limit - 15)))
  if [ $stand_in = yes ]; then # compute-sanitizer needs a GPU, and the executor checks every access itself
    "${check[@]}"
    return
  fi
  if [ $card = no ] || ! command -v compute-sanitizer >/dev/null; then
    echo "skipped: compute-sanitizer needs a CUDA device and the tool"
    exit 77
  fi
  cat >"$work/probe.cu" <<'CU'
__global__ void write(int* p) { p[threadIdx.x] = 1; }
int main() {
  int* p;
  if (cudaMalloc(&p, 128)) return 3;
  write<<<1, 32>>>(p);
  return cudaDeviceSynchronize() ? 4 : 0;
}
CU
  nvcc -o "$work/probe" "$work/probe.cu" && compute-sanitizer "$work/probe" >"$work/probe.log" 2>&1
  if ! grep -q 'ERROR SUMMARY: 0 errors' "$work/probe.log"; then
    cat "$work/probe.log"
    echo "skipped: compute-sanitizer does not work on this machine, even on a correct program"
    exit 77
  fi
  for tool in memcheck racecheck; do
    compute-sanitizer --tool $tool --target-processes all --error-exitcode 9 \
      "${check[@]}" >"$logs/$tool.log" 2>&1 &
  done
  for _ in memcheck racecheck; do wait -n || status=1; done
  for tool in memcheck racecheck; do
    [ $status = 0 ] || grep '=========' "$logs/$tool.log" | head -n 40
    echo "$tool: $(grep -cE 'SUMMARY: 0 (errors|hazards)' "$logs/$tool.log") processes clean," \
      "$(grep -cE 'SUMMARY: [1-9]' "$logs/$tool.log") with findings; $(tail -n 1 "$logs/$tool.log" | cut -c1-60)"
  done
  return $status
}

# What a benchmark is told: on a GPU to end in time, elsewhere to be quick.
#   bench SHARE OPTIONS...: torch.compile may take SHARE percent of the part's time
bench() {
  local seconds=$((limit > 40 ? limit - 20 : limit / 2)) share=$1 alone=()
  shift
  [ "${PYCONVNET_PEERS:-yes}" != no ] || alone=(--no-peers)
  if [ $card = yes ]; then
    "$python" "$@" --device "$device" --batch "${PYCONVNET_BATCH:-128}" --seconds 0.05 --calls 50 \
      --only "${PYCONVNET_ONLY:-}" --deadline "$seconds" --compile-seconds $((seconds * share / 100)) "${alone[@]}"
  else
    "$python" "$@" --device "$device" --batch 1 --tiny --calls 3 --seconds 0 --only "${PYCONVNET_ONLY:-}" \
      --deadline "$seconds" "${alone[@]}"
  fi
}

# Every layer of AlexNet in every direction and precision, beside PyTorch and cuDNN.
layers() { bench 25 benchmarks/run.py conv linear block space_to_depth --json "$out/layers.json"; }

# The whole network: training step and inference.
network() { bench 40 benchmarks/bench_alexnet.py --json "$out/network.json"; }

# Everything that is no product.
kernels() { bench 20 benchmarks/run.py norm pool pointwise loss optim augment --json "$out/kernels.json"; }

# The same without haste, at every batch.
full() {
  local batch status=0
  local batches=${PYCONVNET_BATCHES:-128 256 1024}
  [ $card = yes ] || batches=1
  for batch in $batches; do
    if [ $card = yes ]; then
      "$python" benchmarks/run.py --device "$device" --batch "$batch" --only "${PYCONVNET_ONLY:-}" --timeout 3600 \
        --deadline $((limit / $(wc -w <<<"$batches") - 20)) --json "$out/full-$batch.json" || status=1
    else
      bench 0 benchmarks/run.py --json "$out/full-$batch.json" || status=1
    fi
  done
  return $status
}

# A training step replayed from a CUDA graph: the bits of the one issued call by call, and the times of both.
graph() {
  local size=(--batch 128 --seconds 1)
  [ $card = yes ] || size=(--batch 1 --seconds 0 --calls 1 --tiny)
  "$python" benchmarks/bench_graph.py --device "$device" "${size[@]}" --json "$out/graph.json"
}

# The same step on images from shards, read, copied and augmented: does feeding keep up?
input() {
  local size=(--batch "${PYCONVNET_BATCH:-128}")
  [ $card = yes ] || size=(--batch 4 --images 64 --steps 3 --rounds 3 --tiny --precision fp32)
  "$python" benchmarks/input_rate.py --device "$device" "${size[@]}" --json "$out/input.json"
}

train() {
  set -e
  "$python" -P -c "import sklearn" || { echo "skipped: the digits come with scikit-learn, which is missing"; exit 77; }
  local epochs=()
  [ $card = yes ] || epochs=(--epochs 1)
  "$python" -P -m pyconvnet train digits --device "$device" --out "$work/digits" "${epochs[@]}"
  cp "$work/digits/log.jsonl" "$out/training.jsonl"
}

# To convergence on CIFAR-10, in three precisions: their errors should be the same within noise.
cifar() {
  local precision status=0 length=()
  if [ -z "${PYCONVNET_CIFAR:-}" ]; then
    echo "skipped: PYCONVNET_CIFAR names no folder of CIFAR-10"
    exit 77
  fi
  [ $card = yes ] || length=(--epochs 1 --images 256)
  for precision in fp32 tf32 bf16; do
    echo "== $precision"
    "$python" benchmarks/cifar10_80sec.py --data "$PYCONVNET_CIFAR" --device "$device" --precision $precision \
      "${length[@]}" --json "$out/cifar-$precision.json" || status=1
  done
  "$python" - "$out" <<'PY'
import json, pathlib, sys
words = []
for precision in ("fp32", "tf32", "bf16"):
    file = pathlib.Path(sys.argv[1]) / f"cifar-{precision}.json"
    errors = json.loads(file.read_text())["run"]["test_error"] if file.exists() else []
    words.append(f"{precision} {errors[-1]:.2%}" if errors else f"{precision} nothing")
print("test error: " + ", ".join(words))
PY
  return $status
}

export python device card cuda stand_in out work logs site
export -f build cutlass has_emulator emulator tests bench layers network kernels primitives sanitizer graph input train full cifar
asked=" ${parts[*]} "
built=yes
where=$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null | head -n 1)
[ $stand_in = no ] || where="a stand-in for CUDA, no GPU: PTX run on the CPU, no time says anything"
echo "pyconvnet on $device: $where" >"$out/summary.txt"
for name in "${all[@]}"; do
  case "$asked" in *" $name "*) ;; *) continue ;; esac
  asked=${asked/" $name "/ }
  reserved=0
  for later in $asked; do [ "$later" = "$name" ] || reserved=$((reserved + least[$later])); done
  # (The primitives are a program of their own.)
  if [ $built = no ] && [ "$name" != primitives ]; then
    not_run "$name" "nothing was built"
  elif ! part "$name" "$reserved" bash -c "$name" && [ "$name" = build ]; then
    built=no
  fi
done
cat "$out/summary.txt"

if [ $stand_in = yes ] || { [ $card = yes ] && [[ $where == *H200* ]]; }; then
  "$python" benchmarks/cycle_model.py --all --results "$out" --json "$work/predictions.json" \
    >"$out/predictions.txt" && mv "$work/predictions.json" "$out" || failed=1
fi

# The short table last; the long one, with what bounds the slow rows, and the chart into OUT.
results=()
for name in layers network kernels; do [ ! -s "$out/$name.json" ] || results+=("$out/$name.json"); done
for file in "$out"/full-*.json; do [ ! -s "$file" ] || results+=("$file"); done
if [ ${#results[@]} -gt 0 ]; then
  chart=()
  "$python" -c "import matplotlib" 2>/dev/null && chart=(--png "$out/speed.png")
  "$python" benchmarks/table.py "${results[@]}" --markdown "$out/table.md" "${chart[@]}" || failed=1
  last=()
  for file in "${results[@]}"; do [ "$file" = "$out/kernels.json" ] || last+=("$file"); done
  [ ${#last[@]} -eq 0 ] || "$python" benchmarks/table.py "${last[@]}" --grid || failed=1
fi
exit $failed
