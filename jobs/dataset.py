"""The newest snapshot as a PyArrow dataset: exactly its parts, whatever else a run is writing."""

from __future__ import annotations

import pyarrow.dataset as ds
from pyarrow import fs

from embedmill.pipeline.snapshot.read import read_plan, required, table
from embedmill.pipeline.store.arrow import filesystem_of
from embedmill.pipeline.store.output import LocalStore, open_store
from embedmill.schemas.columns import part_schema


def dataset(output: str) -> ds.Dataset:
    """A dataset over the parts of the newest snapshot, in order; page checksums are verified.

    It keeps naming these parts while later runs commit, until a gc removes them.
    """
    store = open_store(output)
    manifest = required(store).manifest
    plan, _ = read_plan(store, manifest.plan)
    paths = table(store, manifest).column("path").to_pylist()
    remote = not isinstance(store, LocalStore)
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    # Not ds.dataset: it cannot be made of no files, and a snapshot may have no rows at all.
    return ds.FileSystemDataset.from_paths(
        paths if remote else [store.where(path) for path in paths],
        schema=part_schema(plan),
        format=ds.ParquetFileFormat(default_fragment_scan_options=options),
        filesystem=filesystem_of(store) if remote else fs.LocalFileSystem(),
    )
