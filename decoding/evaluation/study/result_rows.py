"""A study's results as stamped rows."""

import json
from dataclasses import asdict
from pathlib import Path

from decoding.evaluation.files.kept import as_json, replace_file
from decoding.evaluation.files.stamp import origin
from decoding.evaluation.study.results import Results


def write_rows(results: Results, path: Path) -> None:
    """Write one JSONL row per cell, comparison and judge; infinity is "inf", what is undefined is null."""
    common = {"title": results.title, "configuration": results.configuration} | {
        "calibration": results.calibration,
        "provenance": list(results.provenance),
        "stamp": origin(),
    }
    parts = (("cell", results.cells), ("comparison", results.comparisons), ("judge", results.judges))
    rows = [as_json({"kind": kind} | asdict(each) | common) for kind, part in parts for each in part]
    lines = [json.dumps(row, allow_nan=False).encode() + b"\n" for row in rows]
    replace_file(path, lambda file: file.writelines(lines))
