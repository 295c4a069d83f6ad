#!/bin/bash
# Writes the files of this folder. Run it in an empty folder with commit a00aed3 of facekd on PYTHONPATH.
set -euo pipefail
export OMP_NUM_THREADS=1
facekd() { python -m facekd "$@"; }
# Leaves the run as it was after 24 of 48 images, with the log of the whole run.
keep_half() { rm -rf "$1"/checkpoints/000000000048* "$1"/checkpoints/best* "$1"/*.png "$1"/.lock; }

# Data: records, pairs as .bin and .npz, a folder of people, an IJB layout, CIFAR's files.
facekd data synthesize --identities 6 --images-per-identity 4 --size 32 --test-identities 20 \
    --test-images-per-identity 2 --pairs 20 --output data --quality 80 --workers 0
facekd data unpack data people
facekd data make-pairs people pairs.npz --sample 12 --folds 2 --size 32 --workers 1
facekd data make-ijb people ijb --workers 1 --image-size 32
facekd data synthesize-classification --output cifar --classes 3 --images-per-class 4 --test-images-per-class 3

# Runs: a plain one, one with a moving average and AdaFace's statistics, a linear classifier.
COMMON="--data.workers 0 --data.image_size 32 --device cpu --tensorboard false --schedule.lr 0.003
    --global_batch_size 12 --log_every_images 12 --images 48 --checkpoint.every_images 24 --checkpoint.every_minutes 0"
FACES="$COMMON --data.train data/train.rec --head.scale 16"
LARGE="--backbone.name mobilefacenet --backbone.width 0.06"
SMALL="--backbone.name resnet8x4 --backbone.width 0.0625 --backbone.embedding_size 16"
facekd train $FACES $LARGE --backbone.embedding_size 16 --output arcface
facekd train $FACES $SMALL --head.margin adaface --ema_half_life_images 24 --output ema
facekd train $COMMON $SMALL --data.train cifar --head.kind linear --output linear
for run in arcface ema linear; do keep_half $run; done

# A head in shards: two processes write it, one goes on.
python -m torch.distributed.run --standalone --nproc_per_node 2 -m facekd train $FACES $SMALL --head.sharded true \
    --output sharded
keep_half sharded
cp -r sharded continued
facekd train $FACES $SMALL --head.sharded true --output continued
mv continued/log.jsonl sharded/log.jsonl
rm -rf continued

# Models of other kinds, and what students learn from.
facekd export ema --output ema.onnx
python -c 'import torch; from facekd.backbones import build_backbone as build; torch.manual_seed(0)
torch.save(build("mobilefacenet_0.45g", embedding_size=8, image_size=32, width=0.125).state_dict(), "backbone.pth")'
facekd import backbone.pth --output imported.pt
facekd cache-teacher ema.onnx --data data/train.rec --output teacher.cache
facekd rebuild-head ema.onnx --data data/train.rec --output head.pt --cache teacher.cache
facekd distill $FACES $LARGE --backbone.embedding_size 8 --teacher.model ema.onnx --teacher.head ema --loss.ce 0 \
    --loss.th_ce 1 --loss.embedding_cosine 1 --output distilled
keep_half distilled
facekd distill $FACES $SMALL --teacher.cache teacher.cache --teacher.head head.pt --loss.ce 0 --loss.kl 0 \
    --loss.th_ce 1 --loss.embedding_l2 1 --output cached

python - <<PYTHON
import numpy as np
from facekd.data.datasets import open_dataset
from facekd.embedder import open_embedder
images = open_dataset("data/train.rec", 32).load(np.arange(5))[0]
models = ("arcface", "ema", "linear", "distilled", "sharded", "imported.pt", "ema.onnx")
np.savez("embeddings.npz", **{model: open_embedder(model).embed(images) for model in models})
PYTHON

# Evaluations and a study.
facekd evaluate lfw --model ema.onnx --pairs data/test.bin --names data/test_pairs.txt --bootstrap 100 --no-pictures \
    --output results/lfw
facekd evaluate lfw --model arcface --pairs pairs.npz --bootstrap 100 --folds 2 --no-pictures --output results/npz
facekd evaluate folder --model ema.onnx --images people --bootstrap 100 --output results/folder
facekd evaluate ijbc --model ema.onnx --root ijb --bootstrap 100 --output results/ijbc
facekd evaluate classification --model linear --data cifar --output results/classification --workers 0
cat > study.yaml <<YAML
output: study
seeds: [0, 1]
reference: alone
base: {data: {train: data/train.rec, image_size: 32, workers: 0}, device: cpu, tensorboard: false, images: 24,
  global_batch_size: 12, backbone: {name: resnet8x4, width: 0.0625, embedding_size: 16}, schedule: {lr: 0.003}}
packs: [{pairs: data/test.bin, names: data/test_pairs.txt}]
evaluate: {fars: [1e-1]}
methods:
  alone: {verb: train}
  faster: {verb: train, config: {schedule.lr: 0.1}}
YAML
facekd study study.yaml

# What tests do not read stays out.
rm -rf backbone.pth cached/checkpoints results/*/embeddings study/runs/*/*/{checkpoints,*.onnx,*.log,verification/embeddings}
find . \( -name '*.html' -o -name '*.png' -o -name '*.md' -o -name '.lock' \) -delete
