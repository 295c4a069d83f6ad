"""Finds faces in photographs, embeds them, and keeps the embeddings of many in one file, a gallery."""

from facekd.faces.choosing import REASONS, FaceRules
from facekd.faces.detectors import FaceDetector, Faces, open_detector
from facekd.faces.finding import FaceFinder, FoundFace, FoundFaces
from facekd.faces.gallery import Gallery, Origin, check_same_model, read_gallery, write_gallery

__all__ = [
    "REASONS",
    "FaceDetector",
    "FaceFinder",
    "FaceRules",
    "Faces",
    "FoundFace",
    "FoundFaces",
    "Gallery",
    "Origin",
    "check_same_model",
    "open_detector",
    "read_gallery",
    "write_gallery",
]
