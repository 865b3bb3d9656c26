"""A function is derived once, in the chapter that teaches it, and is the library's function: the syntax trees are equal."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


class Bare(ast.NodeTransformer):
    """What is compared: no docstrings, decorators, annotations, imports or calls of the checks at the front door."""

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        node.decorator_list, node.returns = [], None
        for argument in [*node.args.args, *node.args.kwonlyargs]:
            argument.annotation = None
        node.body = [s for s in node.body if not (_is_docstring(s) or _is_check(s))]
        return node


def _is_docstring(statement):
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _is_check(statement):
    call = getattr(statement, "value", None)
    return (
        isinstance(statement, (ast.Expr, ast.Assign)) and isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) and call.func.value.id == "_check"
    )


def functions(text):
    return {node.name: ast.dump(Bare().visit(node)) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}


TAUGHT = ("discretize", "lti", "hippo", "scan/reference", "scan/cuda_steps", "selective/reference", "selective/cuda_steps")


def library():
    """{name: (module, tree)} of the modules that the book derives; those of the engines it explains."""
    found = {}
    for module in TAUGHT:
        path = ROOT / "mambalib" / f"{module}.py"
        if path.exists():
            found |= {name: (module, tree) for name, tree in functions(path.read_text(encoding="utf-8")).items()}
    return found


def derived():
    """[(chapter, name, tree)] of each function in the book that has the name of a function of the library."""
    names = library()
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                for name, tree in functions("".join(cell["source"])).items():
                    if name in names:
                        yield path.name, name, tree


@pytest.mark.parametrize("chapter, name, tree", [pytest.param(*d, id=f"{d[0]}:{d[1]}") for d in derived()])
def test_the_chapters_function_is_the_librarys(chapter, name, tree):
    assert tree == library()[name][1]


def test_no_function_is_derived_twice():
    names = [name for _, name, _ in derived()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module, chapters, doors", [
    ("discretize", {"03_discretization.ipynb"}, {"discretize", "first_order_hold"}),
    ("lti", {"02_continuous.ipynb", "04_three_views.ipynb"}, {"kernel", "causal_conv"}),
    ("hippo", {"05_memory.ipynb"}, set()),
    ("scan/reference", {"09_recurrence.ipynb", "10_gradient.ipynb"}, {"linear_scan", "linear_scan_backward"}),
    ("scan/cuda_steps", {"12_blelloch_gpu.ipynb"}, set()),
    ("selective/reference", {"06_selective.ipynb", "13_hardware.ipynb"}, set()),
    ("selective/cuda_steps", {"13_hardware.ipynb"}, set()),
])
def test_every_function_is_derived_in_its_chapter(module, chapters, doors):
    """doors: they choose and check; what they choose from is derived."""
    found = {name: chapter for chapter, name, _ in derived()}
    public = {name for name, (home, _) in library().items() if home == module and not name.startswith("_")}
    assert public - doors <= set(found)
    assert {found[name] for name in public - doors} == chapters


def test_the_comparison_sees_a_changed_operator():
    assert functions("def f(x):\n    'doc'\n    return x + 1") == functions("@door\ndef f(x):\n    return x + 1")
    assert functions("def f(x):\n    return x + 1") != functions("def f(x):\n    return x - 1")
