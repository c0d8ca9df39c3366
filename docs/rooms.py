"""The package's imports in; a drawing of its rooms and of the arrows between them comes out."""

import ast
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pm_psyphy"


def list_floors() -> list[list[str]]:
    """Return the rooms, from the top floor to the ground, as the import contract has them."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [[room.strip() for room in floor.split("|")] for floor in contract["layers"]]


def find_arrows() -> set[tuple[str, str]]:
    """Return which room imports from which."""
    arrows = set()
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) else None
            if module and module.startswith("pm_psyphy."):
                arrows.add((room, module.split(".")[1]))
    return {(a, b) for a, b in arrows if a != b and a != "__init__"}


def draw_rooms() -> None:
    """Draw each room on its floor, with an arrow to each room that it imports."""
    floors = list_floors()
    # The spine of a fit stands on the left, zigzag, so that arrows pass beside the rooms.
    places = {room: (1.9 * i + 0.3 * (-1) ** k, -k) for k, floor in enumerate(floors) for i, room in enumerate(floor)}
    _, ax = plt.subplots(figsize=(8, 7), layout="constrained")
    for a, b in sorted(find_arrows()):
        (x, y), (to_x, to_y) = places[a], places[b]
        bend = 0.0 if y - to_y == 1 else 0.2 if x + to_x > 1.5 else -0.25
        style = {"arrowstyle": "-|>", "color": "0.55", "lw": 0.9, "connectionstyle": f"arc3,rad={bend}"}
        ax.annotate("", (to_x, to_y + 0.2), (x, y - 0.2), arrowprops=style)
    for room, (x, y) in places.items():
        box = {"boxstyle": "round,pad=0.45", "facecolor": "white", "edgecolor": "#1f5fa8"}
        ax.text(x, y, room, ha="center", va="center", bbox=box)
    ax.set(xlim=(-1.8, 4.8), ylim=(0.5 - len(floors), 0.5), title="The rooms of pm_psyphy")
    ax.axis("off")
