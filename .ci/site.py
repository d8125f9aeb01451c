"""A page for each public name of the site, from the docstrings (a hook of MkDocs)."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "core": "What a training loop calls",
    "core.policies": "Policies and their configurations",
    "core.semi_supervised": "Few labels",
    "core.training": "A whole training",
    "core.data": "Data sets",
    "core.models": "Networks",
    "core.analysis": "Measurements of a network",
    "core.testing": "Contracts for policies and methods of your own",
    "hpo": "The bench",
}
"""Whose names have pages, and what the menu calls them."""


def public_names(package: str) -> list[str]:
    """Returns `__all__` of a package, in its order, without importing it."""
    path = ROOT.joinpath(*package.split("."), "__init__.py")
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = getattr(node, "target", None) or (getattr(node, "targets", None) or [None])[0]
        if getattr(target, "id", None) == "__all__":
            return list(ast.literal_eval(node.value))  # type: ignore[attr-defined]
    raise ValueError(f"{path} has no __all__")


def pages() -> dict[str, str]:
    """Returns the pages by their address: one for each package, one for each of its names."""
    made = {}
    for package, title in PACKAGES.items():
        names = public_names(package)
        links = "\n".join(f"- [`{name}`]({package}.{name}.md)" for name in names)
        about = f"::: {package}\n    options:\n      members: false\n      heading_level: 2"
        made[f"reference/{package}.md"] = f"# {title}\n\n{about}\n\n{links}\n"
        for name in names:
            made[f"reference/{package}.{name}.md"] = f"::: {package}.{name}\n"
    return made


def on_config(config: Any) -> Any:
    """Puts the pages into the menu."""
    menu = [
        {title: [f"reference/{package}.md", *({n: f"reference/{package}.{n}.md"} for n in names)]}
        for package, title, names in ((p, t, public_names(p)) for p, t in PACKAGES.items())
    ]
    for entry in config.nav:
        if "Reference" in entry:
            entry["Reference"] = menu
    return config


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages to the files of the site."""
    from mkdocs.structure.files import File

    for address, text in pages().items():
        files.append(File.generated(config, address, content=text))
    return files
