"""Animations a reader can play, pause and step, in static HTML: one SVG whose moving parts are swapped by a little script."""

import hashlib
import html
import json
import re
from collections import Counter
from xml.etree import ElementTree

from IPython.display import display

from .style import _close, check_caption, show_caption, svg

_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


def animation(fig, update, labels, caption, alt, milliseconds=120):
    """Display an animation of `fig`: play, pause, step, and a slider.

    Parameters
    ----------
    fig : matplotlib.figure.Figure
        The first frame; what does not move is drawn once.
    update : callable
        `update(i)` moves the artists of frame i and returns them: lines and patches, always the same ones. Text that
        changes belongs into `labels`.
    labels : sequence of str
        One short text a frame, shown beside the slider. Its length is the number of frames.
    caption, alt : str
        As for `show`.
    milliseconds : int
        The time a frame stands when playing.

    Raises
    ------
    ValueError
        No frames, or an empty caption or text alternative; a moving artist that refers to a definition (a clip path, a
        hatch) that is not in the first frame.
    """
    if not len(labels):
        raise ValueError("labels: expected one text for each frame, got none")
    check_caption(caption)
    frames = []
    for i in range(len(labels)):
        artists = update(i)
        for k, artist in enumerate(artists):
            artist.set_gid(f"moving{k}")
        picture = svg(fig, alt)
        if i == 0:
            first = picture
            fig.set_layout_engine("none")            # axes that a later frame lays out anew would leave those drawn here
        frames.append(_groups(picture, len(artists), _mark(first)))
        _check_references(first, frames[0], frames[i], i)
    mark = "a" + hashlib.sha256((first + caption).encode()).hexdigest()[:8]
    first = re.sub(r'id="f[0-9a-f]{8}-moving(\d+)"', rf'id="{mark}-\1"', first)
    display({"text/html": _PLAYER.format(
        mark=mark, svg=first, last=len(labels) - 1, label=html.escape(labels[0]),
        frames=json.dumps(frames, separators=(",", ":")).replace("</", "<\\/"),
        labels=json.dumps(list(labels), ensure_ascii=False).replace("<", "\\u003c"), milliseconds=int(milliseconds),
    ), "image/svg+xml": first, "text/plain": alt}, raw=True)
    show_caption(caption)
    _close(fig)


def _mark(picture):
    return re.search(r'id="(f[0-9a-f]{8}-)', picture)[1]


def _groups(picture, count, first):
    """What is inside each moving group of one frame's SVG, its ids marked as in the first frame, where they resolve."""
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    mark = _mark(picture)
    found = {e.get("id"): e for e in ElementTree.fromstring(picture).iter() if e.get("id")}
    inner = []
    for k in range(count):
        text = "".join(ElementTree.tostring(child, encoding="unicode") for child in found[f"{mark}moving{k}"])
        text = re.sub(rf' xmlns(:xlink)?="[^"]*"', "", text)
        inner.append(re.sub(r">\s+<", "><", text).replace(mark, first).strip())
    return inner


def _check_references(first, drawn, groups, i):
    """Refuse groups of frame i that refer to what is neither in the still part of the first frame nor in themselves."""
    ids = [Counter(re.findall(r'\bid="([^"]+)"', text)) for text in (first, "".join(drawn), "".join(groups))]
    there = set(ids[0] - ids[1] + ids[2])
    for k, inner in enumerate(groups):
        for name in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', inner):
            if "".join(name) not in there:
                raise ValueError(
                    f"update: artist {k} of frame {i} refers to a definition that is not in the first frame: "
                    "its clip path and its hatch, with its colours, have to stay as they are there"
                )


_PLAYER = """<div class="mambalib-animation" id="{mark}">
{svg}
<div style="display: flex; gap: 0.5em; align-items: center; flex-wrap: wrap; margin: 0.4em 0">
<button type="button" data-do="play" aria-pressed="false">Play</button>
<button type="button" data-do="back" aria-label="one frame back">&minus;1</button>
<button type="button" data-do="next" aria-label="one frame on">+1</button>
<input type="range" min="0" max="{last}" value="0" aria-label="frame" style="flex: 1; min-width: 8em">
<output style="min-width: 9em; font-variant-numeric: tabular-nums">{label}</output>
</div>
<script>
(function () {{
  const box = document.getElementById("{mark}"), frames = {frames}, labels = {labels};
  const slider = box.querySelector("input"), label = box.querySelector("output"), play = box.querySelector("[data-do=play]");
  let timer = null;
  function go(i) {{
    i = Math.max(0, Math.min(i, frames.length - 1));
    frames[i].forEach(function (inner, k) {{ box.querySelector("#{mark}-" + k).innerHTML = inner; }});
    slider.value = i;
    label.textContent = labels[i];
  }}
  function stop() {{ clearInterval(timer); timer = null; play.textContent = "Play"; play.setAttribute("aria-pressed", "false"); }}
  play.onclick = function () {{
    if (timer) return stop();
    if (+slider.value === frames.length - 1) go(0);
    timer = setInterval(function () {{ go(+slider.value + 1); if (+slider.value === frames.length - 1) stop(); }}, {milliseconds});
    play.textContent = "Pause";
    play.setAttribute("aria-pressed", "true");
  }};
  box.querySelector("[data-do=back]").onclick = function () {{ stop(); go(+slider.value - 1); }};
  box.querySelector("[data-do=next]").onclick = function () {{ stop(); go(+slider.value + 1); }};
  slider.oninput = function () {{ stop(); go(+slider.value); }};
}})();
</script>
</div>"""
