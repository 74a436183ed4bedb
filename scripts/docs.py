"""Builds the site into _docs: nbdev prepares the pages, and quarto, or smalldocs where quarto is missing, renders them.

    python scripts/docs.py

A page is its notebook, exported code included: in settings.ini, skip_procs keeps nbdev from taking that out.

Figures: a notebook stores a figure as `mpo_nb.drawing.Figure` gives it; the site carries one copy of plotly.js, and
each page that draws a figure loads that. Formulas become MathML, so no page asks another
host for anything. The pages show stored outputs: no notebook is run."""

import ast
import contextlib
import html
import io
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MATHS = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.DOTALL)
EXPECTED = re.compile("output-file|html-math-method")  # options that quarto reads and smalldocs does not
SHOW_DOC = re.compile(r"^show_doc\(", re.MULTILINE)
LINK = re.compile(r"\[(.*?)\]\([^)]*\)")
HEADING = re.compile(r"^#+ .*$", re.MULTILINE)
FONTS = re.compile(r"""@import\s+(?:url\(\s*)?(["']?)(?:https?:)?//[^"')]*\1\s*\)?[^;]*;""")
KATEX = re.compile(r"<(?:link|script)[^>]*/katex@[^>]*>(?:</script>)?\n?")


def prepare() -> Path:
    "What `nbdev_proc_nbs` does, less its attempt to install quarto: pages in _proc, with API documentation."
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
    title_sources(pages)
    write_reference(pages)
    return pages


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


def title_sources(pages: Path):
    """Puts nbdev's headings for symbols above their source, each with a link to it; the signature that nbdev adds would
    say the same again."""
    import nbformat
    from nbdev.config import get_config

    config = get_config()
    for path in pages.rglob("*.ipynb"):
        notebook = nbformat.read(path, as_version=4)
        cells = []
        lines = {}
        for cell in notebook.cells:
            if cell.source.startswith("#| default_exp"):
                module = ROOT / config.lib_name / f"{cell.source.split()[-1].replace('.', '/')}.py"
                lines = {name: line for name, (line, _) in symbols(module).items()}
            elif cell.cell_type == "code" and SHOW_DOC.search(cell.source):
                heading = HEADING.search("".join(cell.outputs[0].data["text/markdown"]))[0]
                name = heading.split()[-1]
                source = (
                    f"{config.git_url}/blob/{config.branch}/{module.relative_to(ROOT).as_posix()}#L{lines[name]}"
                    if name in lines
                    else ""
                )
                titled = nbformat.v4.new_markdown_cell(
                    heading + (f"\n\n[source]({source}){{.source}}" if source else ""),
                    metadata=dict(line=lines.get(name, 0)),
                )
                above = next(i for i in reversed(range(len(cells))) if cells[i].cell_type == "code")
                while above and cells[above - 1].metadata.get("line", 0) > titled.metadata.line > 0:
                    above -= 1  # several from one cell: in the order of the source
                cells.insert(above, titled)
            else:
                cells.append(cell)
        notebook.cells = cells
        nbformat.write(notebook, path)


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
        if "Plotly." in text:
            source = os.path.relpath(site / "js" / "plotly.min.js", page.parent)
            # First in the head: quarto may load require.js, and plotly.js after that would hide from the page.
            text = text.replace("<head>", f'<head>\n<script src="{source}"></script>', 1)
        if page.name == "404.html":  # shown in place of any page, at any depth: its links begin at the site's root
            text = text.replace("<head>", f'<head>\n<base href="{config.doc_baseurl}/">', 1)
        page.write_text(text, encoding="utf-8")
    for sheet in site.rglob("*.css"):
        sheet.write_text(FONTS.sub("", sheet.read_text(encoding="utf-8")), encoding="utf-8")
    return len(pages)


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
