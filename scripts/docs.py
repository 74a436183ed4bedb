"""Builds the site into _docs: nbdev prepares the pages, and quarto, or smalldocs where quarto is missing, renders them.

    python scripts/docs.py

A page is its notebook, exported code included: in settings.ini, skip_procs keeps nbdev from taking that out.

Figures: a notebook stores a figure as `mpo_nb.drawing.Figure` gives it; the site carries one copy of plotly.js, and
each page that draws a figure loads that. Formulas become MathML, so no page asks another
host for anything. The pages show stored outputs: no notebook is run."""

import ast
import contextlib
import csv
import html
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the package of this clone
from reference import Entry, entries, inherit, markdown, record_call

ROOT = Path(__file__).resolve().parent.parent
MATHS = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.DOTALL)
EXPECTED = re.compile("output-file|html-math-method")  # options that quarto reads and smalldocs does not
DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)
# Links that nbdev makes and that are none: to what has no entry, and from a parameter that is named as a function is.
UNLINKED = re.compile(r"\[(`_\w*`)\]\([^)]*\)|(?<=^\| )\[(`[^`]*`)\]\([^)]*\)", re.MULTILINE)
IMPORTS = ("import ", "from ", "if TYPE_CHECKING")
LINK = re.compile(r"\[(.*?)\]\([^)]*\)")
FONTS = re.compile(r"""@import\s+(?:url\(\s*)?(["']?)(?:https?:)?//[^"')]*\1\s*\)?[^;]*;""")
# On the page for one's own text: no connection to any other host, whatever a script there might do.
NOTHING_LEAVES = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'self' 'unsafe-inline' data: blob:;"
    " form-action 'none'\">"
)
# What a cell of a table keeps on one line: an interval, a day.
NUMBER = r"[-\u2212+]?\d[\d.,]*%?"
TOGETHER = re.compile(rf"\[{NUMBER}, {NUMBER}\]|\({NUMBER} to {NUMBER}\)|\b\d{{4}}-\d\d-\d\d\b")
CELL = re.compile(r"(<td[^>]*>)(.*?)(?=</td>)", re.DOTALL)
TAG = re.compile(r"(<[^>]*>)")
KATEX = re.compile(r"<(?:link|script)[^>]*/katex@[^>]*>(?:</script>)?\n?")


def prepare() -> Path:
    """What `nbdev_proc_nbs` does, less its attempt to install quarto and its own documentation of symbols, for which
    it would run code: pages in _proc, documented from the source alone."""
    import plotly
    from nbdev.config import get_config
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs

    shared = ROOT / "nbs" / "js"
    shared.mkdir(exist_ok=True)
    shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", shared)
    with contextlib.redirect_stdout(io.StringIO()):
        refresh_quarto_yml()
        pages = proc_nbs(n_workers=0, force=True)
    if not (pages / "index.ipynb").exists():
        raise SystemExit(f"docs: nbdev wrote no index page from {get_config().nbs_path}")
    for page in pages.rglob("*.ipynb"):
        join_streams(page)
    document_sources(pages)
    write_reference(pages)
    return pages


def join_streams(page: Path):
    """What a cell printed in several pieces as one, as every notebook editor shows it: the renderer would set a box and
    a gap between the pieces."""
    import nbformat

    notebook = nbformat.read(page, as_version=4)
    changed = False
    for cell in notebook.cells:
        joined = []
        for output in cell.get("outputs", []):
            last = joined[-1] if joined else {}
            if output.output_type == "stream" and output.get("name") == last.get("name"):
                last.text += output.text
                changed = True
            else:
                joined.append(output)
        if cell.cell_type == "code":
            cell.outputs = joined
    if changed:
        nbformat.write(notebook, page)


def symbols(module: Path) -> dict[str, tuple[int, str]]:
    """What a module exports, in the order of its source: name -> (line, first line of its docstring; of a constant, its
    value)."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    found = {}
    public = next(
        (
            ast.literal_eval(node.value)
            for node in tree.body
            if isinstance(node, ast.Assign) and node.targets[0].id == "__all__"
        ),
        [],
    )
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in public:
            found[node.name] = node.lineno, (ast.get_docstring(node) or "").split("\n")[0]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            value = ast.unparse(node.value)
            if isinstance(target, ast.Name) and target.id in public:
                found[target.id] = node.lineno, f"`{value}`" if len(value) < 120 else ""
    return found


def exported_code(path: Path) -> set[str]:
    "What a notebook exports, cell by cell, without directives."
    import nbformat

    cells = nbformat.read(path, as_version=4).cells
    return {DIRECTIVE.sub("", c.source).strip() for c in cells if c.source.lstrip().startswith("#| export")}


def defined(source: str) -> list[str]:
    "The functions and classes that a cell defines."
    try:
        tree = ast.parse(source)
    except SyntaxError:  # a magic
        return []
    return [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]


def example_cells(cells: list, exported: set[str], names: set[str]) -> dict[int, list[str]]:
    "The cell that shows each symbol first, after its definition: place -> names."
    waiting: list[str] = []
    found: dict[int, list[str]] = {}
    for place, cell in enumerate(cells):
        if cell.cell_type != "code":
            continue
        source = DIRECTIVE.sub("", cell.source).strip()
        if source in exported:
            waiting += [name for name in defined(source) if name in names]
            continue
        shown = [name for name in waiting if re.search(rf"\b{name}\b", source) and not source.startswith(IMPORTS)]
        waiting = [name for name in waiting if name not in shown]
        if shown:
            found[place] = shown
    return found


def fill_options(entry: Entry):
    "Defaults and meanings of TrainConfig's fields, which stand in the table of options."
    from mpo_nb.config import TrainConfig

    made = {f.name: f for f in fields(TrainConfig)}
    for row in entry.rows:
        option = made[row.name]
        row.default = "[]" if option.default is MISSING else repr(option.default)
        row.note = option.metadata["help"].replace("%%", "%")
    entry.signature = record_call("TrainConfig", entry.rows)


def all_entries() -> dict[Path, dict[str, Entry]]:
    "The entries of every module, with what methods say by the methods of their bases."
    from nbdev.config import get_config

    package = ROOT / get_config().lib_name
    known = {module: entries(module) for module in sorted(package.rglob("*.py"))}
    inherit({name: entry for found in known.values() for name, entry in found.items()})
    fill_options(known[package / "config.py"]["TrainConfig"])
    return known


def document_sources(pages: Path):
    """Above each exported function and class what is to be known of it, with a link to its source and to the cell that
    shows it; below, the source itself, folded."""
    import nbformat
    from nbdev.config import get_config
    from nbdev.doclinks import NbdevLookup
    from nbformat.v4 import new_markdown_cell

    config = get_config()
    linked = NbdevLookup().linkify
    documented = all_entries()
    for original in (ROOT / "nbs" / "lib").rglob("*.ipynb"):
        page = pages / original.relative_to(ROOT / "nbs")
        if not page.exists():
            continue
        first = next(c.source for c in nbformat.read(original, 4).cells if c.source.startswith("#| default_exp"))
        module = ROOT / config.lib_name / f"{first.split()[-1].replace('.', '/')}.py"
        address = f"{config.git_url}/blob/{config.branch}/{module.relative_to(ROOT).as_posix()}"
        known = documented[module]
        exported = exported_code(original)
        notebook = nbformat.read(page, as_version=4)
        examples = example_cells(notebook.cells, exported, set(known))
        anchors = {name: f"example-{names[0].lower()}" for names in examples.values() for name in names}
        cells = []
        for place, cell in enumerate(notebook.cells):
            source = DIRECTIVE.sub("", cell.source).strip()
            if place in examples:
                names = ", ".join(f"`{name}`" for name in examples[place])
                cells.append(new_markdown_cell(f"[Example: {names}]{{#{anchors[examples[place][0]]} .example}}"))
            if cell.cell_type == "code" and source in exported:
                names = defined(source)
                for name in names:
                    if name in known:
                        text = markdown(known[name], f"{address}#L{known[name].line}", anchors.get(name, ""))
                        cells.append(new_markdown_cell(UNLINKED.sub(lambda m: m[1] or m[2], linked(text))))
                what = ", ".join(names) or ("imports" if source.startswith(IMPORTS) else "what is defined beside")
                cell.source = f'#| code-fold: true\n#| code-summary: "Source: {what}"\n{source}'
            cells.append(cell)
        notebook.cells = cells
        nbformat.write(notebook, page)


def write_reference(pages: Path):
    """One page that names every exported symbol, in the order of the sidebar: its summary, and links to its
    documentation and source."""
    import nbformat
    from nbdev.config import get_config

    config = get_config()
    lines = [
        "---",
        "title: Every symbol",
        "subtitle: What each module of the package exports, with a link to its page",
        "toc-depth: 2",
        "---",
        "",
    ]
    listed = dict.fromkeys(
        re.findall(r"\blib/[\w/]+(?=\.ipynb)", (ROOT / "_quarto.yml").read_text(encoding="utf-8"))
    )  # the navigation bar names some too
    for page in listed:
        title, subtitle = re.match(
            r"# (.*)\n> (.*)", nbformat.read(ROOT / "nbs" / f"{page}.ipynb", as_version=4).cells[0].source
        ).groups()
        subtitle = LINK.sub(r"\1", subtitle)  # which leads from where the notebook lies
        wing = page.removeprefix("lib/").removesuffix("/index")
        module = ROOT / config.lib_name / (wing + ".py" if page == f"lib/{wing}" else wing + "/__init__.py")
        text = (pages / f"{page}.ipynb").read_text(encoding="utf-8")
        found = symbols(module)
        if not found:
            continue
        lines += [
            f"## {config.lib_name}.{wing.replace('/', '.')}",
            "",
            f"[{title}]({page}.ipynb): {subtitle.rstrip('.')}.",
            "",
            "| symbol | what it is |",
            "|---|---|",
        ]
        for name, (line, summary) in sorted(found.items(), key=lambda item: item[0].lower()):
            anchor = f"#{name.lower()}" if f"### {name}" in text else ""
            lines.append(
                f"| [`{name}`]({page}.ipynb{anchor}) | {summary.replace('|', chr(92) + '|')}"
                f" [source]({config.git_url}/blob/{config.branch}/{module.relative_to(ROOT).as_posix()}#L{line}) |"
            )
        lines.append("")
    (pages / "reference.qmd").write_text("\n".join(lines) + "\n", encoding="utf-8")


def renderer() -> list[str]:
    "The command that renders the pages, with what is installed here."
    if shutil.which("quarto"):
        return ["quarto", "render", "--no-execute"]
    try:
        import smalldocs  # noqa: F401
    except ImportError:
        raise SystemExit(
            "docs: neither quarto nor smalldocs is here: install quarto, or use Python 3.11 or newer, for which `make`"
            " installs smalldocs"
        )
    return [sys.executable, "-m", "smalldocs.cli", "render", "--quiet"]


def render(pages: Path) -> Path:
    "Renders the pages and moves the site to _docs. Stops with the renderer's own words when it fails."
    done = subprocess.run(renderer(), cwd=pages, capture_output=True, text=True)
    for line in (done.stdout + done.stderr).splitlines():
        if done.returncode or ("warning" in line.lower() and not EXPECTED.search(line)):
            print(line)
    if done.returncode:
        raise SystemExit(f"docs: {' '.join(renderer()[:4])} failed with exit code {done.returncode}")
    site = ROOT / "_docs"
    shutil.rmtree(site, ignore_errors=True)
    shutil.move(str(pages / "_docs"), site)
    return site


def mathml(match: re.Match) -> str:
    "One formula, from TeX to MathML."
    from latex2mathml.converter import convert

    kind = match[1]
    formula = html.unescape(match[2])
    try:
        return (
            f'<span class="math {kind}">{convert(formula, display="block" if kind == "display" else "inline")}</span>'
        )
    except Exception as error:
        raise SystemExit(f"docs: no MathML for the formula {formula!r}: {type(error).__name__}: {error}")


def kept_together(cell: re.Match) -> str:
    "A cell of a table whose intervals and days are not broken over two lines."
    parts = TAG.split(cell[2])  # text, tag, text, ...
    parts[::2] = [TOGETHER.sub(r'<span class="together">\g<0></span>', text) for text in parts[::2]]
    return cell[1] + "".join(parts)


def finish(site: Path) -> int:
    """Formulas, links and plotly.js, page by page; no theme asks another host for its fonts. Returns the number of
    pages."""
    from nbdev.config import get_config

    config = get_config()
    # nbdev links a symbol to the published site; within the site, such a link is relative. A method is documented with
    # its class.
    published = re.compile(
        f'(<a [^>]*href="){re.escape(config.doc_host + config.doc_baseurl)}/([^"#]*)(?:(#[^".]+)(?:\\.[^"]*)?)?'
    )
    pages = sorted(site.rglob("*.html"))
    for page in pages:
        text = KATEX.sub("", MATHS.sub(mathml, page.read_text(encoding="utf-8")))
        text = published.sub(lambda m: m[1] + os.path.relpath(site / m[2], page.parent) + (m[3] or ""), text)
        text = CELL.sub(kept_together, text)
        if "Plotly." in text:
            source = os.path.relpath(site / "js" / "plotly.min.js", page.parent)
            # First in the head: quarto may load require.js, and plotly.js after that would hide from the page.
            text = text.replace("<head>", f'<head>\n<script src="{source}"></script>', 1)
        if page.name == "404.html":  # shown in place of any page, at any depth: its links begin at the site's root
            text = text.replace("<head>", f'<head>\n<base href="{config.doc_baseurl}/">', 1)
        page.write_text(text, encoding="utf-8")
    own = site / "learn" / "your_own_text.html"
    own.write_text(own.read_text(encoding="utf-8").replace("<head>", f"<head>\n{NOTHING_LEAVES}", 1), encoding="utf-8")
    write_index(site)
    for sheet in site.rglob("*.css"):
        sheet.write_text(FONTS.sub("", sheet.read_text(encoding="utf-8")), encoding="utf-8")
    return len(pages)


def without_sources(known: list[dict[str, str]]) -> list[dict[str, str]]:
    "The index without folded sources, so that a search is quick and finds words that are read."
    for notebook in (ROOT / "nbs" / "lib").rglob("*.ipynb"):
        page = notebook.relative_to(ROOT / "nbs").with_suffix(".html").as_posix()
        codes = [" ".join(code.split()) for code in exported_code(notebook)]
        for entry in known:
            if entry["href"].partition("#")[0] == page:
                for code in codes:
                    entry["text"] = entry["text"].removeprefix("source ").replace(code, "")
    return known


def words_entries(known: list[dict[str, str]]) -> list[dict[str, str]]:
    "What people call things, from nbs/search_words.csv, as entries of the search index."
    titles = {entry["href"].partition("#")[0]: entry["title"] for entry in reversed(known)}
    added = []
    with open(ROOT / "nbs" / "search_words.csv", encoding="utf-8", newline="") as f:
        for row in csv.DictReader(f):
            title = titles.get(row["page"].partition("#")[0])
            if title is None:
                raise SystemExit(f"docs: nbs/search_words.csv names {row['page']}, which is no page of the site")
            words = " \u00b7 ".join(word.strip() for word in row["words"].split(";"))
            entry = dict(title=title, section=words, text=row["answer"])
            added.append(dict(objectID=f"{row['page']}?{words}", href=row["page"]) | entry)
    return added


def write_index(site: Path):
    "The search index: people's words first, then the pages, without sources."
    index = site / "search.json"
    known = without_sources(json.loads(index.read_text(encoding="utf-8")))
    index.write_text(json.dumps(words_entries(known) + known, ensure_ascii=False), encoding="utf-8")


def main():
    os.chdir(ROOT)
    pages = prepare()
    count = finish(render(pages))
    print(
        f"{count} pages in _docs, rendered by {'quarto' if shutil.which('quarto') else 'smalldocs'}; open"
        " _docs/index.html"
    )


if __name__ == "__main__":
    main()
