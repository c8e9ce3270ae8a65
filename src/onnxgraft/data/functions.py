"""Functions of the user's own: a callable, or ``FILE.py:FUNCTION``; named, hashed, trusted.

The SHA-256 is that of the file, or of the source of a callable: of what is written there, and not
of what it calls.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxgraft.errors import InputError, nearest
from onnxgraft.files import existing_file, sha256
from onnxgraft.files.trust import Trust, offer, trusts

if TYPE_CHECKING:
    from pydantic_core import core_schema

__all__ = ["Function", "Given", "is_function_path"]

_FILE = ".py:"


def is_function_path(text: object) -> bool:
    """Tell whether a text is ``FILE.py:FUNCTION``."""
    return isinstance(text, str | os.PathLike) and _FILE in os.fspath(text)


class Function:
    """A function of the user's own.

    One that a recipe or a passport names is not run, and has no ``call``, until it is `loaded`.

    Attributes:
        name: ``FILE.py:FUNCTION``, or the module and name of a callable.
        sha256: Of the file, or of the callable's source; empty where it was only named.
    """

    def __init__(self, name: str, sha256: str = "", call: Callable[..., Any] | None = None) -> None:
        self.name, self.sha256 = name, sha256
        self._call = call

    @classmethod
    def of(cls, call: Callable[..., Any]) -> Function:
        """Return a callable as a function with a name and a hash."""
        module = getattr(call, "__module__", None) or type(call).__module__
        return cls(f"{module}.{_title(call)}", _digest(call), call)

    @classmethod
    def load(cls, text: str | os.PathLike[str]) -> Function:
        """Return ``FILE.py:FUNCTION``; the file is run.

        Raises:
            InputError: The file is not there or can't be run, or has no such function.
        """
        name = os.fspath(text)
        path, _, wanted = name.rpartition(":")
        file = existing_file(path, "the function's file")
        module = types.ModuleType(file.stem)
        module.__file__ = os.fspath(file)
        source = file.read_bytes()  # what is hashed is what is run, and no compiled copy of it
        try:
            exec(compile(source, module.__file__, "exec"), vars(module))
        except Exception as error:  # it is the user's own
            raise InputError(f"{file}: can't be run ({type(error).__name__}: {error})") from error
        found = getattr(module, wanted, None)
        if not callable(found):
            known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
            raise InputError(f"{file}: has no function {wanted!r}; {nearest(wanted, known)}")
        return cls(name, hashlib.sha256(source).hexdigest(), found)

    @property
    def title(self) -> str:
        """The last part of the name."""
        return self.name.rpartition(":")[2] if _FILE in self.name else self.name.rpartition(".")[2]

    @property
    def call(self) -> Callable[..., Any]:
        """The function itself.

        Raises:
            InputError: It was only named.
        """
        if self._call is None:
            raise InputError(f"the function {self.name} is named and was not loaded; give it again")
        return self._call

    def located(self, folder: Path) -> Function:
        """Return the same with its file's path beginning at ``folder``, and hashed, but not run.

        Raises:
            InputError: There is no such file.
        """
        if self._call is not None or _FILE not in self.name:
            return self
        name = os.path.normpath(folder / self.name)
        file = existing_file(name.rpartition(":")[0], "the function's file")
        return Function(name, self.sha256 or sha256(file))

    def loaded(self, trust: Trust, where: str) -> Function:
        """Return the function ready to be called; its file is run, if that is trusted.

        Args:
            trust: What the user trusts.
            where: Begins a refusal: who names the function.

        Raises:
            InputError: It is not trusted, can't be loaded, or another one than was hashed.
        """
        if self._call is not None:
            return self
        if _FILE not in self.name:
            raise InputError(
                f"{where} wants {self.name}, a function in Python that is not written in a file: "
                "give it again"
            )
        if not trusts(trust, self.title, Path(self.name.rpartition(":")[0]).name, self.name):
            raise InputError(f"{where} runs the code of {self.name}; {offer(self.title)}")
        found = Function.load(self.name)
        if self.sha256 not in ("", found.sha256):
            raise InputError(
                f"{where} wants {self.name} as it was with the SHA-256 {self.sha256[:12]}..., and "
                f"the file has {found.sha256[:12]}...; give the file as it was, or a recipe"
            )
        return found

    def __call__(self, *arguments: Any) -> Any:
        """Call the function."""
        return self.call(*arguments)

    def __str__(self) -> str:
        """Return the name."""
        return self.name

    def __repr__(self) -> str:
        """Return name and hash: what tells it from others."""
        return f"Function({self.name!r}, {self.sha256!r})"

    def __eq__(self, other: object) -> bool:
        """Tell whether it has the same name and hash."""
        return isinstance(other, Function) and repr(self) == repr(other)

    def __hash__(self) -> int:
        """Return the hash of both."""
        return hash(repr(self))

    def __getstate__(self) -> dict[str, Any]:
        """Let a file be run again elsewhere; a callable has to be found there by its name."""
        if _FILE in self.name:
            return {"name": self.name, "sha256": self.sha256, "run": self._call is not None}
        if not _is_findable(self._call):
            raise InputError(
                f"{self.name} can't be sent to other processes, which would not find it: define it "
                "at the top of a module, write it as FILE.py:FUNCTION, or use one worker"
            )
        return {"name": self.name, "sha256": self.sha256, "call": self._call}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Find the function in this process."""
        self.name, self.sha256 = state["name"], state["sha256"]
        self._call = state.get("call")
        if state.get("run"):
            self._call = self.loaded(True, "this process").call

    @classmethod
    def read(cls, value: object) -> Function:
        """Return the function that a value of a table stands for.

        Raises:
            ValueError: It stands for none.
        """
        if isinstance(value, Function):
            return value
        if callable(value):
            return cls.of(value)
        if isinstance(value, dict) and set(value) == {"name", "sha256"}:
            return cls(str(value["name"]), str(value["sha256"]))
        if isinstance(value, str) and _FILE in value:
            return cls(value)
        raise ValueError("write FILE.py:FUNCTION")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> core_schema.CoreSchema:
        """Take a name, a callable, or what was written of it; a text is its name."""
        from pydantic_core import core_schema

        return core_schema.no_info_plain_validator_function(
            cls.read,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda given: (
                    {"name": given.name, "sha256": given.sha256}
                    if isinstance(given, Function)
                    else given
                )
            ),
            json_schema_input_schema=core_schema.str_schema(pattern=r"\.py:"),
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        """Say what a file may hold: the text ``FILE.py:FUNCTION``."""
        return {"type": "string", "pattern": r"\.py:"}


# What the user gives where a function may be: its path, or the function.
Given = str | Function | Callable[..., Any]


def _title(call: Any) -> str:
    while isinstance(call, functools.partial):
        call = call.func
    return str(getattr(call, "__qualname__", None) or type(call).__qualname__)


def _digest(call: Any) -> str:
    """Return the SHA-256 of the source of a callable, or of its code where there is no source."""
    digest = hashlib.sha256()
    while isinstance(call, functools.partial):
        digest.update(repr((call.args, sorted(call.keywords.items()))).encode())
        call = call.func
    written = call if inspect.isroutine(call) or inspect.isclass(call) else type(call)
    try:
        digest.update(inspect.getsource(written).encode())
    except (OSError, TypeError):
        digest.update(_title(call).encode())
        named = False
    else:
        named = _title(call).rpartition(".")[2] != "<lambda>"  # a line may have several
    code = getattr(call, "__code__", None)
    if code is not None and not named:
        digest.update(repr(_compiled(code)).encode())
    return digest.hexdigest()


def _compiled(code: types.CodeType) -> tuple[object, ...]:
    """Return what tells compiled code from other code."""
    constants = [
        _compiled(value)
        if isinstance(value, types.CodeType)
        else sorted(map(repr, value))
        if isinstance(value, frozenset)
        else value
        for value in code.co_consts
    ]
    return code.co_code, code.co_names, code.co_varnames, constants


def _is_findable(call: Any) -> bool:
    """Tell whether another process finds a function, or the class of an object, by its name."""
    while isinstance(call, functools.partial):
        call = call.func
    call = getattr(call, "__self__", call) if inspect.ismethod(call) else call
    named = call if inspect.isroutine(call) or inspect.isclass(call) else type(call)
    found: Any = sys.modules.get(named.__module__ or "builtins")
    for part in named.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is named
