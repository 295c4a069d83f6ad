"""Opens a verification pack of either format by its first bytes."""

from __future__ import annotations

import os
from pathlib import Path

from facekd.data.pair_packs.npz_file import parse_native_pair_pack
from facekd.data.pair_packs.pair_pack import PairPack, validate_pairs
from facekd.data.pair_packs.unpickler import RefusedGlobalError, load_pairs
from facekd.errors import DataError
from facekd.files.reading import require_regular_file
from facekd.utils.foreign import shown
from facekd.utils.wording import counted

ZIP_START = b"PK\x03\x04"


def read_pair_pack(path: str | os.PathLike[str]) -> PairPack:
    """Reads a verification pack of either format.

    A `.bin` may be written by Python 2 or 3, with images as bytes, `str` or uint8 arrays (n,) or (n, 1). facekd's own
    `.npz` is not a pickle.

    Args:
        path: the file; its first bytes tell which of the two it is.

    Returns:
        The pairs, in the order of the file; images stay encoded (see `decode_images`).

    Raises:
        DataError: the file is not a pack, is cut short or asks for code to be run; or it holds an odd number of
            images, another number of labels than pairs, labels that are not true or false, or an empty image.
        OSError: the file cannot be read.
    """
    # facekd's own packs are zip archives.
    path = Path(path)
    require_regular_file(path)
    content = path.read_bytes()
    if content.startswith(ZIP_START):
        return parse_native_pair_pack(content, str(path))
    # Anything else should be a pickle.
    try:
        loaded = load_pairs(content)
    except RefusedGlobalError as error:
        raise DataError(
            f"{path}: refused: the pickle asks for {shown(error)}, which no verification pack needs and which could "
            "run code of whoever wrote the file; use packs from a source you trust, or rebuild it with write_pair_pack"
        ) from None
    except Exception as error:
        # A damaged pickle can raise anything (EOFError, KeyError, MemoryError, ...).
        raise DataError(
            f"{path}: not a readable verification pack ({counted(len(content), 'byte')}): {type(error).__name__}: "
            f"{shown(error)}; expected a pickled (images, is_same); the file is cut short, damaged or of another kind: "
            "fetch it again"
        ) from error
    return validate_pairs(loaded, str(path), most_bytes=len(content))
