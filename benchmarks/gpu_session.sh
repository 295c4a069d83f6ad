#!/bin/bash
# Measures on one GPU in at most ten minutes: a study of sharing, then the training step, the large head, the loader, and NCCL.
#
#   benchmarks/gpu_session.sh prepare [NAME...]    where there is a network: puts wheels of packages that the GPU machine lacks
#                                                  into build/gpu_wheels (default: those that few images of torch hold)
#   benchmarks/gpu_session.sh run OUT              on the GPU machine, which needs no network but Python with torch, torchvision,
#                                                  numpy, onnx and onnxruntime; what is printed and every result goes to OUT
#   DEVICE=cpu benchmarks/gpu_session.sh run OUT   the same with tiny sizes, to see that every part runs
#
# PYTHON names the interpreter (python3), TARGET that of the GPU machine (3.12). Each part has a time limit, and the next one
# runs even if it fails. OUT/summary.txt has the machine, the commit, and of each part its exit status (124: out of time), its
# seconds and its command.
set -u
cd "$(dirname "$0")/.."
WHEELS=build/gpu_wheels SITE=build/gpu_site PYTHON=${PYTHON:-python3}

prepare() {
    local names=("$@") platforms=() glibc
    [ $# -gt 0 ] || names=(simplejpeg jsonargparse docstring-parser typeshed-client importlib-resources)
    for glibc in 2014 _2_17 _2_24 _2_27 _2_28 _2_31 _2_34 _2_35; do platforms+=(--platform "manylinux${glibc}_x86_64"); done
    "$PYTHON" -m pip download -q --no-deps --only-binary :all: --python-version "${TARGET:-3.12}" "${platforms[@]}" \
        -d "$WHEELS" "${names[@]}" && ls -lh "$WHEELS"
}

# part NAME SECONDS WORDS...: runs a command with a limit, and notes how it went.
part() {
    local name=$1 seconds=$2 start status
    shift 2
    start=$(date +%s)
    timeout --signal TERM --kill-after 20 "$seconds" "$@" >"$OUT/$name.txt" 2>&1
    status=$?
    printf '%s\t%s\t%s s\t%s\n' "$name" "$status" "$(($(date +%s) - start))" "$*" | tee -a "$OUT/summary.txt"
}

run() {
    OUT=$(mkdir -p "$1" && cd "$1" && pwd)
    # What was carried comes after this checkout on the path, and before the machine's own packages.
    export PYTHONPATH=$PWD:$PWD/$SITE OMP_NUM_THREADS=${OMP_NUM_THREADS:-4}
    if [ -d "$WHEELS" ]; then
        "$PYTHON" -m pip install -q --no-index --no-deps --upgrade --target "$SITE" "$WHEELS"/*.whl >"$OUT/install.txt" 2>&1
    fi
    { date -u; git rev-parse HEAD; nvidia-smi -L; "$PYTHON" -m facekd doctor; } >"$OUT/summary.txt" 2>&1

    # On a GPU the sizes that docs/benchmarks.md asks for; on a CPU just enough to see that every part runs.
    local device=${DEVICE:-cuda}
    if [ "$device" = cuda ]; then
        part study 300 "$PYTHON" -m facekd study facekd/configs/study/gpu_session.yaml --jobs 3 --output "$OUT/study"
        part train_step 80 "$PYTHON" benchmarks/train_step.py --backbones mobilefacenet iresnet50 --batch-size 128 --turns 20 \
            --workers 8 --variants bf16 "fp16 half-head" --json "$OUT/train_step.json"
        part large_head 60 "$PYTHON" benchmarks/large_head.py --classes 93431 1000000 --embedding-size 512 --batch-size 1024 \
            --rounds 2 --json "$OUT/large_head.json"
        part large_head_bf16 40 "$PYTHON" benchmarks/large_head.py --classes 1000000 --embedding-size 512 --batch-size 1024 \
            --rounds 2 --product autocast --json "$OUT/large_head_bf16.json"
        part loader 60 "$PYTHON" benchmarks/loader.py --workers 4 16 --turns 3 --json "$OUT/loader.json"
        part nccl 40 "$PYTHON" -m torch.distributed.run --standalone --nproc_per_node 1 -m facekd train \
            --data.train synthetic:1000x20 --data.workers 4 --backbone.name iresnet50 --precision bf16 --head.sharded true \
            --images 20000 --global_batch_size 128 --log_every_images 2000 --tensorboard false --output "$OUT/nccl"
    else
        sed -E 's/warmup_images: [0-9]+/warmup_images: 64/; s/images: [0-9]{4,}/images: 256/; s/--identities [0-9]+/--identities 10/; s/precision: bf16/device: cpu/' \
            facekd/configs/study/gpu_session.yaml >"$OUT/study.yaml"
        part study 600 "$PYTHON" -m facekd study "$OUT/study.yaml" --output "$OUT/study"
        part train_step 200 "$PYTHON" benchmarks/train_step.py --backbones mobilefacenet --classes 1000 --batch-size 4 --turns 2 \
            --no-memory --json "$OUT/train_step.json"
        part large_head 100 "$PYTHON" benchmarks/large_head.py --classes 1000 --embedding-size 64 --batch-size 16 --rounds 1 \
            --steps 1 --json "$OUT/large_head.json"
        part loader 100 "$PYTHON" benchmarks/loader.py --num-images 64 --num-batches 2 --batch-size 8 --turns 1 --workers 0 \
            --json "$OUT/loader.json"
    fi
    cat "$OUT/summary.txt"
}

case ${1:-} in
prepare) prepare "${@:2}" ;;
run) run "${2:?give a folder for the results}" ;;
*) sed -n '2,14p' "$0" ;;
esac
