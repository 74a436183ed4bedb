"""The site: every notebook has a page, every link within the site leads somewhere, and no page asks another host for
anything."""

import ast
import csv
import html
import inspect
import json
import os
import re
import shutil
import struct
from configparser import ConfigParser
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from mpo_nb import actions, losses
from mpo_nb.runs import trace_files

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("quarto") or find_spec("smalldocs")),
        reason="neither quarto nor smalldocs (Python 3.11 and newer) is here",
    ),
]
BASE = "/mpo_nb/"
REQUESTS = {("script", "src"), ("link", "href"), ("img", "src"), ("iframe", "src"), ("source", "src"), ("video", "src")}


class Page(HTMLParser):
    "The ids and links of one page."

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.text = set(), [], path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name == "id" or (tag == "a" and name == "name"):
                self.ids.add(value)
            if name in ("href", "src") and value:
                rel = dict(attrs).get("rel") or ""
                self.links.append((tag, name, value, rel))

    def targets(self) -> set[str]:
        "Where its links lead."
        return {link for _, _, link, _ in self.links}


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    "Each page of the site, by its path."
    return {path: Page(path) for path in sorted(site.rglob("*.html"))}


def test_every_notebook_has_a_page(root, site):
    notebooks = [
        p.relative_to(root / "nbs") for p in (root / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts
    ]
    missing = [str(n) for n in notebooks if not (site / n.with_suffix(".html")).is_file()]
    assert not missing, f"no page for {missing}"
    assert all((site / name).exists() for name in ("404.html", "reference.html", "search.json"))


def test_links_within_the_site_lead_somewhere(site, pages):
    broken = {}
    for path, page in pages.items():
        for _, _, link, _ in page.links:
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            base = site if path.name == "404.html" else path.parent  # by its <base>
            target = path if not url.path else (base / unquote(url.path.removeprefix(BASE))).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file():
                broken.setdefault(f"no file {os.path.relpath(target, site)}", []).append(path)
            elif url.fragment and target in pages and unquote(url.fragment) not in pages[target].ids:
                broken.setdefault(f"no anchor #{url.fragment} in {target.relative_to(site)}", []).append(path)
    assert not broken, "\n".join(
        f"{what}: linked from {len(where)} pages, {where[0].relative_to(site)} first" for what, where in broken.items()
    )


def test_no_page_asks_another_host(site, pages):
    asked = [
        f"{path.relative_to(site)}: {link}"
        for path, page in pages.items()
        for tag, name, link, rel in page.links
        if (tag, name) in REQUESTS and urlsplit(link).netloc and rel != "canonical"
    ]
    asked += [
        f"{path.relative_to(site)}: {found}"
        for path in sorted(site.rglob("*.css"))
        for found in re.findall(r"(?:@import\s+|url\()[\"']?(?:https?:)?//[^\"')\s]+", path.read_text(encoding="utf-8"))
    ]
    assert not asked, "\n".join(asked)


def test_pages_draw_the_stored_figures(site, pages):
    "A page with a plotly figure loads the site's own plotly.js before the figure is drawn."
    for path, page in pages.items():
        if "Plotly." in page.text:
            script = re.search(r'<script src="([^"]*plotly\.min\.js)"></script>', page.text)
            assert script and page.text.index(script[0]) < page.text.index("Plotly."), (
                f"{path.relative_to(site)} loads no plotly.js"
            )
            assert (path.parent / script[1]).is_file()
    raw = [
        str(path.relative_to(site))
        for path, page in pages.items()
        if re.search(r"\\\(|\\\[", re.sub(r"<(script|pre|code)\b.*?</\1>", "", page.text, flags=re.DOTALL))
    ]
    assert not raw, f"formulas left as TeX on {raw}"
    links = [
        str(path.relative_to(site))
        for path, page in pages.items()
        if re.search(
            r"\]\s*\((?:\.\./)*(?:\w+/)*\w+\.ipynb\)",
            re.sub(
                r"<(?!/?(?:pre|script)\b)[^>]*>", "", re.sub(r"<(script|pre)\b.*?</\1>", "", page.text, flags=re.DOTALL)
            ),
        )
    ]
    assert not links, f"links left as Markdown on {links}"


def test_pages_are_light_and_share_one_plotly(site, pages):
    heavy = {str(path.relative_to(site)): path.stat().st_size for path in pages if path.stat().st_size > 2_000_000}
    assert not heavy, f"bytes of pages over 2 MB: {heavy}"
    copies = [
        path
        for path in site.rglob("*")
        if path.suffix in (".js", ".html") and b"plotly.js v" in path.read_bytes()[:2000]
    ]
    assert copies == [site / "js" / "plotly.min.js"]


def test_images_have_a_text(site, pages):
    for path, page in pages.items():
        bare = [image for image in re.findall(r"<img\b[^>]*>", page.text) if not re.search(r'\balt="[^"]{3,}"', image)]
        assert not bare, f"{path.relative_to(site)}: {bare}"


def test_people_s_words_lead_somewhere(root, site, pages):
    "Each row of nbs/search_words.csv names a page and an anchor that exist, and stands in the index of the search."
    index = json.loads((site / "search.json").read_text(encoding="utf-8"))
    with open(root / "nbs" / "search_words.csv", encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) > 30 and len(index) > 1000
    for row in rows:
        name, _, anchor = row["page"].partition("#")
        assert not anchor or anchor in pages[site / name].ids, row["page"]
        assert any(row["words"].split(";")[0] in entry["section"] for entry in index if entry["href"] == row["page"])
    sources = [entry["objectID"] for entry in index if "def policy_loss(" in entry["text"]]
    assert not sources, f"sources in the index: {sources}"


def test_a_link_to_the_site_has_a_picture(site, pages):
    text = pages[site / "index.html"].text
    assert re.search(r'<meta property="og:image" content="https://[^"]+/images/card.png">', text)
    assert '<meta name="twitter:card" content="summary_large_image">' in text
    header = (site / "images" / "card.png").read_bytes()[:24]
    assert struct.unpack(">II", header[16:24]) == (1200, 630)


def test_pages_have_titles_of_their_own(root):
    titles = {}
    for path in (root / "nbs").rglob("*.ipynb"):
        if ".ipynb_checkpoints" not in path.parts:
            first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
            titles.setdefault("".join(first).splitlines()[0], []).append(path.name)
    assert {title: names for title, names in titles.items() if len(names) > 1} == {}


def plain(text: str) -> str:
    "A page's piece without its markup."
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def test_an_entry_says_what_the_source_says(root, site):
    "Signature, each parameter with its comment, what is returned and raised; the source is folded below."
    checked = 0
    for page, module in (("losses", losses), ("actions", actions), ("runs/trace_files", trace_files)):
        text = (site / "lib" / f"{page}.html").read_text(encoding="utf-8")
        for name in module.__all__:
            function = getattr(module, name)
            if not inspect.isfunction(function):
                continue
            start = text.index(f'id="{name.lower()}"')
            entry = re.split(r'<section |<details class="code-fold">', text[start:])[0]
            said = plain(entry)
            assert f"{name}(" in said.replace(" ", ""), name
            source = inspect.getsource(function)
            for parameter in inspect.signature(function).parameters:
                assert f">{parameter}</code>" in re.sub(r"<a [^>]*>|</a>", "", entry), (name, parameter)
            comment = re.search(r"^    \w+: .*?,  # ([\w ]+)", source, re.MULTILINE)
            assert not comment or comment[1].strip() in said, (name, comment[1])
            assert ("Raises" in said) == ("Raise" in (function.__doc__ or "")), name
            returned = inspect.signature(function).return_annotation
            assert ("Returns" in said) == (returned not in (None, "None")), name
            folded = text[text.index('<details class="code-fold">', start) :]
            assert name in plain(folded[: folded.index("</summary>")]), name
            checked += 1
    assert checked > 15
    losses_page = (site / "lib" / "losses.html").read_text(encoding="utf-8")
    assert 'href="#example-policy_loss"' in losses_page and 'id="example-policy_loss"' in losses_page
    shown = re.sub(r'<details class="code-fold">.*?</details>', "", losses_page, flags=re.DOTALL)
    assert "def policy_loss" not in plain(shown)


def test_every_symbol_has_its_documentation_and_source(root, site, pages):
    "On the reference page and on its module's own."
    headings = re.findall(r"<h2[^>]*>(mpo_nb\.[\w.]+)", pages[site / "reference.html"].text)
    assert len(headings) == len(set(headings)) > 50, "a module stands on the reference page twice, or is missing"
    targets = pages[site / "reference.html"].targets()
    settings = ConfigParser()
    settings.read(root / "settings.ini")
    for module in sorted((root / "mpo_nb").rglob("*.py")):
        place = module.relative_to(root / "mpo_nb").with_suffix("").as_posix()
        tree = ast.parse(module.read_text(encoding="utf-8"))
        public = next(
            (
                ast.literal_eval(node.value)
                for node in tree.body
                if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__"
            ),
            [],
        )
        documented = {node.name: node.lineno for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        for name in public:
            if name not in documented:
                continue
            page = site / "lib" / f"{place}.html"
            anchor = name.lower()
            assert anchor in pages[page].ids, f"{name} has no heading on {place}.html"
            source = f"{settings['DEFAULT']['git_url']}/blob/main/mpo_nb/{place}.py#L{documented[name]}"
            assert source in targets & pages[page].targets(), f"no link to the source of {place}.{name}"
            assert f"lib/{place}.html#{anchor}" in targets, f"{name} is not on the reference page"


def test_what_was_printed_in_pieces_is_shown_as_one(site):
    "A table that a cell prints line by line has no gaps between its lines."
    page = (site / "learn" / "exact.html").read_text(encoding="utf-8")
    table = re.search(r"bias at .*?sequence joint[^<]*", page, re.DOTALL)
    assert table and "<" not in table[0] and table[0].count("\n") >= 8 and "\n\n" not in table[0]


def test_tables_keep_intervals_and_days_together(site):
    "An interval or a day is not broken where its column is narrow."
    page = (site / "learn" / "benchmarks.html").read_text(encoding="utf-8")
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page, re.DOTALL)
    for pattern in (r"\d{4}-\d\d-\d\d", r"\[[\d.]+, [\d.]+\]"):
        found = [cell for cell in cells if re.search(pattern, cell)]
        assert len(found) > 10 and all(re.search(f'<span class="together">{pattern}</span>', cell) for cell in found)
