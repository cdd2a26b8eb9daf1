"""A parser of typed options, in which parts are named by class paths."""

from __future__ import annotations

import inspect
from argparse import SUPPRESS
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, get_type_hints

import attrs
from jsonargparse import ArgumentParser, Namespace


class Parser(ArgumentParser):
    """jsonargparse's parser, for the library's attrs classes.

    A default that is an instance of such a class, where the option is of a wider type, stands as its
    class path and its settings: jsonargparse keeps the settings alone, and could not read them back.
    """

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        default = kwargs.get("default")
        if attrs.has(type(default)) and kwargs.get("type") is not type(default):
            kwargs["default"] = class_spec(default)
        return super().add_argument(*args, **kwargs)

    def add_function_arguments(
        self, function: Callable[..., Any], *args: Any, linked_targets: Any = None, **kwargs: Any
    ) -> Any:
        """Add the parameters of a function as options.

        Where it passes any others on to the attrs class that it returns, as the presets of learners do,
        those of the class are options too, which count only if they are given.
        """
        # For a class that is made by a function, jsonargparse passes linked targets on and then refuses
        # them (4.53). It needs them here for no more than what it does by itself afterwards.
        added = super().add_function_arguments(function, *args, **kwargs)
        parameters = inspect.signature(function).parameters
        kind = get_type_hints(function).get("return", object)
        if attrs.has(kind) and any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            hints = get_type_hints(kind)
            others = {field.alias: hints[field.name] for field in attrs.fields(kind) if field.init}
            for name in sorted(others.keys() - parameters.keys() - set(kwargs.get("skip") or ())):
                what = f"as of {kind.__name__}, in place of what {function.__name__} has"
                self.add_argument(f"--{name}", type=others[name], default=SUPPRESS, help=what)
        return added

    def factory(self, spec: Namespace, given: frozenset[str]) -> Callable[..., Any]:
        """Return the class or function of a specification with its settings bound, but for those that
        whoever calls it gives."""
        part = imported(spec["class_path"])
        inner = part_parser(part, skip=given)
        settings = inner.instantiate(spec.get("init_args") or Namespace())
        return partial(part, **vars(settings))


def part_parser(part: Callable[..., Any], skip: frozenset[str] = frozenset()) -> Parser:
    """Return a parser of the settings of a class, or of a function that makes a part."""
    parser = Parser(exit_on_error=False, allow_abbrev=False)
    if inspect.isclass(part):
        parser.add_class_arguments(part, skip=set(skip), fail_untyped=False, instantiate=False)
    else:
        parser.add_function_arguments(part, skip=set(skip), fail_untyped=False)
    return parser


def class_spec(value: Any) -> Any:
    """Return an instance of an attrs class as its class path and settings; other values as they are."""
    kind = type(value)
    if not attrs.has(kind):
        return value
    settings = {
        field.alias: class_spec(getattr(value, field.name)) for field in attrs.fields(kind) if field.init
    }
    return {"class_path": f"{kind.__module__}.{kind.__qualname__}", "init_args": settings}


def imported(path: str) -> Any:
    """Return what an import path names.

    Raises:
        ImportError, AttributeError: if there is no such thing.
    """
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)
