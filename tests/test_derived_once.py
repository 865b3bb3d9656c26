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


TAUGHT = ("discretize", "lti", "hippo", "scan/reference", "scan/cuda_steps", "selective/reference", "selective/cuda_steps",
          "autograd")


def library():
    """{name: {module: tree}} of the modules that the book derives. Two modules may each have a function of one name."""
    found = {}
    for module in TAUGHT:
        path = ROOT / "mambalib" / f"{module}.py"
        if path.exists():
            for name, tree in functions(path.read_text(encoding="utf-8")).items():
                found.setdefault(name, {})[module] = tree
    return found


def derived():
    """[(chapter, name, module, tree)] of each function in the book that has the name of a function of the library.

    module: whose function it is, None if it is nobody's.
    """
    names = library()
    for path in sorted((ROOT / "book").glob("*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                for name, tree in functions("".join(cell["source"])).items():
                    if name in names:
                        yield path.name, name, next((m for m, own in names[name].items() if own == tree), None), tree


@pytest.mark.parametrize("chapter, name, module, tree", [pytest.param(*d, id=f"{d[0]}:{d[1]}") for d in derived()])
def test_the_chapters_function_is_the_librarys(chapter, name, module, tree):
    assert tree in library()[name].values()


def test_no_function_is_derived_twice():
    found = [(module, name) for _, name, module, _ in derived()]
    assert len(found) == len(set(found))


@pytest.mark.parametrize("module, chapters, doors", [
    ("discretize", {"03_discretization.ipynb"}, {"discretize", "first_order_hold"}),
    ("lti", {"02_continuous.ipynb", "04_three_views.ipynb"}, {"kernel", "causal_conv"}),
    ("hippo", {"05_memory.ipynb"}, set()),
    ("scan/reference", {"09_recurrence.ipynb", "10_gradient.ipynb"}, {"linear_scan", "linear_scan_backward"}),
    ("scan/cuda_steps", {"12_blelloch_gpu.ipynb"}, set()),
    ("selective/reference", {"06_selective.ipynb", "13_hardware.ipynb"}, set()),
    ("autograd", {"15_autograd.ipynb"}, {"array_module"}),
    ("selective/cuda_steps", {"13_hardware.ipynb"}, set()),
])
def test_every_function_is_derived_in_its_chapter(module, chapters, doors):
    """doors: they choose and check; what they choose from is derived."""
    found = {name: chapter for chapter, name, home, _ in derived() if home == module}
    public = {name for name, homes in library().items() if module in homes and not name.startswith("_")}
    assert public - doors <= set(found)
    assert {found[name] for name in public - doors} == chapters


def test_the_comparison_sees_a_changed_operator():
    assert functions("def f(x):\n    'doc'\n    return x + 1") == functions("@door\ndef f(x):\n    return x + 1")
    assert functions("def f(x):\n    return x + 1") != functions("def f(x):\n    return x - 1")
