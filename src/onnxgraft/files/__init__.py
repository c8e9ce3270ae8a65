"""Files: read within limits, written whole or not at all."""

from __future__ import annotations

from onnxgraft.files.kept import Entry, Kept, key_of
from onnxgraft.files.reading import (
    check_json,
    existing_file,
    existing_folder,
    parse_json,
    parse_toml,
    read_json,
    read_toml,
    release_pages,
    sha256,
)
from onnxgraft.files.regular import refuse_irregular
from onnxgraft.files.writing import (
    atomic,
    atomic_folder,
    cache_folder,
    check_folder,
    check_place,
    claimed,
    json_text,
    places,
    remove_left,
    tell_temporary,
    together,
    watchers,
    write_bytes,
    write_json,
)

__all__ = [
    "Entry",
    "Kept",
    "atomic",
    "atomic_folder",
    "cache_folder",
    "check_folder",
    "check_json",
    "check_place",
    "claimed",
    "existing_file",
    "existing_folder",
    "json_text",
    "key_of",
    "parse_json",
    "parse_toml",
    "places",
    "read_json",
    "read_toml",
    "refuse_irregular",
    "release_pages",
    "remove_left",
    "sha256",
    "tell_temporary",
    "together",
    "watchers",
    "write_bytes",
    "write_json",
]
