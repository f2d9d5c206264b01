"""Imports go one way, serving -> validation -> spectral -> atlas_jax, and meshes and specs are made in one place."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ("atlas_jax", "spectral", "validation", "serving")  # from the bottom up
PLACEMENT = {"PartitionSpec", "Mesh", "AbstractMesh", "make_mesh", "create_device_mesh"}


def sources(package):
    return sorted((ROOT / package).rglob("*.py"))


def imported(tree):
    """Top-level package and line of every absolute import, late ones and those by name included."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                yield from ((alias.name.split(".")[0], node.lineno) for alias in names)
            case ast.ImportFrom(level=0, module=str(module)):
                yield module.split(".")[0], node.lineno
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(module)), *_],
            ):
                yield module.split(".")[0], node.lineno


def upward(package, tree):
    above = ORDER[ORDER.index(package) + 1 :]
    return [(name, line) for name, line in imported(tree) if name in above]


def placed(tree):
    """Line of every call that makes a mesh or a spec, under whatever name it was imported."""
    names = dict.fromkeys(PLACEMENT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jax"):
            names |= {a.asname: None for a in node.names if a.asname and a.name in PLACEMENT}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if called in names:
                yield node.lineno


@pytest.mark.parametrize("package", [p for p in ORDER if (ROOT / p).is_dir()])
def test_no_package_imports_what_stands_above_it(package):
    files = sources(package)
    assert files
    found = [
        (f"{file.relative_to(ROOT)}:{line}", name) for file in files for name, line in upward(package, parse(file))
    ]
    assert not found, f"{package} must not import {found}"


@pytest.mark.parametrize("package", [p for p in ORDER if (ROOT / p).is_dir()])
def test_only_atlas_jax_distributed_places_arrays(package):
    home = ROOT / "atlas_jax" / "distributed"
    files = [file for file in sources(package) if home not in file.parents]
    found = [f"{file.relative_to(ROOT)}:{line}" for file in files for line in placed(parse(file))]
    assert not found, f"meshes and partition specs belong in {home.relative_to(ROOT)}, not in {found}"


def parse(file):
    return ast.parse(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "line",
    [
        "import spectral.resonance",
        "from spectral import resonance",
        "def f():\n    from validation.tiers import train_tier",
        "importlib.import_module('serving.server')",
    ],
)
def test_an_upward_import_is_seen(line):
    assert upward("atlas_jax", ast.parse(line))
    assert not upward("serving", ast.parse(line))


@pytest.mark.parametrize(
    "line",
    [
        "from jax.sharding import PartitionSpec as P\nP('x')",
        "jax.sharding.Mesh(devices, 'x')",
        "jax.make_mesh((1,), ('x',))",
        "from jax.sharding import AbstractMesh\nAbstractMesh((1,), ('x',))",
    ],
)
def test_a_placement_is_seen(line):
    assert list(placed(ast.parse(line)))
    assert not list(placed(ast.parse("from jax.sharding import Mesh\nx: Mesh")))


def test_the_home_of_placement_is_where_it_is_said_to_be():
    home = ROOT / "atlas_jax" / "distributed"
    assert list(placed(parse(home / "mesh.py")))
    assert list(placed(parse(home / "sharding.py")))
