"""The book's public address: kept in pyproject.toml ([project.urls] Repository), written from there into every copy.

    python tools/repository.py https://github.com/OWNER/NAME      decide it
    python tools/repository.py ""                                 take it back

Copies: _config.yml (repository and launch buttons), CITATION.cff, README.md, the set-up cell here and in every notebook.
While it is empty, the site has no launch buttons and the set-up cell installs nothing.
"""

import json
import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
COLAB = "https://colab.research.google.com"
ADDRESS = re.compile(r"https://[A-Za-z0-9.-]+(/[A-Za-z0-9_.-]+){2,}")
SETUP_LINE = re.compile(r'^REPOSITORY = ".*?"', re.M)
README_REGION = re.compile(r"(<!-- repository -->\n).*?(<!-- /repository -->)", re.S)


def address(root=ROOT):
    """The address in pyproject.toml, or ""."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project.get("urls", {}).get("Repository", "")


def copies(url, root=ROOT):
    """{path: what it must hold} for each file that carries the address, given that the address is `url`."""
    out = {}

    def edit(name, *changes):
        text = (root / name).read_text(encoding="utf-8")
        for pattern, replacement in changes:
            text, found = re.subn(pattern, lambda m: replacement, text, count=1, flags=re.M)
            if not found:
                raise ValueError(f"{name}: the place for the address ({pattern}) is gone")
        out[root / name] = text

    edit("pyproject.toml", (r"^\[project\.urls\]\n(Repository = .*\n)?", "[project.urls]\n" + (f'Repository = "{url}"\n' if url else "")))
    shown = "true" if url else "false"
    edit(
        "_config.yml",
        (r"^  url: .*$", f'  url: "{url}"'),
        (r"^  colab_url: .*$", f'  colab_url: "{COLAB if "github.com" in url else ""}"'),
        *((rf"^  use_{button}_button: .*$", f"  use_{button}_button: {shown}") for button in ("repository", "issues", "edit_page")),
    )
    edit("CITATION.cff", (r"^(# )?repository-code: .*$", f'repository-code: "{url}"' if url else "# repository-code: not decided"))
    edit("tools/setup_cell.py", (SETUP_LINE.pattern, f'REPOSITORY = "{url}"'))
    readme = (root / "README.md").read_text(encoding="utf-8")
    out[root / "README.md"] = README_REGION.sub(lambda m: m[1] + _readme_region(url, root) + m[2], readme)
    for path in sorted((root / "book").glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        for cell in notebook["cells"]:
            source = "".join(cell["source"])
            if cell["cell_type"] == "code" and SETUP_LINE.search(source):
                cell["source"] = SETUP_LINE.sub(lambda m: f'REPOSITORY = "{url}"', source).splitlines(keepends=True)
        out[path] = json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    return out


def _readme_region(url, root):
    if "github.com" not in url:
        return "The links to Colab appear here when `make repo URL=...` has written the book's public address.\n"
    place = url.replace("https://github.com", f"{COLAB}/github") + "/blob/main/book/"
    lines = []
    for path in sorted((root / "book").glob("*.ipynb")):
        title = "".join(json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]).split("\n")[0].lstrip("# ")
        lines.append(f"- [{title}]({place}{path.name})\n")
    return "".join(lines)


def write(url, root=ROOT):
    """Write `url` everywhere; every file is prepared before the first one is replaced."""
    url = url.strip().removesuffix("/").removesuffix(".git")
    if url and not ADDRESS.fullmatch(url):
        raise ValueError(f"URL: expected https://HOST/OWNER/NAME, got {url!r}")
    texts = copies(url, root)
    for path, text in texts.items():
        part = path.with_name(path.name + ".part")
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        write(sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
