"""The mxnet half of the interoperability tests: runs in the environment that has mxnet, and imports nothing of facekd.

Reads a list of requests as JSON from standard input, prints the list of answers as JSON. A request is
`{"do": name, ...}`; bytes travel as hex.
"""

import json
import sys

import numpy as np

np.bool = bool  # mxnet 1.9.1 uses the alias, deprecated in its numpy already: no warnings wanted here

import mxnet  # noqa: E402
from mxnet import recordio  # noqa: E402


def as_header(fields):
    flag, label, identifier, identifier2 = fields
    label = np.array(label, dtype=np.float32) if isinstance(label, list) else label
    return recordio.IRHeader(flag, label, identifier, identifier2)


def describe(payload):
    header, content = recordio.unpack(payload)
    label = header.label.tolist() if isinstance(header.label, np.ndarray) else header.label
    return {"header": [header.flag, label, header.id, header.id2], "content": content.hex()}


def version():
    return mxnet.__version__


def pack(headers, content):
    return [recordio.pack(as_header(header), bytes.fromhex(content)).hex() for header in headers]


def read(rec, idx, unpack):
    reader = recordio.MXIndexedRecordIO(idx, rec, "r")
    records = {}
    for key in reader.keys:
        payload = reader.read_idx(key)
        records[key] = describe(payload) if unpack else payload.hex()
    reader.close()
    return {"keys": list(reader.keys), "records": records}


def read_in_file_order(rec):
    reader = recordio.MXRecordIO(rec, "r")
    payloads = []
    while True:
        payload = reader.read()
        if payload is None:
            break
        payloads.append(payload.hex())
    reader.close()
    return payloads


def write(rec, idx, records):
    writer = recordio.MXIndexedRecordIO(idx, rec, "w")
    for key, payload in records:
        writer.write_idx(key, bytes.fromhex(payload))
    writer.close()


def iterate(rec, idx, size, batch_size, pixels):
    # The images must fill whole batches: mxnet fills up the last one, and not always says by how many.
    iterator = mxnet.io.ImageRecordIter(
        path_imgrec=rec,
        path_imgidx=idx,
        data_shape=(3, size, size),
        batch_size=batch_size,
        shuffle=False,
        round_batch=False,
        preprocess_threads=1,
        verbose=False,
    )
    labels, images = [], []
    for batch in iterator:
        labels += batch.label[0].asnumpy().tolist()
        images.append(batch.data[0].asnumpy())
    np.save(pixels, np.concatenate(images))
    return labels


ACTIONS = {action.__name__: action for action in (version, pack, read, read_in_file_order, write, iterate)}


if __name__ == "__main__":
    requests = json.load(sys.stdin)
    answers = [ACTIONS[request.pop("do")](**request) for request in requests]
    json.dump(answers, sys.stdout)
