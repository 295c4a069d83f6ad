"""Reads and writes RecordIO files (`.rec` with `.idx`), the format of mxnet and InsightFace, without mxnet.

with RecordReader("train.rec") as reader:
    header, image_bytes = unpack(reader.read(1))

with RecordWriter("new.rec") as writer:
    writer.write(0, pack(Header(0, 7.0, 0, 0), image_bytes))
"""

from facekd.data.recordio.format import Header, first_label, pack, unpack
from facekd.data.recordio.reader import RecordReader
from facekd.data.recordio.writer import RecordWriter
from facekd.errors import RecordError

__all__ = ["Header", "RecordError", "RecordReader", "RecordWriter", "first_label", "pack", "unpack"]
