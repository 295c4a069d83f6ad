"""Draws a small set in IJB-C's layout, and computes every number of it by naive loops in float64."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass
class Layout:
    """What a set consists of; change it, then `write`."""

    names: list[str]
    templates: list[int]
    media: list[int]
    scores: list[float]
    landmarks: np.ndarray  # (N, 5, 2)
    plain: np.ndarray  # (N, D)
    mirrored: np.ndarray
    pairs: list[tuple[int, int, int]]
    galleries: dict[str, list[tuple[int, int]]]
    probes: list[tuple[int, int]]
    point_order: list[int] = field(default_factory=list)  # of the lines of landmarks
    newline: str = "\n"

    def write(self, root: Path) -> Path:
        """Write the text files, and embeddings.npy in the order of the landmarks; returns `root`."""
        meta = root / "meta"
        meta.mkdir(parents=True, exist_ok=True)
        (root / "loose_crop").mkdir(exist_ok=True)
        end = self.newline

        def put(name: str, lines: list[str]) -> None:
            (meta / f"ijbc_{name}").write_bytes((end.join(lines) + end).encode())

        put(
            "face_tid_mid.txt", [f"{n} {t} {m}" for n, t, m in zip(self.names, self.templates, self.media, strict=True)]
        )
        order = self.point_order or list(range(len(self.names)))
        points = [" ".join(f"{value:.3f}" for value in self.landmarks[i].ravel()) for i in order]
        put(
            "name_5pts_score.txt",
            [f"{self.names[i]} {p} {self.scores[i]:.6f}" for i, p in zip(order, points, strict=True)],
        )
        put("template_pair_label.txt", [f"{a} {b} {label}" for a, b, label in self.pairs])
        for name, rows in [
            *((f"gallery_{key}", rows) for key, rows in self.galleries.items()),
            ("probe_mixed", self.probes),
        ]:
            put(f"1N_{name}.csv", ["TEMPLATE_ID,SUBJECT_ID,FILENAME", *(f"{t},{s},x.jpg" for t, s in rows)])
        np.save(root / "embeddings.npy", np.concatenate([self.plain, self.mirrored], axis=1)[order].astype(np.float32))
        return root


def make_layout(seed: int = 0, num_subjects: int = 24, size: int = 16, id_step: int = 7) -> Layout:
    """Every subject has a gallery template, in G1 or G2, and 1 to 4 probes of 1 to 4 faces in 1 to 3 media."""
    generator = np.random.default_rng(seed)
    names, templates, media, plain = [], [], [], []
    galleries: dict[str, list[tuple[int, int]]] = {"G1": [], "G2": []}
    probes, subject_of, number = [], {}, 0
    for subject in range(num_subjects):
        center = generator.standard_normal(size)
        for kind in range(1 + int(generator.integers(1, 5))):
            number += 1
            template = number * id_step
            subject_of[template] = subject + 100
            rows = galleries["G1" if subject % 2 else "G2"] if kind == 0 else probes
            for _ in range(int(generator.integers(1, 5))):
                names.append(f"{len(names) + 1}.jpg")
                templates.append(template)
                media.append(int(generator.integers(1, 4)) + 1000 * subject)
                plain.append(center * generator.uniform(0.5, 2) + generator.normal(0, 0.9, size))
                rows.append((template, subject + 100))
    embeddings = np.array(plain).astype(np.float32)
    gallery_ids = sorted({t for rows in galleries.values() for t, _ in rows})
    probe_ids = sorted({t for t, _ in probes})
    pairs = [(a, b, int(subject_of[a] == subject_of[b])) for a in gallery_ids for b in probe_ids]
    base = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])
    return Layout(
        names,
        templates,
        media,
        np.round(generator.uniform(0.5, 1, len(names)), 6).tolist(),
        base + generator.normal(0, 1, (len(names), 5, 2)),
        embeddings,
        (embeddings + generator.normal(0, 0.2, embeddings.shape)).astype(np.float32),
        pairs,
        galleries,
        probes,
    )


def naive_templates(
    layout: Layout, keep_norm: bool, detector: bool, flip: bool, normalize_media: bool = False
) -> dict[int, np.ndarray]:
    """Template id -> unit vector, a face at a time."""
    faces: dict[int, dict[int, list[np.ndarray]]] = defaultdict(lambda: defaultdict(list))
    for row, template in enumerate(layout.templates):
        face = layout.plain[row].astype(np.float64)
        if flip:
            face = face + layout.mirrored[row].astype(np.float64)
        if not keep_norm:
            face = face / np.linalg.norm(face)
        if detector:
            face = face * layout.scores[row]
        faces[template][layout.media[row]].append(face)
    pooled = {}
    for template, by_media in faces.items():
        means = [np.mean(some, axis=0) for some in by_media.values()]
        if normalize_media:
            means = [mean / np.linalg.norm(mean) for mean in means]
        total = np.sum(means, axis=0)
        pooled[template] = total / np.linalg.norm(total)
    return pooled


def naive_scores(layout: Layout, pooled: dict[int, np.ndarray]) -> np.ndarray:
    """A cosine a pair."""
    return np.array([float(np.dot(pooled[a], pooled[b])) for a, b, _ in layout.pairs])
