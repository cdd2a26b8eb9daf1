"""What a command is: a function, whose signature is its options."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from attrs import field, frozen
from jsonargparse.typing import register_type

from rftt.cli.parser import Parser

NAME: Final = "rftt"
_MODEL: Final = "nano, a folder in transformers' format, an adapter, or a name that the backend knows"


@frozen
class Command:
    """A command of the command line.

    Attributes:
        run: does it. Each parameter is an option; one of an abstract class takes a class path.
        parts: options that name classes, each with the one it has if none is named.
        defaults: of other options, where the signature cannot say them.
        skip: parameters that are no options of their own, since ``extend`` adds them.
        extend: adds to the parser what no signature says.
        factories: options that name a class or a function which ``run`` calls itself, with what it has
            made. By option, the parameters that it gives.
    """

    run: Callable[..., None]
    parts: Mapping[str, Any] = field(factory=dict)
    defaults: Mapping[str, Any] = field(factory=dict)
    skip: frozenset[str] = frozenset()
    extend: Callable[[Parser], None] = lambda parser: None
    factories: Mapping[str, frozenset[str]] = field(factory=dict)

    def parser(self, name: str, parts: Mapping[str, Any]) -> Parser:
        """Return the parser of the command's options.

        Args:
            name: of the command.
            parts: each with its class and settings, those that are not given anew.
        """
        _register_types()
        parser = Parser(prog=f"{NAME} {name}", exit_on_error=False, allow_abbrev=False)
        parser.add_argument("--config", action="config", help="a file with these options")
        self.extend(parser)
        parser.add_function_arguments(self.run, skip=set(self.skip), fail_untyped=False)
        parser.set_defaults({**self.defaults, **parts})
        if "policy" in self._parameters:
            if "model" not in self._parameters:
                parser.add_argument("--model", type=str | None, help=_MODEL)
            parser.link_arguments("model", "policy.init_args.model")
        return parser

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.run).parameters

    def __call__(self, parser: Parser, options: Any) -> None:
        """Make the parts that were chosen and run the command."""
        made = {
            option: parser.factory(options.pop(option), given)
            for option, given in self.factories.items()
        }
        parts = vars(parser.instantiate(options)) | made
        self.run(**{name: part for name, part in parts.items() if name in self._parameters})


def _register_types() -> None:
    register_type(
        torch.dtype,
        serializer=lambda dtype: str(dtype).removeprefix("torch."),
        deserializer=_dtype,
        fail_already_registered=False,
    )


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no type of numbers: give float32 or bfloat16")
    return dtype
