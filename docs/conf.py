"""The documentation site: `make docs` builds it into docs/_build/html."""

from sphinx.application import Sphinx

from m3dt import __version__
from m3dt.config.keys import Key, all_keys, section_meanings

project, author, release = "m3dt", "The m3dt developers", __version__
copyright = "the m3dt developers, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "m3dt"
html_show_sphinx = False

myst_heading_anchors = 3
myst_enable_extensions = ["attrs_inline", "colon_fence"]
highlight_language = "text"

default_role = "code"  # docstrings mark code by single backticks, as Markdown does
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"


def write_keys(_: Sphinx, page: str, source: list[str]) -> None:
    """Put the tables of all keys into the page of the keys."""
    if page == "keys":
        source[0] = source[0].replace("<!-- keys -->", keys_as_markdown())


def keys_as_markdown() -> str:
    """Return a table of each section of the schema: name, default, allowed values, meaning."""
    sections = {"": "Settings above the sections.", **section_meanings()}
    keys = all_keys()
    parts = []
    for section, meaning in sections.items():
        rows = [_row(key) for key in keys if key.section == section]
        head = "| key | default | allowed | meaning |\n|---|---|---|---|"
        title = f"`{section}`" if section else "The experiment"
        parts.append("\n".join([f"## {title}\n", f"{meaning}\n", head, *rows]))
    return "\n\n".join(parts)


def _row(key: Key) -> str:
    meaning = "`".join(  # outside of code, Markdown reads <conf> as HTML
        part if i % 2 else part.replace("<", "&lt;")
        for i, part in enumerate(key.meaning.split("`"))
    )
    default = "empty" if key.default in ("", None) else f"`{key.default}`"
    address = key.dotted.replace(".", "-").replace("_", "-")  # keys.html#stage1-max-steps
    cells = (f"[`{key.name}`]{{#{address}}}", default, key.allowed or key.type, meaning)
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def setup(app: Sphinx) -> None:
    """Register what this file does while the site is built."""
    app.connect("source-read", write_keys)
