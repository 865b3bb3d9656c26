"""A Sphinx extension: the notebooks' own SVG figures stand in the page itself, so that they follow its light and dark switch."""

from pathlib import Path

from docutils import nodes
from sphinx.transforms.post_transforms import SphinxPostTransform


class InlineFigures(SphinxPostTransform):
    default_priority = 8                             # after myst-nb has chosen the output's type, before images are gathered
    formats = ("html",)

    def run(self):
        for image in list(self.document.findall(nodes.image)):
            path = Path(self.env.srcdir, image["uri"].lstrip("/"))
            if path.suffix != ".svg" or not path.is_file():
                continue
            svg = path.read_text(encoding="utf-8")
            if 'class="mambalib-figure"' in svg:
                image.replace_self(nodes.raw("", svg, format="html"))


def setup(app):
    app.add_post_transform(InlineFigures)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
