"""The entry of a function or class on its page: signature, parameters, returns, raises, methods, example. All of it is
read from the source: the comments beside the parameters, the annotations, the docstring."""

import ast
import io
import re
import tokenize
from dataclasses import dataclass, field
from pathlib import Path

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"'`(])")
RAISES = re.compile(r"^Raises?\b\s*")
ERROR = re.compile(r"\b(?:[A-Z]\w*(?:Error|Warning|Exit|Interrupt)|NotFinite)\b(?!`)")
Definition = ast.FunctionDef | ast.ClassDef


@dataclass
class Row:
    "One parameter, or one field of a record."

    name: str
    type: str
    default: str
    note: str


@dataclass
class Entry:
    "What a reader is told of one function, class or method."

    name: str
    line: int  # where it is defined, from 1
    signature: str
    about: str
    raises: list[str]
    rows: list[Row]
    returns: str = ""
    returns_note: str = ""
    methods: list["Entry"] = field(default_factory=list)
    kind: str = "function"
    bases: list[str] = field(default_factory=list)


class Comments:
    "The comments of a module: after code, and on lines of their own."

    def __init__(self, text: str):
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        found = [token for token in tokens if token.type == tokenize.COMMENT]
        self.texts = {token.start[0]: token.string.lstrip("# ") for token in found}
        self.alone = {token.start[0] for token in found if token.line.lstrip().startswith("#")}

    def after(self, line: int) -> str:
        "The comment at the end of a line."
        return "" if line in self.alone else self.texts.get(line, "")

    def of(self, first: int, last: int) -> str:
        "What is said of the lines from `first` to `last`: directly above, between and after them."
        while first - 1 in self.alone:
            first -= 1
        return " ".join(self.texts[line] for line in range(first, last + 1) if line in self.texts)


def written(node: ast.AST | None) -> str:
    "An annotation as text; nothing for none."
    return "" if node is None else ast.unparse(node).strip("'")


def default_text(node: ast.AST | None) -> str:
    "A default as text: of a field that is made anew each time, what it is made by."
    if isinstance(node, ast.Call) and written(node.func) == "field":
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        if "default_factory" in given:
            maker = written(given["default_factory"])
            return {"list": "[]", "dict": "{}"}.get(maker, f"{maker}()" if maker.isidentifier() else "...")
        node = given.get("default")
    return "" if node is None else ast.unparse(node)


def docstring_parts(node: Definition) -> tuple[str, list[str]]:
    "What a docstring says, and what it says is raised."
    text = " ".join((ast.get_docstring(node) or "").split())
    sentences = SENTENCE.split(text)
    raised = [RAISES.sub("", s) for s in sentences if RAISES.match(s)]
    return " ".join(s for s in sentences if not RAISES.match(s)), raised


def parameters(node: ast.FunctionDef, comments: Comments) -> list[Row]:
    "The parameters of a function, each with the comment of its line; `self` and `cls` are not among them."
    a = node.args
    plain = a.posonlyargs + a.args
    defaults = [None] * (len(plain) - len(a.defaults)) + a.defaults
    given = [("", arg, default) for arg, default in zip(plain, defaults)]
    given += [("*", a.vararg, None)] if a.vararg else []
    given += [("", arg, default) for arg, default in zip(a.kwonlyargs, a.kw_defaults)]
    given += [("**", a.kwarg, None)] if a.kwarg else []
    rows = []
    for stars, arg, default in given:
        if arg.arg in ("self", "cls") and not rows:
            continue
        last = default or arg.annotation or arg
        alone = arg.lineno != node.lineno  # a comment of the first line is about what is returned
        note = comments.of(arg.lineno, last.end_lineno) if alone else ""
        rows.append(Row(stars + arg.arg, written(arg.annotation), default_text(default), note))
    return rows


def signature(name: str, node: ast.FunctionDef) -> str:
    "A call with its defaults; the types stand in the table."
    shown = ast.parse(ast.unparse(node)).body[0].args
    for arg in [*shown.posonlyargs, *shown.args, *shown.kwonlyargs, shown.vararg, shown.kwarg]:
        if arg is not None:
            arg.annotation = None
    if shown.args and shown.args[0].arg in ("self", "cls"):
        shown.args = shown.args[1:]
    returned = f" -> {written(node.returns)}" if node.returns is not None else ""
    return f"{name}({ast.unparse(shown)}){returned}"


def function_entry(node: ast.FunctionDef, comments: Comments, owner: str = "") -> Entry:
    "The entry of a function or method."
    about, raised = docstring_parts(node)
    decorators = {written(d).split(".")[-1] for d in node.decorator_list}
    is_property = bool(decorators & {"property", "cached_property"})
    name = f"{owner}.{node.name}" if owner else node.name
    returns = written(node.returns)
    note = comments.after(node.returns.end_lineno) if node.returns is not None else ""
    return Entry(
        name,
        node.lineno,
        f"{name}: {returns}" if is_property else signature(name, node),
        about,
        raised,
        parameters(node, comments),
        "" if returns == "None" else returns,
        note,
        kind="property" if is_property else "method" if owner else "function",
    )


def fields_of(node: ast.ClassDef, comments: Comments) -> list[Row]:
    "The fields of a record."
    found = []
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and item.target.id[0] != "_":
            note = comments.of(item.lineno, item.end_lineno)
            found.append(Row(item.target.id, written(item.annotation), default_text(item.value), note))
    return found


def record_call(name: str, rows: list[Row], most: int = 16) -> str:
    "How a record is made; of one with very many fields, the first."
    shown = [f"{row.name}={row.default}" if row.default else row.name for row in rows]
    return f"{name}({', '.join(shown if len(rows) <= most else [*shown[:4], '...'])})"


def class_entry(node: ast.ClassDef, comments: Comments) -> Entry:
    "The entry of a class: how it is made, its fields, and its public methods."
    about, raised = docstring_parts(node)
    functions = [item for item in node.body if isinstance(item, ast.FunctionDef)]
    made = next((f for f in functions if f.name == "__init__"), None)
    kind = "class" if made else "record"
    rows = parameters(made, comments) if made else fields_of(node, comments)
    call = signature(node.name, made).removesuffix(" -> None") if made else node.name
    if not made and rows:
        call = record_call(node.name, rows)
    if made and made.body:
        raised += docstring_parts(made)[1]
    public = [f for f in functions if f.name[0] != "_" or f.name == "__call__"]
    methods = [function_entry(f, comments, node.name) for f in public]
    return Entry(
        node.name,
        node.lineno,
        call,
        about,
        raised,
        rows,
        methods=methods,
        kind=kind,
        bases=list(map(written, node.bases)),
    )


def public_names(tree: ast.Module) -> list[str]:
    "What `__all__` names."
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            return ast.literal_eval(node.value)
    return []


def entries(module: Path) -> dict[str, Entry]:
    "The entries of what a module exports, in the order of its source."
    text = module.read_text(encoding="utf-8")
    tree = ast.parse(text)
    comments = Comments(text)
    public = set(public_names(tree))
    found = {}
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in public:
            make = class_entry if isinstance(node, ast.ClassDef) else function_entry
            found[node.name] = make(node, comments)
    return found


def inherit(classes: dict[str, Entry]):
    "A method that says nothing of itself is told by the method of a base class that it stands for."

    def told(entry: Entry, name: str) -> Entry | None:
        for base in (classes.get(b.split(".")[-1]) for b in entry.bases):
            if base is not None:
                own = next((m for m in base.methods if m.name.split(".")[-1] == name), None)
                return own or told(base, name)
        return None

    for entry in classes.values():
        for method in entry.methods:
            above = told(entry, method.name.split(".")[-1])
            if above is None:
                continue
            method.about = method.about or above.about
            method.returns_note = method.returns_note or above.returns_note
            method.raises = method.raises or ([] if method.about != above.about else above.raises)
            notes = {row.name: row.note for row in above.rows}
            for row in method.rows:
                row.note = row.note or notes.get(row.name, "")


# As Markdown

LITERAL = re.compile(r"""(?<![\w`])(?:'\{[^'`]*\}'|r?"[^"`]*")(?![\w`])""")


def said(note: str) -> str:
    "A comment, with the strings in it as code."
    return LITERAL.sub(lambda match: f"`{match[0]}`", note)


def cell(text: str) -> str:
    "A text that may stand in a table."
    return " ".join(text.split()).replace("|", "\\|")


def code(text: str) -> str:
    "A piece of code in a line."
    return f"`{cell(text)}`" if text else ""


def type_code(text: str) -> str:
    "A type; the members of a union apart, so that each can be a link."
    parts = [""]
    for piece in re.split(r"( \| )", text):
        nested = parts[-1].count("[") > parts[-1].count("]")
        if piece == " | " and not nested:
            parts.append("")
        else:
            parts[-1] += piece
    return " \\| ".join(map(code, parts)) if text else ""


def table(rows: list[Row], first: str) -> list[str]:
    "Parameters or fields as a table, with the columns that say something."
    if not any(row.type or row.note for row in rows):
        return []
    columns = [(first, [f"`{row.name}`" for row in rows])]
    columns += [("type", [type_code(row.type) for row in rows])]
    columns += [("default", [code(row.default) for row in rows])]
    columns += [("meaning", [cell(said(row.note)) for row in rows])]
    columns = [(title, values) for title, values in columns if any(values)]
    lines = ["| " + " | ".join(title for title, _ in columns) + " |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(values) + " |" for values in zip(*(values for _, values in columns))]
    return ["::: {.parameters}", *lines, ":::", ""]


def returns_line(entry: Entry) -> list[str]:
    "What is returned."
    note = said(entry.returns_note)
    if not entry.returns or entry.kind == "property":
        return [f"{note[:1].upper()}{note[1:]}.", ""] if note else []
    return [f"**Returns** {type_code(entry.returns)}" + (f": {note}" if note else ""), ""]


def raises_lines(entry: Entry) -> list[str]:
    "What is raised, and when."
    return [f"**Raises** {ERROR.sub(lambda m: f'`{m[0]}`', sentence)}\n" for sentence in entry.raises]


def facts(entry: Entry) -> list[str]:
    "All but the heading."
    lines = ["```python", entry.signature, "```", ""]
    if entry.about:
        lines += [entry.about, ""]
    lines += table(entry.rows, "field" if entry.kind == "record" else "parameter")
    return lines + returns_line(entry) + raises_lines(entry)


def markdown(entry: Entry, source: str, example: str = "") -> str:
    "An entry as a piece of a page. `source` is an address, `example` an anchor of the page."
    links = f"[source]({source}){{.source}}" if source else ""
    lines = [f"### {entry.name} {{#{entry.name.lower()} .symbol}}", "", links, "", *facts(entry)]
    for method in entry.methods:
        lines += [f"#### {method.name} {{#{method.name.lower()} .symbol}}", "", *facts(method)]
    if example:
        lines += [f"[Example](#{example}){{.to-example}}", ""]
    return "\n".join(lines)
