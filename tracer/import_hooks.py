"""Run something right after a module is imported, now if it already is.

So `instrument()` can come first in a program and cost nothing for libraries the program never imports.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

from redecode.tracer.recorder import never_raise


class _Loader(importlib.abc.Loader):
    def __init__(self, inner: importlib.abc.Loader, after: Callable[[], None]) -> None:
        self._inner, self._after = inner, after

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._inner.exec_module(module)
        with never_raise(f"instrumenting {module.__name__}"):
            self._after()


class AfterImport(importlib.abc.MetaPathFinder):
    """Calls back once per call to `call`, after the named module's import."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Callable[[], None]]] = {}
        self._finding: set[str] = set()

    def call(self, module: str, after: Callable[[], None]) -> None:
        """Call `after` when `module` has been imported; at once if it has (and is not in the middle of it)."""
        loaded = sys.modules.get(module)
        if loaded is not None and not getattr(loaded.__spec__, "_initializing", False):
            after()
            return
        self._waiting.setdefault(module, []).append(after)
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)

    def remove(self) -> None:
        """Forget what is still waited for."""
        self._waiting.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a waited-for module by the finders after this one, and wrap its loader."""
        if fullname not in self._waiting or fullname in self._finding:
            return None
        self._finding.add(fullname)
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self._finding.discard(fullname)
        if spec is None or spec.loader is None:
            return None
        spec.loader = _Loader(spec.loader, lambda: self._imported(fullname))
        return spec

    def _imported(self, fullname: str) -> None:
        for after in self._waiting.pop(fullname, ()):
            after()
