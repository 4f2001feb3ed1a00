"""The files of an exported model: read with their sums checked, and the user's code beside them. Imports no torch."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from archsearch.errors import StoreError, UserError
from archsearch.space import digest
from archsearch.spec.base import JsonObject
from archsearch.store import KeyMissing, Store

FORMAT_VERSION = 1
ARCHITECTURE = "architecture.json"
WEIGHTS = "model.safetensors"
PROGRAM = "model.pt2"
ONNX = "model.onnx"
MANIFEST = "manifest.json"
CODE = "code"
FOLDER = "best"


class Bundle:
    """An exported model in a store. Only what is asked for is fetched, and each file is compared with the manifest."""

    def __init__(self, store: Store) -> None:
        self.store, manifest = _locate(store)
        try:
            document = json.loads(manifest)
            version, self.files = document["formatVersion"], dict(document["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.store.uri}/{MANIFEST} is damaged: {error}; export the model again") from error
        if version != FORMAT_VERSION:
            raise UserError(
                f"{self.store.uri} has the format version {version}, this archsearch reads {FORMAT_VERSION}: "
                "use a newer one"
            )

    def read(self, name: str) -> bytes:
        """One file, verified.

        Raises:
            UserError: the model has no such file.
            StoreError: it is missing from the store or damaged.
        """
        if name not in self.files:
            raise UserError(f"{self.store.uri} holds no {name}; it has {', '.join(sorted(self.files))}")
        try:
            data = self.store.get(name)
        except KeyMissing as error:
            raise StoreError(
                f"{self.store.uri}/{name} is missing, its manifest names it: export the model again"
            ) from error
        if hashlib.sha256(data).hexdigest() != self.files[name].get("sha256"):
            raise StoreError(
                f"{self.store.uri}/{name} is damaged: its SHA-256 sum is not the manifest's; export the model again"
            )
        return data

    def document(self) -> JsonObject:
        """The content of architecture.json."""
        try:
            document = json.loads(self.read(ARCHITECTURE))
            version = document["formatVersion"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{self.store.uri}/{ARCHITECTURE} is damaged: {error}") from error
        if version != FORMAT_VERSION:
            raise UserError(
                f"{self.store.uri}/{ARCHITECTURE} has the format version {version}, this archsearch reads "
                f"{FORMAT_VERSION}: use a newer one"
            )
        return dict(document)

    def write_code(self, declared: Mapping[str, Any], directory: Path) -> None:
        """Write the copy of the user's code below `directory`, if `declared` (`code` of architecture.json) fits it."""
        names = [name.removeprefix(f"{CODE}/") for name in self.files if name.startswith(f"{CODE}/")]
        code = {name: self.read(f"{CODE}/{name}") for name in sorted(names)}
        if code_digest(code) != declared.get("digest"):
            raise StoreError(f"{self.store.uri}/{CODE} is not the code that {ARCHITECTURE} names: its digest differs")
        for name, data in code.items():
            path = directory / name
            if not path.resolve().is_relative_to(directory.resolve()):
                raise StoreError(f"{self.store.uri}/{MANIFEST} names {name!r}, which lies outside its folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def _locate(store: Store) -> tuple[Store, bytes]:
    """The model's own folder: that of a run's best model, or the one given."""
    for place in (store.child(FOLDER), store):
        try:
            return place, place.get(MANIFEST)
        except KeyMissing:
            continue
    raise UserError(
        f"{store.uri} holds no exported model: neither {FOLDER}/{MANIFEST} nor {MANIFEST} is there; "
        "give the folder or URI of a finished run, or of a model"
    )


def code_digest(code: Mapping[str, bytes]) -> str:
    """SHA-256 over the names and sums of files."""
    return digest({name: hashlib.sha256(data).hexdigest() for name, data in code.items()})


def user_code(module_name: str) -> dict[str, bytes]:
    """Source files of a loaded module and of all loaded modules that lie beside it, by path below their common root.

    Of installed packages only the module's own package is taken.
    """
    root = _root(module_name)
    installed = bool({"site-packages", "dist-packages"} & set(root.parts))
    top = module_name.partition(".")[0]
    code: dict[str, bytes] = {}
    for name, module in list(sys.modules.items()):
        if installed and name.partition(".")[0] != top:
            continue
        file = getattr(module, "__file__", None)
        if not file or not str(file).endswith(".py"):
            continue
        stem = name.replace(".", "/")
        # A file whose place is not what its name says (another root, `__main__`) could not be imported from the copy.
        for relative in (f"{stem}.py", f"{stem}/__init__.py"):
            if os.path.abspath(file) == str(root / relative):
                code[relative] = Path(file).read_bytes()
    return dict(sorted(code.items()))


def _root(module_name: str) -> Path:
    module = sys.modules.get(module_name) or importlib.import_module(module_name)
    file = getattr(module, "__file__", None)
    if not file or not str(file).endswith(".py"):
        raise UserError(
            f"module {module_name!r} has no Python source file, so that its code cannot be kept beside the model"
        )
    # Not resolved: in a mounted ConfigMap each file is a link, and it is the links that lie in one folder.
    path = Path(os.path.abspath(file))
    depth = module_name.count(".") + (1 if path.name == "__init__.py" else 0)
    return path.parents[depth]


@contextmanager
def imported_from(directory: Path) -> Iterator[None]:
    """Import the modules in `directory` and nothing of the same name elsewhere; afterwards everything is as before."""
    tops = {path.name.removesuffix(".py") for path in directory.iterdir()}
    displaced = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] in tops}
    sys.path.insert(0, str(directory))
    importlib.invalidate_caches()
    bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = bytecode
        sys.path.remove(str(directory))
        for name in [name for name in sys.modules if name.partition(".")[0] in tops]:
            del sys.modules[name]
        sys.modules.update(displaced)
