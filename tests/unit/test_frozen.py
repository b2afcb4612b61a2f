# SPDX-License-Identifier: Apache-2.0
"""Classes under frozen behave as frozen dataclasses do, and defining them imports nothing."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any, ClassVar

import pytest

from hpcnet.config import Site
from hpcnet.frozen import frozen, replace


@frozen
class Ours:
    first: int
    second: str = "b"
    kind: ClassVar[str] = "constant"

    @property
    def both(self) -> str:
        return f"{self.first}{self.second}"


@dataclasses.dataclass(frozen=True)
class Theirs:
    first: int
    second: str = "b"
    kind: ClassVar[str] = "constant"


@pytest.mark.parametrize(
    ("values", "named"), [((1,), {}), ((1, "x"), {}), ((1,), {"second": "x"}), ((), {"second": "x", "first": 1})]
)
def test_it_is_made_compared_and_shown_as_a_dataclass(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    ours, theirs = Ours(*values, **named), Theirs(*values, **named)
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    assert hash(ours) == hash(theirs)
    assert ours == Ours(*values, **named) != Ours(2)
    assert ours.__eq__(theirs) is NotImplemented is ours.__eq__(1)
    assert ours.both == f"{ours.first}{ours.second}"
    assert Ours.kind == "constant"


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, "x", 2), {}), ((1,), {"first": 2}), ((1,), {"third": 2}), ((), {"second": "x"})],
)
def test_wrong_arguments_are_refused_as_by_a_dataclass(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    for cls in (Ours, Theirs):
        with pytest.raises(TypeError):
            cls(*values, **named)


def test_it_cannot_be_changed() -> None:
    made = Ours(1)
    with pytest.raises(AttributeError, match="first"):
        made.first = 2  # type: ignore[misc]
    with pytest.raises(AttributeError, match="first"):
        del made.first
    assert made == Ours(1)


def test_replace_is_that_of_dataclasses() -> None:
    made = Ours(1)
    assert replace(made, second="x") == dataclasses.replace(made, second="x") == Ours(1, "x")
    with pytest.raises(TypeError):
        replace(made, third=1)


def test_the_fields_are_those_of_a_dataclass() -> None:
    ours, theirs = dataclasses.fields(Ours), dataclasses.fields(Theirs)
    assert [(field.name, field.default) for field in ours] == [(field.name, field.default) for field in theirs]
    assert dataclasses.is_dataclass(Ours)


def test_what_a_hook_imports_needs_no_dataclasses() -> None:
    script = (
        "import sys, hpcnet.cli.hooks, hpcnet.lifecycle, hpcnet.counters.account, hpcnet.allocation\n"
        "print(*{'dataclasses', 'inspect', 'pathlib', 'shutil', 'subprocess'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_a_mapping_may_be_a_default() -> None:
    site = Site()
    assert dataclasses.replace(site, environment={"A": "b"}) == replace(site, environment={"A": "b"}) != site
    assert {field.name for field in dataclasses.fields(Site)} >= {"fabric", "environment"}
