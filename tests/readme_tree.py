"""The README's tree, a line a file, made from the first sentences of the modules' docstrings.

    python -m tests.readme_tree     # writes it between the README's markers
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- tree:begin -->", "<!-- tree:end -->"
PACKAGES = ("alignment", "reward", "data")
OTHERS = {
    "recipes/": "the recipes and the choices of model, data, rollout and scale, as commented YAML",
    "tests/": "the tests; `tests/bench/` measures speed",
    "requirements/": "the lock, and what a machine without a GPU leaves out",
}


def sentence(path: Path) -> str:
    text = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
    return re.split(r"(?<!et al)\. ", " ".join(text.split()))[0].rstrip(".")


def tree() -> str:
    lines = []
    for package in PACKAGES:
        folder = ROOT / package
        lines.append(f"{package}/")
        for path in sorted(folder.rglob("*.py"), key=lambda p: (len(p.relative_to(folder).parts) > 1, str(p))):
            if path.stat().st_size and path.name != "__init__.py":
                name = "    " + str(path.relative_to(folder))
                lines.append(f"{name:<36} {sentence(path)}")
    lines += [f"{name:<36} {text}" for name, text in OTHERS.items()]
    return "```text\n" + "\n".join(lines) + "\n```"


def block(readme: str) -> str:
    return readme.split(BEGIN)[1].split(END)[0].strip()


if __name__ == "__main__":
    page = ROOT / "README.md"
    before, rest = page.read_text(encoding="utf-8").split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{tree()}\n{END}{rest.split(END)[1]}", encoding="utf-8")
