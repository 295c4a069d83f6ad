"""Runs mxnet's side of `loader.py` in the environment that has mxnet, without facekd.

    python loader_mxnet_side.py PACK.rec SIZE BATCH_SIZE THREADS NUM_BATCHES

prints the seconds an image after the first batch, as wall-clock time and processor time.
"""

import json
import sys
import time

import mxnet

path, size, batch_size, threads, num_batches = sys.argv[1], *map(int, sys.argv[2:])
batches = mxnet.io.ImageRecordIter(
    path_imgrec=path,
    path_imgidx=path.replace(".rec", ".idx"),
    data_shape=(3, size, size),
    batch_size=batch_size,
    shuffle=True,
    rand_mirror=True,
    preprocess_threads=threads,
    verbose=False,
    **{f"{kind}_{channel}": 127.5 for kind in ("mean", "std") for channel in "rgb"},
)


def images_forever():
    while True:
        batches.reset()
        for batch in batches:
            yield batch.data[0]


stream = images_forever()
next(stream).wait_to_read()
start, used = time.perf_counter(), time.process_time()
for _ in range(num_batches - 1):
    next(stream).wait_to_read()
done = (num_batches - 1) * batch_size
print(json.dumps([(time.perf_counter() - start) / done, (time.process_time() - used) / done]))
