"""The summary in the words of ISO/IEC 19795-1: error rates are those of the results, and what is unknown is said."""

from __future__ import annotations

from evaluation.results.standard_summary import standard_table

POINT = {
    "far": 0.001,
    "tar": 0.9,
    "ci95": [0.85, 0.95],
    "num_genuine": 3000,
    "num_impostor": 2000,
    "threshold": 0.31,
    "interval": "subject bootstrap",
    "reason": None,
}
PACK = {
    "format": "facekd-verification",
    "model": {"path": "m.onnx", "sha256": "ab12"},
    "pair_set": {"name": "lfw", "sha256": "cd34", "num_subjects": 1680},
    "protocol": {"text": "x"},
    "eer": 0.05,
    "eer_ci95": [0.04, 0.06],
    "tar_at_far": [POINT, {**POINT, "far": 1e-6, "tar": None, "ci95": None, "threshold": None, "interval": None}],
    "bootstrap": {"resampled": "subjects", "replicates": 1000, "num_subjects": 1680},
    "software": {"facekd": "0.1.0"},
    "command": "facekd evaluate lfw ...",
}


def rows(result: dict) -> dict[str, str]:
    return {row[0]: row[1] for row in standard_table(result).rows}


def test_a_pack_is_summarised() -> None:
    found = rows(PACK)
    assert found["FNMR at FMR 0.001"] == "10.00 % (5.00 to 15.00), threshold 0.3100"
    assert found["FNMR at FMR 1e-06"] == "not measurable with these comparisons"
    assert (found["mated comparisons"], found["non-mated comparisons"]) == ("3,000", "2,000")
    assert found["test subjects"] == "1,680" and "cd34" in found["test set"] and "ab12" in found["system tested"]
    assert found["failure to acquire"].startswith("none") and found["failure to enrol"].startswith("not measured")
    assert found["intervals, 95 %"] == "comparisons: subject bootstrap, 1,000 draws of subjects"
    assert found["repeat by"] == "facekd evaluate lfw ..."


def test_a_search_is_summarised_and_unknown_things_are_said() -> None:
    gallery = {
        "rank": [{"rank": 1, "rate": 0.75, "ci95": [0.7, 0.8]}],
        "tpir_at_fpir": [{"fpir": 0.1, "tpir": 0.6, "ci95": [0.5, 0.65], "threshold": 0.4}],
        "num_gallery": 50,
        "num_mated": 40,
        "num_nonmated": 30,
    }
    counts = {"num_gallery": 50, "num_gallery_subjects": 25, "num_probe_subjects": 20, "num_probes": 70}
    result = {
        "format": "facekd-protocol",
        "model": None,
        "embeddings": {"path": "rows.npy"},
        "dataset": {"root": "/x/survface", "published": None, "fingerprint": "ef56", **counts},
        "identification": {"gallery": gallery, "mean": {"rank": [], "tpir_at_fpir": []}},
        "failures": {"num_images": 3, "rate": 0.03, "ci95": [0.01, 0.08]},
        "search_intervals": "100 draws of 20 people",
        "tar_at_far": None,
    }
    found = rows(result)
    assert found["FNIR at FPIR 0.1, gallery"] == "40.00 % (35.00 to 50.00), threshold 0.4000"
    assert found["rank-1 identification rate, gallery"] == "75.00 % (70.00 to 80.00)"
    assert found["searches, gallery"] == "40 mated, 30 non-mated, among 50 references"
    assert found["test subjects"] == "20 in the probes, 25 in the galleries"
    assert found["failure to acquire"] == "not known: the embeddings were made elsewhere"
    assert rows({**result, "model": {"path": "m"}})["failure to acquire"] == "3.00 % (1.00 to 8.00), 3 images"
    assert found["intervals, 95 %"] == "searches: 100 draws of 20 people" and found["repeat by"] == "not known"
