"""Write the generated parts of patches/ anew: `scripts/make-patches`.

Each module beside this one is one client and has `files()`, from a path below patches/ to its content.
"""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Write every file of every client, and say which."""
    for module in sorted(set(Path(__file__).parent.glob("*.py")) - {Path(__file__)}):
        for name, content in runpy.run_path(str(module))["files"]().items():
            path = ROOT / "patches" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
            print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
